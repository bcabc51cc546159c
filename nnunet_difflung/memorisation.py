"""The memorisation audit: is synthetic lesion texture closer to a training slice than patients are to each other?

A generator that has learned its training slices by heart paints their texture again, in its place or elsewhere. So
patches of every painted lesion are compared with the patches around *every* lesion voxel of the training slices
(which is every shift), as they are and mirrored, by zero-mean normalised cross-correlation over painted voxels alone:
what is real in the patch, and what lies in another class, does not count. The same figure of real lesions against the
slices of other patients says what closeness means nothing. Copies that are rotated are not looked for; the generator
sees its training slices mirrored at most.

Every patch counts the same number of voxels, since the best of many correlations depends on it.
"""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_difflung.batches import normalise
from nnunet_difflung.slices import SliceCache

_EDGE = 9  # grains along a patch's sides
_VOXELS = 32  # grains of a patch that count: those of the lesion nearest to its centre
_PATCHES = 64  # of a region, evenly spread; fewer than _LEAST say nothing
_LEAST = 4
_PERCENTILE = 90  # of a region's patches: a copied part is enough, one lucky patch is not
_BANK = 200_000  # training patches kept of a class: 65 MB for each channel
_REGIONS = 300  # real regions measured of a class
_FEW = 5  # real regions, below which there is no 99th percentile to speak of
_FLAT = 2e-3  # standard deviation in the normalised window (2 HU in CT's) below which there is no texture
_CHUNK = 16_384  # training patches compared at a time

_offsets = np.indices((_EDGE, _EDGE)).reshape(2, -1).T - _EDGE // 2
_OFFSETS = _offsets[np.argsort(np.hypot(*_offsets.T), kind="stable")]  # (81, 2), nearest to the centre first


@dataclass(frozen=True)
class ClassBank:
    """Training patches of one class, and how close real regions are to those of other patients.

    Attributes:
        value: the class's label value.
        patches: (c, n, 81) normalised intensities around training voxels of the class, each minus its mean.
        slices: (case, z) of the slices that they come from.
        source: (n,) index into ``slices``.
        real: sorted similarities of real regions to other patients' slices.
        real_p99: their 99th percentile; None with fewer than five.
    """

    value: int
    patches: np.ndarray
    slices: tuple[tuple[str, int], ...]
    source: np.ndarray
    real: np.ndarray
    real_p99: float | None


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


def real_to_real(cache: SliceCache, identifiers: Sequence[str], patients: Mapping[str, str],
                 windows: Sequence[Sequence[float]], seed: int) -> MemorisationReference:
    """Collects the training patches and measures real regions against the slices of other patients.

    A real region is a class in one slice. At 512 × 512 pixels an element of a patch is 4 × 4 pixels: fine
    noise is averaged out, and 32 elements hold structure that two patients do not share by chance.

    Args:
        cache: of the real cases.
        identifiers: the fold's training cases.
        patients: case id → patient.
        windows: the generator's.
        seed: of the patches kept where there are more than 200,000, and of the regions where more than 300.
    """
    windows = tuple((float(low), float(high)) for low, high in windows)
    grain = max(1, min(min(cache.facts[i].shape[1:]) for i in identifiers) // 128)
    empty = MemorisationReference(windows, grain, {})
    classes = {}
    for name in cache.roles.pathologies:
        rng = np.random.default_rng([seed, cache.roles.values[name]])
        bank = _bank(cache, sorted(identifiers), name, empty, rng)
        if bank is not None:
            real = _real_figures(cache, bank, patients, empty, rng)
            p99 = float(np.percentile(real, 99)) if len(real) >= _FEW else None
            classes[name] = ClassBank(bank.value, bank.patches, bank.slices, bank.source, real, p99)
    return MemorisationReference(windows, grain, classes)


def _bank(cache: SliceCache, identifiers: Sequence[str], name: str, reference: MemorisationReference,
          rng: np.random.Generator) -> ClassBank | None:
    """Patches around all training voxels of a class, or around a random 200,000 of them."""
    value, slices, patches, source = cache.roles.values[name], [], [], []
    kept = min(1.0, _BANK / max(1, sum(cache.facts[i].voxels(name) for i in identifiers)))
    for identifier in identifiers:
        for z in np.flatnonzero(cache.facts[identifier].counts[name]):
            centres = np.argwhere(np.asarray(cache.condition(identifier)[z]) == value)
            centres = centres[rng.random(len(centres)) < kept]
            image = _grains(np.asarray(cache.image(identifier)[:, z]), reference)
            patches.append(_around(image, centres, _OFFSETS * reference.grain))
            source += [len(slices)] * len(centres)
            slices.append((identifier, int(z)))
    if not source:
        return None
    stacked = np.concatenate(patches, axis=1)
    stacked -= stacked.mean(-1, keepdims=True)
    return ClassBank(value, stacked, tuple(slices), np.array(source), np.empty(0), None)


def _real_figures(cache: SliceCache, bank: ClassBank, patients: Mapping[str, str], reference: MemorisationReference,
                  rng: np.random.Generator) -> np.ndarray:
    figures = []
    for number in sorted(rng.permutation(len(bank.slices))[:_REGIONS]):
        case, z = bank.slices[number]
        same = {i for i, _ in bank.slices if patients[i] == patients[case]}
        region = np.asarray(cache.condition(case)[z:z + 1]) == bank.value
        found = _compare(np.asarray(cache.image(case)[:, z:z + 1]), region, bank, reference, same)
        figures += [found["similarity"]] if found else []
    return np.sort(figures)


def _grains(image: np.ndarray, reference: MemorisationReference) -> np.ndarray:
    """(c, y, x) intensities → normalised means over a grain around each pixel."""
    image = normalise(image, reference.windows)
    return image if reference.grain == 1 else ndimage.uniform_filter(image, (0, reference.grain, reference.grain))


def _around(image: np.ndarray, centres: np.ndarray, offsets: np.ndarray, mode: str = "edge") -> np.ndarray:
    """(c, y, x), (n, 2), (k, 2) → (c, n, k): values at the offsets around each centre; ``mode``: beyond the border."""
    reach = int(np.abs(offsets).max())
    rows, columns = np.moveaxis(centres[:, None] + offsets + reach, -1, 0)
    return np.pad(image, [(0, 0), (reach, reach), (reach, reach)], mode)[:, rows, columns]


def nearest(values: np.ndarray, changed: np.ndarray, label: np.ndarray, reference: MemorisationReference,
            exclude: Collection[str] = ()) -> dict[str, dict | None]:
    """Finds the training slice that a synthetic case's lesions resemble most.

    Args:
        values: (c, z, y, x) the synthetic image in the dataset's intensities.
        changed: (z, y, x) bool, the voxels that got a new label.
        label: (z, y, x) the new label values.
        reference: from ``real_to_real``.
        exclude: training cases not to compare with.

    Returns:
        painted class → similarity (90th percentile over its patches of the best correlation, −1 to 1), nearest_case
        and nearest_slice (to most of the patches that are at least that similar), above_real_p99 (None where the
        reference has no such percentile), patches. None for a class painted too small to compare.
    """
    found: dict[str, dict | None] = {}
    for name, bank in reference.classes.items():
        region = changed & (label == bank.value)
        if region.any():
            found[name] = _compare(values, region, bank, reference, exclude)
    return found


def _compare(values: np.ndarray, region: np.ndarray, bank: ClassBank, reference: MemorisationReference,
             exclude: Collection[str]) -> dict | None:
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
    return {"similarity": figure, "nearest_case": case, "nearest_slice": z,
            "above_real_p99": None if bank.real_p99 is None else figure > bank.real_p99, "patches": len(best)}


def _centres(region: np.ndarray, grain: int) -> np.ndarray:
    """(n, 3) z, y, x: at most 64 voxels, evenly spread over those with enough of the region around them."""
    found = [np.empty((0, 3), int)]
    for z in np.flatnonzero(region.any((1, 2))):
        plane = np.argwhere(region[z])
        enough = _around(region[z][None], plane, _OFFSETS * grain, "constant")[0].sum(1) >= _VOXELS
        found.append(np.insert(plane[enough], 0, z, axis=1))
    centres = np.concatenate(found)
    return centres[np.linspace(0, len(centres) - 1, min(_PATCHES, len(centres))).astype(int)]


def _patches(values: np.ndarray, region: np.ndarray, centres: np.ndarray, mirror: int,
             reference: MemorisationReference) -> tuple[np.ndarray, np.ndarray]:
    """(c, n, 81) patches around the centres, mirrored if ``mirror`` is −1, and (n, 81) bool, the 32 that count."""
    offsets, patches, counted = _OFFSETS * (reference.grain, mirror * reference.grain), [], []
    for z in np.unique(centres[:, 0]):
        here = centres[centres[:, 0] == z, 1:]
        patches.append(_around(_grains(values[:, z], reference), here, offsets))
        inside = _around(region[z][None], here, offsets, "constant")[0]
        counted.append(inside & (inside.cumsum(1) <= _VOXELS))
    return np.concatenate(patches, axis=1), np.concatenate(counted)


def _best(patches: np.ndarray, counted: np.ndarray, bank: ClassBank,
          allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) highest correlation of each patch over the bank, averaged over channels, and where in the bank it is."""
    weight = counted.astype(np.float32)
    centred = weight * (patches - (patches * weight).sum(-1, keepdims=True) / _VOXELS)
    norm = np.maximum(np.linalg.norm(centred, axis=-1), _FLAT * _VOXELS ** 0.5)
    best, index = np.full(len(weight), -1.0), np.zeros(len(weight), int)
    for start in range(0, len(allowed), _CHUNK):
        chosen = start + np.flatnonzero(allowed[start:start + _CHUNK])
        if not len(chosen):
            continue
        similarity = np.zeros((len(weight), len(chosen)), np.float32)
        for own, length, others in zip(centred, norm, bank.patches[:, chosen], strict=True):
            square = weight @ (others ** 2).T - (weight @ others.T) ** 2 / _VOXELS
            similarity += (own @ others.T) / (length[:, None] * np.sqrt(np.maximum(square, _FLAT ** 2 * _VOXELS)))
        at = similarity.argmax(1)
        highest = similarity[np.arange(len(at)), at] / len(centred)
        better = highest > best
        best[better], index[better] = highest[better], chosen[at[better]]
    return best, index


def summarise(rows: Iterable[Mapping[str, dict | None]]) -> dict[str, dict]:
    """What ``nearest`` found in several cases, together.

    Returns:
        class → cases that could be measured, their mean similarity, and the share of them above the 99th percentile
        of real regions (None where there is no such percentile).
    """
    found: dict[str, list[dict]] = {}
    for row in rows:
        for name, entry in row.items():
            found.setdefault(name, []).extend([entry] if entry else [])
    summary = {}
    for name, entries in sorted(found.items()):
        verdicts = [entry["above_real_p99"] for entry in entries if entry["above_real_p99"] is not None]
        summary[name] = {"cases": len(entries),
                         "mean": round(float(np.mean([e["similarity"] for e in entries])), 4) if entries else None,
                         "share_above_real_p99": round(float(np.mean(verdicts)), 4) if verdicts else None}
    return summary
