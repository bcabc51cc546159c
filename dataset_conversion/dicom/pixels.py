"""The pixels of DICOM slices: decoded, rescaled to HU as their own headers say, and checked against those headers.

PhotometricInterpretation says how pixels are displayed: MONOCHROME1 shows the lowest value white. It changes nothing in
what a value means (DICOM PS3.3, C.7.6.3.1.2), so HU are the stored values, rescaled, in both cases. GDCM inverts the
pixels of MONOCHROME1 when it reads them; this is undone here. Files whose values were inverted when they were written
are recognised by their values later (``imaging.intensities``).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset_conversion.accept import Accept, remedy
from nnunet_difflung.dataset_conversion.dicom.headers import UNCOMPRESSED, Header, read_dataset
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.files import openable

SMALLEST_STEP = 100.0  # HU; difference of two intercepts
_SPARSE = 4  # every so many pixels of a slice tell whether it fits its neighbour


@dataclass(frozen=True)
class Rescaling:
    """How the slices of a series become HU.

    Attributes:
        declared: whether every slice gives slope, intercept and HU as the unit.
        borrowed: slope and intercept for slices that give no intercept; None if there are none.
        notes: for the report.
    """

    declared: bool = True
    borrowed: tuple[float, float] | None = None
    notes: tuple[Note, ...] = ()

    def of_slice(self, header: Header, pixels: np.ndarray) -> np.ndarray:
        """Pixels of a slice as ``read_pixels`` returns them, in HU."""
        if self.borrowed is None or header.intercept is not None:
            return pixels
        slope, intercept = self.borrowed
        return np.float32(slope) * pixels + np.float32(intercept)


def rescaling_of(slices: Sequence[Header], root: Path, accept: Collection[Accept] = ()) -> Rescaling:
    """How the slices of a series become HU.

    Raises:
        BadInput: a slope is 0, a table maps the values, or only some of the slices give an intercept and the user
            does not accept that of the others.
    """
    for header in slices:
        if header.slope == 0:
            raise BadInput(
                f"{root / header.path}: RescaleSlope is 0, which makes all values equal; expected another slope: "
                f"correct the header, or export the series again"
            )
        if header.table and header.intercept is None:
            raise BadInput(
                f"{root / header.path}: a Modality LUT Sequence maps the stored values; expected RescaleSlope and "
                f"RescaleIntercept, as CT images have: export the series again"
            )
    lacking = [header for header in slices if header.intercept is None]
    given = sorted({(1.0 if h.slope is None else h.slope, h.intercept) for h in slices if h.intercept is not None})
    units = sorted({header.unit for header in slices} - {"", "HU"})
    notes = []
    borrowed = None
    if lacking and given:
        first = lacking[0]
        text = f"{len(lacking)} of {len(slices)} slices have no RescaleIntercept, the first {root / first.path}"
        if len(given) > 1 or Accept.BORROWED_RESCALING not in accept:
            has = f"the others have slope {given[0][0]:g} and intercept {given[0][1]:g}"
            if len(given) > 1:
                has, way = f"the others have {len(given)} different ones", ""
            else:
                way = f", {remedy(Accept.BORROWED_RESCALING)}"
            raise BadInput(f"{text}; {has}; expected one in every slice: export the series again{way}")
        borrowed = given[0]
        what = "slices that got the rescaling of the other slices"
        notes.append(
            Note(f"{text}: they got slope {borrowed[0]:g}, intercept {borrowed[1]:g}", Kind.GUESSED, len(lacking), what)
        )
    elif lacking:
        text = "the files do not give rescale slope and intercept to HU: stored values are taken as HU"
        notes.append(Note(text, Kind.GUESSED))
    elif any(header.slope is None for header in slices):
        text = "some files give a rescale intercept and no slope: 1 is taken"
        notes.append(Note(text, Kind.GUESSED, sum(header.slope is None for header in slices)))
    if units:
        what = "scans whose RescaleType is not HU"
        text = f"RescaleType is {', '.join(units)} and not HU: the rescaled values are taken as HU"
        notes.append(Note(text, Kind.GUESSED, what=what))
    if inverted := sum(header.inverted for header in slices):
        what = "scans marked MONOCHROME1, whose values are taken as they are stored"
        text = f"{inverted} slices are marked MONOCHROME1, which is about display: their values are taken as stored"
        notes.append(Note(text, Kind.REINTERPRETED, what=what))
    declared = not (units or lacking or any(header.slope is None for header in slices))
    return Rescaling(declared, borrowed, tuple(notes))


def check_continuity(slices: Sequence[Header], volume: np.ndarray, root: Path) -> None:
    """Checks that values do not jump from slice to slice as their intercepts do, so that one of them is wrong.

    Args:
        slices: in order.
        volume: (z, y, x) in HU.
        root: folder of the archive.

    Raises:
        BadInput: the values jump from a slice to the next.
    """
    sparse = volume[:, ::_SPARSE, ::_SPARSE]
    for z, (one, two) in enumerate(zip(slices, slices[1:], strict=False)):
        step = (two.intercept or 0) - (one.intercept or 0)
        if abs(step) < SMALLEST_STEP:
            continue
        jump = float(np.median(sparse[z + 1] - sparse[z]))
        if abs(jump - step) < abs(step) / 4:
            raise BadInput(
                f"{root / two.path}: its values differ by {jump:+.0f} HU from those of the slice before, "
                f"{Path(one.path).name}; RescaleSlope and RescaleIntercept are {_given(two)} instead of {_given(one)}: "
                f"correct the headers, or export the series again"
            )


def _given(header: Header) -> str:
    return f"{header.slope if header.slope is not None else 'none'} and {header.intercept}"


def read_pixels(header: Header, root: Path) -> np.ndarray:
    """One slice (y, x) float32: stored values, rescaled if the file has a slope and an intercept.

    Raises:
        BadInput: the pixels cannot be read, or need more bits than the header gives.
    """
    if header.signed and header.bits < 16:
        check_bits(header, root)
    if header.inverted and (stored := _stored(header, root)) is not None:
        return _rescaled(header, stored)
    pixels = _decoded(header, root)
    if header.inverted:  # a compression that only GDCM can decode
        slope, intercept = _slope_and_intercept(header)
        mirrored = np.rint((pixels.astype(np.float64) - intercept) / slope)
        return _rescaled(header, (-1 if header.signed else 2**header.bits - 1) - mirrored)
    return pixels


def _slope_and_intercept(header: Header) -> tuple[float, float]:
    return 1.0 if header.slope is None else header.slope, header.intercept or 0.0


def _rescaled(header: Header, stored: np.ndarray) -> np.ndarray:
    slope, intercept = _slope_and_intercept(header)
    return (stored * slope + intercept).astype(np.float32)


def _stored(header: Header, root: Path) -> np.ndarray | None:
    """Stored values (y, x) float64; None if pydicom cannot decode them."""
    data = read_dataset(root / header.path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = data.pixel_array
    except Exception:  # pydicom and its plugins raise many types of exception
        return None
    return pixels.astype(np.float64) if pixels.shape == header.size[::-1] else None


def _decoded(header: Header, root: Path) -> np.ndarray:
    """A slice as GDCM reads it, float32, which inverts MONOCHROME1."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileName(openable(root / header.path))
    try:
        pixels = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:  # its text may quote the content of the file
        raise BadInput(
            f"{root / header.path}: the pixels cannot be decoded; the file is truncated or uses an unknown "
            f"compression: copy it again or export it uncompressed"
        ) from error
    if pixels.size != header.size[0] * header.size[1]:
        raise BadInput(
            f"{root / header.path}: the pixels have shape {pixels.shape}; expected {header.size[0]}x{header.size[1]} "
            f"grey values: export the series again"
        )
    return pixels.reshape(header.size[::-1])


def check_bits(header: Header, root: Path) -> None:
    """Checks that the values fit into the bits that the header gives, since the rest would be cut off.

    Bits above those of unsigned values may hold an overlay, as older files have it; then they say nothing.

    Raises:
        BadInput: they do not.
    """
    data = read_dataset(root / header.path)
    if data.file_meta.get("TransferSyntaxUID") not in UNCOMPRESSED or data.get("BitsAllocated") != 16:
        return
    big = data.file_meta.TransferSyntaxUID == UNCOMPRESSED[2]
    content = data.get("PixelData") or b""
    kind = "i2" if header.signed else "u2"
    stored = np.frombuffer(content[: len(content) // 2 * 2], (">" if big else "<") + kind)
    limit = 2 ** (header.bits - 1)
    lowest = -limit if header.signed else 0
    overlays = (data.get((0x6000 + 2 * k, 0x0102)) for k in range(16))  # OverlayBitPosition
    if not header.signed and any(element is not None and element.value for element in overlays):
        return
    if stored.size and (stored.min() < lowest or stored.max() >= 2 * limit):  # the bits above may be 0 or the sign
        raise BadInput(
            f"{root / header.path}: stored values from {stored.min()} to {stored.max()} do not fit into the "
            f"{header.bits} bits {'with' if header.signed else 'without'} a sign that BitsStored and "
            f"PixelRepresentation give; expected a header that fits the pixels: set BitsStored and HighBit to 16 and "
            f"15, or export the series again"
        )
