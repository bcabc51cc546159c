"""The memorisation audit: copied texture is found wherever it was moved, fresh texture of the same kind is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import ndimage

from nnunet_difflung.judging import memorisation
from nnunet_difflung.judging import patches as memorisation_patches
from nnunet_difflung.judging.memorisation import expected_share, is_suspicious, nearest, real_to_real, summarise
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.telling.folds import _resemblance

ROLES = LabelRoles(("normal_lung",), ("emphysema", "ILD"), (), {"normal_lung": 1, "emphysema": 2, "ILD": 3}, None)
WINDOWS = ((-1000.0, 1000.0),)
MEAN = np.array([-1000.0, -850.0, -930.0, -600.0])  # HU of each label value


@dataclass
class Facts:
    shape: tuple
    counts: dict

    def voxels(self, name):
        return sum(self.counts[name])


class Cache:
    """Slices of 48 pixels (times ``scale``), one for each patient: ILD on the left, emphysema on the right."""

    roles = ROLES

    def __init__(self, patients: int = 10, scale: int = 1, channels: int = 1):
        self.images, self.conditions, self.facts, self.patients = {}, {}, {}, {}
        for i in range(patients):
            name, label = f"p{i}_s0", anatomy(scale)
            self.images[name], self.conditions[name] = paint(label, 100 + i, scale, channels), label
            self.facts[name] = Facts(label.shape, {n: [int((label == v).sum())] for n, v in ROLES.values.items()})
            self.patients[name] = f"p{i}"

    def image(self, identifier):
        return self.images[identifier]

    def condition(self, identifier):
        return self.conditions[identifier]

    def reference(self, windows=WINDOWS):
        return real_to_real(self, list(self.images), self.patients, windows, 0)


def anatomy(scale: int = 1) -> np.ndarray:
    label = np.zeros((1, 48, 48), np.uint8)
    label[:, 4:44, 4:44] = 1
    label[:, 8:24, 6:20] = 3
    label[:, 26:38, 28:40] = 2
    return label.repeat(scale, 1).repeat(scale, 2)


def paint(label: np.ndarray, seed: int, scale: int = 1, channels: int = 1) -> np.ndarray:
    """(c, z, y, x) intensities of the labels with grain of the same statistics for every seed."""
    noise = np.random.default_rng(seed).standard_normal((channels, *label.shape))
    return (MEAN[label] + 60 * scale * ndimage.gaussian_filter(noise, (0, 0, 0.7 * scale, 0.7 * scale))).astype(
        np.float32
    )


def lesion(
    cache: Cache,
    source: str | None,
    value: int = 3,
    shift: tuple[int, int] = (7, 11),
    mirror: bool = True,
    host: str = "p0_s0",
):
    """A host with a lesion whose texture is a training slice's (None: fresh), shifted and mirrored.

    Returns:
        values, changed, label for ``nearest``.
    """
    real, image = cache.conditions[host], cache.images[host]
    scale = real.shape[1] // 48
    texture = paint(real, 5, scale, len(image)) if source is None else cache.images[source]
    mask = cache.conditions[source or host] == value
    if mirror:
        texture, mask = texture[..., ::-1], mask[..., ::-1]
    texture, mask = np.roll(texture, shift, (2, 3)), np.roll(mask, shift, (1, 2))
    return np.where(mask, texture, image), mask, np.where(mask, value, real).astype(np.uint8)


@pytest.fixture(scope="module")
def cache():
    return Cache()


@pytest.fixture(scope="module")
def reference(cache):
    return cache.reference()


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize(("value", "name"), [(2, "emphysema"), (3, "ILD")])
def test_a_moved_copy_is_found_with_its_source(cache, reference, value, name, mirror):
    found = nearest(*lesion(cache, "p4_s0", value, mirror=mirror), reference)[name]
    assert found["similarity"] > 0.999
    assert found["above_real_p99"] is True
    assert (found["nearest_case"], found["nearest_slice"]) == ("p4_s0", 0)


def test_brighter_and_noisier_copies_are_copies(cache, reference):
    values, changed, label = lesion(cache, "p4_s0")
    noise = np.random.default_rng(0).normal(0, 0.2 * values[0][changed].std(), values.shape)
    found = nearest(1.3 * values + 200 + noise, changed, label, reference)["ILD"]
    assert found["above_real_p99"]
    assert found["nearest_case"] == "p4_s0"


def test_fresh_texture_of_the_same_statistics_is_not_flagged(cache, reference):
    for name, bank in reference.classes.items():
        found = nearest(*lesion(cache, None, bank.value), reference)[name]
        assert found["above_real_p99"] is False
        assert abs(found["similarity"] - bank.real.mean()) < 0.05, name


def test_a_copy_of_a_quarter_of_the_lesion_is_enough(cache, reference):
    values, changed, label = lesion(cache, None, shift=(0, 0), mirror=False)
    values[:, :, 8:24, 6:12] = cache.images["p4_s0"][:, :, 8:24, 6:12]
    found = nearest(values, changed, label, reference)["ILD"]
    assert found["above_real_p99"]
    assert found["nearest_case"] == "p4_s0"


def test_only_painted_voxels_count(cache, reference):
    values, changed, label = lesion(cache, None)
    expected = nearest(values, changed, label, reference)
    assert nearest(np.where(changed, values, 777), changed, label, reference) == expected
    other = np.where(changed, values, cache.images["p3_s0"])  # real tissue of a training slice all around
    assert nearest(other, changed, label, reference) == expected
    assert set(expected) == {"ILD"}  # real emphysema of the host is not painted


def test_excluded_cases_are_not_compared_with(cache, reference):
    copy = lesion(cache, "p4_s0")
    found = nearest(*copy, reference, exclude=("p4_s0",))["ILD"]
    assert not found["above_real_p99"]
    assert found["nearest_case"] != "p4_s0"
    assert nearest(*copy, reference, exclude=tuple(cache.images))["ILD"] is None


def test_a_real_region_is_not_compared_with_its_own_patient():
    cache = Cache()
    for array in (cache.images, cache.conditions, cache.facts):
        array["p1_s9"] = array["p1_s0"]  # the same slice twice
    assert cache_figures(cache, {**cache.patients, "p1_s9": "p1"}).max() < 0.95
    assert cache_figures(cache, {**cache.patients, "p1_s9": "somebody else"}).max() > 0.999


def cache_figures(cache, patients):
    return real_to_real(cache, list(cache.images), patients, WINDOWS, 0).classes["ILD"].real


def test_nothing_is_said_of_small_or_flat_regions(cache, reference):
    values, _, label = lesion(cache, None)
    small = np.zeros(label.shape, bool)
    small[0, 10:15, 10:15] = True
    assert nearest(values, small, np.where(small, 3, 1), reference) == {"ILD": None}
    assert nearest(values, small & False, label, reference) == {}
    flat = np.zeros(label.shape, bool)
    flat[0, 10:30, 10:30] = True
    noise = np.random.default_rng(0).normal(0, 0.2, values.shape)
    found = nearest(np.where(flat, -600, values) + noise, flat, np.where(flat, 3, 1), reference)["ILD"]
    assert found["similarity"] < 0.2
    assert not found["above_real_p99"]


def test_regions_at_the_border_and_several_slices(cache, reference):
    values = np.concatenate([paint(anatomy(), 50), np.roll(cache.images["p4_s0"], (-8, -6), (2, 3))], 1)
    label = np.concatenate([anatomy(), np.roll(cache.conditions["p4_s0"], (-8, -6), (1, 2))])
    changed = np.zeros(label.shape, bool)
    changed[1, :16, :14] = True  # the corner of the second slice
    found = nearest(values, changed, label, reference)["ILD"]
    assert found["similarity"] > 0.999
    assert found["nearest_case"] == "p4_s0"


def test_large_slices_are_compared_by_grains_and_banks_are_bounded(monkeypatch):
    monkeypatch.setattr(memorisation, "_BANK", 6000)  # of about 100,000
    cache = Cache(patients=12, scale=6)
    reference = cache.reference()
    assert reference.grain == 2
    assert 5000 < reference.classes["ILD"].patches.shape[1] < 7000
    assert reference.classes["ILD"].searched < 0.15
    values, *copied = lesion(cache, "p4_s0", shift=(35, 51))
    assert nearest(values, *copied, reference)["ILD"]["above_real_p99"]
    values = values + np.random.default_rng(0).normal(0, 0.2 * values[0][copied[0]].std(), values.shape)
    assert nearest(values, *copied, reference)["ILD"]["similarity"] > 0.985  # noise is averaged out (0.975 without)
    assert not nearest(*lesion(cache, None, shift=(35, 51)), reference)["ILD"]["above_real_p99"]


def test_every_channel_has_to_be_copied():
    cache = Cache(patients=6, channels=2)
    reference = cache.reference(WINDOWS * 2)
    values, changed, label = lesion(cache, "p4_s0")
    assert nearest(values, changed, label, reference)["ILD"]["similarity"] > 0.999
    values[1] = lesion(cache, None)[0][1]
    assert nearest(values, changed, label, reference)["ILD"]["similarity"] < 0.9


def test_correlation_is_numpys(reference):
    rng = np.random.default_rng(0)
    patches, bank = rng.normal(size=(1, 3, 81)).astype(np.float32), reference.classes["emphysema"]
    counted = rng.permuted(np.arange(81) < 32 * np.ones((3, 1)), axis=1)
    best, index = memorisation_patches._best(patches, counted, bank, np.ones(len(bank.source), bool))
    for patch, mask, value, at in zip(patches[0], counted, best, index, strict=True):
        every = [np.corrcoef(patch[mask], other[mask])[0, 1] for other in bank.patches[0]]
        assert at == np.argmax(every)
        assert value == pytest.approx(max(every), abs=1e-3)


def test_only_the_allowed_patches_are_searched_in_any_number_at_a_time(reference, monkeypatch):
    rng = np.random.default_rng(1)
    patches, bank = rng.normal(size=(1, 4, 81)).astype(np.float32), reference.classes["emphysema"]
    counted = np.repeat(rng.permuted(np.arange(81) < 32 * np.ones((2, 1)), axis=1), 2, axis=0)  # two share their grains
    allowed = rng.random(len(bank.source)) < 0.1
    best, index = memorisation_patches._best(patches, counted, bank, allowed)
    assert allowed[index].all()
    for patch, mask, value, at in zip(patches[0], counted, best, index, strict=True):
        every = np.array([np.corrcoef(patch[mask], other[mask])[0, 1] for other in bank.patches[0]])
        assert at == np.where(allowed, every, -1).argmax()
        assert value == pytest.approx(every[at], abs=1e-3)
    monkeypatch.setattr(memorisation_patches, "_CHUNK", 7)
    again, same = memorisation_patches._best(patches, counted, bank, allowed)
    np.testing.assert_allclose(again, best, atol=1e-5)
    assert (same == index).all()


def test_threads_measure_the_same_real_regions(reference):
    cache = Cache()
    threaded = real_to_real(cache, list(cache.images), cache.patients, WINDOWS, 0, threads=3)
    for name, bank in cache.reference().classes.items():
        np.testing.assert_array_equal(threaded.classes[name].real, bank.real)


def test_the_threshold_is_the_99th_percentile_of_real_lesions(reference):
    for name, bank in reference.classes.items():
        assert len(bank.real) >= 10, name
        assert bank.real_p99 == np.percentile(bank.real, 99), name
        assert bank.real_p99 > np.percentile(bank.real, 95), name


def test_few_patients_give_no_percentile():
    few = Cache(patients=4)
    found = nearest(*lesion(few, "p2_s0"), few.reference())["ILD"]
    assert found["above_real_p99"] is None
    assert found["similarity"] > 0.999


def test_summary():
    def row(similarity, above):
        return {
            "similarity": similarity,
            "nearest_case": "a",
            "nearest_slice": 0,
            "above_real_p99": above,
            "patches": 9,
            "real_regions": 19,
            "searched": 1.0,
            "patients": 7,
        }

    searched = {"real_regions": 19, "searched": 1.0, "patients": 7}
    rows = [{"ILD": row(0.9, True), "emphysema": None}, {"ILD": row(0.6, False)}, {"emphysema": row(0.5, None)}, {}]
    assert summarise(rows) == {
        "ILD": {"cases": 2, "mean": 0.75, "share_above_real_p99": 0.5, **searched},
        "emphysema": {"cases": 1, "mean": 0.5, "share_above_real_p99": None, **searched},
    }
    unknown = dict.fromkeys(("mean", "share_above_real_p99", "real_regions", "searched", "patients"))
    assert summarise([{"ILD": None}]) == {"ILD": {"cases": 0, **unknown}}
    former = {key: value for key, value in row(0.9, True).items() if key != "patients"}
    assert summarise([{"ILD": former}])["ILD"]["patients"] is None, "a case that an earlier version painted"


@pytest.mark.parametrize("patients", [2, 5, 50])
@pytest.mark.parametrize("regions", [10, 20, 100, 300])
def test_painters_as_unlike_training_slices_as_patients_are_to_each_other_are_not_suspicious(regions, patients):
    rng, cases, runs = np.random.default_rng(regions + patients), 40, 3000
    real = rng.random((runs, regions)) ** (1 / (patients - 1))  # the highest of as many similarities
    painted = rng.random((runs, cases)) ** (1 / patients)  # compared with one patient more
    share = (painted > np.percentile(real, 99, axis=1)[:, None]).mean(1)
    row = {"cases": cases, "real_regions": regions, "patients": patients}
    assert expected_share(row) == pytest.approx(share.mean(), abs=0.01, rel=0.1)
    suspicious = np.mean([is_suspicious(row | {"share_above_real_p99": of_run}) for of_run in share])
    assert suspicious < 0.025
    copies = row | {"share_above_real_p99": 0.9, "mean": 0.8}
    assert is_suspicious(copies), "copies in most cases are suspicious all the same"
    said = f"({expected_share(row):.0%} are expected"
    assert f"{said}, so this is more than chance explains; mean" in _resemblance("x", copies)
    assert f"{said}; mean" in _resemblance("x", copies | {"share_above_real_p99": 0.0})


def test_the_number_of_patients_who_are_searched_is_recorded(cache, reference):
    row = summarise([nearest(*lesion(cache, None), reference)])["ILD"]
    assert row["patients"] == 10
    assert expected_share(row | {"patients": None}) < expected_share(row), "an earlier version did not record it"
