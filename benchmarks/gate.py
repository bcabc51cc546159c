"""Can the gate say no, and does it let real lesions through?

For each fold of a dataset: the unpainted hosts of the plan are judged in the voxels that get a new label (none should
pass), and the real lesions of each training patient are judged by a gate made without that patient (all should pass).
``former`` is the rule of version 0.1.0: bias and distance against the pooled voxels, with tolerances from the
differences between slices. Only training patients of a fold are used. The dataset is converted first, for example with

    python -m nnunet_difflung.dataset_conversion.Dataset801_MedSegCOVID19 -i FOLDER --spacing 4 --crop-lungs
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunet_difflung.config import preset
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.judging.gate import ClassReference, Region, measure, reference, region_of, wasserstein
from nnunet_difflung.judging.verdict import upper_bound
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.pipeline.fold import prepare_fold
from nnunet_difflung.preparing.application import apply_plan
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import read_json, write_json

_PATIENTS = 20  # maximum number of patients left out in a fold, drawn at random


def former_rule(slices: list[Region]) -> tuple[np.ndarray, float, float]:
    """Pool and tolerances of bias and distance of version 0.1.0, for the first channel."""
    values = [region.voxels[0] for region in slices]
    rng = np.random.default_rng(0)
    values = [rng.permutation(part)[:400] for part in values]
    pool = rng.permutation(np.concatenate(values))[:20_000]
    floor = (0.1 if len(values) >= 5 else 0.5) * pool.std()
    bias = np.percentile([abs(part.mean() - pool.mean()) for part in values], 95)
    distance = np.percentile([wasserstein(part, pool) for part in values], 95)
    return pool, 1.25 * max(floor, bias), 1.25 * max(floor, distance)


def passes_former(region: Region, rule: tuple[np.ndarray, float, float]) -> bool:
    """Whether a region passes the rule of version 0.1.0."""
    (pool, bias, distance), values = rule, region.voxels[0]
    chance = 2 * pool.std() / np.sqrt(len(values))
    return bool(abs(values.mean() - pool.mean()) <= bias + chance and wasserstein(values, pool) <= distance + chance)


def real_regions(fold: Fold, windows: list, name: str) -> list[tuple[str, Region]]:
    """Patient and region of a class in each training slice."""
    cache, regions = fold.cache, []
    value, normal = cache.roles.values[name], cache.roles.is_normal
    for identifier in fold.data.training_cases:
        for z in np.flatnonzero(np.array(cache.facts[identifier].counts[name]) >= 8):
            image, label = cache.image(identifier)[:, z : z + 1], cache.condition(identifier)[z : z + 1]
            regions.append((fold.raw.patients[identifier], region_of(image, label == value, normal(label), windows)))
    return regions


def unpainted_regions(fold: Fold, windows: list) -> dict[str, list[Region]]:
    """Class → the unpainted voxels of each planned case."""
    roles, regions = fold.cache.roles, {name: [] for name in fold.cache.roles.pathologies}
    for planned in fold.plan.cases:
        applied = apply_plan(fold, planned, textures=False)
        normal = roles.is_normal(applied.new_label)
        for name in regions:
            voxels = applied.changed & (applied.new_label == roles.values[name])
            if voxels.sum() >= 8:
                regions[name].append(region_of(applied.image, voxels, normal, windows))
    return regions


def left_out(
    fold: Fold, windows: list, name: str, regions: list[tuple[str, Region]]
) -> tuple[list[float], list[float]]:
    """Share of each patient's real slices that pass a gate made without the patient: now, and by the former rule."""
    patients = sorted({patient for patient, _ in regions})
    patients = sorted(np.random.default_rng(0).permutation(patients)[:_PATIENTS])
    now, former = [], []
    for patient in patients if len({patient for patient, _ in regions}) > 1 else ():
        others = [i for i in fold.data.training_cases if fold.raw.patients[i] != patient]
        gate = reference(fold.cache, others, fold.raw.patients, windows, 0)
        rule = former_rule([region for other, region in regions if other != patient])
        own = [region for other, region in regions if other == patient]
        now.append(np.mean([passes(region, name, gate) for region in own]))
        former.append(np.mean([passes_former(region, rule) for region in own]))
    return now, former


def passes(region: Region, name: str, gate: dict[str, ClassReference]) -> bool:
    """Whether a region passes the gate."""
    return bool(measure({name: region}, gate)[name]["passes"])


def measure_fold(fold: Fold) -> list[dict]:
    """A row for each class of a fold."""
    windows, rows = [list(window) for window in _windows(fold)], []
    gate = reference(fold.cache, fold.data.training_cases, fold.raw.patients, windows, 0)
    for name, unpainted in unpainted_regions(fold, windows).items():
        regions = real_regions(fold, windows, name)
        if name not in gate:
            continue
        rule = former_rule([region for _, region in regions])
        now, former = left_out(fold, windows, name, regions)
        rows.append(
            {
                "fold": fold.number,
                "class": name,
                "unpainted_hosts": len(unpainted),
                "unpainted_pass": sum(passes(region, name, gate) for region in unpainted),
                "unpainted_pass_former": sum(passes_former(region, rule) for region in unpainted),
                "patients_left_out": len(now),
                "real_pass_by_patient": [round(float(share), 3) for share in now],
                "real_pass_by_patient_former": [round(float(share), 3) for share in former],
            }
        )
        print(rows[-1], flush=True)
    return rows


def _windows(fold: Fold) -> tuple:
    from nnunet_difflung.generator.training import resolve

    return resolve(fold.method, fold.settings.generator, fold.data).windows


def totals(rows: list[dict]) -> list[dict]:
    """The rows of all folds together: unpainted hosts that pass, and the mean over left-out patients."""
    summary = []
    for name in sorted({row["class"] for row in rows}):
        part = [row for row in rows if row["class"] == name]
        hosts, passing, former = (
            sum(row[key] for row in part) for key in ("unpainted_hosts", "unpainted_pass", "unpainted_pass_former")
        )
        real = [share for row in part for share in row["real_pass_by_patient"]]
        real_former = [share for row in part for share in row["real_pass_by_patient_former"]]
        summary.append(
            {
                "class": name,
                "unpainted_hosts": hosts,
                "unpainted_pass": passing,
                "unpainted_pass_upper_95": round(upper_bound(passing, hosts), 3),
                "unpainted_pass_former": former,
                "left_out_patients": len(real),
                "real_pass": round(float(np.mean(real)), 3) if real else None,
                "real_pass_former": round(float(np.mean(real_former)), 3) if real else None,
            }
        )
    return summary


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("-d", required=True, metavar="DATASET", help="id or name in $nnUNet_raw")
    p.add_argument("--target-share", type=float, default=0.3, help="of every pathology (default: %(default)s)")
    p.add_argument("--conversion", required=True, help="the command that made the dataset, for the record")
    p.add_argument("-o", type=Path, required=True, metavar="FILE", help="JSON file; the dataset's entry is replaced")
    options = p.parse_args()
    raw = open_raw_dataset(options.d)
    cache, settings = build_cache(raw, cache_folder(raw.name), progress=False), preset("fast")
    as_on_record = {"target_multiple": None, "placement": "uniform", "hosts": "any"}
    balance = replace(settings.balance, default_share=options.target_share, **as_on_record)
    settings = replace(settings, balance=balance, method="copy_paste")
    rows = [row for fold in raw.folds() for row in measure_fold(prepare_fold(raw, fold, settings, cache))]
    known = read_json(options.o) if options.o.is_file() else {}
    known[raw.name] = {
        "meta": {
            "command": f"python -m benchmarks.gate -d {options.d} --target-share {options.target_share}",
            "conversion": options.conversion,
            "date": time.strftime("%Y-%m-%d"),
            "versions": versions(),
            "machine": machine(),
        },
        "totals": totals(rows),
        "folds": rows,
    }
    write_json(options.o, known)


if __name__ == "__main__":
    main()
