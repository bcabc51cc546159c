"""The balancing loop: target shares, bounds, and plans that can be applied again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_difflung.config import ORDERS, BalanceConfig
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.lesions import balance
from nnunet_difflung.lesions.balance import _Planner, collect_lesions, make_plan
from nnunet_difflung.lesions.pasting import apply_operations
from nnunet_difflung.lesions.plan import PlannedCase, shares
from nnunet_difflung.lesions.targets import target_shares
from nnunet_difflung.meaning.labels import LabelRoles
from tests.support.tiny import make_masks

ROLES = LabelRoles(("normal_lung",), ("emphysema", "ILD"), (), {"normal_lung": 1, "emphysema": 2, "ILD": 3}, None)


def cohort(cases: int = 16, size: int = 48, depth: int = 1, with_emphysema: int = 4) -> dict[str, np.ndarray]:
    return {
        f"c{i:02d}": make_masks(np.random.default_rng(i), depth, (size, size), emphysema=i < with_emphysema)[1]
        for i in range(cases)
    }


def facts_of(labels: dict[str, np.ndarray], spacing=(5.0, 1.0, 1.0)) -> dict[str, CaseFacts]:
    return {i: CaseFacts(i, a.shape, 1, spacing, "int16", count_slices(a), [], content="") for i, a in labels.items()}


def count_slices(label: np.ndarray) -> dict[str, list[int]]:
    return {name: (label == value).sum((1, 2)).tolist() for name, value in ROLES.values.items()}


def new_label(planned: PlannedCase, label: np.ndarray, lesions, facts: dict[str, CaseFacts]) -> np.ndarray:
    return apply_operations(planned.operations, label, facts[planned.host].spacing, lesions, ROLES)[0]


def plan_for(labels, config=None, fold=0):
    facts = facts_of(labels)
    lesions = collect_lesions(list(labels), facts, ROLES, labels.__getitem__)
    config = config or BalanceConfig()
    return make_plan(list(facts.values()), lesions, ROLES, config, fold, labels.__getitem__), lesions, facts


def test_targets_are_met_and_shares_are_those_of_the_labels():
    labels = cohort()
    plan, lesions, facts = plan_for(labels, BalanceConfig(max_synthetic=12))
    made = [new_label(case, labels[case.host], lesions, facts) for case in plan.cases]
    labels_after = np.stack([*labels.values(), *made])
    counted = {name: int((labels_after == ROLES.values[name]).sum()) for name in ROLES.lung}
    assert counted == plan.after
    before, after = shares(plan.before), shares(plan.after)
    assert before["emphysema"] < 0.03
    assert after["emphysema"] == pytest.approx(0.06, abs=0.015)
    assert not plan.notes


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 9), st.floats(0.02, 0.3))
def test_bounds_hold_and_only_normal_lung_changes(seed, bound, target):
    labels = cohort(8)
    config = BalanceConfig(target_share={"emphysema": target}, max_synthetic=bound, seed=seed)
    plan, lesions, facts = plan_for(labels, config)
    assert plan.slices <= bound
    for case in plan.cases:
        old = labels[case.host]
        new = new_label(case, old, lesions, facts)
        assert (old[new != old] == 1).all()
        assert np.isin(new[new != old], (2, 3)).all()
        assert tuple(np.flatnonzero((new != old).any((1, 2)))) == case.slices
        assert sum(op.voxels for op in case.operations) >= (new != old).sum() > 0


def test_a_slice_with_a_single_voxel_of_lung_is_a_slice_with_lung():
    labels = np.zeros((6, 8, 8), np.uint8)
    labels[0, 0, 0], labels[1, :2, :2], labels[2], labels[3, 0, 0] = 1, 1, 1, 3
    (facts,) = facts_of({"c": labels}).values()
    assert facts.lung_slices(ROLES) == 4
    lesions = {name: [] for name in ROLES.pathologies}
    assert make_plan([facts], lesions, ROLES, BalanceConfig(), 0, lambda _: labels).max_slices == 1
    assert make_plan([facts], lesions, ROLES, BalanceConfig(max_ratio=1), 0, lambda _: labels).max_slices == 4


def test_filling_a_host_takes_from_its_normal_lung_what_it_gives_to_lesions(monkeypatch):
    labels, seen, next_class = cohort(), [], _Planner.next_class
    facts = facts_of(labels)
    lesions = collect_lesions(list(labels), facts, ROLES, labels.__getitem__)
    config = BalanceConfig(target_share={"emphysema": 0.2, "ILD": 0.3})
    planner = _Planner(list(facts.values()), lesions, ROLES, config, 0)
    monkeypatch.setattr(
        _Planner, "next_class", lambda self, counts: seen.append(dict(counts)) or next_class(self, counts)
    )
    host = facts["c10"]
    operations = planner.fill(host, labels["c10"].copy(), 200, 1, np.random.default_rng(0))
    assert len(operations) >= 2
    added = sum(operation.voxels for operation in operations)
    assert seen[0]["normal_lung"] - seen[-1]["normal_lung"] in (added, added - operations[-1].voxels)
    assert {sum(counts.values()) for counts in seen} == {sum(seen[0].values())}


def test_the_least_frequent_class_comes_first_in_the_papers_order():
    """ILD is further below its target, but emphysema is rarer."""
    labels, targets = cohort(), {"emphysema": 0.04, "ILD": 0.5}
    counts = {"normal_lung": 87, "emphysema": 3, "ILD": 10}
    facts = facts_of(labels)
    lesions = collect_lesions(list(labels), facts, ROLES, labels.__getitem__)

    def planner(order: str) -> _Planner:
        config = BalanceConfig(target_share=targets, order=order)
        return _Planner(list(facts.values()), lesions, ROLES, config, 0)

    assert planner("deficit").missing(counts) == ["ILD", "emphysema"]
    assert planner("frequency").missing(counts) == ["emphysema", "ILD"]
    assert planner("frequency").missing({"normal_lung": 80, "emphysema": 10, "ILD": 10}) == ["ILD"]
    assert planner("frequency").missing({"normal_lung": 40, "emphysema": 10, "ILD": 50}) == []
    plan, *_ = plan_for(labels, BalanceConfig(target_share=targets, order="frequency", max_synthetic=12))
    painted = [operation.pathology for case in plan.cases for operation in case.operations]
    assert painted[0] == "emphysema"
    assert set(painted) == {"emphysema", "ILD"}, "the next class once the first has its share"


def test_with_equal_targets_both_orders_make_the_same_plan():
    labels = cohort()
    plans = [plan_for(labels, BalanceConfig(default_share=0.2, max_synthetic=8, order=o))[0] for o in ORDERS]
    assert plans[0].cases == plans[1].cases
    assert {operation.pathology for case in plans[0].cases for operation in case.operations} == {"emphysema", "ILD"}


def targets_of(names: tuple[str, ...], config: BalanceConfig) -> dict[str, float]:
    roles = LabelRoles(("lung",), names, (), {name: i for i, name in enumerate(("lung", *names), 1)}, None)
    counts = {"lung": [90], **{name: [10] for name in names}}
    case = CaseFacts("c", (1, 10, 10), 1, (5.0, 1.0, 1.0), "int16", counts, [], content="")
    lesions = collect_lesions(["c00"], facts_of(cohort(1)), ROLES, cohort(1).__getitem__)["ILD"]
    return target_shares([case], dict.fromkeys(names, lesions), roles, config)


def test_the_paper_wants_22_percent_fibrosis_and_6_percent_of_any_other_class():
    paper = BalanceConfig(fibrosis_share=0.22)
    for name in ("ILD", "fibrosis", "Lung_Fibrosis", "fibrotic ILD", "interstitial lung disease"):
        assert targets_of(("emphysema", name), paper) == {"emphysema": 0.06, name: 0.22}
    assert targets_of(("consolidation", "non-fibrotic"), paper) == {"consolidation": 0.06, "non-fibrotic": 0.06}
    assert targets_of(("ILD", "fibrosis"), paper) == {"ILD": 0.06, "fibrosis": 0.06}, "which of them is left open"
    assert targets_of(("ILD",), replace(paper, target_share={"ILD": 0.3})) == {"ILD": 0.3}
    assert targets_of(("ILD",), replace(paper, fibrosis_share=None)) == {"ILD": 0.06}


def test_unreachable_targets_are_reported():
    plan, *_ = plan_for(cohort(8), BalanceConfig(target_share={"emphysema": 0.6}, max_synthetic=2))
    assert any("emphysema" in note and "--max-synthetic 2" in note for note in plan.notes)


def test_an_absent_class_is_noted_and_left_out():
    plan, *_ = plan_for(cohort(8, with_emphysema=0), BalanceConfig(target_share={"ILD": 0.4}, max_synthetic=4))
    assert "emphysema" not in plan.targets
    assert any("emphysema" in note for note in plan.notes)
    assert plan.cases
    assert all(op.pathology == "ILD" for case in plan.cases for op in case.operations)


def test_met_targets_need_nothing():
    plan, *_ = plan_for(cohort(8), BalanceConfig(default_share=0.0001))
    assert not plan.cases


def test_default_bound_is_a_quarter_of_the_slices():
    assert plan_for(cohort(16))[0].max_slices == 4


def test_same_seed_same_plan_and_folds_differ():
    labels = cohort()
    first, second = plan_for(labels)[0], plan_for(labels)[0]
    assert first.cases == second.cases != plan_for(labels, fold=1)[0].cases


def test_volumes_move_lesions_as_3d_objects():
    labels = cohort(6, depth=8, with_emphysema=2)
    plan, lesions, facts = plan_for(labels, BalanceConfig(max_synthetic=13, target_share={"emphysema": 0.3}))
    assert plan.slices <= 13
    assert plan.cases
    assert max(len(case.slices) for case in plan.cases) > 1
    assert {len(lesion.mask) for lesion in lesions["emphysema"]} != {1}


def test_a_volume_takes_more_lesions_than_a_slice():
    labels = {name: np.ones((8, 48, 48), np.uint8) for name in "abcd"}
    for z, y in ((1, 4), (4, 30)):
        labels["a"][z, y : y + 2, 4:6] = 2
    config = BalanceConfig(target_share={"emphysema": 0.05}, max_synthetic=24)
    plan, _, _ = plan_for(labels, config)
    most = max(len(case.operations) for case in plan.cases)
    assert most > balance._MAX_LESIONS
    assert most <= balance._MAX_LESIONS * 8


def test_a_plan_without_hosts_says_so():
    labels = cohort(6)
    for label in labels.values():
        normal = np.argwhere(label == 1)
        label[tuple(normal[10:].T)] = 0
    plan, *_ = plan_for(labels, BalanceConfig(target_share={"emphysema": 0.5}))
    assert not plan.cases
    assert plan.notes == [
        "no training case of fold 0 has 40 voxels of normal lung, so none can be a host, and nothing is planned"
    ]
