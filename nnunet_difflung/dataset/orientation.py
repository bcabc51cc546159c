"""How a slice of nnU-Net's arrays has to be turned to be seen as radiologists see it: from the feet, right is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_NEARLY = 0.7  # cosine of 45 degrees: a more oblique axis has no side
_ENDS = (("left", "right"), ("back", "front"), ("head", "feet"))


@dataclass(frozen=True)
class AxialView:
    """How the slices of a case are shown.

    Attributes:
        flips: whether rows and columns are reversed.
        sides: letters at the left and the right edge; empty where the file does not tell.
        millimetres: width of a pixel in mm; None where the format has no spacing.
        aspect: height of a pixel divided by its width.
        head_first: whether the first slice is the one nearest to the head.
    """

    flips: tuple[bool, bool]
    sides: tuple[str, str] | tuple[()]
    millimetres: float | None
    aspect: float
    head_first: bool = False

    def turned(self, plane: np.ndarray) -> np.ndarray:
        """A (y, x) slice of the array as it is shown."""
        rows, columns = (_step(flip) for flip in self.flips)
        return plane[rows, columns]

    def upright(self, plane: np.ndarray, axis: int) -> np.ndarray:
        """A plane of the array across y (coronal) or x (sagittal), whose rows are slices: the head is at the top."""
        back, left = self.flips
        return plane[_step(not self.head_first), _step(left if axis == 1 else back)]

    def shown(self, plane: np.ndarray, axis: int) -> np.ndarray:
        """A plane of the array across z, y or x as it is shown."""
        return self.turned(plane) if axis == 0 else self.upright(plane, axis)


def axial_view(properties: Mapping) -> AxialView:
    """The view of a case from the properties that nnU-Net's reader returns with its array."""
    _, height, width = (float(mm) for mm in properties["spacing"])
    known = "sitk_stuff" in properties or "nibabel_stuff" in properties
    axes = _axes(properties)
    if axes is None or (np.abs(np.diag(axes)) < _NEARLY).any():
        return AxialView((False, False), (), width if known else None, height / width)
    flips = bool(axes[1, 1] < 0), bool(axes[0, 0] < 0)
    return AxialView(flips, ("R", "L"), width, height / width, bool(axes[2, 2] < 0))


def _step(reverse: bool) -> slice:
    return slice(None, None, -1 if reverse else None)


def directions(properties: Mapping) -> str:
    """Where z, y and x of the array lead, such as ``head, back, left``; the nearest of these if the axes are oblique.

    Args:
        properties: that nnU-Net's reader returns with the array.

    Returns:
        an empty text where the file does not tell.
    """
    axes = _axes(properties)
    if axes is None or not np.isfinite(axes).all():
        return ""
    ends = []
    for column in axes.T[::-1]:
        towards = int(np.abs(column).argmax())
        ends.append(_ENDS[towards][int(column[towards] < 0)])
    return ", ".join(ends)


def _axes(properties: Mapping) -> np.ndarray | None:
    """(3, 3) unit vectors towards left, back and head: column i is the direction of the file's axis i."""
    if "sitk_stuff" in properties:
        direction = np.asarray(properties["sitk_stuff"]["direction"], float)
        return direction.reshape(3, 3) if direction.size == 9 else None
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        axes = np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), float)[:3, :3]
        length = np.linalg.norm(axes, axis=0)
        return np.diag([-1.0, -1.0, 1.0]) @ (axes / length) if (length > 0).all() else None
    return None
