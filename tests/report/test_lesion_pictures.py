"""Pictures of lesions are seen as radiologists see them, whichever way the file's axes run."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.dataset.orientation import axial_view
from nnunet_difflung.report.injected import Scan
from nnunet_difflung.report.lesion_pictures import Looks, lesion_picture, nearest_in_area, shown_area, windows_of
from tests.pages.test_pictures import corners, decoded

LOOKS = Looks({"window": (0.0, 255.0)}, {"background": 0, "lesion": 1})


def scan(direction=(1, 1, 1), spacing=(5.0, 1.0, 1.0), properties=True) -> Scan:
    """A volume of 8 × 40 × 60 whose value is the column, and a lesion near its right back corner."""
    image = np.broadcast_to(np.arange(60.0) * 4, (1, 8, 40, 60)).copy()
    label = np.zeros((8, 40, 60), int)
    label[3:5, 30:36, 50:56] = 1
    stuff = {"spacing": list(spacing)}
    if properties:
        stuff["sitk_stuff"] = {"direction": tuple(np.diag(direction).astype(float).ravel())}
    return Scan("case", image, label, spacing, axial_view(stuff))


def shown(case: Scan, axis: int = 0):
    picture = lesion_picture(case, case.label == 1, LOOKS, "lesion", axis=axis)
    return picture, decoded(picture.views["window"])


@pytest.mark.parametrize("direction", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, 1)])
def test_right_is_left_and_the_back_is_below(direction) -> None:
    picture, image = shown(scan(direction))
    assert picture.sides == ("R", "L")
    outline = corners(picture.outlines[0].path)
    towards_left, towards_back = outline.mean(0) / (picture.width, picture.height)
    assert (towards_left > 0.5) == (direction[0] > 0)
    assert (towards_back > 0.5) == (direction[1] > 0)
    assert (np.diff(image[0].astype(int)) >= 0).all() == (direction[0] > 0)


def test_the_outline_surrounds_the_lesion() -> None:
    picture, _ = shown(scan())
    path = corners(picture.outlines[0].path)
    assert np.ptp(path, axis=0).tolist() == [6, 6]


def test_other_planes_have_true_proportions_and_the_head_on_top() -> None:
    case = scan(spacing=(5.0, 1.0, 2.0))
    case.image[0, -1] = 255  # the slice nearest to the head
    for axis, wide in ((1, 2.0), (2, 1.0)):
        picture, image = shown(case, axis)
        assert picture.aspect == pytest.approx(5.0 / wide)
        assert picture.millimetres == wide
        assert (image[0] == 255).all()
        assert not (image[-1] == 255).all()
    assert shown(case, 1)[0].sides == ("R", "L")
    assert shown(case, 2)[0].sides == ()


def test_files_without_spacing_have_no_scale_bar_and_no_sides() -> None:
    picture, _ = shown(scan(spacing=(999.0, 1.0, 1.0), properties=False))
    assert picture.bar is None
    assert picture.sides == ()


def test_large_planes_are_thinned_out_and_stay_true() -> None:
    image = np.zeros((1, 1, 1000, 800))
    label = np.zeros((1, 1000, 800), int)
    label[0, 100:900, 100:700] = 1
    stuff = {"spacing": [1.0, 0.5, 0.5], "sitk_stuff": {"direction": tuple(np.eye(3).ravel())}}
    case = Scan("case", image, label, (1.0, 0.5, 0.5), axial_view(stuff))
    picture, _ = shown(case)
    assert max(picture.width, picture.height) <= 160
    assert picture.width * picture.millimetres == pytest.approx(400, abs=5)
    assert picture.height * picture.millimetres * picture.aspect == pytest.approx(500, abs=5)


def test_windows_of_ct_are_those_of_a_radiologist() -> None:
    assert windows_of(True, np.zeros(1)) == {"lung window": (-1350.0, 150.0), "mediastinal window": (-160.0, 240.0)}
    assert list(windows_of(False, np.arange(1001.0))) == ["10 to 995"]
    assert windows_of(False, np.arange(1001.0), (0.0, 255.0)) == {"0 to 255": (0.0, 255.0)}
    assert "lung window" in windows_of(True, np.zeros(1), (-1000.0, 400.0))


def test_areas_are_those_of_the_largest_part_where_it_is_largest() -> None:
    voxels = np.zeros((3, 12, 12), bool)
    voxels[0, 1:3, 1:3] = voxels[1, 1:4, 1:4] = True
    voxels[1, 8:10, 8:10] = True
    assert shown_area(voxels, (5.0, 0.5, 2.0)) == 9.0


def test_each_painted_lesion_gets_the_real_one_that_is_nearest_by_ratio() -> None:
    assert nearest_in_area([100.0, 100.0, 1.0], [1.0, 60.0, 150.0, 9.0]) == [2, 1, 0]
    assert nearest_in_area([5.0, 6.0], [7.0]) == [0]
    assert nearest_in_area([], [7.0]) == []
