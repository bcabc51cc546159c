"""Lesion-wise figures on tiny masks."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.comparison.lesions import LesionCounts, count_lesions

UNIT = (1.0, 1.0, 1.0)


def rows(*lines, depth=1):
    """(depth, y, x) bool of lines such as ``##.``."""
    return np.repeat(np.array([[[c == "#" for c in line] for line in lines]]), depth, axis=0)


def counts(reference, prediction, spacing=UNIT):
    result = count_lesions(reference, prediction, spacing)
    return result.lesions, result.detected, result.false


def test_detected_missed_and_false_lesions():
    reference = rows("###....###", "..........", "..........")
    prediction = rows("#.........", "..........", "......###.")
    assert count_lesions(reference, prediction, UNIT) == LesionCounts(lesions=2, detected=1, false=1)


def test_a_tenth_of_a_lesion_has_to_be_predicted():
    assert counts(rows("##########"), rows("#.........")) == (1, 1, 0)  # one voxel is a tenth, and no lesion itself
    assert counts(rows("###########"), rows("#..........")) == (1, 0, 0)
    assert counts(rows("#.........."), rows("###########")) == (0, 0, 1)  # a false lesion over a tiny real one


def test_a_lesion_predicted_in_two_pieces_counts_once():
    assert counts(rows("#########"), rows("###...###")) == (1, 1, 0)


def test_two_lesions_predicted_as_one_are_both_detected():
    assert counts(rows("###...###"), rows("#########")) == (2, 2, 0)


def test_lesions_that_touch_at_a_corner_are_one():
    reference = rows("###...", "...###")
    assert counts(reference, reference) == (1, 1, 0)
    apart = rows("###....", "....###")
    assert counts(apart, apart) == (2, 2, 0)
    deep = np.concatenate([rows("###..."), rows("...###")])
    assert counts(deep, deep) == (1, 1, 0)


def test_empty_masks():
    empty, lesion = rows("....."), rows("####.")
    assert counts(empty, empty) == (0, 0, 0)
    assert counts(empty, lesion) == (0, 0, 1)
    assert counts(lesion, empty) == (1, 0, 0)


@pytest.mark.parametrize(("spacing", "number"), [((1, 1, 1), 1), ((5, 0.7, 0.7), 1), ((1, 0.7, 0.7), 0)])
def test_what_is_smaller_than_three_voxels_or_three_cubic_millimetres_is_no_lesion(spacing, number):
    assert counts(rows("###.##"), rows("......"), spacing) == (number, 0, 0)
    assert counts(rows("......"), rows("###.##"), spacing) == (0, 0, number)
