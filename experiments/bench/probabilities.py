"""Predicted probabilities of a class as histograms: what a training tells apart, wherever its threshold lies.

More cases of a class make a network predict the class more often, right or wrong. Whether it also tells the class
better from others shows where arms are compared at the same number of false voxels, and in the average precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

EDGES = np.linspace(-8, 8, 129)  # of the bins, as log odds; what lies beyond is in the outermost bins
Histograms = dict[
    str, list[list[int]]
]  # patient → numbers of voxels inside and outside the class, a number for each bin


def histogram(probability: np.ndarray, inside: np.ndarray) -> list[list[int]]:
    """Numbers of voxels by predicted probability, inside and outside a class.

    Args:
        probability: of the class, any shape.
        inside: bool, the same shape; where the class really is.
    """
    clipped = np.clip(probability.astype(float), 1e-6, 1 - 1e-6)
    odds = np.clip(np.log(clipped / (1 - clipped)), EDGES[0], EDGES[-1])
    return [np.histogram(odds[part], EDGES)[0].tolist() for part in (inside, ~inside)]


def added_up(cases: Iterable[tuple[str, list[list[int]]]]) -> Histograms:
    """The histograms of each patient, from (patient, histograms) of each case."""
    patients: dict[str, np.ndarray] = {}
    for patient, counts in cases:
        patients[patient] = patients.get(patient, 0) + np.array(counts)
    return {patient: counts.tolist() for patient, counts in patients.items()}


def average_precision(patients: Histograms) -> float | None:
    """Area under precision against recall over the voxels of all patients; None where none belongs to the class."""
    inside, outside = np.array(list(patients.values()), float).sum(0)[:, ::-1].cumsum(1)
    if not inside[-1]:
        return None
    precision = inside / np.maximum(inside + outside, 1)
    return float((np.diff(inside, prepend=0) * precision).sum() / inside[-1])


def dice_at(patients: Histograms, false_voxels: float) -> dict[str, float]:
    """Dice of each patient who has the class, at the threshold with so many false voxels; linear within a bin.

    Args:
        patients: histograms.
        false_voxels: mean number in a patient without the class.
    """
    counts = {patient: np.array(of, float)[:, ::-1].cumsum(1) for patient, of in patients.items()}
    without = [outside for inside, outside in counts.values() if not inside[-1]]
    if not without:
        return {}
    bins = np.arange(len(EDGES))
    false = np.concatenate([[0.0], np.mean(without, axis=0)])  # with the first 0, 1, 2, … bins
    last = int((false <= false_voxels).sum()) - 1
    if 0 <= last < len(bins) - 1:
        taken = last + (false_voxels - false[last]) / (false[last + 1] - false[last])
    else:
        taken = float(max(last, 0))
    dice = {}
    for patient, of in counts.items():
        tp, fp = (float(np.interp(taken, bins, np.concatenate([[0.0], part]))) for part in of)
        if of[0][-1]:
            dice[patient] = 2 * tp / (tp + fp + float(of[0][-1]))
    return dice


def at_false_voxels_of(reference: Mapping, row: Mapping, name: str) -> dict[str, float] | None:
    """``dice_at`` of a row, at the false voxels that the labels of the reference have.

    Args:
        reference: the row of the reference with the same source patients.
        row: of the bench; that of the reference as well, whose labels do not come from a threshold of one class.
        name: of the class.

    Returns:
        None where the row holds no histograms; earlier versions wrote none.
    """
    histograms = row.get("probabilities", {}).get(name)
    target = reference["figures"][name]["false_voxels"]
    return None if histograms is None or target is None else dice_at(histograms, target)
