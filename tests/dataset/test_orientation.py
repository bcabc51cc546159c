"""Whichever way a file's axes run and whichever reader reads it, front is up and the patient's right is left."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_difflung.dataset.orientation import axial_view, directions
from tests.support.tiny import write_array


def written(folder, code: str):
    """A volume whose front left corner is bright, with its axes as a code such as LPS says."""
    array = np.zeros((3, 8, 10), np.float32)
    array[1, 0:2, 8:10] = 100  # LPS: low y is front, high x is left
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 3.0, 5.0))
    path = folder / f"{code}_0000.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(path))
    return path


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
@pytest.mark.parametrize("code", ["LPS", "RAS", "LAS", "RPI"])
def test_front_is_up_and_right_is_left(tmp_path, reader, code):
    image, properties = reader().read_images([str(written(tmp_path, code))])
    view = axial_view(properties)
    shown = view.turned(image[0, 1])
    assert view.sides == ("R", "L")
    assert shown[0:2, 8:10].min() == 100
    assert shown.sum() == 400
    assert view.millimetres == pytest.approx(2)
    assert view.aspect == pytest.approx(1.5)


def test_oblique_and_sagittal_volumes_have_no_sides(tmp_path):
    image, properties = SimpleITKIO().read_images([str(written(tmp_path, "PIR"))])
    view = axial_view(properties)
    assert view.sides == ()
    assert np.array_equal(view.turned(image[0, 1]), image[0, 1])
    assert view.millimetres == pytest.approx(3)


def test_pictures_have_neither_sides_nor_millimetres(tmp_path):
    write_array(tmp_path / "a_0000.png", np.zeros((1, 8, 10), np.uint8))
    _, properties = NaturalImage2DIO().read_images([str(tmp_path / "a_0000.png")])
    view = axial_view(properties)
    assert (view.sides, view.millimetres, view.aspect) == ((), None, 1.0)


@pytest.mark.parametrize("code", ["LPS", "LPI", "RAS", "RAI"])
@pytest.mark.parametrize("axis", [1, 2])
def test_the_head_is_at_the_top_of_a_coronal_or_sagittal_plane(tmp_path, code, axis):
    array = np.zeros((3, 8, 10), np.float32)
    array[2, 0:2, 8:10] = 100  # LPS: the last slice is the uppermost; front and left
    image = sitk.GetImageFromArray(array)
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(tmp_path / "a_0000.nii.gz"))
    image, properties = SimpleITKIO().read_images([str(tmp_path / "a_0000.nii.gz")])
    shown = axial_view(properties).upright(image[0].max(axis), axis)
    assert shown[0].max() == 100
    assert shown[1:].max() == 0
    assert shown[0, -1 if axis == 1 else 0] == 100  # coronal: the left is right; sagittal: the front is left


@pytest.mark.parametrize(
    ("code", "expected"), [("LPS", "head, back, left"), ("RAI", "feet, front, right"), ("PIR", "right, feet, back")]
)
def test_directions_name_the_ends_of_the_axes(tmp_path, code, expected):
    assert directions(SimpleITKIO().read_images([str(written(tmp_path, code))])[1]) == expected
    assert directions({"spacing": (1.0, 1.0, 1.0)}) == ""
