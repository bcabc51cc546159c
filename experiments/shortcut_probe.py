"""Can a small classifier tell painted lesions from real ones by their surroundings alone?

If it can, a segmenter may learn the traces of painting instead of the lesion (a shortcut).

    python -m experiments.shortcut_probe -d 800 -f 0 --methods cbmat mat copy_paste \\
        -o docs/results/shortcut_probe_phantom.json

Patches are centred on the margin of normal lung around pasted lesions (where the label maps of host and synthetic case
differ). All pathology in them is replaced by the same constant; the classifier sees the rest of the patch and the mask
of the hidden pixels, for synthetic and real patches alike. It is a small CNN, trained on some patients and tested on
others. For each method the area under the ROC curve (AUC) is measured, mean and sd over seeds, of

- ``paired``: synthetic patches against the unmodified host at the same place under the same mask, so that only the
  painting differs. Real lesions change their surroundings too (blur, reaction), so an AUC above 0.5 is not a fault yet;
- ``real_borders``: synthetic patches against real lesions of the same classes. A segmenter could learn this difference
  as a shortcut, but place and outline differ too; ``outlines_alone`` is the AUC with the masks as the only input;
- ``control``: only hosts, under masks of synthetic cases, each case called synthetic or real at random. The AUC is 0.5
  unless patients have leaked. With 24 patients single seeds gave 0.41 and 0.62, so use the mean of several seeds;
- ``known_seam``: hosts with a ring of half the lung's standard deviation (``step``, in the dataset's intensities) added
  at the lesion's edge, against the same hosts: the sensitivity of this classifier with so few patients. A low AUC in
  the other rows means nothing unless this one is high.

An AUC of 0.5 says that *this* network found no difference outside the lesion in these few patches. It does not say that
there is none, and nothing about the lesion itself. With so few patients differences of 0.1 can be chance.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time

import numpy as np

from experiments.shortcut_classifier import grouped_auc
from experiments.shortcut_patches import Patches, blind, by_lot, centres_around, cut, joined, seam_step, with_seam
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import write_json


def synthetic_patches(
    raw: RawDataset,
    manifest: dict,
    method: str,
    fold: int | str,
    options: argparse.Namespace,
) -> tuple[Patches, Patches, set[int]]:
    """Patches of a method's synthetic cases and of their unmodified hosts, and the label values that were painted."""
    synthetic, hosts, painted = [], [], set()
    roles, ending = raw.roles, raw.dataset_json["file_ending"]
    for number, (name, case) in enumerate(sorted(manifest["cases"].items())):
        if (case["method"], case["fold"]) != (method, fold):
            continue
        files = [str(raw.folder / file) for file in case["files"] if file.endswith(ending)]
        images = sorted(file for file in files if "/imagesTr/" in file)
        label = np.rint(raw.reader().read_seg(next(f for f in files if "/labelsTr/" in f))[0][0]).astype(int)
        changed, normal = label != raw.read_label(case["host"])[0], roles.is_normal(label)
        centres = centres_around(changed, normal, options.margin, options.patches, np.random.default_rng(number))
        hidden = np.isin(label, [roles.values[p] for p in roles.pathologies])
        painted |= set(np.unique(label[changed]).tolist())
        for patches, image in (
            (synthetic, raw.reader().read_images(images)[0]),
            (hosts, raw.read_image(case["host"])[0]),
        ):
            patches.append(cut(image, hidden, normal, centres, options.size, raw.patients[case["host"]], name))
    if not synthetic:
        raise BadInput(f"{raw.name} has no synthetic case of {method} for fold {fold}; run difflung_augment first")
    return joined(synthetic), joined(hosts), painted


def real_patches(raw: RawDataset, fold: int | str, painted: set[int], options: argparse.Namespace) -> Patches:
    """Patches around real lesions of the given label values in the fold's training cases."""
    patches, roles = [], raw.roles
    for number, name in enumerate(raw.training_cases(fold)):
        label = raw.read_label(name)[0]
        normal = roles.is_normal(label)
        lesions = np.isin(label, sorted(painted))
        centres = centres_around(lesions, normal, options.margin, options.patches, np.random.default_rng(number))
        if len(centres):
            hidden = np.isin(label, [roles.values[p] for p in roles.pathologies])
            patches.append(
                cut(raw.read_image(name)[0], hidden, normal, centres, options.size, raw.patients[name], name)
            )
    if not patches:
        raise BadInput(
            f"fold {fold} of {raw.name} has no real lesion with normal lung around it; choose another fold with -f"
        )
    return joined(patches)


def probe(raw: RawDataset, manifest: dict, method: str, fold: int | str, options: argparse.Namespace) -> dict:
    """All AUCs of one method in one fold."""
    synthetic, hosts, painted = synthetic_patches(raw, manifest, method, fold, options)
    real = real_patches(raw, fold, painted, options)
    seam = with_seam(hosts)
    questions = {
        "paired": lambda seed: (hosts, synthetic),
        "real_borders": lambda seed: (real, synthetic),
        "outlines_alone": lambda seed: (blind(real), blind(synthetic)),
        "control": lambda seed: by_lot(hosts, seed),
        "known_seam": lambda seed: (hosts, seam),
    }
    row: dict = {
        "method": method,
        "fold": fold,
        "cases": len(np.unique(synthetic.case)),
        "patients": len(np.unique(synthetic.patient)),
        "patches": len(synthetic.case),
        "real_patches": len(real.case),
        "real_patients": len(np.unique(real.patient)),
    }
    for name, question in questions.items():
        areas = [grouped_auc(*question(seed), options.steps, seed) for seed in options.seeds]
        row[name] = {
            "mean": round(float(np.mean(areas)), 4),
            "sd": round(float(np.std(areas, ddof=1 if len(areas) > 1 else 0)), 4),
            "n": len(areas),
            "auc": [round(area, 4) for area in areas],
        }
    row["known_seam"]["step"] = round(seam_step(hosts), 1)
    return row


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-d", required=True, help="id or name of an augmented dataset")
    p.add_argument("-f", nargs="+", required=True, help="folds (or all)")
    p.add_argument("--methods", nargs="+", required=True, choices=METHODS)
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of classifier and patient groups")
    p.add_argument("--size", type=int, default=16, help="edge of a patch in pixels (16)")
    p.add_argument("--margin", type=int, default=3, help="pixels around a lesion in which patches are centred (3)")
    p.add_argument("--patches", type=int, default=8, help="patches of each case, at most (8)")
    p.add_argument("--steps", type=int, default=300, help="training steps of a classifier (300)")
    p.add_argument("-o", required=True, help="JSON file to write")
    return p


def main() -> None:
    """Entry of the command line."""
    options, begun = parser().parse_args(), time.monotonic()
    raw = open_raw_dataset(options.d)
    manifest = read_manifest(raw.folder)
    if manifest is None:
        raise SystemExit(f"{raw.name} has no synthetic cases; run difflung_augment first")
    rows = []
    for fold in raw.folds(options.f):
        for method in options.methods:
            rows.append(probe(raw, manifest, method, fold, options))
            print(rows[-1], flush=True)
    write_json(
        options.o,
        {
            "meta": {
                "command": "python -m experiments.shortcut_probe " + " ".join(sys.argv[1:]),
                "seeds": options.seeds,
                "date": datetime.date.today().isoformat(),
                "versions": versions(),
                "seconds": round(time.monotonic() - begun),
                "machine": machine(),
            },
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
