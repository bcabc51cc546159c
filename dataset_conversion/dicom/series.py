"""Chooses the CT series of a patient to convert, and reads its slices as a volume in HU."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset_conversion.dicom.headers import Header
from nnunet_difflung.dataset_conversion.dicom.pixels import (
    Rescaling,
    check_bits,
    check_continuity,
    read_pixels,
    rescaling_of,
)
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput

if TYPE_CHECKING:
    import SimpleITK as sitk

DRAWINGS = ("RTSTRUCT", "SEG")  # modalities of files that hold structures

AIR, HIGHEST = -1024.0, 3071.0  # range of HU in 12 bits with the usual intercept


def why_left_out(header: Header) -> str:
    """Why a file is not a slice of a CT series, to go on with "files …"; ``""`` for slices and drawings."""
    if header.modality in ("", *DRAWINGS):
        return ""
    if header.modality != "CT":
        return f"of modality {header.modality}"
    if header.localizer:
        return "of a localizer (scout)"
    if header.frames > 1:
        return "of enhanced multi-frame CT: export it as one file per slice, for example with dcm4che's emf2sf"
    if not has_place(header):
        return "of CT without a position in the patient or without a pixel spacing"
    return header.left_out


def has_place(header: Header) -> bool:
    """Whether a file says where its pixels lie in the patient."""
    return header.position is not None and len(header.orientation) == 6 and all(header.spacing + header.size)


def ct_series(headers: Sequence[Header]) -> tuple[dict[str, list[Header]], list[Note]]:
    """The CT slices of each series (largest series first), and notes on the files that are left out."""
    series: dict[str, list[Header]] = {}
    left_out: Counter[str] = Counter()
    for header in headers:
        if why := why_left_out(header):
            left_out[why] += 1
        elif header.modality == "CT":
            series.setdefault(header.series, []).append(header)
    notes = [
        Note(f"left out {number} {'file' if number == 1 else 'files'} {kind}", Kind.DROPPED, number, f"files {kind}")
        for kind, number in sorted(left_out.items())
    ]
    return dict(sorted(series.items(), key=lambda item: -len(item[1]))), notes


def choose_series(
    series: dict[str, list[Header]],
    left_out: Sequence[Note],
    chosen: Sequence[str],
    referenced: Collection[str],
    location: str,
    patient: str,
) -> list[Header]:
    """The one series to convert.

    Args:
        series: as of ``ct_series``.
        left_out: notes of ``ct_series``, for the message if there is no series.
        chosen: values of ``--series`` for this patient, see ``matches``; the first that matches exactly one series
            counts. They have no effect on a patient with one series.
        referenced: series that contours or segments were drawn on.
        location: archive and patient, for messages.
        patient: the name that ``--series PATIENT=SERIES`` takes.

    Raises:
        BadInput: no series, or several that could be meant.
    """
    if not series:
        reason = "; ".join(note.text for note in left_out) or "no image"
        raise BadInput(
            f"{location}: no CT series ({reason}); expected axial CT slices with positions: "
            f"add them or remove the patient"
        )
    candidates = list(series.values())
    if len(candidates) == 1:
        return candidates[0]
    number = f"{len(candidates)} CT series"
    if chosen:
        matching = [[slices for slices in candidates if matches(choice, slices)] for choice in chosen]
        unique = [same for same in matching if len(same) == 1]
        if unique:
            return unique[0][0]
        several = next((same for same in matching if same), None)
        values = " and ".join(map(repr, chosen))
        number += f", {len(several)} of them match {values}" if several else f", none matches {values}"
        candidates = several or candidates
    else:
        candidates = [slices for uid, slices in series.items() if uid in referenced] or candidates
        if len(candidates) == 1:
            return candidates[0]
    listed = ", ".join(
        f"{_folder(slices)} ({len(slices)} {'slice' if len(slices) == 1 else 'slices'}, "
        f"first file {slices[0].path.rsplit('/', 1)[-1]})"
        for slices in candidates
    )
    example = shlex.quote(f"{patient}={_handle(candidates[0], candidates)}")
    raise BadInput(
        f"{location}: {number}: {listed}; expected exactly one: choose it for this patient, such as --series {example} "
        f"(a folder, a number of slices or a file of the series), or for all patients with --series SERIES"
    )


def matches(choice: str, slices: Sequence[Header]) -> bool:
    """Whether a choice means a series: by its folder or a file (or only its name), or by its number of slices.

    ``*`` stands for any characters, as in ``*B70f*``.
    """
    choice = choice.rstrip("/")
    if choice == str(len(slices)):
        return True
    names = {folder for h in slices for folder in (h.folder, h.folder.rsplit("/", 1)[-1])}
    if choice in names:  # unless only a few files of the series lie in that folder
        return choice in (_folder(slices), _folder(slices).rsplit("/", 1)[-1])
    names |= {name for h in slices for name in (h.path, h.path.rsplit("/", 1)[-1])}
    return choice in names or any(fnmatchcase(name, choice) for name in names)


def _handle(slices: Sequence[Header], candidates: Sequence[Sequence[Header]]) -> str:
    """A choice that means this series only."""
    choices = (_folder(slices).rsplit("/", 1)[-1], _folder(slices), str(len(slices)))
    return next((c for c in choices if sum(matches(c, others) for others in candidates) == 1), slices[0].path)


def _folder(slices: Sequence[Header]) -> str:
    return Counter(h.folder for h in slices).most_common(1)[0][0]


@dataclass(frozen=True)
class Stack:
    """A series in order, and its grid, which is sheared if the gantry was tilted.

    Attributes:
        slices: headers, ascending along the normal of the slices.
        origin: centre of the first voxel, mm (LPS).
        step: vector from one slice to the next, mm (LPS).
        notes: for the report.
    """

    slices: tuple[Header, ...]
    origin: tuple[float, ...]
    step: tuple[float, ...]
    notes: tuple[Note, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel in mm along the x, y and z of the index."""
        return (*self.slices[0].spacing, float(np.linalg.norm(self.step)))

    def place(self, array: np.ndarray) -> sitk.Image:
        """An array (z, y, x) as an image on this grid."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(array)
        axes = np.column_stack([*_axes(self.slices[0])[:2], np.array(self.step) / self.spacing[2]])
        image.SetOrigin(self.origin)
        image.SetSpacing(self.spacing)
        image.SetDirection(axes.ravel().tolist())
        return image


def _axes(header: Header) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors along a row, along a column and along the normal of the slice."""
    rows = np.array(header.orientation[:3]) / np.linalg.norm(header.orientation[:3])
    columns = np.array(header.orientation[3:])
    columns = columns - rows * (rows @ columns)
    columns /= np.linalg.norm(columns)
    return rows, columns, np.cross(rows, columns)


def stack(slices: Sequence[Header], root: Path) -> Stack:
    """Orders slices along their normal and checks that they form one regular volume.

    Raises:
        BadInput: a file is damaged, size, spacing or orientation differ, or slices are duplicate, missing or uneven.
    """
    first, location = slices[0], root / slices[0].folder
    for header in slices:
        if header.problem:
            raise BadInput(header.problem)
        for what, tolerance in (("size", 0), ("spacing", 1e-3), ("orientation", 1e-3)):
            value, expected = getattr(header, what), getattr(first, what)
            if not np.allclose(value, expected, rtol=0, atol=tolerance):
                raise BadInput(
                    f"{root / header.path}: {what} {_short(value)} differs from {_short(expected)} of "
                    f"{Path(first.path).name} in the same series; move files that do not belong to the series away"
                )
    lengths = np.linalg.norm(np.reshape(first.orientation, (2, 3)), axis=1)
    if not np.allclose(lengths, 1, atol=1e-2) or abs(np.dot(first.orientation[:3], first.orientation[3:])) > 1e-2:
        raise BadInput(
            f"{root / first.path}: rows and columns are not perpendicular unit vectors "
            f"({_short(first.orientation)}); export the series again"
        )
    rows, columns, normal = _axes(first)
    places = np.array([h.position for h in slices])
    order = np.argsort(places @ normal, kind="stable")
    ordered, places = [slices[i] for i in order], places[order]
    if len(ordered) == 1:
        step = normal * (first.thickness or 1.0)
        assumed = Note("a single slice whose thickness is not given: 1 mm is assumed", Kind.GUESSED)
        notes: tuple[Note, ...] = () if first.thickness else (assumed,)
        return Stack(tuple(ordered), tuple(places[0].tolist()), tuple(step.tolist()), notes)
    _check_gaps(ordered, places @ normal, location)
    step = (places[-1] - places[0]) / (len(places) - 1)
    off = (places - places[0] - np.arange(len(places))[:, None] * step) @ np.column_stack([rows, columns])
    worst = int(np.abs(off).max(axis=1).argmax())
    if np.abs(off[worst]).max() > 0.5 * min(first.spacing):
        raise BadInput(
            f"{root / ordered[worst].path}: the slice is shifted by {np.abs(off[worst]).max():.2f} mm against the line "
            f"of the other slices; expected slices in a straight line: export the series again"
        )
    drift = np.hypot(rows @ step, columns @ step) * (len(places) - 1)
    notes = ()
    if drift < 0.25 * min(first.spacing):
        step = normal * (normal @ step)
    else:
        angle = np.degrees(np.arccos(normal @ step / np.linalg.norm(step)))
        text = f"tilted gantry ({angle:.1f} degrees): slices are resampled in plane onto an orthogonal grid"
        notes = (Note(text, Kind.MOVED, what="scans with a tilted gantry, resampled onto an orthogonal grid"),)
    return Stack(tuple(ordered), tuple(places[0].tolist()), tuple(step.tolist()), notes)


def _short(values: Sequence[float]) -> str:
    return "x".join(f"{v:g}" for v in values) if len(values) < 4 else ", ".join(f"{v:.4g}" for v in values)


def _check_gaps(slices: Sequence[Header], along: np.ndarray, location: Path) -> None:
    """Checks the distances between slices.

    Args:
        slices: in order.
        along: position of each slice along the normal in mm, ascending.

    Raises:
        BadInput: slices share a position, are missing, or are not evenly spaced.
    """
    steps = np.diff(along)
    names = [Path(h.path).name for h in slices]
    twins = np.flatnonzero(steps < 0.01)
    if len(twins):
        a = twins[0]
        raise BadInput(
            f"{location}: {len(twins)} of {len(slices)} slices lie at the position of another slice, for example "
            f"{names[a]} and {names[a + 1]}, and no header tells which belong together; keep one reconstruction or "
            f"time point and move the others out of the archive"
        )
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * usual)
    if len(gaps):
        a = gaps[0]
        others = [f"{names[b]} and {names[b + 1]}" for b in gaps[1:3]] + ["…"] * (len(gaps) > 3)
        further = f", then between {', '.join(others)}" if others else ""
        raise BadInput(
            f"{location}: {int(np.round(steps[gaps] / usual - 1).sum())} of "
            f"{int(np.round(np.ptp(along) / usual)) + 1} slices are missing, the first between {names[a]} "
            f"and {names[a + 1]} ({steps[a]:.2f} mm apart, {usual:.2f} mm elsewhere){further}; add the missing slices"
        )
    regular = along[0] + np.arange(len(along)) * np.ptp(along) / (len(along) - 1)
    if np.abs(along - regular).max() > max(0.1, 0.1 * usual):
        a = int(np.abs(np.diff(steps)).argmax()) + 1
        raise BadInput(
            f"{location}: slices lie {steps.min():.2f} to {steps.max():.2f} mm apart, {steps[a - 1]:.2f} mm before "
            f"{names[a]} and {steps[a]:.2f} mm after it; expected even steps: keep only a part of the series that is "
            f"evenly spaced"
        )


def read_slice(header: Header, root: Path) -> np.ndarray:
    """One slice (y, x) float32 in HU, rescaled by its own slope and intercept; padding becomes air (−1024 HU).

    Raises:
        BadInput: the pixels cannot be read, or contradict the header.
    """
    return _without_padding(header, root)[0]


def _without_padding(header: Header, root: Path) -> tuple[np.ndarray, int]:
    """A slice as of ``read_slice``, and the number of pixels that were padding."""
    if header.problem:
        raise BadInput(header.problem)
    pixels = read_pixels(header, root)
    if header.padding is None:
        return pixels, 0
    value = header.padding * (1 if header.slope is None else header.slope) + (header.intercept or 0)
    if AIR <= value <= HIGHEST:
        return pixels, 0
    padded = pixels == np.float32(value)
    pixels[padded] = AIR
    return pixels, int(padded.sum())


def read_volume(
    series: Stack, root: Path, rescaling: Rescaling | None = None, notes: list[Note] | None = None
) -> sitk.Image:
    """All slices in HU: int16 if every value is a whole number in the range of int16, else float32.

    Args:
        series: the slices in order.
        root: folder of the archive.
        rescaling: of the slices; None finds it out.
        notes: list to which a note on padding is added.

    Raises:
        BadInput: pixels cannot be read, or the values jump between slices that are rescaled in different ways.
    """
    rescaling = rescaling or rescaling_of(series.slices, root)
    if len({header.bits for header in series.slices}) > 1:  # some slices may need more bits than their headers give
        for header in series.slices:
            check_bits(header, root)
    read = [(header, *_without_padding(header, root)) for header in series.slices]
    pixels = np.stack([rescaling.of_slice(header, values) for header, values, _ in read])
    check_continuity(series.slices, pixels, root)
    padded = sum(number for *_, number in read)
    if padded and notes is not None:
        text = f"padding (PixelPaddingValue) was set to {AIR:g} HU: {padded} voxels, {100 * padded / pixels.size:.1f} %"
        notes.append(Note(text, Kind.REINTERPRETED, what=f"scans whose PixelPaddingValue was set to {AIR:g} HU"))
    fits_int16 = np.abs(pixels).max() < 2**15 and all(np.array_equal(plane, np.rint(plane)) for plane in pixels)
    return series.place(pixels.astype(np.int16) if fits_int16 else pixels)


def repeated_slices(image: sitk.Image) -> tuple[Note, ...]:
    """A note if slices at different positions have the same pixels, apart from blank ones."""
    import SimpleITK as sitk

    planes = [plane for plane in sitk.GetArrayViewFromImage(image) if plane.min() < plane.max()]
    repeated = len(planes) - len({hashlib.sha256(plane.tobytes()).digest() for plane in planes})
    if not repeated:
        return ()
    text = f"{repeated} {'slice has' if repeated == 1 else 'slices have'} the same pixels as another slice"
    return (
        Note(
            f"{text} at another position: all are kept",
            Kind.GUESSED,
            repeated,
            "slices with the same pixels as another slice",
        ),
    )
