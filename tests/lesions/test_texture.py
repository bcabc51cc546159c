"""Texture of real lesions is transformed like its mask; only the lesion is read, and only lung is changed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nnunet_difflung.lesions.masks import Transform, box_of, find_lesions, paste, resample_geometry, warp
from nnunet_difflung.lesions.pasting import apply_operations
from nnunet_difflung.lesions.plan import Operation
from nnunet_difflung.lesions.texture import fill_outside, moved_texture
from nnunet_difflung.meaning.labels import LabelRoles

ROLES = LabelRoles(("normal",), ("emphysema",), (), {"normal": 1, "emphysema": 2}, None)
SPACING = (5.0, 1.0, 1.0)
TRANSFORMS = [
    Transform(),
    Transform(mirror=True),
    Transform(angle=90.0),
    Transform(angle=33.0, scale=1.4),
    Transform(mirror=True, angle=120.0, scale=0.8, dilation=2),
    Transform(dilation=1),
]


def _blob(size: int = 15) -> np.ndarray:
    y, x = np.indices((size, size)) - size // 2
    return ((y / 6) ** 2 + (x / 4) ** 2 <= 1)[None]


def test_only_the_lesion_is_read():
    mask, image = _blob(), np.full((1, 1, 15, 15), 1e6)
    image[0][mask] = np.random.default_rng(0).normal(-900, 20, mask.sum())
    filled = fill_outside(image, mask)
    assert filled.max() < 0
    assert np.array_equal(filled[0][mask], image[0][mask])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_texture_moves_as_the_mask_does(transform):
    mask = _blob()
    mask = mask[box_of(mask)]
    half = mask & (np.arange(mask.shape[1])[None, :, None] < mask.shape[1] // 2)  # a pattern inside the lesion
    room = 3
    warped = warp(mask, transform)
    moved, texture = warped.mask, moved_texture(half[None] * 100.0, mask, transform, (1, 1, 1), warped, room)
    assert texture.shape[1:] == tuple(np.array(moved.shape) + (0, 2 * room, 2 * room))
    inner = texture[0, :, room:-room, room:-room] > 50
    plain = Transform(transform.mirror, transform.angle, transform.scale)
    grow = resample_geometry(mask, plain, (1, 1, 1))[3]
    expected = grow(half)
    if transform.dilation:
        expected = np.pad(expected, [(0, 0), *[(transform.dilation,) * 2] * 2])
    box_mask = resample_geometry(mask, transform, (1, 1, 1))[3](mask)
    box = tuple(
        slice(np.flatnonzero(box_mask.any(a))[0], np.flatnonzero(box_mask.any(a))[-1] + 1)
        for a in ((1, 2), (0, 2), (0, 1))
    )
    undilated = grow(mask) if not transform.dilation else np.pad(grow(mask), [(0, 0), *[(transform.dilation,) * 2] * 2])
    undilated_part = undilated[box]
    assert (inner[undilated_part] == expected[box][undilated_part]).mean() > 0.93


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_values_and_grain_stay_those_of_the_lesion(transform):
    rng, mask = np.random.default_rng(1), np.ones((1, 40, 30), bool)
    mask[0, :5, :5] = False
    image = np.stack(
        [
            np.where(mask, rng.normal(-940, 20, mask.shape), 5000.0),
            np.where(mask, rng.uniform(0, 10, mask.shape), -700.0),
        ]
    )
    texture = moved_texture(image, mask, transform, (1, 1, 1), warp(mask, transform), 2)
    for channel, source in zip(texture, image, strict=True):
        real = source[mask]
        assert channel.min() >= real.min() - 1e-3
        assert channel.max() <= real.max() + 1e-3
        assert channel.std() == pytest.approx(real.std(), rel=0.1)
        assert channel.mean() == pytest.approx(real.mean(), abs=0.15 * real.std())


def _paste(places=((0, 8, 6),), transform=TRANSFORMS[0], depth=1, spacing=SPACING):
    rng = np.random.default_rng(2)
    donor_label = np.where(np.repeat(_blob(), depth, 0), 2, 1).astype(np.uint8)
    donor = np.where(donor_label == 2, rng.normal(-950, 10, donor_label.shape), 700.0)[None]
    host_label = np.ones((4 * depth, 48, 48), np.uint8)
    host_label[:, :, 30:] = 0
    host = rng.normal(-850, 30, (1, *host_label.shape))
    lesions = {"emphysema": find_lesions(donor_label, 2, "donor", "emphysema", SPACING)}
    operations = [Operation("emphysema", "donor", 1, transform, place, 0) for place in places]
    pasted_label, result = apply_operations(operations, host_label, spacing, lesions, ROLES, host, lambda case: donor)
    new = host_label.copy()
    for op in operations:
        ratio = np.array(SPACING) / spacing
        paste(new, warp(lesions["emphysema"][0].mask, transform, ratio, spacing).mask, op.place, 2, ROLES)
    assert np.array_equal(pasted_label, new)
    return result, host.astype(np.float32), host_label, new, donor


def test_a_plain_copy_is_the_donor_inside_and_the_host_outside():
    result, host, host_label, new, donor = _paste()
    inside = new == 2
    source = donor[0][donor[0] < 0]
    assert inside.sum() == len(source)
    np.testing.assert_allclose(result[0][inside], source, atol=0.1)
    far = ~ndimage.binary_dilation(inside, np.ones((1, 3, 3), bool), 1)
    np.testing.assert_array_equal(result[0][far], host[0][far])
    ring = ~far & ~inside & (host_label == 1)
    assert host[0][ring].mean() > result[0][ring].mean() > source.mean()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("spacing", [SPACING, (2.5, 0.8, 1.25)])
def test_every_relabelled_voxel_of_a_volume_gets_lesion_texture(transform, spacing):
    result, host, host_label, new, _ = _paste(((0, 2, 3), (1, 9, 5)), transform, 3, spacing)
    inside = new == 2
    assert inside.any((1, 2)).sum() > 1
    assert result[0][inside].max() < -900
    assert result[0][inside].std() > 7
    np.testing.assert_array_equal(result[0][host_label == 0], host[0][host_label == 0])
    near = ndimage.binary_dilation(inside, np.ones((1, 3, 3), bool), 1)
    np.testing.assert_array_equal(result[0][~near], host[0][~near])


def test_a_later_lesion_does_not_repaint_an_earlier_one():
    once, twice = _paste(((0, 8, 6),)), _paste(((0, 8, 6), (0, 8, 6)))
    np.testing.assert_array_equal(once[0], twice[0])


def test_a_lesion_at_the_border_of_the_slice_fits():
    result, host, *_ = _paste(((0, 0, 0),), Transform(angle=45.0, dilation=1))
    assert result.shape == host.shape
    assert np.isfinite(result).all()
    assert result[0, 0, :6, :6].min() < -920
