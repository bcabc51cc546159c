"""PNG files and outlines: values, sizes and places are those of the arrays."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from nnunet_difflung.pages.pictures import grey_png, outline_path, outlines_of


def decoded(uri: str) -> np.ndarray:
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_window_is_black_to_white() -> None:
    picture = decoded(grey_png(np.array([[-2000.0, -1000.0, -500.0], [0.0, 500.0, -750.0]]), (-1000, 0)))
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[0, 0, 128], [255, 255, 64]]


def test_a_constant_image_has_a_picture() -> None:
    assert decoded(grey_png(np.zeros((2, 3)), (0, 0))).shape == (2, 3)


def corners(path: str) -> np.ndarray:
    return np.array([[float(n) for n in pair.split()] for pair in re.findall(r"[\d.-]+ [\d.-]+", path)])


def test_outline_surrounds_the_pixels_of_its_class() -> None:
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:7] = True
    found = corners(outline_path(mask))
    assert found[:, 0].min() == 3
    assert found[:, 0].max() == 7
    assert found[:, 1].min() == 2
    assert found[:, 1].max() == 5


def test_outline_at_the_border_is_closed() -> None:
    found = corners(outline_path(np.ones((3, 4), bool)))
    assert (found.min(0) == 0).all()
    assert found.max(0).tolist() == [4, 3]


def test_only_classes_that_occur_have_outlines() -> None:
    label = np.zeros((6, 6), int)
    label[1:3, 1:3] = 2
    values = {"background": 0, "lung": 1, "emphysema": 2}
    outlines = outlines_of(label, values, dashed=("emphysema",))
    assert [(outline.name, outline.dashed) for outline in outlines] == [("emphysema", True)]
    assert outline_path(np.zeros((3, 3), bool)) == ""
