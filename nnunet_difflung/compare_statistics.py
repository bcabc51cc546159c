"""Means, spreads and paired bootstrap intervals; numpy only.

Arrays are (seed, fold, patient), NaN where a patient is not in a fold or has no score, in the same places for every
seed.
"""
from __future__ import annotations

import numpy as np

RESAMPLES = 10_000
BOOTSTRAP_SEED = 12345


def pool(counts: np.ndarray) -> np.ndarray:
    """Dice 2TP / (2TP + FP + FN) of (…, 3) voxel counts TP, FP, FN; NaN where all are zero or NaN."""
    tp, fp, fn = np.moveaxis(np.asarray(counts, float), -1, 0)
    union = 2 * tp + fp + fn
    return np.divide(2 * tp, union, out=np.full(union.shape, np.nan), where=union > 0)


def mean_without_nan(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean over the finite values along ``axis``; NaN where there is none, without numpy's warning."""
    there = np.isfinite(values)
    count = there.sum(axis)
    total = np.where(there, values, 0).sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def spread(values: np.ndarray) -> dict:
    """``n`` values of seeds × folds: their mean and standard deviation (NaN for fewer than two)."""
    found = values[np.isfinite(values)]
    return {"mean": float(found.mean()) if len(found) else np.nan,
            "sd": float(found.std(ddof=1)) if len(found) > 1 else np.nan, "n": len(found)}


def over_patients(values: np.ndarray) -> dict:
    """Summary of one figure of an arm.

    Returns:
        ``mean`` over patients, each of whom counts once (averaged over seeds and folds before); ``sd`` over
        seeds × folds of the mean over the fold's patients, of which there are ``n``; number of ``patients``.
    """
    each = mean_without_nan(values, (0, 1))
    by_training = spread(mean_without_nan(values, 2))
    return {"mean": float(mean_without_nan(each, 0)), "sd": by_training["sd"], "n": by_training["n"],
            "patients": int(np.isfinite(each).sum())}


def paired_differences(arm: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Difference per patient, (seeds averaged, then same fold, then averaged over folds): (patients,), NaN if none."""
    return mean_without_nan(mean_without_nan(arm, 0) - mean_without_nan(reference, 0), 0)


def difference(arm: np.ndarray, reference: np.ndarray, resamples: int = RESAMPLES,
               seed: int = BOOTSTRAP_SEED) -> dict:
    """Paired difference to the reference with a percentile interval of a two-level bootstrap.

    Both levels are drawn with replacement: patients, and inside each fold the repetitions ("seeds"), which every
    patient of the fold shares, since they were scored by the same network. (Owen: The pigeonhole bootstrap, Ann.
    Appl. Stat. 2007.) With the patients alone the interval would be too narrow: the seed of a segmenter moves the
    Dice of a rare class by 0.1. With S seeds the variance between them is still taken S / (S − 1) times too small, as
    by any bootstrap; with one seed it is not seen at all.

    Args:
        arm: (seeds, folds, patients).
        reference: the same, scored on the same patients.
        resamples: of the bootstrap.
        seed: of the bootstrap; the same input has the same interval.

    Returns:
        ``mean``, ``ci95`` [low, high] (NaN for fewer than two patients) and ``patients``.

    Raises:
        ValueError: a patient of a fold has a score in one of the trainings only.
    """
    values = np.asarray(arm, float) - np.asarray(reference, float)
    there = np.isfinite(values)
    if (there != there[:1]).any() or (np.isfinite(arm) != np.isfinite(reference)).any():
        raise ValueError("arm and reference need scores of the same patients in every seed and fold")
    kept = there[0].any(axis=0)
    values = values[:, :, kept]
    seeds, folds, patients = values.shape
    if patients == 0:
        return {"mean": np.nan, "ci95": [np.nan, np.nan], "patients": 0}
    mean = float(paired_differences(arm, reference)[kept].mean())
    if patients == 1:
        return {"mean": mean, "ci95": [np.nan, np.nan], "patients": 1}
    rng = np.random.default_rng(seed)
    of_fold = np.where(np.isfinite(values), values, 0) / np.isfinite(values[0]).sum(axis=0)
    drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), (resamples, folds)) / seeds
    by_patient = drawn_seeds.reshape(resamples, -1) @ of_fold.transpose(1, 0, 2).reshape(folds * seeds, patients)
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), resamples) / patients
    low, high = np.percentile((drawn * by_patient).sum(axis=1), [2.5, 97.5])
    return {"mean": mean, "ci95": [float(low), float(high)], "patients": patients}
