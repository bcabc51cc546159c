"""The plan of placebo cases: an exact share, outlines of lesions, normal lung alone, training cases alone."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.config import BalanceConfig
from nnunet_difflung.lesions.balance import collect_lesions, make_plan
from nnunet_difflung.lesions.masks import MIN_VOXELS, Lesion
from nnunet_difflung.lesions.pasting import apply_operations
from nnunet_difflung.lesions.placebo import add_placebos, lung_piece, number_of_placebos
from nnunet_difflung.lesions.plan import LungSource, Plan
from tests.lesions.test_balance import ROLES, cohort, facts_of

SPACINGS = [(5.0, 1.0, 1.0), (4.0, 0.8, 1.25), (5.0, 1.3, 1.3)]


def plan_with(labels, share: float, facts=None, slices: int = 8, **add) -> tuple[Plan, dict, dict]:
    facts = facts or facts_of(labels)
    lesions = collect_lesions(list(labels), facts, ROLES, labels.__getitem__)
    config = BalanceConfig(
        target_share={"emphysema": 0.3, "ILD": 0.3}, max_synthetic=slices, placebo=share, seed=add.pop("seed", 3)
    )
    plan = make_plan(list(facts.values()), lesions, ROLES, config, 0, labels.__getitem__)
    add_placebos(plan, list(facts.values()), lesions, ROLES, config, 0, labels.__getitem__, **add)
    return plan, lesions, facts


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (0.2, 2), (0.5, 8), (0.6, 12)])
def test_placebo_cases_are_the_stated_share_and_come_on_top_of_the_bound(share, expected):
    labels = cohort()
    alone, plan = plan_with(labels, 0)[0], plan_with(labels, share)[0]
    assert plan.with_lesions == alone.cases
    assert sum(len(case.slices) for case in plan.with_lesions) == plan.max_slices == 8
    assert len(plan.placebos) == expected == number_of_placebos(len(alone.cases), share)
    assert [case.index for case in plan.cases] == list(range(8 + expected))
    added = {name: sum(int((labels[c.host] == ROLES.values[name]).sum()) for c in plan.placebos) for name in ROLES.lung}
    assert plan.after == {name: count + added[name] for name, count in alone.after.items()}
    assert any("placebo" in note for note in plan.notes) == bool(expected)


@pytest.mark.parametrize("depth", [1, 8])
@pytest.mark.parametrize("spacings", [SPACINGS[:1], SPACINGS], ids=["one spacing", "three spacings"])
def test_outlines_of_a_lesion_case_lie_in_normal_lung_of_another_host(depth, spacings):
    labels = cohort(10, depth=depth)
    of_spacing = [facts_of(labels, spacing) for spacing in spacings]
    facts = {name: of_spacing[i % len(spacings)][name] for i, name in enumerate(labels)}
    plan, lesions, _ = plan_with(labels, 0.5, facts, slices=8 * depth)
    assert plan.placebos
    models = {tuple((op.donor, op.component) for op in case.operations): case for case in plan.with_lesions}
    for case in plan.placebos:
        outlines = tuple((op.donor, op.component) for op in case.operations)
        possible = [model for key, model in models.items() if set(outlines) <= set(key) and model.host != case.host]
        assert possible
        assert len(case.slices) <= max(len(model.slices) for model in possible)
        old, host = labels[case.host], facts[case.host]
        marked, _ = apply_operations(case.operations, old, host.spacing, lesions, ROLES)
        outline = marked != old
        assert (old[outline] == ROLES.values["normal_lung"]).all()
        assert tuple(np.flatnonzero(outline.any((1, 2)))) == case.slices
        assert sum(op.voxels for op in case.operations) == outline.sum() >= MIN_VOXELS


def test_the_lung_that_is_pasted_is_normal_lung_of_another_training_case_and_is_a_source():
    labels = cohort()
    plan, lesions, facts = plan_with(labels, 0.5)
    for case in plan.placebos:
        for op in case.operations:
            assert op.lung.case in set(labels) - {case.host}
            assert op.lung.case in case.sources()
            (lesion,) = [x for x in lesions[op.pathology] if (x.case, x.component) == (op.donor, op.component)]
            piece = lung_piece(lesion, op.lung)
            assert np.array_equal(piece.mask, lesion.mask)
            under = labels[op.lung.case][piece.box]
            assert ROLES.is_normal(under)[piece.mask].mean() >= 0.9
        assert case.host in case.sources()
        assert set(case.sources()) <= set(facts)


def test_records_say_where_the_lung_is_from_and_those_of_lesions_are_as_before():
    plan = plan_with(cohort(), 0.5)[0]
    for case in plan.with_lesions:
        record = case.as_record()
        assert "placebo" not in record
        assert all("lung" not in operation for operation in record["operations"])
    for case in plan.placebos:
        record = case.as_record()
        assert record["placebo"] is True
        assert all(set(op["lung"]) == {"case", "start", "spacing"} for op in record["operations"])


def test_the_same_seed_gives_the_same_placebo_cases_and_another_seed_others():
    labels, made = cohort(), []
    for seed, fold in ((3, 0), (3, 0), (4, 0), (3, 1)):
        plan, lesions, facts = plan_with(labels, 0)
        config = BalanceConfig(placebo=0.5, seed=seed)
        add_placebos(plan, list(facts.values()), lesions, ROLES, config, fold, labels.__getitem__)
        made.append(plan.placebos)
    first, second, other_seed, other_fold = made
    assert first == second
    assert first != other_seed
    assert first != other_fold


@pytest.mark.parametrize("spacing", [(5.0, 0.5, 1.0), (5.0, 2.0, 2.0), (10.0, 1.0, 1.0)])
def test_an_outline_keeps_its_size_in_mm_in_the_case_that_lung_is_cut_from(spacing):
    mask = np.zeros((6, 24, 24), bool)
    mask[:, 4:20, 4:20] = True
    lesion = Lesion("c00", "ILD", 1, mask, (5.0, 1.0, 1.0))
    piece = lung_piece(lesion, LungSource("c01", (0, 0, 0), spacing, 6))
    assert piece.mask.sum() * np.prod(spacing) == pytest.approx(mask.sum() * 5.0, rel=0.1)
    assert (piece.case, piece.spacing) == ("c01", spacing)


@pytest.mark.parametrize(("of_lesion", "of_source"), [(5.0, 1.0), (1.0, 5.0), (2.0, 2.0)])
def test_an_outline_in_one_slice_keeps_its_thickness_as_the_lesion_does(of_lesion, of_source):
    lesion = Lesion("c00", "ILD", 1, np.ones((1, 10, 10), bool), (of_lesion, 1.0, 1.0))
    source = LungSource("c01", (0, 0, 0), (of_source, 1.0, 1.0), 40)
    assert len(lung_piece(lesion, source).mask) == max(1, round(of_lesion / of_source))
    flat = LungSource("c01", (0, 0, 0), (of_source, 1.0, 1.0), 1)
    assert len(lung_piece(lesion, flat).mask) == 1


def test_with_a_single_case_lung_comes_from_another_place_of_it():
    labels = {"c00": cohort(1)["c00"]}
    plan, lesions, _ = plan_with(labels, 0.5, slices=2)
    assert plan.placebos
    for case in plan.placebos:
        for op in case.operations:
            assert op.lung.case == case.host == "c00"
            marked, _ = apply_operations([op], labels["c00"], (5.0, 1.0, 1.0), lesions, ROLES)
            (lesion,) = [x for x in lesions[op.pathology] if (x.case, x.component) == (op.donor, op.component)]
            cut = lung_piece(lesion, op.lung).box
            assert (marked != labels["c00"]).sum() > 2 * (marked != labels["c00"])[cut].sum()


def test_an_outline_that_is_planned_smaller_than_its_lesion_needs_no_normal_lung_as_large_as_the_lesion():
    labels = {"c": np.ones((1, 96, 96), np.uint8)}
    labels["c"][:, 8:88, 8:88] = ROLES.values["emphysema"]  # larger than the lungs of all other cases
    labels |= {f"d{i}": np.pad(np.ones((1, 36, 36), np.uint8), ((0, 0), (6, 6), (6, 6))) for i in range(20)}
    plan, lesions, facts = plan_with(labels, 0.5)
    assert len(plan.with_lesions) == len(plan.placebos) == 8
    images = {name: np.where(label == 1, 100.0, -500.0)[None] for name, label in labels.items()}
    for case in plan.placebos:
        (op,) = case.operations
        assert op.lung.case != case.host
        assert op.lung.scale < 0.6
        assert op.as_record()["lung"].keys() == {"case", "start", "spacing", "scale"}
        piece = lung_piece(lesions["emphysema"][0], op.lung)
        assert piece.mask.sum() == pytest.approx(op.lung.scale**2 * lesions["emphysema"][0].voxels, rel=0.1)
        assert ROLES.is_normal(labels[op.lung.case][piece.box])[piece.mask].mean() >= 0.9
        spacing, label = facts[case.host].spacing, labels[case.host]
        marked, pasted = apply_operations(
            case.operations, label, spacing, lesions, ROLES, images[case.host], images.get, labels.get
        )
        assert (marked != label).sum() == op.voxels
        assert pasted[0][marked != label] == pytest.approx(100, abs=1)


def test_what_fits_nowhere_is_said(monkeypatch):
    labels = cohort()
    plan, lesions, facts = plan_with(labels, 0)
    monkeypatch.setattr("nnunet_difflung.lesions.placebo.find_place", lambda mask, free, rng: None)
    config = BalanceConfig(placebo=0.5)
    add_placebos(plan, list(facts.values()), lesions, ROLES, config, 0, labels.__getitem__)
    assert not plan.placebos
    assert any("placebo: 0 of 8 cases could be planned" in note for note in plan.notes)


def test_the_texture_is_the_other_cases_normal_lung_moved_like_that_of_a_lesion():
    """Every case has a level of its own, and its lesions and its vessels another: only normal lung is pasted."""
    labels = cohort()
    plan, lesions, facts = plan_with(labels, 0.5)
    level = {name: -900.0 + 10 * i for i, name in enumerate(labels)}
    images = {
        name: (np.where(label == 1, level[name], 500.0) + np.random.default_rng(0).normal(0, 1, label.shape))[None]
        for name, label in labels.items()
    }
    for case in plan.placebos:
        for op in case.operations:
            marked, pasted = apply_operations(
                [op],
                labels[case.host],
                facts[case.host].spacing,
                lesions,
                ROLES,
                images[case.host],
                images.__getitem__,
                labels.__getitem__,
            )
            outline = marked != labels[case.host]
            assert pasted[0][outline] == pytest.approx(level[op.lung.case], abs=6)
            assert pasted[0][outline].std() == pytest.approx(1, abs=0.5)
            assert (pasted[0] == images[case.host].astype(np.float32)[0])[labels[case.host] != 1].all()


def test_outlines_lie_where_the_lesions_lie_if_those_follow_real_cases():
    """Real lesions lie in the lower part of the lung; a placebo elsewhere would tell by its place what it is not."""
    rng, labels = np.random.default_rng(0), {}
    for number in range(12):
        label = np.zeros((1, 64, 64), np.uint8)
        label[0, 4:60, 4:60] = ROLES.values["normal_lung"]
        if number < 6:
            y, x = rng.integers(46, 50), rng.integers(10, 48)
            label[0, y : y + 6, x : x + 6] = ROLES.values["emphysema"]
        labels[f"case_{number:02d}"] = label
    rows = {}
    for placement in ("real", "uniform"):
        facts = facts_of(labels)
        lesions = collect_lesions(list(labels), facts, ROLES, labels.__getitem__)
        config = BalanceConfig(target_share={"emphysema": 0.3}, max_synthetic=10, placebo=0.5, placement=placement)
        plan = make_plan(list(facts.values()), lesions, ROLES, config, 0, labels.__getitem__)
        add_placebos(plan, list(facts.values()), lesions, ROLES, config, 0, labels.__getitem__)
        assert len(plan.placebos) == len(plan.with_lesions)
        rows[placement] = [op.place[1] for case in plan.placebos for op in case.operations]
    assert min(rows["real"]) > 36
    assert min(rows["uniform"]) < 30
