"""A lesion that lies within another pathology is pasted with what surrounds it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnunet_difflung.config import BalanceConfig, SamplingConfig
from nnunet_difflung.lesions.following import Filling, Fitting
from nnunet_difflung.lesions.lung import Lung
from nnunet_difflung.lesions.masks import Lesion, Transform, box_of, inside_image, paste, warp
from nnunet_difflung.lesions.pasting import apply_operations, lesion_of
from nnunet_difflung.lesions.placebo import add_placebos
from nnunet_difflung.lesions.surroundings import REACH, find_surroundings, place_around, share_of_border
from nnunet_difflung.preparing.donors import find_donors
from nnunet_difflung.preparing.styles import ClassStyles, Style, style_of_part
from tests.lesions.test_balance import ROLES, facts_of, plan_for

EMPHYSEMA, ILD = ROLES.values["emphysema"], ROLES.values["ILD"]
SPACING = (5.0, 1.0, 1.0)


def nested(inner: float, outer: float, depth: int = 1, spacing=SPACING, size: int = 64) -> np.ndarray:
    """(z, y, x) labels: emphysema of a radius in mm within ILD of another, in normal lung."""
    z, y, x = np.ogrid[:depth, :size, :size]
    middle = ((depth - 1) / 2, size / 2 - 3, size / 2 + 2)
    far = sum(((axis - at) * mm) ** 2 for axis, at, mm in zip((z, y, x), middle, spacing, strict=True))
    label = np.ones((depth, size, size), np.uint8)
    label[far <= outer**2] = ILD
    label[far <= inner**2] = EMPHYSEMA
    return label


def lesion_in(label: np.ndarray, value: int = EMPHYSEMA, spacing=SPACING) -> Lesion:
    mask = label == value
    box = box_of(mask)
    name = next(name for name, of_name in ROLES.values.items() if of_name == value)
    lesion = Lesion("case", name, 4, mask[box], spacing, tuple(part.start for part in box))
    return replace(lesion, within=share_of_border(label, lesion, ROLES))


@pytest.mark.parametrize(("depth", "spacing"), [(1, (999.0, 1.0, 1.0)), (9, (2.5, 1.0, 1.2))])
def test_what_lies_within_reach_comes_along(depth, spacing):
    label = nested(5, 25, depth, spacing)
    lesion = lesion_in(label, spacing=spacing)
    (part,) = find_surroundings(label, lesion, ROLES)
    assert part.pathology == "ILD"
    assert part.component < 0, "no lesion of its class is taken for it"
    whole = np.zeros(label.shape, bool)
    whole[part.box] = part.mask
    own = label == EMPHYSEMA
    far = ndimage.distance_transform_edt(~own, spacing)
    assert np.array_equal(whole, own | ((label == ILD) & (far <= REACH)))
    assert np.array_equal(part.texture, part.mask & (label[part.box] == ILD))


def test_a_lesion_in_normal_lung_is_alone():
    label = nested(5, 5.1)
    label[0, 29 - 6 : 29 + 6, 42:46] = ILD
    assert find_surroundings(label, lesion_in(label), ROLES) == ()
    outer = nested(5, 25)
    assert find_surroundings(outer, lesion_in(outer, ILD), ROLES) == (), "nor does the outer one take the inner along"


def test_what_does_not_touch_the_lesion_stays():
    label = nested(5, 8)
    label[0, 29:33, 34 + 11 : 34 + 14] = ILD
    (part,) = find_surroundings(label, lesion_in(label), ROLES)
    assert part.texture.sum() == ((label == ILD).sum() - 12)


TRANSFORMS = st.builds(
    Transform, st.booleans(), st.one_of(st.just(0.0), st.floats(0, 360)), st.floats(0.75, 1.5), st.integers(0, 2)
)


@settings(max_examples=100, deadline=None)
@given(TRANSFORMS, st.sampled_from([1, 7]), st.tuples(st.floats(0.6, 1.6), st.floats(0.6, 1.6)))
def test_both_are_moved_alike(transform, depth, ratio):
    spacing = (2.5, 1.0, 1.0)
    label = nested(5, 9, depth, spacing)
    label[:, :, : label.shape[2] // 2 - 2] = 1  # the surroundings lie to one side
    lesion = lesion_in(label, spacing=spacing)
    parts = find_surroundings(label, lesion, ROLES)
    ratio = np.array([ratio[0] if depth > 1 else 1.0, ratio[1], ratio[1]])
    inner = warp(lesion.mask, transform, ratio)
    for part in parts:
        mask, place = place_around(part, lesion, transform, ratio, (20, 30, 40))
        both = np.zeros((60, 120, 120), bool)
        both[tuple(slice(a, a + n) for a, n in zip(place, mask.shape, strict=True))] = mask
        alone = np.zeros_like(both)
        alone[tuple(slice(a, a + n) for a, n in zip((20, 30, 40), inner.mask.shape, strict=True))] = inner.mask
        assert (alone & both).sum() >= 0.8 * alone.sum(), "both are rounded to whole voxels"
        expected = _moved(part, lesion, transform, ratio)
        found = [np.mean(np.nonzero(of), axis=1) for of in (both, alone)]
        assert found[0] - found[1] == pytest.approx(expected, abs=1.1)


def _moved(part: Lesion, lesion: Lesion, transform: Transform, ratio: np.ndarray) -> np.ndarray:
    """From the middle of a lesion to that of its surroundings with it, after the transform, by the definition."""
    middles = [np.mean(np.nonzero(of.mask), axis=1) + of.start for of in (part, lesion)]
    z, y, x = middles[0] - middles[1]
    x = -x if transform.mirror else x
    angle = np.deg2rad(transform.angle)
    y, x = (of * scale * transform.scale for of, scale in zip((y, x), ratio[1:], strict=True))
    z *= ratio[0] * transform.scale if len(lesion.mask) > 1 else 1
    return np.array([z, np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y])


@pytest.fixture(scope="module", params=[1, 6])
def cases(request):
    """Emphysema within ILD in a third of the cases, the others healthy."""
    rng = np.random.default_rng(3)
    spacing = (5.0, 1.0, 1.0)
    return {
        f"c{i:02d}": np.ones((request.param, 64, 64), np.uint8)
        if i % 3
        else nested(rng.uniform(4, 6), rng.uniform(9, 12), request.param, spacing)
        for i in range(18)
    }


@pytest.fixture(scope="module")
def planned(cases):
    config = BalanceConfig(target_share={"emphysema": 0.1, "ILD": 0.1}, placement="real", max_ratio=0.5, placebo=0.3)
    plan, lesions, facts = plan_for(cases, config)
    add_placebos(plan, list(facts.values()), lesions, ROLES, config, 0, cases.__getitem__)
    return plan, lesions, facts


def test_new_lesions_lie_in_what_real_ones_lie_in(planned, cases):
    plan, lesions, facts = planned
    assert plan.with_lesions
    for case in plan.with_lesions:
        host = cases[case.host]
        new, _ = apply_operations(case.operations, host, facts[case.host].spacing, lesions, ROLES)
        inner = (new == EMPHYSEMA) & (host != EMPHYSEMA)
        if not inner.any():
            continue
        beside = ndimage.binary_dilation(inner, ndimage.generate_binary_structure(3, 1)) & ~inner
        assert (new[beside] == ILD).mean() > 0.9
        for name, value in (("emphysema", EMPHYSEMA), ("ILD", ILD)):
            voxels = sum(op.voxels for op in case.operations if op.pathology == name)
            assert voxels == ((new == value) & (host != value)).sum()
        within = [op for op in case.operations if op.around]
        assert {op.around for op in within} == {"emphysema"}
        assert all(op.as_record()["around"] == "emphysema" for op in within)
        assert set(np.flatnonzero((new != host).any((1, 2)))) == set(case.slices)
    assert not any("around" in op.as_record() for case in plan.cases for op in case.operations if not op.around)


def test_the_outline_of_a_placebo_is_that_of_both(planned):
    plan, lesions, _ = planned
    assert plan.placebos
    outlines = [op for case in plan.placebos for op in case.operations]
    assert any(op.around for op in outlines)
    inner = {(op.around, op.donor, op.component) for case in plan.with_lesions for op in case.operations if op.around}
    for op in outlines:
        assert op.around or (op.pathology, op.donor, op.component) not in inner
        assert lesion_of(op, lesions).source is None, "all of it is normal lung"


def test_its_texture_is_its_own(planned, cases):
    """The voxels of the inner lesion are no texture of what surrounds it."""
    plan, lesions, facts = planned
    level = {1: -850.0, EMPHYSEMA: -950.0, ILD: -600.0}
    images = {name: np.select([label == k for k in level], list(level.values()))[None] for name, label in cases.items()}
    case = next(case for case in plan.with_lesions if any(op.around for op in case.operations))
    host = cases[case.host]
    new, image = apply_operations(
        case.operations, host, facts[case.host].spacing, lesions, ROLES, images[case.host], images.__getitem__
    )
    for value in (EMPHYSEMA, ILD):
        assert (image[0][(new == value) & (host == 1)] == level[value]).all()


def test_places_drawn_at_random_take_nothing_along(cases):
    config = BalanceConfig(target_share={"emphysema": 0.1, "ILD": 0.1}, placement="uniform", max_ratio=0.5)
    plan, _, _ = plan_for(cases, config)
    assert plan.cases
    assert not any(op.around for case in plan.cases for op in case.operations)


def test_surroundings_that_reach_beyond_the_image_are_cut_off_there():
    """In thin volumes most of what surrounds a lesion fits; a lesion alone would be what no reader has seen."""
    labels = {f"c{i}": nested(5, 14, 9, (5.0, 1, 1)) if i % 2 else np.ones((4, 64, 64), np.uint8) for i in range(12)}
    plan, lesions, facts = plan_for(
        labels, BalanceConfig(placement="real", target_share={"emphysema": 0.1, "ILD": 0.3}, max_ratio=2)
    )
    beyond = 0
    for case in plan.cases:
        host, spacing = labels[case.host], facts[case.host].spacing
        new, _ = apply_operations(case.operations, host, spacing, lesions, ROLES)
        inner = [op for op in case.operations if op.pathology == "emphysema"]
        assert len([op for op in case.operations if op.around]) == len(inner)
        for op in case.operations:
            mask = warp(lesion_of(op, lesions).mask, op.transform, np.array(lesions["ILD"][0].spacing) / spacing).mask
            beyond += min(op.place) < 0 or (np.add(op.place, mask.shape) > host.shape).any()
        for name, value in (("emphysema", EMPHYSEMA), ("ILD", ILD)):
            voxels = sum(op.voxels for op in case.operations if op.pathology == name)
            assert voxels == ((new == value) & (host != value)).sum()
        assert tuple(np.flatnonzero((new != host).any((1, 2)))) == case.slices
    assert beyond


def test_a_part_outside_the_image_is_nothing():
    mask = np.ones((2, 3, 4), bool)
    for place, shape, first in (
        ((0, 0, 0), (2, 3, 4), (0, 0, 0)),
        ((-1, 1, -2), (1, 3, 2), (0, 1, 0)),
        ((4, 4, 4), (2, 2, 2), (4, 4, 4)),
        ((5, 0, 0), (1, 3, 4), (5, 0, 0)),
        ((9, 0, 0), (0, 3, 4), (9, 0, 0)),
        ((-5, 0, 0), (0, 3, 4), (0, 0, 0)),
    ):
        part, at = inside_image(mask, place, (6, 6, 6))
        assert (part.shape, at) == (shape, first)
    label = np.ones((6, 6, 6), np.uint8)
    assert paste(label, mask, (5, 4, -3), 3, ROLES) == 1 * 2 * 1
    assert (label == 3).sum() == 2


def test_surroundings_outside_the_image_do_not_come_along():
    """A lesion of thin slices may come to lie in one thick slice, and what surrounds it beside that."""
    host = np.ones((1, 64, 64), np.uint8)
    facts = facts_of({"host": host})["host"]
    around = Lesion("case", "ILD", -1, np.ones((1, 9, 9), bool), SPACING, (0, 30, 0))
    lesion = Lesion("case", "emphysema", 1, np.ones((1, 6, 6), bool), SPACING, (0, 30, 40), surroundings=(around,))
    image, lesions = np.zeros((1, 1, 64, 64)), {"emphysema": [lesion], "ILD": []}
    for x, pasted in ((10, ["emphysema"]), (50, ["emphysema", "ILD"])):
        label = host.copy()
        lung = Lung(host, ROLES, SPACING, facts.counts)
        filling = Filling(facts, label, lung, ROLES.is_normal(host), 1, dict.fromkeys(ROLES.lung, 0), ROLES.pathologies)
        fitting = Fitting(Transform(), lesion.mask, (0, 30, x), lesion.mask)
        assert filling.take("emphysema", lesion, fitting, ROLES)
        assert [op.pathology for op in filling.operations] == pasted
        new, _ = apply_operations(filling.operations, host, SPACING, lesions, ROLES, image, lambda _: image)
        assert np.array_equal(new, label)


def test_a_class_that_is_not_to_be_painted_does_not_come_along(cases):
    config = BalanceConfig(placement="real", target_share={"emphysema": 0.1, "ILD": 0.0}, max_ratio=0.5)
    plan, _, _ = plan_for(cases, config)
    assert plan.cases
    assert {op.pathology for case in plan.cases for op in case.operations} == {"emphysema"}
    assert plan.after["ILD"] == plan.before["ILD"] + sum((cases[case.host] == ILD).sum() for case in plan.cases)


def test_surroundings_have_the_style_of_their_own_voxels(planned, cases):
    plan, lesions, facts = planned
    level = {1: -850.0, EMPHYSEMA: -950.0, ILD: -600.0}
    images = {name: np.select([label == k for k in level], list(level.values()))[None] for name, label in cases.items()}
    cache = SimpleNamespace(roles=ROLES, facts=facts, image=images.__getitem__, condition=cases.__getitem__)
    keep = ClassStyles({}, SamplingConfig(level="donor", styles="real"))
    found = set()
    for case in plan.with_lesions:
        host = cases[case.host]
        new, _ = apply_operations(case.operations, host, facts[case.host].spacing, lesions, ROLES)
        outlined = (new != host)[list(case.slices)]
        donors = find_donors(case, lesions, cache, outlined, {"emphysema": keep, "ILD": keep})
        assert ((donors.owner > 0) == outlined).all()
        for number, voxels in enumerate(donors.voxels, start=1):
            (value,) = np.unique(new[list(case.slices)][donors.owner == number])
            assert set(voxels[0]) == {level[value]}
            found.add(value)
    assert found == {EMPHYSEMA, ILD}


def test_surroundings_follow_the_lung_as_lesions_of_their_class_do():
    style = Style(np.array([-600.0]), np.array([-850.0]), np.array([20.0]), 100, "")
    real = {(f"c{i}", 1): Style(np.array([-600.0 + 3 * i]), np.array([-850.0 + 3 * i]), np.array([20.0]), 99, f"p{i}")
            for i in range(12)}  # fmt: skip
    styles = ClassStyles(real, SamplingConfig(level="host", styles="real"))
    part = lesion_in(nested(5, 9))
    added, factor = styles.change(part, np.array([-840.0]), np.random.default_rng(0), style)
    assert added == pytest.approx([10.0], abs=1)
    assert factor == pytest.approx([1.0])
    assert styles.change(part, np.array([-840.0]), np.random.default_rng(0)) is None
    label = nested(5, 9)
    (around,) = find_surroundings(label, lesion_in(label), ROLES)
    image = np.select([label == 1, label == EMPHYSEMA, label == ILD], [-850.0, -950.0, -600.0])[None]
    counts = {"case": SimpleNamespace(spacing=SPACING)}
    cache = SimpleNamespace(roles=ROLES, facts=counts, image=lambda _: image, condition=lambda _: label)
    found = style_of_part(around, cache)
    assert (found.level[0], found.spread[0], found.lung[0]) == (-600, 0, -850)


def test_masks_tell_how_much_of_a_lesions_border_is_other_pathology(planned, cases):
    assert share_of_border(nested(5, 25), lesion_in(nested(5, 25)), ROLES) == 1
    assert share_of_border(nested(5, 0), lesion_in(nested(5, 0)), ROLES) == 0
    label = nested(5, 25)
    label[:, :29] = np.where(label[:, :29] == ILD, 1, label[:, :29])
    assert share_of_border(label, lesion_in(label), ROLES) == pytest.approx(0.5, abs=0.1)
    plan = planned[0]
    assert "border" not in plan.likeness["emphysema"], "1 in all lesions, real and planned"
    apart, _, _ = plan_for(cases, BalanceConfig(target_share={"emphysema": 0.1}, max_ratio=0.5))
    assert apart.likeness["emphysema"]["border"]["auc"] == 0
