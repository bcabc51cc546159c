"""How a slice of nnU-Net's arrays has to be turned to be seen as radiologists see it: from the feet, right is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_NEARLY = 0.7  # cosine of 45 degrees: a more oblique axis has no side


@dataclass(frozen=True)
class AxialView:
    """How the slices of a case are shown.

    Attributes:
        flips: whether rows and columns are reversed.
        sides: letters at the left and the right edge; empty where the file does not tell.
        millimetres: width of a pixel in mm; None where the format has no spacing.
        aspect: height of a pixel divided by its width.
    """

    flips: tuple[bool, bool]
    sides: tuple[str, str] | tuple[()]
    millimetres: float | None
    aspect: float

    def turned(self, plane: np.ndarray) -> np.ndarray:
        """A (y, x) slice of the array as it is shown."""
        rows, columns = (slice(None, None, -1 if flip else None) for flip in self.flips)
        return plane[rows, columns]


def axial_view(properties: Mapping) -> AxialView:
    """The view of a case from the properties that nnU-Net's reader returns with its array."""
    _, height, width = (float(mm) for mm in properties["spacing"])
    known = "sitk_stuff" in properties or "nibabel_stuff" in properties
    axes = _axes(properties)
    if axes is None or (np.abs(np.diag(axes)) < _NEARLY).any():
        return AxialView((False, False), (), width if known else None, height / width)
    flips = bool(axes[1, 1] < 0), bool(axes[0, 0] < 0)
    return AxialView(flips, ("R", "L"), width, height / width)


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
