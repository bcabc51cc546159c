"""What lies beside planned lesions is compared with what lies beside real ones."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.config import BalanceConfig
from nnunet_difflung.lesions.balance import collect_lesions
from nnunet_difflung.lesions.likeness import Sample, compare, real_sample
from nnunet_difflung.lesions.lung import Lung, Site
from tests.lesions.test_balance import ROLES, facts_of, new_label, plan_for
from tests.lesions.test_real_placement import lungs

EMPHYSEMA, ILD = ROLES.values["emphysema"], ROLES.values["ILD"]


def case(number: int, emphysema: bool, ild: float, depth: int = 1) -> np.ndarray:
    """Lungs with emphysema in the left one, and a share ``ild`` of the right one ILD, from below."""
    label = lungs(np.random.default_rng(number), depth)
    z = slice(depth // 3, depth // 3 + max(1, depth // 3))
    if emphysema:
        label[z, 28:33, 20:25] = EMPHYSEMA
    rows = np.arange(label.shape[1])[:, None] > 58 - 50 * ild
    label[z][(label[z] == 1) & rows & (np.arange(label.shape[2]) > 48)] = ILD if ild else 1
    return label


def apart(depth: int = 1) -> dict[str, np.ndarray]:
    """Emphysema never lies beside ILD, which most cases have."""
    return {f"c{i:02d}": case(i, i < 4, 0.0 if i < 10 else 0.4, depth) for i in range(30)}


def together() -> dict[str, np.ndarray]:
    """Emphysema always lies beside much ILD; of the others a third has none, a third little, and a third much of it."""
    return {f"c{i:02d}": case(i, i < 4, 0.8 if i < 4 else (0.0, 0.2, 0.8)[i % 3]) for i in range(31)}


def test_other_pathologies_are_compared_as_shares_of_the_slices_lung():
    labels = together()
    config = BalanceConfig(placement="real", target_share={"emphysema": 0.05, "ILD": 0}, max_synthetic=12)
    plan, lesions, facts = plan_for(labels, config)
    row = plan.likeness["emphysema"]["other_pathologies"]
    real = [(label[0] == ILD).sum() / (label > 0).sum() for label in labels.values() if (label == EMPHYSEMA).any()]
    planned = []
    for of_plan in plan.cases:
        new = new_label(of_plan, labels[of_plan.host], lesions, facts)
        planned.append((new == ILD).sum() / (new > 0).sum())
    assert (row["number_planned"], row["number_real"]) == (len(planned), len(real))
    assert row["planned"] == pytest.approx(np.median(planned), abs=1e-4)
    assert row["real"] == pytest.approx(np.median(real), abs=1e-4)


def test_a_class_that_never_lies_beside_another_is_alike_and_one_that_is_alone_has_no_figure():
    labels = apart()
    facts = facts_of(labels)
    lesions = collect_lesions(list(labels), facts, ROLES, labels.__getitem__)["emphysema"]
    rows = []
    for pathologies in (("emphysema", "ILD"), ("emphysema",)):
        roles = type(ROLES)(ROLES.normal, pathologies, (), ROLES.values, None)
        planned = Sample([Site(0.5, 0.5, 0, 0.5, 2.0, 0.1, 16.0)], cases=1)
        lung = Lung(labels["c00"], roles, facts["c00"].spacing, facts["c00"].counts)
        planned.add_slices(labels["c00"], "emphysema", roles, lung, [0])
        rows.append(compare(planned, real_sample(lesions, facts, roles)))
    assert rows[0]["other_pathologies"]["auc"] == 0.5
    assert set(rows[0]) - set(rows[1]) == {"other_pathologies"}
