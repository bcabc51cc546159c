"""The quality gate: does painted emphysema have the intensities of real emphysema in the fold's training cases?

A class that the generator has not learned is painted as normal lung under a pathology's label, which harms the training
of the segmentation. So every synthetic case is compared with real voxels of the training cases, in the dataset's unit
(HU for CT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache

_PER_SLICE = 400  # maximum number of voxels kept of a class in a slice
_MIN_VOXELS = 8  # minimum sample size
_SLACK = 1.25  # factor on the 95th percentile of real slices
_POOL = 20_000  # maximum number of voxels kept of a class
_FEW = 5  # minimum number of real slices from which their spread is estimated


@dataclass(frozen=True)
class ClassReference:
    """Real intensities of one class in one channel.

    Attributes:
        values: pooled sample of voxels of the fold's training slices.
        max_bias: largest accepted difference of means; 1.25 times the 95th percentile of the differences between real
            slices and the pool, or 1.25 times a tenth of the pool's standard deviation if that is larger (half of it
            with fewer than five slices).
        max_distance: the same for the 1-Wasserstein distance.
    """

    values: np.ndarray
    max_bias: float
    max_distance: float


def reference(
    cache: SliceCache, identifiers: Sequence[str], windows: Sequence[Sequence[float]], seed: int
) -> dict[str, list[ClassReference]]:
    """Class → a reference for each channel, from training cases; intensities are clipped to the generator's windows."""
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
    from scipy.stats import wasserstein_distance  # importing it takes a second, which commands that end early save

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
        painted: class → (c, n) painted intensities in the dataset's unit.
        references: references of the fold's training cases.

    Returns:
        class → {voxels, bias, wasserstein, max_bias, max_wasserstein, sd_ratio (painted / real), passes}, for the
        channel with the largest ratio of distance to tolerance. Classes with fewer than 8 voxels are not measured.
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
    """Compares one channel; twice the standard error is added to both tolerances, as small samples differ by chance."""
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
    """Voxel-weighted bias and mean distance of each class over several cases."""
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
