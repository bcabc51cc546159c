"""Which slices of a case are painted together, and which part of them the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_difflung.config import SamplingConfig

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
    groups = [{i} for i in range(1, number + 1)]
    while True:
        stacks = [_stack(np.isin(parts, sorted(group)), first, factor, sampling) for group in groups]
        pair = _overlapping(stacks)
        if pair is None:
            return stacks
        one, other = pair
        groups[one] |= groups.pop(other)


def _stack(own: np.ndarray, first: int, factor: int, sampling: SamplingConfig) -> Stack:
    positions = np.flatnonzero(own.any((1, 2)))
    positions = np.arange(positions[0], positions[-1] + 1)
    crop = _crop(np.asarray(own.any(0)), factor, sampling)
    return Stack(tuple(int(first + n) for n in positions), crop, own[(positions, *crop)])


def _overlapping(stacks: Sequence[Stack]) -> tuple[int, int] | None:
    """Two stacks of which one would see what the other paints, in the same slices or in those beside them."""
    for one in range(len(stacks)):
        for other in range(one + 1, len(stacks)):
            a, b = stacks[one], stacks[other]
            near = a.positions[0] - 1 <= b.positions[-1] and b.positions[0] - 1 <= a.positions[-1]
            if near and all(p.start < q.stop and q.start < p.stop for p, q in zip(a.crop, b.crop, strict=True)):
                return one, other
    return None


def _crop(region: np.ndarray, factor: int, sampling: SamplingConfig) -> tuple[slice, slice]:
    """A box around the region and its context; edges are multiples of 32 if there is room. ``full``: the slice."""
    box = ndimage.find_objects(region.astype(np.uint8))[0]
    if sampling.paint == "full":
        return slice(0, region.shape[0]), slice(0, region.shape[1])
    step = max(_CROP_STEP, factor)
    crop = []
    for part, length in zip(box, region.shape, strict=True):
        wanted = -(-(part.stop - part.start + 2 * sampling.context) // step) * step
        start = int(np.clip((part.start + part.stop - wanted) // 2, 0, max(0, length - wanted)))
        crop.append(slice(start, min(start + wanted, length)))
    return crop[0], crop[1]


def depth_of_margin(margin: int, spacing: Sequence[float]) -> int:
    """Slices above and below a lesion that a margin of so many pixels reaches: at least one; 0 without a margin.

    Args:
        margin: in pixels.
        spacing: (z, y, x) in mm.
    """
    return max(1, round(margin * float(np.sqrt(spacing[1] * spacing[2])) / spacing[0])) if margin else 0


def with_margin(slices: Sequence[int], depth: int, number: int) -> tuple[int, ...]:
    """The slices and those up to ``depth`` above and below them, within a volume of ``number`` slices."""
    every = {z + step for z in slices for step in range(-depth, depth + 1)}
    return tuple(sorted(z for z in every if 0 <= z < number))
