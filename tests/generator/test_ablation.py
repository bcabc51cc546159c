"""Eq. 8, Eq. 9 and Algorithm 1: the formulas, and what is never ablated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_difflung.generator.ablation import ablate, annealed, draw_ablation, initial_probabilities

FREQUENCIES = np.array([0.018, 0.232])  # the paper's emphysema and ILD as shares of lung


def test_eq8_ablates_the_rare_class_most_and_the_text_the_common_one():
    eq8 = initial_probabilities(FREQUENCIES, "cbmat", "eq8")
    assert eq8 == pytest.approx([0.982, 0.768])
    text = initial_probabilities(FREQUENCIES, "cbmat", "text")
    assert text == pytest.approx([0.018 / 0.75, 0.232 / 0.75])
    assert initial_probabilities(np.array([0.003]), "cbmat", "text")[0] < 0.01, "a single rare class is not hidden"
    assert initial_probabilities(np.array([0.1, 0.6]), "cbmat", "text") == pytest.approx([1 / 6, 1.0])
    assert initial_probabilities(FREQUENCIES, "cbmat", "eq8", delta_0=0.5) == pytest.approx(eq8 / 2)


def test_the_text_hides_no_pathology_always_because_each_lobe_has_its_own_label():
    lobes = initial_probabilities(np.array([0.15] * 5 + [0.25]), "cbmat", "text", normal=0.75)
    assert lobes == pytest.approx([0.2] * 5 + [1 / 3])
    one = np.array([0.75, 0.25])
    assert (initial_probabilities(one, "cbmat", "text", normal=one[0]) == [1, 0.25 / 0.75]).all()
    assert (initial_probabilities(one, "cbmat", "text") == [1, 0.25 / 0.75]).all()


def test_uniform_ablation_draws_every_combination_equally_often():
    probabilities = initial_probabilities(FREQUENCIES, "mat")
    rng = np.random.default_rng(0)
    draws = np.array([draw_ablation(probabilities, rng) for _ in range(4000)]) @ [1, 2]
    assert np.bincount(draws, minlength=4) / 4000 == pytest.approx([0.25] * 4, abs=0.03)


def test_none_never_ablates():
    assert not initial_probabilities(FREQUENCIES, "none").any()


@given(st.floats(0, 1))
def test_eq9_is_the_closed_form(progress):
    start = np.array([1.0, 0.4])
    assert annealed(start, progress, "cbmat") == pytest.approx(start * (1 + np.cos(np.pi * progress)) / 2)
    assert (annealed(start, progress, "mat") == start).all()
    assert (annealed(start, progress, "cbmat", "none") == start).all()


def test_eq9_does_not_collapse():
    """Read as a cumulative product, δ would be below 1e-3 long before half of the training."""
    assert annealed(np.ones(1), 0.0, "cbmat") == pytest.approx(1)
    assert annealed(np.ones(1), 0.5, "cbmat") == pytest.approx(0.5)
    assert annealed(np.ones(1), 1.0, "cbmat") == pytest.approx(0)


@given(st.lists(st.booleans(), min_size=2, max_size=2), st.integers(0, 99))
def test_only_the_ablated_pathologies_vanish(ablated, seed):
    """1 is normal lung, 2 and 3 are pathologies, 4 a structure, 5 the derived body."""
    condition = np.random.default_rng(seed).integers(0, 6, (9, 9)).astype(np.uint8)
    result = ablate(condition, np.array(ablated), np.array([2, 3]))
    for value, gone in ((2, ablated[0]), (3, ablated[1])):
        assert (result[condition == value] == (0 if gone else value)).all()
    untouched = ~np.isin(condition, [2, 3])
    assert (result[untouched] == condition[untouched]).all()
    assert result.dtype == condition.dtype


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="ablation"):
        initial_probabilities(FREQUENCIES, "magic")
    with pytest.raises(ValueError, match="Eq. 8"):
        initial_probabilities(FREQUENCIES, "cbmat", "magic")
