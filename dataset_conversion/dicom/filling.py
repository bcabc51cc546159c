"""Fills the contours of a plane.

Holes are drawn as keyholes (the outline runs into the hole and back) or as contours inside contours, so a point is
inside if an odd number of a plane's contours encloses it. Contours that only overlap are parts of one area.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from skimage.draw import polygon

from nnunet_difflung.dataset_conversion.dicom.rtstruct import Contour

POINTS = 7  # sampling points per pixel and axis; odd, so that one of them is the centre of the pixel
NESTED = 0.02  # share of a contour that may lie outside of the one that it is nested in, or inside of one beside it
HOLE = 0.8  # a contour that lies inside a much larger one by this share is a hole that was drawn across the edge


@dataclass(frozen=True)
class Drawn:
    """A contour on the grid of an image.

    Attributes:
        height: of its plane, in slices.
        outline: (n, 2) points in pixels along y, x.
        contour: as it was read.
    """

    height: float
    outline: np.ndarray
    contour: Contour


@dataclass(frozen=True)
class _Patch:
    """The inside of a contour.

    Attributes:
        drawn: the contour.
        low, high: corners of the pixels (y, x) that it can cover, ``high`` not included.
        points: sampling points of these pixels, True inside.
    """

    drawn: Drawn
    low: np.ndarray
    high: np.ndarray
    points: np.ndarray

    def window(self, low: np.ndarray, high: np.ndarray, origin: np.ndarray | None = None) -> tuple[slice, ...]:
        """The sampling points of a region of pixels in an array that starts at ``origin``, by default of the patch."""
        start = self.low if origin is None else origin
        return tuple(slice(int(a - o) * POINTS, int(b - o) * POINTS) for a, b, o in zip(low, high, start, strict=True))

    def common(self, patches: list[_Patch]) -> int:
        """Number of its points that are inside of any of other patches, too."""
        covered = np.zeros_like(self.points)
        for patch in patches:
            low, high = np.maximum(self.low, patch.low), np.minimum(self.high, patch.high)
            if (low < high).all():
                covered[self.window(low, high)] |= patch.points[patch.window(low, high)]
        return int((covered & self.points).sum())


def _patch(drawn: Drawn, shape: tuple[int, ...]) -> _Patch | None:
    """The inside of a contour; None if it lies beside the image."""
    low = np.maximum(np.floor(drawn.outline.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(drawn.outline.max(axis=0)).astype(int) + 1, shape)
    if (low >= high).any():
        return None
    fine = (drawn.outline - low + 0.5) * POINTS - 0.5
    points = np.zeros((high - low) * POINTS, bool)
    points[polygon(fine[:, 0], fine[:, 1], points.shape)] = True
    return _Patch(drawn, low, high, points)


def filled(plane: list[Drawn], shape: tuple[int, ...], counts: Counter[str]) -> tuple[np.ndarray, float]:
    """The pixels of a plane.

    A pixel is set if at least half of its area, sampled at 7 x 7 points, is inside the contours. Contours that cover
    half of no pixel are kept as well: they set the pixels of which they cover at least half as much as of their
    best-covered pixel, or, if they contain no sampling point, the pixel at their centre.

    Args:
        plane: its contours.
        shape: number of pixels of the image along y, x.
        counts: of odd contours, which are added to.

    Returns:
        (y, x) uint8 of 0 and 1, and the area inside the contours and the image in pixels.
    """
    mask = np.zeros(shape, np.uint8)
    patches = [patch for patch in (_patch(d, shape) for d in plane) if patch is not None]
    if not patches:
        return mask, 0.0
    low = np.min([patch.low for patch in patches], axis=0)
    high = np.max([patch.high for patch in patches], axis=0)
    inside = np.zeros((high - low) * POINTS, bool)
    for group in _groups(patches, counts):
        area = np.zeros_like(inside)
        for patch in group:
            area[patch.window(patch.low, patch.high, low)] |= patch.points
        inside ^= area

    def share(points: np.ndarray) -> np.ndarray:
        y, x = points.shape
        return points.reshape(y // POINTS, POINTS, x // POINTS, POINTS).mean(axis=(1, 3))

    area = share(inside)
    mask[low[0] : high[0], low[1] : high[1]] = area >= 0.5
    for patch in patches:  # no contour may vanish
        window = mask[patch.low[0] : patch.high[0], patch.low[1] : patch.high[1]]
        covered = share(patch.points & inside[patch.window(patch.low, patch.high, low)])
        if not patch.points.any():
            y, x = np.round(patch.drawn.outline.mean(axis=0)).astype(int)
            if 0 <= y < shape[0] and 0 <= x < shape[1]:
                mask[y, x] = 1
        elif covered.max() > 0 and not window[covered > 0].any():
            window |= covered >= covered.max() / 2
    return mask, float(area.sum())


def _groups(patches: list[_Patch], counts: Counter[str]) -> list[list[_Patch]]:
    """The contours of a plane in groups that are one area each; a point in an odd number of areas is inside.

    Contours that overlap without one being inside the other are one area, and so is what was drawn twice, unless the
    file says that contours cancel out where they overlap.
    """
    groups: list[list[_Patch]] = []
    for patch in sorted(patches, key=lambda patch: -int(patch.points.sum())):
        area = int(patch.points.sum())
        for group in groups if area and not patch.drawn.contour.xor else ():
            common = patch.common(group)
            if not common or group[0].drawn.contour.xor:
                continue
            within, alike = common / area, common / max(int(p.points.sum()) for p in group)
            same = min(within, alike) > 1 - NESTED
            hole = within >= 1 - NESTED or (within >= HOLE and alike < HOLE)
            if same or (within > NESTED and not hole):
                counts["repeated in the file, used once" if same else "overlapping, merged to one area"] += 1
                group.append(patch)
                break
        else:
            groups.append([patch])
    return groups
