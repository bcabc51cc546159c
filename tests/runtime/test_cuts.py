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
    assert coronal[:, 4:9].all(1).tolist() == [False, True, True, True, False, False], "the end of z is at the top"
    (only,) = cuts(voxels[3:4], (999.0, 0.7, 0.7))
    assert (only.plane, only.index, only.aspect) == ("", 0, pytest.approx(1.0))
