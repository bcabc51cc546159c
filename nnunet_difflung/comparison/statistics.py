"""Means, spreads and paired differences; numpy and scipy only.

Arrays are (seed, fold, patient). They are NaN where a patient is not in a fold or has no score; these places are the
same for every seed.
"""

from __future__ import annotations

import numpy as np

from nnunet_difflung.comparison.intervals import ALWAYS_ZERO, NEVER_FOUND, WITHIN_FOLDS, interval

FOUND = 0.05  # a training with a lower Dice has not learned to find the class
SKEWED_PATIENTS = 30  # so many show how skewed figures vary, on a logarithmic scale
YES_OR_NO = "a share of patients can be the same in both arms by chance, and shows no variance then"
NO_PATIENT = "no patient has a score"
SKEWED = "a mean of so skewed a figure has none; see log10_difference"
FEW_SKEWED = f"fewer than {SKEWED_PATIENTS} patients do not show how so skewed a figure varies"


def pool(counts: np.ndarray) -> np.ndarray:
    """Dice 2TP / (2TP + FP + FN) of (…, 3) voxel counts TP, FP, FN; NaN where all are zero or NaN."""
    tp, fp, fn = np.moveaxis(np.asarray(counts, float), -1, 0)
    union = 2 * tp + fp + fn
    return np.divide(2 * tp, union, out=np.full(union.shape, np.nan), where=union > 0)


def mean_without_nan(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean over the finite values along ``axis``; NaN where there are none, without numpy's warning."""
    finite = np.isfinite(values)
    count = finite.sum(axis)
    total = np.where(finite, values, 0).sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def spread(values: np.ndarray) -> dict:
    """Mean and standard deviation (NaN for fewer than two) of the ``n`` finite values of seeds × folds."""
    finite = values[np.isfinite(values)]
    return {
        "mean": float(finite.mean()) if len(finite) else np.nan,
        "sd": float(finite.std(ddof=1)) if len(finite) > 1 else np.nan,
        "n": len(finite),
    }


def over_patients(values: np.ndarray) -> dict:
    """Summary of a figure of an arm.

    Returns:
        ``mean`` over patients, each of whom counts once (their seeds and folds are averaged first); ``sd`` over the
        ``n`` trainings (seeds × folds) of the mean over the fold's patients; number of ``patients``.
    """
    of_patient = mean_without_nan(values, (0, 1))
    by_training = spread(mean_without_nan(values, 2))
    return {
        "mean": float(mean_without_nan(of_patient, 0)),
        "sd": by_training["sd"],
        "n": by_training["n"],
        "patients": int(np.isfinite(of_patient).sum()),
    }


def paired_differences(arm: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(patients,) differences of means over seeds, averaged over folds; NaN for patients without a score."""
    return mean_without_nan(mean_without_nan(arm, 0) - mean_without_nan(reference, 0), 0)


def difference(arm: np.ndarray, reference: np.ndarray, found: float = FOUND) -> dict:
    """Paired difference to the reference with a 95 % interval, where the trainings allow one.

    Args:
        arm: (seeds, folds, patients).
        reference: the same, scored on the same patients.
        found: a training whose mean over its patients is not above this misses the class; 0 for figures of which less
            is better.

    Returns:
        ``mean``; ``ci95`` [low, high], None where there is no interval; ``patients``; ``method`` of the interval;
        ``degrees_of_freedom`` (what the variance was estimated from → number); ``unseen_failures``, the share of
        failing trainings that the interval allows for, though none was seen (0: see ``intervals.interval``);
        ``no_interval``, the reason where there is none.

    Raises:
        ValueError: a patient of a fold has a score in some of the trainings, but not in all.
    """
    arm, reference = np.asarray(arm, float), np.asarray(reference, float)
    scored = np.isfinite(arm)
    if (scored != scored[:1]).any() or (scored != np.isfinite(reference)).any():
        raise ValueError("arm and reference need scores of the same patients in every seed and fold")
    patients = int(scored[0].any(axis=0).sum())
    if patients == 0:
        return _without_interval(np.nan, 0, NO_PATIENT)
    ends = interval(arm, reference, scored[0], found)
    mean = float(ends.mean)
    if ends.method is None:
        return _without_interval(mean, patients, str(ends.why_none))
    if np.isnan(ends.low):
        return _without_interval(mean, patients, NEVER_FOUND if found else ALWAYS_ZERO)
    within, basis = bool(ends.within), "patients and seeds" if arm.shape[0] > 1 else "patients"
    return {
        "mean": mean,
        "ci95": [float(ends.low), float(ends.high)],
        "patients": patients,
        "method": WITHIN_FOLDS if within else ends.method,
        "degrees_of_freedom": {basis: float(ends.within_freedom)} if within else ends.freedom,
        "unseen_failures": float(ends.unseen),
        "no_interval": None,
    }


def skewed_difference(arm: np.ndarray, reference: np.ndarray) -> dict:
    """Paired differences of a figure without an upper limit, such as voxels, of which a few patients have most.

    Returns:
        ``diff_to_reference`` as ``difference``, without an interval; ``log10_difference``, the difference of
        log10(1 + figure), with an interval if at least 30 patients have the figure.

    Raises:
        ValueError: see ``difference``.
    """
    logarithms = difference(np.log10(1 + arm), np.log10(1 + reference), found=0)
    patients = logarithms["patients"]
    if patients < SKEWED_PATIENTS:
        reason = logarithms["no_interval"] or FEW_SKEWED
        logarithms = _without_interval(logarithms["mean"], patients, reason)
    else:
        reason = SKEWED
    return {"diff_to_reference": mean_difference(arm, reference, reason), "log10_difference": logarithms}


def mean_difference(arm: np.ndarray, reference: np.ndarray, reason: str = YES_OR_NO) -> dict:
    """The paired difference as ``difference`` returns it, without an interval for the given reason."""
    of_patients = paired_differences(arm, reference)
    return _without_interval(float(mean_without_nan(of_patients, 0)), int(np.isfinite(of_patients).sum()), reason)


def _without_interval(mean: float, patients: int, reason: str) -> dict:
    return {
        "mean": mean,
        "ci95": None,
        "patients": patients,
        "method": None,
        "degrees_of_freedom": {},
        "unseen_failures": 0.0,
        "no_interval": reason,
    }
