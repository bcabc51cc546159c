"""A CT slice as a small picture that does not depend on window, pixel size, position or bit depth.

Two slices of one patient that lie close together agree in the detail of such pictures: vessels, ribs, fat between
muscles. Slices of different patients agree in the outlines of body and lungs at most, so these count little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset.holes import filled

SIZE = 128  # pixels of a picture along x and y
_FRAME = 1.7  # side of a picture, in square roots of the body's area: an outstretched ellipse and a margin
_LEAST_WIDTH = 48  # pixels across a body; with fewer, nothing but outlines is left
_LEAST_LUNG = 0.05  # share of the body; slices at the tips of the lungs show too little
_LEAST_BODY = 0.08  # share of the slice
_CUT_OUT_EXTENT, _LEAST_CUT_OUT = (
    96,
    32,
)  # pixels that a slice without an outline takes in its picture at most, at least
_LARGE = 384  # pixels; larger slices are halved first, which changes nothing at the pictures' resolution
_LOWEST_HU = -1024.0  # padding outside a scanner's circle is darker
_BONE = 1.2  # on a scale on which air is 0 and soft tissue is 1: about 250 HU
_SCALE_OF_DETAIL, _SCALE_OF_GREY = 40.0, 150.0  # so that integers of 8 bits suffice


@dataclass(frozen=True)
class Picture:
    """A slice in a standard frame.

    Attributes:
        framed: whether the frame is a body that encloses lungs. Otherwise the slice is a cut-out, or shows no lungs,
            and only copies of it can be told from the slices of other patients.
        grey: (SIZE, SIZE) uint8; intensities on a scale on which air is 0 and soft tissue is 150.
        mask: (SIZE, SIZE) bool; the body, or the part of the frame that a cut-out takes.
        detail: (SIZE, SIZE) int8; structures of 2 to 6 mm inside the body, at equal contrast everywhere.
        key: (1024,) float32; coarser structures as a unit vector, for a fast search for candidates.
    """

    framed: bool
    grey: np.ndarray
    mask: np.ndarray
    detail: np.ndarray
    key: np.ndarray

    @property
    def bones(self) -> np.ndarray | None:
        """(SIZE, SIZE) bool; what is brighter than soft tissue. None where the window has cut bones off."""
        bright = self.mask & (self.grey > _BONE * _SCALE_OF_GREY)
        return bright if bright.sum() > 0.003 * self.mask.sum() else None

    def mirrored(self) -> Picture:
        """The picture with left and right exchanged: a body that is not in the dataset, in the same style."""
        grey, mask, detail = (np.ascontiguousarray(part[:, ::-1]) for part in (self.grey, self.mask, self.detail))
        return replace(self, grey=grey, mask=mask, detail=detail, key=self.key.reshape(SIZE // 4, -1)[:, ::-1].ravel())


def picture_of(plane: np.ndarray) -> Picture | None:
    """The picture of a slice.

    Args:
        plane: (y, x) intensities, of any window and bit depth.

    Returns:
        None if the slice is too small or shows nothing.
    """
    plane = np.maximum(plane, _LOWEST_HU).astype(np.float32)
    while min(plane.shape) >= _LARGE:
        plane = _halved(plane)
    if min(plane.shape) < _LEAST_CUT_OUT or plane.min() == plane.max():
        return None
    air, tissue = _two_levels(plane)
    plane = (plane - air) / (tissue - air)
    body = _body_around_lungs(plane)
    if body is not None:
        return _picture(np.where(body, plane, 0), body, _FRAME * np.sqrt(body.sum()) / SIZE, True)
    longest = max(plane.shape)
    return _picture(plane, np.ones(plane.shape, bool), longest / min(longest, _CUT_OUT_EXTENT), False)


def _halved(plane: np.ndarray) -> np.ndarray:
    rows, columns = (length // 2 * 2 for length in plane.shape)
    return plane[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).mean((1, 3))


def _two_levels(plane: np.ndarray) -> tuple[float, float]:
    """Mean intensities of the dark and of the bright part of a slice, divided as Otsu proposed."""
    counts, edges = np.histogram(plane, 256)
    values = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * values)[:-1]
    above, rest = plane.size - below, (counts * values).sum() - sums
    dark, bright = sums / np.maximum(below, 1), rest / np.maximum(above, 1)
    best = np.argmax(below * above * (bright - dark) ** 2)
    return float(dark[best]), float(bright[best])


def _body_around_lungs(plane: np.ndarray) -> np.ndarray | None:
    """The largest bright component with its holes filled, if these are large enough for lungs."""
    parts, number = ndimage.label(_opened(plane > 0.5))
    if not number:
        return None
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    wall = parts == sizes.argmax()
    body = filled(wall)
    area = body.sum()
    if area < _LEAST_BODY * body.size or min(np.ptp(axis) + 1 for axis in np.nonzero(body)) < _LEAST_WIDTH:
        return None
    lungs = _opened(body & ~wall)
    return body if lungs.sum() >= _LEAST_LUNG * area else None


def _opened(mask: np.ndarray) -> np.ndarray:
    """``ndimage.binary_opening`` of a (y, x) mask with a cross of five pixels, in an eighth of the time."""
    eroded = np.logical_and.reduce(_crosses(mask))
    return np.logical_or.reduce(_crosses(eroded))


def _crosses(mask: np.ndarray) -> list[np.ndarray]:
    """Each pixel of a mask, and its neighbour on each of the four sides (False beyond the edge)."""
    padded = np.pad(mask, 1)
    middle = slice(1, -1)
    rows = [(middle, middle), (slice(None, -2), middle), (slice(2, None), middle)]
    return [padded[place] for place in (*rows, (middle, slice(None, -2)), (middle, slice(2, None)))]


def _picture(plane: np.ndarray, mask: np.ndarray, step: float, framed: bool) -> Picture:
    """Samples a slice at every ``step`` pixels around the centre of its mask."""
    centre = np.array(ndimage.center_of_mass(mask))
    first = centre - step * (SIZE - 1) / 2
    smooth = ndimage.gaussian_filter(plane, 0.4 * step) if step > 1 else plane
    grey = ndimage.affine_transform(smooth, [step, step], first, (SIZE, SIZE), order=1, mode="nearest")
    inside = ndimage.affine_transform(mask.astype(np.float32), [step, step], first, (SIZE, SIZE), order=1) > 0.5
    if framed:  # without the outline itself, in which people resemble each other
        weight = _blurred(ndimage.minimum_filter(inside, 7, mode="constant").astype(np.float32), 1.5)
    else:
        weight = _faded(inside)
    detail, coarse = _structures(grey, weight, 0.7, 2, 3), _structures(grey, weight, 1.5, 4, 8)
    key = coarse.reshape(SIZE // 4, 4, SIZE // 4, 4).mean((1, 3)).ravel()
    return Picture(
        framed,
        np.clip(np.rint(grey * _SCALE_OF_GREY), 0, 255).astype(np.uint8),
        inside,
        np.clip(np.rint(detail * _SCALE_OF_DETAIL), -127, 127).astype(np.int8),
        key / max(float(np.linalg.norm(key)), 1e-6),
    )


def _faded(inside: np.ndarray) -> np.ndarray:
    """Weights that fall to 0 at the edges of a rectangle, since shifted cut-outs do not agree there."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    weight = np.zeros(inside.shape, np.float32)
    window = np.outer(np.hanning(len(rows) + 2)[1:-1], np.hanning(len(columns) + 2)[1:-1])
    weight[np.ix_(rows, columns)] = window
    return weight


def _structures(grey: np.ndarray, weight: np.ndarray, fine: float, coarse: float, around: float) -> np.ndarray:
    """What lies between two scales (in pixels), divided by its own standard deviation ``around`` each pixel."""
    band = _blurred(grey, fine) - _blurred(grey, coarse)
    deviation = np.sqrt(np.maximum(_blurred(band * band, around), 0))
    band = band / (deviation + 0.05 * np.quantile(deviation, 0.9) + 1e-6) * weight
    return band - band.sum() / max(float(weight.sum()), 1e-6) * weight


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """``ndimage.gaussian_filter`` of a (SIZE, SIZE) float32 image, as two matrix products: in a third of the time."""
    blur = _blur(sigma)
    return blur @ image @ blur.T


@lru_cache
def _blur(sigma: float) -> np.ndarray:
    """(SIZE, SIZE) float32 weights of each pixel of a line (column) in each pixel of the blurred line (row)."""
    return ndimage.gaussian_filter1d(np.eye(SIZE, dtype=np.float32), sigma, axis=0)
