"""The level of the normal lung around a lesion, which the lesion's own level follows (``preparing.styles``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.lesions.masks import Lesion

_NEAR, _FAR = 2.0, 12.0  # mm from a lesion's outline; nearer lung is mixed with the lesion, or painted along with it
_FEWEST_VOXELS = 30


def lung_around(
    image: np.ndarray, normal: np.ndarray, outline: np.ndarray, spacing: Sequence[float]
) -> np.ndarray | None:
    """Level of the normal lung around a lesion: the median from 2 to 12 mm from its outline, measured in its slices.

    Args:
        image: (c, n, y, x) intensities.
        normal: (n, y, x) bool, normal lung.
        outline: (n, y, x) bool; slices without any are not looked at.
        spacing: (z, y, x) in mm.

    Returns:
        (c,) float, or None if there are fewer than 30 such voxels.
    """
    rings = [_ring(image[:, n], normal[n], part, spacing[1:]) for n, part in enumerate(outline) if part.any()]
    values = np.concatenate(rings, axis=1) if rings else np.zeros((len(image), 0))
    return np.median(values, axis=1) if values.shape[1] >= _FEWEST_VOXELS else None


def _ring(image: np.ndarray, normal: np.ndarray, outline: np.ndarray, pixel: Sequence[float]) -> np.ndarray:
    """(c, m) intensities of the normal lung around an outline in a slice; ``pixel`` is (y, x) in mm."""
    window = tuple(
        slice(max(0, int(p.min() - _FAR / size) - 1), int(p.max() + _FAR / size) + 2)
        for p, size in zip(np.nonzero(outline), pixel, strict=True)
    )
    distance = ndimage.distance_transform_edt(~outline[window], sampling=pixel)
    ring = normal[window] & (distance > _NEAR) & (distance <= _FAR)
    return np.asarray(image[(slice(None), *window)])[:, ring]


def lung_around_lesion(cache: SliceCache, lesion: Lesion) -> np.ndarray | None:
    """``lung_around`` of a real lesion."""
    z = lesion.box[0]
    image = cache.image(lesion.case)[:, z]
    outline = np.zeros(image.shape[1:], bool)
    outline[(slice(None), *lesion.box[1:])] = lesion.mask
    return lung_around(image, cache.roles.is_normal(cache.condition(lesion.case)[z]), outline, lesion.spacing)
