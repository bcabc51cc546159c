"""Finds the lung in a small cut-out of a chest CT, in which neither the body nor a whole lung is to be seen.

``lung_mask`` looks for two lungs in a body and needs a whole chest. In a cut-out of a few centimetres only the density
and the thickness of what is dense tell: lung is what is dark, and the vessels in it. Dense tissue that a disc of
``THICK`` fits into is chest wall, mediastinum, diaphragm, a hilum or consolidation, and stays outside. Beyond the edge
of the cut-out its border is continued, since a corner of the chest wall would otherwise look as thin as a vessel.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

TISSUE = -400.0  # HU half-way between lung (-850) and chest wall (50), as in ``lung_mask``
THICK = 7.0  # mm; dense tissue that is thicker than this is no vessel of the lung
RIM = 1.5  # mm around thick tissue, whose dense voxels belong to it as well
SMALLEST = 30.0  # mm² in a slice; smaller dark areas are bronchi in a hilum, gas or noise


def cutout_lungs(hu: np.ndarray, nodule: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The lung in a cut-out: dark tissue and the vessels in it, without the nodule.

    Args:
        hu: (z, y, x) in HU; every slice is judged by itself, since slices may be thicker than vessels.
        nodule: (z, y, x) bool, where nodules are drawn; they are neither lung nor wall.
        spacing: mm along z, y, x.

    Returns:
        (z, y, x) bool; nothing in a cut-out without lung.
    """
    mask = np.zeros(hu.shape, bool)
    for z, plane in enumerate(hu):
        dark = _large((plane < TISSUE) & ~nodule[z], spacing[1:])
        dense = ~dark & ~nodule[z]
        mask[z] = ~nodule[z] & ~_thick(dense, spacing[1:]) & _near(dark | nodule[z], dark, spacing[1:])
    return mask


def _large(dark: np.ndarray, pixel: tuple[float, ...]) -> np.ndarray:
    """The components of a (y, x) mask that are at least ``SMALLEST``."""
    components, number = ndimage.label(dark)
    areas = np.bincount(components.ravel(), minlength=number + 1) * float(np.prod(pixel))
    areas[0] = 0
    return (areas >= SMALLEST)[components]


def _thick(dense: np.ndarray, pixel: tuple[float, ...]) -> np.ndarray:
    """The part of a (y, x) mask that a disc of diameter ``THICK`` fits into, with the rest of its rim."""
    margin = [int(np.ceil(THICK / size)) for size in pixel]
    wide = np.pad(dense, [(n, n) for n in margin], mode="edge")
    core = _distance(wide, pixel) >= THICK / 2
    opened = wide & (_distance(~core, pixel) < THICK / 2 + RIM)
    return opened[tuple(slice(n, -n) for n in margin)]


def _near(inside: np.ndarray, dark: np.ndarray, pixel: tuple[float, ...]) -> np.ndarray:
    """Where a (y, x) mask closes over what is thinner than ``THICK`` and borders on dark tissue."""
    if not dark.any():
        return np.zeros_like(dark)
    return _distance(~inside, pixel) < THICK / 2


def _distance(mask: np.ndarray, pixel: tuple[float, ...]) -> np.ndarray:
    """Distance in mm from each pixel of a (y, x) mask to the nearest outside; infinite if there is none."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return ndimage.distance_transform_edt(mask, sampling=pixel)
