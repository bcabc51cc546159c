"""Whether a preprocessed array can have been made from an image: equal where nnU-Net did not resample, else alike.

A resampled array is compared with a linear interpolation of the image at the same positions, in small windows. nnU-Net
interpolates by cubic splines, so the two differ, but less than the image varies within the window; in a window that
shows something else they differ by more than that.
"""

from __future__ import annotations

import numpy as np

EQUAL = 1e-3  # share of the image's standard deviation by which equal values may differ (rounding on another machine)
WINDOW = 8  # rows and columns of a window
MOST = 1.6  # mean squared difference in a window, as a share of the variance there; 2 if the two are independent
NOISE = 0.05  # share of the whole image's variance that is added to a window's, so that flat windows do not count
ODD_VOXELS = 12  # labels of so many voxels may differ in a slice; more are a difference
_SURE = 0.75  # a linear interpolation that is so far from 0 (or 1) was not rounded to 1 (or 0)
_EMPTY = 1e-12


def image_differs(source: np.ndarray, array: np.ndarray) -> bool:
    """Whether an image does not show what the preprocessed image shows.

    Args:
        source: (c, z, y, x) normalised image, cropped as for preprocessing.
        array: (c, z', y', x') preprocessed image.
    """
    spread = float(source.std())
    if source.shape == array.shape:
        return not np.allclose(source, array, rtol=EQUAL, atol=EQUAL * spread)
    return any(
        float(_window_differences(one, other, NOISE * spread**2).max()) > MOST
        for one, other in zip(source, array, strict=True)
    )


def label_differs(source: np.ndarray, array: np.ndarray) -> bool:
    """Whether a label map does not show what the preprocessed label map shows.

    Args:
        source: (z, y, x) labels, cropped as for preprocessing.
        array: (z', y', x') preprocessed labels, without negative values.
    """
    if source.shape == array.shape:
        return not np.array_equal(source, array)
    return any(_odd_voxels(source == value, array == value) > ODD_VOXELS for value in np.union1d(source, array))


def _interpolated(volume: np.ndarray, shape: tuple[int, ...], nearest_slice: bool) -> np.ndarray:
    """A (z, y, x) volume at the positions of an array of ``shape``, float32; in z of the nearest slice, or linear."""
    for axis in (2, 1, 0):
        count, wanted = volume.shape[axis], shape[axis]
        if count == wanted:
            continue
        position = np.clip((np.arange(wanted) + 0.5) * count / wanted - 0.5, 0, count - 1)
        if axis == 0 and nearest_slice:
            volume = volume[np.rint(position).astype(int)]
            continue
        low = np.minimum(position.astype(int), max(count - 2, 0))
        weight = (position - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        below, above = volume.take(low, axis), volume.take(np.minimum(low + 1, count - 1), axis)
        volume = below + (above - below) * weight
    return volume


def _ways(source: np.ndarray, shape: tuple[int, ...]):
    """Interpolations of a volume; nnU-Net takes the nearest slice where slices lie far apart, else interpolates."""
    yield _interpolated(source, shape, False)
    if source.shape[0] != shape[0]:
        yield _interpolated(source, shape, True)


def _window_differences(source: np.ndarray, array: np.ndarray, noise: float) -> np.ndarray:
    """(z', windows) mean squared difference as a share of the mean variance of both, by the better interpolation."""
    best: np.ndarray | None = None
    of_array = _window_means(array), _window_means(array * array)
    for expected in _ways(source.astype(np.float32, copy=False), array.shape):
        difference = array - expected
        mean, square = _window_means(expected), _window_means(expected * expected)
        variance = (square - mean**2 + of_array[1] - of_array[0] ** 2) / 2
        share = _window_means(difference * difference) / np.maximum(variance + noise, _EMPTY)
        best = share if best is None else np.minimum(best, share)
    assert best is not None
    return best


def _window_means(volume: np.ndarray) -> np.ndarray:
    """(z, rows, columns) means of the windows of each slice; the last row and column of windows take the rest."""
    starts = [np.arange(max(1, size // WINDOW)) * WINDOW for size in volume.shape[1:]]
    sums = np.add.reduceat(np.add.reduceat(volume, starts[1], axis=2), starts[0], axis=1)
    rows, columns = (np.diff([*start, size]) for start, size in zip(starts, volume.shape[1:], strict=True))
    return sums / (rows[:, None] * columns[None, :])


def _odd_voxels(source: np.ndarray, array: np.ndarray) -> int:
    """The most voxels of a slice that cannot be explained by interpolating a class."""
    counts = [
        np.count_nonzero(np.abs(expected - array) > _SURE, axis=(1, 2))
        for expected in _ways(source.astype(np.float32), array.shape)
    ]
    return int(np.min(counts, axis=0).max())
