"""Finds lesions in label maps, and rotates, scales, dilates and pastes their masks (paper, section 2.3).

All masks are (z, y, x) bool, so that lesions of volumes are handled as 3D objects; a slice is a volume with z = 1.
``placement`` chooses where a lesion is pasted.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import ndimage

from nnunet_difflung.lesions.lung import Site
from nnunet_difflung.meaning.labels import LabelRoles

MIN_VOXELS = 4  # smaller components are stray voxels of the annotation
_CASCADE = (("rotate", 0.9), ("scale", 0.7), ("dilate", 0.5))
_SQUARE = 1e-3  # difference of height and width up to which a pixel is a square with rounding errors


@dataclass(frozen=True)
class Lesion:
    """A connected component of one pathology.

    Attributes:
        case: id of the case it comes from.
        pathology: label name.
        component: number of the lesion in that case, as ``scipy.ndimage.label`` counts.
        mask: (z, y, x) bool, cropped to the bounding box of the lesion.
        spacing: (z, y, x) of the case in mm.
        start: (z, y, x) of the first voxel of the bounding box in the case.
        site: where it lies in its lung, for lesions of training cases.
        within: other pathologies as a share of the lung that it borders on (``surroundings``).
        surroundings: the other pathologies around it, if it lies within them (``surroundings``).
        source: (z, y, x) bool, the voxels of ``mask`` that hold the pathology, where that is not all of them.
        flat: whether the case is a single slice, so that nothing tells how deep the lesion is.
    """

    case: str
    pathology: str
    component: int
    mask: np.ndarray
    spacing: tuple[float, float, float]
    start: tuple[int, int, int] = (0, 0, 0)
    site: Site | None = None
    within: float = 0.0
    surroundings: tuple[Lesion, ...] = ()
    source: np.ndarray | None = None
    flat: bool = False

    @property
    def texture(self) -> np.ndarray:
        """(z, y, x) bool, the voxels of its box that look like the pathology."""
        return self.mask if self.source is None else self.source

    def of_source(self, source: np.ndarray) -> Lesion:
        """A copy of which only some voxels hold the pathology."""
        return replace(self, source=source)

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The bounding box of the lesion in its case."""
        z, y, x = (slice(a, a + n) for a, n in zip(self.start, self.mask.shape, strict=True))
        return z, y, x

    @cached_property
    def voxels(self) -> int:
        """Size in voxels."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class Transform:
    """How the outline of a lesion is varied.

    Attributes:
        mirror: whether the lesion is mirrored left-right.
        angle: of the in-plane rotation in the patient, in degrees.
        scale: factor along y and x, and along z for lesions of several slices.
        dilation: in plane, in pixels.
    """

    mirror: bool = False
    angle: float = 0.0
    scale: float = 1.0
    dilation: int = 0


def find_lesions(
    label: np.ndarray, value: int, case: str, pathology: str, spacing: tuple[float, float, float]
) -> list[Lesion]:
    """Connected components of a label value with at least ``MIN_VOXELS`` voxels.

    Args:
        label: (z, y, x) label values.
        value: label value of the pathology.
        case: id of the case, for the result.
        pathology: name of the pathology, for the result.
        spacing: (z, y, x) of the case in mm, for the result.
    """
    components, _ = ndimage.label(label == value)
    lesions = []
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        mask = components[box] == number
        if mask.sum() >= MIN_VOXELS:
            start = tuple(part.start for part in box)
            lesions.append(Lesion(case, pathology, number, mask, spacing, start, flat=len(label) == 1))
    return lesions


def lesion_of_case(lesions: Sequence[Lesion], case: str, component: int) -> Lesion:
    """A lesion by its case and number, of the lesions of one pathology, sorted by these two."""
    return lesions[bisect_left(lesions, (case, component), key=lambda lesion: (lesion.case, lesion.component))]


def draw_transform(rng: np.random.Generator) -> Transform:
    """Draws a transform with cascading probabilities: scaling only after rotation, dilation only after scaling."""
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


@dataclass(frozen=True)
class WarpedLesion:
    """The transformed mask of a lesion, and the affine map with which ``texture`` transforms its texture.

    Attributes:
        mask: (z, y, x) bool, cropped to its bounding box; empty if no voxel remains.
        box: the bounding box on the grid of the transform, which has ``dilation`` more pixels on each side along y and
            x than ``shape``.
        matrix: for ``scipy.ndimage.affine_transform`` (from output to input voxels, after mirroring).
        offset: for ``scipy.ndimage.affine_transform``.
        shape: (z, y, x) of the output of ``scipy.ndimage.affine_transform``.
    """

    mask: np.ndarray
    box: tuple[slice, ...]
    matrix: np.ndarray
    offset: np.ndarray
    shape: tuple[int, int, int]


def spacing_ratio(lesion: Lesion, spacing: Sequence[float], slices: int) -> np.ndarray:
    """(z, y, x) spacing of a lesion's case divided by that of a host, with which the lesion keeps its size in mm.

    Where the case or the host is a single slice, its z spacing tells nothing, and the lesion keeps its slices.

    Args:
        lesion: of any case.
        spacing: (z, y, x) of the host in mm.
        slices: of the host.
    """
    ratio = np.array(lesion.spacing) / spacing
    if lesion.flat or slices == 1:
        ratio[0] = 1.0
    return ratio


def pixel_aspect(spacing: Sequence[float]) -> float:
    """Height of the pixels of a (z, y, x) spacing divided by their width."""
    aspect = float(spacing[1]) / float(spacing[2])
    return 1.0 if abs(aspect - 1) < _SQUARE else aspect


def warp(
    mask: np.ndarray,
    transform: Transform,
    ratio: Sequence[float] | np.ndarray = (1, 1, 1),
    spacing: Sequence[float] = (1, 1, 1),
) -> WarpedLesion:
    """Applies a transform to the mask of a lesion.

    Args:
        mask: (z, y, x) bool.
        transform: from ``draw_transform``.
        ratio: (z, y, x) spacing of the donor case divided by the spacing of the host (``spacing_ratio``).
        spacing: (z, y, x) of the host in mm; only the shape of its pixels matters.
    """
    matrix, offset, shape, grow = resample_geometry(mask, transform, ratio, spacing)
    moved = grow(mask)
    box = box_of(moved)
    return WarpedLesion(moved[box], box, matrix, offset, shape)


def cannot_fit(
    mask: np.ndarray,
    transform: Transform,
    ratio: Sequence[float] | np.ndarray,
    shape: Sequence[int],
    spacing: Sequence[float] = (1, 1, 1),
) -> bool:
    """Whether a transformed lesion is larger than a (z, y, x) shape, whatever its angle; it takes no memory to know.

    A box's longer side is at least 1 / √2 of the lesion's length, and interpolation takes less than 4 pixels off it.
    ``spacing`` is that of ``warp``.
    """
    depth = len(mask) * ratio[0] * (transform.scale if len(mask) > 1 else 1.0)
    units = (pixel_aspect(spacing), 1.0)  # height and width of a pixel
    parts = zip(mask.shape[1:], ratio[1:], units, strict=True)
    length = transform.scale * max(n * part * unit for n, part, unit in parts)
    return round(depth) > shape[0] or all(
        length / math.sqrt(2) / unit - 4 > n for n, unit in zip(shape[1:], units, strict=True)
    )


def resample_geometry(
    mask: np.ndarray,
    transform: Transform,
    ratio: Sequence[float] | np.ndarray,
    spacing: Sequence[float] = (1, 1, 1),
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int], Callable[[np.ndarray], np.ndarray]]:
    """How a transform maps the voxels in the bounding box of a lesion; the arguments are those of ``warp``.

    Returns:
        ``matrix`` and ``offset`` for ``scipy.ndimage.affine_transform`` (from output to input voxels, after mirroring);
        the shape of the output before dilation; and a function from a mask to the transformed mask on that grid, with
        ``dilation`` more pixels on each side along y and x.
    """
    depth = transform.scale if len(mask) > 1 else 1.0  # a slice varies in its plane alone
    factors = np.array([ratio[0] * depth, *(part * transform.scale for part in ratio[1:])])
    moves = bool(transform.angle) or not np.allclose(factors, 1)
    matrix, offset, shape = np.eye(3), np.zeros(3), mask.shape
    if moves:
        aspect, size = pixel_aspect(spacing), np.array(mask.shape[1:]) * factors[1:]
        diagonal = (np.hypot(size[0], size[1] / aspect), np.hypot(size[0] * aspect, size[1]))  # in pixels along y and x
        reach = [int(np.ceil(length)) + 2 for length in diagonal]
        reach = [length + (length - round(n)) % 2 for length, n in zip(reach, size, strict=True)]
        shape = (max(1, round(len(mask) * factors[0])), reach[0], reach[1])  # centred on whole voxels
        angle = math.radians(transform.angle)
        cos, sin = math.cos(angle), math.sin(angle)  # numpy's differ between processors
        turn = np.array([[1, 0, 0], [0, cos, -sin / aspect], [0, sin * aspect, cos]])  # in the patient, not in pixels
        matrix = np.diag(1 / factors) @ turn
        offset = (np.array(mask.shape) - 1) / 2 - matrix @ ((np.array(shape) - 1) / 2)

    def grow(lesion: np.ndarray) -> np.ndarray:
        result = lesion[..., ::-1] if transform.mirror else lesion
        if moves:  # linear interpolation, cut at one half; padding prevents growth at the edge of the box
            result = _resampled(result, matrix, offset, shape) > 0.5
        if transform.dilation:
            result = np.pad(result, [(0, 0), *[(transform.dilation, transform.dilation)] * 2])
            result = ndimage.binary_dilation(result, ndimage.generate_binary_structure(2, 1)[None], transform.dilation)
        return result

    return matrix, offset, shape, grow


def _resampled(mask: np.ndarray, matrix: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A mask, padded by one voxel and resampled to (z, y, x) float32; a single slice in 2D, which is twice as fast."""
    values = np.pad(mask.astype(np.float32), 1)
    if len(mask) == 1 and shape[0] == 1:
        return ndimage.affine_transform(
            values[1], matrix[1:, 1:], offset[1:] + 1, output_shape=shape[1:], order=1, mode="nearest"
        )[None]
    return ndimage.affine_transform(values, matrix, offset + 1, output_shape=shape, order=1, mode="nearest")


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """Bounding box of a mask; a box without voxels if the mask is empty."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    return boxes[0] if boxes else (slice(0, 0),) * mask.ndim


def window_at(place: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """The window of a host that a mask covers at a place."""
    return tuple(slice(start, start + n) for start, n in zip(place, shape, strict=True))


def inside_image(
    mask: np.ndarray, place: Sequence[int], shape: Sequence[int]
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The part of a mask that lies in an image of a (z, y, x) shape, and its first voxel there; it may be empty."""
    first = [min(max(0, -start), n) for start, n in zip(place, mask.shape, strict=True)]
    last = [max(0, min(n, size - start)) for start, n, size in zip(place, mask.shape, shape, strict=True)]
    z, y, x = (max(0, start) for start in place)
    return mask[tuple(slice(a, b) for a, b in zip(first, last, strict=True))], (z, y, x)


def paste(label: np.ndarray, mask: np.ndarray, place: Sequence[int], value: int, roles: LabelRoles) -> int:
    """Writes a lesion into a label map, in place, but only over normal lung; what lies outside the map is left out.

    Returns:
        Number of voxels changed.
    """
    mask, place = inside_image(mask, place, label.shape)
    window = label[window_at(place, mask.shape)]
    changed = mask & roles.is_normal(window)
    window[changed] = value
    return int(changed.sum())
