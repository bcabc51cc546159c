"""Sign-flip tests and Holm's adjustment, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.comparison.permutation import holm, permutation_tests, sign_flip


def test_exact_p_by_hand():
    differences = np.array([[0.1, 0.1, -0.1], [0.2, 0.2, 0.3], [0.3, -0.3, 0.2]])
    p, smallest = sign_flip(differences)
    # |sum| is 0.6, 0 and 0.4; of the 8 flips 2, 8 and 4 (+-0.6, +-0.4) reach it
    assert p.tolist() == [2 / 8, 1, 4 / 8]
    assert smallest.tolist() == [2 / 8] * 3


def test_no_difference_gives_no_evidence_and_patients_without_one_do_not_count_for_the_smallest_p():
    p, smallest = sign_flip(np.array([[0.0, 0.1], [0.0, 0.2], [0.0, 0.0]]))
    assert p.tolist() == [1, 0.5]
    assert smallest.tolist() == [1, 0.5]


def test_random_flips_agree_with_all_flips_and_are_repeatable():
    differences = np.random.default_rng(0).normal(0.3, 1, (16, 3))
    flips = 1 - 2 * (np.arange(2**16)[:, None] >> np.arange(16) & 1)
    exact = (np.abs(flips @ differences) >= np.abs(differences.sum(0)) - 1e-9).mean(0)
    p, smallest = sign_flip(differences)
    assert p == pytest.approx(exact, abs=0.006)
    assert p.tolist() == sign_flip(differences)[0].tolist()
    assert smallest == pytest.approx(2**-15)
    assert sign_flip(np.ones((40, 1)))[0] == pytest.approx(1 / 100_001)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_units_are_patients_and_folds_or_the_seeds_of_one_fold():
    arm = np.full((2, 3, 3), np.nan)
    for fold, gain in enumerate((0.1, 0.2, 0.3)):
        arm[:, fold, fold] = 0.5 + gain
    (tests,) = permutation_tests([arm], arm * 0 + 0.5)
    assert tests["patients"] == {"p": 0.25, "smallest_p": 0.25, "units": 3, "flips": "all"}
    assert tests["trainings"] == {"p": 0.25, "smallest_p": 0.25, "units": 3, "flips": "all"}
    (tests,) = permutation_tests([arm[:, :1]], arm[:, :1] * 0 + 0.5)
    assert tests == {"patients": None, "trainings": {"p": 0.5, "smallest_p": 0.5, "units": 2, "flips": "all"}}
    assert permutation_tests([arm * np.nan], arm * np.nan) == [{"patients": None, "trainings": None}]
