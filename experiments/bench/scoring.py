"""Figures of a segmentation: voxels and lesions of each patient, and what they sum up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from nnunet_difflung.comparison.lesions import count_lesions

COUNTS = ("tp", "fp", "fn", "lesions", "detected", "false_lesions")
Patients = dict[str, dict[str, list[int]]]  # patient → class → COUNTS


def counts_of(
    reference: np.ndarray, prediction: np.ndarray, value: int, spacing: tuple[float, ...], with_lesions: bool
) -> list[int]:
    """``COUNTS`` of a class in a case; lesions are counted if asked for, else 0.

    Args:
        reference: (z, y, x) label values.
        prediction: the same shape.
        value: of the class.
        spacing: z, y, x in mm.
        with_lesions: whether the class comes in lesions.
    """
    true, found = reference == value, prediction == value
    voxels = [int((true & found).sum()), int((~true & found).sum()), int((true & ~found).sum())]
    if not with_lesions:
        return [*voxels, 0, 0, 0]
    lesions = count_lesions(true, found, spacing)
    return [*voxels, lesions.lesions, lesions.detected, lesions.false]


def added_up(cases: Iterable[tuple[str, dict[str, list[int]]]]) -> Patients:
    """The counts of each patient, from (patient, class → counts) of each case."""
    patients: Patients = {}
    for patient, counts in cases:
        known = patients.setdefault(patient, {name: [0] * len(COUNTS) for name in counts})
        for name, values in counts.items():
            known[name] = [a + b for a, b in zip(known[name], values, strict=True)]
    return patients


def figures(patients: Patients, name: str) -> dict[str, float | None]:
    """What the table shows of a class; None where no patient can have the figure.

    ``dice`` is the mean over patients who have the class, ``dice_pooled`` is taken over all voxels of these and all
    others, ``lesion_sensitivity`` over all lesions; ``false_lesions`` are counted in each patient; ``false_voxels`` in
    each patient without the class.
    """
    counts = np.array([of[name] for of in patients.values()], float).reshape(-1, len(COUNTS))
    tp, fp, fn, lesions, detected, false = counts.T
    having = tp + fn > 0
    total = counts.sum(0)
    return {
        "dice": _mean(dice(tp, fp, fn)[having]),
        "dice_pooled": float(dice(*total[:3])) if having.any() else None,
        "lesion_sensitivity": float(detected.sum() / lesions.sum()) if lesions.sum() else None,
        "false_lesions": _mean(false),
        "false_voxels": _mean(fp[~having]),
    }


def dice(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """Dice from numbers of voxels; 0 where there are none."""
    return 2 * tp / np.maximum(2 * tp + fp + fn, 1)


def all_figures(patients: Patients, classes: Iterable[str]) -> Mapping[str, dict]:
    """``figures`` of each class."""
    return {name: figures(patients, name) for name in classes}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
