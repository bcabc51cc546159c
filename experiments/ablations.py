"""Measures the effect of single settings of difflung_augment on painted HU and on the Dice of a small segmenter.

    python -m experiments.ablations -o WORK --seeds 1 2 3 --result docs/results/ablations_phantom.json

One setting is changed at a time. Every variant goes through the command's own stages (plan, generator, painting, gate;
nothing is injected), and a small U-Net (``small_segmenter``) is trained on the fold's real slices and the painted ones.
It is scored on the test patients of a phantom. That phantom is drawn with a seed (7) that no table uses, since the
defaults were chosen with these figures. Generators are kept in WORK and used again, also if another machine trained
them. Every row is written as soon as it is finished; finished rows are skipped. Variants are compared within a seed.
Each entry records the precision of its generator and the version of torch.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from experiments.ablation_rows import add_row, as_read
from experiments.ablation_variants import VARIANTS
from experiments.small_segmenter import Slices, dice_by_patient, predict, train
from nnunet_difflung.config import PAPERS_METHOD, Settings, preset
from nnunet_difflung.dataset.cache import SliceCache, build_cache
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset_conversion.Dataset800_ChestPhantom import PhantomSettings, build_phantom
from nnunet_difflung.dataset_conversion.phantom.cohort import CohortSettings
from nnunet_difflung.generator.families import with_own_sampling
from nnunet_difflung.generator.store import CARD
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import NNUNET_RAW, NNUNET_RESULTS, PATH_VARIABLES, cache_folder
from nnunet_difflung.pipeline.fold import prepare_fold, synthesize_fold, train_fold
from nnunet_difflung.preparing.fold import Fold, discard_work
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import read_json

PHANTOM_SEED, FOLD = 7, 0
MASKS = {
    "placement": "uniform",
    "target_multiple": None,
    "hosts": "any",
}  # as in the rows on record; classes without a target: 6 %


def settings_of(variant: dict, seed: int, precision: str = "fp32") -> Settings:
    """The ``fast`` preset with a variant's changes."""
    base, changes = preset("fast"), dict(variant.get("generator", {}))
    method = changes.pop("method", PAPERS_METHOD)
    return Settings(
        replace(base.generator, seed=seed, precision=precision, **changes),
        replace(with_own_sampling(METHODS[method], base.sampling), **variant.get("sampling", {})),
        replace(base.balance, seed=seed, **MASKS, **variant.get("balance", {})),
        "fast",
        method,
    )


def real_slices(raw: RawDataset, cache: SliceCache) -> Slices:
    """The fold's training slices."""
    ids = raw.training_cases(FOLD)
    return Slices(
        np.stack([cache.image(i)[0, 0] for i in ids]),
        np.stack([cache.label(i)[0] for i in ids]),
        np.array([raw.patients[i] for i in ids]),
    )


def test_slices(raw: RawDataset) -> Slices:
    """Slices of the test patients, which neither generator nor segmenter has seen."""
    reader, ending = raw.reader(), raw.dataset_json["file_ending"]
    labels = sorted((raw.folder / "labelsTs").glob(f"*{ending}"))
    names = [f.name.removesuffix(ending) for f in labels]
    images = [reader.read_images([str(raw.folder / "imagesTs" / f"{n}_0000{ending}")])[0][0, 0] for n in names]
    return Slices(
        np.stack(images),
        np.stack([reader.read_seg(str(f))[0][0, 0] for f in labels]).astype(np.uint8),
        np.array([n.split("_s")[0] for n in names]),
    )


def trained(raw: RawDataset, cache: SliceCache, settings: Settings, root: Path, device: str) -> Fold:
    """Plans a variant and trains its generator, unless another variant has trained it already."""
    kept = {k: v for k, v in settings.as_dict()["generator"].items() if k != "method"}
    key = "_".join(
        [
            settings.method.replace("harmonise", "cbmat"),
            *[
                f"{k}{v}"
                for k, v in sorted(kept.items())
                if v != getattr(preset("fast").generator, k) and not isinstance(v, list)
            ],
        ]
    )
    os.environ[NNUNET_RESULTS] = str(root / "generators" / key)
    Path(os.environ[NNUNET_RESULTS]).mkdir(parents=True, exist_ok=True)
    fold = prepare_fold(raw, FOLD, settings, cache)
    train_fold(fold, device, 600)
    return fold


def generate(
    raw: RawDataset, cache: SliceCache, settings: Settings, root: Path, device: str
) -> tuple[Slices | None, dict]:
    """Plans, trains and paints a variant; returns its slices and the figures of the gate."""
    begun = time.monotonic()
    fold = trained(raw, cache, settings, root, device)
    training, begun = time.monotonic() - begun, time.monotonic()
    synthesis, result = synthesize_fold(fold, device, progress=False)
    reader = raw.reader()
    images = [reader.read_images([str(f) for f in case.images])[0][0, 0] for case in result.staged]
    labels = [reader.read_seg(str(case.label))[0][0, 0] for case in result.staged]
    card = read_json(fold.folder / CARD) if fold.method.generator else {"versions": {"torch": None}}
    report = {
        "generator_torch": card["versions"]["torch"],
        "quality": result.quality,
        "quality_of_all": result.quality_of_all,
        "cases": len(result.staged),
        "dropped": len(result.dropped),
        "repainted": result.repainted,
        "training_seconds": round(training),
        "painting_seconds": round(time.monotonic() - begun),
    }
    discard_work(fold.work)
    if not images:
        return None, report
    return Slices(np.stack(images), np.stack(labels).astype(np.uint8), np.array(["synthetic"] * len(images))), report


def run_variant(
    raw: RawDataset, cache: SliceCache, settings: Settings | None, seed: int, root: Path, options: argparse.Namespace
) -> dict:
    """Dice of several segmenters on the test patients, and figures of the painted slices."""
    data, test, report = real_slices(raw, cache), test_slices(raw), {}
    if settings:
        painted, report = generate(raw, cache, settings, root, options.device)
        if painted is not None:
            data = Slices(
                *(np.concatenate(pair) for pair in zip(vars(data).values(), vars(painted).values(), strict=True))
            )
    dice: dict[str, list[dict]] = {name: [] for name in raw.roles.lung}
    for number in range(options.segmenters):
        network = train(data, len(raw.roles.values) + 1, 100 * seed + number, options.iterations, device=options.device)
        predicted = predict(network, test.image)
        for name, of_segmenters in dice.items():
            of_segmenters.append(dice_by_patient(predicted, test, raw.roles.values[name]))
    return {
        "dice": {
            name: [round(float(np.mean(list(of_patient.values()))), 4) for of_patient in of_segmenters]
            for name, of_segmenters in dice.items()
        },
        "patients": dice,
        **report,
    }


def main() -> None:
    """Entry of the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", required=True, metavar="WORK", help="folder for dataset and generators")
    p.add_argument("--result", required=True, help="JSON file; rows are added to it")
    p.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="seeds of masks, generator and noise")
    p.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    p.add_argument("--segmenters", type=int, default=2, help="segmenters trained for each variant and seed")
    p.add_argument("--iterations", type=int, default=800, help="of a segmenter")
    p.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the generators; bf16 is faster on processors that have it",
    )
    p.add_argument("-device", default="cpu", choices=("cpu", "cuda"), help="of generators and segmenters")
    p.add_argument(
        "--generators-only",
        action="store_true",
        help="only train the generators that are missing in WORK; "
        "a later call, on this or another machine, paints with them",
    )
    o = p.parse_args()
    root = Path(o.o).resolve()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for variable in PATH_VARIABLES:
        os.environ[variable] = str(root / variable)
        (root / variable).mkdir(parents=True, exist_ok=True)
    if not (root / NNUNET_RAW / "Dataset800_ChestPhantom" / "dataset.json").is_file():
        build_phantom(PhantomSettings(CohortSettings(seed=PHANTOM_SEED, classic=True), 64))
    raw = open_raw_dataset("800")
    cache = build_cache(raw, cache_folder(raw.name), 1, progress=False)
    path = Path(o.result)
    for seed in o.seeds:
        for name in o.variants:
            content = read_json(path) if path.is_file() else {"rows": {}}
            row = content["rows"].get(name, {})
            key = f"seed {seed}"
            wanted = {"changes": VARIANTS[name], "iterations": o.iterations, "segmenters": o.segmenters}
            if key in row and row["wanted"] == as_read(wanted):
                continue
            settings = settings_of(VARIANTS[name], seed, o.precision) if VARIANTS[name] else None
            if o.generators_only:
                if settings:
                    trained(raw, cache, settings, root, o.device)
                continue
            result = run_variant(raw, cache, settings, seed, root, o)
            add_row(
                path, name, key, as_read(wanted), {**result, "precision": o.precision, "device": o.device}, meta(root)
            )
            print(
                f"{time.strftime('%H:%M:%S')} {name}, seed {seed}: {result['dice']} {result.get('quality')}", flush=True
            )


def meta(root: Path) -> dict:
    """Command, date, versions, machine."""
    return {
        "command": "python -m experiments.ablations " + " ".join(sys.argv[1:]).replace(str(root), "WORK"),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "phantom_seed": PHANTOM_SEED,
        "fold": FOLD,
        "pixels": 64,
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
