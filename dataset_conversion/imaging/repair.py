"""Adds what a threshold misses to a lung mask: vessels, fissures, and consolidation along the chest wall."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.morphology import convex_hull_image

CLOSING = 10.0  # mm; radius that closes vessels, fissures and nodules up to 20 mm wide
ISLAND = 700.0  # mm² in a slice; as of a disc 30 mm wide
DENT = 150.0  # mm² in a slice; smaller gaps under the convex hull are imprints of ribs
SHALLOW = 0.75  # mean depth of a dent below the skin over that of the lung; above this it is heart or liver
MEDIAL = 0.5  # cosine; hull that faces the middle of the body by more than this closes the mediastinum
CUT = 0.15  # largest share of the body's outline that may lie on the edge of the image
BONE = 200.0  # HU; higher values are bone


def fill_holes(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """A lung (z, y, x) with what it encloses: in 3D, and in a slice if that is no larger than a vessel or nodule.

    The dome of the diaphragm is a larger island in a slice, but not in 3D.
    """
    filled = ndimage.binary_fill_holes(mask)
    for plane in filled:
        islands, _ = ndimage.label(ndimage.binary_fill_holes(plane) & ~plane)
        small = np.bincount(islands.ravel()) * spacing[1] * spacing[2] <= ISLAND
        small[0] = False
        plane |= small[islands]
    return filled


def closed(lung: np.ndarray, spacing: tuple[float, float, float], radius: float = CLOSING) -> np.ndarray:
    """Morphological closing with a ball, exact in anisotropic voxels and at the edges of the image.

    Args:
        lung: (z, y, x) bool, not empty; a single lung, since two would be joined across the mediastinum.
        spacing: mm along z, y, x.
        radius: of the ball, mm.
    """
    box = ndimage.find_objects(lung.astype(np.uint8))[0]
    margin = [(int(radius / size) + 1,) * 2 for size in spacing]
    padded = np.pad(lung[box], margin)
    swollen = ndimage.distance_transform_edt(~padded, spacing) <= radius
    result = lung.copy()
    shrunk = ndimage.distance_transform_edt(swollen, spacing) > radius
    result[box] |= shrunk[tuple(slice(a, n - a) for (a, _), n in zip(margin, padded.shape, strict=True))]
    return result


def costal_dents(lung: np.ndarray, body: np.ndarray, hu: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Soft tissue along the chest wall between a lung and its convex hull, slice by slice.

    Consolidation, tumour and effusion move the border of a thresholded lung away from the ribs; heart and liver do the
    same on their side. Depth below the skin tells the two apart: the outer layer of the lung is nearer to the skin
    than the mean of the lung, while heart, hilum and the dome of the liver are deeper. In front, the heart may lie just
    below the skin, but its side of the hull faces the middle of the body. Slices without skin around are left as they
    are.

    Args:
        lung: (z, y, x) bool, a single lung.
        body: (z, y, x) bool, including the lungs.
        hu: (z, y, x) in HU.
        spacing: mm along z, y, x.

    Returns:
        (z, y, x) bool, the voxels to add.
    """
    added = np.zeros_like(lung)
    columns = np.flatnonzero(body.any((0, 1)))
    middle = (columns[0] + columns[-1]) / 2
    area, disc = spacing[1] * spacing[2], ndimage.generate_binary_structure(2, 1)
    for z in np.flatnonzero(lung.any((1, 2))):
        box = ndimage.find_objects(lung[z].astype(np.uint8))[0]
        inside = lung[z][box]
        if min(inside.shape) < 4:
            continue
        hull = convex_hull_image(inside)
        gap = hull & ~inside & body[z][box] & (hu[z][box] < BONE)
        dents, _ = ndimage.label(ndimage.binary_opening(gap, disc, iterations=2))
        sizes = np.bincount(dents.ravel()) * area
        large_dents = np.flatnonzero(sizes[1:] > DENT) + 1
        if not len(large_dents):
            continue
        if not _skin_in_sight(body[z]):
            continue  # without skin around the body, depth cannot be measured
        depth = ndimage.distance_transform_edt(body[z], spacing[1:])[box]
        limit = SHALLOW * depth[inside].mean()
        for k in large_dents:
            dent = dents == k
            if depth[dent].mean() < limit and _faces_away(dent, inside, hull, box[1].start - middle):
                added[z][box] |= ndimage.binary_dilation(dent, disc, iterations=2, mask=gap)
    return added


def _skin_in_sight(body: np.ndarray) -> bool:
    """Whether the skin, and not the edge of the image, is the outline of the body in a slice (y, x)."""
    if body.all() or not body.any():
        return False
    rows, columns = np.flatnonzero(body.any(1)), np.flatnonzero(body.any(0))
    outline = 2 * (rows[-1] - rows[0] + 1 + columns[-1] - columns[0] + 1)
    return sum(int(edge.sum()) for edge in (body[0], body[-1], body[:, 0], body[:, -1])) <= CUT * outline


def _faces_away(dent: np.ndarray, lung: np.ndarray, hull: np.ndarray, offset: float) -> bool:
    """Whether the open side of a dent faces the chest wall and not the middle of the body.

    Args:
        dent: (y, x) bool, in the bounding box of the lung.
        lung: (y, x) bool.
        hull: (y, x) bool, the convex hull of the lung.
        offset: column of the box minus that of the middle of the body.
    """
    inner = np.argwhere(dent & ndimage.binary_dilation(lung, iterations=3))
    outer = np.argwhere(dent & ~ndimage.binary_erosion(hull, iterations=3))
    if not len(inner) or not len(outer):
        return True
    y, x = outer.mean(0) - inner.mean(0)
    side = np.nonzero(lung)[1].mean() + offset
    return -np.sign(side) * x / (np.hypot(y, x) or 1) < MEDIAL
