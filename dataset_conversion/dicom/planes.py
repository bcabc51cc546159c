"""Which slice of an image takes which plane of contours.

Heights are in slices: the centre of slice z lies at height z. A structure's planes usually lie on the slices. They may
lie between them, all by the same distance, if the structure was drawn on a reconstruction that is shifted or if a
planning system writes the edges of slices; rounding each plane by itself would then send two planes to one slice and
none to the next. They lie farther apart or closer together than the slices if the structure was drawn on another grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ON_SLICE = 0.05  # slices; a plane that is no farther off lies on the slice, and contours within it are in one plane
DENSE = 0.75  # planes that are closer together, in slices, belong to slabs thinner than a slice
DRIFT = 0.4  # slices; planes of another spacing drift by more against the slices from the first to the last
SAME_SLAB = 0.35  # slices; planes that are closer together may belong to the same slice
NEIGHBOURS = 1.55  # slices; planes that are closer together belong to slices without a slice between them
TIE = 1e-3  # slices; moves what lies exactly on the border of two slabs or slices to one side


@dataclass(frozen=True)
class Assignment:
    """The slices of a structure.

    Attributes:
        plane_of: slice → index of the plane that it takes.
        moved: index of a plane in the image → distance to the slice it goes to, in slices, positive towards the last.
        thickness: of each plane's slab, in slices, which gives the volume between the contours.
        pitch: usual distance of the planes, in slices, if their slabs were laid over the slices since it differs from
            the distance of the slices; None if each plane is taken by at most one slice.
        outside: indices of the planes above or below the image.
    """

    plane_of: dict[int, int]
    moved: dict[int, float]
    thickness: np.ndarray
    pitch: float | None
    outside: tuple[int, ...]


def usual_pitch(structures: Sequence[np.ndarray]) -> float | None:
    """The usual distance of the planes of several structures, in slices; None if none has two planes.

    Args:
        structures: for each, the heights of its planes, ascending.
    """
    gaps = np.concatenate([np.zeros(0), *(np.diff(heights) for heights in structures)])
    return float(np.median(gaps)) if len(gaps) else None


def lie_on_slices(structures: Sequence[np.ndarray]) -> bool:
    """Whether the planes of several structures lie on slices and no slice is regularly left out.

    Args:
        structures: for each, the heights of its planes, ascending.
    """
    pitch = usual_pitch(structures)
    heights = np.concatenate([np.zeros(0), *structures])
    return pitch is not None and pitch < 1 + ON_SLICE and bool(np.all(np.abs(heights - np.rint(heights)) <= ON_SLICE))


def assign(heights: np.ndarray, slices: int, pitch: float | None = None, told: float | None = None) -> Assignment:
    """Assigns the planes of a structure to the slices of an image.

    Args:
        heights: of the planes, ascending, at least one.
        slices: number of slices.
        pitch: distance of the planes if the structure was drawn on other slices than these. Between its planes no
            slice is left out then.
        told: shift that brings the planes to the slices that the file says they were drawn on, if it says so.
    """
    inside = np.flatnonzero((heights > -0.5 - ON_SLICE) & (heights < slices - 0.5 + ON_SLICE))
    outside = tuple(np.setdiff1d(np.arange(len(heights)), inside).tolist())
    if not len(inside):
        return Assignment({}, {}, np.zeros(len(heights)), None, outside)
    pitch = _own_pitch(heights) if pitch is None else None if abs(pitch - 1) <= ON_SLICE else pitch
    thickness = _slabs(heights, pitch or 1.0)
    plane_of: dict[int, int] = {}
    if pitch is None:
        shift = _common_shift(heights, inside, slices, told)
        nearest = _nearest(heights + shift)
        for i in np.argsort(np.abs(heights + shift - nearest), kind="stable").tolist():
            if 0 <= nearest[i] < slices:
                plane_of.setdefault(int(nearest[i]), i)
        outside = tuple(np.flatnonzero((nearest < 0) | (nearest >= slices)).tolist())
        moved = {i: float(nearest[i] - heights[i]) for i in range(len(heights)) if i not in outside}
        return Assignment(plane_of, moved, thickness.sum(axis=1), None, outside)
    for z in range(slices):
        i = int(np.abs(heights - z - TIE).argmin())
        if heights[i] - thickness[i, 0] <= z + TIE < heights[i] + thickness[i, 1]:
            plane_of[z] = i
    _keep_thin_slabs(heights, inside, plane_of, slices, pitch)
    moved = {}
    for z, i in plane_of.items():
        moved[i] = min(moved.get(i, np.inf), float(z - heights[i]), key=abs)
    return Assignment(plane_of, moved, thickness.sum(axis=1), pitch, outside)


def _nearest(heights: np.ndarray) -> np.ndarray:
    """The nearest slices; half-way always the lower one (``round`` takes the even one, so every other slice)."""
    return np.floor(heights + 0.5 - TIE).astype(int)


def _own_pitch(heights: np.ndarray) -> float | None:
    """The distance of the planes if it differs from that of the slices, as far as they tell; else None."""
    gaps = np.diff(heights)
    if len(gaps) < 2:
        return None
    pitch = float(np.median(gaps))
    if pitch < DENSE:
        return pitch
    if np.ptp(np.percentile(gaps, [10, 90])) > 0.1 * pitch:
        return None  # irregular: drawn by hand or with slices left out
    return pitch if abs(pitch - round(pitch)) * len(gaps) > DRIFT else None


def _slabs(heights: np.ndarray, pitch: float) -> np.ndarray:
    """How far the slab of each plane reaches below and above it (n, 2), in slices.

    Slabs meet half-way between planes; where the next plane is far away or missing, half the pitch belongs to a plane,
    but not more than on its other side.
    """
    gaps = np.diff(heights)
    half = np.where(gaps <= 1.5 * pitch, gaps / 2, pitch / 2)
    below, above = np.concatenate([[np.nan], half]), np.concatenate([half, [np.nan]])
    edge = np.full(len(heights), pitch / 2)
    below = np.where(np.isnan(below), np.fmin(above, edge), below)
    above = np.where(np.isnan(above), np.fmin(below, edge), above)
    return np.column_stack([below, above])


def _common_shift(heights: np.ndarray, inside: np.ndarray, slices: int, told: float | None) -> float:
    """The smallest shift that keeps planes in the image, sends no two to a slice, and leaves out no slice between them.

    If planes lie exactly half-way, both directions are as good: the file's references decide, else they go down.
    """
    gaps = np.diff(heights)
    preferred = told if told is not None and abs(told) <= 0.5 + ON_SLICE else 0.0

    def cost(shift: float) -> tuple:
        z = _nearest(heights + shift)
        lost = int(((z[inside] < 0) | (z[inside] >= slices)).sum())
        steps = np.diff(z)
        return (
            lost + int(((steps == 0) & (gaps >= SAME_SLAB)).sum()),
            int(((steps > 1) & (gaps < NEIGHBOURS)).sum()),
            round(abs(shift - preferred), 6),
            shift,
        )

    return float(min([preferred, *np.linspace(-0.5, 0.5, 101)], key=cost))


def _keep_thin_slabs(
    heights: np.ndarray, inside: np.ndarray, plane_of: dict[int, int], slices: int, pitch: float
) -> None:
    """Gives a slice to each run of planes whose slabs reach the centre of no slice, so that none vanishes."""
    for run in np.split(inside, np.flatnonzero(np.diff(heights[inside]) > 1.5 * pitch) + 1):
        if not set(run.tolist()) & set(plane_of.values()):
            nearest = np.clip(_nearest(heights[run]), 0, slices - 1)
            best = int(np.abs(heights[run] - nearest).argmin())
            plane_of.setdefault(int(nearest[best]), int(run[best]))
