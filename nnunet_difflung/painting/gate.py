"""The quality gate: does painted emphysema have the intensities of this fold's real emphysema?

A class that the generator has not learned is painted as normal lung under a pathology's label and poisons the training,
so every synthetic case is measured against the real voxels of the training fold, in the dataset's units (HU for CT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache

_PER_SLICE = 400  # voxels kept of a class in a slice
_MIN_VOXELS = 8  # minimum sample size
_SLACK = 1.25  # on the real slices' 95th percentile
_POOL = 20_000  # voxels kept of a class
_FEW = 5  # real slices, below which their spread says little


@dataclass(frozen=True)
class ClassReference:
    """Real intensities of one class in one channel.

    Attributes:
        values: pooled sample over the fold's training slices.
        max_bias: largest accepted difference of means of many voxels; the 95th percentile of real slices against the
            pool, with slack, and at least a tenth of the pool's standard deviation (half of it below five slices).
        max_distance: the same for the 1-Wasserstein distance.
    """

    values: np.ndarray
    max_bias: float
    max_distance: float


def reference(
    cache: SliceCache, identifiers: Sequence[str], windows: Sequence[Sequence[float]], seed: int
) -> dict[str, list[ClassReference]]:
    """Class → a reference for each channel, from the given (training) cases; clipped to the generator's windows."""
    samples: dict[str, list[np.ndarray]] = {name: [] for name in cache.roles.pathologies}
    rng = np.random.default_rng(seed)
    for identifier in sorted(identifiers):
        image, condition = cache.image(identifier), cache.condition(identifier)
        for z in range(len(condition)):
            for name, of_slices in samples.items():
                if cache.facts[identifier].counts[name][z] >= _MIN_VOXELS:
                    voxels = _clipped(np.asarray(image[:, z])[:, condition[z] == cache.roles.values[name]], windows)
                    of_slices.append(rng.permuted(voxels, axis=1)[:, :_PER_SLICE])
    return {
        name: [_class_reference([sample[c] for sample in of_slices], rng) for c in range(len(windows))]
        for name, of_slices in samples.items()
        if of_slices
    }


def _clipped(voxels: np.ndarray, windows: Sequence[Sequence[float]]) -> np.ndarray:
    low, high = np.asarray(windows, float).T[..., None]
    return np.clip(voxels.astype(float), low, high)


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 distance between two samples of intensities, in their unit."""
    from scipy.stats import wasserstein_distance  # takes a second to import; commands that end early do without

    return float(wasserstein_distance(a, b))


def _class_reference(slices: list[np.ndarray], rng: np.random.Generator) -> ClassReference:
    pool = rng.permutation(np.concatenate(slices))[:_POOL]
    bias = [abs(part.mean() - pool.mean()) for part in slices]
    distance = [wasserstein(part, pool) for part in slices]
    floor = (0.1 if len(slices) >= _FEW else 0.5) * pool.std()
    return ClassReference(
        pool,
        _SLACK * max(floor, float(np.percentile(bias, 95))),
        _SLACK * max(floor, float(np.percentile(distance, 95))),
    )


def measure(painted: dict[str, np.ndarray], references: dict[str, list[ClassReference]]) -> dict[str, dict]:
    """Compares painted voxels with the real ones.

    Args:
        painted: class → (c, n) painted intensities in the dataset's units.
        references: of the training fold.

    Returns:
        class → {voxels, bias, wasserstein, max_bias, max_wasserstein, sd_ratio (painted over real), passes}; of
        several channels the worst (by distance over tolerance). Fewer than 8 voxels pass unmeasured.
    """
    quality = {}
    for name, voxels in painted.items():
        if voxels.shape[1] < _MIN_VOXELS or name not in references:
            continue
        channels = [_compare(values.astype(float), real) for values, real in zip(voxels, references[name], strict=True)]
        quality[name] = max(channels, key=lambda row: row["wasserstein"] / row["max_wasserstein"])
        quality[name]["passes"] = all(row["passes"] for row in channels)
    return quality


def _compare(values: np.ndarray, real: ClassReference) -> dict:
    """Few voxels differ from the pool by chance alone: twice the standard error is added to both tolerances."""
    bias = float(values.mean() - real.values.mean())
    distance = wasserstein(values, real.values)
    chance = 2 * float(real.values.std()) / np.sqrt(len(values))
    return {
        "voxels": len(values),
        "bias": round(bias, 2),
        "wasserstein": round(distance, 2),
        "max_bias": round(real.max_bias + chance, 2),
        "max_wasserstein": round(real.max_distance + chance, 2),
        "sd_ratio": round(float(values.std() / max(real.values.std(), 1e-9)), 3),
        "passes": bool(abs(bias) <= real.max_bias + chance and distance <= real.max_distance + chance),
    }


def passes(quality: dict[str, dict]) -> bool:
    """Whether every measured class of a case passes."""
    return all(row["passes"] for row in quality.values())


def pooled(rows: Sequence[dict[str, dict]]) -> dict[str, dict]:
    """Voxel-weighted bias and mean distance of each class over several cases: what all of them do together."""
    summary = {}
    for name in sorted({name for row in rows for name in row}):
        cases = [row[name] for row in rows if name in row]
        weights = [row["voxels"] for row in cases]
        bias = float(np.average([row["bias"] for row in cases], weights=weights))
        summary[name] = {
            "cases": len(cases),
            "bias": round(bias, 2),
            "wasserstein": round(float(np.mean([r["wasserstein"] for r in cases])), 2),
            "sd_ratio": round(float(np.average([r["sd_ratio"] for r in cases], weights=weights)), 3),
            "passing": sum(r["passes"] for r in cases),
        }
    return summary
