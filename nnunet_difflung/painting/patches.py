"""Patches of lesion texture and their correlation with a bank of training patches; see ``memorisation``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from nnunet_difflung.generator.encoding import normalise

_EDGE = 9  # grains along a patch's sides
_VOXELS = 32  # grains of a patch that count: those of the lesion nearest to its centre
_PATCHES = 64  # of a region, evenly spread; fewer than _LEAST say nothing
_LEAST = 4
_PERCENTILE = 90  # of a region's patches: a copied part is enough, one lucky patch is not
_FLAT = 2e-3  # standard deviation in the normalised window (2 HU in CT's) below which there is no texture
_CHUNK = 16_384  # training patches compared at a time

_offsets = np.indices((_EDGE, _EDGE)).reshape(2, -1).T - _EDGE // 2
OFFSETS = _offsets[np.argsort(np.hypot(*_offsets.T), kind="stable")]  # (81, 2), nearest to the centre first


@dataclass(frozen=True)
class ClassBank:
    """Training patches of one class, and how close real regions are to those of other patients.

    Attributes:
        value: the class's label value.
        patches: (c, n, 81) normalised intensities around training voxels of the class, each minus its mean.
        slices: (case, z) of the slices that they come from.
        source: (n,) index into ``slices``.
        real: sorted similarities of real regions to other patients' slices.
        real_p99: their 99th percentile; None with fewer than ten (their
            highest stands in for it up to a hundred).
        searched: share of the training voxels of the class that the patches are around.
    """

    value: int
    patches: np.ndarray
    slices: tuple[tuple[str, int], ...]
    source: np.ndarray
    real: np.ndarray
    real_p99: float | None
    searched: float = 1.0


@dataclass(frozen=True)
class MemorisationReference:
    """What synthetic regions of a fold are compared with.

    Attributes:
        windows: for each channel the (low, high) intensities that are compared; others are clipped.
        grain: pixels along the side of a patch's element (their mean is compared).
        classes: pathology → its bank; pathologies without training voxels are missing.
    """

    windows: tuple[tuple[float, float], ...]
    grain: int
    classes: dict[str, ClassBank]


def grains(image: np.ndarray, reference: MemorisationReference) -> np.ndarray:
    """(c, y, x) intensities → normalised means over a grain around each pixel."""
    image = normalise(image, reference.windows)
    return image if reference.grain == 1 else ndimage.uniform_filter(image, (0, reference.grain, reference.grain))


def around(
    image: np.ndarray, centres: np.ndarray, offsets: np.ndarray, mode: Literal["edge", "constant"] = "edge"
) -> np.ndarray:
    """(c, y, x), (n, 2), (k, 2) → (c, n, k): values at the offsets around each centre; ``mode``: beyond the border."""
    reach = int(np.abs(offsets).max())
    rows, columns = np.moveaxis(centres[:, None] + offsets + reach, -1, 0)
    return np.pad(image, [(0, 0), (reach, reach), (reach, reach)], mode)[:, rows, columns]


def compare_region(
    values: np.ndarray, region: np.ndarray, bank: ClassBank, reference: MemorisationReference, exclude: Collection[str]
) -> dict | None:
    """Similarity of a (z, y, x) region of a (c, z, y, x) image to the bank's nearest slice; None if it is too small."""
    centres = _centres(region, reference.grain)
    allowed = np.array([case not in exclude for case, _ in bank.slices])[bank.source]
    if len(centres) < _LEAST or not allowed.any():
        return None
    best, match = np.full(len(centres), -1.0), np.zeros(len(centres), int)
    for mirror in (1, -1):
        patches, counted = _patches(values, region, centres, mirror, reference)
        similarity, index = _best(patches, counted, bank, allowed)
        better = similarity > best
        best[better], match[better] = similarity[better], index[better]
    figure = float(np.percentile(best, _PERCENTILE))
    votes = np.bincount(bank.source[match[best >= figure]], minlength=len(bank.slices))
    case, z = bank.slices[int(votes.argmax())]
    figure = round(figure, 4)
    return {
        "similarity": figure,
        "nearest_case": case,
        "nearest_slice": z,
        "above_real_p99": None if bank.real_p99 is None else figure > bank.real_p99,
        "patches": len(best),
        "real_regions": len(bank.real),
        "searched": round(bank.searched, 4),
    }


def _centres(region: np.ndarray, grain: int) -> np.ndarray:
    """(n, 3) z, y, x: at most 64 voxels, evenly spread over those with enough of the region around them."""
    of_slices = [np.empty((0, 3), int)]
    for z in np.flatnonzero(region.any((1, 2))):
        plane = np.argwhere(region[z])
        enough = around(region[z][None], plane, OFFSETS * grain, "constant")[0].sum(1) >= _VOXELS
        of_slices.append(np.insert(plane[enough], 0, z, axis=1))
    centres = np.concatenate(of_slices)
    return centres[np.linspace(0, len(centres) - 1, min(_PATCHES, len(centres))).astype(int)]


def _patches(
    values: np.ndarray, region: np.ndarray, centres: np.ndarray, mirror: int, reference: MemorisationReference
) -> tuple[np.ndarray, np.ndarray]:
    """(c, n, 81) patches around the centres, mirrored if ``mirror`` is −1, and (n, 81) bool, the 32 that count."""
    offsets, patches, counted = OFFSETS * (reference.grain, mirror * reference.grain), [], []
    for z in np.unique(centres[:, 0]):
        here = centres[centres[:, 0] == z, 1:]
        patches.append(around(grains(values[:, z], reference), here, offsets))
        inside = around(region[z][None], here, offsets, "constant")[0]
        counted.append(inside & (inside.cumsum(1) <= _VOXELS))
    return np.concatenate(patches, axis=1), np.concatenate(counted)


def _best(
    patches: np.ndarray, counted: np.ndarray, bank: ClassBank, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) highest correlation of each patch over the bank, averaged over channels, and where in the bank it is."""
    weight = counted.astype(np.float32)
    centred = weight * (patches - (patches * weight).sum(-1, keepdims=True) / _VOXELS)
    norm = np.maximum(np.linalg.norm(centred, axis=-1), _FLAT * _VOXELS**0.5)
    best, index = np.full(len(weight), -1.0), np.zeros(len(weight), int)
    for start in range(0, len(allowed), _CHUNK):
        chosen = start + np.flatnonzero(allowed[start : start + _CHUNK])
        if not len(chosen):
            continue
        similarity = np.zeros((len(weight), len(chosen)), np.float32)
        for own, length, others in zip(centred, norm, bank.patches[:, chosen], strict=True):
            square = weight @ (others**2).T - (weight @ others.T) ** 2 / _VOXELS
            similarity += (own @ others.T) / (length[:, None] * np.sqrt(np.maximum(square, _FLAT**2 * _VOXELS)))
        at = similarity.argmax(1)
        highest = similarity[np.arange(len(at)), at] / len(centred)
        better = highest > best
        best[better], index[better] = highest[better], chosen[at[better]]
    return best, index
