"""Lesion-wise figures of segmentations: which lesions were found, and how many were predicted where there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIGURES = ("lesion_sensitivity", "false_lesions")
OVERLAP = 0.1  # share of a lesion that makes a match; α in Commowick et al., Scientific Reports 8:13650 (2018)
MIN_VOXELS, MIN_VOLUME = 3, 3.0  # smaller components are no lesions; the same paper leaves out those below 3 mm³


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of a class in a case.

    Attributes:
        lesions: in the reference.
        detected: of these, how many were found.
        false: predicted ones that match nothing in the reference.
    """

    lesions: int
    detected: int
    false: int


def count_lesions(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> LesionCounts:
    """Matches the connected components of two masks.

    A lesion is a connected component (faces, edges and corners touch; in a single slice in 2D) of at least 3 voxels and
    3 mm³. One of the reference is detected if at least 10 % of its voxels are predicted; a predicted one is false if
    less than 10 % of its voxels lie in the reference. Both are compared with the whole other mask, so a lesion that is
    predicted in two pieces counts once, two lesions that are predicted as one are both detected, and what matches only
    a component that is too small to count is not false.

    Args:
        reference: (z, y, x) bool.
        prediction: the same shape.
        spacing: z, y, x in mm (pixels for formats without a spacing).
    """
    least = max(MIN_VOXELS, MIN_VOLUME / float(np.prod(spacing)))
    overlaps = _overlaps(reference, prediction, least)
    false = int((_overlaps(prediction, reference, least) < OVERLAP).sum())
    return LesionCounts(len(overlaps), int((overlaps >= OVERLAP).sum()), false)


def _overlaps(mask: np.ndarray, other: np.ndarray, least: float) -> np.ndarray:
    """Share of each lesion of ``mask`` that lies in ``other``."""
    from scipy import ndimage

    if not mask.any():
        return np.zeros(0)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    components, count = ndimage.label(mask[box], structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    inside = np.bincount(components[other[box]], minlength=count + 1)[1:]
    counted = sizes >= least - 1e-6
    return inside[counted] / sizes[counted]
