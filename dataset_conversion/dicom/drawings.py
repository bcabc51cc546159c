"""Which files with structures belong to a CT series.

A file says it by the UIDs of the series and of the slices, and by its frame of reference. If it was drawn on a series
that is not in the archive, its contours are usable only if they lie on the slices of the series that is: contours on
every third slice are no structure of this series.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset_conversion.accept import Accept, accepted, remedy
from nnunet_difflung.dataset_conversion.dicom.contours import plane_heights
from nnunet_difflung.dataset_conversion.dicom.headers import Header
from nnunet_difflung.dataset_conversion.dicom.planes import lie_on_slices, usual_pitch
from nnunet_difflung.dataset_conversion.dicom.rtstruct import Roi
from nnunet_difflung.dataset_conversion.dicom.seg_frames import SegFile
from nnunet_difflung.dataset_conversion.dicom.series import Stack
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput

SPARSE = 1.5  # slices; planes that are usually farther apart leave out slices


@dataclass(frozen=True)
class Drawing:
    """An RTSTRUCT (``rois``) or DICOM-SEG (``seg``) file.

    Attributes:
        path: of the file.
        series: UIDs of the series that it was drawn on.
        rois, seg: its content.
        notes: on the file.
        pitch: distance of the planes of contours, in slices of the CT, if they were drawn on another series.
    """

    path: Path
    series: frozenset[str]
    rois: tuple[Roi, ...] = ()
    seg: SegFile | None = None
    notes: tuple[Note, ...] = ()
    pitch: float | None = None

    @property
    def names(self) -> list[str]:
        """Names of the structures, without those that have no contour."""
        rois = [roi.name for roi in self.rois if roi.contours or roi.fault]
        return rois + (list(self.seg.names.values()) if self.seg else [])

    @property
    def frames(self) -> set[str]:
        """Frames of reference of the drawn structures, as far as they are given."""
        return ({roi.frame for roi in self.rois if roi.contours} | ({self.seg.frame} if self.seg else set())) - {""}

    @property
    def images(self) -> set[str]:
        """UIDs of the slices that contours were drawn on, as far as they are given."""
        return set().union(*(roi.images for roi in self.rois))


def drawings_on(
    ct: Stack, drawings: Sequence[Drawing], headers: Sequence[Header], folder: Path, accept: Collection[Accept]
) -> tuple[list[Drawing], list[Note]]:
    """The drawings of a series; those of other series of the patient are left out with a note.

    Args:
        ct: the series.
        drawings: of the patient.
        headers: of all files of the patient.
        folder: root folder of the archive, for messages.
        accept: changes that the user accepts.

    Raises:
        BadInput: a drawing refers to another frame of reference, to slices that are missing, or to a series that is
            missing and whose slices are not those of this series; and the user has not accepted that.
    """
    chosen, kept, notes = ct.slices[0], [], []
    others = [h for h in headers if h.modality == "CT" and h.series != chosen.series]
    uids = {h.uid for h in headers if h.modality == "CT"}
    for drawing in drawings:
        if _of_another_series(drawing, chosen, others):
            what = "files with structures that were drawn on another series of the patient"
            text = f"left out {drawing.path.name}: it was drawn on another series of the patient"
            notes.append(Note(text, Kind.DROPPED, what=what))
            continue
        location = folder / chosen.folder
        missing = drawing.images - uids
        if missing and (chosen.series in drawing.series or not drawing.series) and missing != drawing.images:
            other = next((h for h in headers if h.uid in missing), None)
            there = f"; {other.path} is such a slice, but its Modality is {other.modality}: correct it" if other else ""
            raise BadInput(
                f"{drawing.path}: {len(missing)} of the {len(drawing.images)} slices with contours are missing in "
                f"{location}{there or '; add the missing slices'}"
            )
        kept.append(_placed(drawing, ct, {h.uid for h in ct.slices}, location, accept, notes))
    return kept, notes


def _of_another_series(drawing: Drawing, chosen: Header, others: Sequence[Header]) -> bool:
    """Whether a drawing belongs to another series of the patient, by series or else by frame of reference."""
    if chosen.series in drawing.series:
        return False
    if drawing.series & {h.series for h in others}:
        return True
    return chosen.frame not in drawing.frames and bool(drawing.frames & {h.frame for h in others})


def _placed(
    drawing: Drawing, ct: Stack, slices: set[str], location: Path, accept: Collection[Accept], notes: list[Note]
) -> Drawing:
    """The drawing, with the distance of its planes if they have to be brought from another series to this one."""
    chosen, go_on = ct.slices[0], accepted(Accept.OTHER_SERIES, accept)
    other_frame = bool(chosen.frame and drawing.frames - {chosen.frame})
    if other_frame and not go_on:
        raise BadInput(
            f"{drawing.path}: its structures refer to another frame of reference than the CT series "
            f"in {location}; expected structures of this series: add the series "
            f"they were drawn on, remove the file, {remedy(Accept.OTHER_SERIES)}"
        )
    of_series = chosen.series in drawing.series
    on_slices = bool(drawing.images & slices) or (of_series and not drawing.images)
    if not drawing.names or (on_slices and not other_frame):
        return drawing
    where = f"{'slices' if of_series else 'a series'} not in the archive"
    planes = [plane_heights(roi, ct.place(np.zeros((1, 1, 1), np.uint8))) for roi in drawing.rois if roi.contours]
    pitch = usual_pitch(planes)
    told, sparse = bool(drawing.series or drawing.images), pitch is not None and pitch >= SPARSE
    if not told and not other_frame and not sparse:
        return drawing  # the file does not say what it was drawn on, and nothing speaks against this series
    what = f"files with structures that were drawn on {where}, placed by their positions"
    fits = drawing.seg is not None or lie_on_slices(planes)
    if fits and drawing.frames == {chosen.frame}:
        how = "lies on the slices of this series" if drawing.rois else "is placed by its position"
        text = f"{drawing.path.name}: it was drawn on {where}, and {how}"
        notes.append(Note(text, Kind.GUESSED, what=what))
        return drawing
    missing = f"was drawn on {where}" if told else "does not say which series it was drawn on"
    if not go_on:
        how = "" if fits else f", and its contours do not lie on all slices of the CT series in {location}"
        if pitch is not None and sparse:
            how += f" (they are {pitch * ct.spacing[2]:.4g} mm apart, the slices {ct.spacing[2]:.4g} mm)"
        raise BadInput(
            f"{drawing.path} {missing}{how}; add the series it was drawn on, remove the file, "
            f"{remedy(Accept.OTHER_SERIES)}"
        )
    if drawing.rois and pitch is None and not of_series:
        raise BadInput(
            f"{drawing.path} {missing}, and a single contour does not tell how thick the slices were; add that series "
            f"or remove the file"
        )
    notes.append(Note(f"{drawing.path.name}: it {missing}, and is placed by its position", Kind.MOVED, what=what))
    return replace(drawing, pitch=pitch)
