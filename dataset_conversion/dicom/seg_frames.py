"""Opens DICOM-SEG files: their segments, and the place and the pixels of each frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_difflung.dataset_conversion.dicom.headers import library, read_dataset
from nnunet_difflung.dataset_conversion.dicom.rtstruct import DEFLATED, plain_text
from nnunet_difflung.dataset_conversion.dicom.truncation import is_cut_off
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput

UNIT = 1e-2  # largest deviation of directions from perpendicular unit vectors
FAR = 1e5  # mm; no patient is that large
FULL = 255  # usual MaximumFractionalValue
ENCODED_BITS = 1  # BitsAllocated of binary segments, whose pixels are packed without a gap between frames


@dataclass(frozen=True)
class SegFile:
    """An opened DICOM-SEG file.

    Attributes:
        path: of the file, for messages.
        data: the data set.
        names: segment number → SegmentLabel or, if it is missing, the meaning of the segment's code.
        frame: UID of the frame of reference; ``""`` if not given.
        series: UIDs of the series that were segmented.
    """

    path: Path
    data: Any
    names: dict[int, str]
    frame: str
    series: frozenset[str]

    @property
    def kind(self) -> str:
        """``BINARY``, ``FRACTIONAL`` or ``LABELMAP``."""
        stated = plain_text(self.data.get("SegmentationType")).upper()
        if self.data.get("BitsAllocated") == ENCODED_BITS:
            return "BINARY"
        return stated or "FRACTIONAL"


@dataclass(frozen=True)
class Frame:
    """A frame and its place.

    Attributes:
        index: in the file, from 0.
        segment: number of its segment; None in a label map.
        corner: centre of the first pixel, mm (LPS).
        steps: vectors (2, 3) along a row and along a column, from pixel to pixel, mm.
        distance: of the slices, mm: SpacingBetweenSlices, else None.
        thickness: SliceThickness, mm, else None.
    """

    index: int
    segment: int | None
    corner: np.ndarray
    steps: np.ndarray
    distance: float | None
    thickness: float | None


def open_seg(path: Path) -> SegFile:
    """Opens a DICOM-SEG file; its frames are unpacked later.

    Raises:
        BadInput: the file cannot be read as DICOM-SEG.
    """
    data = read_dataset(path)
    try:
        deflated = data.file_meta.get("TransferSyntaxUID") == DEFLATED
        if not deflated and is_cut_off(path, *data.original_encoding):
            raise BadInput(f"{path}: the file ends in the middle of an element; copy or export it again")
        if not data.get("PixelData") or not data.get("SegmentSequence"):
            what = "segments" if data.get("PixelData") else "pixels"
            raise BadInput(
                f"{path} is of modality SEG, but has no {what}; expected a Segmentation with voxels, not surfaces: "
                f"export it as voxels, or remove the file"
            )
        _check_pixels(data, path)
        series = frozenset(
            str(item.SeriesInstanceUID)
            for item in data.get("ReferencedSeriesSequence") or ()
            if item.get("SeriesInstanceUID")
        )
        return SegFile(path, data, _names(data, path), str(data.get("FrameOfReferenceUID") or ""), series)
    except Exception as error:  # damaged files make pydicom raise many types of exception
        raise unreadable(path, error) from error


def _check_pixels(data, path: Path) -> None:
    """Raises BadInput if uncompressed pixels are fewer or more than the frames need."""
    if data.file_meta.TransferSyntaxUID.is_compressed:
        return
    frames = int(data.get("NumberOfFrames") or len(data.get("PerFrameFunctionalGroupsSequence") or ()))
    needed = (frames * int(data.Rows) * int(data.Columns) * int(data.BitsAllocated) + 7) // 8
    if not needed <= len(data.PixelData) <= needed + 1:
        raise BadInput(
            f"{path}: {frames} frames of {data.Columns} x {data.Rows} pixels need {needed} bytes, but there are "
            f"{len(data.PixelData)}; copy or export it again"
        )


def _names(data, path: Path) -> dict[int, str]:
    """Segment number → name, without the background of a label map.

    Raises:
        BadInput: two segments have the same number.
    """
    items = {int(item.SegmentNumber): item for item in data.SegmentSequence}
    if len(items) < len(data.SegmentSequence):
        raise BadInput(f"{path}: several segments have the same SegmentNumber; export the segmentation again")
    names = {number: plain_text(item.get("SegmentLabel")) for number, item in items.items() if number != 0}
    meanings = {number: _meaning(items[number]) for number, name in names.items() if not name}
    for number, meaning in meanings.items():
        unique = meaning and list(meanings.values()).count(meaning) == 1 and meaning not in names.values()
        names[number] = meaning if unique else f"{meaning or 'segment'} {number}"
    return names


def _meaning(item) -> str:
    """The meaning of a segment's code with its modifiers, such as ``Lung Left``; ``""`` if it has none."""
    codes = item.get("SegmentedPropertyTypeCodeSequence") or ()
    modifiers = [m for code in codes for m in code.get("SegmentedPropertyTypeModifierCodeSequence") or ()]
    return plain_text(" ".join(plain_text(code.get("CodeMeaning")) for code in [*codes, *modifiers]))


def frames_of(seg: SegFile) -> list[Frame]:
    """The frames of a file, at least one.

    Raises:
        BadInput: a frame does not say where it lies or which segment it shows.
    """
    groups = seg.data.get("PerFrameFunctionalGroupsSequence") or ()
    stated = int(seg.data.get("NumberOfFrames") or len(groups))
    if len(groups) != stated or not groups:
        raise BadInput(
            f"{seg.path}: {stated} frames, but positions of {len(groups)}; expected a position for "
            f"each: export the segmentation again"
        )
    try:
        return [_frame(seg, index, group) for index, group in enumerate(groups)]
    except Exception as error:  # damaged values make pydicom raise many types of exception
        raise unreadable(seg.path, error) from error


def _frame(seg: SegFile, index: int, group) -> Frame:
    shared = (seg.data.get("SharedFunctionalGroupsSequence") or [{}])[0]

    def macro(name: str):
        sequence = group.get(name) or shared.get(name)
        if not sequence:
            raise BadInput(
                f"{seg.path}: frame {index + 1} has no {name}; expected the place, orientation, pixel size and "
                f"segment of each frame: export the segmentation again"
            )
        return sequence[0]

    axes = np.reshape(macro("PlaneOrientationSequence").ImageOrientationPatient, (2, 3)).astype(float)
    measures = macro("PixelMeasuresSequence")
    spacing = np.reshape(measures.PixelSpacing, 2).astype(float)[::-1]
    corner = np.reshape(macro("PlanePositionSequence").ImagePositionPatient, 3).astype(float)
    unit = np.abs(axes @ axes.T - np.eye(2)).max() < UNIT
    if not (unit and (np.abs(corner) < FAR).all() and (spacing > 0).all() and (spacing < FAR).all()):
        raise BadInput(f"{seg.path}: the position of frame {index + 1} is damaged; export the segmentation again")
    segment: int | None = None
    if seg.kind != "LABELMAP":
        only = len(seg.names) == 1 and "SegmentIdentificationSequence" not in group
        segment = next(iter(seg.names)) if only else None
        if segment is None:
            segment = int(macro("SegmentIdentificationSequence").ReferencedSegmentNumber)
    distance, thickness = (abs(float(measures.get(n) or 0)) for n in ("SpacingBetweenSlices", "SliceThickness"))
    return Frame(index, segment, corner, axes * spacing[:, None], distance or None, thickness or None)


def stored(seg: SegFile, frame: Frame) -> np.ndarray:
    """The stored values (y, x) of a frame.

    Raises:
        BadInput: it cannot be unpacked.
    """
    try:
        return _unpacked(seg.data, frame.index)
    except Exception as error:
        raise unreadable(seg.path, error) from error


def inside(seg: SegFile, number: int, frame: Frame, counts: Counter[str]) -> np.ndarray:
    """The pixels (y, x) of a segment in a frame.

    Raises:
        BadInput: the frame cannot be unpacked, or has other values than its kind of segmentation allows.
    """
    values = stored(seg, frame)
    if seg.kind == "LABELMAP":
        return values == number
    if seg.kind == "FRACTIONAL":
        highest = int(seg.data.get("MaximumFractionalValue") or FULL)
        if values.max() > highest:
            raise BadInput(
                f"{seg.path}: frame {frame.index + 1} has the value {values.max()}, but MaximumFractionalValue is "
                f"{highest}; export the segmentation again"
            )
        counts["partial"] += int(((values > 0) & (values < highest)).sum())
        return values >= highest / 2
    if seg.data.BitsAllocated != ENCODED_BITS and len(np.unique(values[values > 0])) > 1:
        raise BadInput(
            f"{seg.path}: frame {frame.index + 1} has several values, but the segmentation is said to be binary; "
            f"export it again"
        )
    return values > 0


def unnamed(seg: SegFile, frames: Sequence[Frame]) -> tuple[Note, ...]:
    """A note on what belongs to segments that the file does not define.

    Raises:
        BadInput: a frame of a label map cannot be unpacked.
    """
    if seg.kind == "LABELMAP":
        known = [0, *seg.names, *([padding] if (padding := seg.data.get("PixelPaddingValue")) is not None else [])]
        number = sum(int((~np.isin(stored(seg, frame), known)).sum()) for frame in frames)
        things = "voxels" if number != 1 else "voxel"
    else:
        number = sum(frame.segment not in seg.names for frame in frames)
        things = "frames" if number != 1 else "frame"
    text = f"{seg.path.name}: left out {number} {things} of segments that the file does not define"
    what = f"{things.removesuffix('s')}s of segments that the file does not define"
    return (Note(text, Kind.DROPPED, number, what),) * bool(number)


def _unpacked(data, index: int) -> np.ndarray:
    """The stored values (y, x) of a frame by its index."""
    size = int(data.Rows) * int(data.Columns)
    if data.BitsAllocated == ENCODED_BITS and not data.file_meta.TransferSyntaxUID.is_compressed:
        first, last = index * size, (index + 1) * size
        bits = np.frombuffer(data.PixelData, np.uint8, (last + 7) // 8 - first // 8, first // 8)
        return np.unpackbits(bits, bitorder="little")[first % 8 :][:size].reshape(data.Rows, data.Columns)
    pixels = library("pydicom").pixels.pixel_array(data, index=index)
    return pixels.reshape(data.Rows, data.Columns)


def unreadable(path: Path, error: Exception) -> BadInput:
    """The error to raise for a file that cannot be read; a BadInput stays as it is."""
    if isinstance(error, BadInput):
        return error
    return BadInput(f"{path} cannot be read as DICOM-SEG ({type(error).__name__}); copy or export it again")
