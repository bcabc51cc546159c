"""Which slices of a case are painted together, and which part of them the network sees."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.lesions.plan import PlannedCase

_CROP_STEP = 32  # edges of crops are multiples of it, so that many have the same shape and can be painted together
_CONNECTED = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Stack:
    """Neighbouring slices that are painted together, or a single one.

    Attributes:
        positions: of the slices in the case's arrays, in the order of z.
        crop: (y, x) the part of them that the network sees, inside the host.
        own: (s, h, w) bool, what is painted of them in the crop.
    """

    positions: tuple[int, ...]
    crop: tuple[slice, slice]
    own: np.ndarray


@dataclass(frozen=True)
class JobSize:
    """What is known of a job before its case is read and its textures are moved.

    Attributes:
        index: number of the planned case.
        number: of the job in the case.
        shape: (h, w) that the network sees.
        number_of_slices: slices among its inputs, with those beside the painted ones.
        painted: slices for which the network computes something.
    """

    index: int
    number: int
    shape: tuple[int, int]
    number_of_slices: int
    painted: int

    @property
    def key(self) -> tuple[int, int]:
        """Number of the planned case, and of the job in it."""
        return self.index, self.number


def sizes_of(
    region: np.ndarray,
    planned: PlannedCase,
    depth: int,
    factor: int,
    sampling: SamplingConfig,
    together: bool,
) -> list[JobSize]:
    """The sizes of a case's jobs, in their order.

    Args:
        region: (n, y, x) bool, what is painted.
        planned: the case.
        depth: number of its host's slices.
        factor: what the edges of a network's inputs must be multiples of.
        sampling: settings of painting.
        together: see ``stacks_of``.
    """
    sizes = []
    for number, stack in enumerate(stacks_of(region, planned.slices, factor, sampling, together)):
        height, width = (-(-edge // factor) * factor for edge in stack.own.shape[1:])
        slices = [planned.slices[position] for position in stack.positions]
        seen = len(with_margin(slices, 1, depth)) if together else 1
        sizes.append(JobSize(planned.index, number, (height, width), seen, int(stack.own.any((1, 2)).sum())))
    return sizes


def stacks_of(
    region: np.ndarray, slices: Sequence[int], factor: int, sampling: SamplingConfig, together: bool
) -> list[Stack]:
    """The stacks of a case.

    Args:
        region: (n, y, x) bool, what is painted.
        slices: z of the n slices.
        factor: what the edges of crops must be multiples of.
        sampling: settings of painting.
        together: paint what hangs together along z as one stack; else each slice by itself.
    """
    if not together:
        positions = np.flatnonzero(region.any((1, 2)))
        crops = [_crop(region[n], factor, sampling) for n in positions]
        return [Stack((int(n),), crop, region[n][crop][None]) for n, crop in zip(positions, crops, strict=True)]
    stacks = []
    for run in np.split(np.arange(len(slices)), np.flatnonzero(np.diff(slices) != 1) + 1):
        stacks += _stacks_of_run(region[run], int(run[0]), factor, sampling)
    return stacks


def _stacks_of_run(region: np.ndarray, first: int, factor: int, sampling: SamplingConfig) -> list[Stack]:
    """The stacks of slices that follow each other: connected parts, joined where one lies in the crop of another."""
    parts, number = ndimage.label(region, _CONNECTED)
    found, plane = enumerate(ndimage.find_objects(parts), 1), region.shape[1:]
    boxes = [_Box.of(box, {i}, plane, factor, sampling) for i, box in found]
    joined: list[_Box] = []
    while boxes:
        box = boxes.pop()
        other = next((known for known in joined if box.sees(known)), None)
        if other is None:
            joined.append(box)
        else:  # the larger box may see further ones
            joined.remove(other)
            boxes.append(box.with_other(other, plane, factor, sampling))
    stacks = []
    for box in sorted(joined, key=lambda box: min(box.parts)):
        window = (slice(box.z.start, box.z.stop), *box.crop)
        wanted = np.zeros(number + 1, bool)
        wanted[list(box.parts)] = True
        stacks.append(Stack(tuple(range(first + box.z.start, first + box.z.stop)), box.crop, wanted[parts[window]]))
    return stacks


@dataclass(frozen=True)
class _Box:
    """What is to be painted together: numbers of connected parts, their box, and the crop that the network sees."""

    parts: frozenset[int]
    z: slice
    plane: tuple[slice, slice]
    crop: tuple[slice, slice]

    @classmethod
    def of(
        cls, box: tuple[slice, ...], parts: Collection[int], shape: Sequence[int], factor: int, sampling: SamplingConfig
    ) -> _Box:
        """The box of some parts in slices of a (y, x) shape."""
        z, y, x = box
        return cls(frozenset(parts), z, (y, x), _crop_around((y, x), shape, factor, sampling))

    def sees(self, other: _Box) -> bool:
        """Whether the crops overlap in the same slices, or in those beside them."""
        near = self.z.start <= other.z.stop and other.z.start <= self.z.stop
        return near and all(p.start < q.stop and q.start < p.stop for p, q in zip(self.crop, other.crop, strict=True))

    def with_other(self, other: _Box, shape: Sequence[int], factor: int, sampling: SamplingConfig) -> _Box:
        """Both together."""
        pairs = zip((self.z, *self.plane), (other.z, *other.plane), strict=True)
        box = tuple(slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in pairs)
        return _Box.of(box, self.parts | other.parts, shape, factor, sampling)


def _crop(region: np.ndarray, factor: int, sampling: SamplingConfig) -> tuple[slice, slice]:
    """The part of a (y, x) slice that the network sees of a region; the whole slice with ``full``."""
    if sampling.paint == "full":
        return slice(0, region.shape[0]), slice(0, region.shape[1])
    y, x = ndimage.find_objects(region.astype(np.uint8))[0]
    return _crop_around((y, x), region.shape, factor, sampling)


def _crop_around(
    box: tuple[slice, slice], shape: Sequence[int], factor: int, sampling: SamplingConfig
) -> tuple[slice, slice]:
    """A box and its context; edges are multiples of 32 if there is room."""
    step = max(_CROP_STEP, factor)
    crop = []
    for part, length in zip(box, shape, strict=True):
        wanted = -(-(part.stop - part.start + 2 * sampling.context) // step) * step
        start = int(np.clip((part.start + part.stop - wanted) // 2, 0, max(0, length - wanted)))
        crop.append(slice(start, min(start + wanted, length)))
    return crop[0], crop[1]


def with_neighbours(slices: np.ndarray) -> np.ndarray:
    """(s,) bool, the given slices of a stack and those beside them."""
    return np.asarray(ndimage.binary_dilation(slices))


def depth_of_margin(margin: int, spacing: Sequence[float]) -> int:
    """Slices above and below a lesion that a margin of so many pixels reaches: at least one; 0 without a margin.

    Args:
        margin: in pixels.
        spacing: (z, y, x) in mm.
    """
    return max(1, int(1.001 * margin * np.sqrt(spacing[1] * spacing[2]) / spacing[0])) if margin else 0


def with_margin(slices: Sequence[int], depth: int, number: int) -> tuple[int, ...]:
    """The slices and those up to ``depth`` above and below them, within a volume of ``number`` slices."""
    every = {z + step for z in slices for step in range(-depth, depth + 1)}
    return tuple(sorted(z for z in every if 0 <= z < number))
