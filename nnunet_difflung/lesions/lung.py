"""The lung's own coordinates: where a lesion lies from front to back, from the hilum outwards, in height and depth.

All labels of normal lung and all pathologies together are the lung. Its border to anything else is the pleura; the edge
of an image is not, since cut-out images end inside the lung, and neither are holes in a slice of lung, such as vessels
that a lung mask leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset.holes import filled
from nnunet_difflung.meaning.labels import LabelRoles

Window = tuple[slice, slice]  # (y, x)

_DEEPEST = 50.0  # mm; deeper, or in a slice without pleura, no depth is told apart
_DEPTH_GRID = 96  # points along the longer side of a slice's lung at which the depth is known
_VALLEY = 0.5  # height of lung between two lungs, as a share of the lower of them
_OUTER = 0.25  # share of the width on either side in which no border between two lungs is looked for


@dataclass(frozen=True)
class Site:
    """Where a lesion lies in its lung; means over its voxels.

    Attributes:
        front_back: 0 at the first row of its lung, which is usually the front, to 1 at the last one.
        outward: 0 at the side of its lung that faces the other one to 1 at the far side.
        side: 0 for the lung with the smaller x, 1 for the other one.
        height: 0 in the first slice with lung to 1 in the last one; 0.5 in a single slice.
        depth: mm to the pleura in the slice.
        contact: share of its outline in the slices that lies on the pleura.
        size: mm² in a single slice, mm³ in a volume.
    """

    front_back: float
    outward: float
    side: int
    height: float
    depth: float
    contact: float
    size: float

    @property
    def sideways(self) -> float:
        """−1 at the outer end of the lung with the smaller x to 1 at the outer end of the other."""
        return self.outward if self.side else -self.outward


@dataclass(frozen=True)
class Piece:
    """The box of a lung in a slice: its first row and column, its height and width in pixels less one, its side."""

    top: int
    left: int
    height: int
    width: int
    side: int

    def front_back(self, y: np.ndarray | float) -> np.ndarray | float:
        """0 to 1 of rows."""
        return (y - self.top) / self.height

    def outward(self, x: np.ndarray | float) -> np.ndarray | float:
        """0 to 1 of columns."""
        share = (x - self.left) / self.width
        return share if self.side else 1 - share

    def pixel(self, front_back: float, outward: float) -> tuple[float, float]:
        """(y, x) of coordinates."""
        share = outward if self.side else 1 - outward
        return self.top + front_back * self.height, self.left + share * self.width


@dataclass(frozen=True)
class LungSlice:
    """The lung in a slice.

    Attributes:
        pieces: one lung, or the two in the order of their sides; empty without lung.
        split: first column of the second lung.
        pleura: (y, x) uint8, number of the edges of each lung pixel that are pleura.
        origin: (y, x) of the first pixel of the grid of ``depth``.
        step: pixels of the grid.
        depth: mm to the pleura on a grid over the box of the lung.
        pixels: of lung.
    """

    pieces: tuple[Piece, ...]
    split: int
    pleura: np.ndarray
    origin: tuple[int, int]
    step: int
    depth: np.ndarray
    pixels: int = 0

    def piece_at(self, x: float) -> Piece:
        """The lung of a column."""
        return self.pieces[-1 if x >= self.split else 0]

    def piece_of(self, side: int) -> Piece:
        """The lung of a side; the only one if there is one."""
        return self.pieces[side if len(self.pieces) > 1 else 0]

    def depth_at(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Depth in mm of pixels, which may be fractions."""
        rows = np.clip(((y - self.origin[0]) / self.step).astype(int), 0, self.depth.shape[0] - 1)
        columns = np.clip(((x - self.origin[1]) / self.step).astype(int), 0, self.depth.shape[1] - 1)
        return self.depth[rows, columns]


class Lung:
    """The lung of a case. Pasting lesions does not change it, since lesions are lung."""

    def __init__(
        self,
        label: np.ndarray,
        roles: LabelRoles,
        spacing: Sequence[float],
        counts: Mapping[str, Sequence[int]],
    ):
        """Takes (z, y, x) label values, their spacing in mm, and label name → number of voxels in each slice."""
        z, y, x = (float(part) for part in spacing)
        self.label, self.spacing = label, (z, y, x)
        self.is_lung = np.zeros(256, bool)
        self.is_lung[roles.lung_values()] = True
        self.inside = self.is_lung.copy()
        if roles.ignore is not None:
            self.inside[roles.ignore] = True  # it may be lung
        holding = np.flatnonzero(np.sum([counts[name] for name in roles.lung], axis=0))
        self.first, self.last = (int(holding[0]), int(holding[-1])) if len(holding) else (0, 0)
        self._slices: dict[int, LungSlice] = {}

    @property
    def voxel(self) -> float:
        """Size of a voxel in mm³, or mm² where the case is a single slice."""
        return self.spacing[1] * self.spacing[2] * (self.spacing[0] if len(self.label) > 1 else 1.0)

    def height(self, z: float) -> float:
        """0 to 1 of a position along z."""
        return (z - self.first) / (self.last - self.first) if self.last > self.first else 0.5

    def z_at(self, height: float) -> float:
        """Position along z of a height."""
        return self.first + height * (self.last - self.first)

    def side_at(self, height: float, side: int) -> int:
        """The side of the lung in which a lesion of a side comes to lie at a height: the other one if that is alone."""
        here = self.slice(int(np.clip(round(self.z_at(height)), 0, len(self.label) - 1)))
        return here.piece_of(side).side if here.pieces else side

    def slice(self, z: int) -> LungSlice:
        """The lung in a slice; computed once."""
        if z not in self._slices:
            self._slices[z] = self._measured(np.asarray(self.label[z]))
        return self._slices[z]

    def pleura(self, start: int, depth: int, window: Window) -> np.ndarray:
        """(z, y, x) uint8 edges that are pleura, in a (y, x) window of ``depth`` slices from ``start`` on."""
        return np.stack([self.slice(z).pleura[window] for z in range(start, start + depth)])

    def _measured(self, plane: np.ndarray) -> LungSlice:
        lung = self.is_lung[plane]
        pleura = np.zeros(plane.shape, np.uint8)
        rows, columns = (np.flatnonzero(lung.any(axis)) for axis in (1, 0))
        if not len(rows):
            return LungSlice((), 0, pleura, (0, 0), 1, np.zeros((1, 1)))
        box = tuple(
            slice(max(0, int(part[0]) - 1), min(n, int(part[-1]) + 2))
            for part, n in zip((rows, columns), plane.shape, strict=True)
        )
        lung, outside = lung[box], ~filled(self.inside[plane[box]])
        edges = pleura[box]
        edges[1:] += outside[:-1] & lung[1:]
        edges[:-1] += outside[1:] & lung[:-1]
        edges[:, 1:] += outside[:, :-1] & lung[:, 1:]
        edges[:, :-1] += outside[:, 1:] & lung[:, :-1]
        origin = (box[0].start, box[1].start)
        step = max(1, max(lung.shape) // _DEPTH_GRID)
        pieces, split = _pieces(lung, origin, plane.shape[1])
        return LungSlice(pieces, split, pleura, origin, step, _depth(outside, step, self.spacing[1:]), int(lung.sum()))

    def site(self, mask: np.ndarray, start: Sequence[int]) -> Site:
        """Where the voxels of a lesion lie.

        Args:
            mask: (z, y, x) bool, some of it True.
            start: (z, y, x) of its first voxel in the case; all of it lies in the case.
        """
        sums, edges, outline, sides = np.zeros(4), 0, 0, 0
        for plane, z in zip(mask, range(start[0], start[0] + len(mask)), strict=True):
            y, x = np.nonzero(plane)
            if len(y):
                here = self.slice(z)
                rows, columns = y + start[1], x + start[2]
                piece = here.piece_at(float(columns.mean()))
                places = (piece.front_back(rows), piece.outward(columns), here.depth_at(rows, columns))
                sums += [*(float(np.sum(place)) for place in places), len(y) * self.height(z)]
                sides += len(y) if piece.side else -len(y)
                edges += int(here.pleura[rows, columns].sum())
                outline += self._outline(plane, start)
        voxels = int(mask.sum())
        front_back, outward, depth, height = (float(part) for part in sums / voxels)
        return Site(front_back, outward, int(sides > 0), height, depth, edges / max(1, outline), voxels * self.voxel)

    def _outline(self, plane: np.ndarray, start: Sequence[int]) -> int:
        """Pixels' edges around a lesion in a slice, without those on the edge of the image."""
        total = outline_of(plane)
        height, width = self.label.shape[1:]
        if start[1] == 0:
            total -= int(plane[0].sum())
        if start[1] + plane.shape[0] == height:
            total -= int(plane[-1].sum())
        if start[2] == 0:
            total -= int(plane[:, 0].sum())
        if start[2] + plane.shape[1] == width:
            total -= int(plane[:, -1].sum())
        return total


def outline_of(mask: np.ndarray) -> int:
    """Number of edges of pixels around a (…, y, x) mask in its slices."""
    return sum(
        int((mask.take(range(1, mask.shape[axis]), axis) != mask.take(range(mask.shape[axis] - 1), axis)).sum())
        + int(mask.take(0, axis).sum())
        + int(mask.take(-1, axis).sum())
        for axis in (-1, -2)
    )


def _pieces(lung: np.ndarray, origin: tuple[int, int], width: int) -> tuple[tuple[Piece, ...], int]:
    """The lungs in the box of a slice's lung, and the first column of the second one.

    Two lungs have a valley of low columns between them, whether or not they touch; a lung that is alone has none. Its
    side is that of the image on which its middle lies.
    """
    columns = lung.sum(0)
    n = len(columns)
    first, last = int(n * _OUTER), n - int(n * _OUTER)
    split = first + int(np.argmin(columns[first:last])) if last > first else 0
    if split and columns[split] < _VALLEY * min(columns[:split].max(), columns[split:].max()):
        low = np.flatnonzero(columns[first:last] == columns[split]) + first
        split = int(low[len(low) // 2])
        sides = [(0, slice(0, split)), (1, slice(split, n))]
    else:
        split, middle = n, origin[1] + (n - 1) / 2
        sides = [(int(middle > (width - 1) / 2), slice(0, n))]
    pieces = []
    for side, part in sides:
        rows, across = (np.flatnonzero(lung[:, part].any(axis)) for axis in (1, 0))
        top, left = int(rows[0]), int(across[0]) + part.start
        pieces.append(
            Piece(
                origin[0] + top,
                origin[1] + left,
                max(1, int(rows[-1]) - top),
                max(1, int(across[-1] - across[0])),
                side,
            )
        )
    return tuple(pieces), origin[1] + split


def _depth(outside: np.ndarray, step: int, spacing: Sequence[float]) -> np.ndarray:
    """mm to what is outside on a grid of ``step`` pixels; a field of the grid is outside if any of its pixels is."""
    height, width = (-(-n // step) for n in outside.shape)
    padded = np.zeros((height * step, width * step), bool)
    padded[: outside.shape[0], : outside.shape[1]] = outside
    coarse = padded.reshape(height, step, width, step).any((1, 3))
    if not coarse.any():
        return np.full(coarse.shape, _DEEPEST)
    distance = ndimage.distance_transform_edt(~coarse, sampling=(step * spacing[0], step * spacing[1]))
    return np.minimum(distance, _DEEPEST)
