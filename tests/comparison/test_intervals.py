"""Intervals: by hand, how often they contain the truth, and where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import stdtrit

from benchmarks.intervals import FINDING, GOAL, Row, measured
from nnunet_difflung.comparison.intervals import ALWAYS_ZERO, FOLD_MEANS, NEVER_FOUND, ONE_PATIENT, ONE_TRAINING
from nnunet_difflung.comparison.statistics import SKEWED_PATIENTS, difference, skewed_difference

T = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645}  # 97.5th percentiles by degrees of freedom


def validated(differences, seeds=1):
    """Arm and reference (0.5) with a fold for each list of its patients' differences, the same in every seed."""
    patients = sum(map(len, differences))
    values, begin = np.full((seeds, len(differences), patients), np.nan), 0
    for fold, of_fold in enumerate(differences):
        values[:, fold, begin : begin + len(of_fold)] = of_fold
        begin += len(of_fold)
    return values + 0.5, values * 0 + 0.5


def drawn(rng, seeds, folds, patients, ratio, test=False):
    """Arm and reference whose trainings vary ``ratio`` times as much as patients; the truth is 0."""
    scored = np.ones((folds, patients), bool) if test else np.arange(patients) % folds == np.arange(folds)[:, None]
    effect = 0.1 * rng.standard_normal(patients) + 0.1 * np.sqrt(ratio) * rng.standard_normal((seeds, folds, 1))
    return np.where(scored, 5 + effect, np.nan), np.where(scored, np.full(effect.shape, 5.0), np.nan)


# ---- by hand ----


def test_means_of_the_folds_with_one_degree_of_freedom_less_than_folds():
    result = difference(*validated([[0.1, 0.3], [0.0, 0.0], [0.4, 0.4]]))
    of_folds = np.array([0.2, 0.0, 0.4])
    half = T[2] * of_folds.std(ddof=1) / np.sqrt(3)
    assert result["ci95"] == pytest.approx([0.2 - half, 0.2 + half], abs=1e-5)
    assert (result["method"], result["degrees_of_freedom"]) == (FOLD_MEANS, {"folds": 2})
    assert result["unseen_failures"] == 0


def test_a_fold_with_more_patients_weighs_more():
    result = difference(*validated([[0.1, 0.1, 0.1], [0.5]]))
    half = T[1] * np.std([0.1, 0.5], ddof=1) * np.sqrt(0.75**2 + 0.25**2)
    assert result["mean"] == pytest.approx(0.2)
    assert result["ci95"] == pytest.approx([0.2 - half, 0.2 + half], abs=1e-4)


def test_folds_that_agree_by_chance_do_not_make_the_interval_narrower_than_patients_do():
    result = difference(*validated([[0.0, 0.2], [0.2, 0.0]]))
    half = T[3] * np.std([0, 0.2, 0.2, 0], ddof=1) / 2
    assert result["ci95"] == pytest.approx([0.1 - half, 0.1 + half], abs=1e-5)
    assert result["degrees_of_freedom"] == {"patients": pytest.approx(3)}


def test_seeds_of_one_fold_and_patients_are_added_in_quadrature():
    differences = np.array([[0.0, 0.2], [0.1, 0.3]])[:, None]  # (seeds, 1 fold, patients)
    result = difference(0.5 + differences, 0.5 + 0 * differences)
    of_patients = T[1] * np.std([0.05, 0.25], ddof=1) / np.sqrt(2)
    of_seeds = T[1] * np.std([0.1, 0.2], ddof=1) / np.sqrt(2)
    half = np.hypot(of_patients, of_seeds)
    assert result["ci95"] == pytest.approx([0.15 - half, 0.15 + half], abs=1e-4)
    assert result["degrees_of_freedom"] == {"patients": 1, "seeds": 1}


def test_folds_that_score_the_same_test_patients_do_not_replace_patients():
    differences = np.array([[0.0, 0.2, 0.4], [0.1, 0.3, 0.5]])[None]  # (1 seed, folds, patients)
    result = difference(0.5 + differences, 0.5 + 0 * differences)
    half = np.hypot(T[2] * 0.2 / np.sqrt(3), T[1] * np.std([0.2, 0.3], ddof=1) / np.sqrt(2))
    assert result["ci95"] == pytest.approx([0.25 - half, 0.25 + half], abs=1e-4)
    assert result["degrees_of_freedom"] == {"patients": 2, "folds": 1}


def test_failures_that_no_training_showed_are_allowed_for_where_trainings_miss_the_class():
    arm, reference = validated([[-0.1], [-0.1], [-0.1]])
    reference = reference - 0.5  # the reference misses the class in all of its three trainings, the arm in none
    result = difference(arm, reference)
    share = 1 - 0.025 ** (1 / 3)
    assert result["unseen_failures"] == pytest.approx(share)
    assert result["ci95"][0] == pytest.approx(0.4 - np.hypot(share * 0.4, share * 0.4))
    assert result["ci95"][1] == pytest.approx(0.4)
    assert difference(arm, arm * 0 + 0.2)["unseen_failures"] == 0  # both find it every time


def test_seeds_of_a_fold_are_no_further_folds():
    arm, reference = validated([[-0.1], [-0.1], [-0.1]])
    once = difference(arm, reference - 0.5)
    assert difference(np.concatenate([arm] * 5), np.concatenate([reference - 0.5] * 5)) == once
    one_fold = np.full((4, 1, 2), 0.5)
    assert difference(one_fold, one_fold * 0)["unseen_failures"] == pytest.approx(1 - 0.025 ** (1 / 4))


def test_a_training_with_less_than_a_tenth_of_the_best_misses_the_class():
    arm, reference = validated([[0.2], [0.2], [0.2]])  # 0.7 in each training
    assert difference(arm, reference * 0 + 0.069)["unseen_failures"] > 0
    assert difference(arm, reference * 0 + 0.071)["unseen_failures"] == 0


def test_seeds_within_folds_have_their_own_degrees_of_freedom():
    differences = np.full((2, 2, 4), np.nan)  # folds agree, patients hardly differ, the seeds of a fold do
    for fold, patients in enumerate(([0.19, 0.21], [0.2, 0.2])):
        for seed, effect in enumerate((0.1, -0.1)):
            differences[seed, fold, 2 * fold : 2 * fold + 2] = np.array(patients) + effect
    result = difference(differences + 0.5, differences * 0 + 0.5)
    of_patients = np.var([0.19, 0.21, 0.2, 0.2], ddof=1) / 4
    of_a_fold = np.var([0.05, -0.05], ddof=1) / 2  # half of the patients are in it
    total = of_patients + 2 * of_a_fold
    freedom = total**2 / (of_patients**2 / 3 + 2 * of_a_fold**2 / 1)
    assert result["degrees_of_freedom"] == {"patients and seeds": pytest.approx(freedom)}
    assert freedom == pytest.approx(2, abs=0.1)
    half = stdtrit(freedom, 0.975) * np.sqrt(total)
    assert result["ci95"] == pytest.approx([0.2 - half, 0.2 + half])


# ---- none ----


@pytest.mark.parametrize(
    ("shape", "reason"), [((1, 1, 30), ONE_TRAINING), ((5, 1, 1), ONE_PATIENT), ((1, 2, 1), ONE_PATIENT)]
)
def test_designs_that_allow_no_interval(shape, reason):
    rng = np.random.default_rng(0)
    differences = 0.1 * rng.random(shape)
    result = difference(0.5 + differences, np.full(shape, 0.5))
    assert (result["ci95"], result["no_interval"], result["method"]) == (None, reason, None)
    assert result["mean"] == pytest.approx(differences.mean())


def test_a_class_that_only_one_fold_has_needs_several_seeds():
    arm, reference = validated([[0.1, 0.2, 0.3], []])
    assert difference(arm, reference)["no_interval"] == ONE_TRAINING
    arm, reference = validated([[0.1, 0.2, 0.3], []], seeds=2)
    assert difference(arm, reference)["degrees_of_freedom"] == {"patients": 2, "seeds": 1}


def test_arms_that_never_find_the_class_have_no_interval():
    arm, reference = validated([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert difference(arm - 0.5, reference - 0.49)["no_interval"] == NEVER_FOUND
    assert difference(arm - 0.5, reference - 0.5, found=0)["no_interval"] == ALWAYS_ZERO
    assert difference(arm * np.nan, reference * np.nan)["ci95"] is None


def test_skewed_figures_have_an_interval_on_a_logarithmic_scale_and_for_many_patients_only():
    rng = np.random.default_rng(0)
    for patients, printed in ((SKEWED_PATIENTS - 1, False), (SKEWED_PATIENTS, True)):
        scored = np.arange(patients) % 5 == np.arange(5)[:, None]
        reference = np.where(scored, np.exp(rng.standard_normal((1, 5, patients)) + 3), np.nan)
        result = skewed_difference(10 * reference + 9, reference)  # log10(10 + 10 x) = 1 + log10(1 + x)
        assert result["diff_to_reference"]["ci95"] is None
        assert result["diff_to_reference"]["mean"] == pytest.approx(np.nansum(9 * reference + 9) / patients)
        assert result["log10_difference"]["mean"] == pytest.approx(1)
        assert (result["log10_difference"]["ci95"] is not None) is printed


# ---- how often the truth is inside ----


@pytest.mark.parametrize(
    ("seeds", "folds", "patients", "ratio", "test"),
    [
        (1, 5, 30, 4, False),  # the README's own command
        (1, 5, 30, 16, False),
        (1, 4, 6, 4, False),  # as many folds and patients as in the MedSeg table
        (1, 2, 100, 16, False),
        (2, 3, 10, 16, False),
        (1, 5, 30, 4, True),
        (3, 1, 15, 4, True),
        (2, 1, 15, 16, True),
        (1, 5, 10, 0, False),
    ],
)
def test_the_truth_is_in_nearly_all_intervals_also_where_trainings_vary_most(seeds, folds, patients, ratio, test):
    rng = np.random.default_rng(1)
    ends = [difference(*drawn(rng, seeds, folds, patients, ratio, test))["ci95"] for _ in range(600)]
    assert np.mean([low <= 0 <= high for low, high in ends]) >= GOAL


@pytest.mark.parametrize("kind", ["heavy tails", "few patients with the class", "fold effects", "unequal folds"])
def test_coverage_with_other_effects(kind):
    for seeds, folds in ((1, 5), (3, 3)):
        assert measured(Row(kind, False, seeds, folds, 10, 4), 1500)["now"][0] >= GOAL


@pytest.mark.parametrize("probabilities", FINDING)
def test_coverage_where_a_training_finds_the_class_or_does_not(probabilities):
    for kind, seeds, folds, patients in (
        ("finds or misses", 1, 5, 30),
        ("finds or misses", 3, 1, 6),
        ("finds or misses, by fold", 2, 3, 30),
        ("finds or misses, by fold", 5, 5, 6),
    ):
        row = measured(Row(kind, False, seeds, folds, patients, probabilities), 1500)
        assert row["now"][0] >= GOAL


def test_every_cell_of_the_published_simulation_reaches_the_goal():
    content = json.loads((Path(__file__).parents[2] / "docs" / "results" / "intervals.json").read_text())
    printed = [row for row in content["rows"] if row["counts"] and "now" in row]
    assert len(printed) > 2000
    assert [row for row in printed if row["now"][0] < GOAL] == []
    where_shown = [row for row in content["rows"] if "shown" in row]
    assert len(where_shown) > 250
    assert [row for row in where_shown if row["shown"][1] < GOAL] == []
    assert {row["printed"] for row in content["rows"] if row["seeds"] == row["folds"] == 1} == {0}
