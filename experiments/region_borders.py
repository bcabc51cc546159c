"""How a painted region fits its surroundings, in one slice: steps, correlation and vessels across its border."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from nnunet_difflung.judging.seam import Border

_SMOOTH = 2.0  # pixels; what is brighter than its surroundings smoothed so much is a vessel
_RIDGE = 1.0  # by how many standard deviations of the host's normal lung


def moments_across(image: np.ndarray, border: Border) -> np.ndarray:
    """(3,) sums of products inside × outside, inside², outside², each side without its mean.

    Moments of several regions are added before ``correlation`` is taken; a step between the sides does not count.
    """
    if not len(border.inside):
        return np.zeros(3)
    inside, outside = (image[tuple(part.T)].astype(float) for part in (border.inside, border.outside))
    inside, outside = inside - inside.mean(), outside - outside.mean()
    return np.array([(inside * outside).sum(), (inside**2).sum(), (outside**2).sum()])


def correlation(moments: np.ndarray) -> float:
    """Correlation from ``moments_across`` or ``moments_at``; NaN without variance."""
    return float(moments[0] / np.sqrt(moments[1] * moments[2])) if moments[1] > 0 and moments[2] > 0 else np.nan


def vessels(image: np.ndarray, region: np.ndarray, outside: np.ndarray) -> tuple[int, int]:
    """How many bright pixels just outside a region there are, and how many of them go on inside.

    A pixel is bright if it exceeds its own side, smoothed over 2 pixels, by more than a standard deviation of what
    normal lung exceeds its smoothed self; so a step of the level between the sides makes nothing bright. It goes on if
    one of its eight neighbours in the region is bright.

    Args:
        image: (h, w).
        region: (h, w) bool.
        outside: (h, w) bool, normal lung around it.
    """
    outside = outside & ~region
    if not outside.any() or not region.any():
        return 0, 0
    detail = np.zeros(image.shape)
    for side in (region, outside):
        detail[side] = (image - _smoothed(image, side))[side]
    bright = detail > _RIDGE * max(float(detail[outside].std()), 1e-6)
    near = outside & ndimage.binary_dilation(region, np.ones((3, 3)))
    inside = ndimage.binary_dilation(bright & region, np.ones((3, 3)))
    reaching = bright & near
    return int(reaching.sum()), int((reaching & inside).sum())


def _smoothed(image: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Gaussian mean over the pixels of one side."""
    weight = ndimage.gaussian_filter(side.astype(float), _SMOOTH)
    return ndimage.gaussian_filter(np.where(side, image, 0.0), _SMOOTH) / np.maximum(weight, 1e-6)
