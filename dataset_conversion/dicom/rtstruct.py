"""Reads the regions of an RTSTRUCT and their contours.

DICOM PS3.3 C.8.8.5 and C.8.8.6 describe them: polygons in patient coordinates (mm), each in one plane. What holds no
contour is counted and left out; a contour whose points are damaged is a fault of its region, not of the whole file.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset_conversion.dicom.headers import read_dataset
from nnunet_difflung.dataset_conversion.dicom.truncation import is_cut_off
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.wording import counted

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")  # as DICOM spells it, or nearly
OPEN = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR", "OPENPLANAR", "OPENNONPLANAR")
CONTOUR_DATA = 0x30060050
DEFLATED = "1.2.840.10008.1.2.1.99"
FAR = 1e5  # mm; no patient is that large
FLAT = 1e-4  # mm; points that spread less than this across a line enclose nothing


@dataclass(frozen=True)
class Contour:
    """A closed contour.

    Attributes:
        points: (n, 3) in mm (LPS).
        image: UID of the SOP instance that it was drawn on; ``""`` if none or several are given.
        xor: whether what several contours of a plane cover twice is outside, however they overlap.
    """

    points: np.ndarray
    image: str = ""
    xor: bool = False


@dataclass(frozen=True)
class Roi:
    """A region of interest.

    Attributes:
        name: of the region, without surrounding spaces.
        frame: UID of the frame of reference; ``""`` if not given.
        contours: the closed contours.
        images: UIDs of all SOP instances that the closed contours were drawn on.
        notes: on its contours.
        fault: why its contours cannot be used, one line; ``""`` if they can.
    """

    name: str
    frame: str
    contours: tuple[Contour, ...]
    images: frozenset[str] = frozenset()
    notes: tuple[Note, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class StructureSet:
    """The content of an RTSTRUCT.

    Attributes:
        series: UIDs of the series that the structures were drawn on.
        rois: all regions, including those without contours.
        notes: on what belongs to no region.
    """

    series: frozenset[str]
    rois: tuple[Roi, ...]
    notes: tuple[Note, ...] = ()


def read_rtstruct(path: Path) -> StructureSet:
    """Reads all regions, including those without contours.

    Raises:
        BadInput: the file cannot be read or is cut off.
    """
    data = read_dataset(path)
    try:
        deflated = data.file_meta.get("TransferSyntaxUID") == DEFLATED
        if not deflated and is_cut_off(path, *data.original_encoding):
            raise BadInput(f"{path}: the file ends in the middle of an element; copy or export it again")
        with warnings.catch_warnings():  # of pydicom, when it looks at a value; they may quote data of the patient
            warnings.simplefilter("ignore")
            return _structure_set(data, path)
    except BadInput:
        raise
    except (AttributeError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, OSError) as error:
        raise BadInput(
            f"{path}: the structures cannot be read ({type(error).__name__}); expected an RTSTRUCT: export it again, "
            f"or remove it"
        ) from error


def _structure_set(data, path: Path) -> StructureSet:
    frames = [str(f.get("FrameOfReferenceUID") or "") for f in data.get("ReferencedFrameOfReferenceSequence") or ()]
    defined = list(data.get("StructureSetROISequence") or ())
    numbers = [_whole(item.get("ROINumber")) for item in defined]
    labels = {
        _whole(item.get("ReferencedROINumber")): item.get("ROIObservationLabel")
        for item in data.get("RTROIObservationsSequence") or ()
    }
    drawn: dict[int | None, list] = {}
    for item in data.get("ROIContourSequence") or ():
        drawn.setdefault(_whole(item.get("ReferencedROINumber")), []).extend(item.get("ContourSequence") or ())
    rois: dict[tuple[int | None, str], Roi] = {}
    for number, item in zip(numbers, defined, strict=True):
        name = plain_text(item.get("ROIName")) or plain_text(labels.get(number)) or f"ROI {number}"
        names = {plain_text(i.get("ROIName")) for i, n in zip(defined, numbers, strict=True) if n == number}
        frame = str(item.get("ReferencedFrameOfReferenceUID") or (frames[0] if len(frames) == 1 else ""))
        contours = () if number is None else drawn.get(number, ())
        if contours and len(names) > 1:
            fault = (
                f"{path}: {len(names)} structures, {name!r} among them, have the ROINumber {number}; expected a number "
                f"for each, since the file does not tell which contours belong to which structure: export it again"
            )
            rois[number, name] = Roi(name, frame, (), fault=fault)
        else:  # the same name and number again is the same region
            rois[number, name] = _roi(name, frame, contours, path)
    orphans = sum(len(items) for number, items in drawn.items() if number is None or number not in numbers)
    text = f"{path.name}: left out {counted(orphans, 'contour')} of a structure that the file does not define"
    notes = [Note(text, Kind.DROPPED, orphans, "contours of structures that the file does not define")]
    return StructureSet(_referenced_series(data), tuple(rois.values()), tuple(notes * bool(orphans)))


def _referenced_series(data) -> frozenset[str]:
    return frozenset(
        str(series.SeriesInstanceUID)
        for frame in data.get("ReferencedFrameOfReferenceSequence") or ()
        for study in frame.get("RTReferencedStudySequence") or ()
        for series in study.get("RTReferencedSeriesSequence") or ()
        if series.get("SeriesInstanceUID")
    )


@dataclass
class _Contents:
    """What was read of a region's contour items."""

    contours: list[Contour] = field(default_factory=list)
    images: set[str] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)
    guessed: int = 0
    commas: int = 0


def _roi(name: str, frame: str, items: Iterable, path: Path) -> Roi:
    read = _Contents()
    for position, item in enumerate(items, start=1):
        try:
            _read_contour(item, read)
        except (ValueError, TypeError, AttributeError) as error:
            fault = (
                f"{path}: contour {position} of {name!r} is damaged: {error}; expected x\\y\\z of each point in mm: "
                f"export the structures again"
            )
            return Roi(name, frame, (), fault=fault)
    notes = [
        Note(f"{name}: {counted(number, 'contour')} {what}", Kind.DROPPED, number, f"contours {what}")
        for what, number in sorted(read.dropped.items())
    ]
    if read.guessed:
        what = "without ContourGeometricType, taken as closed"
        notes.append(
            Note(
                f"{name}: {counted(read.guessed, 'contour')} {what}",
                Kind.GUESSED,
                read.guessed,
                f"contours {what}",
            )
        )
    if read.commas:
        what = "with decimal commas, read as decimal points"
        text = f"{name}: {counted(read.commas, 'contour')} {what}"
        notes.append(Note(text, Kind.REINTERPRETED, read.commas, f"contours {what}"))
    return Roi(name, frame, tuple(read.contours), frozenset(read.images), tuple(notes))


def _read_contour(item, read: _Contents) -> None:
    """Reads a contour item.

    Raises:
        ValueError: its points are damaged; the message says how.
    """
    kind = plain_text(item.get("ContourGeometricType")).upper().replace(" ", "_")
    if kind and kind not in (*CLOSED, *OPEN):
        raise ValueError(f"its ContourGeometricType is {kind!r}, which DICOM does not know")
    if kind in OPEN:
        read.dropped[f"of type {kind} ignored"] += 1
        return
    text = _raw_text(item, CONTOUR_DATA)
    if not text:
        read.dropped["without points ignored"] += 1
        return
    points = _points(text)
    stated = _whole(item.get("NumberOfContourPoints"))
    if stated is not None and stated > len(points):
        raise ValueError(f"it has {len(points)} of {stated} points")
    if len(np.unique(points, axis=0)) < 3:
        read.dropped["closed with fewer than 3 points ignored"] += 1
        return
    if np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[1] < FLAT:
        read.dropped["whose points lie in a straight line ignored"] += 1
        return
    images = [str(i.get("ReferencedSOPInstanceUID") or "") for i in item.get("ContourImageSequence") or ()]
    read.contours.append(Contour(points, images[0] if len(images) == 1 else "", kind.endswith("XOR")))
    read.images |= set(images) - {""}
    read.guessed += not kind
    read.commas += "," in text


def _points(text: str) -> np.ndarray:
    """Points (n, 3) of the text of ContourData.

    Raises:
        ValueError: it holds something else than finite numbers, or not three for each point.
    """
    if "," in text and "." not in text:  # of a system that writes decimal commas
        text = text.replace(",", ".")
    try:
        values = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        raise ValueError("ContourData holds something that is not a number") from None
    if "_" in text or not np.isfinite(values).all():
        raise ValueError("ContourData holds something that is not a finite number")
    if np.abs(values).max() > FAR:
        raise ValueError(f"ContourData holds a coordinate of {np.abs(values).max():.3g} mm")
    if len(values) % 3:
        raise ValueError(f"ContourData holds {len(values)} numbers, which is not a multiple of 3")
    return values.reshape(-1, 3)


def _raw_text(item, tag: int) -> str:
    """The text of an element as it stands in the file: pydicom refuses a whole value for one odd number in it."""
    if tag not in item:
        return ""
    value = item.get_item(tag).value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    elif value is not None and not isinstance(value, str):
        value = "\\".join(str(v) for v in (value if hasattr(value, "__iter__") else [value]))
    return (value or "").strip("\0 \\")


def plain_text(value) -> str:
    """A name in one spelling: composed characters, single spaces."""
    if value is None:
        return ""
    text = (
        value
        if isinstance(value, str)
        else "\\".join(str(v) for v in value)
        if hasattr(value, "__iter__")
        else str(value)
    )
    return " ".join(unicodedata.normalize("NFC", text).replace("\0", " ").split())


def _whole(value) -> int | None:
    """A whole number; None if there is none."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
