"""Planes through a volume for pictures: axial, coronal and sagittal, with pixels of their true shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
        """The plane of a (z, y, x) volume; the top of a coronal or sagittal one is the end of z."""
        plane = np.take(volume, self.index, self.axis)
        return (plane if self.axis == 0 else plane[::-1]).copy()  # so that the volume need not be kept

    def named(self, name: str) -> str:
        """A row's name with that of the plane below it."""
        return f"{name}\n{self.plane}" if self.plane else name


def cuts(voxels: np.ndarray, spacing: Sequence[float]) -> list[Cut]:
    """The slice with most of the voxels; in volumes also the coronal and the sagittal plane with most of them.

    Args:
        voxels: (z, y, x) bool.
        spacing: (z, y, x) in mm.
    """
    z, y, x = (int(voxels.sum(other).argmax()) for other in ((1, 2), (0, 2), (0, 1)))
    across, beside = spacing[1] / spacing[2], spacing[0] / np.array(spacing[1:])
    if len(voxels) == 1:
        return [Cut("", 0, z, across)]
    return [
        Cut("axial", 0, z, across),
        Cut("coronal", 1, y, float(beside[1])),
        Cut("sagittal", 2, x, float(beside[0])),
    ]
