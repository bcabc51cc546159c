"""Can a small classifier see where we painted, without seeing the lesion? A segmenter that can learns the wrong thing.

    python experiments/shortcut_probe.py -d 800 -f 0 --methods cbmat mat copy_paste \\
        -o docs/results/shortcut_probe_phantom.json

Patches are centred on the margin of normal lung around pasted lesions (the host's label map against the synthetic
case's). All pathology in them is hidden, and the same constant and the mask of what is hidden are the classifier's
input for synthetic and real patches alike. A small CNN is trained on some patients and judged on others. For each
method the area under the ROC curve (AUC), mean and sd over seeds, of

- ``paired``: synthetic patches against the unmodified host at the same place under the same mask, so that only the
  painting differs. Real lesions change their surroundings too (blur, reaction), so an AUC above 0.5 is not yet a fault;
- ``real_borders``: synthetic patches against real lesions of the same classes. This is what a segmenter could learn as
  a shortcut, but place and outline differ too; ``outlines_alone`` is the AUC with the masks as the only input;
- ``control``: hosts alone, under masks of synthetic cases, each case called synthetic or real by lot: 0.5, or patients
  have leaked. With 24 patients single seeds gave 0.41 and 0.62, so only the mean of several says something;
- ``known_seam``: hosts with a ring of half the lung's standard deviation (``step``, in the dataset's intensities) added
  at the lesion's edge, against the same hosts: what this classifier can see at all, given so few patients. A low AUC
  above means nothing without a high one here.

AUC 0.5 says that *this* network, from these few patches, found nothing outside the lesion; not that there is nothing,
nor anything about the lesion itself. Differences of 0.1 are within the chance of so few patients.
"""
from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.files import write_json
from nnunet_difflung.manifest import read_manifest
from nnunet_difflung.methods import METHODS
from nnunet_difflung.provenance import machine, versions
from nnunet_difflung.raw_dataset import RawDataset, open_raw_dataset

FOLDS = 3  # groups of patients, each judged by a network trained on the others
BATCH, RATE = 64, 2e-3
SEAM = 0.5  # of the visible voxels' standard deviation, where that is of normal lung


@dataclass(frozen=True)
class Patches:
    """What the classifier may see.

    Attributes:
        pixels: (n, c, p, p) intensities.
        visible: (n, p, p) bool, what is not hidden; False beyond the image.
        lung: (n, p, p) bool, visible normal lung.
        patient: (n,) of each patch.
        case: (n,) synthetic or real case that each patch was cut for.
    """

    pixels: np.ndarray
    visible: np.ndarray
    lung: np.ndarray
    patient: np.ndarray
    case: np.ndarray

    def __getitem__(self, chosen) -> Patches:
        return Patches(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def joined(parts: Sequence[Patches]) -> Patches:
    """Several lots of patches as one."""
    return Patches(*(np.concatenate([getattr(p, name) for p in parts]) for name in Patches.__dataclass_fields__))


def centres_around(region: np.ndarray, normal: np.ndarray, margin: int, count: int,
                   rng: np.random.Generator) -> np.ndarray:
    """(at most count, 3) z, y, x drawn from the normal lung within ``margin`` pixels of a region."""
    plane = ndimage.generate_binary_structure(2, 1)[None]
    ring = np.argwhere(ndimage.binary_dilation(region, plane, margin) & normal & ~region)
    return ring[rng.permutation(len(ring))[:count]]


def cut(image: np.ndarray, hidden: np.ndarray, normal: np.ndarray, centres: np.ndarray, size: int, patient: str,
        case: str) -> Patches:
    """Patches of ``size`` pixels around voxels of one case.

    Args:
        image: (c, z, y, x).
        hidden: (z, y, x) bool, the pathology.
        normal: (z, y, x) bool, normal lung.
        centres: (n, 3).
        size: edge in pixels.
        patient: of the case.
        case: its id.
    """
    before, after = size // 2, size - size // 2
    room = [(0, 0), (before, after), (before, after)]
    image = np.pad(image.astype(np.float32), [(0, 0), *room])
    visible, lung = np.pad(~hidden, room), np.pad(normal & ~hidden, room)
    windows = [(z, slice(y, y + size), slice(x, x + size)) for z, y, x in centres]
    return Patches(np.array([image[(slice(None), *w)] for w in windows]).reshape(-1, len(image), size, size),
                   np.array([visible[w] for w in windows], bool).reshape(-1, size, size),
                   np.array([lung[w] for w in windows], bool).reshape(-1, size, size),
                   np.array([patient] * len(windows)), np.array([case] * len(windows)))


def seam_step(patches: Patches) -> float:
    """The intensity step of a known seam."""
    return SEAM * float(patches.pixels[:, 0][patches.lung].std())


def with_seam(patches: Patches) -> Patches:
    """The same patches with the step added to the lung that touches what is hidden."""
    edge = ndimage.binary_dilation(~patches.visible, ndimage.generate_binary_structure(2, 1)[None]) & patches.lung
    return replace(patches, pixels=patches.pixels + seam_step(patches) * edge[:, None])


def blind(patches: Patches) -> Patches:
    """Patches of which only the masks are left."""
    return replace(patches, pixels=np.zeros_like(patches.pixels))


def inputs(patches: Patches, scale: np.ndarray) -> torch.Tensor:
    """(n, c + 1, p, p): standardised intensities, 0 where hidden, clipped at 5 sd; and what is visible."""
    pixels = np.clip((patches.pixels - scale[0][:, None, None]) / scale[1][:, None, None], -5, 5)
    visible = patches.visible[:, None]
    return torch.from_numpy(np.concatenate([pixels * visible, visible], axis=1).astype(np.float32))


def network(channels: int) -> torch.nn.Sequential:
    """Five convolutions, the mean over the patch, one logit."""
    layers: list[torch.nn.Module] = []
    for width, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2)):
        layers += [torch.nn.Conv2d(channels, width, 3, stride, 1), torch.nn.GroupNorm(4, width), torch.nn.ReLU()]
        channels = width
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Dropout(0.2),
                               torch.nn.Linear(channels, 1))


def fit(classes: tuple[torch.Tensor, torch.Tensor], steps: int, seed: int) -> torch.nn.Sequential:
    """Trains on batches that are half negative, half positive (pairs, if the classes are), turned at random."""
    torch.manual_seed(seed)
    source, model = torch.Generator().manual_seed(seed), network(classes[0].shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    wanted = torch.arange(2).repeat_interleave(BATCH // 2)[:, None].float()
    for _ in range(steps):
        drawn = torch.rand(BATCH // 2, generator=source)
        batch = torch.cat([part[(drawn * len(part)).long()] for part in classes])
        turns, mirror = torch.randint(4, (1,), generator=source).item(), torch.rand(1, generator=source).item() < 0.5
        batch = torch.rot90(batch.flip(-1) if mirror else batch, turns, (2, 3))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def deal(negative: Patches, positive: Patches, seed: int) -> dict[str, int]:
    """Patient → group; patients with many of the rarer kind are dealt first, so that every group has some."""
    names = np.random.default_rng(seed).permutation(np.unique(np.concatenate([negative.patient, positive.patient])))
    fewest = min((negative, positive), key=lambda p: len(np.unique(p.patient)))
    order = sorted(names, key=lambda name: -np.count_nonzero(fewest.patient == name))
    return {name: i % FOLDS for i, name in enumerate(order)}


@torch.no_grad()
def scores(model: torch.nn.Sequential, images: torch.Tensor) -> np.ndarray:
    """(n,) logits."""
    return torch.cat([model(part)[:, 0] for part in images.split(256)]).numpy()


def grouped_auc(negative: Patches, positive: Patches, steps: int, seed: int) -> float:
    """AUC on patients that the classifier has not seen, averaged over the groups of patients.

    Raises:
        BadInput: fewer patients than groups on either side.
    """
    for patches in (negative, positive):
        if len(np.unique(patches.patient)) < FOLDS:
            raise BadInput(f"{len(np.unique(patches.patient))} patients have patches, at least {FOLDS} are needed")
    group, found = deal(negative, positive, seed), []
    for fold in range(FOLDS):
        held = [np.array([group[name] == fold for name in p.patient]) for p in (negative, positive)]
        training = [p[~out] for p, out in zip((negative, positive), held, strict=True)]
        pixels = np.concatenate([np.moveaxis(p.pixels, 1, -1)[p.lung] for p in training])
        scale = np.stack([pixels.mean(0), np.maximum(pixels.std(0), 1e-6)])
        model = fit(tuple(inputs(p, scale) for p in training), steps, seed * FOLDS + fold)
        results = [scores(model, inputs(p[out], scale)) for p, out in zip((negative, positive), held, strict=True)]
        truth = np.repeat([0, 1], [len(r) for r in results])
        found.append(roc_auc_score(truth, np.concatenate(results)))
    return float(np.mean(found))


def by_lot(patches: Patches, seed: int) -> tuple[Patches, Patches]:
    """Splits patches of one kind in two, case by case within each patient, at random."""
    cases = np.random.default_rng(seed).permutation(np.unique(patches.case))
    first = np.isin(patches.case, cases[::2])
    return patches[first], patches[~first]


def synthetic_patches(raw: RawDataset, manifest: dict, method: str, fold: int | str, options: argparse.Namespace,
                      ) -> tuple[Patches, Patches, set[int]]:
    """Patches of a method's synthetic cases, the same of their unmodified hosts, and the label values painted."""
    synthetic, hosts, painted = [], [], set()
    roles, ending = raw.roles, raw.dataset_json["file_ending"]
    for number, (name, case) in enumerate(sorted(manifest["cases"].items())):
        if (case["method"], case["fold"]) != (method, fold):
            continue
        files = [str(raw.folder / file) for file in case["files"] if file.endswith(ending)]
        images = sorted(file for file in files if "/imagesTr/" in file)
        label = np.rint(raw.reader().read_seg(next(f for f in files if "/labelsTr/" in f))[0][0]).astype(int)
        changed, normal = label != raw.read_label(case["host"])[0], label == roles.values[roles.normal]
        centres = centres_around(changed, normal, options.margin, options.patches, np.random.default_rng(number))
        hidden = np.isin(label, [roles.values[p] for p in roles.pathologies])
        painted |= set(np.unique(label[changed]).tolist())
        for found, image in ((synthetic, raw.reader().read_images(images)[0]),
                             (hosts, raw.read_image(case["host"])[0])):
            found.append(cut(image, hidden, normal, centres, options.size, raw.patients[case["host"]], name))
    if not synthetic:
        raise BadInput(f"{raw.name} holds no synthetic case of {method} for fold {fold}; run difflung_augment")
    return joined(synthetic), joined(hosts), painted


def real_patches(raw: RawDataset, fold: int | str, painted: set[int], options: argparse.Namespace) -> Patches:
    """Patches around real lesions of the given label values in the fold's training cases."""
    found, roles = [], raw.roles
    for number, name in enumerate(raw.training_cases(fold)):
        label = raw.read_label(name)[0]
        normal = label == roles.values[roles.normal]
        lesions = np.isin(label, sorted(painted))
        centres = centres_around(lesions, normal, options.margin, options.patches, np.random.default_rng(number))
        if len(centres):
            hidden = np.isin(label, [roles.values[p] for p in roles.pathologies])
            found.append(cut(raw.read_image(name)[0], hidden, normal, centres, options.size, raw.patients[name], name))
    if not found:
        raise BadInput(f"{raw.name} fold {fold} has no real lesion with normal lung around it")
    return joined(found)


def probe(raw: RawDataset, manifest: dict, method: str, fold: int | str, options: argparse.Namespace) -> dict:
    """All AUCs of one method in one fold."""
    synthetic, hosts, painted = synthetic_patches(raw, manifest, method, fold, options)
    real = real_patches(raw, fold, painted, options)
    seam = with_seam(hosts)
    questions = {"paired": lambda seed: (hosts, synthetic), "real_borders": lambda seed: (real, synthetic),
                 "outlines_alone": lambda seed: (blind(real), blind(synthetic)),
                 "control": lambda seed: by_lot(hosts, seed), "known_seam": lambda seed: (hosts, seam)}
    row: dict = {"method": method, "fold": fold, "cases": len(np.unique(synthetic.case)),
                 "patients": len(np.unique(synthetic.patient)), "patches": len(synthetic.case),
                 "real_patches": len(real.case), "real_patients": len(np.unique(real.patient))}
    for name, question in questions.items():
        found = [grouped_auc(*question(seed), options.steps, seed) for seed in options.seeds]
        row[name] = {"mean": round(float(np.mean(found)), 4), "sd": round(float(np.std(found, ddof=len(found) > 1)), 4),
                     "n": len(found), "auc": [round(a, 4) for a in found]}
    row["known_seam"]["step"] = round(seam_step(hosts), 1)
    return row


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-d", required=True, help="id or name of an augmented dataset")
    p.add_argument("-f", nargs="+", required=True, help="folds (or all)")
    p.add_argument("--methods", nargs="+", required=True, choices=METHODS)
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of classifier and patient groups")
    p.add_argument("--size", type=int, default=16, help="edge of a patch in pixels (16)")
    p.add_argument("--margin", type=int, default=3, help="pixels around a lesion in which patches are centred (3)")
    p.add_argument("--patches", type=int, default=8, help="for each case (8)")
    p.add_argument("--steps", type=int, default=300, help="of training a classifier (300)")
    p.add_argument("-o", required=True, help="JSON file to write")
    return p


def main() -> None:
    """Entry of the command line."""
    options, begun = parser().parse_args(), time.monotonic()
    raw = open_raw_dataset(options.d)
    manifest = read_manifest(raw.folder)
    if manifest is None:
        raise SystemExit(f"{raw.name} has no synthetic cases; run difflung_augment")
    rows = []
    for fold in raw.folds(options.f):
        for method in options.methods:
            rows.append(probe(raw, manifest, method, fold, options))
            print(rows[-1], flush=True)
    write_json(options.o, {
        "meta": {"command": "python experiments/shortcut_probe.py " + " ".join(sys.argv[1:]), "seeds": options.seeds,
                 "date": datetime.date.today().isoformat(), "versions": versions(),
                 "seconds": round(time.monotonic() - begun),
                 "machine": machine()}, "rows": rows})


if __name__ == "__main__":
    main()
