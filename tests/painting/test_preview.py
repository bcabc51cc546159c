"""The preview's rows."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.commands.augment import main
from nnunet_difflung.painting import preview
from tests.support.tiny import make_dataset


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


@pytest.mark.parametrize("direction", [(1, 1, 1), (1, 1, -1), (-1, -1, 1)])
def test_the_head_is_at_the_top_however_a_volume_is_stored(folders, monkeypatch, direction):
    rows = []
    monkeypatch.setattr(preview, "_draw_row", lambda axes, row: rows.append(row))
    folder = make_dataset(folders[0], patients=4, size=48, volumes=True, depth=8, direction=np.diag(direction))
    main(["-d", "801", "-f", "0", "-device", "cpu", "--method", "copy_paste", "--gate", "off", "--placebo", "0"])
    assert {row.cut.plane for row in rows} == {"axial", "coronal", "sagittal"}
    for row in rows:
        host = row.title.removeprefix("real: ").partition(",")[0]
        image = sitk.ReadImage(str(folder / "imagesTr" / f"{host}_0000.nii.gz"))
        stored = dict(zip("zyx", direction[::-1], strict=True))
        index = (
            row.cut.index
            if stored["zyx"[row.cut.axis]] > 0
            else image.GetSize()[::-1][row.cut.axis] - 1 - row.cut.index
        )
        plane = np.take(sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")), index, row.cut.axis)
        assert np.array_equal(row.real, plane if row.cut.axis == 0 else plane[::-1]), row.cut.plane
