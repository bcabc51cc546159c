"""Pixels of DICOM slices become HU as their own headers say; headers that contradict the pixels are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.accept import Accept
from nnunet_difflung.dataset_conversion.dicom.source import find_sources
from nnunet_difflung.dataset_conversion.imaging.intensities import prepare_intensities
from nnunet_difflung.dataset_conversion.notes import Kind
from nnunet_difflung.errors import BadInput
from tests.support.archives import chest, like

pydicom = pytest.importorskip("pydicom")

from tests.support.dicom_files import write_ct  # noqa: E402


def hu() -> np.ndarray:
    values = chest(1, 6)[0]
    values[:, 30:34, 31:33] = 700
    return values


def converted(folder: Path, change: Callable, accept: frozenset[Accept] = frozenset()):
    """HU, channel and notes of a series whose files were changed."""
    write_ct(folder, like(hu().astype(np.float32)), change=change)
    scan = find_sources(folder, accept=accept)[0].load()
    image, channel, notes = prepare_intensities(scan.image, scan.modality, scan.windowed, None, "p1", accept=accept)
    return sitk.GetArrayFromImage(image), channel, [*scan.notes, *notes]


def stored(z: int, data, signed: bool, bits: int, invert: bool = False) -> None:
    values = hu()[z].astype(np.int32) + (0 if signed else 1024)
    if invert:
        values = -1 - values if signed else 2**bits - 1 - values
    data.PhotometricInterpretation = "MONOCHROME1"
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, int(signed)
    data.RescaleIntercept = "0" if signed else "-1024"
    data.PixelData = (values % 2**bits).astype("<u2").tobytes()


@pytest.mark.parametrize(("signed", "bits"), [(True, 16), (False, 12), (False, 16), (True, 12)])
def test_monochrome1_changes_no_value(tmp_path, signed, bits):
    values, channel, notes = converted(tmp_path, lambda z, data: stored(z, data, signed, bits))
    assert np.array_equal(values, hu())
    assert channel == "CT"
    assert [note.kind for note in notes if "MONOCHROME1" in note.text] == [Kind.REINTERPRETED]


def test_monochrome1_of_a_compression_that_only_gdcm_reads(tmp_path, monkeypatch):
    from nnunet_difflung.dataset_conversion.dicom import pixels

    monkeypatch.setattr(pixels, "_stored", lambda header, root: None)
    assert np.array_equal(converted(tmp_path / "a", lambda z, data: stored(z, data, False, 12))[0], hu())
    assert np.array_equal(converted(tmp_path / "b", lambda z, data: stored(z, data, True, 16))[0], hu())


@pytest.mark.parametrize(("signed", "bits", "constant"), [(True, 16, -1), (False, 12, 2047), (False, 16, 63487)])
def test_values_inverted_for_monochrome1_are_refused_with_the_rescaling(tmp_path, signed, bits, constant):
    with pytest.raises(BadInput, match=rf"upside down.*MONOCHROME1.*--rescale=-1,{constant}\b"):
        converted(tmp_path, lambda z, data: stored(z, data, signed, bits, invert=True))


def without_rescaling(z: int, data) -> None:
    if z == 3:
        del data.RescaleSlope, data.RescaleIntercept, data.RescaleType


def test_a_slice_without_intercept_is_refused_or_borrows_it(tmp_path):
    with pytest.raises(BadInput, match="1 of 6 slices have no RescaleIntercept.*--accept borrowed-rescaling"):
        converted(tmp_path / "a", without_rescaling)
    values, _, notes = converted(tmp_path / "b", without_rescaling, frozenset([Accept.BORROWED_RESCALING]))
    assert np.array_equal(values, hu())
    assert [(note.kind, note.count) for note in notes if "RescaleIntercept" in note.text] == [(Kind.GUESSED, 1)]


def test_a_borrowed_intercept_that_does_not_fit_is_refused(tmp_path):
    def change(z, data):
        if z == 3:
            without_rescaling(z, data)
            data.PixelData = hu()[z].astype("<i2").tobytes()
            data.PixelRepresentation = 1

    with pytest.raises(BadInput, match="do not fit|differ"):
        converted(tmp_path, change, frozenset([Accept.BORROWED_RESCALING]))


def test_intercepts_that_differ_are_right_if_the_values_fit_and_refused_if_not(tmp_path):
    def right(z, data):
        if z % 2:
            data.RescaleIntercept = "0"
            data.PixelRepresentation = 1
            data.PixelData = hu()[z].astype("<i2").tobytes()

    def wrong(z, data):
        if z == 2:
            data.RescaleIntercept = "0"

    assert np.array_equal(converted(tmp_path / "a", right)[0], hu())
    with pytest.raises(BadInput, match=r"differ by [+-]1024 HU.*RescaleIntercept"):
        converted(tmp_path / "b", wrong)


def no_slope_at_all(z, data):
    data.RescaleSlope = "0"


def table(z, data):
    without_rescaling(3, data)
    item = pydicom.Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [4096, 0, 16], "HU"
    item.LUTData = np.arange(4096).astype("<u2").tobytes()
    data.ModalityLUTSequence = [item]


def too_few_bits(z, data):
    data.RescaleIntercept, data.PixelRepresentation, data.BitsStored, data.HighBit = "0", 1, 10, 9
    data.PixelData = hu()[z].astype("<i2").tobytes()


def too_few_bits_in_one_slice(z, data):
    if z == 2:
        data.BitsStored, data.HighBit = 10, 9


def without_sign(z, data):
    data.RescaleIntercept = "0"
    data.PixelData = hu()[z].astype("<i2").tobytes()


def no_rescaling(z, data):
    without_rescaling(3, data)


def one_slice_shifted(z, data):
    if z == 4:
        data.PixelData = (hu()[z].astype(np.int32) + 2048).astype("<u2").tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_slope_at_all, "RescaleSlope is 0"),
        (table, "Modality LUT Sequence"),
        (too_few_bits, "do not fit into the 10 bits"),
        (too_few_bits_in_one_slice, "do not fit into the 10 bits without a sign"),
        (without_sign, "without their sign.*export"),
        (no_rescaling, "--rescale 1,-1024"),
        (one_slice_shifted, "1 slices do not fit the others"),
    ],
)
def test_headers_that_contradict_the_pixels_are_refused(tmp_path, change, message):
    with pytest.raises(BadInput, match=message) as refusal:
        converted(tmp_path, change)
    assert "\n" not in str(refusal.value)


def test_slices_may_give_different_bits_if_their_values_fit_and_overlays_are_no_values(tmp_path):
    def change(z, data):
        if z == 2:
            data.BitsStored, data.HighBit = 12, 11
        if z == 3:
            data.BitsStored, data.HighBit = 12, 11
            data.add_new((0x6000, 0x0102), "US", 15)
            data.PixelData = (np.frombuffer(data.PixelData, "<u2") | 0x8000).tobytes()

    assert np.array_equal(converted(tmp_path, change)[0], hu())


def test_a_unit_that_is_not_hu_is_noted_if_the_values_are_hu(tmp_path):
    def change(z, data):
        data.RescaleType = "US"

    values, _, notes = converted(tmp_path, change)
    assert np.array_equal(values, hu())
    assert [note.kind for note in notes if "RescaleType" in note.text] == [Kind.GUESSED]


def test_a_listing_says_which_rescaling_is_lost_before_any_image_is_converted(tmp_path):
    write_ct(tmp_path, like(hu().astype(np.float32)), change=without_rescaling)
    (problem,) = find_sources(tmp_path)[0].listing().problems
    assert "1 of 6 slices have no RescaleIntercept" in problem
    assert not find_sources(tmp_path, accept=frozenset([Accept.BORROWED_RESCALING]))[0].listing().problems
