"""Rows of the bench as arrays, paired by patient, fold and seed, and their differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy.special import stdtrit

from experiments.bench.probabilities import at_false_voxels_of, average_precision
from experiments.bench.scoring import dice
from nnunet_difflung.comparison.statistics import difference, over_patients, skewed_difference

SHARES = ("dice", "lesion_sensitivity")  # from 0 to 1; the other figures have no upper limit
FIGURES = (*SHARES, "false_lesions", "false_voxels")
PRECISION = "average_precision"  # over the voxels of all patients
Rows = Mapping[tuple[int, int], dict]  # (seed, fold) → row


def grid(*arms: Rows) -> tuple[list[int], list[int]]:
    """The seeds and folds of the largest complete design that all arms have; more folds are better than more seeds."""
    shared = set(arms[0]).intersection(*arms[1:])
    seeds = sorted({seed for seed, _ in shared})
    best: tuple[list[int], list[int]] = ([], [])
    for size in range(1, len(seeds) + 1):
        for chosen in combinations(seeds, size):
            folds = sorted({f for _, f in shared if all((seed, f) in shared for seed in chosen)})
            if (len(chosen) * len(folds), len(folds)) > (len(best[0]) * len(best[1]), len(best[1])):
                best = (list(chosen), folds)
    return best


def of_patient(counts: Sequence[int]) -> dict[str, float]:
    """A patient's figures of a class from ``COUNTS``; NaN where the patient cannot have the figure."""
    tp, fp, fn, lesions, detected, false = map(float, counts)
    having = tp + fn > 0
    return {
        "dice": float(dice(np.array(tp), np.array(fp), np.array(fn))) if having else np.nan,
        "lesion_sensitivity": detected / lesions if lesions else np.nan,
        "false_lesions": false,
        "false_voxels": np.nan if having else fp,
    }


def values(rows: Rows, seeds: Sequence[int], folds: Sequence[int], name: str, figure: str) -> np.ndarray:
    """(seeds, folds, patients) of a figure of a class; NaN where a patient is not in a fold."""
    of = {key: {p: of_patient(c[name])[figure] for p, c in row["patients"].items()} for key, row in rows.items()}
    patients = sorted({p for seed in seeds for fold in folds for p in of[seed, fold]})
    return np.array([[[of[s, f].get(p, np.nan) for p in patients] for f in folds] for s in seeds])


def compared(arm: Rows, opponent: Rows, name: str, figure: str) -> dict | None:
    """The paired difference of two arms as ``comparison.statistics`` returns it; None without a common training.

    Skewed figures have their interval on a logarithmic scale (``log10_difference``).
    """
    seeds, folds = grid(arm, opponent)
    if not seeds:
        return None
    pair = [values(rows, seeds, folds, name, figure) for rows in (arm, opponent)]
    if figure in SHARES:
        return {"diff": difference(*pair), "trainings": len(seeds) * len(folds)}
    both = skewed_difference(*pair)
    means = [over_patients(part)["mean"] for part in pair]
    return {
        "diff": both["diff_to_reference"],
        "log10": both["log10_difference"],
        "ratio": means[0] / means[1] if means[1] else None,
        "trainings": len(seeds) * len(folds),
    }


def precision_compared(arm: Rows, opponent: Rows, name: str) -> dict | None:
    """The paired difference of two arms in average precision, which is a figure of a training and not of a patient.

    The interval is the t-interval of the folds' means, or of the seeds where there is one fold.

    Returns:
        As ``compared``; None without a common training that has histograms.
    """
    own, others = (
        {k: v for k, row in rows.items() if (v := _of_row(row, name, PRECISION))} for rows in (arm, opponent)
    )
    seeds, folds = grid(own, others)
    if not seeds:
        return None
    differences = np.array([[own[s, f] - others[s, f] for f in folds] for s in seeds])
    units = differences.mean(axis=0) if len(folds) > 1 else differences[:, 0]
    n, mean = len(units), float(differences.mean())
    half = stdtrit(n - 1, 0.975) * units.std(ddof=1) / np.sqrt(n) if n > 1 else None
    ends = None if half is None else [float(mean - half), float(mean + half)]
    return {"diff": {"mean": mean, "ci95": ends}, "trainings": differences.size}


def alike(arm: Rows, reference: Rows, name: str) -> dict | None:
    """Dice of an arm and of the reference, both at as many false voxels as the reference's labels have.

    Returns:
        As ``compared``, with the mean of the arm, ``dice``; None without a common training that has histograms.
    """
    dices: list[dict[tuple[int, int], dict[str, float]]] = [{}, {}]
    for key in set(arm).intersection(reference):
        pair = [at_false_voxels_of(reference[key], row, name) for row in (arm[key], reference[key])]
        if None not in pair:
            for part, of_patients in zip(dices, pair, strict=True):
                part[key] = of_patients
    seeds, folds = grid(dices[0])
    if not seeds:
        return None
    patients = sorted({p for seed in seeds for fold in folds for p in reference[seed, fold]["patients"]})
    own, others = (
        np.array([[[part[s, f].get(p, np.nan) for p in patients] for f in folds] for s in seeds]) for part in dices
    )
    of_trainings = [
        part[np.isfinite(part)].mean() for part in own.reshape(-1, len(patients)) if np.isfinite(part).any()
    ]
    mean = float(np.mean(of_trainings)) if of_trainings else None
    return {"dice": mean, "diff": difference(own, others), "trainings": len(seeds) * len(folds)}


def summary(rows: Rows, name: str) -> dict:
    """Mean of each figure over trainings, its standard deviation over trainings, and their number."""
    result = {}
    for figure in (*FIGURES, "dice_pooled", PRECISION):
        each = [value for row in rows.values() if (value := _of_row(row, name, figure)) is not None]
        result[figure] = {
            "mean": float(np.mean(each)) if each else None,
            "sd": float(np.std(each, ddof=1)) if len(each) > 1 else None,
            "trainings": len(each),
        }
    return result


def _of_row(row: dict, name: str, figure: str) -> float | None:
    if figure != PRECISION:
        return row["figures"][name][figure]
    histograms = row.get("probabilities", {}).get(name)
    return None if histograms is None else average_precision(histograms)
