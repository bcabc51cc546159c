"""Labels that hardly touch lung are recognised; lesions that replace a lobe or a lung are not taken for such labels."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.lesions.contact import LungContact
from nnunet_difflung.meaning.labels import LabelRoles

LEFT, RIGHT, LESION, CORE, OTHER, IGNORE = 1, 2, 3, 4, 5, 6
VALUES = {"left lung": LEFT, "right lung": RIGHT, "lesion": LESION, "core": CORE, "other": OTHER}
ROLES = LabelRoles(("left lung", "right lung"), ("lesion", "core", "other"), (), VALUES, IGNORE)


def chest(depth: int = 6) -> np.ndarray:
    """(z, y, x): two lungs of 20 × 12 voxels, six voxels apart, in a frame of background."""
    label = np.zeros((depth, 32, 44), np.uint8)
    label[:, 6:26, 6:18] = LEFT
    label[:, 6:26, 24:36] = RIGHT
    return label


def outside(*cases: np.ndarray, roles: LabelRoles = ROLES) -> dict[str, float]:
    contact = LungContact(roles)
    for number, label in enumerate(cases):
        counts = {name: (label == value).sum((1, 2)).tolist() for name, value in VALUES.items()}
        contact.add(f"case{number}", label, counts)
    return contact.outside()


def with_box(value: int, y: slice, x: slice, z: slice = slice(None)) -> np.ndarray:
    label = chest()
    label[z, y, x] = value
    return label


def test_what_lies_between_the_lungs_without_touching_them_is_found():
    heart = with_box(OTHER, slice(8, 20), slice(19, 23))
    assert outside(heart) == {"other": 0.0}
    nearly = heart.copy()
    nearly[0, 8, 18] = OTHER  # one voxel of six slices touches
    shares = outside(nearly)
    assert list(shares) == ["other"]
    assert 0 < shares["other"] < 0.03


@pytest.mark.parametrize(
    "lesion",
    [
        with_box(LESION, slice(10, 14), slice(8, 12)),
        with_box(LESION, slice(6, 16), slice(6, 18)),  # a whole lobe
        with_box(LESION, slice(6, 26), slice(6, 18)),  # a whole lung
        with_box(LESION, slice(6, 26), slice(6, 18), slice(0, 3)),  # the lower half of a lung
        np.where(chest() > 0, LESION, 0),  # both lungs
        np.concatenate([np.where(chest() > 0, LESION, 0), chest()]),  # their lower halves
        with_box(LESION, slice(6, 9), slice(6, 18)),  # a layer along the pleura
    ],
    ids=["nodule", "lobe", "lung", "base", "both lungs", "both bases", "pleura"],
)
def test_a_lesion_is_not_taken_for_a_structure_however_much_it_replaces(lesion):
    assert outside(lesion, chest()) == {}


def test_a_lesion_inside_another_pathology_lies_in_the_lung():
    label = with_box(LESION, slice(8, 20), slice(7, 17))
    label[:, 10:18, 9:15] = CORE
    assert outside(label) == {}
    label[:, 8:20, 7:17] = np.where(label[:, 8:20, 7:17] == CORE, CORE, 0)  # without the rim it touches nothing
    assert outside(label) == {"core": 0.0}


def test_voxels_to_ignore_may_be_lung():
    label = with_box(IGNORE, slice(8, 20), slice(7, 17))
    label[:, 10:18, 9:15] = CORE
    assert outside(label) == {}


def test_a_few_voxels_prove_nothing():
    assert outside(with_box(OTHER, slice(10, 12), slice(20, 21), slice(0, 1))) == {}


def test_one_patient_with_contact_is_enough():
    apart, inside = with_box(OTHER, slice(8, 14), slice(19, 23)), with_box(OTHER, slice(8, 14), slice(8, 12))
    assert outside(apart, inside) == {}


def test_a_case_counts_once():
    contact, label = LungContact(ROLES), with_box(OTHER, slice(10, 14), slice(20, 22), slice(0, 1))
    counts = {name: (label == value).sum((1, 2)).tolist() for name, value in VALUES.items()}
    for _ in range(9):
        contact.add("case", label, counts)
    assert contact.outside() == {}, "its outline has 12 edges of pixels"
