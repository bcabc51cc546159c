"""DICOM archives: a source for each patient, with a CT series and RTSTRUCT contours or DICOM-SEG segments."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.accept import Accept
from nnunet_difflung.dataset_conversion.dicom.contours import roi_mask
from nnunet_difflung.dataset_conversion.dicom.drawings import Drawing, drawings_on
from nnunet_difflung.dataset_conversion.dicom.headers import Header
from nnunet_difflung.dataset_conversion.dicom.patients import files_by_patient
from nnunet_difflung.dataset_conversion.dicom.pixels import rescaling_of
from nnunet_difflung.dataset_conversion.dicom.rtstruct import read_rtstruct
from nnunet_difflung.dataset_conversion.dicom.seg import segment_masks
from nnunet_difflung.dataset_conversion.dicom.seg_frames import SegFile, open_seg
from nnunet_difflung.dataset_conversion.dicom.series import (
    AIR,
    DRAWINGS,
    Stack,
    choose_series,
    ct_series,
    has_place,
    read_slice,
    read_volume,
    repeated_slices,
    stack,
    why_left_out,
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
class DicomSource:
    """A patient of a DICOM archive.

    Attributes:
        patient: name of the patient's folder, or p001, … if patients share folders; never a DICOM tag.
        folder: root folder of the archive.
        headers: of the patient's files.
        notes: on the archive, for the report.
        series: values of ``--series``: which CT series to take if there are several, see ``series.matches``.
        identified: whether headers tell the patient, and not only the folder.
        accept: changes of labels and intensities that the user accepts.
        name: what ``--series`` calls the patient, whatever ``--patients`` says; ``patient`` if it is empty.
    """

    patient: str
    folder: Path
    headers: tuple[Header, ...] = field(repr=False)
    notes: tuple[Note, ...] = ()
    series: tuple[str, ...] = ()
    identified: bool = True
    accept: frozenset[Accept] = frozenset()
    name: str = ""

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
            rescaling_of(ct.slices, self.folder, self.accept)
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
        notes += repeated_slices(image)
        structures: dict[str, sitk.Image] = {}
        drawn_in: dict[str, Path] = {}
        faults: dict[str, str] = {}
        for drawing in drawings:
            for name, mask in self._masks(drawing, image, ct, notes, faults):
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
        if faults and not structures:
            raise BadInput(next(iter(faults.values())))
        if not is_orthogonal(image):
            grid = straight_grid(image)
            structures = {name: _moved(mask, grid) for name, mask in structures.items()}
            image = straightened(image, AIR)
        windowed = False if rescaling.declared else None
        return Scan(image, structures, "CT", None, windowed, tuple(dict.fromkeys(notes)), faults)

    def _check_readable(self) -> None:
        for header in self.headers:
            if header.problem and header.modality in ("", *DRAWINGS):
                raise BadInput(header.problem)

    def _drawing(self, header: Header) -> Drawing:
        path = self.folder / header.path
        if header.modality == "SEG":
            seg = open_seg(path)
            return Drawing(path, self._real_series(seg.series, _images_of(seg)), seg=seg)
        content = read_rtstruct(path)
        images = set().union(*(roi.images for roi in content.rois))
        return Drawing(path, self._real_series(content.series, images), content.rois, notes=content.notes)

    def _real_series(self, uids: Iterable[str], images: set[str]) -> frozenset[str]:
        """The series that a drawing refers to.

        Where several series have one SeriesInstanceUID, it is those that hold the images which the drawing names, as
        far as the UIDs of images tell them apart.
        """
        slices = [h for h in self.headers if h.modality == "CT" and not why_left_out(h)]
        times = Counter(h.uid for h in slices)
        real: dict[str, dict[str, set[str]]] = {}
        for h in slices:
            if h.series_uid:
                images_of = real.setdefault(h.series_uid, {}).setdefault(h.series, set())
                images_of |= {h.uid} if times[h.uid] == 1 else set()
        named: set[str] = set()
        for uid in uids:
            candidates = real.get(uid, {uid: set()})
            named |= {series for series, images_of in candidates.items() if images_of & images} or set(candidates)
        return frozenset(named)

    def _stack(self, drawings: list[Drawing]) -> tuple[Stack, list[Note]]:
        series, left_out = ct_series(self.headers)
        referenced = self._drawn_on(series, drawings)
        location = f"{self.folder}, patient {self.patient}"
        name = self.name or self.patient
        slices = choose_series(series, left_out, self.series, referenced, location, name)
        self._check_positions(slices[0])
        ct = stack(slices, self.folder)
        notes = [*self.notes, *left_out, *ct.notes]
        if len(series) > 1:
            text, what = f"left out {len(series) - 1} other CT series of the patient", "other CT series of a patient"
            notes.append(Note(text, Kind.DROPPED, len(series) - 1, what))
        if lossy := sum(header.lossy for header in ct.slices):
            text = f"{lossy} of {len(ct.slices)} slices were compressed with loss: their values are taken as they are"
            notes.append(Note(text, Kind.GUESSED, lossy, "values of slices that were compressed with loss"))
        return ct, notes

    def _check_positions(self, chosen: Header) -> None:
        """Checks that no slice of a series has lost its position: at an end of the series, no gap would show it.

        Raises:
            BadInput: a file of the series that has the size of its slices does not say where it lies.
        """
        for h in self.headers:
            lost = h.modality == "CT" and not has_place(h) and not h.localizer and h.frames == 1
            same_size = h.size == chosen.size or not all(h.size)
            if lost and same_size and h.series in (chosen.series, chosen.series_uid):
                raise BadInput(
                    f"{self.folder / h.path}: a slice of the CT series without a position, orientation, size or pixel "
                    f"spacing; expected them in every slice: copy or export it again, or move the "
                    f"file out of the archive if it is not a slice"
                )

    @staticmethod
    def _drawn_on(series: dict[str, list[Header]], drawings: list[Drawing]) -> set[str]:
        """UIDs of the series that drawings name or, if they name none, of those in their frame of reference."""
        named = set().union(*(drawing.series for drawing in drawings)) & set(series)
        frames = set().union(*(drawing.frames for drawing in drawings))
        return named or {uid for uid, slices in series.items() if slices[0].frame in frames}

    def _drawings_of(self, ct: Stack, drawings: list[Drawing], notes: list[Note]) -> list[Drawing]:
        """The drawings of this series, see ``drawings_on``."""
        kept, left_out = drawings_on(ct, drawings, self.headers, self.folder, self.accept)
        notes += left_out
        return kept

    def _masks(
        self, drawing: Drawing, image: sitk.Image, ct: Stack, notes: list[Note], faults: dict[str, str]
    ) -> Iterator[tuple[str, sitk.Image]]:
        """Name and mask of each structure; those that cannot be placed go to ``faults`` instead."""
        notes += drawing.notes
        if drawing.seg:
            other_series = ct.slices[0].series not in drawing.series
            for name, segment, segment_notes in segment_masks(drawing.seg, image, other_series):
                notes += segment_notes
                yield name, segment
        slice_of = {header.uid: z for z, header in enumerate(ct.slices)}
        if len(slice_of) < len(ct.slices):  # UIDs that several slices share tell nothing
            slice_of = {}
        for roi in drawing.rois:
            try:
                mask, mask_notes = roi_mask(roi, image, drawing.path, slice_of, self.accept, drawing.pitch)
            except BadInput as error:
                faults.setdefault(roi.name, str(error))
                continue
            notes += mask_notes
            if roi.contours:
                yield roi.name, ct.place(mask)
            else:
                what = "structures without a closed contour"
                notes.append(Note(f"{roi.name}: left out, since it has no closed contour", Kind.DROPPED, what=what))


def _moved(mask: sitk.Image, grid: sitk.Image) -> sitk.Image:
    return image_like(on_grid(mask, grid), grid)


def _images_of(seg: SegFile) -> set[str]:
    return {
        str(image.get("ReferencedSOPInstanceUID"))
        for series in seg.data.get("ReferencedSeriesSequence") or ()
        for image in series.get("ReferencedInstanceSequence") or ()
    }


def find_sources(
    folder: Path, series: Sequence[str] = (), accept: frozenset[Accept] = frozenset()
) -> list[DicomSource]:
    """The patients of an archive, in the order of the paths of their files; empty if no file is DICOM.

    Args:
        folder: searched with its subfolders; DICOM files are recognised by content, not by name.
        series: values of ``--series``: which CT series to take if a patient has several, for all patients
            (``thin``) or for one of them (``p1=thin``).
        accept: changes of labels and intensities that the user accepts.

    Raises:
        BadInput: the folder has DICOM files, but pydicom is not installed; or ``--series`` names an unknown patient.
    """
    folder = Path(folder)
    patients = list(files_by_patient(folder))
    choices = _choices(series, [files.name for files in patients], folder)
    return [
        scan
        for files in patients
        for scan in _scans(
            DicomSource(
                files.name,
                folder,
                files.headers,
                files.notes,
                choices[files.name],
                files.identified,
                accept,
                files.name,
            )
        )
    ]


def _choices(series: Sequence[str], names: Sequence[str], folder: Path) -> dict[str, tuple[str, ...]]:
    """Patient → what ``--series`` says about the patient: for the patient alone or, if it does not, for all.

    Raises:
        BadInput: there is no such patient.
    """
    for_all: list[str] = []
    of: dict[str, list[str]] = {name: [] for name in names}
    by_spelling = {unicodedata.normalize("NFC", name): name for name in names}
    for value in series:
        splits = [(value[:k], value[k + 1 :]) for k, letter in enumerate(value) if letter == "="]
        told = [(by_spelling.get(unicodedata.normalize("NFC", patient)), choice) for patient, choice in splits]
        name, choice = next((pair for pair in told if all(pair)), (None, ""))
        if not splits:
            for_all.append(value)
        elif name is not None:
            of[name].append(choice)
        else:
            patient = splits[0][0]
            nearest = get_close_matches(patient, names, cutoff=0.5) or list(names[:5])
            raise BadInput(
                f"--series {value}: {folder} has no patient {patient!r}; expected PATIENT=SERIES with a patient "
                f"such as {', '.join(nearest)}, or SERIES alone for all patients"
            )
    return {name: tuple(of[name] or for_all) for name in names}


def _scans(patient: DicomSource) -> list[DicomSource]:
    """A source for each CT series of a patient if several were drawn on and each drawing says on which; else one."""
    series, _ = ct_series(patient.headers)
    drawings = [header for header in patient.headers if header.modality in DRAWINGS]
    if patient.series or len(series) < 2 or len(drawings) < 2:
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
    slices_or_unknown = [h for h in patient.headers if h.modality in ("", "CT")]
    lost = [h for h in slices_or_unknown if h.problem or not (h.localizer or has_place(h))]  # each scan checks them
    return [replace(patient, headers=(*series[uid], *drawn_on[uid], *lost)) for uid in series if uid in drawn_on]
