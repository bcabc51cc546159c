"""The edge of what was painted, faded without losing the grain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.dataset.channels import Relations
from nnunet_difflung.painting import fade
from nnunet_difflung.painting.fade import weights
from nnunet_difflung.painting.jobs import with_painted
from nnunet_difflung.preparing.application import AppliedCase
from nnunet_difflung.preparing.stacks import stacks_of
from tests.judging.test_seam import FADED, LEVEL, NOISE, ROLES, WINDOWS, case, noise, ratio


def composed(applied: AppliedCase, painted: np.ndarray, sampling: SamplingConfig) -> np.ndarray:
    """The case with (c, n, y, x) painted intensities, as it is written."""
    together = applied.shape[0] > 1
    stacks = stacks_of(applied.region, applied.planned.slices, 4, sampling, together)
    parts = [(s, painted[(slice(None), list(s.positions), *s.crop)]) for s in stacks]
    normal = ROLES.is_normal(applied.new_label)
    return with_painted(applied, parts, WINDOWS, Relations(), normal, weights(applied, sampling, together))


def test_fading_removes_the_edge_and_keeps_the_grain():
    """Of a painting that is brighter than its surroundings, and one that only differs in its noise."""
    painted_as_is = replace(FADED, edge="painted")
    brighter, other = noise(1) + 60.0, noise(1)
    assert ratio(case(FADED), composed(case(FADED), brighter, painted_as_is)) > 1.3
    assert ratio(case(FADED), composed(case(FADED), brighter, FADED)) < 1.15
    applied = case(FADED)
    margin = applied.region & ~applied.outline
    averaged = np.where(margin, weights(applied, FADED, False), 0) * (other[0] - applied.image[0]) + applied.image[0]
    kept = composed(applied, other, FADED)[0]
    assert averaged[margin].std() < 0.8 * NOISE, "the plain mean is smoother"
    assert kept[margin].std() > 1.08 * averaged[margin].std()


def test_textures_that_correlate_as_assumed_keep_their_variance():
    applied = case(FADED)
    alike = LEVEL + 0.4 * (applied.image - LEVEL) + np.sqrt(1 - 0.4**2) * (noise(1) - LEVEL)
    margin = applied.region & ~applied.outline
    assert composed(applied, alike, FADED)[0][margin].std() == pytest.approx(NOISE, rel=0.06)


def test_the_lesion_is_as_painted_and_the_host_as_it_was():
    applied = case(FADED)
    painted = noise(1) + 60.0
    values = composed(applied, painted, FADED)
    np.testing.assert_array_equal(values[0][applied.outline], painted[0][applied.outline].astype(np.float32))
    np.testing.assert_array_equal(values[0][~applied.region], applied.image[0][~applied.region].astype(np.float32))
    outside = np.abs(values - applied.image)[0]
    away = np.round(ndimage.distance_transform_edt(~applied.outline[0]))
    mean = [outside[0][(away == n) & applied.region[0]].mean() for n in (1, 2, 3, 4)]
    assert mean == sorted(mean, reverse=True)


def test_the_weight_falls_in_equal_steps_and_reaches_nothing_beyond_the_margin():
    weight = weights(case(FADED), FADED, False)[0, 25]
    assert weight[34:41].tolist() == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0])


@pytest.mark.parametrize("seed", range(4))
def test_the_weight_around_parts_is_that_around_all_of_them_together(seed):
    rng = np.random.default_rng(seed)
    outline = np.zeros((9, 40, 50), bool)
    for _ in range(5):
        z, y, x = rng.integers((0, 0, 0), outline.shape)
        outline[z : z + rng.integers(1, 4), y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
    together = fade._falling(outline, (1 / 3, 1 / 5, 1 / 5))
    np.testing.assert_allclose(fade._falling_in_parts(outline, (3, 5, 5)), together, atol=1e-6)


def test_the_level_is_that_of_the_lung_around_and_not_of_what_was_under_the_lesion():
    applied, painted = case(FADED), noise(1)
    image = applied.image.copy()
    image[0][applied.outline] = 300.0  # a vessel, which is painted over
    margin = applied.region & ~applied.outline
    values, expected = (composed(replace(applied, image=i), painted, FADED) for i in (image, applied.image))
    np.testing.assert_allclose(values[0][margin], expected[0][margin], atol=0.01)


@pytest.mark.parametrize("other", [{"edge": "painted"}, {"margin": 0}, {"paint": "full"}])
def test_nothing_is_faded_where_that_makes_no_sense(other):
    assert weights(case(FADED), replace(FADED, **other), False) is None


def test_faded_intensities_stay_in_the_window_unless_the_host_leaves_it():
    applied = case(FADED)
    image = np.where(noise(5) > LEVEL, -1010.0, -990.0)
    values = composed(replace(applied, image=image), np.full_like(image, -1000.0), FADED)
    assert -1010.0 <= values[0][applied.region].min() < -1003.0
    assert (values[0][applied.region & (image[0] == -990.0)] >= -1000.0).all()


def test_in_volumes_the_margin_above_and_below_is_faded_too():
    sampling = replace(FADED, margin=2)
    applied = case(sampling, depth=7, spacing=(1.0, 1.0, 1.0))
    weight = weights(applied, sampling, True)
    assert weight[1, 25, 25] == weight[5, 25, 25] == 1
    assert weight[0, 25, 25] == weight[6, 25, 25] == pytest.approx(2 / 3), "two slices are the depth of two pixels"
    assert not weight[~applied.region].any()
    thick = case(sampling, depth=7)
    assert weights(thick, sampling, True)[0, 25, 25] == pytest.approx(1 / 2), "a single slice, in spite of its distance"
    values = composed(applied, noise(1, (1, *applied.shape)) + 60.0, sampling)
    np.testing.assert_array_equal(values[0][~applied.region], applied.image[0][~applied.region].astype(np.float32))


def test_pixels_that_are_not_square_have_a_margin_of_the_same_width_in_mm_along_both_axes():
    sampling = replace(FADED, margin=4)
    applied = case(sampling, depth=7, spacing=(2.0, 1.0, 0.5))  # 4 pixels of 0.71 mm, reached in 2 and 5 pixels
    weight, region = weights(applied, sampling, True)[3], applied.region[3]
    assert (weight[region] > 0).all(), "all that is painted counts"
    along_x, along_y = 0.5 / (5 * np.sqrt(0.5)), 1 / (5 * np.sqrt(0.5))
    assert weight[25, 34:40].tolist() == pytest.approx([1 - k * along_x for k in range(6)], abs=1e-5)
    assert weight[34:37, 25].tolist() == pytest.approx([1 - k * along_y for k in range(3)], abs=1e-5)
