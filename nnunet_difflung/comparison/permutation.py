"""Sign-flip permutation tests of paired differences, and Holm's correction; numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_difflung.comparison.intervals import summed_up

EXACT = 12  # up to this many patients every one of the 2^n flips is counted
RANDOM = 100_000
_SEED = 20_260
_CHUNK = 10_000
_ROUNDING = 1e-6  # of the sum of absolute differences; sums that differ by less are ties


def sign_flip(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided p values of the null hypothesis that arm and reference are exchangeable in every unit.

    If it holds, each unit's difference could as well have the other sign. p is the share of sign flips whose sum is at
    least as far from 0 as the one seen: of all flips for up to 12 units, otherwise of 100,000 random ones (and the one
    seen), which are the same in every call.

    Args:
        differences: (units, tests), finite. Units are patients, or the means of folds or seeds times their weights.

    Returns:
        p values (tests,) and the smallest value that each of them could have had, with this number of units whose
        difference is not 0.
    """
    units, tests = differences.shape
    sums = np.abs(differences.sum(axis=0))
    limit = sums - _ROUNDING * np.abs(differences).sum(axis=0)
    if units <= EXACT:
        flips = 1 - 2 * (np.arange(2**units)[:, None] >> np.arange(units) & 1)
        p = (np.abs(flips @ differences) >= limit).mean(axis=0)
        smallest = np.zeros(tests)
    else:
        p = (_reached(differences, limit) + 1) / (RANDOM + 1)
        smallest = np.full(tests, 1 / (RANDOM + 1))
    moving = (differences != 0).sum(axis=0)
    return p, np.minimum(np.maximum(smallest, 2.0 ** (1 - moving)), 1)


def _reached(differences: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """(tests,) number of the random flips whose sum is at least as far from 0 as ``limit``."""
    rng = np.random.default_rng(_SEED)
    units, tests = differences.shape
    total, reached, differences = differences.sum(axis=0), np.zeros(tests), differences.astype(np.float32)
    for _ in range(RANDOM // _CHUNK):
        bits = np.unpackbits(np.frombuffer(rng.bytes(_CHUNK * -(-units // 8)), np.uint8).reshape(_CHUNK, -1), axis=1)
        flipped = bits[:, :units].astype(np.float32) @ differences
        reached += (np.abs(total - 2 * flipped) >= limit).sum(axis=0)
    return reached


def permutation_tests(arms: list[np.ndarray], reference: np.ndarray) -> list[dict]:
    """Tests of each arm against the reference, over patients and over trainings.

    Over patients, the null hypothesis is that these trainings of both arms are exchangeable in every patient; it says
    nothing of other trainings. Over trainings, the units are the folds or, with a single fold, its seeds.

    Args:
        arms: (seeds, folds, patients) scores of each arm, NaN in the same places.
        reference: the same.

    Returns:
        for each arm ``patients`` and ``trainings``: ``p``, ``smallest_p`` that this number of units can give,
        ``units`` and ``flips`` ("all" or their number); None where there are fewer than two units.
    """
    scored = np.isfinite(reference[0])
    if not arms or not scored.any():
        return [{"patients": None, "trainings": None} for _ in arms]
    means = summed_up(np.stack(arms) - reference, scored)
    folds = means.trainings.shape[-1]
    units = means.trainings.mean(axis=-2) * means.weights if folds > 1 else means.trainings[..., 0]
    tests = [_tests(means.patients.T), _tests(units.T)]
    return [{"patients": of_patients, "trainings": of_units} for of_patients, of_units in zip(*tests, strict=True)]


def _tests(differences: np.ndarray) -> list[dict | None]:
    """The tests of (units, arms) differences."""
    units, arms = differences.shape
    if units < 2:
        return [None] * arms
    flips = "all" if units <= EXACT else RANDOM
    return [
        {"p": float(p), "smallest_p": float(smallest), "units": units, "flips": flips}
        for p, smallest in zip(*sign_flip(differences), strict=True)
    ]


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number by Holm's method (Scandinavian Journal of Statistics 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.minimum(np.asarray(p, float)[order] * np.arange(len(p), 0, -1), 1))
    return adjusted.tolist()
