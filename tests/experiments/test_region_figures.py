"""Figures of painted regions on made-up images with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from experiments.region_borders import correlation, moments_across, vessels
from experiments.region_tally import FIGURES, RegionTally
from experiments.region_textures import deviations, moments_at, similarity
from nnunet_difflung.judging.seam import border_of, steps, steps_within

SIZE = 40
SQUARE = np.zeros((SIZE, SIZE), bool)
SQUARE[12:28, 12:28] = True
EVERYWHERE = np.ones((SIZE, SIZE), bool)


def noise(seed: int = 0, smooth: float = 0.0) -> np.ndarray:
    """White noise of standard deviation 1, or smoothed and scaled to it."""
    values = np.random.default_rng(seed).standard_normal((SIZE, SIZE))
    values = ndimage.gaussian_filter(values, smooth, mode="wrap") if smooth else values
    return values / values.std()


def test_a_border_pairs_each_pixel_with_its_neighbours_outside_and_in_the_lung():
    border = border_of(SQUARE, EVERYWHERE)
    assert len(border.inside) == 4 * 16
    assert SQUARE[tuple(border.inside.T)].all()
    assert not SQUARE[tuple(border.outside.T)].any()
    assert (np.abs(border.inside - border.outside).sum(1) == 1).all()
    lung = EVERYWHERE.copy()
    lung[:, 28:] = False
    assert len(border_of(SQUARE, lung).inside) == 3 * 16


def test_a_step_is_measured_across_the_border_and_not_inside():
    image = np.where(SQUARE, -500.0, -850.0)
    assert steps(image, border_of(SQUARE, EVERYWHERE)) == pytest.approx(np.full(64, 350))
    assert steps_within(image, SQUARE).max() == 0
    ramp = np.tile(np.arange(SIZE) * 3.0, (SIZE, 1))
    assert steps_within(ramp, EVERYWHERE).mean() == pytest.approx(1.5), "3 along rows, 0 along columns"


def test_correlation_across_the_border_ignores_a_step_of_the_level():
    border = border_of(SQUARE, EVERYWHERE)
    smooth = noise(1, 2.0)
    continued = correlation(moments_across(smooth, border))
    assert continued > 0.8
    assert correlation(moments_across(smooth + 7 * SQUARE, border)) == pytest.approx(continued)
    others = [np.where(SQUARE, noise(seed, 2.0), noise(seed + 50, 2.0)) for seed in range(40)]
    together = sum(moments_across(other, border) for other in others)
    assert abs(correlation(together)) < 0.15, "several lesions are added up"
    assert np.isnan(correlation(moments_across(np.zeros((SIZE, SIZE)), border)))


def test_autocorrelation_is_that_of_the_texture_at_each_lag():
    white = [correlation(moments_at(noise(3), EVERYWHERE, lag)) for lag in (1, 2, 4)]
    assert np.abs(white).max() < 0.06
    sigma = 1.5
    smooth = noise(4, sigma)
    for lag in (1, 2, 4):
        expected = np.exp(-(lag**2) / (4 * sigma**2))
        assert correlation(moments_at(smooth, EVERYWHERE, lag)) == pytest.approx(expected, abs=0.12)
    stripes = np.tile([1.0, -1.0], (SIZE, SIZE // 2))
    assert correlation(moments_at(stripes, EVERYWHERE, 2)) == pytest.approx(1)
    assert correlation(moments_at(stripes, EVERYWHERE, 1)) == pytest.approx(0, abs=0.01), "-1 and 1 along the axes"
    assert deviations(stripes, SQUARE) == pytest.approx(256)


def test_vessels_that_stop_at_the_border_are_told_from_those_that_go_on():
    image = 0.1 * noise(5)
    rows = (15, 20, 25)
    going_on = image.copy()
    going_on[rows, :] += 3
    reaching, going = vessels(going_on, SQUARE, EVERYWHERE)
    assert reaching >= 6
    assert going == reaching, "three vessels through the square, each on both sides"
    stopping = np.where(SQUARE, image, going_on)
    assert vessels(stopping, SQUARE, EVERYWHERE)[1] < 0.3 * vessels(stopping, SQUARE, EVERYWHERE)[0]
    assert vessels(going_on + 50 * SQUARE, SQUARE, EVERYWHERE) == (reaching, going), "whatever the level inside"
    assert vessels(image, np.zeros_like(SQUARE), EVERYWHERE) == (0, 0)


def test_similarity_is_1_of_equal_images_and_falls_with_noise():
    image = 100 * noise(6)
    assert similarity(image, image, SQUARE, 2000) == pytest.approx(np.ones(256))
    assert similarity(image, image + 400 * noise(7), SQUARE, 2000).mean() < 0.7
    small = SQUARE[12:18, 12:20]
    assert len(similarity(image[:6, :8], image[:6, :8], small, 2000)) == small.sum(), "smaller than the window"


def test_the_very_lesion_has_the_figures_of_the_real_one():
    tally = RegionTally(2000, (-600, -400))
    real = np.where(SQUARE, -500, -850) + 60 * noise(8)
    region = ndimage.binary_dilation(SQUARE, iterations=2)
    tally.add(real, real, SQUARE, region, ~SQUARE)
    row = tally.row()
    assert set(row) == set(FIGURES)
    assert [row[key] for key in ("seam_outline", "seam_edge", "sd_ratio", "ssim")] == pytest.approx([1, 1, 1, 1])
    assert row["seam_host"] == pytest.approx(1, abs=0.15), "the edge of the margin is nothing special in a real slice"
    assert (row["bias"], row["wasserstein"], row["psnr"]) == (0, 0, np.inf)
    assert row["sharpness"] == pytest.approx(1, abs=0.2)


def test_a_cloud_pasted_with_a_seam_shows_in_its_figures():
    real = np.where(SQUARE, -500, -850) + 60 * noise(9)
    region = ndimage.binary_dilation(SQUARE, iterations=2)
    painted = np.where(region, np.where(SQUARE, -470, -850) + 30 * noise(10, 2.0), real)
    painted = painted + 100 * (region & ~SQUARE)
    tally = RegionTally(2000, (-600, -400))
    tally.add(painted, real, SQUARE, region, ~SQUARE)
    row = tally.row()
    assert row["bias"] == pytest.approx(30, abs=10)
    assert row["sd_ratio"] < 0.7
    assert row["sharpness"] < 0.3
    assert row["seam_edge"] > 1.2
    assert abs(row["correlation_edge"]) < 0.4
    assert row["autocorrelation_1"] > 0.8
    assert row["psnr"] == pytest.approx(20 * np.log10(2000 / np.sqrt(((painted - real)[SQUARE] ** 2).mean())))
    assert row["below"] < 0.05


def test_sums_of_several_lesions_are_added_before_a_figure_is_taken():
    tally = RegionTally(2000, (0, 1))
    flat, stepped = np.zeros((SIZE, SIZE)), np.where(SQUARE, 10.0, 0.0)
    real = np.where(SQUARE, 5.0, 0.0)
    tally.add(stepped, real, SQUARE, SQUARE, ~SQUARE)
    tally.add(flat, real, SQUARE, SQUARE, ~SQUARE)
    row = tally.row()
    assert row["seam_outline"] == pytest.approx(1), "steps of 10 and 0 where the real ones have 5"
    assert row["above"] == pytest.approx(0.5)
    assert np.isnan(row["sd_ratio"])
