"""95 % intervals of a paired difference, from the variance of patients and of trainings; numpy and scipy only.

Arrays are (…, seeds, folds, patients) and NaN where a patient is not in a fold; leading axes are independent
experiments, with which ``benchmarks/intervals.py`` measures how often the intervals contain the truth. The rules below
were chosen by that simulation; docs/method.md has its summary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

ONE_TRAINING = "one training per arm does not show how much trainings vary"
ONE_PATIENT = "one patient does not show how much patients vary"
NEVER_FOUND = "no training of either arm finds the class"
ALWAYS_ZERO = "the figure is 0 in every training of both arms"
FOLD_MEANS = "t-interval of the means of the folds"
PATIENTS_AND_FOLDS = "t-intervals of patients and of folds, added in quadrature"
PATIENTS_AND_SEEDS = "t-intervals of patients and of seeds, added in quadrature"
WITHIN_FOLDS = "t-interval of patients and, if there are several, of the seeds of each fold (Satterthwaite)"
_MISSED = 0.1  # a training with less than this share of the best training's score counts as one that misses the class
_TAIL = 0.025


@dataclass(frozen=True)
class Interval:
    """A 95 % interval for each experiment.

    Attributes:
        mean: (…) mean difference over the patients, each of whom counts once.
        low: (…) lower end; NaN where there is no interval.
        high: (…) upper end; NaN where there is no interval.
        method: name of the rule; None if the design allows no interval.
        freedom: what the variance was estimated from → degrees of freedom; empty without an interval.
        within: (…) bool, whether ``WITHIN_FOLDS`` was wider and replaced ``method``.
        within_freedom: (…) degrees of freedom of ``WITHIN_FOLDS``.
        unseen: (…) share of failing trainings that the interval allows for, since none was seen; 0 where it need not.
        why_none: why the design allows no interval; None if it does.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    method: str | None
    freedom: dict[str, int]
    within: np.ndarray
    within_freedom: np.ndarray
    unseen: np.ndarray
    why_none: str | None


@dataclass(frozen=True)
class Means:
    """The scores of an arm, or differences of two, summed up; only folds and patients with a score are kept.

    Attributes:
        patients: (…, patients) mean over seeds and folds.
        trainings: (…, seeds, folds) mean over the patients of the fold.
        weights: (folds,) share of each fold in the mean over the patients.
        shared: whether a patient is scored in more than one fold, as test patients are.
    """

    patients: np.ndarray
    trainings: np.ndarray
    weights: np.ndarray
    shared: bool


def summed_up(values: np.ndarray, scored: np.ndarray) -> Means:
    """Means by patient and by training.

    Args:
        values: (…, seeds, folds, patients).
        scored: (folds, patients) bool, with at least one patient.
    """
    folds, patients = scored.any(axis=1), scored.any(axis=0)
    scored = scored[folds][:, patients]
    share = scored / scored.sum(axis=0) / scored.shape[1]
    weighted = np.where(scored, values[..., folds, :][..., patients], 0) * share
    weights = share.sum(axis=1)
    return Means(
        patients=weighted.sum(axis=-2).mean(axis=-2) * scored.shape[1],
        trainings=weighted.sum(axis=-1) / weights,
        weights=weights,
        shared=bool((scored.sum(axis=0) > 1).any()),
    )


def interval(arm: np.ndarray, reference: np.ndarray, scored: np.ndarray, found: float) -> Interval:
    """The interval of the mean difference over patients, for new patients and new trainings.

    Where a patient is in one fold only, the means of the folds vary with the patients, the trainings and the folds'
    training data, so their spread is all that is needed (F − 1 degrees of freedom). Where all folds score the same
    patients, the patients' own interval is added. With a single fold the spread between its seeds takes the place of
    the folds'; the interval then holds for trainings of this fold. No interval is narrower than the one of patients
    and of the seeds within the folds, as folds can agree by chance.

    A class can be found by some trainings and missed by others. Where one arm finds it in all of its trainings, or in
    none, no spread shows what the next training will do. So if any training of the pair misses the class, the interval
    allows for as many failures (or successes) of that arm as are compatible with having seen none in so many folds.

    Args:
        arm: (…, seeds, folds, patients), not negative.
        reference: the same.
        scored: (folds, patients) bool, where there are scores.
        found: a training whose mean is not above this misses the class.
    """
    means = summed_up(arm - reference, scored)
    mean = means.patients.mean(axis=-1)
    seeds, folds = means.trainings.shape[-2:]
    patients = means.patients.shape[-1]
    if patients == 1:
        why = ONE_PATIENT
    elif seeds * folds == 1:
        why = ONE_TRAINING
    else:
        return _printed(means, summed_up(arm, scored).trainings, summed_up(reference, scored).trainings, found)
    zeros, none = np.zeros(mean.shape), np.full(mean.shape, np.nan)
    return Interval(mean, none, none, None, {}, zeros.astype(bool), none, zeros, why)


def _printed(means: Means, arm: np.ndarray, reference: np.ndarray, found: float) -> Interval:
    """The interval of a design that allows one; ``arm`` and ``reference`` are (…, seeds, folds) means."""
    mean = means.patients.mean(axis=-1)
    half, method, freedom = _between(means)
    floor, within_freedom = within_folds(means)
    within = floor > half
    half = np.maximum(half, floor)
    below, above, unseen, nothing = _unseen(arm, reference, found)
    low, high = mean - np.hypot(half, below), mean + np.hypot(half, above)
    low, high = (np.where(nothing, np.nan, end) for end in (low, high))
    return Interval(mean, low, high, method, freedom, within, within_freedom, unseen, None)


def _between(means: Means) -> tuple[np.ndarray, str, dict[str, int]]:
    """Half the width of the interval, its name, and its degrees of freedom."""
    (seeds, folds), patients = means.trainings.shape[-2:], means.patients.shape[-1]
    if folds > 1:
        of_folds = means.trainings.mean(axis=-2)
        half = _t(folds - 1) * np.sqrt(of_folds.var(axis=-1, ddof=1) * (means.weights**2).sum())
        if not means.shared:
            return half, FOLD_MEANS, {"folds": folds - 1}
        name, freedom = PATIENTS_AND_FOLDS, {"patients": patients - 1, "folds": folds - 1}
    else:
        half = _t(seeds - 1) * np.sqrt(means.trainings[..., 0].var(axis=-1, ddof=1) / seeds)
        name, freedom = PATIENTS_AND_SEEDS, {"patients": patients - 1, "seeds": seeds - 1}
    of_patients = _t(patients - 1) * np.sqrt(means.patients.var(axis=-1, ddof=1) / patients)
    return np.hypot(half, of_patients), name, freedom


def within_folds(means: Means) -> tuple[np.ndarray, np.ndarray]:
    """Half the width of the t-interval of patients and of the seeds within each fold, and its degrees of freedom.

    Its variance is that of the patients' differences / P plus, for each fold, that of its seeds / S; the degrees of
    freedom are combined by Satterthwaite's formula (Biometrics Bulletin 1946). It knows nothing of what the seeds of a
    fold share.
    """
    seeds, patients = means.trainings.shape[-2], means.patients.shape[-1]
    parts = [(means.patients.var(axis=-1, ddof=1) / patients, patients - 1)]
    if seeds > 1:
        variances = (means.trainings * means.weights).var(axis=-2, ddof=1) / seeds
        parts += [(variance, seeds - 1) for variance in np.moveaxis(variances, -1, 0)]
    total = np.sum([part for part, _ in parts], axis=0)
    divisor = np.where(total > 0, total, 1)
    inverse = np.sum([(part / divisor) ** 2 / degrees for part, degrees in parts], axis=0)
    freedom = 1 / np.where(total > 0, inverse, 1)
    return _t(freedom) * np.sqrt(total), freedom


def _unseen(
    arm: np.ndarray, reference: np.ndarray, found: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How far unseen failures could move the mean difference down and up, their share, and where nothing was found.

    What is counted is folds: a fold's training patients may decide whether a class is found, whatever the seed. Where
    there is one fold, it is seeds.
    """
    seeds, folds = arm.shape[-2:]
    arm, reference = (values.reshape(*values.shape[:-2], -1) for values in (arm, reference))
    best = np.maximum(arm.max(axis=-1), reference.max(axis=-1))
    threshold = np.maximum(found, _MISSED * best)[..., None]
    arm_finds, reference_finds = arm > threshold, reference > threshold
    share = 1 - _TAIL ** (1 / (folds if folds > 1 else seeds))
    risk = share * ~(arm_finds.all(axis=-1) & reference_finds.all(axis=-1))
    arm_fails, reference_fails = (
        np.where(finds.all(axis=-1), values.mean(axis=-1), 0) * risk
        for finds, values in ((arm_finds, arm), (reference_finds, reference))
    )
    arm_succeeds, reference_succeeds = (
        np.where(finds.any(axis=-1), 0, best) * risk for finds in (arm_finds, reference_finds)
    )
    below, above = np.hypot(arm_fails, reference_succeeds), np.hypot(arm_succeeds, reference_fails)
    nothing = ~(arm_finds.any(axis=-1) | reference_finds.any(axis=-1))
    return below, above, np.where((below > 0) | (above > 0), share, 0), nothing


def _t(freedom: float | np.ndarray) -> np.ndarray:
    return stdtrit(freedom, 1 - _TAIL)
