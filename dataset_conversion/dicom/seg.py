"""Reads the segments of a DICOM-SEG file as masks.

Every frame holds a slice of one segment, or of all segments in a label map, with its position in the patient. The
order of the frames and the images that they refer to do not matter: what is empty may be left out, and references are
often lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.dicom.planes import DENSE, ON_SLICE, assign
from nnunet_difflung.dataset_conversion.dicom.seg_frames import FULL, Frame, SegFile, frames_of, inside, unnamed
from nnunet_difflung.dataset_conversion.imaging.geometry import image_like, index_to_physical, to_index
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput

IN_PLANE = 0.05  # largest distance, in pixels, of a frame's corners from the pixels of the image
MOST = 10_000  # slices of a volume; more than that is a damaged position
ALONG = 0.1  # largest distance, in slices of their own, of frames from even steps


def segment_masks(
    seg: SegFile, image: sitk.Image, other_series: bool = False
) -> Iterator[tuple[str, sitk.Image, tuple[Note, ...]]]:
    """Reads every segment with its position in the patient.

    Frames on the pixels of the image go to its slices as planes of contours do (``planes.assign``); they may be in any
    order and on any slices. Other frames become a volume with its own grid. Fractional segments are set from one half
    on.

    Args:
        seg: of binary or fractional segments, or a label map.
        image: the CT, which may be oblique or sheared.
        other_series: whether the file does not name this series, so that slices between its frames may belong to them.

    Yields:
        the name of the segment, its mask, a uint8 image of 0 and 1, and notes for the report.

    Raises:
        BadInput: frames are damaged, lie on slices that the CT does not have, or are not evenly spaced.
    """
    frames = frames_of(seg)
    file_notes = unnamed(seg, frames)
    heights = _heights(seg, frames, image)
    pitch = _pitch(seg, frames, heights, image) if heights is not None and other_series else None
    dense = heights is not None and bool((np.diff(_levels(heights)) < DENSE).any())
    for number, name in seg.names.items():
        own = [frame for frame in frames if frame.segment in (None, number)]
        notes: list[Note] = []
        if heights is None or dense:
            mask = _own_volume(seg, number, own, frames, image, notes)
        else:
            mask = _placed(seg, number, own, heights, pitch, image, notes)
        yield name, mask, (*file_notes, *notes)
        file_notes = ()


def _heights(seg: SegFile, frames: Sequence[Frame], image: sitk.Image) -> Mapping[int, float] | None:
    """Frame → height in slices of the image; None if a frame does not lie on the image's pixels."""
    size = (int(seg.data.Columns), int(seg.data.Rows))
    if size != image.GetSize()[:2]:
        return None
    steps = index_to_physical(image)
    heights: dict[int, float] = {}
    last = np.array(size) - 1
    for frame in frames:
        ends = np.stack([frame.corner, frame.corner + last @ frame.steps])
        first_index, last_index = to_index(image, ends)
        off = np.abs([*first_index[:2], *(last_index[:2] - last)])
        spacing = np.linalg.norm(frame.steps, axis=1).min()
        turned = np.abs(frame.steps - steps[:, :2].T).max() > IN_PLANE * spacing
        if turned or off.max() > IN_PLANE or abs(last_index[2] - first_index[2]) > ALONG:
            return None
        height = float(first_index[2] + last_index[2]) / 2
        heights[frame.index] = float(np.rint(height)) if abs(height - np.rint(height)) <= ALONG else height
    return heights


def _pitch(seg: SegFile, frames: Sequence[Frame], heights: Mapping[int, float], image: sitk.Image) -> float | None:
    """The distance of the slices of another series, in slices of the image; None if nothing tells."""
    gaps = np.diff(_levels(heights))
    stated = frames[0].distance or frames[0].thickness
    pitch = stated / image.GetSpacing()[2] if stated else None
    if not len(gaps):
        return pitch
    closest = float(gaps.min())
    if seg.series:  # of a series that is missing; frames are left out where they are empty
        return pitch if pitch is not None and pitch < closest else closest
    return pitch if pitch is not None and abs(pitch - closest) <= ALONG else None


def _placed(
    seg: SegFile,
    number: int,
    frames: Sequence[Frame],
    heights: Mapping[int, float],
    pitch: float | None,
    image: sitk.Image,
    notes: list[Note],
) -> sitk.Image:
    """The mask of a segment whose frames lie on the image's pixels."""
    mask, outside = np.zeros(image.GetSize()[::-1], np.uint8), 0
    levels = _levels(heights)
    slices = assign(levels, len(mask), pitch)
    slices_of: dict[int, list[int]] = {}
    for z, i in slices.plane_of.items():
        slices_of.setdefault(i, []).append(z)
    used: set[int] = set()
    lost: set[int] = set()
    counts: Counter[str] = Counter()
    for frame in frames:
        pixels = inside(seg, number, frame, counts)
        level = int(np.abs(levels - heights[frame.index]).argmin())
        if not pixels.any():
            continue
        if level in slices.outside:
            outside += 1
        elif level not in slices_of:
            lost.add(level)
        else:
            used.add(level)
            for z in slices_of[level]:
                mask[z] |= pixels
    _check_places(seg, number, outside, len(lost), len(mask))
    notes += _notes(seg, number, counts)
    moved = sum(abs(slices.moved[level]) > ALONG for level in used)
    if moved:
        text = f"{seg.names[number]}: {moved} {_framed(moved)} between two slices, moved to the nearer slice"
        notes.append(Note(text, Kind.MOVED, moved, "frames of segments between two slices, moved"))
    more = sum(len(slices_of[level]) - 1 for level in used)
    if more:
        what = "filled between frames of thicker slices"
        text = f"{seg.names[number]}: {more} {'slice' if more == 1 else 'slices'} {what}"
        notes.append(Note(text, Kind.GUESSED, more, f"slices {what}"))
    return image_like(mask, image)


def _check_places(seg: SegFile, number: int, outside: int, lost: int, depth: int) -> None:
    """Raises BadInput if frames of a segment have no slice, outside of the image or between its slices."""
    if outside:
        raise BadInput(
            f"{seg.path}: {outside} {'slice' if outside == 1 else 'slices'} of {seg.names[number]!r} "
            f"{'lies' if outside == 1 else 'lie'} above or below the CT series, which has {depth} slices; "
            f"add the missing slices or the series that was segmented"
        )
    if lost:
        raise BadInput(
            f"{seg.path}: {lost} {_framed(lost)} of {seg.names[number]!r} {'lies' if lost == 1 else 'lie'} between the "
            f"slices of the CT series; expected frames on its slices: add the series that was segmented"
        )


def _levels(heights: Mapping[int, float]) -> np.ndarray:
    """The distinct heights of frames, ascending."""
    levels: list[float] = []
    for height in sorted(heights.values()):
        if not levels or height - levels[-1] > ON_SLICE:
            levels.append(height)
    return np.array(levels)


def _notes(seg: SegFile, number: int, counts: Counter[str]) -> list[Note]:
    notes, name, partial = [], seg.names[number], counts["partial"]
    if seg.kind == "FRACTIONAL" and not seg.data.get("MaximumFractionalValue"):
        text = f"{name}: the value of a whole voxel is not given; {FULL} is assumed"
        notes.append(Note(text, Kind.GUESSED, what="fractional segments without MaximumFractionalValue"))
    if partial:
        text = f"{name}: {partial} voxels belong to it in part; it is set where at least half of a voxel does"
        what = "voxels that belong to a segment in part, set where at least half of the voxel does"
        notes.append(Note(text, Kind.REINTERPRETED, partial, what))
    return notes


def _own_volume(
    seg: SegFile, number: int, frames: Sequence[Frame], every: Sequence[Frame], image: sitk.Image, notes: list[Note]
) -> sitk.Image:
    """The mask of a segment on the grid of its frames.

    Args:
        seg: the file.
        number: of the segment.
        frames: those of the segment.
        every: all frames of the file, which give the grid.
        image: the CT, whose slices' distance is taken for a single frame without one.
        notes: for what is to be said.
    """
    first = every[0]
    normal = np.cross(first.steps[0], first.steps[1])
    normal /= np.linalg.norm(normal)
    along = np.array([(frame.corner - first.corner) @ normal for frame in every])
    gaps = np.diff(np.sort(along))
    gaps = gaps[gaps > 0.01]
    distance = first.distance or first.thickness or image.GetSpacing()[2]
    if len(gaps) and np.abs(gaps / distance - np.rint(gaps / distance)).max() > ALONG:
        distance = float(gaps.min())
    slices = np.rint((along - along.min()) / distance).astype(int)
    start, end = (every[int(i)].corner for i in (along.argmin(), along.argmax()))
    step = (end - start) / slices.max() if slices.max() else normal * distance
    off = [f.corner - start - z * step for f, z in zip(every, slices, strict=True)]
    steps = [f.steps - first.steps for f in every]
    if np.abs(off).max() > ALONG * distance or np.abs(steps).max() > 1e-3 or slices.max() > MOST:
        raise BadInput(
            f"{seg.path}: the frames neither match the pixels of the CT series nor are they evenly spaced; export the "
            f"segmentation on the grid of the CT series"
        )
    mask = np.zeros((int(slices.max()) + 1, int(seg.data.Rows), int(seg.data.Columns)), np.uint8)
    place = {frame.index: int(z) for frame, z in zip(every, slices, strict=True)}
    counts: Counter[str] = Counter()
    for frame in frames:
        mask[place[frame.index]] |= inside(seg, number, frame, counts)
    notes += _notes(seg, number, counts)
    result = sitk.GetImageFromArray(mask)
    axes = np.column_stack([*first.steps, step])
    spacing = np.linalg.norm(axes, axis=0)
    result.SetOrigin(start.tolist())
    result.SetSpacing(spacing.tolist())
    result.SetDirection((axes / spacing).ravel().tolist())
    return result


def _framed(number: int) -> str:
    return "frame" if number == 1 else "frames"
