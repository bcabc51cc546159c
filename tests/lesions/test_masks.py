"""Lesions are found, varied, placed and pasted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnunet_difflung.lesions.masks import (
    MIN_VOXELS,
    Lesion,
    Transform,
    cannot_fit,
    draw_transform,
    find_lesions,
    paste,
    spacing_ratio,
    warp,
)
from nnunet_difflung.lesions.placement import find_place
from nnunet_difflung.meaning.labels import LabelRoles

NORMAL, EMPHYSEMA, ILD = 1, 2, 3
ROLES = LabelRoles(("normal_lung",), ("emphysema", "ILD"), (), {"normal_lung": 1, "emphysema": 2, "ILD": 3}, None)


def disc(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (y**2 + x**2 <= radius**2)[None]


def lung(depth: int = 1) -> np.ndarray:
    label = np.zeros((depth, 40, 48), np.uint8)
    label[:, 4:36, 4:44] = NORMAL
    label[:, 10:16, 20:30] = ILD
    return label


def test_lesions_are_components_of_their_class_only():
    label = lung()
    label[0, 20:24, 8:12] = EMPHYSEMA
    label[0, 30, 40] = EMPHYSEMA  # a speck
    lesions = find_lesions(label, EMPHYSEMA, "case", "emphysema", (5, 1, 1))
    assert [lesion.voxels for lesion in lesions] == [16]
    assert MIN_VOXELS > 1
    assert lesions[0].mask.shape == (1, 4, 4)


def test_a_volume_lesion_is_one_object():
    label = lung(5)
    label[1:4, 20:24, 8:12] = EMPHYSEMA
    assert [lesion.mask.shape for lesion in find_lesions(label, EMPHYSEMA, "c", "e", (5, 1, 1))] == [(3, 4, 4)]


@pytest.mark.parametrize(
    ("transform", "area"),
    [
        (Transform(), 1.0),
        (Transform(mirror=True), 1.0),
        (Transform(angle=37.0), 1.0),
        (Transform(scale=1.5), 2.25),
        (Transform(scale=0.75, angle=10.0), 0.5625),
    ],
)
def test_area_follows_the_scale(transform, area):
    before = disc(9)
    after = warp(before, transform).mask
    assert after.sum() == pytest.approx(area * before.sum(), rel=0.06)
    assert ndimage.label(after)[1] == 1


def test_dilation_grows_by_its_pixels():
    after = warp(disc(5), Transform(dilation=2)).mask
    assert after.shape == (1, 15, 15)
    assert after.sum() > disc(6).sum()


def test_a_lesion_keeps_its_size_in_mm():
    """Twice the pixel size in the donor: twice the pixels in the host, along each axis with several voxels."""
    after = warp(np.ones((4, 10, 10), bool), Transform(), (0.5, 2.0, 2.0)).mask
    assert after.shape == (2, 20, 20)
    assert after.all()
    assert warp(np.ones((1, 10, 10), bool), Transform(), (0.2, 1.0, 1.0)).mask.shape == (1, 10, 10)


def test_rotation_turns():
    turned = warp(np.ones((1, 3, 15), bool), Transform(angle=90.0)).mask
    assert turned.shape == pytest.approx((1, 15, 3), abs=1)


@pytest.mark.parametrize("angle", [30.0, 45.0, 90.0, 200.0])
@pytest.mark.parametrize("spacing", [(1.0, 3.0, 0.7), (1.0, 0.5, 1.1)])
def test_a_lesion_keeps_its_shape_in_mm_where_pixels_are_not_square(angle, spacing):
    y, x = np.mgrid[-20 / spacing[1] : 20 / spacing[1], -20 / spacing[2] : 20 / spacing[2]].round()
    upright = ((y * spacing[1] / 14) ** 2 + (x * spacing[2] / 7) ** 2 <= 1)[None]  # an ellipse of 28 × 14 mm
    y, x = np.mgrid[-25:26, -25:26] * 0.8
    square = ((y / 14) ** 2 + (x / 7) ** 2 <= 1)[None]
    ratio = spacing_ratio(Lesion("donor", "x", 1, square, (1.0, 0.8, 0.8)), spacing, 9)
    for mask, of_donor in ((upright, (1, 1, 1)), (square, ratio)):  # pixels of the donor: the host's, or square
        turned = warp(mask, Transform(angle=angle), of_donor, spacing).mask
        voxels = np.array(np.nonzero(turned[0])) * np.array(spacing[1:])[:, None]
        variances, axes = np.linalg.eigh(np.cov(voxels))
        assert 4 * np.sqrt(variances) == pytest.approx([14, 28], rel=0.12), "axes of the ellipse in mm"
        assert abs(axes[:, 1] @ (np.cos(np.radians(angle)), -np.sin(np.radians(angle)))) > 0.98
        assert ndimage.label(turned)[1] == 1


def test_square_pixels_of_any_size_and_rounding_errors_of_them_change_nothing():
    mask, transform = np.repeat(disc(5), 2, 0), Transform(True, 33.0, 1.2, 1)
    plain = warp(mask, transform)
    for spacing in ((5.0, 0.7, 0.7), (1.0, 0.703125, 0.70312)):
        same = warp(mask, transform, (1, 1, 1), spacing)
        assert np.array_equal(same.mask, plain.mask)
        assert np.array_equal(same.matrix, plain.matrix)


def test_cascade_never_skips_a_step():
    draws = [draw_transform(np.random.default_rng(seed)) for seed in range(500)]
    assert all(t.angle for t in draws if t.scale != 1)
    assert all(t.scale != 1 for t in draws if t.dilation)
    shares = [
        np.mean([bool(t.angle) for t in draws]),
        np.mean([t.scale != 1 for t in draws]),
        np.mean([t.dilation > 0 for t in draws]),
    ]
    assert shares == pytest.approx([0.9, 0.63, 0.315], abs=0.06)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 3))
def test_pasting_changes_normal_lung_only(seed, radius, depth):
    rng = np.random.default_rng(seed)
    label = lung(depth)
    label[rng.random(label.shape) < 0.02] = ILD
    before = label.copy()
    mask = warp(np.repeat(disc(radius), rng.integers(1, depth + 1), 0), draw_transform(rng)).mask
    place = find_place(mask, label == NORMAL, rng)
    if place is None:
        return
    changed = paste(label, mask, place, EMPHYSEMA, ROLES)
    assert changed == (label != before).sum() >= 0.9 * mask.sum() - 1e-6
    assert (before[label != before] == NORMAL).all()
    assert (label[label != before] == EMPHYSEMA).all()


def test_none_if_the_lesion_fits_nowhere():
    assert find_place(disc(18), lung() == NORMAL, np.random.default_rng(0)) is None
    assert find_place(np.ones((1, 50, 5), bool), lung() == NORMAL, np.random.default_rng(0)) is None
    assert find_place(np.zeros((0, 0, 0), bool), lung() == NORMAL, np.random.default_rng(0)) is None


def test_the_only_place_is_found():
    free = np.zeros((3, 30, 30), bool)
    free[1, 7:12, 20:25] = True
    assert find_place(np.ones((1, 5, 5), bool), free, np.random.default_rng(0), inside=1.0) == (1, 7, 20)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(0.5, 1.0))
def test_every_place_and_no_other_is_found(seed, depth, inside):
    """Compared with counting the overlap at each position."""
    rng = np.random.default_rng(seed)
    free = ndimage.binary_dilation(rng.random((depth, 17, 21)) < 0.03, iterations=2)
    mask = rng.random((depth, 5, 4)) < 0.7
    mask[0, 0, 0] = True
    enough = inside * mask.sum()
    expected = {
        (0, y, x) for y in range(13) for x in range(18) if (free[:, y : y + 5, x : x + 4] & mask).sum() >= enough
    }
    places = {find_place(mask, free, np.random.default_rng(n), inside) for n in range(40)}
    assert places <= expected if expected else places == {None}
    assert len(places) >= min(len(expected), 2)


@pytest.mark.parametrize(
    ("flat", "slices", "depth"), [(False, 40, 5), (True, 40, 1), (False, 1, 1)], ids=["volumes", "slice", "into slice"]
)
def test_a_lesion_of_one_slice_of_a_volume_keeps_its_thickness(flat, slices, depth):
    lesion = Lesion("a", "nodule", 1, disc(5), (5.0, 1.0, 1.0), flat=flat)
    moved = warp(lesion.mask, Transform(), spacing_ratio(lesion, (1.0, 1.0, 1.0), slices)).mask
    assert len(moved) == depth
    assert all(np.array_equal(plane, lesion.mask[0]) for plane in moved)


def test_lesions_know_whether_their_case_is_a_single_slice():
    label = np.zeros((3, 9, 9), np.uint8)
    label[1, 2:6, 2:6] = 2
    assert not find_lesions(label, 2, "a", "x", (5.0, 1.0, 1.0))[0].flat
    assert find_lesions(label[1:2], 2, "a", "x", (5.0, 1.0, 1.0))[0].flat


def test_a_lesion_that_cannot_fit_is_known_before_it_takes_memory():
    assert cannot_fit(np.ones((2, 30, 30), bool), Transform(), (1e3, 1e3, 1e3), (60, 512, 512))
    assert cannot_fit(np.ones((2, 30, 30), bool), Transform(), (50.0, 1.0, 1.0), (60, 512, 512))
    for seed in range(400):
        rng = np.random.default_rng(seed)
        mask = np.ones(tuple(rng.integers(1, 12, 3)), bool)
        ratio, transform = rng.uniform(0.5, 3, 3), draw_transform(rng)
        shape = tuple(int(n) for n in rng.integers(2, 30, 3))
        spacing = (1, 1, 1) if seed < 200 else rng.uniform(0.5, 2, 3)
        if cannot_fit(mask, transform, ratio, shape, spacing):
            moved = warp(mask, transform, ratio, spacing).mask
            assert any(n > room for n, room in zip(moved.shape, shape, strict=True))
