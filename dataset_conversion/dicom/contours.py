"""Converts the contours of a region to a mask on the grid of an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.accept import Accept, accepted, remedy
from nnunet_difflung.dataset_conversion.dicom.filling import Drawn, filled
from nnunet_difflung.dataset_conversion.dicom.planes import ON_SLICE, Assignment, assign
from nnunet_difflung.dataset_conversion.dicom.rtstruct import Contour, Roi
from nnunet_difflung.dataset_conversion.imaging.geometry import to_index
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.wording import counted

ACROSS = 0.5  # slices; a contour that spans more does not lie in the plane of the slices
VOLUME = 0.15  # largest difference between the volumes of the mask and of the contours, as a share
OTHER_PITCH = 1.15  # distance of planes, in slices, from which on slices would be filled that nobody drew on


def plane_heights(roi: Roi, image: sitk.Image) -> np.ndarray:
    """The heights of a region's planes on the grid of an image, in slices, ascending; its size does not matter."""
    heights = sorted(float(to_index(image, contour.points)[:, 2].mean()) for contour in roi.contours)
    return np.array([np.mean(heights[plane]) for plane in _planes(heights)])


def roi_mask(
    roi: Roi,
    image: sitk.Image,
    path: Path,
    slice_of: Mapping[str, int],
    accept: Collection[Accept] = (),
    pitch: float | None = None,
) -> tuple[np.ndarray, list[Note]]:
    """The mask of a region on the grid of an image, which may be oblique or sheared.

    ``planes.assign`` gives the planes of contours to slices, ``filling.filled`` fills them.

    Args:
        roi: the region.
        image: gives the grid.
        path: of the RTSTRUCT, for messages.
        slice_of: UID of an SOP instance → its slice.
        accept: changes that the user accepts.
        pitch: distance of the region's planes, in slices, if it was drawn on a series that is missing.

    Returns:
        (z, y, x) uint8 of 0 and 1, and notes for the report.

    Raises:
        BadInput: the contours are damaged, do not lie in the plane of the slices or not in the image, or the mask
            would not have their volume.
    """
    if roi.fault:
        raise BadInput(roi.fault)
    mask = np.zeros(image.GetSize()[::-1], np.uint8)
    if not roi.contours:
        return mask, list(roi.notes)
    drawn = sorted((_drawn(c, roi, image, path) for c in roi.contours), key=lambda d: d.height)
    planes = [drawn[plane] for plane in _planes([d.height for d in drawn])]
    means = np.array([np.mean([d.height for d in plane]) for plane in planes])
    slices = assign(means, len(mask), pitch, _told(drawn, slice_of))
    if not slices.plane_of:
        raise BadInput(
            f"{path}: none of the {len(drawn)} contours of {roi.name!r} lies in the CT volume; expected contours drawn "
            f"on this series: add the series they were drawn on or remove the file"
        )
    counts: Counter[str] = Counter()
    areas = _fill_slices(mask, planes, slices, counts)
    _check_volume(roi.name, path, means, slices, areas, image, accept, pitch is not None)
    return mask, [*roi.notes, *_notes(roi.name, planes, slices, counts, image)]


def _drawn(contour: Contour, roi: Roi, image: sitk.Image, path: Path) -> Drawn:
    index = to_index(image, contour.points)
    if np.ptp(index[:, 2]) > ACROSS:
        raise BadInput(
            f"{path}: a contour of {roi.name!r} spans {np.ptp(index[:, 2]):.1f} slices; expected "
            f"contours in the planes of the CT slices: export the structures on this series"
        )
    return Drawn(float(index[:, 2].mean()), index[:, 1::-1], contour)


def _planes(heights: Sequence[float]) -> list[slice]:
    """The planes of contours whose heights ascend: the range of contours in each."""
    starts = [0]
    for k, height in enumerate(heights):
        if height - heights[starts[-1]] > ON_SLICE:
            starts.append(k)
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(heights)], strict=True)]


def _told(drawn: list[Drawn], slice_of: Mapping[str, int]) -> float | None:
    """The shift that brings contours to the slices that the file says they were drawn on; None if it does not say."""
    shifts = [slice_of[d.contour.image] - d.height for d in drawn if d.contour.image in slice_of]
    return float(np.median(shifts)) if shifts else None


def _fill_slices(
    mask: np.ndarray, planes: list[list[Drawn]], slices: Assignment, counts: Counter[str]
) -> dict[int, float]:
    """Sets the mask in place and counts what is odd; returns the area in pixels of each plane inside the image."""
    shape = mask.shape[1:]
    areas: dict[int, float] = {}
    slices_of: dict[int, list[int]] = {}
    for z, i in slices.plane_of.items():
        slices_of.setdefault(i, []).append(z)
    for i, plane in enumerate(planes):
        if i in slices.outside:
            counts["above or below the image"] += len(plane)
            continue
        distinct = list({np.round(d.outline, 3).tobytes(): d for d in plane}.values())
        here: Counter[str] = Counter({"repeated in the file, used once": len(plane) - len(distinct)})
        pixels, areas[i] = filled(distinct, shape, here)
        if i not in slices_of:
            counts["ignored, since a contour nearer to the same slice exists"] += len(plane)
            continue
        mask[slices_of[i]] = pixels
        counts.update(here)
        for d in plane:
            if (d.outline < -0.5).any() or (d.outline > np.array(shape) - 0.5).any():
                counts["partly outside the image"] += 1
    return areas


def _check_volume(
    name: str,
    path: Path,
    heights: np.ndarray,
    slices: Assignment,
    areas: Mapping[int, float],
    image: sitk.Image,
    accept: Collection[Accept],
    other_series: bool,
) -> None:
    """Checks that the slices hold the volume between the contours.

    Raises:
        BadInput: they do not, or slices would be filled that nobody drew on, and the user has not accepted that.
    """
    if accepted(Accept.MOVED_CONTOURS, accept):
        return
    spacing = image.GetSpacing()
    if not other_series and slices.pitch is not None and slices.pitch > OTHER_PITCH:
        raise BadInput(
            f"{path}: the contours of {name!r} lie {slices.pitch * spacing[2]:.2f} mm apart, the CT slices "
            f"{spacing[2]:.2f} mm; expected contours on these slices: add the series they were drawn on, "
            f"{remedy(Accept.MOVED_CONTOURS)}"
        )
    inside = sorted(areas)
    runs = np.split(np.array(inside), np.flatnonzero(np.diff(heights[inside]) > 1.5 * (slices.pitch or 1.0)) + 1)
    contours = sum(
        max(sum(areas[i] * slices.thickness[i] for i in run), max(areas[i] for i in run)) for run in map(list, runs)
    )
    on_slices = sum(areas.get(i, 0.0) for i in slices.plane_of.values())
    rounding = max(areas.values()) * (0.5 if slices.pitch is None else 1)  # of a thickness to whole slices
    if abs(on_slices - contours) > max(VOLUME * contours, rounding):
        ml = float(np.prod(spacing)) / 1000
        raise BadInput(
            f"{path}: the contours of {name!r} enclose {contours * ml:.3g} ml, but on the CT slices they would fill "
            f"{on_slices * ml:.3g} ml, since they do not lie on these slices: add the series they were drawn on, "
            f"{remedy(Accept.MOVED_CONTOURS)}"
        )


def _notes(
    name: str,
    planes: list[list[Drawn]],
    slices: Assignment,
    counts: Counter[str],
    image: sitk.Image,
) -> list[Note]:
    off = [distance for distance in slices.moved.values() if abs(distance) > ON_SLICE]
    moved = sum(len(planes[i]) for i, distance in slices.moved.items() if abs(distance) > ON_SLICE)
    filled_more = len(slices.plane_of) - len(set(slices.plane_of.values()))
    notes = [
        Note(f"{name}: {counted(number, 'contour')} {what}", _kind(what), number, f"contours {what}")
        for what, number in sorted(counts.items())
        if number
    ]
    if moved:
        what, text = "between two slices, moved to the nearer slice", ""
        if max(map(abs, off)) > 0.5 + ON_SLICE:
            what = "between two slices, all moved in the same direction"
        elif moved > 1 and len(off) == len(slices.moved) and np.ptp(off) <= ON_SLICE:
            distance = float(np.mean(off)) * image.GetSpacing()[2]
            text = f", all by {abs(distance):.2f} mm towards the {'last' if distance > 0 else 'first'} slice"
        notes.append(Note(f"{name}: {counted(moved, 'contour')} {what}{text}", Kind.MOVED, moved, f"contours {what}"))
    if filled_more:
        what = "filled between contours that were drawn on thicker slices"
        text = f"{name}: {filled_more} {'slice' if filled_more == 1 else 'slices'} {what}"
        notes.append(Note(text, Kind.GUESSED, filled_more, f"slices {what}"))
    holes = max(slices.plane_of) - min(slices.plane_of) + 1 - len(slices.plane_of)
    if holes:
        slices_have = "slice has" if holes == 1 else "slices have"
        text = f"{name}: {holes} {slices_have} no contour between the first and the last one"
        what = "slices without a contour between the first and the last one of a structure, left without it"
        notes.append(Note(text, Kind.GUESSED, holes, what))
    return notes


def _kind(what: str) -> Kind:
    """What happens to contours that are counted under ``what``."""
    if "repeated" in what or "overlapping" in what:
        return Kind.MERGED
    return Kind.DROPPED
