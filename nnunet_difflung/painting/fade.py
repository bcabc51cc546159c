"""Fades what was painted into the host's own normal lung over the margin around a lesion, and keeps the grain.

A margin of normal lung is painted along with each lesion. Painter and host agree there on what it is, and differ in
their noise, so where the painted region ends there is an edge. The mean of two textures has none, but is smoother than
either. So their deviations from the level of the lung are mixed in a way that preserves their variance (Heitz and
Neyret 2018, here for two textures that correlate):

    x = m + (a·(p − m) + b·(h − m)) / √(a² + b² + 2abρ),  b = 1 − a

with the painted intensities p, the host's h, and a weight a that falls from 1 at the lesion to 0 beyond the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.preparing.application import AppliedCase
from nnunet_difflung.preparing.stacks import Stack, depth_of_margin

_ALIKE = 0.4  # ρ, taken to be so for all painters: both textures continue the same surroundings


def weights(applied: AppliedCase, sampling: SamplingConfig, together: bool) -> np.ndarray | None:
    """(n, y, x) float32 weight a of the painted intensities: 1 in the outline, falling over the margin around it.

    Args:
        applied: the planned case.
        sampling: settings of painting.
        together: whether slices are painted together, so that the margin has a depth.

    Returns:
        None if nothing is to be faded.
    """
    if sampling.edge == "painted" or sampling.paint == "full" or not sampling.margin:
        return None
    pixel, slices = 1 / (sampling.margin + 1), applied.planned.slices
    weight = applied.outline.astype(np.float32)
    if not together:
        for n in np.flatnonzero(applied.outline.any((1, 2))):
            box = ndimage.find_objects(applied.region[n].astype(np.uint8))[0]
            weight[n][box] = _falling(applied.outline[n][box], (pixel, pixel))
        return np.where(applied.region, weight, np.float32(0))
    y, x = ndimage.find_objects(applied.region.any(0).astype(np.uint8))[0]
    at = np.array(slices) - slices[0]
    whole = np.zeros((at[-1] + 1, y.stop - y.start, x.stop - x.start), bool)
    whole[at] = applied.outline[:, y, x]
    depth, mm = depth_of_margin(sampling.margin, applied.spacing), np.array(applied.spacing[1:])
    pixels = (sampling.margin + 1) * np.sqrt(mm.prod()) / mm  # the margin is as wide along both axes in mm
    weight[:, y, x] = _falling_in_parts(whole, (depth + 1, *pixels))[at]
    return np.where(applied.region, weight, np.float32(0))


def _falling_in_parts(outline: np.ndarray, reach: Sequence[float]) -> np.ndarray:
    """``_falling`` of a (z, y, x) outline, around one part after the other: distances take eight times the memory.

    ``reach``: voxels along each axis at which nothing is left.
    """
    parts, _ = ndimage.label(outline)
    weight, around = np.zeros(outline.shape, np.float32), [math.ceil(voxels) for voxels in reach]
    for number, found in enumerate(ndimage.find_objects(parts), 1):
        box = tuple(slice(max(0, f.start - more), f.stop + more) for f, more in zip(found, around, strict=True))
        np.maximum(weight[box], _falling(parts[box] == number, [1 / voxels for voxels in reach]), out=weight[box])
    return weight


def _falling(outline: np.ndarray, step: Sequence[float]) -> np.ndarray:
    """1 in an outline, and one minus the distance to it elsewhere, at least 0; ``step``: between neighbours."""
    return np.maximum(1 - ndimage.distance_transform_edt(~outline, sampling=step), 0).astype(np.float32)


def faded(
    painted: np.ndarray, host: np.ndarray, weight: np.ndarray, own: np.ndarray, normal: np.ndarray, window: Sequence
) -> np.ndarray:
    """What a slice gets in the painted region.

    Args:
        painted: (h, w) intensities of one channel.
        host: (h, w) the host's.
        weight: (h, w) of the painted intensities.
        own: (h, w) bool, the painted region.
        normal: (h, w) bool, normal lung, from which the level m is taken (median of what is not painted).
        window: of the generator; the result leaves it only where the host does.

    Returns:
        (k,) intensities of the k pixels of ``own``.
    """
    p, h, a = (part[own].astype(float) for part in (painted, host, weight))
    around = normal & ~own
    level = float(np.median(host[around] if around.any() else h))
    b = 1 - a
    mixed = level + (a * (p - level) + b * (h - level)) / np.sqrt(a**2 + b**2 + 2 * a * b * _ALIKE)
    low, high = window
    return np.clip(mixed, np.minimum(low, h), np.maximum(high, h))


def fade_stack(
    image: np.ndarray,
    applied: AppliedCase,
    stack: Stack,
    weight: np.ndarray,
    normal: np.ndarray,
    windows: Sequence[Sequence[float]],
) -> np.ndarray:
    """Fades the painted slices of a stack.

    Args:
        image: (c, s, h, w) painted intensities of the stack's crop.
        applied: the planned case.
        stack: where they are.
        weight: (n, y, x) of the case (``weights``).
        normal: (n, y, x) bool, the case's normal lung.
        windows: of the generator.

    Returns:
        (c, s, h, w) float32; outside the painted region as ``image``.
    """
    result = image.astype(np.float32)
    for n, (position, own) in enumerate(zip(stack.positions, stack.own, strict=True)):
        if not own.any():
            continue
        place = (position, *stack.crop)
        for channel, window in enumerate(windows):
            host = applied.image[(channel, *place)]
            result[channel, n][own] = faded(image[channel, n], host, weight[place], own, normal[place], window)
    return result
