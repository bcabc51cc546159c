"""Whether a preprocessed array can have been made from an image: equal where nnU-Net did not resample, else alike.

A resampled array is compared with an interpolation of the image at the same positions, in small windows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache

import numpy as np

EQUAL = 1e-3  # share of the image's standard deviation by which equal values may differ (rounding on another machine)
WINDOW = 8  # rows and columns of a window
MOST = 0.2  # mean squared difference in a window, as a share of the variance there; 2 if the two are independent
NOISE = 0.001  # share of the whole image's variance that is added to a window's, so that flat windows do not count
ODD_VOXELS = 12  # labels of so many voxels may differ in a slice; more are a difference
CUBIC, LINEAR = 3, 1
_SURE = 0.75  # a linear interpolation that is so far from 0 (or 1) was not rounded to 1 (or 0)
_EMPTY = 1e-12


def image_differs(
    source: np.ndarray, array: np.ndarray, coarse: Collection[int] = (), orders: Collection[int] = (CUBIC,)
) -> bool:
    """Whether an image does not show what the preprocessed image shows.

    Args:
        source: (c, z, y, x) normalised image, cropped as for preprocessing.
        array: (c, z', y', x') preprocessed image.
        coarse: axes of (z, y, x) along which nnU-Net may take the nearest slice instead of interpolating.
        orders: orders of the splines by which it may have been resampled.
    """
    spread = float(source.std())
    if source.shape == array.shape:
        return not np.allclose(source, array, rtol=EQUAL, atol=EQUAL * spread)
    return any(
        bool((_differences(one, other, coarse, orders, NOISE * spread**2) > MOST).any())
        for one, other in zip(source, array, strict=True)
    )


def label_differs(source: np.ndarray, array: np.ndarray, coarse: Collection[int] = ()) -> bool:
    """Whether a label map does not show what the preprocessed label map shows.

    Args:
        source: (z, y, x) labels, cropped as for preprocessing.
        array: (z', y', x') preprocessed labels, without negative values.
        coarse: as for ``image_differs``.
    """
    if source.shape == array.shape:
        return not np.array_equal(source, array)
    values = np.union1d(source, array)[1:]  # the background is where the others are not
    return any(_odd_voxels(source == value, array == value, coarse) > ODD_VOXELS for value in values)


@lru_cache(maxsize=64)
def _weights(count: int, wanted: int, order: int) -> np.ndarray:
    """(wanted, count) weights that resample an axis as skimage does, on which nnU-Net's resampling is built."""
    identity = np.eye(count)
    from scipy import ndimage  # late: the audit of a dataset that is not preprocessed does without it

    return ndimage.zoom(identity, (wanted / count, 1), order=order, mode="nearest", grid_mode=True).astype(np.float32)


def _interpolated(volume: np.ndarray, shape: tuple[int, ...], nearest: int | None, order: int) -> np.ndarray:
    """A (z, y, x) volume at the positions of an array of ``shape``; along the axis ``nearest`` of the nearest slice."""
    limits = volume.min(), volume.max()
    for axis, (count, wanted) in enumerate(zip(volume.shape, shape, strict=True)):
        if axis == nearest:
            position = count / wanted * (np.arange(wanted) + 0.5) - 0.5  # in nnU-Net's order: halves are frequent
            volume = volume.take(np.clip(np.floor(position + 0.5).astype(int), 0, count - 1), axis)
        elif count != wanted:
            volume = np.moveaxis(np.tensordot(_weights(count, wanted, order), volume, (1, axis)), 0, axis)
    return np.clip(volume, *limits)


def _ways(
    source: np.ndarray, shape: tuple[int, ...], coarse: Collection[int], orders: Collection[int]
) -> Iterator[np.ndarray]:
    """The results that nnU-Net's resampling may have had."""
    for order in orders:
        for axis in (None, *(axis for axis in coarse if source.shape[axis] != shape[axis])):
            yield _interpolated(source.astype(np.float32, copy=False), shape, axis, order)


def _differences(
    source: np.ndarray, array: np.ndarray, coarse: Collection[int], orders: Collection[int], noise: float
) -> np.ndarray:
    """(z', rows, columns) differences in the windows of a channel, by the interpolation that is closest there."""
    own_variance = _window_means(array * array) - _window_means(array) ** 2
    shares = []
    for expected in _ways(source, array.shape, coarse, orders):
        gap = array - expected
        variance = _window_means(expected * expected) - _window_means(expected) ** 2
        mean_variance = np.maximum((variance + own_variance) / 2, 0)
        shares.append(_window_means(gap * gap) / np.maximum(mean_variance + noise, _EMPTY))
    return np.min(shares, axis=0)


def _window_means(volume: np.ndarray) -> np.ndarray:
    """(z, rows, columns) means of the windows of each slice; the last row and column of windows take the rest."""
    starts = [np.arange(max(1, size // WINDOW)) * WINDOW for size in volume.shape[1:]]
    sums = np.add.reduceat(np.add.reduceat(volume, starts[1], axis=2), starts[0], axis=1)
    rows, columns = (np.diff([*start, size]) for start, size in zip(starts, volume.shape[1:], strict=True))
    return sums / (rows[:, None] * columns[None, :])


def _odd_voxels(source: np.ndarray, array: np.ndarray, coarse: Collection[int]) -> int:
    """The most voxels of a slice that cannot be explained by interpolating a class."""
    counts = [
        np.count_nonzero(np.abs(expected - array) > _SURE, axis=(1, 2))
        for expected in _ways(source, array.shape, coarse, (LINEAR,))
    ]
    return int(np.min(counts, axis=0).max())
