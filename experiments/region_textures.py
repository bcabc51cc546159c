"""Texture of a painted region, in one slice: sums that are added over lesions before a figure is taken."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

LAGS = (1, 2, 4)  # pixels
_EDGE = 11  # pixels; the smallest image that the SSIM's window fits into


def moments_at(image: np.ndarray, mask: np.ndarray, lag: int) -> np.ndarray:
    """(3,) sums of x·y, x² and y² over pairs of the mask's pixels ``lag`` apart along rows and columns.

    The mean over the mask is subtracted first; ``region_borders.correlation`` takes the autocorrelation.

    Args:
        image: (h, w).
        mask: (h, w) bool.
        lag: distance in pixels.
    """
    if not mask.any():
        return np.zeros(3)
    centred, sums = image.astype(float) - image[mask].mean(dtype=float), np.zeros(3)
    for axis in (0, 1):
        first, second = (np.take(centred, part, axis) for part in _apart(mask.shape[axis], lag))
        both = np.logical_and(*(np.take(mask, part, axis) for part in _apart(mask.shape[axis], lag)))
        x, y = first[both], second[both]
        sums += (x * y).sum(), (x**2).sum(), (y**2).sum()
    return sums


def _apart(length: int, lag: int) -> tuple[range, range]:
    return range(max(0, length - lag)), range(min(lag, length), length)


def deviations(image: np.ndarray, mask: np.ndarray) -> float:
    """Sum of squared deviations from the mean over a mask."""
    return float(((image[mask] - image[mask].mean(dtype=float)) ** 2).sum()) if mask.any() else 0.0


def similarity(painted: np.ndarray, real: np.ndarray, mask: np.ndarray, width: float) -> np.ndarray:
    """(n,) structural similarity at the pixels of a mask (Gaussian window 11/1.5).

    Args:
        painted: (h, w).
        real: (h, w).
        mask: (h, w) bool.
        width: width of the window of intensities.
    """
    room = [(0, max(0, _EDGE - n)) for n in painted.shape]
    pair = [np.pad(image.astype(float), room, mode="symmetric") for image in (painted, real)]
    _, full = structural_similarity(
        *pair, data_range=width, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    return full[: mask.shape[0], : mask.shape[1]][mask]
