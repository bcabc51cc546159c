"""The gate: lets real lesions through, stops a pathology that was painted as normal lung."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from nnunet_difflung.dataset.labels import LabelRoles
from nnunet_difflung.painting.gate import measure, passes, pooled, reference

ROLES = LabelRoles("normal_lung", ("emphysema", "ILD"), (), {"normal_lung": 1, "emphysema": 2, "ILD": 3}, None)
WINDOWS = ((-1000.0, 1000.0),)
MEAN = {"normal_lung": -850, "emphysema": -940, "ILD": -600}


@dataclass
class Facts:
    counts: dict


class Cache:
    """Cases of one slice with the same number of voxels of each class."""

    roles = ROLES

    def __init__(self, cases: int, voxels: int = 120, spread: float = 5.0):
        rng = np.random.default_rng(0)
        self.facts, self.images = {}, {}
        for i in range(cases):
            shift = rng.normal(0, spread)
            parts = [MEAN[name] + shift + 30 * rng.standard_normal(voxels) for name in ROLES.values]
            self.images[f"c{i}"] = np.concatenate(parts).reshape(1, 1, 3, voxels)
            self.facts[f"c{i}"] = Facts({name: [voxels] for name in ROLES.values})

    def image(self, identifier):
        return self.images[identifier]

    def condition(self, identifier):
        return np.broadcast_to(np.array([1, 2, 3])[None, :, None], (1, 3, self.images[identifier].shape[-1]))


def painted(mean: float, sd: float = 30.0, voxels: int = 150, seed: int = 1) -> np.ndarray:
    return mean + sd * np.random.default_rng(seed).standard_normal((1, voxels))


@pytest.mark.parametrize("cases", [1, 2, 3, 20])
@pytest.mark.parametrize("voxels", [10, 30, 300])
def test_the_real_distribution_passes_however_few_slices_there_are(cases, voxels):
    references = reference(Cache(cases), [f"c{i}" for i in range(cases)], WINDOWS, 0)
    results = [
        passes(measure({"emphysema": painted(-940, voxels=voxels, seed=seed)}, references)) for seed in range(60)
    ]
    assert np.mean(results) > 0.9


@pytest.mark.parametrize("cases", [3, 20])
def test_emphysema_painted_as_normal_lung_is_stopped(cases):
    references = reference(Cache(cases), [f"c{i}" for i in range(cases)], WINDOWS, 0)
    quality = measure({"emphysema": painted(-850), "ILD": painted(-600)}, references)
    assert not passes(quality)
    assert quality["ILD"]["passes"]
    assert quality["emphysema"]["bias"] == pytest.approx(90, abs=12)


def test_a_wrong_texture_with_the_right_mean_is_stopped():
    references = reference(Cache(20), [f"c{i}" for i in range(20)], WINDOWS, 0)
    quality = measure({"ILD": painted(-600, sd=150)}, references)
    assert not passes(quality)
    assert abs(quality["ILD"]["bias"]) < quality["ILD"]["max_bias"]
    assert quality["ILD"]["sd_ratio"] > 3


def test_specks_pass_unmeasured_and_the_pool_weighs_by_voxels():
    references = reference(Cache(20), [f"c{i}" for i in range(20)], WINDOWS, 0)
    assert measure({"emphysema": painted(0, voxels=5)}, references) == {}
    rows = [measure({"emphysema": painted(-930, voxels=n)}, references) for n in (50, 400)]
    summary = pooled([*rows, {}])["emphysema"]
    assert summary["cases"] == 2
    assert summary["bias"] == pytest.approx(
        np.average([r["emphysema"]["bias"] for r in rows], weights=[50, 400]), abs=0.02
    )


@pytest.mark.parametrize("spread", [0.0, 40.0])
def test_tolerances_are_those_of_the_documentation(spread):
    cache = Cache(20, spread=spread)
    found = reference(cache, list(cache.facts), WINDOWS, 0)
    real = np.stack([image[0, 0, 1] for image in cache.images.values()]).clip(*WINDOWS[0])  # (slices, voxels), HU
    bias = np.percentile(np.abs(real.mean(1) - real.mean()), 95)
    tolerance = 1.25 * max(0.1 * real.std(), bias)
    assert found["emphysema"][0].max_bias == pytest.approx(tolerance)
    row = measure({"emphysema": painted(-940, voxels=150)}, found)["emphysema"]
    assert row["max_bias"] == pytest.approx(tolerance + 2 * real.std() / np.sqrt(150), abs=0.01)
