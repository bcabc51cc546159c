"""Planned lesions lie where real ones lie, touch the pleura as they do, and are as many and as large."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnunet_difflung.config import BalanceConfig, preset
from nnunet_difflung.lesions.following import Filling, Fitting
from nnunet_difflung.lesions.likeness import Sample, auc, compare
from nnunet_difflung.lesions.lung import Lung, Site
from nnunet_difflung.lesions.masks import Lesion, Transform, warp, window_at
from nnunet_difflung.lesions.pasting import lesion_of
from nnunet_difflung.lesions.placebo import add_placebos
from nnunet_difflung.lesions.real_places import FAR, most_alike
from tests.lesions.test_balance import ROLES, cohort, count_slices, facts_of, new_label, plan_for
from tests.support.plans import digest

REAL = BalanceConfig(placement="real", target_multiple=4.0, max_ratio=0.5)


def lungs(rng: np.random.Generator, depth: int = 1) -> np.ndarray:
    """(z, y, x) two oval lungs whose size and place vary."""
    label = np.zeros((depth, 64, 96), np.uint8)
    y, x = np.ogrid[:64, :96]
    height, width, top = rng.uniform(22, 27), rng.uniform(16, 19), rng.uniform(30, 34)
    for middle in (26 + rng.uniform(-2, 2), 70 + rng.uniform(-2, 2)):
        label[:, ((y - top) / height) ** 2 + ((x - middle) / width) ** 2 <= 1] = 1
    return label


def patient(number: int, with_class: bool, depth: int = 1) -> np.ndarray:
    """Emphysema at the outer pleura in the back and ILD deep in the front, in each case that has them."""
    rng = np.random.default_rng(number)
    label = lungs(rng, depth)
    if with_class:
        y, x = np.ogrid[:64, :96]
        z = slice(depth // 4, depth // 4 + max(1, depth // 3))
        inside = label[0] == 1
        row = rng.uniform(44, 48)
        edge = np.flatnonzero(inside[round(row)])
        outer = edge[0] if number % 2 else edge[-1]
        disc = ((y - row) ** 2 + (x - outer) ** 2 <= rng.uniform(5, 7) ** 2) & inside
        deep = (y - rng.uniform(18, 21)) ** 2 + (x - rng.uniform(25, 28)) ** 2 <= rng.uniform(2.5, 4) ** 2
        label[z, disc] = 2
        label[z, deep & inside] = 3
    return label


@pytest.fixture(scope="module")
def slices():
    return {f"c{i:02d}": patient(i, i < 12) for i in range(48)}


@pytest.fixture(scope="module")
def planned(slices):
    return plan_for(slices, REAL)


def painted(planned, labels, name: str) -> list[Site]:
    """Where the new lesions of a class lie, from the label maps."""
    plan, lesions, facts = planned
    sites = []
    for case in plan.cases:
        host = labels[case.host]
        new, lung = (
            new_label(case, host, lesions, facts),
            Lung(host, ROLES, facts[case.host].spacing, count_slices(host)),
        )
        parts, number = ndimage.label((new != host) & (new == ROLES.values[name]))
        sites += [lung.site(parts == part, (0, 0, 0)) for part in range(1, number + 1)]
    return sites


def test_places_follow_the_class(planned, slices):
    plan, lesions, _ = planned
    assert len(plan.cases) >= 10
    back, deep = (painted(planned, slices, name) for name in ("emphysema", "ILD"))
    assert min(site.front_back for site in back) > 0.55
    assert min(site.outward for site in back) > 0.6
    assert max(site.front_back for site in deep) < 0.5
    for name, found in (("emphysema", back), ("ILD", deep)):
        real = [lesion.site for lesion in lesions[name]]
        for figure in ("front_back", "outward", "depth"):
            values, others = (np.mean([getattr(s, figure) for s in sites]) for sites in (found, real))
            assert values == pytest.approx(others, abs=2 if figure == "depth" else 0.08), (name, figure)


def test_lesions_on_the_pleura_stay_there_and_others_stay_off_it(planned, slices):
    contact = [site.contact for site in painted(planned, slices, "emphysema")]
    assert min(contact) > 0.1
    real = [lesion.site.contact for lesion in planned[1]["emphysema"]]
    assert np.mean(contact) == pytest.approx(np.mean(real), abs=0.08)
    assert {site.contact for site in painted(planned, slices, "ILD")} == {0.0}


def test_lesions_that_touch_the_pleura_turn_a_little_and_change_their_outline_with_their_side(planned):
    plan, lesions, _ = planned
    for case in plan.cases:
        for operation in case.operations:
            donor = lesion_of(operation, lesions)
            if operation.pathology == "emphysema":
                assert abs(operation.transform.angle) < 35
                middle = operation.place[2] + donor.mask.shape[2] / 2
                assert operation.transform.mirror == ((middle > 48) != donor.site.side)


def test_where_only_the_other_lung_is_there_the_outline_is_mirrored_for_it_in_placebo_cases_too():
    """Cut-outs and oblique slices show one lung: the inner edge of a lesion must not come to lie on the pleura."""
    labels = {}
    for number in range(12):
        label = patient(number, number < 6)
        label[..., slice(48, None) if number % 2 else slice(None, 48)] = 0  # the lung without emphysema
        labels[f"c{number:02d}"] = label
    config = BalanceConfig(placement="real", target_share={"emphysema": 0.2}, max_synthetic=12, placebo=0.5)
    plan, lesions, facts = plan_for(labels, config)
    add_placebos(plan, list(facts.values()), lesions, ROLES, config, 0, labels.__getitem__)
    mirrored = set()
    for case in plan.cases:
        side = Lung(labels[case.host], ROLES, facts[case.host].spacing, facts[case.host].counts).slice(0).pieces[0].side
        for operation in (op for op in case.operations if op.pathology == "emphysema"):
            assert operation.transform.mirror == (lesion_of(replace(operation, lung=None), lesions).site.side != side)
            mirrored.add((case.placebo, operation.transform.mirror))
    assert mirrored == {(False, False), (False, True), (True, False), (True, True)}


def test_a_case_has_as_many_lesions_as_a_real_one_and_as_much_of_its_lung(planned):
    plan, *_ = planned
    assert max(len([op for op in case.operations if op.pathology == "ILD"]) for case in plan.cases) == 1
    for name in ("emphysema", "ILD"):
        rows = plan.likeness[name]
        figures = {"share_of_lung", "count", "size", "contact", "depth", "front_back", "sideways", "other_pathologies"}
        assert figures >= set(rows)
        assert all(abs(row["auc"] - 0.5) <= row["limit"] for row in rows.values()), rows


def test_what_the_report_compares_is_what_is_in_the_masks(planned, slices):
    rows = planned[0].likeness["emphysema"]
    sites = painted(planned, slices, "emphysema")
    assert rows["front_back"]["number_planned"] == len(sites)
    assert rows["front_back"]["planned"] == pytest.approx(np.median([site.front_back for site in sites]), abs=1e-3)


def test_uniform_places_are_told_from_real_ones(slices):
    plan, *_ = plan_for(slices, BalanceConfig(default_share=0.1, max_ratio=0.5))
    assert plan.likeness["emphysema"]["front_back"]["alike"] is False
    assert plan.likeness["emphysema"]["share_of_lung"]["auc"] > 0.8


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 9]))
def test_only_normal_lung_changes_and_every_voxel_is_counted(seed, depth):
    labels = {f"c{i}": patient(i, i < 4, depth) for i in range(8)}
    config = BalanceConfig(placement="real", target_multiple=4.0, seed=seed, max_synthetic=3 * depth)
    plan, lesions, facts = plan_for(labels, config)
    assert plan.slices <= 3 * depth
    counts = dict(plan.before)
    for case in plan.cases:
        old = labels[case.host]
        new = new_label(case, old, lesions, facts)
        assert (old[new != old] == 1).all()
        assert tuple(np.flatnonzero((new != old).any((1, 2)))) == case.slices
        assert sum(op.voxels for op in case.operations) == (new != old).sum() > 0, "no lesion lies over another one"
        for name, value in ROLES.values.items():
            counts[name] += int((new == value).sum())
    assert counts == plan.after


def test_same_seed_same_plan_and_folds_differ(slices):
    first, second = plan_for(slices, REAL)[0], plan_for(slices, REAL)[0]
    assert first.cases == second.cases != plan_for(slices, REAL, fold=1)[0].cases
    assert first.likeness == second.likeness


def test_lesions_of_volumes_keep_their_size_in_mm_and_their_height():
    labels = {f"c{i}": patient(i, i < 5, 12) for i in range(10)}
    facts = facts_of(labels)
    config = BalanceConfig(placement="real", target_multiple=4.0, max_synthetic=60)
    plan, lesions, _ = plan_for(labels, config)
    sites = painted((plan, lesions, facts), labels, "emphysema")
    real = [lesion.site for lesion in lesions["emphysema"]]
    assert len(sites) >= 3
    assert max(len(case.slices) for case in plan.cases) > 1
    assert np.mean([s.height for s in sites]) == pytest.approx(np.mean([s.height for s in real]), abs=0.12)
    assert np.mean([s.size for s in sites]) == pytest.approx(np.mean([s.size for s in real]), rel=0.35)
    operation = next(op for case in plan.cases for op in case.operations)
    donor = lesion_of(operation, lesions)
    halved = warp(donor.mask, operation.transform, (0.5, 0.5, 0.5)).mask.sum()
    assert halved * 8 == pytest.approx(warp(donor.mask, operation.transform).mask.sum(), rel=0.4)


def test_uniform_plans_are_those_of_earlier_versions():
    volumes = BalanceConfig(max_synthetic=13, target_share={"emphysema": 0.3})
    assert digest(plan_for(cohort(), BalanceConfig(max_synthetic=12))[0]) == "acd8ab54ef491ec7"
    assert digest(plan_for(cohort(6, depth=8, with_emphysema=2), volumes)[0]) == "5e918bd5c6d17abe"


def test_the_target_is_a_multiple_of_the_share_and_no_more_than_slices_with_the_class_have(slices):
    plan, _, facts = plan_for(slices, REAL)
    share = plan.before["ILD"] / sum(plan.before.values())
    holding = [case for case in facts.values() if case.voxels("ILD")]
    full = sum(case.voxels("ILD") for case in holding) / sum(case.voxels(n) for case in holding for n in ROLES.lung)
    assert plan.targets["ILD"] == pytest.approx(min(4 * share, full))
    doubled = BalanceConfig(placement="real", target_multiple=2.0, target_share={"emphysema": 0.07})
    targets = plan_for(slices, doubled)[0].targets
    assert targets == {"emphysema": 0.07, "ILD": pytest.approx(2 * share)}


def test_a_target_out_of_reach_is_named_with_the_share_that_is_reached(slices):
    config = BalanceConfig(placement="real", target_share={"emphysema": 0.5}, max_synthetic=5, target_multiple=2.0)
    plan, *_ = plan_for(slices, config)
    assert plan.slices <= 5
    assert any("emphysema: the plan reaches" in note and "real case" in note for note in plan.notes)


@pytest.mark.parametrize("hosts", ["any", "alike"])
@pytest.mark.parametrize("depth", [1, 6])
def test_a_bound_on_slices_is_no_reason_where_more_slices_would_not_raise_the_share(hosts, depth):
    labels = {f"c{i}": patient(i, i < 3, depth) for i in range(5)}
    notes = {}
    for most in (4, 200):
        target = {"emphysema": 0.5, "ILD": 0}
        config = BalanceConfig(placement="real", hosts=hosts, target_share=target, max_synthetic=most)
        plan, *_ = plan_for(labels, config)
        assert plan.slices > 0.9 * most
        (notes[most],) = [note for note in plan.notes if "the plan reaches" in note]
    assert "(limited by --max-synthetic 4; a synthetic case gets only as much of the class as" in notes[4]
    assert "(a synthetic case gets only as much of the class as a real case with it has, so more" in notes[200]
    assert "--max-synthetic" not in notes[200]


def test_hosts_that_all_have_the_class_get_more_of_it_and_the_plan_says_so():
    labels = {f"c{i}": patient(i, True) for i in range(8)}
    plan, *_ = plan_for(labels, BalanceConfig(placement="real", target_multiple=4.0, max_synthetic=3))
    assert plan.cases
    assert any("synthetic cases have more" in note for note in plan.notes)


@pytest.mark.parametrize("hosts", ["any", "alike"])
def test_hosts_without_room_are_no_reason_to_give_others_more_lesions_than_real_cases_have(hosts):
    labels = {f"c{i}": np.pad(np.ones((1, 90, 90), np.uint8), ((0, 0), (3, 3), (3, 3))) for i in range(3)}
    for label in labels.values():
        label[:, 20:76, 20:76] = 2  # larger than the lungs of the others
    labels |= {f"d{i}": np.pad(np.ones((1, 30, 30), np.uint8), ((0, 0), (6, 6), (6, 6))) for i in range(6)}
    config = BalanceConfig(placement="real", hosts=hosts, target_share={"emphysema": 0.5}, max_ratio=1.0)
    plan, *_ = plan_for(labels, config)
    assert not any("synthetic cases have more" in note for note in plan.notes)
    assert any("no host has room for more where real lesions of the class lie" in note for note in plan.notes)


@pytest.mark.parametrize("hosts", ["any", "alike"])
def test_a_class_that_fits_nowhere_keeps_no_other_class_from_being_planned(hosts):
    labels = {f"c{i}": np.pad(np.ones((1, 90, 90), np.uint8), ((0, 0), (3, 3), (3, 3))) for i in range(3)}
    for label in labels.values():
        label[:, 4:93, 3:93] = 2  # larger than the lungs of the others, and hardly any room for another lesion
    labels |= {f"d{i}": np.pad(np.ones((1, 30, 30), np.uint8), ((0, 0), (6, 6), (6, 6))) for i in range(12)}
    for i in range(4):
        labels[f"d{i}"][:, 16:21, 16:21] = 3
    share = 100 / (3 * 8100 + 12 * 900)
    target = {"emphysema": 0.99, "ILD": 1.6 * share}  # emphysema is further below its target
    plan, *_ = plan_for(labels, BalanceConfig(placement="real", hosts=hosts, target_share=target, max_synthetic=4))
    assert {op.pathology for case in plan.cases for op in case.operations} == {"ILD"}
    notes = {note.split(":")[0]: note for note in plan.notes if "the plan reaches" in note}
    assert "no host has room" in notes["emphysema"]
    assert "ILD" not in notes or "limited by --max-synthetic 4" in notes["ILD"]


@pytest.mark.parametrize("spacing", [5.0, 2.5, 1.25, 0.625])
def test_a_place_above_or_below_is_found_however_thin_the_slices_are(spacing):
    label = np.ones((round(100 / spacing), 40, 40), np.uint8)
    label[[0, -1]] = label[:, [0, -1]] = label[:, :, [0, -1]] = 0
    height = (np.arange(len(label)) + 0.5) * spacing
    label[abs(height - 50) < 15] *= 3  # another pathology fills the lung where the lesion should lie
    case = replace(facts_of({"c": label})["c"], spacing=(spacing, 2.0, 2.0))
    mask = np.ones((round(10 / spacing), 5, 5), bool)
    lung, wanted = Lung(label, ROLES, case.spacing, case.counts), Site(0.5, 0.5, 0, 0.5, 20.0, 0.0, 1000.0)
    found = most_alike(mask, wanted, lung, ROLES.is_normal(label), np.ones(len(label), bool))
    assert found.cost < FAR
    middle = (found.place[0] + len(mask) / 2) * spacing
    assert abs(middle - 50) == pytest.approx(20, abs=5), "as near as there is room"
    label[abs(height - 50) < 48] = 3
    lung = Lung(label, ROLES, case.spacing, case.counts)
    assert most_alike(mask[:2], wanted, lung, ROLES.is_normal(label), np.ones(len(label), bool)) is None, "too far away"


def test_a_bound_on_slices_that_lesions_exceed_is_what_the_plan_names():
    labels = {f"c{i}": patient(i, i < 5, 24) for i in range(10)}  # lesions of eight slices
    plan, *_ = plan_for(labels, BalanceConfig(placement="real", target_multiple=4.0, max_synthetic=3))
    assert not plan.cases
    left = "limited by --max-synthetic 3, of which 3 are left, too few for a lesion"
    assert any(f"({left})" in note and "emphysema: the plan reaches" in note for note in plan.notes)
    assert not any("synthetic cases have more" in note or "no host has room" in note for note in plan.notes)


def test_a_class_on_the_border_of_the_lung_is_painted_only_if_asked_for():
    labels = {}
    for i in range(8):
        label = lungs(np.random.default_rng(i))
        if i < 4:  # a layer between lung and chest wall, as thick as a pleural effusion
            lung = label == 1
            layer = lung & ~ndimage.binary_erosion(lung, np.ones((1, 3, 3)), 2) & (np.arange(64)[:, None] > 44)
            label[layer] = 2
        labels[f"c{i}"] = label
    assert plan_for(labels, REAL)[0].targets == {}
    assert not plan_for(labels, REAL)[0].cases
    asked = BalanceConfig(placement="real", target_share={"emphysema": 0.05})
    assert plan_for(labels, asked)[0].targets == {"emphysema": 0.05}


def test_the_presets_say_how_masks_are_made():
    for name, placement, multiple, hosts in (
        ("default", "real", 4.0, "alike"),
        ("fast", "real", 4.0, "alike"),
        ("paper", "uniform", None, "any"),
    ):
        balance = preset(name).balance
        assert (balance.placement, balance.target_multiple, balance.default_share) == (placement, multiple, 0.06)
        assert balance.hosts == hosts


def test_auc_counts_pairs_and_ties_one_half():
    rng = np.random.default_rng(0)
    values, others = rng.integers(0, 6, 40), rng.integers(1, 8, 30)
    pairs = np.mean([(a > b) + 0.5 * (a == b) for a in values for b in others])
    assert auc(values, others) == pytest.approx(pairs)
    assert auc(others + 100, values) == 1
    assert auc(values, values) == 0.5


def test_few_cases_give_no_verdict():
    site = Site(0.5, 0.5, 0, 0.5, 2.0, 0.1, 16.0)
    rows = compare(Sample([site], [0.9], [9], cases=3), Sample([site] * 9, [0.1] * 9, [1] * 9, cases=9))
    assert rows["share_of_lung"]["auc"] == 1
    assert rows["share_of_lung"]["alike"] is None
    assert "height" not in rows


def test_what_is_pasted_is_no_longer_free():
    label = lungs(np.random.default_rng(0))
    facts = facts_of({"c": label})["c"]
    lung = Lung(label.copy(), ROLES, facts.spacing, facts.counts)
    filling = Filling(facts, label, lung, ROLES.is_normal(label), 1, dict.fromkeys(ROLES.lung, 0))
    mask = np.ones((1, 5, 5), bool)
    lesion = Lesion("d", "ILD", 1, mask, facts.spacing)
    for expected in (25, 5):  # the second one lies four fifths over the first
        place = (0, 30, 24 + (25 - expected) // 20)
        fitting = Fitting(Transform(), mask, place, mask & filling.free[window_at(place, mask.shape)])
        assert filling.take("ILD", lesion, fitting, ROLES)
        assert filling.operations[-1].voxels == filling.pasted[-1].mask.sum() == expected
    assert (filling.free == (label == 1)).all()
