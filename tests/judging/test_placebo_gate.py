"""The gate of placebo cases: lets normal lung through, whatever patient it is from, and stops what is not."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.judging.gate import passes, region_of
from nnunet_difflung.judging.placebo_gate import NAME, lung_reference, measure_placebo
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.telling.quality import describe_placebo, faults
from tests.judging.test_gate import Facts

ROLES = LabelRoles(("normal_lung",), ("emphysema",), (), {"normal_lung": 1, "emphysema": 2}, None)
WINDOWS = ((-1000.0, 1000.0),)


class Cache:
    """Slices of 40² pixels, one of each patient, whose level of normal lung differs by ``spread``."""

    roles = ROLES

    def __init__(self, cases: int = 12, spread: float = 40.0, channels: int = 1):
        rng = np.random.default_rng(0)
        self.label = np.ones((1, 40, 40), np.uint8)
        self.label[0, :8, :8] = 2
        self.levels = {f"c{i}": -850 + rng.normal(0, spread) for i in range(cases)}
        self.images = {
            name: np.where(self.label == 2, -950, level) + 30 * rng.standard_normal((channels, 1, 40, 40))
            for name, level in self.levels.items()
        }
        counts = {name: [int((self.label == value).sum())] for name, value in ROLES.values.items()}
        self.facts = {name: Facts(counts) for name in self.images}

    def image(self, identifier):
        return self.images[identifier]

    def condition(self, identifier):
        return self.label

    def reference(self, judged=None):
        windows = WINDOWS * len(next(iter(self.images.values())))
        return lung_reference(self, list(self.images), {name: name for name in self.images}, windows, 0, judged)


def painted(level: float, own: float, sd: float = 30.0, voxels: int = 100, seed: int = 1):
    """A region of an image whose other normal lung has the level ``own``."""
    rng = np.random.default_rng(seed)
    image = np.stack([level + sd * rng.standard_normal(voxels), own + 30 * rng.standard_normal(voxels)])[None, None]
    region = np.broadcast_to(np.array([True, False])[None, :, None], image.shape[1:])
    return region_of(image, region, ~region, WINDOWS)


def quality(**region) -> dict:
    return measure_placebo(painted(**region), 150, Cache().reference())


@pytest.mark.parametrize("own", [-910, -850, -800])
def test_normal_lung_like_that_of_its_own_image_passes(own):
    results = [passes(quality(level=own, own=own, seed=seed)) for seed in range(20)]
    assert np.mean(results) > 0.9


@pytest.mark.parametrize("level", [-200, -650, -990])
def test_what_is_not_normal_lung_is_stopped(level):
    row = quality(level=level, own=-850)[NAME]
    assert not row["passes"]
    assert row["contrast"] is None, "a placebo is not compared with a class"


def test_normal_lung_of_a_very_different_patient_is_stopped_by_the_lung_around_it():
    row = quality(level=-900, own=-800)[NAME]
    assert abs(row["bias"]) <= row["max_bias"]
    assert abs(row["own_difference"]) > row["max_own_difference"]
    assert not row["passes"]
    said = faults({"quality": {}, "placebo_quality": {NAME: row}, "memorisation": {}})
    assert "placebo differs by -1" in said or "placebo differs by -9" in said
    assert "normal lung of its own image" in said


def test_a_region_too_small_to_judge_has_no_figures():
    assert quality(level=-850, own=-850, voxels=7) == {}


def test_channels_that_are_set_and_not_painted_do_not_count():
    cache = Cache(channels=2)
    rng = np.random.default_rng(1)
    image = -850 + 30 * rng.standard_normal((2, 1, 2, 100))
    image[1, :, 0] = 400
    region = np.broadcast_to(np.array([True, False])[None, :, None], image.shape[1:])
    painted_region = region_of(image, region, ~region, WINDOWS * 2)
    assert not passes(measure_placebo(painted_region, 100, cache.reference()))
    assert passes(measure_placebo(painted_region, 100, cache.reference(judged=[0])))


def test_without_normal_lung_there_is_no_reference():
    cache = Cache()
    cache.facts = {name: Facts({"normal_lung": [10], "emphysema": [64]}) for name in cache.images}
    assert cache.reference() is None


def test_lost_placebo_cases_are_said():
    row = {"cases": 1, "bias": 3.0, "wasserstein": 9.0, "sd_ratio": 1.0, "passing": 1}
    few = "\n".join(describe_placebo({"planned": 4, "kept": 1, "share": 0.25, "quality": row}))
    assert "1 placebo case: " in few
    assert "more than half of the placebo cases were dropped" in few
    of_reader = {"planned": 4, "kept": 1, "excluded": 2, "share": 0.25, "quality": row}
    assert "more than half" not in "\n".join(describe_placebo(of_reader)), "what a reader has refused was painted well"
    most = "\n".join(describe_placebo({"planned": 4, "kept": 3, "share": 0.4, "quality": {}}))
    assert "3 placebo cases: " in most
    assert "dropped" not in most
    assert describe_placebo({}) == []
