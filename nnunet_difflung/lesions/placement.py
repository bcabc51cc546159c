"""Where a lesion fits into normal lung: every such place, from integral images, and one of them at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def find_place(
    mask: np.ndarray, free: np.ndarray, rng: np.random.Generator, inside: float = 0.9, tries: int = 4
) -> tuple[int, int, int] | None:
    """A random position at which a mask lies in free voxels.

    For a drawn z position the overlap at *every* y and x is counted, so for a slice None means that there is no such
    place; for volumes ``tries`` positions along z are looked at.

    Args:
        mask: (z, y, x) bool lesion.
        free: (z, y, x) bool, the host's normal lung.
        rng: source of the choice.
        inside: least share of the lesion's voxels that must be free; the rest is cut off when pasting.
        tries: positions along z.

    Returns:
        (z, y, x) of the mask's first voxel in the host, or None.
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
    """(n, 2) all (y, x) at which at least ``enough`` voxels of ``mask`` are free, in reading order.

    The overlap is an exact count from integral images: with the free voxels summed along each row, a run of the mask
    costs one subtraction for all positions together. Positions that cannot hold enough are left out first.
    """
    rows, columns = (_window(mask.sum((0, axis)), np.asarray(free.any((0, axis))), enough) for axis in (2, 1))
    free = free[:, rows, columns]
    if free.shape[1] < mask.shape[1] or free.shape[2] < mask.shape[2]:
        return np.zeros((0, 2), int)
    counter = np.int16 if mask.sum() < 2**15 else np.int32  # a wrap-around on the way cancels out
    sums = np.zeros((*free.shape[:2], free.shape[2] + 1), counter)
    np.cumsum(free, axis=2, dtype=counter, out=sums[:, :, 1:])
    y, x = _possible(sums.sum(0, dtype=np.int32), mask.shape[1:], enough)
    overlap = np.zeros((y.stop - y.start, x.stop - x.start), counter)
    edges = np.diff(mask, axis=2, prepend=False, append=False)
    for (z, row, first), (_, _, last) in np.argwhere(edges).reshape(-1, 2, 3).tolist():
        line = sums[z, y.start + row : y.stop + row]
        overlap += line[:, x.start + last : x.stop + last]
        overlap -= line[:, x.start + first : x.stop + first]
    return np.argwhere(overlap >= enough) + (rows.start + y.start, columns.start + x.start)


def _window(counts: np.ndarray, holds_free: np.ndarray, enough: float) -> slice:
    """Along one axis, the part of a host that a mask can cover.

    Args:
        counts: (n,) voxels of the mask at each position of the axis.
        holds_free: (m,) bool, whether the host has free voxels there.
        enough: voxels of the mask that must be free; the others may lie beyond the first and last free ones.
    """
    free = np.flatnonzero(holds_free)
    spare = counts.sum() - enough
    before, after = (int((np.cumsum(side) <= spare).sum()) for side in (counts, counts[::-1]))
    return slice(max(0, int(free[0]) - before), min(len(holds_free), int(free[-1]) + 1 + after))


def _possible(sums: np.ndarray, box: Sequence[int], enough: float) -> tuple[slice, slice]:
    """Ranges of (y, x) outside of which a box holds fewer than ``enough`` free voxels.

    Args:
        sums: (y, x + 1) free voxels of each row before x.
        box: (y, x) size.
        enough: voxels.
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
