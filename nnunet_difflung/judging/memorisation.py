"""The memorisation audit: is synthetic lesion texture closer to a training slice than patients are to each other?

A generator that has memorised its training slices paints their texture again, in the same place or elsewhere. So
patches of every painted lesion are compared with the patches around *every* lesion voxel of the training slices, that
is, with every shift, as they are and mirrored, by zero-mean normalised cross-correlation. Only painted voxels of the
lesion's class count. The same figure of real lesions against slices of other patients shows which similarity is normal.
Rotated copies are not searched for, since training only mirrors the slices.

The same number of voxels counts in every patch, since the highest of many correlations depends on that number.

The 99th percentile of a few real lesions is about the highest of them, which more than 1 % of further lesions exceed.
And a painted lesion is compared with all patients, a real one with all others. ``expected_share`` allows for both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.judging.patches import (
    OFFSETS,
    ClassBank,
    MemorisationReference,
    around,
    compare_region,
    grains,
    textured,
)
from nnunet_difflung.runtime.parallel import bar, in_threads

_BANK = 200_000  # maximum number of training patches kept of a class: 65 MB for each channel
_REGIONS = 300  # maximum number of real regions measured of a class
_FEW = 10  # minimum number of real regions for a 99th percentile
_CHANCE = 0.01  # that as many cases lie above it if painted lesions are as unlike as patients are to each other


def real_to_real(
    cache: SliceCache,
    identifiers: Sequence[str],
    patients: Mapping[str, str],
    windows: Sequence[Sequence[float]],
    seed: int,
    progress: bool = False,
    threads: int = 1,
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
        threads: number of threads that measure real regions.
    """
    bounds = tuple((float(low), float(high)) for low, high in windows)
    grain = max(1, min(min(cache.facts[i].shape[1:]) for i in identifiers) // 128)
    empty = MemorisationReference(bounds, grain, {})
    classes = {}
    for name in cache.roles.pathologies:
        rng = np.random.default_rng([seed, cache.roles.values[name]])
        bank = _bank(cache, sorted(identifiers), name, empty, rng, progress)
        if bank is not None:
            real = _real_figures(cache, bank, patients, empty, rng, progress, threads)
            p99 = float(np.percentile(real, 99)) if len(real) >= _FEW else None
            of_class = len({patients[identifier] for identifier, _ in bank.slices})
            classes[name] = replace(bank, real=real, real_p99=p99, patients=of_class)
    return MemorisationReference(bounds, grain, classes)


def _bank(
    cache: SliceCache,
    identifiers: Sequence[str],
    name: str,
    reference: MemorisationReference,
    rng: np.random.Generator,
    progress: bool,
) -> ClassBank | None:
    """Patches around all training voxels of a class, or around 200,000 voxels drawn at random if there are more."""
    value, patches = cache.roles.values[name], []
    slices: list[tuple[str, int]] = []
    source: list[int] = []
    kept = min(1.0, _BANK / max(1, sum(cache.facts[i].voxels(name) for i in identifiers)))
    for identifier in bar(identifiers, visible=progress, desc="collecting real lesions", unit="case", delay=2):
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
    threads: int,
) -> np.ndarray:
    """Sorted similarities of real regions to the slices of other patients."""

    def compare(number: int) -> dict | None:
        case, z = bank.slices[number]
        of_patient = {i for i, _ in bank.slices if patients[i] == patients[case]}
        region = np.asarray(cache.condition(case)[z : z + 1]) == bank.value
        return compare_region(np.asarray(cache.image(case)[:, z : z + 1]), region, bank, reference, of_patient)

    chosen = sorted(rng.permutation(len(bank.slices))[:_REGIONS])
    title = "how alike patients are"
    with in_threads(compare, chosen, threads) as results:
        found = bar(results, visible=progress, total=len(chosen), desc=title, unit="region", delay=2)
        return np.sort([measured["similarity"] for measured in found if measured])


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
        class → number of measured cases, their mean similarity, the share above the 99th percentile of real regions
        (None if there is no such percentile), and what ``expected_share`` depends on.
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
            "patients": entries[0].get("patients") if entries else None,  # an earlier version did not record it
        }
    return summary


def expected_share(row: Mapping) -> float:
    """The share of cases expected above the 99th percentile of real regions if nothing was copied.

    Args:
        row: of a class, from ``summarise``, with a ``share_above_real_p99``.
    """
    above, below = _exceeding(row)
    return above / (above + below)


def fewest_suspicious(row: Mapping) -> int:
    """The smallest number of cases above that percentile that is beyond chance; it may be more than there are cases.

    Args:
        row: as for ``expected_share``.
    """
    from scipy.stats import betabinom  # importing it takes a second, which commands that end early save

    return int(betabinom.isf(_CHANCE, row["cases"], *_exceeding(row))) + 1


def is_suspicious(row: Mapping) -> bool:
    """Whether more cases lie above that percentile than by chance; see ``fewest_suspicious``."""
    return round(row["share_above_real_p99"] * row["cases"]) >= fewest_suspicious(row)


def _exceeding(row: Mapping) -> tuple[float, float]:
    """Parameters of the beta distribution of the share of further lesions above the 99th percentile of n real ones.

    It is that of the share above the value with rank 1 + 0.99 (n − 1). A painted lesion is compared with all patients
    instead of all but one, so it has as many more chances to exceed it.
    """
    regions, patients = row["real_regions"], row.get("patients") or 0
    rank = 1 + 0.99 * (regions - 1)
    return regions + 1 - rank, rank * (patients - 1) / patients if patients > 1 else rank
