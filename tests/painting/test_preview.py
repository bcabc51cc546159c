"""The preview's planes through slices and volumes."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.commands.augment import main
from nnunet_difflung.painting import preview
from tests.support.tiny import make_dataset


def test_a_slice_has_one_plane_and_a_volume_three_through_most_of_the_lesion():
    voxels = np.zeros((6, 10, 20), bool)
    voxels[2:5, 3, 4:9] = voxels[3, 2:7, 7] = True
    cuts = preview._cuts(voxels, (5.0, 0.5, 1.0))
    assert [(cut.plane, cut.axis, cut.index) for cut in cuts] == [
        ("axial", 0, 3),
        ("coronal", 1, 3),
        ("sagittal", 2, 7),
    ]
    assert [cut.aspect for cut in cuts] == pytest.approx([0.5, 5.0, 10.0]), "height of a pixel divided by its width"
    coronal = cuts[1].of(voxels)
    assert coronal.shape == (6, 20)
    assert coronal[:, 4:9].all(1).tolist() == [False, True, True, True, False, False], "the end of z is at the top"
    (only,) = preview._cuts(voxels[3:4], (999.0, 0.7, 0.7))
    assert (only.plane, only.index, only.aspect) == ("", 0, pytest.approx(1.0))


def test_the_preview_of_volumes_shows_each_class_in_three_planes(folders, monkeypatch):
    rows, real = [], preview._draw_row
    monkeypatch.setattr(preview, "_draw_row", lambda axes, row: (rows.append(row), real(axes, row)))
    make_dataset(folders[0], patients=4, size=64, volumes=True, depth=8)
    main(["-d", "801", "-f", "0", "-device", "cpu", "--method", "copy_paste", "--gate", "off", "--placebo", "0.4"])
    assert [row.cut.plane for row in rows] == ["axial", "coronal", "sagittal"] * len({row.name for row in rows})
    assert {row.name for row in rows} >= {None}
    for row in rows:
        assert row.voxels.any()
        assert row.real.shape == row.painted.shape == row.label.shape
        if row.name is not None:
            assert (row.new_label != row.label)[row.voxels].all()
