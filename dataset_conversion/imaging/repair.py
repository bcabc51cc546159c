"""Fills what a threshold leaves out of a lung: vessels, fissures, and consolidation along the chest wall."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.morphology import convex_hull_image

CLOSING = 10.0  # mm; vessels, fissures and nodules up to 20 mm wide
DENT = 150.0  # mm² in a slice; smaller gaps under the hull are ribs' imprints
SHALLOW = 0.75  # a dent's mean depth below the skin over that of the lung itself: chest wall, and no heart or liver
BONE = 200.0  # HU


def fill_slices(mask: np.ndarray) -> np.ndarray:
    """(z, y, x) bool with the holes of every axial slice filled."""
    return np.stack([ndimage.binary_fill_holes(plane) for plane in mask])


def closed(lung: np.ndarray, spacing: tuple[float, float, float], radius: float = CLOSING) -> np.ndarray:
    """Closing by a ball of ``radius`` mm, exact in anisotropic voxels and at the image's edges.

    Args:
        lung: (z, y, x) bool, not empty, one lung alone: two would be joined across the mediastinum.
        spacing: mm along z, y, x.
        radius: mm.
    """
    box = ndimage.find_objects(lung.astype(np.uint8))[0]
    room = [(int(radius / s) + 1,) * 2 for s in spacing]
    padded = np.pad(lung[box], room)
    swollen = ndimage.distance_transform_edt(~padded, spacing) <= radius
    result = lung.copy()
    shrunk = ndimage.distance_transform_edt(swollen, spacing) > radius
    result[box] |= shrunk[tuple(slice(a, n - a) for (a, _), n in zip(room, padded.shape, strict=True))]
    return result


def costal_dents(lung: np.ndarray, body: np.ndarray, hu: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Soft tissue between a lung and its convex hull, slice by slice, where it lies along the chest wall.

    Consolidation, tumour and effusion push the threshold's border away from the ribs, and so do heart and liver on
    their side. The ribs' side is told by depth: the lung's outer layer is nearer to the skin than the lung's mean,
    while heart, hilum and the dome of the liver are deeper.

    Args:
        lung: (z, y, x) bool, one lung.
        body: (z, y, x) bool, lungs included.
        hu: (z, y, x).
        spacing: mm along z, y, x.

    Returns:
        (z, y, x) bool: what to add.
    """
    added = np.zeros_like(lung)
    area, disc = spacing[1] * spacing[2], ndimage.generate_binary_structure(2, 1)
    for z in np.flatnonzero(lung.any((1, 2))):
        box = ndimage.find_objects(lung[z].astype(np.uint8))[0]
        inside = lung[z][box]
        if min(inside.shape) < 4:
            continue
        gap = convex_hull_image(inside) & ~inside & body[z][box] & (hu[z][box] < BONE)
        dents, _ = ndimage.label(ndimage.binary_opening(gap, disc, iterations=2))
        sizes = np.bincount(dents.ravel()) * area
        large = np.flatnonzero(sizes[1:] > DENT) + 1
        if not len(large):
            continue
        if body[z].all():
            continue  # the image shows no skin to measure from
        depth = ndimage.distance_transform_edt(body[z], spacing[1:])[box]
        limit = SHALLOW * depth[inside].mean()
        for k in large:
            dent = dents == k
            if depth[dent].mean() < limit:
                added[z][box] |= ndimage.binary_dilation(dent, disc, iterations=2, mask=gap)
    return added
