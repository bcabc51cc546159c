"""Operations on lesion masks: find, turn, scale, dilate, place inside normal lung, paste (paper, section 2.3).

All masks are (z, y, x) bool, so that lesions of volumes move as 3D objects; a slice is a volume with z = 1.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

MIN_VOXELS = 4  # smaller components are readers' specks
_CASCADE = (("rotate", 0.9), ("scale", 0.7), ("dilate", 0.5))


@dataclass(frozen=True)
class Lesion:
    """A connected component of one pathology.

    Attributes:
        case: id of the case it comes from.
        pathology: label name.
        component: its number in that case, counted as ``scipy.ndimage.label`` does.
        mask: (z, y, x) bool, cut to its bounding box.
        spacing: (z, y, x) in mm of its case.
        start: (z, y, x) of the box's first voxel in its case.
    """

    case: str
    pathology: str
    component: int
    mask: np.ndarray
    spacing: tuple[float, float, float]
    start: tuple[int, int, int] = (0, 0, 0)

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where it lies in its case."""
        z, y, x = (slice(a, a + n) for a, n in zip(self.start, self.mask.shape, strict=True))
        return z, y, x

    @cached_property
    def voxels(self) -> int:
        """Size in voxels."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class Transform:
    """How a lesion's outline is varied.

    Attributes:
        mirror: left-right.
        angle: in-plane rotation in degrees.
        scale: factor along y and x (and along z for lesions of several slices).
        dilation: in-plane dilation in pixels.
    """

    mirror: bool = False
    angle: float = 0.0
    scale: float = 1.0
    dilation: int = 0


def find_lesions(label: np.ndarray, value: int, case: str, pathology: str,
                 spacing: Sequence[float]) -> list[Lesion]:
    """Connected components of a label value with at least ``MIN_VOXELS`` voxels.

    Args:
        label: (z, y, x) label values.
        value: of the pathology.
        case: id, kept in the result.
        pathology: name, kept in the result.
        spacing: (z, y, x) in mm, kept in the result.
    """
    components, _ = ndimage.label(label == value)
    found = []
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        mask = components[box] == number
        if mask.sum() >= MIN_VOXELS:
            start = tuple(part.start for part in box)
            found.append(Lesion(case, pathology, number, mask, tuple(spacing), start))
    return found


def draw_transform(rng: np.random.Generator) -> Transform:
    """Draws with cascading probabilities: scaling only after rotation, dilation only after scaling."""
    values: dict = {"mirror": bool(rng.random() < 0.5)}
    for name, probability in _CASCADE:
        if rng.random() >= probability:
            break
        if name == "rotate":
            values["angle"] = float(rng.uniform(0, 360))
        elif name == "scale":
            values["scale"] = float(rng.uniform(0.75, 1.5))
        else:
            values["dilation"] = int(rng.integers(1, 3))
    return Transform(**values)


def transformed(mask: np.ndarray, transform: Transform, spacing_ratio: Sequence[float] = (1, 1, 1)) -> np.ndarray:
    """Applies a transform to a lesion's mask.

    Args:
        mask: (z, y, x) bool.
        transform: drawn before.
        spacing_ratio: (z, y, x) spacing of the lesion's case over that of the host, so that it keeps its size in mm.

    Returns:
        (z, y, x) bool cut to its bounding box; empty if nothing is left.
    """
    _, _, _, grow = resample_geometry(mask, transform, spacing_ratio)
    return cut_to_box(grow(mask))


def resample_geometry(mask: np.ndarray, transform: Transform, spacing_ratio: Sequence[float]):
    """How a transform maps the voxels of a lesion's box; its texture follows the same map (``texture``).

    Returns:
        ``matrix`` and ``offset`` of ``scipy.ndimage.affine_transform`` (output to input voxels, after mirroring), the
        output's shape before dilation, and a function from the mask to the transformed mask on that grid, which
        ``dilation`` pixels on each side along y and x are added to.
    """
    depth = (spacing_ratio[0] * transform.scale) if len(mask) > 1 else 1.0
    factors = np.array([depth, *(ratio * transform.scale for ratio in spacing_ratio[1:])])
    moves = bool(transform.angle) or not np.allclose(factors, 1)
    matrix, offset, shape = np.eye(3), np.zeros(3), mask.shape
    if moves:
        reach = int(np.ceil(np.hypot(*(np.array(mask.shape[1:]) * factors[1:])))) + 2
        odd = [(reach - round(n * factor)) % 2 for n, factor in zip(mask.shape[1:], factors[1:], strict=True)]
        shape = (max(1, round(len(mask) * factors[0])), reach + odd[0], reach + odd[1])  # centred on whole voxels
        angle = np.deg2rad(transform.angle)
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        matrix = np.diag(1 / factors) @ turn
        offset = (np.array(mask.shape) - 1) / 2 - matrix @ ((np.array(shape) - 1) / 2)

    def grow(lesion: np.ndarray) -> np.ndarray:
        result = lesion[..., ::-1] if transform.mirror else lesion
        if moves:  # linear interpolation cut at one half; the padding keeps lesions from growing at the box's edge
            result = _resampled(result, matrix, offset, shape) > 0.5
        if transform.dilation:
            result = np.pad(result, [(0, 0), *[(transform.dilation, transform.dilation)] * 2])
            result = ndimage.binary_dilation(result, ndimage.generate_binary_structure(2, 1)[None], transform.dilation)
        return result

    return matrix, offset, shape, grow


def _resampled(mask: np.ndarray, matrix: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """(z, y, x) float32 of a mask with a voxel of padding; a single slice as a plane, for half the work."""
    values = np.pad(mask.astype(np.float32), 1)
    if len(mask) == 1 and shape[0] == 1:
        return ndimage.affine_transform(values[1], matrix[1:, 1:], offset[1:] + 1, output_shape=shape[1:], order=1,
                                        mode="nearest")[None]
    return ndimage.affine_transform(values, matrix, offset + 1, output_shape=shape, order=1, mode="nearest")


def box_of(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Bounding box of a mask, None if it is empty."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    return boxes[0] if boxes else None


def cut_to_box(mask: np.ndarray) -> np.ndarray:
    """The mask within its bounding box (an empty mask stays empty)."""
    box = box_of(mask)
    return mask[:0] if box is None else mask[box]


def find_place(mask: np.ndarray, free: np.ndarray, rng: np.random.Generator, inside: float = 0.9,
               tries: int = 4) -> tuple[int, int, int] | None:
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
    starts = np.flatnonzero(below[len(mask):] - below[:room[0] + 1] >= enough)
    for z in rng.permutation(starts)[:tries].astype(int):
        fitting = _fitting(mask, free[z:z + len(mask)], enough)
        if len(fitting):
            y, x = fitting[rng.integers(len(fitting))]
            return int(z), int(y), int(x)
    return None


def _fitting(mask: np.ndarray, free: np.ndarray, enough: float) -> np.ndarray:
    """(n, 2) all (y, x) at which at least ``enough`` voxels of ``mask`` are free, in reading order.

    The overlap is an exact count from integral images: with the free voxels summed along each row, a run of the mask
    costs one subtraction for all positions together. Positions that cannot hold enough are left out first.
    """
    rows, columns = (_window(mask.sum((0, axis)), free.any((0, axis)), enough) for axis in (2, 1))
    free = free[:, rows, columns]
    if free.shape[1] < mask.shape[1] or free.shape[2] < mask.shape[2]:
        return np.zeros((0, 2), int)
    counter = np.int16 if mask.sum() < 2 ** 15 else np.int32  # a wrap-around on the way cancels out
    sums = np.zeros((*free.shape[:2], free.shape[2] + 1), counter)
    np.cumsum(free, axis=2, dtype=counter, out=sums[:, :, 1:])
    y, x = _possible(sums.sum(0, dtype=np.int32), mask.shape[1:], enough)
    overlap = np.zeros((y.stop - y.start, x.stop - x.start), counter)
    edges = np.diff(mask, axis=2, prepend=False, append=False)
    for z, row in np.argwhere(edges.any(2)):
        line = sums[z, y.start + row:y.stop + row]
        for first, last in np.flatnonzero(edges[z, row]).reshape(-1, 2):
            overlap += line[:, x.start + last:x.stop + last]
            overlap -= line[:, x.start + first:x.stop + first]
    return np.argwhere(overlap >= enough) + (rows.start + y.start, columns.start + x.start)


def _window(counts: np.ndarray, holds_free: np.ndarray, enough: float) -> slice:
    """Along one axis, the part of a host that a mask can cover.

    Args:
        counts: (n,) voxels of the mask at each position of the axis.
        holds_free: (m,) bool, whether the host has free voxels there.
        enough: voxels of the mask that must be free; the others may lie beyond the first and last free ones.
    """
    found = np.flatnonzero(holds_free)
    spare = counts.sum() - enough
    before, after = (int((np.cumsum(side) <= spare).sum()) for side in (counts, counts[::-1]))
    return slice(max(0, int(found[0]) - before), min(len(holds_free), int(found[-1]) + 1 + after))


def _possible(sums: np.ndarray, box: Sequence[int], enough: float) -> tuple[slice, slice]:
    """Ranges of (y, x) outside of which a box holds fewer than ``enough`` free voxels.

    Args:
        sums: (y, x + 1) free voxels of each row before x.
        box: (y, x) size.
        enough: voxels.
    """
    inside = sums[:, box[1]:] - sums[:, :-box[1]]
    integral = np.zeros((len(inside) + 1, inside.shape[1]), np.int32)
    np.cumsum(inside, axis=0, out=integral[1:])
    possible = integral[box[0]:] - integral[:-box[0]] >= enough
    return tuple(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)
                 for found in (np.flatnonzero(possible.any(axis)) for axis in (1, 0)))


def paste(label: np.ndarray, mask: np.ndarray, place: Sequence[int], value: int, normal: int) -> int:
    """Writes a lesion into a label map, in place, only over normal lung.

    Returns:
        Number of voxels changed.
    """
    window = label[tuple(slice(start, start + n) for start, n in zip(place, mask.shape, strict=True))]
    changed = mask & (window == normal)
    window[changed] = value
    return int(changed.sum())
