"""The memorisation audit: is synthetic lesion texture closer to a training slice than patients are to each other?

A generator that has memorised its training slices paints their texture again, in the same place or elsewhere. So
patches of every painted lesion are compared with the patches around *every* lesion voxel of the training slices, that
is, with every shift, as they are and mirrored, by zero-mean normalised cross-correlation. Only painted voxels of the
lesion's class count. The same figure of real lesions against slices of other patients shows which similarity is normal.
Rotated copies are not searched for, since training only mirrors the slices.

The same number of voxels counts in every patch, since the highest of many correlations depends on that number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.painting.patches import (
    OFFSETS,
    ClassBank,
    MemorisationReference,
    around,
    compare_region,
    grains,
    textured,
)
from nnunet_difflung.runtime.parallel import bar

_BANK = 200_000  # maximum number of training patches kept of a class: 65 MB for each channel
_REGIONS = 300  # maximum number of real regions measured of a class
_FEW = 10  # minimum number of real regions for a 99th percentile


def real_to_real(
    cache: SliceCache,
    identifiers: Sequence[str],
    patients: Mapping[str, str],
    windows: Sequence[Sequence[float]],
    seed: int,
    progress: bool = False,
) -> MemorisationReference:
    """Collects the training patches and measures real regions against the slices of other patients.

    A real region is a class in one slice. At 512 × 512 pixels an element of a patch is 4 × 4 pixels: fine
    noise is averaged out, and 32 elements hold structure that two patients do not share by chance.

    Args:
        cache: of the real cases.
        identifiers: the fold's training cases.
        patients: case id → patient.
        windows: the generator's.
        seed: chooses 200,000 patches if there are more, and 300 real regions if there are more.
        progress: show a progress bar.
    """
    bounds = tuple((float(low), float(high)) for low, high in windows)
    grain = max(1, min(min(cache.facts[i].shape[1:]) for i in identifiers) // 128)
    empty = MemorisationReference(bounds, grain, {})
    classes = {}
    for name in cache.roles.pathologies:
        rng = np.random.default_rng([seed, cache.roles.values[name]])
        bank = _bank(cache, sorted(identifiers), name, empty, rng)
        if bank is not None:
            real = _real_figures(cache, bank, patients, empty, rng, progress)
            p99 = float(np.percentile(real, 99)) if len(real) >= _FEW else None
            classes[name] = replace(bank, real=real, real_p99=p99)
    return MemorisationReference(bounds, grain, classes)


def _bank(
    cache: SliceCache, identifiers: Sequence[str], name: str, reference: MemorisationReference, rng: np.random.Generator
) -> ClassBank | None:
    """Patches around all training voxels of a class, or around 200,000 voxels drawn at random if there are more."""
    value, patches = cache.roles.values[name], []
    slices: list[tuple[str, int]] = []
    source: list[int] = []
    kept = min(1.0, _BANK / max(1, sum(cache.facts[i].voxels(name) for i in identifiers)))
    for identifier in identifiers:
        for z in np.flatnonzero(cache.facts[identifier].counts[name]):
            centres = np.argwhere(np.asarray(cache.condition(identifier)[z]) == value)
            centres = centres[rng.random(len(centres)) < kept]
            image = grains(np.asarray(cache.image(identifier)[:, z]), reference)
            patches.append(around(image, centres, OFFSETS * reference.grain))
            source += [len(slices)] * len(centres)
            slices.append((identifier, int(z)))
    if not source:
        return None
    stacked = np.concatenate(patches, axis=1)
    stacked -= stacked.mean(-1, keepdims=True)
    return ClassBank(value, stacked, tuple(slices), np.array(source), np.empty(0), None, kept, textured(stacked))


def _real_figures(
    cache: SliceCache,
    bank: ClassBank,
    patients: Mapping[str, str],
    reference: MemorisationReference,
    rng: np.random.Generator,
    progress: bool,
) -> np.ndarray:
    figures = []
    chosen = sorted(rng.permutation(len(bank.slices))[:_REGIONS])
    for number in bar(chosen, visible=progress, desc="how alike patients are", unit="region", delay=2):
        case, z = bank.slices[number]
        of_patient = {i for i, _ in bank.slices if patients[i] == patients[case]}
        region = np.asarray(cache.condition(case)[z : z + 1]) == bank.value
        measured = compare_region(np.asarray(cache.image(case)[:, z : z + 1]), region, bank, reference, of_patient)
        if measured:
            figures.append(measured["similarity"])
    return np.sort(figures)


def nearest(
    values: np.ndarray,
    changed: np.ndarray,
    label: np.ndarray,
    reference: MemorisationReference,
    exclude: Collection[str] = (),
) -> dict[str, dict | None]:
    """Finds the training slice that a synthetic case's lesions resemble most.

    Args:
        values: (c, z, y, x) the synthetic image in the dataset's intensities.
        changed: (z, y, x) bool, the voxels that got a new label.
        label: (z, y, x) the new label values.
        reference: result of ``real_to_real``.
        exclude: training cases to leave out of the comparison.

    Returns:
        painted class → similarity (90th percentile over its patches of the highest correlation, −1 to 1), nearest_case
        and nearest_slice (the slice that most of the patches with at least this similarity resemble), above_real_p99
        (None if the reference has no such percentile), patches. None for a class with too few painted voxels.
    """
    resemblance: dict[str, dict | None] = {}
    for name, bank in reference.classes.items():
        region = changed & (label == bank.value)
        if region.any():
            resemblance[name] = compare_region(values, region, bank, reference, exclude)
    return resemblance


def summarise(rows: Iterable[Mapping[str, dict | None]]) -> dict[str, dict]:
    """Summarises the results of ``nearest`` over several cases.

    Returns:
        class → number of measured cases, their mean similarity, and the share above the 99th percentile of real regions
        (None if there is no such percentile).
    """
    measured: dict[str, list[dict]] = {}
    for row in rows:
        for name, entry in row.items():
            entries = measured.setdefault(name, [])
            if entry:
                entries.append(entry)
    summary = {}
    for name, entries in sorted(measured.items()):
        verdicts = [entry["above_real_p99"] for entry in entries if entry["above_real_p99"] is not None]
        summary[name] = {
            "cases": len(entries),
            "mean": round(float(np.mean([e["similarity"] for e in entries])), 4) if entries else None,
            "share_above_real_p99": round(float(np.mean(verdicts)), 4) if verdicts else None,
            "real_regions": entries[0]["real_regions"] if entries else None,
            "searched": entries[0]["searched"] if entries else None,
        }
    return summary
