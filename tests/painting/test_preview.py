"""The preview's rows."""

from __future__ import annotations

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
