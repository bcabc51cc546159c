"""Arms at equal harm: thresholds and precision from histograms of predicted probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.bench import probabilities
from experiments.bench.compared import alike, summary
from experiments.bench.scoring import all_figures


def patient(probability, inside):
    return probabilities.histogram(np.array(probability, float), np.array(inside, bool))


def test_average_precision_is_that_of_a_ranking_of_the_voxels():
    rng = np.random.default_rng(0)
    inside = rng.random(4000) < 0.1
    odds = rng.normal(inside * 1.5, 1)
    probability = 1 / (1 + np.exp(-odds))
    order = np.argsort(-odds)
    hits = inside[order].cumsum()
    exact = (hits / np.arange(1, len(hits) + 1))[inside[order]].mean()
    halves = probabilities.added_up((str(i % 2), patient(probability[i::4], inside[i::4])) for i in range(4))
    assert set(halves) == {"0", "1"}
    assert probabilities.average_precision(halves) == pytest.approx(exact, abs=0.02)
    shifted = {"0": patient(1 / (1 + np.exp(3 - odds)), inside)}
    assert probabilities.average_precision(shifted) == pytest.approx(exact, abs=0.02), "a shift of all odds is no skill"
    assert probabilities.average_precision({"0": patient([0.5], [False])}) is None


def test_dice_is_taken_at_the_threshold_with_as_many_false_voxels():
    having = patient([0.9, 0.6, 0.3, 0.2], [True, True, True, False])
    without = [patient([p, 0.01], [False, False]) for p in (0.7, 0.25)]
    patients = {"a": having, "b": without[0], "c": without[1]}
    assert probabilities.dice_at(patients, 1.0) == {"a": pytest.approx(6 / 7)}, "down to just above 0.01, one each"
    assert probabilities.dice_at(patients, 0.5) == {"a": 1.0}, "above 0.25: three hits"
    assert probabilities.dice_at(patients, 9.0) == {"a": pytest.approx(6 / 7)}, "all voxels"
    assert probabilities.dice_at(patients, -1.0) == {"a": 0.0}
    assert probabilities.dice_at({"a": having}, 1.0) == {}, "nobody is without the class"
    sure = {"a": patient([0.99999] * 4, [True] * 4), "b": patient([0.99999] * 8, [False] * 8)}
    assert probabilities.dice_at(sure, 4.0) == {"a": pytest.approx(4 / 6)}, "half of the only bin: two hits of four"


def row(shift: float, histograms: bool = True) -> dict:
    """Two patients with the class and one without it; ``shift`` is added to all odds."""
    rng = np.random.default_rng(3)
    counts, odds = {}, {}
    for name, share in (("a", 0.2), ("b", 0.4), ("c", 0.0)):
        inside = rng.random(3000) < share
        probability = 1 / (1 + np.exp(-rng.normal(inside * 3.0 - 1.5, 1) - shift))
        found = probability > 0.5
        voxels = [int((inside & found).sum()), int((~inside & found).sum()), int((inside & ~found).sum())]
        counts[name], odds[name] = {"rare": [*voxels, 0, 0, 0]}, patient(probability, inside)
    content = {"patients": counts, "figures": all_figures(counts, ["rare"])}
    return content | ({"probabilities": {"rare": odds}} if histograms else {})


def test_an_arm_that_only_sees_the_class_more_often_has_no_lead_at_equal_harm():
    reference = {(1, fold): row(-2.5) for fold in (0, 1)}
    eager = {(1, fold): row(0.0) for fold in (0, 1)}
    found = alike(eager, reference, "rare")
    assert eager[1, 0]["figures"]["rare"]["dice"] > reference[1, 0]["figures"]["rare"]["dice"] + 0.1
    assert found["trainings"] == 2
    assert abs(found["diff"]["mean"]) < 0.02
    assert summary(eager, "rare")["average_precision"]["mean"] == pytest.approx(
        summary(reference, "rare")["average_precision"]["mean"], abs=0.02
    )


def test_rows_of_earlier_versions_have_no_probabilities():
    old = {(1, 0): row(0.0, histograms=False)}
    assert alike(old, {(1, 0): row(0.0)}, "rare") is None
    assert summary(old, "rare")["average_precision"]["mean"] is None
