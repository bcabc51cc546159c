"""Real lesion texture moved with its mask and pasted: the geometry, what may be read, what may be touched."""
from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.balance import HostFacts, Operation
from nnunet_difflung.labels import LabelRoles
from nnunet_difflung.masks import Transform, cut_to_box, resample_geometry, transformed
from nnunet_difflung.texture import fill_outside, moved_texture, paste_textures

ROLES = LabelRoles("normal", ("emphysema",), (), {"normal": 1, "emphysema": 2}, None)
SPACING = (5.0, 1.0, 1.0)
TRANSFORMS = [Transform(), Transform(mirror=True), Transform(angle=90.0), Transform(angle=33.0, scale=1.4),
              Transform(mirror=True, angle=120.0, scale=0.8, dilation=2), Transform(dilation=1)]


def _blob(size: int = 15) -> np.ndarray:
    y, x = np.indices((size, size)) - size // 2
    return ((y / 6) ** 2 + (x / 4) ** 2 <= 1)[None]


def test_only_the_lesion_is_read():
    mask, image = _blob(), np.full((1, 1, 15, 15), 1e6)
    image[0][mask] = np.random.default_rng(0).normal(-900, 20, mask.sum())
    filled = fill_outside(image, mask)
    assert filled.max() < 0 and np.array_equal(filled[0][mask], image[0][mask])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_texture_moves_as_the_mask_does(transform):
    mask = cut_to_box(_blob())
    half = mask & (np.arange(mask.shape[1])[None, :, None] < mask.shape[1] // 2)  # a pattern inside the lesion
    room = 3
    moved, texture = transformed(mask, transform), moved_texture(half[None] * 100.0, mask, transform, (1, 1, 1), room)
    assert texture.shape[1:] == tuple(np.array(moved.shape) + (0, 2 * room, 2 * room))
    inner = texture[0, :, room:-room, room:-room] > 50
    plain = Transform(transform.mirror, transform.angle, transform.scale)
    grow = resample_geometry(mask, plain, (1, 1, 1))[3]
    expected = grow(half)
    if transform.dilation:
        expected = np.pad(expected, [(0, 0), *[(transform.dilation,) * 2] * 2])
    box_mask = resample_geometry(mask, transform, (1, 1, 1))[3](mask)
    box = tuple(slice(np.flatnonzero(box_mask.any(a))[0], np.flatnonzero(box_mask.any(a))[-1] + 1)
                for a in ((1, 2), (0, 2), (0, 1)))
    undilated = grow(mask) if not transform.dilation else np.pad(
        grow(mask), [(0, 0), *[(transform.dilation,) * 2] * 2])
    where = undilated[box]
    assert (inner[where] == expected[box][where]).mean() > 0.93


def test_values_stay_those_of_the_lesion():
    rng, mask = np.random.default_rng(1), cut_to_box(_blob())
    image = np.where(mask, rng.normal(-940, 20, mask.shape), 5000.0)[None]
    for transform in TRANSFORMS:
        texture = moved_texture(image, mask, transform, (1, 1, 1), 2)
        assert texture.min() >= image[0][mask].min() - 1e-3 and texture.max() <= image[0][mask].max() + 1e-3
        assert texture.std() > 8  # the grain is still there


def _paste(place=(0, 8, 6), transform=TRANSFORMS[0]):
    rng = np.random.default_rng(2)
    donor_label = np.where(_blob(), 2, 1).astype(np.uint8)
    donor = np.where(donor_label == 2, rng.normal(-950, 10, donor_label.shape), 700.0)[None]
    host_label = np.ones((1, 32, 32), np.uint8)
    host_label[0, :, 20:] = 0
    host = rng.normal(-850, 30, (1, 1, 32, 32))
    facts = {name: HostFacts(name, SPACING, {}, 1) for name in ("host", "donor")}
    operations = [Operation("emphysema", "donor", 1, transform, place, 0)]
    result = paste_textures(host, host_label, operations, facts["host"], facts, ROLES,
                            lambda case: (donor, donor_label))
    return result, host, host_label, donor, donor_label


def test_a_plain_copy_is_the_donor_inside_and_the_host_outside():
    result, host, host_label, donor, donor_label = _paste()
    lesion = cut_to_box(donor_label == 2)
    inner = np.zeros_like(host_label, bool)
    window = (slice(None), slice(8, 8 + lesion.shape[1]), slice(6, 6 + lesion.shape[2]))
    inner[window] = lesion
    from scipy import ndimage
    deep = ndimage.binary_erosion(inner, ndimage.generate_binary_structure(2, 2)[None])
    source = np.argwhere(donor_label == 2).min(0) - np.array([0, 8, 6])
    z, y, x = np.nonzero(deep)
    assert deep.sum() > 10
    np.testing.assert_allclose(result[0][deep], donor[0][z, y + source[1], x + source[2]], atol=0.1)
    far = ~ndimage.binary_dilation(inner, ndimage.generate_binary_structure(2, 2)[None], 2)
    np.testing.assert_array_equal(result[0][far], host[0][far].astype(np.float32))
    edge = inner & ~deep
    assert host[0][inner].mean() > result[0][edge].mean() > donor[0][donor_label == 2].mean()


def test_beyond_normal_lung_nothing_changes():
    result, host, host_label, *_ = _paste(place=(0, 8, 16))
    np.testing.assert_array_equal(result[0][host_label == 0], host[0][host_label == 0].astype(np.float32))
    assert (result != host.astype(np.float32)).any()


def test_a_lesion_at_the_border_of_the_slice_fits():
    result, host, *_ = _paste(place=(0, 0, 0), transform=Transform(angle=45.0, dilation=1))
    assert result.shape == host.shape and np.isfinite(result).all() and result[0, 0, :6, :6].min() < -920
