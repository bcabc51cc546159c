"""How bright and how rough new lesions are: with the lung that they lie in, and between the real lesions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.pipeline import fold as fold_module
from nnunet_difflung.preparing.application import apply_plan
from nnunet_difflung.preparing.donors import find_donors, restyled
from nnunet_difflung.preparing.styles import ClassStyles, Style
from tests.support.tiny import make_dataset

HOST, BOTH = SamplingConfig(level="host"), SamplingConfig(level="host", styles="drawn")
DRAWN = SamplingConfig(styles="drawn")


def lesion(number: int) -> Lesion:
    return Lesion(f"case{number}", "ILD", 1, np.ones((1, 5, 5), bool), (1.0, 1.0, 1.0))


def real_styles(slope: float = 0.5, number: int = 60, patients: int = 60, noise: float = 30.0, seed: int = 0) -> dict:
    """Lesions of about −500 that follow the lung with a slope; the brighter ones are rougher."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(number):
        lung, rest = rng.normal(-850, 40), rng.normal(0, noise)
        level = np.array([-500 + slope * (lung + 850) + rest])
        spread = np.array([60 * np.exp(rest / 100 + rng.normal(0, 0.1))])
        found[f"case{i}", 1] = Style(level, np.array([lung]), spread, 100, f"patient{i % patients}")
    return found


@pytest.mark.parametrize(("slope", "fitted"), [(0.5, 0.5), (1.8, 1.0), (-0.6, 0.0)])
def test_the_slope_is_that_of_the_real_lesions_from_0_to_1(slope, fitted):
    assert ClassStyles(real_styles(slope, 400), HOST).slope == pytest.approx([fitted], abs=0.08)


@pytest.mark.parametrize(
    ("real", "config"),
    [
        (real_styles(), SamplingConfig(level="donor")),
        (real_styles(number=7, noise=0), HOST),
        (real_styles(patients=1), HOST),
        ({}, BOTH),
    ],
    ids=["donor", "too few lesions", "one patient", "no lesion"],
)
def test_levels_stay_where_nothing_tells_that_they_follow(real, config):
    styles = ClassStyles(real, config)
    assert not styles.slope.any()
    assert styles.change(lesion(0), np.array([-700.0]), np.random.default_rng(0)) is None


def test_a_lesion_follows_the_lung_but_not_beyond_the_brightest_and_darkest():
    real = real_styles()
    styles, rng = ClassStyles(real, HOST), np.random.default_rng(0)
    own, levels = real["case0", 1], [style.level[0] for style in real.values()]
    added, factor = styles.change(lesion(0), own.lung + 20, rng)
    assert added == pytest.approx(20 * styles.slope)
    assert factor == pytest.approx([1])
    for lung, end in ((5000.0, max(levels)), (-5000.0, min(levels))):
        assert own.level + styles.change(lesion(0), np.array([lung]), rng)[0] == pytest.approx([end])
    assert styles.change(lesion(0), None, rng)[0] == pytest.approx([0]), "no lung around the new place"


def test_a_lesion_without_lung_around_it_keeps_its_level():
    real = real_styles()
    real["case0", 1] = replace(real["case0", 1], lung=None)
    styles = ClassStyles(real, HOST)
    assert styles.slope.any()
    assert styles.change(lesion(0), np.array([-800.0]), np.random.default_rng(0))[0] == pytest.approx([0])


def drawn(styles: ClassStyles, real: dict, times: int = 50) -> np.ndarray:
    """(n, 2) levels and logarithms of the spread, drawn alike often around each lesion, in its own lung."""
    rng, found = np.random.default_rng(1), []
    for i, own in enumerate(real.values()):
        for _ in range(times):
            added, factor = styles.change(lesion(i), own.lung, rng)
            found.append([float((own.level + added)[0]), float(np.log(own.spread * factor)[0])])
    return np.array(found)


@pytest.mark.parametrize("config", [DRAWN, BOTH], ids=["donor", "host"])
def test_drawn_styles_are_new_but_spread_as_real_ones(config):
    real = real_styles(patients=6)  # a wide kernel: only the pull towards the mean keeps the spread
    values = np.array([[style.level[0], np.log(style.spread[0])] for style in real.values()])
    new = drawn(ClassStyles(real, config), real)
    assert (new >= values.min(0) - 1e-9).all()
    assert (new <= values.max(0) + 1e-9).all()
    assert new.mean(0) == pytest.approx(values.mean(0), rel=0.02)
    assert new.std(0) == pytest.approx(values.std(0), rel=0.1)
    assert np.corrcoef(new.T)[0, 1] == pytest.approx(np.corrcoef(values.T)[0, 1], abs=0.1)
    assert len(np.unique(new[:, 0])) > 0.9 * len(new), "hardly any has exactly the level of a real one"


def test_what_the_lung_explains_is_not_drawn_again():
    real = real_styles(slope=0.9, noise=1)
    moved = []
    for config in (BOTH, DRAWN):
        styles, rng = ClassStyles(real, config), np.random.default_rng(0)
        moved.append(np.std([styles.change(lesion(i), real[f"case{i}", 1].lung, rng)[0] for i in range(60)]))
    assert moved[0] < 2 < 10 < moved[1]


def test_the_kernel_is_narrower_with_more_patients():
    real = real_styles(number=400, patients=16)
    assert ClassStyles(real, DRAWN).width == pytest.approx((4 / (4 * 16)) ** (1 / 6))
    moved = []
    for patients in (4, 400):
        styles = ClassStyles(real_styles(number=400, patients=patients), DRAWN)
        moved.append(np.std([styles.change(lesion(0), None, np.random.default_rng(i))[0] for i in range(99)]))
    assert moved[0] > 1.5 * moved[1]


@pytest.mark.parametrize("odd", [{"spread": np.array([0.0])}, {"voxels": 4, "spread": np.array([5000.0])}])
def test_constant_and_tiny_lesions_say_nothing_about_others(odd):
    real = real_styles()
    without = drawn(ClassStyles({key: real[key] for key in list(real)[:-1]}, DRAWN), dict(list(real.items())[:1]))
    real["case59", 1] = replace(real["case59", 1], **odd)
    assert drawn(ClassStyles(real, DRAWN), dict(list(real.items())[:1])) == pytest.approx(without)


def test_a_channel_without_any_texture_stays_so():
    real = {
        key: replace(s, level=np.append(s.level, 1.0), lung=np.append(s.lung, 0.0), spread=np.append(s.spread, 0.0))
        for key, s in real_styles().items()
    }
    added, factor = ClassStyles(real, BOTH).change(lesion(3), np.array([-800.0, 0.0]), np.random.default_rng(0))
    assert added[0] != 0
    assert (added[1], factor[1]) == (0, 1)


def test_voxels_get_the_new_mean_and_spread():
    voxels = np.random.default_rng(0).normal([[-500.0], [3.0]], [[50.0], [0.5]], (2, 400))
    changed = restyled(voxels, (np.array([30.0, -1.0]), np.array([2.0, 0.5])))
    assert changed.mean(1) - voxels.mean(1) == pytest.approx([30, -1])
    assert changed.std(1) / voxels.std(1) == pytest.approx([2, 0.5])
    assert restyled(voxels, None) is voxels


@pytest.fixture(params=[False, True], ids=["slices", "volumes"])
def fold(request, folders, tmp_path):
    make_dataset(folders[0], patients=4, size=64, volumes=request.param, depth=8 if request.param else 1)
    settings = settings_from(parse(["-d", "801", "-device", "cpu", "--method", "difflung"]))
    raw = open_raw_dataset("801")
    return fold_module.prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))


def test_all_slices_of_a_lesion_change_alike_and_the_same_in_every_run(fold):
    case = fold.plan.cases[0]
    planned = replace(case, operations=case.operations[:1])
    sampling = replace(fold.settings.sampling, styles="real", level="donor")
    real = apply_plan(
        replace(fold, settings=replace(fold.settings, sampling=sampling)), planned, textures=True
    ).donors.voxels
    drawn = apply_plan(fold, planned, textures=True).donors.voxels
    assert len(real) == len(drawn) > 0
    shifts = [float(b.mean() - a.mean()) for a, b in zip(real, drawn, strict=True)]
    assert shifts[0] != 0
    assert shifts == pytest.approx([shifts[0]] * len(shifts), abs=1e-3)
    again = apply_plan(fold, planned, textures=True).donors.voxels
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    other = apply_plan(fold, replace(planned, seed=planned.seed + 1), textures=True).donors.voxels
    assert not np.array_equal(drawn[0], other[0]), "another case has another style"


def test_placebo_regions_keep_their_own_style(fold):
    planned = fold.plan.cases[0]
    outlined = apply_plan(fold, planned, textures=False).changed
    lesions, placebo = (
        find_donors(replace(planned, placebo=is_placebo), fold.lesions, fold.cache, outlined, fold.styles).voxels
        for is_placebo in (False, True)
    )
    host = np.array(fold.cache.image(planned.host)[:, list(planned.slices)])
    assert {float(v) for voxels in placebo for v in voxels.ravel()} <= {float(v) for v in host[:, outlined].ravel()}
    assert not np.array_equal(lesions[0], placebo[0])
