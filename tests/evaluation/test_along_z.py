"""Figures of lesions from slice to slice, on lesions whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.evaluation.along_z import AlongZ


def lesion_in(depth: int) -> tuple[np.ndarray, np.ndarray]:
    lesion = np.zeros((depth, 60, 60), bool)
    lesion[2:-2, 10:50, 10:50] = True
    normal = ~lesion
    normal[:, :5] = False
    return lesion, normal


def test_the_correlation_is_that_of_the_texture():
    rng, (lesion, normal) = np.random.default_rng(0), lesion_in(12)
    image = rng.normal(0, 10, lesion.shape)
    for z in range(1, 12):
        image[z] = 0.6 * image[z - 1] + 0.8 * image[z]
    tally = AlongZ()
    tally.add(image + 100 * np.arange(12)[:, None, None], lesion, normal)
    row = tally.row()
    assert row["correlation"] == pytest.approx(0.6, abs=0.02)
    assert row["flicker"] == pytest.approx(100, abs=1)
    assert row["difference"] == pytest.approx(100, abs=1)


def test_the_step_at_the_ends_is_that_to_normal_lung_above_and_below():
    lesion, normal = lesion_in(8)
    image = np.where(lesion, -600.0, -850.0)
    image[1], image[-2] = -800, -700
    normal[-2] = False  # something else lies above it
    tally = AlongZ()
    tally.add(image, lesion, normal)
    assert tally.row()["end_step"] == pytest.approx(200)
    assert tally.row()["difference"] == 0
    assert tally.row()["flicker"] == 0


def test_lesions_are_added_and_what_is_not_there_is_not_known():
    lesion, normal = lesion_in(5)  # a single slice
    tally = AlongZ()
    tally.add(np.where(lesion, 50.0, 0.0), lesion, normal)
    row = tally.row()
    assert row["end_step"] == 50
    assert all(np.isnan(row[name]) for name in ("correlation", "flicker", "difference"))
    more, around = lesion_in(6)
    image = np.where(more, 50.0, 0.0)
    image[3] += 20 * more[3]
    tally.add(image, more, around)
    assert tally.row()["flicker"] == 20
    assert tally.row()["end_step"] == pytest.approx((50 + 50 + 50 + 70) / 4)
