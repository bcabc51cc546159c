"""Which voxels of a planned case get new intensities."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.preparing.application import painted_region

ROLES = LabelRoles(("normal_lung",), ("emphysema", "ILD"), (), {"normal_lung": 1, "emphysema": 2, "ILD": 3}, 4)


def one_changed_voxel() -> tuple[np.ndarray, np.ndarray]:
    """Two slices of normal lung with a row of ILD, a column to be ignored, and one voxel that changes in the first."""
    label = np.ones((2, 11, 11), np.uint8)
    label[:, 7], label[:, :, 8] = 3, 4
    changed = np.zeros(label.shape, bool)
    changed[0, 5, 5] = True
    return label, changed


@pytest.mark.parametrize("margin", [0, 1, 4])
def test_composite_paints_a_margin_of_normal_lung_in_the_plane(margin):
    label, changed = one_changed_voxel()
    region = painted_region(label, changed, ROLES, SamplingConfig(margin=margin))
    y, x = np.indices(label.shape[1:])
    near = np.abs(y - 5) + np.abs(x - 5) <= margin
    np.testing.assert_array_equal(region[0], near & (label[0] == 1))
    assert not region[1].any()


def test_full_paints_all_but_what_is_to_be_ignored():
    label, changed = one_changed_voxel()
    region = painted_region(label, changed, ROLES, SamplingConfig(paint="full"))
    np.testing.assert_array_equal(region, label != 4)
