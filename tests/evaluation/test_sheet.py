"""The picture sheet of Table 1: which planes it shows, and what is in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnunet_difflung.commands.evaluate import main
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.evaluation import sheet as sheet_module
from nnunet_difflung.evaluation.page_pictures import galleries_across
from nnunet_difflung.evaluation.real_slices import RealSlice, real_slice, slices_with_lung
from nnunet_difflung.evaluation.sheet import Sheet, shown_planes
from nnunet_difflung.generator.training import FoldData, train_generator
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import cache_folder, results_folder
from tests.pages.test_pictures import decoded
from tests.support.generators import TINY
from tests.support.tiny import make_dataset

WINDOW = (-1000.0, 1000.0)


@pytest.fixture
def opened(folders):
    """A dataset of volumes, whose pixels are (5, 0.8, 0.8) mm."""

    def opened(**options):
        make_dataset(folders[0], patients=4, **({"volumes": True, "depth": 8, "size": (32, 40)} | options))
        raw = open_raw_dataset("801")
        return raw, build_cache(raw, cache_folder(raw.name), progress=False)

    return opened


def test_a_lesion_of_a_volume_is_shown_in_three_planes_through_it(opened):
    raw, cache = opened()
    places = slices_with_lung(cache, raw.validation_cases(0))
    planes = shown_planes(cache, places)
    assert {plane.names for plane in planes} == {"emphysema", "ILD", "emphysema, ILD"} & {p.names for p in planes}
    for name in ("emphysema", "ILD"):
        own = [plane for plane in planes if name in plane.names.split(", ")]
        assert [plane.cut.plane for plane in own] == ["axial", "coronal", "sagittal"]
        assert [plane.cut.aspect for plane in own] == pytest.approx([1.0, 5 / 0.8, 5 / 0.8])
        axial, coronal, sagittal = own
        assert len({plane.case for plane in own}) == 1
        assert axial.slices == (axial.cut.index,)
        assert coronal.slices == sagittal.slices == tuple(range(8))
        voxels = cache.label(axial.case) == raw.roles.values[name]
        assert voxels[axial.cut.index].sum() == voxels.sum((1, 2)).max()
        assert voxels[axial.cut.index, coronal.cut.index].any(), "the same lesion"
        assert voxels[axial.cut.index, :, sagittal.cut.index].any()
        assert voxels[:, coronal.cut.index].sum() == voxels.sum((0, 2)).max(), (
            "these volumes have one lesion of a class"
        )


def test_the_planes_go_through_the_lesion_that_the_slice_shows(opened):
    """A second lesion has more voxels, in other slices and other rows."""
    raw, cache = opened()
    case, value = raw.validation_cases(0)[0], raw.roles.values["ILD"]
    condition = np.ones((8, 32, 40), np.uint8)
    condition[1:3, 4:9, 4:14] = value
    condition[4:8, 20:24, 28:38] = value
    cache.condition = lambda _: condition
    counts = {**cache.facts[case].counts, "ILD": (condition == value).sum((1, 2)).tolist(), "emphysema": [0] * 8}
    cache.facts = {case: replace(cache.facts[case], counts=counts)}
    axial, coronal, sagittal = shown_planes(cache, [(case, z) for z in range(8)])
    assert axial.cut.index in (1, 2)
    assert 4 <= coronal.cut.index < 9
    assert 4 <= sagittal.cut.index < 14


def test_planes_reach_as_far_as_slices_are_painted_without_a_gap(opened):
    raw, cache = opened()
    case = raw.validation_cases(0)[0]
    axial, coronal, *_ = shown_planes(cache, [(case, z) for z in (0, 2, 3, 4, 6)])
    assert axial.cut.index in (2, 3, 4)
    assert coronal.slices == (2, 3, 4)
    planes = shown_planes(cache, [(case, z) for z in (0, 3, 6)])
    assert {plane.cut.plane for plane in planes} == {"axial"}, "no neighbour is painted"


def test_slices_have_no_other_planes(opened):
    raw, cache = opened(volumes=False, slices=2)
    planes = shown_planes(cache, slices_with_lung(cache, raw.validation_cases(0)))
    assert {(plane.cut.plane, plane.cut.axis) for plane in planes} == {("", 0)}


@pytest.mark.parametrize("head_first", [False, True])
def test_a_plane_is_put_together_from_the_slices_and_drawn_upright_with_its_aspect(
    opened, tmp_path, monkeypatch, head_first
):
    raw, cache = opened(direction=np.diag([1, 1, -1 if head_first else 1]))
    places = slices_with_lung(cache, raw.validation_cases(0))
    planes = shown_planes(cache, places)
    sheet, drawn = Sheet(raw.roles, planes), []
    for place in places[::-1]:
        true = real_slice(raw, cache, *place, WINDOW)
        sheet.offer(true, WINDOW, "painted", true.image + 7)
    draw = sheet_module.show_grey
    monkeypatch.setattr(sheet_module, "zoom", lambda _: (slice(None), slice(None)))
    monkeypatch.setattr(
        sheet_module, "show_grey", lambda axes, image, *rest: (drawn.append((axes, image)), draw(axes, image, *rest))
    )
    assert sheet.write(tmp_path / "sheet.png", raw)
    assert len(drawn) == 2 * len(planes)
    for n, plane in enumerate(planes):
        (axes, real), (_, painted) = drawn[2 * n : 2 * n + 2]
        volume = np.stack([real_slice(raw, cache, plane.case, z, WINDOW).image for z in range(8)])
        shown = plane.cut.of(volume)
        if plane.cut.axis and not head_first:  # the last slice is the uppermost
            shown = shown[::-1]
        assert np.array_equal(real, shown)
        assert np.array_equal(painted, shown + 7)
        assert axes.get_aspect() == pytest.approx(plane.cut.aspect)


def test_the_command_shows_planes_of_volumes(opened, folders, monkeypatch):
    raw, cache = opened()
    data = FoldData(cache, tuple(raw.channels), raw.name, 0, tuple(raw.training_cases(0)))
    folder = results_folder(raw.name, "none") / "fold_0"
    train_generator(data, METHODS["none"], replace(TINY, epochs=1), folder, progress=False)
    rows, draw = [], Sheet._draw_row
    monkeypatch.setattr(Sheet, "_draw_row", lambda sheet, axes, *row: (rows.append(row[:2]), draw(sheet, axes, *row)))
    main(["-d", "801", "-f", "0", "--preset", "fast", "--steps", "2", "--samples", "1", "-device", "cpu"])
    assert {plane.cut.plane for plane, _ in rows} == {"axial", "coronal", "sagittal"}
    for plane, row in rows:
        case = f"real: {plane.case}"
        assert list(row.pictures) == [case, "none"]
        assert set(row.pictures["none"]) == set(row.pictures[case]) == set(row.condition) == set(plane.slices)


def test_pictures_across_have_the_shape_and_the_scale_of_their_plane(opened):
    raw, cache = opened()
    case = raw.validation_cases(0)[0]
    planes = [plane for plane in shown_planes(cache, slices_with_lung(cache, [case])) if plane.cut.axis]
    sheet = Sheet(raw.roles, planes)
    image = np.broadcast_to(np.arange(40.0) * 6 - 1000, (32, 40))
    for z in range(8):
        sheet.offer(RealSlice("patient", case, z, image, cache.condition(case)[z]), (-1000.0, 1000.0), "cbmat", image)
    table = {"meta": {"windows": {"0": [-1000.0, -760.0]}, "unit": "grey levels"}}
    galleries = galleries_across(table, sheet, raw)
    columns = [column for gallery in galleries for column in gallery.columns]
    assert {title.rpartition(", ")[2] for title, _ in columns} == {"coronal", "sagittal"}
    for title, pictures in columns:
        assert [picture.caption for picture in pictures] == ["real", "cbmat"]
        assert pictures[0].height <= 8
        assert pictures[0].millimetres == pytest.approx(0.8)
        assert pictures[0].aspect == pytest.approx(5 / 0.8)
        grey = decoded(next(iter(pictures[0].views.values())))
        assert (np.diff(grey[0].astype(int)) > 0).all() if title.endswith("coronal") else np.ptp(grey) == 0
