"""HU, padding, display windows, and stored values whose intercept was lost are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.imaging.intensities import AIR, not_hu, prepare_intensities
from nnunet_difflung.errors import BadInput
from tests.support.archives import chest, like


def prepared(values: np.ndarray, modality: str = "CT", windowed: bool | None = None, window=None):
    image, channel, notes = prepare_intensities(like(values), modality, windowed, window, "scan")
    assert image.GetOrigin() == like(values).GetOrigin()
    return sitk.GetArrayFromImage(image), channel, notes


def hu() -> np.ndarray:
    return chest(1)[0]


def test_hu_stay_as_they_are():
    values, channel, notes = prepared(hu())
    assert channel == "CT"
    assert values.dtype == np.int16
    assert np.array_equal(values, hu())
    assert not notes
    values, channel, _ = prepared(hu().astype(np.float32) + 0.25, modality="")
    assert channel == "CT"
    assert values.dtype == np.float32
    assert prepared(hu().astype(np.float64) + 0.004)[0].dtype == np.int16, "slope and intercept in floating point"


@pytest.mark.parametrize("padding", [-2000, -3024, -2048, -1500])
def test_padding_becomes_air(padding):
    image = hu()
    image[:, :6] = image[:, -6:] = padding
    values, channel, notes = prepared(image)
    assert channel == "CT"
    assert (values[:, :6] == AIR).all()
    assert "padding" in notes[0].text
    assert str(padding) in notes[0].text
    assert np.array_equal(values[:, 6:-6], hu()[:, 6:-6])


def test_noise_below_air_is_not_padding():
    image = hu()
    image[:, 30, 30] = -1040
    values, _, notes = prepared(image)
    assert np.array_equal(values, image)
    assert not notes


def test_twelve_bits_without_intercept_are_refused_and_an_intercept_taken_twice():
    with pytest.raises(BadInput, match=r"none below 0.*--rescale 1,-1024"):
        prepared((hu() + 1024).astype(np.uint16))
    with pytest.raises(BadInput, match=r"subtracted twice.*--rescale 1,1024"):
        prepared(hu() - 1024 + np.arange(64, dtype=np.int16))  # no constant in the corners


@pytest.mark.parametrize(
    ("scale", "channel", "dtype"), [(255, "lung_window_8bit", np.uint8), (1, "windowed", np.float32)]
)
def test_display_windows_are_not_hu(scale, channel, dtype):
    window = np.clip((hu() + 1350) / 1500, 0, 1) * scale
    values, detected, notes = prepared(np.rint(window) if scale == 255 else window, modality="")
    assert detected == channel
    assert values.dtype == dtype
    assert "not HU" in notes[0].text
    assert not_hu(window - 0.5) is not None if scale == 1 else not_hu(hu()) is None


def test_what_the_archive_says_counts():
    values = np.clip(hu(), 0, 200)
    assert prepared(values, windowed=False)[1] == "CT"
    assert prepared(hu(), windowed=True)[1] == "windowed"
    assert prepared(np.abs(hu()).astype(np.uint16), modality="MR")[1] == "MR"


def test_window_clips_hu_only():
    values, _, notes = prepared(hu(), window=(-900, 0))
    assert values.min() == -900
    assert values.max() == 0
    assert "clipped" in notes[-1].text
    with pytest.raises(BadInput, match="remove --window"):
        prepared((hu() > 0).astype(np.uint8) * 255, window=(-900, 0))


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_nan_infinite_and_constant_values_are_refused(value, message):
    image = hu().astype(np.float32)
    image[0, 3, 3] = value
    with pytest.raises(BadInput, match=f"1 values are .*{message}"):
        prepared(image)
    with pytest.raises(BadInput, match="every value is 7"):
        prepared(np.full((1, 8, 8), 7, np.int16))
