"""The gate: lets real lesions through, stops a pathology that was painted as normal lung."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from nnunet_difflung.judging import gate
from nnunet_difflung.judging.contrast import fit_contrast
from nnunet_difflung.judging.gate import measure, passes, pooled, reference, region_of, with_unpainted
from nnunet_difflung.judging.normal_pieces import normal_pieces
from nnunet_difflung.judging.verdict import judge, upper_bound
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.telling.quality import describe_quality, faults

ROLES = LabelRoles(("normal_lung",), ("emphysema", "ILD"), (), {"normal_lung": 1, "emphysema": 2, "ILD": 3}, None)
WINDOWS = ((-1000.0, 1000.0),)
MEAN = {"normal_lung": -850, "emphysema": -940, "ILD": -600}


@dataclass
class Facts:
    counts: dict


class Cache:
    """Cases of one slice with the same number of voxels of each class, each of a patient of its own."""

    roles = ROLES

    def __init__(self, cases: int, voxels: int = 120, spread: float = 5.0, mean: dict | None = None):
        rng = np.random.default_rng(0)
        self.facts, self.images = {}, {}
        for i in range(cases):
            shift = rng.normal(0, spread)
            parts = [(mean or MEAN)[name] + shift + 30 * rng.standard_normal(voxels) for name in ROLES.values]
            self.images[f"c{i}"] = np.concatenate(parts).reshape(1, 1, 3, voxels)
            self.facts[f"c{i}"] = Facts({name: [voxels] for name in ROLES.values})

    def image(self, identifier):
        return self.images[identifier]

    def condition(self, identifier):
        return np.broadcast_to(np.array([1, 2, 3])[None, :, None], (1, 3, self.images[identifier].shape[-1]))

    def reference(self, patients=None, windows=WINDOWS):
        return reference(self, list(self.images), patients or {i: i for i in self.images}, windows, 0)


def painted(mean: float, sd: float = 30.0, voxels: int = 150, seed: int = 1, lung: float = -850):
    """A region of a synthetic case, beside as many voxels of normal lung."""
    rng = np.random.default_rng(seed)
    image = np.stack([mean + sd * rng.standard_normal(voxels), lung + 30 * rng.standard_normal(voxels)])[None, None]
    region = np.broadcast_to(np.array([True, False])[None, :, None], image.shape[1:])
    return region_of(image, region, ~region, WINDOWS)


def test_pieces_of_normal_lung_are_as_large_as_lesions_of_which_only_a_part_is_kept(monkeypatch):
    seen = []

    def recorded(*arguments):
        for piece in normal_pieces(*arguments):
            seen.append(len(piece.inside))
            yield piece

    monkeypatch.setattr(gate, "normal_pieces", recorded)
    known = Cache(6, voxels=3 * gate.PER_SLICE).reference()
    assert known["ILD"].channels[0].values.size == 6 * gate.PER_SLICE
    assert set(seen) == {3 * gate.PER_SLICE // 2}  # the half of a slice's lung, which is as large as a lesion


@pytest.mark.parametrize("cases", [1, 2, 3, 20])
@pytest.mark.parametrize("voxels", [10, 30, 300])
def test_the_real_distribution_passes_however_few_slices_there_are(cases, voxels):
    references = Cache(cases).reference()
    results = [
        passes(measure({"emphysema": painted(-940, voxels=voxels, seed=seed)}, references)) for seed in range(60)
    ]
    assert np.mean(results) > 0.9


@pytest.mark.parametrize("cases", [3, 20])
def test_emphysema_painted_as_normal_lung_is_stopped(cases):
    references = Cache(cases).reference()
    quality = measure({"emphysema": painted(-850), "ILD": painted(-600)}, references)
    assert not passes(quality)
    assert quality["ILD"]["passes"]
    assert quality["emphysema"]["bias"] == pytest.approx(90, abs=12)


def test_a_wrong_texture_with_the_right_mean_is_stopped():
    references = Cache(20).reference()
    quality = measure({"ILD": painted(-600, sd=150)}, references)
    assert not passes(quality)
    assert abs(quality["ILD"]["bias"]) < quality["ILD"]["max_bias"]
    assert quality["ILD"]["sd_ratio"] > 3


def test_the_spread_of_a_volume_is_that_within_a_slice_as_in_the_real_lesions():
    references = Cache(20, spread=0.0).reference()
    rng = np.random.default_rng(1)
    level = np.array([-640.0, -600.0, -560.0])[:, None, None]  # the slices differ by more than their voxels
    image = level + 30 * rng.standard_normal((1, 3, 2, 400))
    region = np.broadcast_to(np.array([True, False])[None, :, None], image.shape[1:])
    quality = measure({"ILD": region_of(image, region, ~region, WINDOWS)}, references)
    assert quality["ILD"]["sd_ratio"] == pytest.approx(1.0, abs=0.05)
    few = region & (np.arange(400) < 4)  # 4 voxels in each slice: too few to have a spread of their own
    assert region_of(image, few, ~region, WINDOWS).spread[0] == pytest.approx(image[:, few].std())


def test_the_reference_keeps_no_more_voxels_than_it_uses(monkeypatch):
    kept = []

    def noted(region, **new):
        kept.append(new.get("voxels"))
        return replace(region, **new)

    monkeypatch.setattr(gate, "replace", noted)
    Cache(6, voxels=900).reference()
    voxels = [part for part in kept if part is not None]
    assert voxels
    assert all(part.shape[1] <= gate.PER_SLICE and part.base is None for part in voxels)


def test_specks_pass_unmeasured_and_every_case_counts_once():
    references = Cache(20).reference()
    assert measure({"emphysema": painted(0, voxels=5)}, references) == {}
    rows = [measure({"emphysema": painted(-930, voxels=n)}, references) for n in (50, 400)]
    summary = pooled([*rows, {}])["emphysema"]
    assert summary["cases"] == 2
    assert summary["bias"] == pytest.approx(np.mean([r["emphysema"]["bias"] for r in rows]), abs=0.02)


@pytest.mark.parametrize("level", [100.0, 0.0])
def test_lesions_whose_level_depends_on_their_size_are_not_outside_if_they_are_painted_as_the_real_ones(level):
    def lesions(seed):  # from 15 to 2000 voxels; small ones are mostly edge, so darker and smoother
        sizes = np.exp(np.random.default_rng(seed).uniform(np.log(15), np.log(2000), 30)).astype(int)
        return [painted(-600 - level / np.sqrt(n / 60), 30 - 60 / np.sqrt(n), n, seed + k) for k, n in enumerate(sizes)]

    real = [replace(region, voxels=region.voxels[:, : gate.PER_SLICE]) for region in lesions(1)]
    blanks = [painted(-850, seed=seed) for seed in range(300, 330)]
    features = np.stack([np.append(blank.median, blank.median - blank.normal) for blank in blanks])
    names, rng = np.arange(30).astype(str), np.random.default_rng(0)
    found = {"ILD": gate.class_reference(real, names, features, names, [2000.0], rng, (0,))}
    rows = [measure({"ILD": region}, found) for region in lesions(100)]
    assert {part["figure"]: part["within"] for part in judge(rows, rows, found)["ILD"]["pooled"]} == dict.fromkeys(
        ("bias", "sd_ratio", "texture", "contrast"), True
    )


@pytest.mark.parametrize("spread", [0.0, 40.0])
def test_tolerances_are_those_of_the_documentation(spread):
    cache = Cache(20, spread=spread)
    found = cache.reference()
    real = np.stack([image[0, 0, 1] for image in cache.images.values()]).clip(*WINDOWS[0])  # (slices, voxels), HU
    others = (real.sum() - real.sum(1)) / (real.size - real.shape[1])
    bias = np.percentile(np.abs(real.mean(1) - others), 95)
    tolerance = 1.25 * max(0.1 * real.std(), bias)
    assert found["emphysema"].channels[0].max_bias == pytest.approx(tolerance)
    row = measure({"emphysema": painted(-940, voxels=150)}, found)["emphysema"]
    assert row["max_bias"] == pytest.approx(tolerance + 2 * real.std() / np.sqrt(150), abs=0.01)


COVID = {"normal_lung": 100, "emphysema": 140, "ILD": 180}  # grey levels of windows chosen for each volume


@pytest.fixture(scope="module")
def covid():
    """Patients whose images differ by more than the class differs from normal lung."""
    return Cache(20, spread=25.0, mean=COVID)


def regions_of(cache: Cache, identifier: str, name: str = "emphysema", unpainted: bool = False):
    """The class in a real case, or half of the case's normal lung under its label."""
    image, label = cache.images[identifier], cache.condition(identifier)
    value = ROLES.values[name]
    region, normal = label == value, label == 1
    if unpainted:
        first = np.arange(image.shape[-1]) < image.shape[-1] // 2
        region, normal = (label == 1) & first, (label == 1) & ~first
    return {name: region_of(image, region, normal, WINDOWS)}


def test_unpainted_hosts_are_stopped_though_the_tolerance_reaches_normal_lung(covid):
    found = covid.reference()
    assert found["emphysema"].channels[0].max_bias > COVID["emphysema"] - COVID["normal_lung"]
    rows = [measure(regions_of(covid, i, unpainted=True), found)["emphysema"] for i in covid.images]
    assert not any(row["passes"] for row in rows)
    assert np.mean([row["contrast"] for row in rows]) == pytest.approx(0, abs=0.1)
    assert "too close to normal lung (contrast" in faults({"quality": {"emphysema": rows[0]}, "memorisation": {}})


def test_real_lesions_of_patients_left_out_pass(covid):
    passing = []
    for left_out in covid.images:
        others = {i: i for i in covid.images if i != left_out}
        found = reference(covid, list(others), others, WINDOWS, 0)
        passing.append(passes(measure(regions_of(covid, left_out), found)))
    assert np.mean(passing) >= 0.95


def test_the_tolerance_is_that_of_other_patients():
    cache = Cache(20, spread=40.0)
    found = cache.reference({i: f"p{int(i[1:]) // 10}" for i in cache.images})["emphysema"].channels[0]
    real = np.stack([image[0, 0, 1] for image in cache.images.values()]).clip(*WINDOWS[0])
    others = np.repeat([real[10:].mean(), real[:10].mean()], 10)
    assert found.max_bias == pytest.approx(1.25 * np.percentile(np.abs(real.mean(1) - others), 95))
    assert found.bias_of_patients == pytest.approx([real[:10].mean() - real.mean(), real[10:].mean() - real.mean()])


def rows_of(cache, found):
    """Rows of the real cases as if they had been painted."""
    rows = []
    for identifier in cache.images:
        row = measure(regions_of(cache, identifier), found)
        unpainted = measure(regions_of(cache, identifier, unpainted=True), found)
        rows.append(with_unpainted(row, unpainted))
    return rows


def test_the_unpainted_hosts_are_counted_and_said(covid):
    found = covid.reference()
    rows = rows_of(covid, found)
    verdict = judge(rows, rows, found)["emphysema"]
    assert verdict["judged"] is True
    assert verdict["unpainted"] == {"hosts": 20, "passing": 0, "upper_bound": pytest.approx(0.139, abs=0.001)}
    said = "\n".join(describe_quality(pooled(rows), judge(rows, rows, found)))
    assert "20 of 20 cases pass the gate" in said
    assert "emphysema: 0 of 20 unpainted hosts would pass too" in said
    assert "Warning" not in said


def test_a_class_like_normal_lung_cannot_be_judged_and_its_cases_stay():
    cache = Cache(20, mean={"normal_lung": -850, "emphysema": -849, "ILD": -600})
    found = cache.reference()
    rows = rows_of(cache, found)
    verdicts = judge(rows, rows, found)
    assert verdicts["emphysema"]["judged"] is False
    passing = verdicts["emphysema"]["unpainted"]["passing"]
    assert passing > 10
    said = "\n".join(describe_quality(pooled(rows), verdicts))
    assert f"emphysema cannot be judged by intensity: {passing} of 20 unpainted hosts would pass too" in said
    assert "cases pass the gate" not in said
    assert np.mean([passes(row) for row in rows]) >= 0.9


@pytest.mark.parametrize(("hosts", "passing", "judged"), [(7, 0, False), (8, 0, True), (20, 2, True), (20, 3, False)])
def test_few_unpainted_hosts_are_no_evidence(covid, hosts, passing, judged):
    found = covid.reference()
    rows = rows_of(covid, found)[:hosts]
    for number, row in enumerate(rows):
        row["emphysema"]["unpainted_passes"] = number < passing
    verdicts = judge(rows, rows, found)
    assert verdicts["emphysema"]["judged"] is judged
    said = "\n".join(describe_quality(pooled(rows), verdicts))
    assert ("cannot be judged" in said) is not judged
    assert ("so few do not show" in said) is (hosts == 7)


def test_more_than_a_tenth_of_many_unpainted_hosts_is_too_much(covid):
    found = covid.reference()
    for passing, judged in ((6, True), (8, False)):
        rows = rows_of(covid, found) * 3
        rows = [{"emphysema": row["emphysema"] | {"unpainted_passes": n < passing}} for n, row in enumerate(rows)]
        verdict = judge(rows, rows, found)["emphysema"]
        assert verdict["unpainted"]["upper_bound"] < 1 / 3
        assert verdict["judged"] is judged


def test_classes_whose_lesions_are_too_small_to_measure_are_not_passed_over(covid):
    found = covid.reference()
    rows = [measure({"emphysema": painted(0, voxels=5)}, found)]
    verdicts = judge(rows, rows, found, {"emphysema"})
    assert verdicts["emphysema"]["judged"] is False
    said = "\n".join(describe_quality(pooled(rows), verdicts))
    assert "emphysema cannot be judged by intensity: no unpainted host was measured" in said


def test_unpainted_hosts_are_said_though_no_case_was_kept(covid):
    found = covid.reference()
    said = "\n".join(describe_quality({}, judge([], rows_of(covid, found), found)))
    assert "emphysema: 0 of 20 unpainted hosts would pass too" in said


def test_the_bound_is_exact():
    from scipy.stats import binom

    for passing, hosts in ((0, 3), (2, 20), (5, 9)):
        assert binom.cdf(passing, hosts, upper_bound(passing, hosts)) == pytest.approx(0.05)
    assert upper_bound(0, 0) == upper_bound(4, 4) == 1


def test_records_of_earlier_versions_are_no_evidence(covid):
    found = covid.reference()
    kept = ("voxels", "bias", "wasserstein", "max_bias", "max_wasserstein", "sd_ratio", "passes")
    rows = [{"emphysema": {key: row["emphysema"][key] for key in kept}} for row in rows_of(covid, found)]
    verdict = judge(rows, rows, found)["emphysema"]
    assert verdict["judged"] is False
    assert verdict["unpainted"]["hosts"] == 0
    assert [part["figure"] for part in verdict["pooled"]] == ["bias", "sd_ratio"]
    assert "no unpainted host was measured" in "\n".join(describe_quality(pooled(rows), {"emphysema": verdict}))


def shifted(cache, found, shift: float = 0.0, sd: float = 30.0):
    """Cases with the same shift, nearly all of which pass the gate."""
    rows = [
        with_unpainted(measure({"emphysema": painted(-940 + shift, sd=sd, seed=seed)}, found), {}) for seed in range(30)
    ]
    assert np.mean([passes(row) for row in rows]) > 0.9
    return rows


def test_a_shift_that_every_case_may_have_is_reported_when_all_have_it():
    cache = Cache(60, spread=1.0)
    found = cache.reference({i: f"p{int(i[1:]) // 3}" for i in cache.images})
    rows = shifted(cache, found, shift=6.5)
    verdict = judge(rows, rows, found)["emphysema"]["pooled"][0]
    assert (verdict["figure"], verdict["within"]) == ("bias", False)
    assert verdict["low"] < 0 < verdict["high"] < verdict["value"]
    said = describe_quality(pooled(rows), judge(rows, rows, found))
    assert any(line.strip().startswith("Warning: emphysema: pooled bias +") and "is outside" in line for line in said)
    real = shifted(cache, found)
    assert all(part["within"] for part in judge(real, real, found)["emphysema"]["pooled"])


def test_lesions_that_are_too_smooth_are_reported():
    cache = Cache(20)
    found = cache.reference()
    rows = shifted(cache, found, sd=25)
    said = "\n".join(describe_quality(pooled(rows), judge(rows, rows, found)))
    assert "Warning: emphysema: standard deviation 0.8" in said
    assert "Warning: emphysema: local differences 0.8" in said
    assert ": too smooth" in said


@pytest.mark.parametrize(
    ("patients", "said"), [(1, "not judged, since only one"), (2, "so few that the range is uncertain")]
)
def test_few_patients_give_a_wide_range_or_none(patients, said):
    cache = Cache(6)
    found = cache.reference({i: f"p{int(i[1:]) % patients}" for i in cache.images})
    rows = rows_of(cache, found)
    verdicts = judge(rows, rows, found)
    bias = verdicts["emphysema"]["pooled"][0]
    assert bias["within"] is (None if patients == 1 else True)
    assert said in "\n".join(describe_quality(pooled(rows), verdicts))


def test_the_range_is_where_the_mean_of_as_many_other_patients_would_lie():
    cache = Cache(20, spread=40.0)
    found = cache.reference({i: f"p{int(i[1:]) // 5}" for i in cache.images})
    verdict = judge(rows_of(cache, found), rows_of(cache, found), found)["emphysema"]["pooled"][0]
    patients = np.array(found["emphysema"].channels[0].bias_of_patients)
    reach = 3.18245 * patients.std(ddof=1) * np.sqrt(1 / 4 + 1 / 4)  # t with three degrees of freedom
    assert reach > 0.1 * found["emphysema"].channels[0].values.std()
    ends = patients.mean() - reach, patients.mean() + reach
    assert (verdict["low"], verdict["high"]) == (pytest.approx(ends[0], abs=0.01), pytest.approx(ends[1], abs=0.01))


class WithMask(Cache):
    """A second channel that is 1 in the lungs: a mask of a first stage."""

    def __init__(self, cases: int):
        super().__init__(cases)
        self.images = {i: np.concatenate([image, np.ones_like(image)]) for i, image in self.images.items()}


@pytest.mark.parametrize(("second", "fine"), [(1.0, True), (0.85, True), (0.6, False)])
def test_a_class_constant_in_a_channel_is_stopped_only_by_a_gross_error(second, fine):
    windows = (*WINDOWS, (0.0, 1.0))
    cache = WithMask(20)
    found = cache.reference(windows=windows)
    one = painted(-940)
    image = np.stack([np.concatenate([one.voxels[0], np.full(150, -850.0)]), np.full(300, second)])[:, None, None]
    region = (np.arange(300) < 150)[None, None]
    row = measure({"emphysema": region_of(image, region, ~region, windows)}, found)
    assert passes(row) is fine
    assert [part["passes"] for part in row["emphysema"]["channels"]] == [True, fine]
    assert row["emphysema"]["channels"][1]["sd_ratio"] is None
    assert row["emphysema"]["bias"] == row["emphysema"]["channels"][0]["bias"]
    assert pooled([row])["emphysema"]["sd_ratio"] == row["emphysema"]["sd_ratio"]
    verdicts = judge([row] * 10, [row] * 10, found)["emphysema"]["pooled"]
    assert [part["within"] for part in verdicts if part["channel"]] == [second == 1]
    assert [(part["figure"], part["channel"]) for part in verdicts if part["channel"]] == [("bias", 1)]


def test_nothing_separates_identical_regions():
    same, patients = np.ones((9, 2)), np.arange(9)
    assert fit_contrast(same, patients, same, patients, [2000.0]) is None
    assert fit_contrast(same[:4], patients[:4], same, patients, [2000.0]) is None
