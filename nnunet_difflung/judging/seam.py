"""The edge of what is painted: does it show?

Around a painted lesion a margin of normal lung is painted too, so the edge of the painted region lies in normal lung on
both sides. There a true value is known: before painting, the host's own neighbours were there, with the steps between
them. A painter that continues the host's noise and vessels leaves these steps as they are on average; one that does not
leaves an edge that a reader sees, and that a segmentation can learn in place of the class. Real lesions fade into the
lung, too, so painted ones are compared with the figure as far from the outlines of real ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.judging.placebo_gate import NAME as PLACEBO
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.preparing.application import AppliedCase, painted_region
from nnunet_difflung.runtime.progress import Tell, nobody, telling

_FEWEST = 8  # pairs of neighbours; with fewer a case is not measured
_SLICES = 8  # of a real case that are looked at for a class, about
_AROUND = 16  # pixels around a real lesion whose normal lung its edge is compared with


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


def steps_within(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(m,) absolute differences of the 4-neighbours that both lie in a mask."""
    differences = [
        np.abs(np.diff(image.astype(float), axis=axis))[mask.take(range(1, n), axis) & mask.take(range(n - 1), axis)]
        for axis, n in enumerate(mask.shape)
    ]
    return np.concatenate(differences)


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


def real_seams(
    cache: SliceCache,
    identifiers: Sequence[str],
    patients: Mapping[str, str],
    sampling: SamplingConfig,
    windows: Sequence[Sequence[float]],
    tell: Tell = nobody,
) -> dict[str, list[float]]:
    """Class → for each channel the step as far from real lesions as painting would end, to that of other normal lung.

    Geometric means over the slices of a patient, and over patients; classes without eight such pairs are left out.

    Args:
        cache: of the real cases.
        identifiers: the fold's training cases.
        patients: case id → patient.
        sampling: settings of painting; without a margin there is nothing to measure.
        windows: of the generator; intensities are clipped to them.
        tell: gets the share of the work that is done.
    """
    found: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    composite, roles = replace(sampling, paint="composite"), cache.roles
    for identifier in telling(sorted(identifiers) if sampling.margin else (), tell):
        image, condition, counts = cache.image(identifier), cache.condition(identifier), cache.facts[identifier].counts
        for name in roles.pathologies:
            holding = np.flatnonzero(np.asarray(counts[name]) >= _FEWEST)
            for z in map(int, holding[:: max(1, len(holding) // _SLICES)]):
                outline = np.asarray(condition[z]) == roles.values[name]
                box = _grown(ndimage.find_objects(outline.astype(np.uint8))[0], sampling.margin + _AROUND)
                shown, label = _clipped(image[:, z][(..., *box)], windows), np.asarray(condition[z][box])
                ratio = _real_ratio(shown, label, outline[box], composite, roles)
                if ratio is not None:
                    found[name][patients[identifier]].append(ratio)
    return {
        name: np.exp(np.mean([np.mean(of, axis=0) for of in of_patients.values()], axis=0)).round(4).tolist()
        for name, of_patients in found.items()
    }


def _real_ratio(
    image: np.ndarray, label: np.ndarray, outline: np.ndarray, sampling: SamplingConfig, roles: LabelRoles
) -> np.ndarray | None:
    """(c,) logarithm of the ratio in a (c, h, w) image; None with too few pairs."""
    region, normal = painted_region(label[None], outline[None], roles, sampling)[0], roles.is_normal(label)
    border, elsewhere = border_of(region & normal, normal & ~region), normal & ~region
    away = np.stack([steps_within(channel, elsewhere) for channel in image])
    if min(len(border.inside), away.shape[1]) < _FEWEST:
        return None
    return np.log(np.clip(steps(image, border).mean(1) / np.maximum(away.mean(1), 1e-9), 1e-3, 1e3))


def _grown(box: Sequence[slice], pixels: int = 1) -> tuple[slice, slice]:
    """A (y, x) box and the pixels around it."""
    y, x = (slice(max(0, part.start - pixels), part.stop + pixels) for part in box)
    return y, x


def _clipped(image: np.ndarray, windows: Sequence[Sequence[float]]) -> np.ndarray:
    low, high = np.asarray(windows, float).T[..., None, None]
    return np.clip(image.astype(float), low, high)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
