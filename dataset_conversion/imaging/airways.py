"""Finds trachea and main bronchi in a chest CT, so that they can be excluded from a lung mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

THRESHOLDS = (-930, -880, -800, -700)  # HU; in 2 mm pixels, the lumen of an 8 mm bronchus hardly reaches -900
TISSUE = -400  # HU; higher values are soft tissue
WALL = 3.0  # mm; width of the ring around a spot in which its wall is looked for
WALLED = 0.75  # smallest share of that ring that must be tissue
AREA = (25.0, 1200.0)  # mm²; smallest (a 6 mm bronchus) and largest (the carina) area of a cross-section
TRACHEA = (50.0, 32.0)  # smallest area in mm² and largest width in mm of trachea and main bronchi


def find_airways(
    hu: np.ndarray, inside: np.ndarray, body: np.ndarray, spacing: tuple[float, float, float]
) -> np.ndarray:
    """Trachea and main bronchi, including their inner wall.

    In a slice, airways are dark spots surrounded by soft tissue, while dark spots of emphysema are surrounded by lung.
    Spots are searched for at several thresholds. They are kept if they are connected to a spot that can be the trachea
    or a main bronchus: compact, 8..32 mm wide, near the middle of the body. This is decided in single slices, so any
    part of a chest will do.

    Args:
        hu: (z, y, x) in HU.
        inside: (z, y, x) bool, air inside the body.
        body: (z, y, x) bool.
        spacing: mm along z, y, x.

    Returns:
        (z, y, x) bool.
    """
    likely, sure = np.zeros(hu.shape, bool), np.zeros(hu.shape, bool)
    for z in np.flatnonzero(inside.any((1, 2))):
        _spots(hu[z], inside[z], body[z], spacing[1:], likely[z], sure[z])
    components, _ = ndimage.label(likely, np.ones((3, 3, 3)))
    kept = np.isin(components, np.setdiff1d(components[sure], 0))
    cross = ndimage.generate_binary_structure(2, 1)[None]
    return ndimage.binary_dilation(kept, cross, iterations=max(1, round(WALL / 2 / spacing[1]))) & inside


def _spots(
    hu: np.ndarray,
    inside: np.ndarray,
    body: np.ndarray,
    spacing: tuple[float, float],
    likely: np.ndarray,
    sure: np.ndarray,
) -> None:
    """Marks the walled spots of a slice in ``likely``, and those that can be trachea or main bronchus in ``sure``."""
    tissue = hu > TISSUE
    near = ndimage.uniform_filter(tissue.astype(np.float32), round(12 / spacing[0]) | 1)
    area = spacing[0] * spacing[1]
    for threshold in THRESHOLDS:
        spots, number = ndimage.label((hu < threshold) & inside)
        if not number:
            continue
        indices = np.arange(1, number + 1)
        sizes = np.bincount(spots.ravel())[1:] * area
        candidates = (sizes > AREA[0]) & (sizes < AREA[1]) & (ndimage.mean(near, spots, indices) > 0.15)
        boxes = ndimage.find_objects(spots)
        for k in indices[candidates]:
            if _walled(spots, k, boxes[k - 1], tissue, spacing):
                spot = spots[boxes[k - 1]] == k
                likely[boxes[k - 1]] |= spot
                if _like_trachea(spot, boxes[k - 1], body, spacing):
                    sure[boxes[k - 1]] |= spot


def _walled(
    spots: np.ndarray, k: int, box: tuple[slice, slice], tissue: np.ndarray, spacing: tuple[float, float]
) -> bool:
    """Whether the ring around a spot, from 1 pixel to ``WALL`` away, is mostly tissue."""
    steps = max(1, round(WALL / spacing[0]))
    window = tuple(slice(max(0, side.start - steps - 1), side.stop + steps + 1) for side in box)
    spot = spots[window] == k
    inner = ndimage.binary_dilation(spot)
    ring = ndimage.binary_dilation(inner, iterations=steps) & ~inner
    return bool(ring.any()) and float(tissue[window][ring].mean()) > WALLED


def _like_trachea(spot: np.ndarray, box: tuple[slice, slice], body: np.ndarray, spacing: tuple[float, float]) -> bool:
    """Whether a spot has the size, the shape and the place of the trachea or a main bronchus."""
    height, width = (pixels * size for pixels, size in zip(spot.shape, spacing, strict=True))
    area = spot.sum() * spacing[0] * spacing[1]
    if area < TRACHEA[0] or max(height, width) > TRACHEA[1] or area < 0.5 * height * width:
        return False
    for axis, share in (
        (0, 0.35),
        (1, 0.2),
    ):  # the trachea lies near the middle; from front to back it may lie farther off
        in_body = np.flatnonzero(body.any(axis=1 - axis))
        if axis == 1 and (in_body[0] == 0 or in_body[-1] == body.shape[1] - 1):
            continue  # the edge of the image cuts the body, so the middle of the body is not known
        middle, allowed = (in_body[0] + in_body[-1]) / 2, share * (in_body[-1] - in_body[0])
        if abs((box[axis].start + box[axis].stop - 1) / 2 - middle) > allowed:
            return False
    return True
