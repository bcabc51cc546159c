"""Planes through a volume for pictures: axial, coronal and sagittal, with pixels of their true shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Cut:
    """A plane through a volume.

    Attributes:
        plane: ``axial``, ``coronal`` or ``sagittal``; empty in a single slice.
        axis: of (z, y, x) that is cut across.
        index: where.
        aspect: height of a pixel divided by its width.
    """

    plane: str
    axis: int
    index: int
    aspect: float

    def of(self, volume: np.ndarray) -> np.ndarray:
        """The plane of a (z, y, x) volume as the array has it; ``AxialView.shown`` turns it for people."""
        return np.take(volume, self.index, self.axis)

    def named(self, name: str) -> str:
        """A row's name with that of the plane below it."""
        return f"{name}\n{self.plane}" if self.plane else name


def largest_part(voxels: np.ndarray) -> np.ndarray:
    """The largest connected part of (z, y, x) voxels."""
    parts, number = ndimage.label(voxels, np.ones((3, 3, 3)))
    if number < 2:
        return voxels
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def cuts(voxels: np.ndarray, spacing: Sequence[float]) -> list[Cut]:
    """The slice with most of a lesion, and in volumes also the coronal and the sagittal plane with most of it.

    If the voxels are several lesions, all planes go through the largest one.

    Args:
        voxels: (z, y, x) bool.
        spacing: (z, y, x) in mm.
    """
    lesion = largest_part(voxels)
    z, y, x = (int(lesion.sum(other).argmax()) for other in ((1, 2), (0, 2), (0, 1)))
    across, beside = spacing[1] / spacing[2], spacing[0] / np.array(spacing[1:])
    if len(voxels) == 1:
        return [Cut("", 0, z, across)]
    return [
        Cut("axial", 0, z, across),
        Cut("coronal", 1, y, float(beside[1])),
        Cut("sagittal", 2, x, float(beside[0])),
    ]
