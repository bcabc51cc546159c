"""Chooses, of all positions at which a lesion fits, the one that is most like the place where it should lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.lesions.lung import Lung, LungSlice, Site, outline_of
from nnunet_difflung.lesions.placement import fitting

INSIDE = 0.9  # share of a lesion inside the lung that must be free
INSIDE_AT_PLEURA = 0.7  # the same of one that touches the pleura, which cuts it off
_STEP = 2.5  # mm between the positions along z that are tried
_AWAY = 12.0  # mm; this far from the wanted place, or a difference by one of the next three, costs 1
_DEPTH = 8.0  # mm
_CONTACT = 0.08  # share of the outline
_CUT = 0.15  # share of the voxels
_APART = 30.0  # cost of a lesion that should touch the pleura and does not, or the other way round
_BEST = 400  # positions whose depth is measured
_VOXELS = 12  # of a lesion, at which its depth is measured
FAR = 12.0  # largest cost at which a lesion is pasted


@dataclass(frozen=True)
class Found:
    """A position of a lesion in its host, (z, y, x) of its first voxel, and how unlike the wanted place it is."""

    place: tuple[int, int, int]
    cost: float


def most_alike(mask: np.ndarray, wanted: Site, lung: Lung, free: np.ndarray, slices: np.ndarray) -> Found | None:
    """The position of a lesion that is most like a place; None if it fits nowhere.

    Along z it is sought every few mm, as far away as the distance alone costs no more than ``FAR``.

    Args:
        mask: (z, y, x) bool lesion.
        wanted: where it should lie.
        lung: of the host.
        free: (z, y, x) bool, normal lung of the host.
        slices: (z,) bool, the slices that may be changed.
    """
    room = np.array(free.shape) - mask.shape
    if mask.size == 0 or not mask.any() or (room < 0).any():
        return None
    enough = (INSIDE_AT_PLEURA if wanted.contact else INSIDE) * mask.sum()
    middle = float(np.average(np.arange(len(mask)), weights=mask.sum((1, 2))))
    ideal = lung.z_at(wanted.height) - middle
    starts = [z for z in range(room[0] + 1) if slices[z : z + len(mask)].all()]
    best = None
    for z in _spread(starts, ideal, round(_STEP / lung.spacing[0])):
        along = ((z - ideal) * lung.spacing[0] / _AWAY) ** 2 if len(free) > 1 else 0.0
        if along > FAR or (best is not None and along >= best.cost):
            break
        found = _in_slices(mask, wanted, lung, free, z, z + round(middle), enough)
        if found is not None and (best is None or found.cost + along < best.cost):
            best = Found(found.place, found.cost + along)
    return best


def _spread(starts: Sequence[int], ideal: float, apart: int) -> Iterator[int]:
    """Positions along z, the one nearest to the ideal first, of which no two are less than so many slices apart."""
    tried: list[int] = []
    for z in sorted(starts, key=lambda z: abs(z - ideal)):
        if all(abs(z - other) >= apart for other in tried):
            tried.append(z)
            yield z


def _in_slices(
    mask: np.ndarray, wanted: Site, lung: Lung, free: np.ndarray, z: int, reference: int, enough: float
) -> Found | None:
    """The best position that begins in slice ``z``; ``reference`` is the slice of the lesion's middle."""
    here = lung.slice(reference)
    if not here.pieces:
        return None
    target = here.piece_of(wanted.side).pixel(wanted.front_back, wanted.outward)
    middle = np.array([part.mean() for part in np.nonzero(mask)[1:]])
    near = _near(target - middle, mask.shape, lung, free.shape)
    window = free[(slice(z, z + len(mask)), *near)]
    if np.count_nonzero(window) < enough:
        return None
    pleura = np.where(window, lung.pleura(z, len(mask), near), 0)
    places, overlap, edges = fitting(mask, window, enough, pleura if pleura.any() else None)
    if not len(places):
        return None
    places += [part.start for part in near]
    edges = np.zeros(len(places), int) if edges is None else edges
    cost = (((places + middle - target) * lung.spacing[1:] / _AWAY) ** 2).sum(1)
    cost += ((edges / outline_of(mask) - wanted.contact) / _CONTACT) ** 2 + ((1 - overlap / mask.sum()) / _CUT) ** 2
    cost += np.where((edges > 0) == (wanted.contact > 0), 0, _APART)
    best = np.argpartition(cost, _BEST)[:_BEST] if len(cost) > _BEST else np.arange(len(cost))
    deep = cost[best] + ((_depths(mask, places[best], here) - wanted.depth) / _DEPTH) ** 2
    index = int(best[np.argmin(deep)])
    return Found((z, int(places[index, 0]), int(places[index, 1])), float(deep.min()))


def _depths(mask: np.ndarray, places: np.ndarray, here: LungSlice) -> np.ndarray:
    """Mean depth in mm of a few voxels of a lesion at each of (n, 2) positions, in the slice of its middle."""
    _, y, x = np.nonzero(mask)
    some = np.unique(np.linspace(0, len(y) - 1, _VOXELS).round().astype(int))
    return here.depth_at(places[:, :1] + y[some], places[:, 1:] + x[some]).mean(1)


def _near(first: np.ndarray, shape: Sequence[int], lung: Lung, of_host: Sequence[int]) -> tuple[slice, slice]:
    """The window in which a lesion lies that is near enough to cost less than ``FAR``.

    Args:
        first: (y, x) of the first pixel of the lesion at the wanted place.
        shape: (z, y, x) of the lesion.
        lung: of the host.
        of_host: (z, y, x) shape of the host.
    """
    y, x = (
        slice(int(np.clip(start - reach, 0, max(0, size - n))), int(np.clip(start + reach + n + 1, min(n, size), size)))
        for start, reach, n, size in zip(
            first, _AWAY * FAR**0.5 / np.array(lung.spacing[1:]), shape[1:], of_host[1:], strict=True
        )
    )
    return y, x
