"""Reads the segments of a DICOM-SEG file as masks, with highdicom."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.dicom.headers import library, read_dataset
from nnunet_difflung.dataset_conversion.imaging.geometry import image_like, index_to_physical, to_index
from nnunet_difflung.errors import BadInput

IN_PLANE, ALONG = 0.05, 0.1  # largest distance, in voxels, of a frame from the pixels and slices of the image


@dataclass(frozen=True)
class SegFile:
    """An opened DICOM-SEG file.

    Attributes:
        path: of the file, for messages.
        data: highdicom's ``Segmentation``.
        names: segment number → SegmentLabel without surrounding spaces.
        frame: UID of the frame of reference; ``""`` if not given.
        series: UIDs of the series that were segmented.
    """

    path: Path
    data: Any
    names: dict[int, str]
    frame: str
    series: frozenset[str]


def open_seg(path: Path) -> SegFile:
    """Opens a DICOM-SEG file; its frames are unpacked later.

    Raises:
        BadInput: the file cannot be read as DICOM-SEG.
    """
    highdicom = library("highdicom")
    data = read_dataset(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = highdicom.seg.Segmentation.from_dataset(data, copy=False)
        names = {
            int(segment.SegmentNumber): str(segment.get("SegmentLabel") or f"segment {segment.SegmentNumber}").strip()
            for segment in data.SegmentSequence
        }
        series = frozenset(str(item.SeriesInstanceUID) for item in data.get("ReferencedSeriesSequence") or ())
        return SegFile(path, data, names, str(data.get("FrameOfReferenceUID") or ""), series)
    except Exception as error:  # damaged files make highdicom raise many types of exception
        raise _unreadable(path, error) from error


def segment_masks(seg: SegFile, image: sitk.Image) -> Iterator[tuple[str, sitk.Image]]:
    """Reads every segment with its position in the patient.

    Frames that lie on the pixels and slices of the image are written to its grid one by one; they may be in any order
    and on any slices. Other frames become a volume with its own grid. Fractional segments are set from one half on.

    Args:
        seg: of binary or fractional segments, or a label map.
        image: the CT, which may be oblique or sheared.

    Yields:
        the name of the segment and its mask, a uint8 image of 0 and 1.

    Raises:
        BadInput: frames are damaged, lie on slices that the CT does not have, or are not evenly spaced.
    """
    try:
        frames = _planes(seg, image)
    except Exception as error:
        raise _unreadable(seg.path, error) from error
    for number, name in seg.names.items():
        yield name, (_own_volume(seg, number) if frames is None else _placed(seg, number, frames, image))


def _planes(seg: SegFile, image: sitk.Image) -> list[tuple[int, int | None]] | None:
    """Slice and segment number (None in a label map) of every frame; None if a frame is not on the image's pixels."""
    data, steps = seg.data, index_to_physical(image)
    if (data.Columns, data.Rows) != image.GetSize()[:2]:
        return None
    shared, frames = data.SharedFunctionalGroupsSequence[0], []
    for groups in data.PerFrameFunctionalGroupsSequence:

        def macro(name, groups=groups):
            return (groups.get(name) or shared.get(name))[0]

        axes = np.reshape(macro("PlaneOrientationSequence").ImageOrientationPatient, (2, 3)).astype(float)
        spacing = np.array(macro("PixelMeasuresSequence").PixelSpacing, float)[::-1]
        place = np.array(macro("PlanePositionSequence").ImagePositionPatient, float)
        far = place + (axes * spacing[:, None] * [[data.Columns - 1], [data.Rows - 1]]).sum(axis=0)
        first, last = to_index(image, np.stack([place, far]))
        z = round(float(first[2]))
        off = np.abs([*first[:2], *(last[:2] - [data.Columns - 1, data.Rows - 1])])
        turned = np.abs(axes * spacing[:, None] - steps[:, :2].T).max() > IN_PLANE * spacing.min()
        if turned or off.max() > IN_PLANE or abs(first[2] - z) > ALONG or abs(last[2] - z) > ALONG:
            return None
        segment = groups.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        frames.append((z, int(segment[0].ReferencedSegmentNumber) if segment else None))
    return frames


def _placed(seg: SegFile, number: int, frames: list[tuple[int, int | None]], image: sitk.Image) -> sitk.Image:
    mask, outside = np.zeros(image.GetSize()[::-1], np.uint8), 0
    for index, (z, segment) in enumerate(frames):
        if segment not in (None, number):
            continue
        try:
            stored = seg.data.get_stored_frame(index, as_index=True)
        except Exception as error:
            raise _unreadable(seg.path, error) from error
        half = seg.data.MaximumFractionalValue / 2 if seg.data.SegmentationType == "FRACTIONAL" else 1
        inside = (stored == number) if segment is None else (stored >= half)
        if 0 <= z < len(mask):
            mask[z] |= inside
        else:
            outside += bool(inside.any())
    if outside:
        raise BadInput(
            f"{seg.path}: {outside} {'slice' if outside == 1 else 'slices'} of {seg.names[number]!r} "
            f"{'lies' if outside == 1 else 'lie'} above or below the CT series, which has {len(mask)} slices; "
            f"add the missing slices or the series that was segmented"
        )
    return image_like(mask, image)


def _own_volume(seg: SegFile, number: int) -> sitk.Image:
    try:
        volume = seg.data.get_volume(segment_numbers=[number], rescale_fractional=True)
    except Exception as error:
        raise BadInput(
            f"{seg.path}: the frames neither match the pixels of the CT series nor are they evenly spaced "
            f"({type(error).__name__}); export the segmentation on the grid of the CT series"
        ) from error
    array = volume.array[..., 0] if volume.array.ndim == 4 else volume.array
    result = sitk.GetImageFromArray((array >= 0.5).astype(np.uint8))
    axes = volume.affine[:3, 2::-1]  # the columns are the steps along x, y and z
    spacing = np.linalg.norm(axes, axis=0)
    result.SetOrigin(volume.affine[:3, 3].tolist())
    result.SetSpacing(spacing.tolist())
    result.SetDirection((axes / spacing).ravel().tolist())
    return result


def _unreadable(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path} cannot be read as DICOM-SEG ({type(error).__name__}); copy or export it again")
