"""The edge of what is painted: does it show?

Around a painted lesion a margin of normal lung is painted too, so the edge of the painted region lies in normal lung on
both sides. There a true value is known: before painting, the host's own neighbours were there, with the steps between
them. A painter that continues the host's noise and vessels leaves these steps as they are on average; one that does not
leaves an edge that a reader sees, and that a segmentation can learn in place of the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.painting.application import AppliedCase
from nnunet_difflung.painting.placebo_gate import NAME as PLACEBO

_FEWEST = 8  # pairs of neighbours; with fewer a case is not measured


@dataclass(frozen=True)
class Border:
    """Pairs of neighbouring pixels across the border of a region.

    Attributes:
        inside: (m, 2) y, x of the pixels in the region.
        outside: (m, 2) y, x of their neighbours.
    """

    inside: np.ndarray
    outside: np.ndarray


def border_of(region: np.ndarray, outside: np.ndarray) -> Border:
    """The pairs of 4-neighbours of which one lies in the region and the other in ``outside``.

    Args:
        region: (h, w) bool.
        outside: (h, w) bool; pixels of the region are left out.
    """
    outside = outside & ~region
    pairs = []
    for step in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        moved = np.zeros_like(outside)
        target, source = _shifted(step)
        moved[target] = outside[source]
        inside = np.argwhere(region & moved)
        pairs.append((inside, inside + step))
    return Border(*(np.concatenate(parts) for parts in zip(*pairs, strict=True)))


def _shifted(step: tuple[int, int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of a pixel and of its neighbour at ``step``."""
    target = tuple(slice(max(0, -s), None if s <= 0 else -s) for s in step)
    return target, tuple(slice(max(0, s), None if s >= 0 else s) for s in step)


def steps(image: np.ndarray, border: Border) -> np.ndarray:
    """(…, m) absolute differences across the border of a (…, h, w) image."""
    inside, outside = (image[(..., *part.T)].astype(float) for part in (border.inside, border.outside))
    return np.abs(inside - outside)


def seam_of(
    applied: AppliedCase, values: np.ndarray, roles: LabelRoles, windows: Sequence[Sequence[float]]
) -> dict[str, list[dict[str, float]]]:
    """Class → mean step across the edge of what was painted for it, and the host's own step there, in each channel.

    Only pairs of normal lung on both sides count: a pixel of the painted margin, and one that was left as it was. A
    pair belongs to the class of the nearest voxel of the case's outline, in a placebo case to ``placebo_gate.NAME``.

    Args:
        applied: the planned case.
        values: (c, n, y, x) its painted intensities.
        roles: of the labels.
        windows: of the generator; intensities are clipped to them.

    Returns:
        Class → a {painted, host, pairs} for each channel, in the dataset's unit. Classes with fewer than eight pairs
        are left out, and so there are none without a margin.
    """
    images = (values, applied.image)
    margin, sums = applied.region & ~applied.outline, dict[str, list[np.ndarray]]()
    for n in map(int, np.flatnonzero(margin.any((1, 2)) & applied.outline.any((1, 2)))):
        y, x = box = _grown(ndimage.find_objects(applied.region[n].astype(np.uint8))[0])
        label, outline = applied.new_label[n][box], applied.outline[n][box]
        normal = roles.is_normal(label)
        border = border_of(applied.region[n][box], normal)
        in_margin = (margin[n][box] & normal)[tuple(border.inside.T)]
        border = Border(border.inside[in_margin], border.outside[in_margin])
        pairs = np.stack([steps(_clipped(image[:, n, y, x], windows), border) for image in images])
        if applied.placebo is not None:
            sums.setdefault(PLACEBO, []).append(pairs)
            continue
        nearest = ndimage.distance_transform_edt(~outline, return_distances=False, return_indices=True)
        owners = label[tuple(nearest[(slice(None), *border.inside.T)])]
        for name in roles.pathologies:
            own = pairs[..., owners == roles.values[name]]
            if own.shape[-1]:
                sums.setdefault(name, []).append(own)
    joined = {name: np.concatenate(parts, axis=-1) for name, parts in sums.items()}
    return {
        name: [
            {"painted": _rounded(of_painted.mean()), "host": _rounded(of_host.mean()), "pairs": len(of_host)}
            for of_painted, of_host in zip(*pairs, strict=True)
        ]
        for name, pairs in joined.items()
        if pairs.shape[-1] >= _FEWEST
    }


def _grown(box: Sequence[slice]) -> tuple[slice, slice]:
    """A (y, x) box and the pixels around it."""
    y, x = (slice(max(0, part.start - 1), part.stop + 1) for part in box)
    return y, x


def _clipped(image: np.ndarray, windows: Sequence[Sequence[float]]) -> np.ndarray:
    low, high = np.asarray(windows, float).T[..., None, None]
    return np.clip(image.astype(float), low, high)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
