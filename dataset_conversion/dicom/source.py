"""DICOM archives: a source for each patient, with a CT series and RTSTRUCT contours or DICOM-SEG segments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.accept import Accept
from nnunet_difflung.dataset_conversion.dicom.headers import Header
from nnunet_difflung.dataset_conversion.dicom.patients import files_by_patient
from nnunet_difflung.dataset_conversion.dicom.pixels import rescaling_of
from nnunet_difflung.dataset_conversion.dicom.rtstruct import Roi, read_rtstruct, roi_mask
from nnunet_difflung.dataset_conversion.dicom.seg import SegFile, open_seg, segment_masks
from nnunet_difflung.dataset_conversion.dicom.series import (
    AIR,
    DRAWINGS,
    Stack,
    choose_series,
    ct_series,
    read_slice,
    read_volume,
    stack,
)
from nnunet_difflung.dataset_conversion.imaging.geometry import (
    image_like,
    is_orthogonal,
    on_grid,
    straight_grid,
    straightened,
)
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput

SAMPLES = 3  # slices whose intensities a listing reads


@dataclass(frozen=True)
class _Drawing:
    """An RTSTRUCT (``rois``) or DICOM-SEG (``seg``) file and the UIDs of the series that it was drawn on."""

    path: Path
    series: frozenset[str]
    rois: tuple[Roi, ...] = ()
    seg: SegFile | None = None

    @property
    def names(self) -> list[str]:
        return [roi.name for roi in self.rois if roi.contours] + (list(self.seg.names.values()) if self.seg else [])

    @property
    def frames(self) -> set[str]:
        """Frames of reference of the drawn structures, as far as they are given."""
        return ({roi.frame for roi in self.rois if roi.contours} | ({self.seg.frame} if self.seg else set())) - {""}


@dataclass(frozen=True)
class DicomSource:
    """A patient of a DICOM archive.

    Attributes:
        patient: name of the patient's folder, or p001, … if patients share folders; never a DICOM tag.
        folder: root folder of the archive.
        headers: of the patient's files.
        notes: on the archive, for the report.
        series: which CT series to take if there are several: its folder or its number of slices.
        identified: whether headers tell the patient, and not only the folder.
        accept: changes of labels and intensities that the user accepts.
    """

    patient: str
    folder: Path
    headers: tuple[Header, ...] = field(repr=False)
    notes: tuple[Note, ...] = ()
    series: str | None = None
    identified: bool = True
    accept: frozenset[Accept] = frozenset()

    def listing(self) -> Listing:
        """Headers, names of structures, and the range of intensities in the first, the middle and the last slice."""
        problems, drawings, ct = [], [], None
        drawing_headers = [h for h in self.headers if h.modality in DRAWINGS]
        try:
            self._check_readable()
            for header in drawing_headers:
                drawings.append(self._drawing(header))  # noqa: PERF401 (keeps what was read before an error)
            ct, notes = self._stack(drawings)
            drawings = self._drawings_of(ct, drawings, list(notes))
        except BadInput as error:
            problems.append(str(error))
        names = tuple(sorted({name for d in drawings for name in d.names}))
        if ct is None:
            modality = "/".join(sorted({h.modality for h in self.headers} - {"", *DRAWINGS}))
            return Listing(
                self.patient,
                tuple(h.path for h in self.headers),
                (0, 0, 0),
                (0.0, 0.0, 0.0),
                modality,
                (0.0, 0.0),
                names,
                tuple(problems),
            )
        low: list[float] = []
        high: list[float] = []
        for index in sorted({round(i) for i in np.linspace(0, len(ct.slices) - 1, SAMPLES)}):
            try:
                pixels = read_slice(ct.slices[index], self.folder)
                low, high = [*low, float(pixels.min())], [*high, float(pixels.max())]
            except BadInput as error:
                problems.append(str(error))
        return Listing(
            self.patient,
            tuple(h.path for h in (*ct.slices, *drawing_headers)),
            (*ct.slices[0].size, len(ct.slices)),
            ct.spacing,
            "CT",
            (min(low, default=0.0), max(high, default=0.0)),
            names,
            tuple(problems),
        )

    def load(self) -> Scan:
        """The CT in HU and the structures drawn on it.

        Raises:
            BadInput: see ``Source``.
        """
        self._check_readable()
        drawings = [self._drawing(h) for h in self.headers if h.modality in DRAWINGS]
        ct, notes = self._stack(drawings)
        drawings = self._drawings_of(ct, drawings, notes)
        rescaling = rescaling_of(ct.slices, self.folder, self.accept)
        notes += rescaling.notes
        image = read_volume(ct, self.folder, rescaling, notes)
        structures: dict[str, sitk.Image] = {}
        drawn_in: dict[str, Path] = {}
        for drawing in drawings:
            for name, mask in self._masks(drawing, image, ct, notes):
                if name in structures and drawn_in[name] != drawing.path:
                    raise BadInput(
                        f"{drawing.path}: structure {name!r} is also in {drawn_in[name].name}; "
                        f"keep one of the two files"
                    )
                if name in structures:
                    what = "structures of the same name in one file"
                    notes.append(Note(f"{name}: several structures of this name are merged", Kind.MERGED, what=what))
                    mask = sitk.Or(mask, structures[name])
                structures[name], drawn_in[name] = mask, drawing.path
        if not is_orthogonal(image):
            grid = straight_grid(image)
            structures = {name: _moved(mask, grid) for name, mask in structures.items()}
            image = straightened(image, AIR)
        return Scan(image, structures, "CT", None, False if rescaling.declared else None, tuple(dict.fromkeys(notes)))

    def _check_readable(self) -> None:
        for header in self.headers:
            if header.problem and header.modality in ("", *DRAWINGS):
                raise BadInput(header.problem)

    def _drawing(self, header: Header) -> _Drawing:
        path = self.folder / header.path
        if header.modality == "SEG":
            seg = open_seg(path)
            return _Drawing(path, seg.series, seg=seg)
        return _Drawing(path, *read_rtstruct(path))

    def _stack(self, drawings: list[_Drawing]) -> tuple[Stack, list[Note]]:
        series, left_out = ct_series(self.headers)
        referenced = self._drawn_on(series, drawings)
        location = f"{self.folder}, patient {self.patient}"
        ct = stack(choose_series(series, left_out, self.series, referenced, location), self.folder)
        return ct, [*self.notes, *left_out, *ct.notes]

    @staticmethod
    def _drawn_on(series: dict[str, list[Header]], drawings: list[_Drawing]) -> set[str]:
        """UIDs of the series that drawings name or, if they name none, of those in their frame of reference."""
        named = set().union(*(drawing.series for drawing in drawings)) & set(series)
        frames = set().union(*(drawing.frames for drawing in drawings))
        return named or {uid for uid, slices in series.items() if slices[0].frame in frames}

    def _drawings_of(self, ct: Stack, drawings: list[_Drawing], notes: list[Note]) -> list[_Drawing]:
        """The drawings of this series; those of other series of the patient are left out with a note.

        Raises:
            BadInput: no series of the patient has the frame of reference of a drawing, or contours lie on slices that
                are missing.
        """
        chosen, kept = ct.slices[0], []
        other_series = {h.series for h in self.headers if h.modality == "CT"} - {chosen.series}
        for drawing in drawings:
            if drawing.series & other_series and chosen.series not in drawing.series:
                what = "files with structures that were drawn on another series of the patient"
                text = f"left out {drawing.path.name}: it was drawn on another series of the patient"
                notes.append(Note(text, Kind.DROPPED, what=what))
                continue
            if chosen.frame and drawing.frames - {chosen.frame}:
                raise BadInput(
                    f"{drawing.path}: its structures refer to another frame of reference than the CT series "
                    f"in {self.folder / chosen.folder}; expected structures of this series: add the series "
                    f"they were drawn on or remove the file"
                )
            drawn_on = set().union(*(r.images for r in drawing.rois))
            missing = len(drawn_on - {h.uid for h in self.headers})
            if chosen.series in drawing.series and missing:
                raise BadInput(
                    f"{drawing.path}: {missing} of the {len(drawn_on)} slices with contours are missing in "
                    f"{self.folder / chosen.folder}; add the missing slices"
                )
            kept.append(drawing)
        return kept

    def _masks(
        self, drawing: _Drawing, image: sitk.Image, ct: Stack, notes: list[Note]
    ) -> Iterator[tuple[str, sitk.Image]]:
        if drawing.seg:
            yield from segment_masks(drawing.seg, image)
        for roi in drawing.rois:
            mask, mask_notes = roi_mask(roi, image, drawing.path)
            notes += mask_notes
            if roi.contours:
                yield roi.name, ct.place(mask)
            else:
                what = "structures without a closed contour"
                notes.append(Note(f"{roi.name}: left out, since it has no closed contour", Kind.DROPPED, what=what))


def _moved(mask: sitk.Image, grid: sitk.Image) -> sitk.Image:
    return image_like(on_grid(mask, grid), grid)


def find_sources(folder: Path, series: str | None = None, accept: frozenset[Accept] = frozenset()) -> list[DicomSource]:
    """The patients of an archive, in the order of the paths of their files; empty if no file is DICOM.

    Args:
        folder: searched with its subfolders; DICOM files are recognised by content, not by name.
        series: which CT series to take if a patient has several.
        accept: changes of labels and intensities that the user accepts.

    Raises:
        BadInput: the folder has DICOM files, but pydicom is not installed.
    """
    folder = Path(folder)
    return [
        scan
        for files in files_by_patient(folder)
        for scan in _scans(
            DicomSource(files.name, folder, files.headers, files.notes, series, files.identified, accept)
        )
    ]


def _scans(patient: DicomSource) -> list[DicomSource]:
    """A source for each CT series of a patient if several were drawn on and each drawing says on which; else one."""
    series, _ = ct_series(patient.headers)
    drawings = [header for header in patient.headers if header.modality in DRAWINGS]
    if patient.series is not None or len(series) < 2 or len(drawings) < 2:
        return [patient]
    drawn_on: dict[str, list[Header]] = {}
    try:
        for header in drawings:
            (uid,) = patient._drawn_on(series, [patient._drawing(header)])
            drawn_on.setdefault(uid, []).append(header)
    except (BadInput, ValueError):  # a damaged drawing, or one of several series: loading reports it
        return [patient]
    if len(drawn_on) < 2:
        return [patient]
    return [replace(patient, headers=(*series[uid], *drawn_on[uid])) for uid in series if uid in drawn_on]
