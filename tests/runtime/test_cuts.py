"""Planes through slices and volumes."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.runtime.cuts import cuts


def test_a_slice_has_one_plane_and_a_volume_three_through_most_of_the_lesion():
    voxels = np.zeros((6, 10, 20), bool)
    voxels[2:5, 3, 4:9] = voxels[3, 2:7, 7] = True
    planes = cuts(voxels, (5.0, 0.5, 1.0))
    assert [(cut.plane, cut.axis, cut.index) for cut in planes] == [
        ("axial", 0, 3),
        ("coronal", 1, 3),
        ("sagittal", 2, 7),
    ]
    assert [cut.aspect for cut in planes] == pytest.approx([0.5, 5.0, 10.0]), "height of a pixel divided by its width"
    coronal = planes[1].of(voxels)
    assert coronal.shape == (6, 20)
    assert coronal[:, 4:9].all(1).tolist() == [False, False, True, True, True, False], "as the array has it"
    (only,) = cuts(voxels[3:4], (999.0, 0.7, 0.7))
    assert (only.plane, only.index, only.aspect) == ("", 0, pytest.approx(1.0))


@pytest.mark.parametrize("flat_is_larger", [True, False])
def test_all_planes_go_through_the_same_lesion_if_there_are_several(flat_is_larger):
    voxels = np.zeros((20, 24, 24), bool)
    flat = voxels.copy()
    flat[2, 2:10, 2:10] = True  # 64 voxels in one slice, but only 8 in a row or a column of it
    tall = voxels.copy()
    tall[5:17, 16 : (18 if flat_is_larger else 22), 16:18] = True  # 48 or 144 voxels, of which each slice has few
    lesion, other = (flat, tall) if flat_is_larger else (tall, flat)
    for cut in cuts(flat | tall, (1.0, 1.0, 1.0)):
        assert cut.of(lesion).any(), cut.plane
        assert cut.of(lesion).sum() >= cut.of(other).sum(), cut.plane
