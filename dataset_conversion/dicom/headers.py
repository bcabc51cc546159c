"""Recognises DICOM files by their content and reads the headers that are needed.

No header that is kept identifies the patient; ``Person`` serves to group files and is dropped then.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import NamedTuple

from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.environment import require

DICOMDIR = "1.2.840.10008.1.3.10"
TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "PixelSpacing",
    "SliceThickness",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "PixelPaddingValue",
    "InstanceNumber",
    "LossyImageCompression",
)
MARKS = {  # what may differ between two series, reconstructions or time points that share a SeriesInstanceUID
    "ConvolutionKernel": 0x00181210,
    "SeriesNumber": 0x00200011,
    "SeriesDescription": 0x0008103E,
    "ImageType": 0x00080008,
    "SliceThickness": 0x00180050,
    "TemporalPositionIdentifier": 0x00200100,
    "NominalPercentageOfCardiacPhase": 0x00209241,
    "ContrastBolusAgent": 0x00180010,
    "AcquisitionNumber": 0x00200012,
    "AcquisitionTime": 0x00080032,
    "ContentTime": 0x00080033,
}
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")


class Person(NamedTuple):
    """What a file says about who the patient is, without spaces around it; ``""`` if missing."""

    patient_id: str = ""
    name: str = ""
    birth_date: str = ""


@dataclass(frozen=True)
class Header:
    """The headers of one DICOM file that a conversion needs.

    Attributes:
        path: relative to the root folder of the archive, separated by ``/``.
        modality: ``CT``, ``RTSTRUCT``, ``SEG``, …; ``""`` if the file cannot be read.
        uid, series, frame: UIDs of the SOP instance, the series and the frame of reference; ``""`` if missing.
        size: number of columns and of rows.
        spacing: mm between columns and between rows.
        position: centre of the first pixel, mm (LPS); None if the file has no position in the patient.
        orientation: direction cosines along a row and along a column.
        thickness: of the slice, mm; 0 if not given.
        localizer: whether ImageType marks the file as a localizer (scout).
        frames: number of images in the file.
        bits: BitsStored, with ``signed`` whether stored values have a sign.
        inverted: whether the lowest value is meant to be shown white (MONOCHROME1), which does not change HU.
        table: whether stored values are mapped by a table (Modality LUT Sequence) and not by slope and intercept.
        slope, intercept: of the linear map from stored values to HU; None if not given.
        unit: RescaleType; ``""`` if not given.
        padding: stored value of pixels outside the field of view; None if not given.
        number: InstanceNumber; None if not given.
        lossy: whether the pixels were compressed with loss.
        marks: a short hash of each of ``MARKS``, since descriptions may hold names; ``""`` if not given.
        series_uid: SeriesInstanceUID in the file, if it does not tell the series, so that ``series`` differs from it.
        left_out: why a file that was compared with the others is not used, such as ``identical to another file``.
        problem: one line that says why the file cannot be used, or ``""``.
    """

    path: str
    modality: str = ""
    uid: str = ""
    series: str = ""
    frame: str = ""
    size: tuple[int, int] = (0, 0)
    spacing: tuple[float, float] = (0.0, 0.0)
    position: tuple[float, float, float] | None = None
    orientation: tuple[float, ...] = ()
    thickness: float = 0.0
    localizer: bool = False
    frames: int = 1
    bits: int = 16
    signed: bool = False
    inverted: bool = False
    table: bool = False
    slope: float | None = None
    intercept: float | None = None
    unit: str = ""
    padding: int | None = None
    number: int | None = None
    lossy: bool = False
    marks: tuple[str, ...] = ()
    series_uid: str = ""
    left_out: str = ""
    problem: str = ""

    @property
    def folder(self) -> str:
        """Folder of the file relative to the root, ``.`` for the root itself."""
        return str(PurePosixPath(self.path).parent)


def library(name: str) -> ModuleType:
    """Imports pydicom, which is installed with the extra ``convert``.

    Raises:
        BadInput: the library is not installed.
    """
    return require(name, extra="convert", why="reading DICOM files")


def has_signature(path: Path) -> bool:
    """Whether a file has the DICOM signature at byte 128."""
    return _start(path)[128:] == b"DICM"


def looks_like_dicom(path: Path) -> bool:
    """Whether a file has the DICOM signature or, without a preamble, starts with two elements of a DICOM header.

    Raises:
        BadInput: the file cannot be opened, so that a slice may be missing.
    """
    start = _start(path)
    return start[128:] == b"DICM" or (len(start) == 132 and any(_starts_header(start, end) for end in "<>"))


def is_packed_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file that was compressed with gzip, such as ``IM0001.dcm.gz``."""
    if not path.name.lower().endswith(".gz"):
        return False
    try:
        with gzip.open(path) as file:
            return file.read(132)[128:] == b"DICM"
    except (OSError, EOFError, zlib.error):
        return False


def _starts_header(start: bytes, end: str) -> bool:
    """Whether bytes begin with an element of group 2 or 8 that another element follows; ``end`` is the byte order."""
    group, element, short = struct.unpack(f"{end}HH2xH", start[:8])
    if group not in (2, 8) or element > 0xFF:
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    length = short if explicit else struct.unpack(f"{end}I", start[4:8])[0]
    if length % 2 or length > 2**16:
        return False
    following = start[8 + length : 12 + length]
    if len(following) < 4:  # beyond what was read
        return True
    return (group, element) < struct.unpack(f"{end}HH", following) < (group + 1, 0)


def _start(path: Path) -> bytes:
    """The first 132 bytes (preamble and signature); fewer if the file is shorter.

    Raises:
        BadInput: the file cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            return file.read(132)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be opened ({os.strerror(error.errno or 0)}); make the file readable, or move it out of "
            f"the archive"
        ) from error


def read_dataset(path: Path, **options):
    """``pydicom.dcmread`` without its warnings, which may quote data of the patient.

    Raises:
        BadInput: the file cannot be read.
    """
    pydicom = library("pydicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(path, force=True, **options)
        except Exception as error:  # damaged files make pydicom raise many types of exception
            raise BadInput(
                f"{path} cannot be read as DICOM ({type(error).__name__}); copy it again or remove it"
            ) from error


def read_header(path: Path, root: Path) -> tuple[Person, Header] | None:
    """Person and header of one file; None for a DICOMDIR and for files that are not DICOM after all."""
    name = path.relative_to(root).as_posix()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = read_dataset(path, stop_before_pixels=True, specific_tags=[*TAGS, *MARKS.values()])
            if DICOMDIR in (data.file_meta.get("MediaStorageSOPClassUID"), data.get("SOPClassUID")):
                return None
            if data.get("SOPClassUID") and data.get("Modality"):
                tags = ("PatientID", "PatientName", "PatientBirthDate")
                return Person(*(str(data.get(tag) or "").strip() for tag in tags)), _header(name, path, data)
        problem = f"{path} has an incomplete DICOM header (no SOP class or modality); copy it again or remove it"
    except BadInput as error:
        problem = str(error)
    except Exception as error:  # damaged values make pydicom raise many types of exception when they are looked at
        problem = f"{path} has a damaged DICOM header ({type(error).__name__}); copy it again or remove it"
    return (Person(), Header(name, problem=problem)) if has_signature(path) else None


def _header(name: str, path: Path, data) -> Header:
    def numbers(tag: str, count: int) -> tuple[float, ...] | None:
        value = data.get(tag)
        values = tuple(float(v) for v in value) if isinstance(value, Sequence) and len(value) == count else ()
        return values if values and all(map(math.isfinite, values)) else None

    def number(tag: str) -> float | None:
        value = data.get(tag)
        if value is None or value == "":
            return None
        if not math.isfinite(float(value)):
            raise ValueError(f"{tag} is not finite")
        return float(value)

    def integer(tag: str) -> int | None:
        value = data.get(tag)
        return None if value is None or value == "" else int(value)

    size = (integer("Columns") or 0, integer("Rows") or 0)
    spacing, position = numbers("PixelSpacing", 2), numbers("ImagePositionPatient", 3)
    needed = size[0] * size[1] * ((integer("BitsAllocated") or 0) // 8) * (integer("SamplesPerPixel") or 1)
    problem = ""
    if data.file_meta.get("TransferSyntaxUID") in UNCOMPRESSED and path.stat().st_size < needed:
        problem = (
            f"{path} is truncated: it has {path.stat().st_size} bytes, but {size[0]} x {size[1]} pixels need {needed}; "
            f"copy it again"
        )
    return Header(
        path=name,
        modality=str(data.Modality),
        uid=str(data.get("SOPInstanceUID") or ""),
        series=str(data.get("SeriesInstanceUID") or ""),
        frame=str(data.get("FrameOfReferenceUID") or ""),
        size=size,
        spacing=(spacing[1], spacing[0]) if spacing else (0.0, 0.0),
        position=(position[0], position[1], position[2]) if position else None,
        orientation=numbers("ImageOrientationPatient", 6) or (),
        thickness=number("SliceThickness") or 0.0,
        localizer="LOCALIZER" in (data.get("ImageType") or ()),
        frames=integer("NumberOfFrames") or 1,
        bits=integer("BitsStored") or integer("BitsAllocated") or 16,
        signed=integer("PixelRepresentation") == 1,
        inverted=str(data.get("PhotometricInterpretation") or "").strip() == "MONOCHROME1",
        table=bool(data.get("ModalityLUTSequence")),
        slope=number("RescaleSlope"),
        intercept=number("RescaleIntercept"),
        unit=str(data.get("RescaleType") or ""),
        padding=integer("PixelPaddingValue"),
        number=integer("InstanceNumber"),
        lossy=str(data.get("LossyImageCompression") or "") == "01",
        marks=tuple(_short_hash(data.get_item(tag)) for tag in MARKS.values()),
        problem=problem,
    )


def _short_hash(element) -> str:
    """A hash of an element's value in the file; ``""`` if it is missing or empty."""
    value = getattr(element, "value", None)
    content = value if isinstance(value, bytes) else str(value or "").encode("utf-8", "surrogateescape")
    return hashlib.sha256(content.strip()).hexdigest()[:12] if content.strip() else ""
