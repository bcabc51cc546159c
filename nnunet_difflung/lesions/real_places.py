"""Chooses, of all positions at which a lesion fits, the one that is most like the place where it should lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_difflung.lesions.lung import Lung, LungSlice, Piece, Site, outline_of
from nnunet_difflung.lesions.placement import fitting

INSIDE = 0.9  # share of a lesion inside the lung that must be free
INSIDE_AT_PLEURA = 0.7  # the same of one that touches the pleura, which cuts it off
_TRIES = 4  # positions along z
_AWAY = 12.0  # mm; this far from the wanted place, or a difference by one of the next three, costs 1
_DEPTH = 8.0  # mm
_CONTACT = 0.08  # share of the outline
_CUT = 0.15  # share of the voxels
_APART = 30.0  # cost of a lesion that should touch the pleura and does not, or the other way round
_BEST = 400  # positions whose depth is measured
_VOXELS = 12  # of a lesion, at which its depth is measured
FAR = 16.0  # largest cost at which a lesion is pasted


@dataclass(frozen=True)
class Found:
    """A position of a lesion in its host, (z, y, x) of its first voxel, and how unlike the wanted place it is."""

    place: tuple[int, int, int]
    cost: float


def most_alike(mask: np.ndarray, wanted: Site, lung: Lung, free: np.ndarray, slices: np.ndarray) -> Found | None:
    """The position of a lesion that is most like a place; None if it fits nowhere.

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
    for z in sorted(starts, key=lambda z: abs(z - ideal))[:_TRIES]:
        along = ((z - ideal) * lung.spacing[0] / _AWAY) ** 2 if len(free) > 1 else 0.0
        if best is not None and along >= best.cost:
            break
        found = _in_slices(mask, wanted, lung, free, z, z + round(middle), enough)
        if found is not None and (best is None or found.cost + along < best.cost):
            best = Found(found.place, found.cost + along)
    return best


def _in_slices(
    mask: np.ndarray, wanted: Site, lung: Lung, free: np.ndarray, z: int, reference: int, enough: float
) -> Found | None:
    """The best position that begins in slice ``z``; ``reference`` is the slice of the lesion's middle."""
    here = lung.slice(reference)
    if not here.pieces:
        return None
    window = free[z : z + len(mask)]
    if np.count_nonzero(window) < enough:
        return None
    pleura = np.where(window, lung.pleura(z, len(mask)), 0)
    places, overlap, edges = fitting(mask, window, enough, pleura)
    if not len(places) or edges is None:
        return None
    rows, columns = (places[:, axis] + float(part.mean()) for axis, part in enumerate(np.nonzero(mask)[1:]))
    cost = _away(here.piece_of(wanted.side), wanted, rows, columns, lung)
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


def _away(piece: Piece, wanted: Site, rows: np.ndarray, columns: np.ndarray, lung: Lung) -> np.ndarray:
    """Cost of the distance to the wanted place in the slice."""
    y, x = piece.pixel(wanted.front_back, wanted.outward)
    return (((rows - y) * lung.spacing[1]) ** 2 + ((columns - x) * lung.spacing[2]) ** 2) / _AWAY**2
