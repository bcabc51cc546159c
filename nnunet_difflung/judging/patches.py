"""Patches of lesion texture and their correlation with a bank of training patches; see ``memorisation``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from nnunet_difflung.generator.encoding import normalise

_EDGE = 9  # grains along a patch's sides
_VOXELS = 32  # number of grains of a patch that count: those of the lesion that are nearest to the centre
_PATCHES = 64  # maximum number of patches of a region, evenly spread
_LEAST = 4  # minimum number of patches of a region that is compared
_PERCENTILE = 90  # over a region's patches: rises if part of it is a copy, but not if one patch matches by chance
_FLAT = 2e-3  # standard deviation in the normalised window (2 HU in CT's) below which there is no texture
_CHUNK = 2_048  # training patches compared at a time: what is computed of them fits into a processor's cache

_offsets = np.indices((_EDGE, _EDGE)).reshape(2, -1).T - _EDGE // 2
OFFSETS = _offsets[np.argsort(np.hypot(*_offsets.T), kind="stable")]  # (81, 2), nearest to the centre first


@dataclass(frozen=True)
class ClassBank:
    """Training patches of a class, and the similarity of its real regions to slices of other patients.

    Attributes:
        value: the class's label value.
        patches: (c, n, 81) normalised intensities around training voxels of the class, each minus its mean.
        slices: (case, z) of the slices that the patches come from.
        source: (n,) index into ``slices``.
        real: sorted similarities of real regions to other patients' slices.
        real_p99: the 99th percentile of ``real``; None with fewer than ten values. With fewer than a hundred it is
            close to the highest value.
        searched: share of the training voxels of the class that have a patch.
        textured: number of channels with any texture in the patches.
        patients: number of patients whom the patches come from.
    """

    value: int
    patches: np.ndarray
    slices: tuple[tuple[str, int], ...]
    source: np.ndarray
    real: np.ndarray
    real_p99: float | None
    searched: float = 1.0
    textured: int = 1
    patients: int | None = None


@dataclass(frozen=True)
class MemorisationReference:
    """The training patches that the synthetic regions of a fold are compared with.

    Attributes:
        windows: for each channel the (low, high) range of intensities; values outside are clipped.
        grain: edge in pixels of an element of a patch; the mean over the element is compared.
        classes: pathology → its bank; pathologies without training voxels are missing.
    """

    windows: tuple[tuple[float, float], ...]
    grain: int
    classes: dict[str, ClassBank]


def grains(image: np.ndarray, reference: MemorisationReference) -> np.ndarray:
    """Normalises (c, y, x) intensities and averages them over a grain around each pixel."""
    image = normalise(image, reference.windows)
    return image if reference.grain == 1 else ndimage.uniform_filter(image, (0, reference.grain, reference.grain))


def textured(patches: np.ndarray) -> int:
    """Number of channels of (c, n, k) patches that have texture somewhere; at least 1."""
    return max(1, sum(bool((channel.std(-1) > _FLAT).any()) for channel in patches))


def around(
    image: np.ndarray, centres: np.ndarray, offsets: np.ndarray, mode: Literal["edge", "constant"] = "edge"
) -> np.ndarray:
    """Values (c, n, k) of a (c, y, x) image at (k, 2) offsets around (n, 2) centres; ``mode`` pads the border."""
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
    both = [_patches(values, region, centres, mirror, reference) for mirror in (1, -1)]
    patches, counted = (np.concatenate(parts, axis=-2) for parts in zip(*both, strict=True))
    similarity, index = (found.reshape(2, -1) for found in _best(patches, counted, bank, allowed))
    mirrored = (similarity[1] > similarity[0]).astype(int)
    best, match = (np.choose(mirrored, found) for found in (similarity, index))
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
        "patients": bank.patients,
    }


def _centres(region: np.ndarray, grain: int) -> np.ndarray:
    """(n, 3) z, y, x of at most 64 voxels, evenly spread over the voxels with enough of the region around them."""
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
    """(n,) highest correlation of each patch with the bank, the mean of channels with texture, and its index there.

    A correlation is a product of patches of unit length, of which the bank's depends on the grains that count. So its
    length is computed once for all patches in which the same grains do.
    """
    used = counted.any(0)  # grains that count in no patch are left out of all products
    weight = counted[:, used].astype(np.float32)
    centred = weight * (patches[..., used] - (patches[..., used] * weight).sum(-1, keepdims=True) / _VOXELS)
    own = centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), _FLAT * _VOXELS**0.5)
    masks, of_patch = np.unique(weight, axis=0, return_inverse=True)
    best, index = np.full(len(weight), -1.0), np.zeros(len(weight), int)
    for start in range(0, len(allowed), _CHUNK):
        chosen = np.flatnonzero(allowed[start : start + _CHUNK])
        if not len(chosen):
            continue
        similarity = np.zeros((len(weight), len(chosen)), np.float32)
        for of_channel, all_others in zip(own, bank.patches[:, start : start + _CHUNK], strict=True):
            others = all_others[np.ix_(chosen, used)]
            similarity += (of_channel @ others.T) / _lengths(masks, others)[of_patch.reshape(-1)]
        at = similarity.argmax(1)
        highest = similarity[np.arange(len(at)), at] / bank.textured
        better = highest > best
        best[better], index[better] = highest[better], start + chosen[at[better]]
    return best, index


def _lengths(masks: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """(m, n) lengths of (n, k) patches whose mean is subtracted, over the grains of each of (m, k) masks."""
    square, mean = masks @ (patches**2).T, masks @ patches.T  # large: no further array of their size
    np.square(mean, out=mean)
    mean /= _VOXELS
    square -= mean
    return np.sqrt(np.maximum(square, _FLAT**2 * _VOXELS, out=square), out=square)
