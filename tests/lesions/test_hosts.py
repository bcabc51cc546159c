"""Hosts hold the other pathologies that real cases with a class hold, and are used evenly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from nnunet_difflung.config import BalanceConfig
from nnunet_difflung.lesions.balance import _Planner, collect_lesions, make_plan
from nnunet_difflung.lesions.hosts import Hosts, profile
from nnunet_difflung.lesions.placebo import _PlaceboPlanner, add_placebos
from tests.lesions.test_balance import ROLES, facts_of, new_label, plan_for
from tests.lesions.test_likeness import EMPHYSEMA, ILD, apart, case, together
from tests.lesions.test_real_placement import REAL, patient
from tests.support.plans import content, digest

ONE = BalanceConfig(placement="real", target_share={"emphysema": 0.05, "ILD": 0}, max_synthetic=12, hosts="alike")
ANY = replace(ONE, hosts="any")


def ild_of_hosts(labels, plan) -> list[float]:
    facts = facts_of(labels)
    return [float(profile(facts[planned.host], ROLES)[1]) for planned in plan.cases]


@pytest.mark.parametrize("placement", ["real", "uniform"])
@pytest.mark.parametrize("depth", [1, 6])
def test_what_never_lies_beside_a_class_does_not_lie_beside_painted_lesions(placement, depth):
    labels = apart(depth)
    config = replace(ONE, placement=placement, max_synthetic=12 * depth)
    plan = plan_for(labels, config)[0]
    assert len(plan.cases) >= 6
    assert max(ild_of_hosts(labels, plan)) == 0
    assert not any("hosts:" in note for note in plan.notes)
    assert max(ild_of_hosts(labels, plan_for(labels, replace(config, hosts="any"))[0])) > 0


@pytest.mark.parametrize("placement", ["real", "uniform"])
def test_classes_that_never_meet_are_not_painted_into_the_same_case(placement):
    labels = apart()
    config = replace(ONE, placement=placement, target_share={"emphysema": 0.3, "ILD": 0.5}, max_synthetic=16)
    plan = plan_for(labels, config)[0]
    painted = [{op.pathology for op in planned.operations} for planned in plan.cases]
    assert {"emphysema"} in painted
    assert {"emphysema", "ILD"} not in painted
    assert not any("hosts:" in note for note in plan.notes)


def test_what_always_lies_beside_a_class_lies_beside_painted_lesions_in_the_same_amount():
    labels = together()
    plan = plan_for(labels, ONE)[0]
    usual = [share for i, share in enumerate(ild_of_real(labels)) if i < 4]
    assert len(plan.cases) >= 6
    assert min(ild_of_hosts(labels, plan)) > 0.7 * min(usual)
    assert min(ild_of_hosts(labels, plan_for(labels, ANY)[0])) == 0


def ild_of_real(labels) -> list[float]:
    return [float(profile(facts, ROLES)[1]) for facts in facts_of(labels).values()]


def test_a_host_without_a_pathology_that_is_painted_too_is_as_good_as_one_with_as_much_of_it():
    """ILD is below its target as well, so a host without any gets that of the real case with the emphysema."""
    labels = {f"c{i:02d}": case(i, i < 4, 0.3 if i < 4 else 0.8 * (i % 2)) for i in range(20)}
    config = replace(ONE, target_share={"emphysema": 0.05, "ILD": 0.6}, max_synthetic=6)
    plan, lesions, facts = plan_for(labels, config)
    assert len(plan.cases) == 6
    assert max(ild_of_hosts(labels, plan)) == 0
    for planned in plan.cases:
        new = new_label(planned, labels[planned.host], lesions, facts)
        assert (new == EMPHYSEMA).any() == (new == ILD).any()
    assert not any("hosts:" in note for note in plan.notes)


def test_the_host_gets_the_lesions_of_the_real_case_that_it_was_chosen_for():
    """Beside ILD there are three small lesions, and one lesion elsewhere."""
    labels = {f"c{i:02d}": case(i, i < 4, 0.4 * (i % 2)) for i in range(24)}
    for i in (1, 3):
        label = labels[f"c{i:02d}"]
        label[label == EMPHYSEMA] = 1
        for row in (20, 30, 40):
            label[0, row : row + 3, 22:25] = EMPHYSEMA
    plan = plan_for(labels, ONE)[0]
    numbers = {(share > 0, len(p.operations)) for share, p in zip(ild_of_hosts(labels, plan), plan.cases, strict=True)}
    assert numbers == {(False, 1), (True, 3)}


def test_alike_hosts_are_used_evenly_and_others_only_when_they_were_used_often():
    labels = apart()
    config = replace(ONE, target_share={"emphysema": 0.2, "ILD": 0}, max_synthetic=18)
    uses = Counter(planned.host for planned in plan_for(labels, config)[0].cases)
    alone = {f"c{i:02d}" for i in range(4, 10)}  # those with emphysema have as much as a real case
    assert set(uses) == alone
    assert set(uses.values()) == {3}
    many = plan_for(labels, replace(config, max_synthetic=60))[0]
    uses = Counter(planned.host for planned in many.cases)
    assert sum(uses[host] for host in alone) >= 48
    assert set(uses) > alone
    assert max(uses.values()) <= 9


def test_a_real_case_is_no_host_of_what_follows_it(monkeypatch):
    labels, drawn, real = apart(), [], _Planner.host

    def host(self, index, rng):
        drawn.append(real(self, index, rng))
        return drawn[-1]

    monkeypatch.setattr(_Planner, "host", host)
    for placement in ("real", "uniform"):
        plan_for(labels, replace(ONE, placement=placement, max_synthetic=40, target_share={"emphysema": 0.5, "ILD": 0}))
    assert len(drawn) > 60
    assert all(found.identifier != model.case for found, model in drawn if found is not None)


def test_a_case_that_is_alone_is_its_own_host_where_places_are_uniform():
    labels = {"c00": case(0, True, 0.0)}
    assert not plan_for(labels, replace(ONE, max_synthetic=2))[0].cases
    plan = plan_for(labels, replace(ONE, max_synthetic=2, placement="uniform", target_share={"emphysema": 0.4}))[0]
    assert {planned.host for planned in plan.cases} == {"c00"}


def test_without_suitable_hosts_the_nearest_are_taken_and_the_plan_says_so():
    labels = {f"c{i:02d}": case(i, i < 4, 0.0 if i < 4 else 0.4) for i in range(16)}
    plan = plan_for(labels, ONE)[0]
    assert len(plan.cases) >= 6
    (note,) = [note for note in plan.notes if note.startswith("hosts: ")]
    assert f"{len(plan.cases)} of {len(plan.cases)} cases hold other pathologies" in note
    assert "--max-synthetic" in note
    assert not any(note.startswith("hosts: ") for note in plan_for(labels, ANY)[0].notes)


def test_hosts_are_ranked_by_pathologies_then_by_uses_and_amount():
    labels = {"none": case(0, False, 0), "little": case(1, False, 0.4), "much": case(2, False, 0.8)}
    facts = list(facts_of(labels).values())
    hosts, rng = Hosts(facts, ROLES), np.random.default_rng(0)
    much = profile(facts[2], ROLES)

    def order(model=much, **others) -> list[str]:
        return [host.identifier for host in hosts.ranked(model, ["ILD"], rng, **others)]

    assert order() == ["much", "little", "none"]
    assert order(np.zeros(2))[0] == "none"
    assert set(order(painted=["ILD"])[:2]) == {"much", "none"}, "the one has it, the other gets it"
    for _ in range(7):
        hosts.use(facts[2])
    assert order() == ["little", "much", "none"]
    hosts.use(facts[2])
    assert order() == ["little", "none", "much"]
    assert {tuple(order()) for _ in range(20)} == {("little", "none", "much")}
    assert len({tuple(next(Hosts(facts, ROLES).ranked(much, [], rng)).identifier) for _ in range(30)}) == 3


@pytest.mark.parametrize("hosts", ["alike", "any"])
def test_hosts_of_placebos_hold_what_those_of_the_lesions_hold(hosts, monkeypatch):
    labels, pairs, real = apart(), [], _PlaceboPlanner.placebo
    facts = facts_of(labels)
    lesions = collect_lesions(list(labels), facts, ROLES, labels.__getitem__)
    plan = make_plan(list(facts.values()), lesions, ROLES, ONE, 0, labels.__getitem__)
    plan.cases = [  # each second one lies beside ILD
        replace(planned, host=f"c{18 + i}") if i % 2 else planned for i, planned in enumerate(plan.cases[:10])
    ]

    def placebo(self, model, rng):
        pairs.append((model, real(self, model, rng)))
        return pairs[-1][1]

    monkeypatch.setattr(_PlaceboPlanner, "placebo", placebo)
    config = replace(ONE, placebo=0.75, hosts=hosts)
    add_placebos(plan, list(facts.values()), lesions, ROLES, config, 0, labels.__getitem__)
    assert len(plan.placebos) == 30
    beside = [[profile(facts[planned.host], ROLES)[1] > 0 for planned in pair] for pair in pairs]
    assert all(of_model == of_placebo for of_model, of_placebo in beside) == (hosts == "alike")
    assert all(model.host != planned.host for model, planned in pairs)
    uses = Counter(planned.host for planned in plan.placebos)
    assert set(uses) <= {planned.host for planned in plan.with_lesions}
    assert (max(uses.values()) <= 4) == (hosts == "alike")


def test_the_same_seed_gives_the_same_plan():
    first, second = (plan_for(apart(), ONE)[0] for _ in range(2))
    assert first.cases == second.cases
    assert first.cases != plan_for(apart(), replace(ONE, seed=1))[0].cases


def test_with_any_hosts_plans_are_those_of_earlier_versions():
    slices = {f"c{i:02d}": patient(i, i < 12) for i in range(48)}
    volumes = {f"c{i}": patient(i, i < 5, 12) for i in range(10)}
    assert digest(plan_for(slices, REAL)[0]) == "f9dd35f54d533cd2"
    real = BalanceConfig(placement="real", target_multiple=4.0, max_synthetic=60)
    assert digest(plan_for(volumes, real)[0]) == "ea95a012743e033a", (
        "one more case than before: ILD still fits into slices that are too few for emphysema"
    )
    for config, expected in (
        (replace(REAL, placebo=0.4), "4168d8d00e4a55a2"),
        (BalanceConfig(placebo=0.4, max_ratio=0.5), "0a32f94b3cc4d2c8"),
    ):
        plan, lesions, facts = plan_for(slices, config)
        add_placebos(plan, list(facts.values()), lesions, ROLES, config, 0, slices.__getitem__)
        assert digest(plan) == expected


@pytest.mark.parametrize("config", [REAL, replace(REAL, hosts="alike")], ids=["any", "alike"])
def test_a_plan_is_the_same_whatever_the_last_digit_of_numpys_functions_is(config, monkeypatch):
    """They are computed otherwise on processors with AVX-512."""
    slices = {f"c{i:02d}": patient(i, i < 12) for i in range(48)}
    expected = content(plan_for(slices, config)[0])
    rng = np.random.default_rng(0)

    def nearly(exact, *values, **options):
        value = np.asarray(exact(*values, **options))
        return np.nextafter(value, value + rng.choice([-1.0, 0.0, 1.0], value.shape))[()]

    for name in ("exp", "log", "cos", "sin"):
        monkeypatch.setattr(np, name, partial(nearly, getattr(np, name)))
    assert len({float(np.exp(1.0)) for _ in range(99)}) == 3
    assert content(plan_for(slices, config)[0]) == expected


def test_the_figure_of_other_pathologies_shows_the_difference():
    def auc(labels, config) -> float:
        return plan_for(labels, config)[0].likeness["emphysema"]["other_pathologies"]["auc"]

    assert auc(together(), ANY) < 0.3 < auc(together(), ONE)
    assert auc(apart(), ANY) > 0.5 == auc(apart(), ONE)
