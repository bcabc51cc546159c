"""Trachea and main bronchi in a chest CT, so that a lung mask can leave them out."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

THRESHOLDS = (-930, -880, -800, -700)  # HU; in 2 mm pixels the lumen of a bronchus of 8 mm hardly reaches -900
TISSUE = -400  # HU
WALL = 3.0  # mm in which the wall ends and its surroundings are seen
WALLED = 0.75  # share of the surroundings that must be tissue
AREA = (25.0, 1200.0)  # mm² of a cross-section: a bronchus of 6 mm; the carina
TRACHEA = (50.0, 32.0)  # smallest area in mm², largest width in mm, of what counts as trachea or main bronchus


def find_airways(
    hu: np.ndarray, inside: np.ndarray, body: np.ndarray, spacing: tuple[float, float, float]
) -> np.ndarray:
    """Trachea and main bronchi, inner wall included.

    Slice by slice they are dark spots with soft tissue around, while dark spots of emphysema have lung around. Spots
    are sought at several thresholds. They count where they hang together with one that can be the trachea or a main
    bronchus: compact, 8..32 mm wide, near the middle of the body. One slice is enough for that, so that it works for
    any part of a chest and needs no lowest or uppermost slice.

    Args:
        hu: (z, y, x).
        inside: (z, y, x) bool, air within the body.
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
    """Marks one slice's walled spots in ``likely``, and in ``sure`` those that can be trachea or main bronchus."""
    tissue = hu > TISSUE
    near = ndimage.uniform_filter(tissue.astype(np.float32), round(12 / spacing[0]) | 1)
    area = spacing[0] * spacing[1]
    for threshold in THRESHOLDS:
        spots, number = ndimage.label((hu < threshold) & inside)
        if not number:
            continue
        everyone = np.arange(1, number + 1)
        sizes = np.bincount(spots.ravel())[1:] * area
        candidates = (sizes > AREA[0]) & (sizes < AREA[1]) & (ndimage.mean(near, spots, everyone) > 0.15)
        boxes = ndimage.find_objects(spots)
        for k in everyone[candidates]:
            if _walled(spots, k, boxes[k - 1], tissue, spacing):
                spot = spots[boxes[k - 1]] == k
                likely[boxes[k - 1]] |= spot
                if _like_trachea(spot, boxes[k - 1], body, spacing):
                    sure[boxes[k - 1]] |= spot


def _walled(
    spots: np.ndarray, k: int, box: tuple[slice, slice], tissue: np.ndarray, spacing: tuple[float, float]
) -> bool:
    """Whether a spot's surroundings, from 1 pixel to the wall's thickness away, are tissue."""
    steps = max(1, round(WALL / spacing[0]))
    room = tuple(slice(max(0, b.start - steps - 1), b.stop + steps + 1) for b in box)
    spot = spots[room] == k
    first = ndimage.binary_dilation(spot)
    around = ndimage.binary_dilation(first, iterations=steps) & ~first
    return bool(around.any()) and float(tissue[room][around].mean()) > WALLED


def _like_trachea(spot: np.ndarray, box: tuple[slice, slice], body: np.ndarray, spacing: tuple[float, float]) -> bool:
    height, width = (n * s for n, s in zip(spot.shape, spacing, strict=True))
    size = spot.sum() * spacing[0] * spacing[1]
    if size < TRACHEA[0] or max(height, width) > TRACHEA[1] or size < 0.5 * height * width:
        return False
    for axis, share in ((0, 0.35), (1, 0.2)):  # trachea lies near the middle from side to side, less so front to back
        there = np.flatnonzero(body.any(axis=1 - axis))
        if axis == 1 and (there[0] == 0 or there[-1] == body.shape[1] - 1):
            continue  # the image's edge cuts the body: its middle is not known
        middle, half = (there[0] + there[-1]) / 2, share * (there[-1] - there[0])
        if abs((box[axis].start + box[axis].stop - 1) / 2 - middle) > half:
            return False
    return True
