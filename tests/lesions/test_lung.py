"""The lung's own coordinates, its pleura, and which classes lie on it."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.lesions.border import classes_on_border
from nnunet_difflung.lesions.lung import Lung, Site
from nnunet_difflung.lesions.masks import Lesion, find_lesions
from nnunet_difflung.meaning.labels import LabelRoles

LEFT, RIGHT, LESION, IGNORE = 1, 2, 3, 4
VALUES = {"left lung": LEFT, "right lung": RIGHT, "lesion": LESION}
ROLES = LabelRoles(("left lung", "right lung"), ("lesion",), (), VALUES, IGNORE)


def chest(depth: int = 1) -> np.ndarray:
    """(z, y, x): two lungs of 24 × 16 voxels, six voxels apart, in a frame of background."""
    label = np.zeros((depth, 36, 54), np.uint8)
    label[:, 6:30, 8:24] = LEFT
    label[:, 6:30, 30:46] = RIGHT
    return label


def lung_of(label: np.ndarray, spacing=(5.0, 1.0, 1.0)) -> Lung:
    return Lung(label, ROLES, spacing, {name: (label == v).sum((1, 2)).tolist() for name, v in VALUES.items()})


def site(label: np.ndarray, spacing=(5.0, 1.0, 1.0)) -> Site:
    (lesion,) = find_lesions(label, LESION, "case", "lesion", spacing)
    return lung_of(label, spacing).site(lesion.mask, lesion.start)


def with_box(y: slice, x: slice, z: slice = slice(None), depth: int = 1) -> np.ndarray:
    label = chest(depth)
    label[z, y, x] = LESION
    return label


def test_mirrored_lesions_differ_in_their_side_alone():
    label = with_box(slice(24, 29), slice(8, 12))
    first, second = site(label), site(np.ascontiguousarray(label[..., ::-1]))
    assert (first.side, second.side) == (0, 1)
    assert first.sideways == pytest.approx(-second.sideways)
    assert (first.front_back, first.outward, first.contact, first.size) == pytest.approx(
        (second.front_back, second.outward, second.contact, second.size)
    )
    assert first.front_back > 0.8
    assert first.outward > 0.8


@pytest.mark.parametrize(
    ("y", "x", "contact"),
    [
        (slice(12, 16), slice(12, 16), 0.0),
        (slice(12, 16), slice(8, 12), 4 / 16),  # one side on the pleura
        (slice(6, 10), slice(8, 12), 8 / 16),  # in a corner
        (slice(6, 30), slice(8, 24), 1.0),
    ],
)
def test_contact_is_the_share_of_the_outline_on_the_pleura(y, x, contact):
    assert site(with_box(y, x)).contact == pytest.approx(contact)


def test_the_edge_of_the_image_and_holes_in_the_lung_are_no_pleura():
    label = with_box(slice(12, 16), slice(8, 12))
    label[:, 13:15, 12] = 0  # a vessel that the lung mask leaves out, at the lesion
    assert site(label).contact == pytest.approx(4 / 16)
    cut = np.ascontiguousarray(label[:, 8:28, 8:22])  # a single piece, the lesion at the edge of the image
    assert site(cut).contact == 0
    assert lung_of(cut).slice(0).pleura.sum() == 0
    assert site(cut).depth > 10


def test_voxels_to_ignore_may_be_lung():
    label = with_box(slice(12, 16), slice(8, 12))
    label[:, :, 5:8] = IGNORE
    assert site(label).contact == 0


def test_height_and_size_in_a_volume_are_in_slices_and_mm():
    label = with_box(slice(12, 16), slice(12, 16), slice(8, 10), 12)
    label[:2] = 0  # no lung
    found = site(label, (2.0, 0.5, 0.5))
    assert found.height == pytest.approx((8.5 - 2) / 9)
    assert found.size == pytest.approx(32 * 2 * 0.25)
    assert site(with_box(slice(12, 16), slice(12, 16))).height == 0.5


def test_depth_is_in_mm():
    shallow, deep = (site(with_box(slice(16, 19), x), (5, 2, 2)) for x in (slice(9, 11), slice(15, 17)))
    assert shallow.depth == pytest.approx(4, abs=2)
    assert deep.depth == pytest.approx(16, abs=2)


def test_lungs_that_touch_are_two():
    label = chest()
    label[:, 6:9, 24:30] = LEFT
    (first, second), split = lung_of(label).slice(0).pieces, lung_of(label).slice(0).split
    assert (first.side, second.side) == (0, 1)
    assert 24 <= split <= 30


def lesions(contacts: list[float]) -> list[Lesion]:
    mask = np.ones((1, 4, 4), bool)
    return [
        Lesion("c", "lesion", i, mask, (5, 1, 1), site=Site(0.5, 0.5, 0, 0.5, 2.0, contact, 16.0))
        for i, contact in enumerate(contacts, 1)
    ]


def test_a_class_on_the_border_is_found_and_lesions_in_the_lung_are_not():
    """As measured: effusions 0.59 to 0.90, COVID-19 up to 0.34 in a tenth of the lesions, nodules less."""
    assert classes_on_border({"effusion": lesions([0.59, 0.6, 0.88, 0.72])}) == {"effusion": pytest.approx(0.6975)}
    assert classes_on_border({"lesion": lesions([0, 0.1, 0.34, 0.2, 0])}) == {}
    assert classes_on_border({"lesion": lesions([0.6, 0.7, 0.8, 0])}) == {}, "not all of them touch the pleura"
    assert classes_on_border({"lobe": lesions([0.9])}) == {}, "one proves nothing"
    assert classes_on_border({"outside": lesions([1.0, 1.0])}) == {}, "no part of the lung; another warning names it"
