"""Finds all positions at which a lesion fits into normal lung, with integral images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def find_place(
    mask: np.ndarray, free: np.ndarray, rng: np.random.Generator, inside: float = 0.9, tries: int = 4
) -> tuple[int, int, int] | None:
    """A random position at which a mask fits into free voxels.

    For a drawn z, the overlap is counted at *every* y and x. For a slice, None therefore means that the mask fits
    nowhere; in a volume, up to ``tries`` positions along z are tried.

    Args:
        mask: (z, y, x) bool lesion.
        free: (z, y, x) bool, normal lung of the host.
        rng: draws the position.
        inside: smallest share of the voxels of the lesion that must be free; the others are cut off when pasting.
        tries: number of positions along z to try.

    Returns:
        (z, y, x) of the first voxel of the mask in the host, or None.
    """
    room = np.array(free.shape) - mask.shape
    if mask.size == 0 or (room < 0).any():
        return None
    enough = inside * mask.sum()
    below = np.concatenate([[0], np.cumsum(np.count_nonzero(free, axis=(1, 2)))])
    starts = np.flatnonzero(below[len(mask) :] - below[: room[0] + 1] >= enough)
    for z in rng.permutation(starts)[:tries].astype(int):
        fitting = _fitting(mask, free[z : z + len(mask)], enough)
        if len(fitting):
            y, x = fitting[rng.integers(len(fitting))]
            return int(z), int(y), int(x)
    return None


def _fitting(mask: np.ndarray, free: np.ndarray, enough: float) -> np.ndarray:
    """All (y, x), as (n, 2) in reading order, at which at least ``enough`` voxels of ``mask`` are free."""
    return fitting(mask, free, enough)[0]


def fitting(
    mask: np.ndarray, free: np.ndarray, enough: float, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Every position at which enough voxels of a mask are free.

    The overlap is counted exactly: with cumulative sums of the free voxels along each row, a run of voxels in the mask
    costs one subtraction for all positions together. Positions that cannot have enough free voxels are excluded first.

    Args:
        mask: (z, y, x) bool lesion.
        free: (z, y, x) bool, as many slices.
        enough: number of voxels that must be free.
        weights: (z, y, x) whole numbers that are summed over the voxels of the mask as the free ones are.

    Returns:
        (y, x) of the mask's first voxel, as (n, 2) in reading order; the number of its free voxels there, (n,); and the
        sum of ``weights`` there, (n,), or None without weights.
    """
    rows, columns = (_window(mask.sum((0, axis)), np.asarray(free.any((0, axis))), enough) for axis in (2, 1))
    free = free[:, rows, columns]
    if free.shape[1] < mask.shape[1] or free.shape[2] < mask.shape[2]:
        return np.zeros((0, 2), int), np.zeros(0, int), None if weights is None else np.zeros(0, int)
    sums = _along_rows(free, mask)
    y, x = _possible(sums.sum(0, dtype=np.int32), mask.shape[1:], enough)
    runs = np.argwhere(np.diff(mask, axis=2, prepend=False, append=False)).reshape(-1, 2, 3).tolist()
    overlap = _summed(sums, runs, y, x)
    places = np.argwhere(overlap >= enough)
    at, summed = tuple(places.T), None
    if weights is not None:
        summed = _summed(_along_rows(weights[:, rows, columns], mask, 4), runs, y, x)[at]
    return places + (rows.start + y.start, columns.start + x.start), overlap[at], summed


def _along_rows(values: np.ndarray, mask: np.ndarray, largest: int = 1) -> np.ndarray:
    """(z, y, x + 1) sums of the values, each at most ``largest``, in each row before x."""
    counter = np.int16 if largest * mask.sum() < 2**15 else np.int32  # intermediate overflows cancel out
    sums = np.zeros((*values.shape[:2], values.shape[2] + 1), counter)
    np.cumsum(values, axis=2, dtype=counter, out=sums[:, :, 1:])
    return sums


def _summed(sums: np.ndarray, runs: list, y: slice, x: slice) -> np.ndarray:
    """(y, x) sums over the runs of a mask at the positions in two ranges; see ``_along_rows``."""
    total = np.zeros((y.stop - y.start, x.stop - x.start), sums.dtype)
    for (z, row, first), (_, _, last) in runs:
        line = sums[z, y.start + row : y.stop + row]
        total += line[:, x.start + last : x.stop + last]
        total -= line[:, x.start + first : x.stop + first]
    return total


def _window(counts: np.ndarray, holds_free: np.ndarray, enough: float) -> slice:
    """The part of a host, along one axis, that a mask can cover.

    Args:
        counts: (n,) voxels of the mask at each position along the axis.
        holds_free: (m,) bool, whether the host has free voxels at each position along the axis.
        enough: number of voxels of the mask that must be free; the others may lie outside the free voxels.
    """
    free = np.flatnonzero(holds_free)
    spare = counts.sum() - enough
    before, after = (int((np.cumsum(side) <= spare).sum()) for side in (counts, counts[::-1]))
    return slice(max(0, int(free[0]) - before), min(len(holds_free), int(free[-1]) + 1 + after))


def _possible(sums: np.ndarray, box: Sequence[int], enough: float) -> tuple[slice, slice]:
    """Ranges of y and of x outside which a box contains fewer than ``enough`` free voxels.

    Args:
        sums: (y, x + 1) number of free voxels in each row before x.
        box: (y, x) size of the box.
        enough: number of free voxels.
    """
    inside = sums[:, box[1] :] - sums[:, : -box[1]]
    integral = np.zeros((len(inside) + 1, inside.shape[1]), np.int32)
    np.cumsum(inside, axis=0, out=integral[1:])
    possible = integral[box[0] :] - integral[: -box[0]] >= enough
    rows, columns = (np.flatnonzero(possible.any(axis)) for axis in (1, 0))
    return _range(rows), _range(columns)


def _range(positions: np.ndarray) -> slice:
    """From the first to the last of sorted positions; empty if there are none."""
    return slice(int(positions[0]), int(positions[-1]) + 1) if len(positions) else slice(0, 0)
