"""How often do 95 % intervals of the difference between two arms contain the true difference, and how wide are they?

    python -m benchmarks.intervals

Simulates the scores of both arms for many designs (seeds, folds, patients) and compares the interval that
``difflung_compare`` prints with others. A few minutes on one core; the same result in every run.

A patient's difference is the truth plus an effect of the patient, of the training (a seed of a fold, the same for all
of its patients) and of both; their standard deviations are 0.1, 0.1 · √ratio and 0.05. In "finds or misses", a training
has a Dice of about 0.4 with the probabilities given for reference and arm, otherwise 0; in "finds or misses, by
fold" all seeds of a fold find the class, or none.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from nnunet_difflung.comparison.intervals import Means, interval, summed_up, within_folds
from nnunet_difflung.comparison.statistics import FOUND, SKEWED_PATIENTS
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import write_bytes

RESULT = Path(__file__).resolve().parent.parent / "docs" / "results" / "intervals.json"
SEEDS, FOLDS, PATIENTS, RATIOS = (1, 2, 3, 5), (1, 2, 3, 5, 10), (6, 10, 30, 100), (0, 0.25, 1, 4, 16)
FEW_PATIENTS, FEW_RATIOS = (6, 30), (0, 1, 16)
FINDING = ((0, 0.5), (0, 0.7), (0, 0.9), (0, 1), (1 / 3, 0.9), (1 / 3, 1), (0.5, 0.5), (0.9, 0.9))
FALSE_VOXELS = (
    (5, 100),
    (50, 100),
    (100, 100),
)  # of reference and arm, in the median patient in whom any are predicted
UNSEEN = ((0.5, 1), (0.9, 1), (0.7, 0.9), (0.8, 0.95))  # all trainings of both arms often find it, though some can miss
PATIENT_SD, BOTH_SD, LEVEL = 0.1, 0.05, 0.4
SHARE_GAINING = 0.7  # of the patients in "patients without gain"
GOAL = 0.93


@dataclass(frozen=True)
class Row:
    """A cell of the simulation.

    Attributes:
        kind: name of the effects' distribution.
        test: whether all folds score the same patients; otherwise each patient is in one fold's validation.
        seeds: of each fold.
        folds: number.
        patients: number, of whom some may lack the class.
        ratio: variance of trainings / variance of patients; in "finds or misses" the probabilities for both arms, in
            "false voxels" their medians.
        counts: whether the goal applies; the other rows show limits.
    """

    kind: str
    test: bool
    seeds: int
    folds: int
    patients: int
    ratio: float | tuple[float, float]
    counts: bool = True


def rows() -> Iterator[Row]:
    """All cells in order."""
    for test in (False, True):
        for design in itertools.product(SEEDS, FOLDS, PATIENTS, RATIOS):
            yield Row("normal", test, *design)
        kinds = ("heavy tails", "few patients with the class", "fold effects", "lesions")
        kinds += () if test else ("unequal folds",)
        for kind, *design in itertools.product(kinds, SEEDS, FOLDS, FEW_PATIENTS, FEW_RATIOS):
            yield Row(kind, test, *design)
        for design in itertools.product(SEEDS, FOLDS, FEW_PATIENTS, FINDING):
            yield Row("finds or misses", test, *design)
        for design in itertools.product(SEEDS, FOLDS[2:], FEW_PATIENTS, FINDING):
            yield Row("finds or misses, by fold", test, *design)
        for design in itertools.product(SEEDS, FOLDS[1:2], FEW_PATIENTS, FINDING):
            yield Row("finds or misses, by two folds", test, *design, counts=False)
        for design in itertools.product(SEEDS, FOLDS, (SKEWED_PATIENTS,), FALSE_VOXELS):
            yield Row("false voxels", test, *design)
        for design in itertools.product(SEEDS, FOLDS, FEW_PATIENTS, FALSE_VOXELS):
            yield Row("false voxels, no logarithm", test, *design, counts=False)
        for design in itertools.product(SEEDS, FOLDS, FEW_PATIENTS, UNSEEN):
            yield Row("finds or misses, unseen", test, *design, counts=False)
        for design in itertools.product(SEEDS, FOLDS, FEW_PATIENTS, (0, 1)):
            yield Row("patients without gain", test, *design, counts=False)
        for kind, *design in itertools.product(("skewed", "shared by all folds"), SEEDS, FOLDS, (30,), (1, 16)):
            yield Row(kind, test, *design, counts=False)


def scored(row: Row, rng: np.random.Generator) -> np.ndarray:
    """(folds, patients) bool: who is scored where and has the class."""
    mask = np.zeros((row.folds, row.patients), bool)
    if row.test:
        mask[:] = True
    elif row.kind == "unequal folds":  # the last fold has four times as many patients as the first
        ends = np.cumsum(np.linspace(1, 4, row.folds))
        mask[np.searchsorted(ends / ends[-1], (np.arange(row.patients) + 0.5) / row.patients), range(row.patients)] = (
            True
        )
    else:
        mask[np.arange(row.patients) % row.folds, range(row.patients)] = True
    if row.kind == "few patients with the class":
        mask[:, rng.permutation(row.patients)[max(2, row.patients // 3) :]] = False
    return mask


def scores(row: Row, mask: np.ndarray, repeats: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Scores of arm and reference (repeats, seeds, folds, patients), and the truth (repeats,)."""
    shape = (repeats, row.seeds, row.folds, row.patients)
    normal = rng.standard_normal
    if row.kind.startswith("false voxels"):
        return _false_voxels(row, shape, rng)
    if row.kind == "lesions":
        return _lesions(row, shape, rng)
    if isinstance(row.ratio, tuple):
        level = LEVEL + PATIENT_SD * normal((repeats, 1, 1, row.patients))
        arms = []
        for probability in row.ratio:
            values = np.maximum(level + 0.03 * normal((*shape[:3], 1)) + BOTH_SD * normal(shape), 0.06)
            drawn_once = row.kind in ("finds or misses, by fold", "finds or misses, by two folds")
            draws = rng.random((shape[0], 1 if drawn_once else shape[1], shape[2], 1))
            arms.append(values * (draws < probability))
        expected = np.maximum(LEVEL + np.sqrt(PATIENT_SD**2 + 0.03**2 + BOTH_SD**2) * normal(100_000), 0.06).mean()
        return arms[1], arms[0], np.full(repeats, (row.ratio[1] - row.ratio[0]) * expected)
    drawn: Callable = {
        "heavy tails": lambda size: rng.standard_t(3, size) / np.sqrt(3),
        "skewed": lambda size: rng.exponential(1, size) - 1,
    }.get(row.kind, normal)
    training_sd = PATIENT_SD * np.sqrt(row.ratio)
    share = {"fold effects": 0.5, "shared by all folds": 0.2}.get(row.kind, 0)
    common_shape = (repeats, 1, row.folds if row.kind == "fold effects" else 1, 1)
    common = training_sd * np.sqrt(share) * normal(common_shape) if share else np.zeros(common_shape)
    effect = common + training_sd * np.sqrt(1 - share) * drawn((*shape[:3], 1))
    effect = effect + PATIENT_SD * drawn((repeats, 1, 1, row.patients)) + BOTH_SD * normal(shape)
    if row.kind == "patients without gain":
        effect = effect + LEVEL * ((rng.random((repeats, 1, 1, row.patients)) < SHARE_GAINING) - SHARE_GAINING)
    kept = mask.any(axis=1)
    alone = row.kind == "fold effects" and kept.sum() == 1  # then the interval is about trainings of this fold
    return 10 + effect, np.full(shape, 10.0), common[:, 0, kept, 0][:, 0] if alone else np.zeros(repeats)


def _false_voxels(row: Row, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Voxels, or log10(1 + voxels): patients differ by a factor of 2.7 (one sd); in three of ten none are predicted."""
    normal = rng.standard_normal
    patients = normal((shape[0], 1, 1, shape[3])) / np.log(10)
    some = rng.random(patients.shape) < 0.7
    arms, expected = [], []
    for median in row.ratio:
        effect = 0.2 * normal((*shape[:3], 1)) + 0.15 * normal(shape)
        voxels = median * some * 10 ** (patients + effect)
        sd = np.sqrt(np.log(10) ** -2 + 0.2**2 + 0.15**2)
        if row.kind == "false voxels":
            arms.append(np.log10(1 + voxels))
            expected.append(0.7 * np.log10(1 + median * 10 ** (sd * normal(100_000))).mean())
        else:
            arms.append(voxels)
            expected.append(0.7 * median * np.exp((sd * np.log(10)) ** 2 / 2))
    return arms[1], arms[0], np.full(shape[0], expected[1] - expected[0])


def _lesions(row: Row, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Share of a patient's 1 to 5 lesions that are detected; 0.3 on average by the reference, 0.6 by the arm."""
    number = rng.integers(1, 6, (shape[0], 1, 1, shape[3]))
    patients = 0.1 * rng.standard_normal(number.shape)
    arms = []
    for mean in (0.3, 0.6):
        trainings = 0.05 * np.sqrt(row.ratio) * rng.uniform(-1, 1, (*shape[:3], 1))
        arms.append(rng.binomial(number, mean + np.clip(patients, -0.1, 0.1) + trainings, shape) / number)
    return arms[1], arms[0], np.full(shape[0], 0.3)


def others(means: Means) -> dict[str, np.ndarray | None]:
    """Half the widths of other intervals; None where they cannot be computed."""
    seeds, folds = means.trainings.shape[-2:]
    flat = means.trainings.reshape(len(means.trainings), -1)
    n = seeds * folds

    def half(values: np.ndarray, weight: float) -> np.ndarray | None:
        count = values.shape[-1]
        return None if count < 2 else stdtrit(count - 1, 0.975) * np.sqrt(values.var(axis=-1, ddof=1) * weight)

    return {
        "before": within_folds(means)[0] if means.patients.shape[-1] > 1 else None,
        "fold means": half(means.trainings.mean(axis=-2), float((means.weights**2).sum())),
        "trainings": half(flat, 1 / n),
        "corrected resampled t": half(flat, 1 / n + 1 / max(folds - 1, 1)),
    }


def shown(row: Row, arm: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """(repeats,) bool, whether an experiment shows what the row is about: a failure, or patients of both kinds.

    None for the rows of which every experiment does.
    """
    if row.kind == "finds or misses, unseen":
        missed = [(summed_up(of, mask).trainings <= FOUND).any(axis=(-2, -1)) for of in (arm, reference)]
        return np.asarray(missed[0] | missed[1])
    if row.kind == "patients without gain":
        gains = summed_up(arm - reference, mask).patients > LEVEL * (0.5 - SHARE_GAINING)
        return np.asarray(gains.any(axis=-1) & ~gains.all(axis=-1))
    return None


def measured(row: Row, repeats: int) -> dict:
    """Coverage and median width of each interval in a cell, and the share of experiments with one of ours.

    ``shown`` is the share of experiments that show what the row is about, and the coverage of our interval in these.
    """
    rng = np.random.default_rng([ord(c) for c in repr(row)])
    mask = scored(row, rng)
    arm, reference, truth = scores(row, mask, repeats, rng)
    ours = interval(arm, reference, mask, 0 if row.kind.startswith("false voxels") else FOUND)
    printed = np.isfinite(ours.low)
    figures: dict = {"printed": round(float(printed.mean()), 4)}
    if printed.any():
        inside = (ours.low <= truth) & (truth <= ours.high)
        width = np.median((ours.high - ours.low)[printed])
        figures["now"] = [round(float(inside[printed].mean()), 4), round(float(width), 4)]
        seen = shown(row, arm, reference, mask)
        if seen is not None and (printed & seen).any():
            figures["shown"] = [round(float(seen.mean()), 4), round(float(inside[printed & seen].mean()), 4)]
    for name, half in others(summed_up(arm - reference, mask)).items():
        if half is not None:
            covered = np.abs(ours.mean - truth) <= half
            figures[name] = [round(float(covered.mean()), 4), round(float(2 * np.median(half)), 4)]
    return {**row.__dict__, **figures}


def _place(row: dict) -> str:
    """A cell's parameters."""
    return json.dumps([row[field.name] for field in fields(Row)])


def main() -> None:
    """Entry of the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", dest="out", type=Path, default=RESULT, metavar="FILE")
    p.add_argument("--repeats", type=int, default=4000, metavar="N", help="of each cell (default: %(default)s)")
    p.add_argument("--kinds", nargs="+", metavar="KIND", help="measure these rows only, and keep the file's other rows")
    o = p.parse_args()
    kept = {_place(row): row for row in json.loads(o.out.read_bytes())["rows"]} if o.kinds else {}
    begun = time.perf_counter()
    results = [
        kept[_place(row.__dict__)] if o.kinds and row.kind not in o.kinds else measured(row, o.repeats)
        for row in rows()
    ]
    below = [row for row in results if row["counts"] and "now" in row and row["now"][0] < GOAL]
    meta = {
        "command": f"python -m benchmarks.intervals --repeats {o.repeats}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begun),
        **({"measured_anew": o.kinds} if o.kinds else {}),
        "figures": "coverage, median width",
        "repeats": o.repeats,
        "goal": GOAL,
        "below_goal": len(below),
        "versions": versions(),
        "machine": machine(),
    }
    lines = ",\n".join(" " + json.dumps(row) for row in results)
    write_bytes(o.out, f'{{"meta": {json.dumps(meta, indent=1)},\n"rows": [\n{lines}\n]}}\n'.encode())
    print(f"{o.out}: {len(results)} cells, {len(below)} below {GOAL:.0%} of those with the goal; {meta['seconds']} s")
    for row in below:
        print(row)


if __name__ == "__main__":
    main()
