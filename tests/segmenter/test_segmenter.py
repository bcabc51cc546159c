"""A fold's segmenter: what it may see, what it says that it knows, and its files."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_difflung.dataset.cache import SliceCache, build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.runtime.files import read_json, write_json
from nnunet_difflung.segmenter import crops, knowledge, store
from nnunet_difflung.segmenter.config import SegmenterConfig
from nnunet_difflung.segmenter.crops import Scale, box_around
from nnunet_difflung.segmenter.data import SegmenterData, patients_in_parts, targets
from nnunet_difflung.segmenter.store import load_segmenters, train_segmenters
from nnunet_difflung.segmenter.trained import Knowledge, Sight
from tests.support import tiny
from tests.support.segmenters import SMALL
from tests.support.snapshot import snapshot
from tests.support.tiny import make_dataset, tree_hashes

TWO_STEPS = replace(SMALL, steps=2)


def data_of(folder: Path, **options) -> SegmenterData:
    """Fold 0's training cases of a new dataset; two of its patients have emphysema."""
    make_dataset(folder / "nnUNet_raw", patients=7, folds=7, **{"emphysema_every": 3, "slices": 2, **options})
    raw = open_raw_dataset("801")
    cache = build_cache(raw, folder / "cache", progress=False)
    return SegmenterData(cache, raw.name, 0, {i: raw.patients[i] for i in raw.training_cases(0)})


@pytest.fixture
def data(folders, tmp_path) -> SegmenterData:
    return data_of(tmp_path)


class Darkened(SliceCache):
    """A cache in which the images of some cases are black."""

    def __init__(self, cache: SliceCache, cases: set[str]):
        super().__init__(cache.folder, cache.facts, cache.roles)
        self._cases = cases

    def image(self, identifier: str) -> np.ndarray:
        image = super().image(identifier)
        return np.full_like(image, -1000) if identifier in self._cases else image


def test_every_patient_is_in_one_part_and_those_with_the_rare_class_are_in_different_ones(data):
    parts = patients_in_parts(data, SMALL)
    assert sorted(p for part in parts for p in part) == sorted(set(data.patients.values()))
    rare = {data.patients[i] for i in data.training_cases if data.cache.facts[i].voxels("emphysema")}
    assert len(rare) == 2
    assert max(len(rare & set(part)) for part in parts) == 1
    assert {len(part) for part in parts} == {2}
    assert patients_in_parts(data, SMALL) == parts
    others = [patients_in_parts(data, replace(SMALL, seed=seed)) for seed in range(5)]
    assert any(other != parts for other in others)


def test_a_network_depends_on_the_patients_of_the_other_parts_alone(data, tmp_path):
    train_segmenters(data, TWO_STEPS, tmp_path / "real", progress=False)
    parts = patients_in_parts(data, TWO_STEPS)
    darkened = {*data.cases_of(parts[0]), *(set(data.cache.facts) - set(data.training_cases))}
    assert len(darkened) > len(data.cases_of(parts[0]))
    train_segmenters(replace(data, cache=Darkened(data.cache, darkened)), TWO_STEPS, tmp_path / "dark", progress=False)
    same = [
        (tmp_path / "real" / name).read_bytes() == (tmp_path / "dark" / name).read_bytes()
        for name in ("part_0.safetensors", "part_1.safetensors", "part_2.safetensors")
    ]
    assert same == [True, False, False]


def test_a_class_is_known_if_it_is_found_in_patients_that_were_not_seen(data, tmp_path):
    train_segmenters(data, SMALL, tmp_path / "s", progress=False)
    trained = load_segmenters(data, SMALL, tmp_path / "s")
    for name, patients in (("emphysema", 2), ("ILD", 6)):
        row = trained.knowledge[name]
        assert row.known
        assert trained.knows(name)
        assert (row.patients, row.slices) == (patients, 2 * patients)
        assert 0 < row.floor <= row.recall <= 1
        assert row.recall - row.outside > 0.3
    for part in trained.parts:
        for patient in part.patients:
            assert trained.unaware_of(patient) is part


def test_the_floor_is_a_percentile_of_patients_but_not_below_what_is_seen_in_normal_lung():
    many, few = [Sight(9, score, 0.1) for score in np.linspace(0.2, 0.9, 50)], [Sight(9, 0.5, 0.1), Sight(9, 0.6, 0.1)]
    config = replace(SMALL, floor_percentile=10.5)
    low = many[10].score  # ten slices of fifty are a fifth of one of two patients, and so a tenth of all
    assert knowledge._floor([many, few], 0.1, config) == pytest.approx((low, 0.1))
    assert knowledge._floor([many, few], 0.55, config) == pytest.approx((0.55, 0.5))


def knowledge_of(data: SegmenterData, patients: dict[str, str], scores: dict[str, float]) -> Knowledge:
    """Of ILD, by networks that see the same in all slices of a patient."""

    class Networks:
        parts, config = ("one",), SMALL

        def see(self, patient, image, regions, normal):
            return {name: Sight(9, scores[patient], 0.1) for name in regions}

    networks: Any = Networks()
    return knowledge.measure_knowledge(networks, replace(data, patients=patients))["ILD"]


def test_every_patient_counts_once_in_what_is_recognised_however_many_slices_there_are(data):
    first, *others = data.training_cases
    row = knowledge_of(data, {first: "few", **dict.fromkeys(others, "many")}, {"few": 0.2, "many": 0.8})
    assert row.slices > 4
    assert (row.patients, row.recall, row.known) == (2, 0.5, True)


def test_what_is_recognised_in_one_patient_alone_is_not_known(data):
    row = knowledge_of(data, dict.fromkeys(data.training_cases, "only"), {"only": 0.9})
    assert (row.patients, row.recall, row.known) == (1, 0.9, False)


def test_a_class_that_looks_like_normal_lung_is_not_known(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(tiny.HU, "emphysema", tiny.HU["normal_lung"])
    data = data_of(tmp_path)
    train_segmenters(data, SMALL, tmp_path / "s", progress=False)
    rows = load_segmenters(data, SMALL, tmp_path / "s").knowledge
    assert not rows["emphysema"].known
    assert rows["ILD"].known


def test_of_a_single_patient_nothing_is_known(data, tmp_path):
    patient = data.patients[data.training_cases[0]]
    alone = replace(data, patients={i: p for i, p in data.patients.items() if p == patient})
    train_segmenters(alone, TWO_STEPS, tmp_path / "s", progress=False)
    trained = load_segmenters(alone, TWO_STEPS, tmp_path / "s")
    assert trained.parts == ()
    assert not any(map(trained.knows, data.roles.pathologies))


def test_the_same_training_gives_the_same_files_whatever_was_drawn_before(data, tmp_path):
    state = torch.random.get_rng_state()
    for name in ("a", "b"):
        train_segmenters(data, TWO_STEPS, tmp_path / name, progress=False)
        assert torch.equal(torch.random.get_rng_state(), state), "no hidden global state"
        torch.rand(3)
        state = torch.random.get_rng_state()
    first, second = (sorted(tree_hashes(tmp_path / name).values()) for name in ("a", "b"))
    assert len(first) == 4
    assert len(set(first) & set(second)) >= 3, "all but the seconds in the card"


def test_a_training_goes_on_with_the_next_network(data, tmp_path, monkeypatch):
    real, calls = store.fit, []

    def fit(*arguments):
        calls.append(len(calls))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(store, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        train_segmenters(data, TWO_STEPS, tmp_path / "s", progress=False)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["part_0.safetensors"]
    train_segmenters(data, TWO_STEPS, tmp_path / "s", progress=False)
    assert len(calls) == 4, "the finished network is not trained again"
    train_segmenters(data, TWO_STEPS, tmp_path / "whole", progress=False)
    for number in range(3):
        name = f"part_{number}.safetensors"
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    before = snapshot(tmp_path / "s")
    train_segmenters(data, TWO_STEPS, tmp_path / "s", progress=False)
    assert snapshot(tmp_path / "s") == before


def test_a_network_of_other_settings_is_not_taken_up(data, tmp_path, monkeypatch):
    train_segmenters(data, replace(TWO_STEPS, seed=1), tmp_path / "s", progress=False)
    (tmp_path / "s" / store.CARD).unlink()
    train_segmenters(data, TWO_STEPS, tmp_path / "s", progress=False)
    train_segmenters(data, TWO_STEPS, tmp_path / "whole", progress=False)
    name = "part_0.safetensors"
    assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_segmenter_of_other_cases_patients_or_settings_is_refused(data, tmp_path):
    train_segmenters(data, TWO_STEPS, tmp_path / "s", progress=False)
    before = snapshot(tmp_path / "s")
    fewer = {i: p for i, p in data.patients.items() if i != data.training_cases[0]}
    regrouped = {i: "p" if p == "lung_002" else p for i, p in data.patients.items()}
    facts = dict(data.cache.facts)
    facts[data.training_cases[0]] = replace(facts[data.training_cases[0]], content="of another image")
    changed = SliceCache(data.cache.folder, facts, data.cache.roles)
    for other, config, named in (
        (replace(data, cache=changed), TWO_STEPS, "other contents"),
        (replace(data, patients=fewer), TWO_STEPS, "other training cases"),
        (replace(data, patients=regrouped), TWO_STEPS, "other patients"),
        (data, replace(TWO_STEPS, steps=3), "other config"),
    ):
        with pytest.raises(BadInput, match=f"{named}.*delete that folder"):
            train_segmenters(other, config, tmp_path / "s", progress=False)
        with pytest.raises(BadInput, match=named):
            load_segmenters(other, config, tmp_path / "s")
    assert snapshot(tmp_path / "s") == before
    (tmp_path / "s" / "part_1.safetensors").write_bytes(b"other")
    with pytest.raises(BadInput, match=r"part_1\.safetensors is not the file that segmenter\.json names"):
        load_segmenters(data, TWO_STEPS, tmp_path / "s")
    write_json(tmp_path / "s" / store.CARD, read_json(tmp_path / "s" / store.CARD) | {"format": 9})
    with pytest.raises(BadInput, match="has format 9"):
        train_segmenters(data, TWO_STEPS, tmp_path / "s", progress=False)


def test_ignored_voxels_are_no_class_and_structures_are_all_else(folders, tmp_path):
    data = data_of(tmp_path, ignore=True)
    roles = data.roles
    condition = np.array([0, *(roles.values[name] for name in roles.lung), roles.body_value, roles.ignore], np.uint8)
    assert targets(condition, roles).tolist() == [0, 1, 2, 3, 0, 4]
    train_segmenters(data, TWO_STEPS, tmp_path / "s", progress=False)


def test_a_region_is_judged_in_a_crop_as_in_training_or_in_a_larger_one():
    region = np.zeros((100, 60), bool)
    region[2, 50] = True
    assert box_around(region, 32) == (slice(0, 32), slice(28, 60))
    region[:80, 50] = True
    assert box_around(region, 32) == (slice(0, 96), slice(28, 60))
    assert box_around(np.ones((20, 20), bool), 32) == (slice(0, 20), slice(0, 20))


def test_intensities_are_scaled_by_the_lung_of_the_cases_and_padded_with_air(data):
    scale = Scale.of(data.cache, data.training_cases)
    low, high, mean, sd = scale.channels[0]
    assert -1000 < low < mean < high < -300
    scaled = scale.apply(np.array([[[low - 50, mean, high]]]), (2, 4))
    assert scaled.shape == (1, 2, 4)
    assert scaled[0, 0, :3] == pytest.approx([(low - mean) / sd, 0, (high - mean) / sd])
    assert scaled[0, 1] == pytest.approx(np.full(4, (low - mean) / sd))


def test_the_scale_is_of_every_seventh_voxel_of_the_lung(data):
    values = data.roles.lung_values()
    lungs = [np.isin(data.cache.condition(i), values) for i in data.training_cases]
    images = [data.cache.image(i)[0] for i in data.training_cases]
    sample = np.concatenate([image[lung][::7] for image, lung in zip(images, lungs, strict=True)]).astype(float)
    low, high = np.percentile(sample, (0.5, 99.5))
    clipped = np.clip(sample, low, high)
    assert Scale.of(data.cache, data.training_cases).channels == ((low, high, clipped.mean(), clipped.std()),)


class OneVolume:
    """A cache of many cases that are all the same volume of lung."""

    def __init__(self, roles: LabelRoles, number: int):
        self.roles, self.cases = roles, [f"case_{i}" for i in range(number)]
        shape = (8, 64, 64)
        self._image = np.arange(np.prod(shape), dtype=np.int16).reshape(1, *shape)
        self._condition = np.full(shape, roles.values[roles.normal[0]], np.uint8)
        counts = {name: [64 * 64 * (name == roles.normal[0])] * 8 for name in roles.lung}
        facts = SimpleNamespace(channels=1, counts=counts, voxels=lambda name: sum(counts[name]))
        self.facts = dict.fromkeys(self.cases, facts)

    def image(self, identifier: str) -> np.ndarray:
        return self._image

    def condition(self, identifier: str) -> np.ndarray:
        return self._condition


def test_the_memory_that_the_scale_needs_does_not_grow_with_the_cases(data, monkeypatch):
    monkeypatch.setattr(crops, "_MOST", 10**5)
    peaks, scales = [], []
    for number in (50, 500):  # every seventh voxel: 0.2 and 2.3 million
        cache = OneVolume(data.roles, number)
        tracemalloc.start()
        scales.append(Scale.of(cache, cache.cases))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 8 * 2**20
    assert scales[1].channels[0] == pytest.approx(scales[0].channels[0], rel=0.02, abs=40)


def test_the_settings_are_those_of_the_method_page():
    config = SegmenterConfig()
    assert (config.parts, config.steps, config.least_recall, config.floor_percentile) == (3, 600, 0.3, 5.0)
