"""HU, padding, display windows, and stored values whose intercept was lost are told apart."""

from __future__ import annotations

import re

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.accept import Accept
from nnunet_difflung.dataset_conversion.imaging.intensities import AIR, prepare_intensities
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.intensities import window_name
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
    with pytest.raises(BadInput, match=r"soft tissue around 1064.*--rescale 1,-1024"):
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
    assert window_name(window - 0.5) is not None if scale == 1 else window_name(hu()) is None


def test_what_the_archive_says_counts():
    assert prepared(np.clip(hu(), -1000, 200), windowed=False)[1] == "CT"
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


def noisy() -> np.ndarray:
    values = hu()
    return np.rint(values + np.random.default_rng(0).normal(0, 10, values.shape)).astype(np.int32)


REMEDY = re.compile(r"--rescale[ =](-?[0-9.]+),(-?[0-9.]+)")


@pytest.mark.parametrize(
    "fault",
    [
        lambda v: v + 1024,
        lambda v: np.where(np.arange(v.size).reshape(v.shape) < 10, -3, v + 1024),
        lambda v: v - 1024,
        lambda v: v + 32768,
        lambda v: -1 - v,
        lambda v: 3071 - v,
        lambda v: v * 10,
        lambda v: np.rint(v * 0.1),
    ],
    ids=["lost", "lost, some negative", "twice", "DeepLesion", "inverted", "inverted 12 bits", "times 10", "a tenth"],
)
@pytest.mark.parametrize("declared", [None, False])
def test_the_proposed_rescaling_gives_hu(fault, declared):
    values = fault(noisy())
    with pytest.raises(BadInput, match="--accept unusual-values") as refusal:
        prepared(values, windowed=declared)
    slope, intercept = map(float, REMEDY.search(str(refusal.value)).groups())
    image, channel, notes = prepare_intensities(like(values), "CT", declared, None, "scan", (slope, intercept))
    assert channel == "CT"
    assert np.abs(sitk.GetArrayFromImage(image) - noisy())[:, 1:].max() <= 5
    assert "rescaled" in notes[0].text
    assert prepare_intensities(like(values), "CT", declared, None, "scan", None, [Accept.UNUSUAL_VALUES])[1] == "CT"


def test_a_wrong_rescaling_is_refused_and_the_right_one_told():
    values = noisy() + 1024
    with pytest.raises(BadInput, match="after --rescale 1,1024: .*--rescale 1,-1024") as refusal:
        prepare_intensities(like(values), "CT", None, None, "scan", (1, 1024))
    assert str(refusal.value).count("\n") == 0
    with pytest.raises(BadInput, match=r"upside down.*--rescale 1,-102"):
        prepare_intensities(like(values), "CT", None, None, "scan", (-1, 1024))


def test_values_that_are_no_hu_and_no_known_mistake_can_become_a_window():
    values = np.rint(np.clip((noisy() + 1350) / 1500, 0, 1) * 255).astype(np.uint16) * 257
    with pytest.raises(BadInput, match="display window") as refusal:
        prepared(values)
    slope, intercept = map(float, REMEDY.search(str(refusal.value)).groups())
    image, channel, _ = prepare_intensities(like(values), "CT", None, None, "scan", (slope, intercept))
    assert channel in ("windowed", "lung_window_8bit")
    window = sitk.GetArrayFromImage(image)
    assert window.max() == pytest.approx(255, abs=0.01)
    assert np.allclose(window, values * (255 / values.max()), atol=0.01)


def test_slices_of_another_kind_are_refused():
    values = np.concatenate([noisy()] * 2)
    values[5] += 1024
    with pytest.raises(BadInput, match=r"1 slices do not fit .*z = 5.*HU \+1024"):
        prepared(values)


def test_what_cannot_be_judged_is_noted_and_not_refused():
    values = np.random.default_rng(0).normal(40, 20, (1, 32, 32)).round()
    _, channel, notes = prepared(values)
    assert channel == "CT"
    assert "too little" in notes[0].text


@pytest.mark.parametrize("value", [1e30, -3e38])
def test_values_that_no_ct_has_are_refused_unless_accepted(value):
    image = hu().astype(np.float32)
    image[1, 3, 3] = value
    with pytest.raises(BadInput, match=r"1 of \d+ values are beyond 100000 HU.*--accept unusual-values"):
        prepared(image)
    accept = frozenset([Accept.UNUSUAL_VALUES])
    kept, _, notes = prepare_intensities(like(image), "CT", None, None, "scan", accept=accept)
    assert sitk.GetArrayFromImage(kept)[1, 3, 3] == np.float32(value)
    assert ("guessed", 1, "values beyond 100000 HU, taken as HU") in {(n.kind, n.count, n.what) for n in notes}
