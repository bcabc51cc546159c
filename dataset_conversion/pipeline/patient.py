"""Converts a patient to nnU-Net cases: HU, labels on the image's grid, derived lung, cropping, resampling, slices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.case import Case, CaseRecord
from nnunet_difflung.dataset_conversion.imaging.geometry import (
    index_to_physical,
    on_grid,
    same_grid,
    to_index,
    turned_with,
)
from nnunet_difflung.dataset_conversion.imaging.intensities import prepare_intensities
from nnunet_difflung.dataset_conversion.imaging.lung_mask import DerivedLungs, derive_lungs
from nnunet_difflung.dataset_conversion.imaging.resampling import crop, one_slice, resized, spread
from nnunet_difflung.dataset_conversion.imaging.windows import random_window, window_side
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.output.writer import write_case
from nnunet_difflung.dataset_conversion.pipeline import losses
from nnunet_difflung.dataset_conversion.pipeline.mapping import LabelMapping
from nnunet_difflung.dataset_conversion.pipeline.options import ConvertOptions
from nnunet_difflung.dataset_conversion.pipeline.patients import Patient
from nnunet_difflung.dataset_conversion.sources import Scan
from nnunet_difflung.errors import BadInput

OUTSIDE = 0.05  # largest share of a structure that may lie outside the image


@dataclass(frozen=True)
class Labelled:
    """A scan with its label map.

    Attributes:
        image: 3D, as it will be written.
        label: (z, y, x) uint8.
        channel: nnU-Net's channel name.
        drawn: z of the slices with drawn structures, which become cases with ``--as slices``.
        derived: labels that were not drawn by a reader.
        notes: for the report.
    """

    image: sitk.Image
    label: np.ndarray
    channel: str
    drawn: tuple[int, ...]
    derived: tuple[str, ...]
    notes: tuple[Note, ...]


def convert_patient(
    patient: Patient, mapping: LabelMapping, options: ConvertOptions, folder: Path
) -> tuple[list[CaseRecord], dict]:
    """Writes the cases of a patient.

    Returns:
        The records of the cases; and ``channel``, ``derived`` and ``notes`` of the patient.

    Raises:
        BadInput: the patient cannot be converted.
    """
    records: list[CaseRecord] = []
    channel = ""
    derived: set[str] = set()
    notes: list[Note] = []
    structures: set[str] = set()
    for number, source in enumerate(patient.sources):
        location = f"{source.folder}, patient {patient.name}"
        scan = source.load()
        if scan.apart and options.form == "volumes":
            raise BadInput(
                f"{location}: pictures of slices form no volume, since nobody knows how far apart they are; leave "
                f"--as volumes out"
            )
        structures |= set(scan.structures)
        labelled = label_scan(scan, mapping, options, location)
        if channel not in ("", labelled.channel):
            raise BadInput(
                f"{location}: the scans have different channels, {channel} and {labelled.channel}; expected the same "
                f"kind of intensities: remove the scans of one kind"
            )
        channel = labelled.channel
        derived |= set(labelled.derived)
        of_scan = list(labelled.notes)
        records += [
            write_case(folder, case, len(mapping.labels), patient.test)
            for case in cases(labelled, patient, number, mapping, options, of_scan)
        ]
        # a source may give the same note with each scan; what was changed after loading is counted for each scan
        changed = [note for note in of_scan[len(scan.notes) :] if note.kind is not Kind.REMARK]
        notes += [note for note in of_scan if note not in notes and note not in changed] + changed
    if not records:
        raise BadInput(
            f"{patient.sources[0].folder}, patient {patient.name}: no structure of the mapping was drawn; "
            f"remove the patient, or give --all-slices to keep the slices with lung"
        )
    notes += losses.absent(structures, mapping)
    return records, {"channel": channel, "derived": sorted(derived), "notes": [note.as_dict() for note in notes]}


def label_scan(scan: Scan, mapping: LabelMapping, options: ConvertOptions, location: str) -> Labelled:
    """Intensities and labels of a loaded scan, reoriented to axial slices."""
    image, notes = scan.image, list(scan.notes)
    image, channel, intensity_notes = prepare_intensities(
        image, scan.modality, scan.windowed, options.window, location, options.rescale, options.accept
    )
    notes += intensity_notes
    label = _labels(scan, image, mapping, notes, location)
    is_drawn = label > 0
    drawn = np.flatnonzero(is_drawn.any(axis=(1, 2))) if scan.annotated is None else np.array(scan.annotated, int)
    normal = mapping.normal
    rules = [mapping.rule_of(name) for name in scan.derived]
    derived = tuple(rule.label for rule in rules if rule is not None)
    if mapping.lung != "none" and not (label == normal).any():
        lungs = (_lungs_of_each if scan.apart else lungs_of)(image, label, mapping, location)
        notes += lungs.notes
        label[(lungs.mask > 0) & (label == 0)] = normal
        derived = (next(name for name, value in mapping.labels.items() if value == normal),)
    if mapping.ignore is not None and scan.annotated is not None:
        blank = np.setdiff1d(np.arange(len(label)), drawn)
        label[blank] = mapping.ignore
        notes += losses.ignored_slices(len(blank))
    return _axial(Labelled(image, label, channel, tuple(int(z) for z in drawn), derived, tuple(notes)), is_drawn)


def _labels(scan: Scan, image: sitk.Image, mapping: LabelMapping, notes: list[Note], location: str) -> np.ndarray:
    """The label map (z, y, x) of a scan; where structures overlap, the larger priority wins.

    Raises:
        BadInput: a structure of the mapping cannot be placed on the image, or lies elsewhere.
    """
    for name, fault in scan.faults.items():
        if mapping.rule_of(name) is not None:
            raise BadInput(f"{fault}; a structure that is not needed may go to ignore_structures in the mapping")
    label = np.zeros(image.GetSize()[::-1], np.uint8)
    notes += losses.unmapped(scan.structures, mapping)
    ranked = sorted(
        (rule.priority, rule.value, name) for name in scan.structures if (rule := mapping.rule_of(name)) is not None
    )
    for _, value, name in ranked:
        mask = scan.structures[name]
        notes += _check_place(mask, image, name, location)
        if not same_grid(mask, image):
            notes.append(
                Note(f"{name}: resampled from another grid", Kind.MOVED, what="structures resampled from another grid")
            )
        inside = on_grid(mask, image) > 0
        notes += losses.overlaps(label, inside, value, mapping)
        label[inside] = value
    return label


def _check_place(mask: sitk.Image, image: sitk.Image, name: str, location: str) -> list[Note]:
    """Checks that a structure lies in its image; a note on voxels of it that lie outside.

    Raises:
        BadInput: more than ``OUTSIDE`` of it lies outside the image, or its mask has as many voxels as the image but
            another position (its header was lost).
    """
    if same_grid(mask, image):
        return []
    inside = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    if mask.GetSize() == image.GetSize():
        corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (np.array(mask.GetSize()) - 1)
        reach = to_index(image, corners @ index_to_physical(mask).T + np.array(mask.GetOrigin()))
        distance = max(np.abs(reach.min(0)).max(), np.abs(reach.max(0) - corners.max(0)).max())
        if distance > 1:
            raise BadInput(
                f"{location}: the mask of {name!r} has as many voxels as its image, but is displaced by up to "
                f"{distance:.0f} voxels (spacing, origin or direction differ); expected the position of the image: "
                f"repair the header of the mask, or export it again"
            )
    if len(inside):
        indices = to_index(image, inside @ index_to_physical(mask).T + np.array(mask.GetOrigin()))
        outside = ((indices < -0.5) | (indices > np.array(image.GetSize()) - 0.5)).any(axis=1)
        if outside.mean() > OUTSIDE:
            raise BadInput(
                f"{location}: {100 * outside.mean():.0f} % of {name!r} lie outside the image; expected a structure "
                f"that was drawn on this image: repair its header, or remove the structure"
            )
        if count := int(outside.sum()):
            text = f"{name}: {count} of its {len(inside)} voxels lie outside the image"
            return [Note(text, Kind.DROPPED, count, "voxels of structures outside the image")]
    return []


def _lungs_of_each(image: sitk.Image, label: np.ndarray, mapping: LabelMapping, location: str) -> DerivedLungs:
    """``lungs_of`` slices that do not form a volume, each by itself; what is noted of several is noted once.

    Raises:
        BadInput: no slice shows lungs, or the values are not HU.
    """
    masks, fault = np.zeros(label.shape, np.uint8), None
    notes: dict[str, list[Note]] = {}
    for z in range(len(label)):
        try:
            lungs = lungs_of(image[:, :, z : z + 1], label[z : z + 1], mapping, location)
        except BadInput as error:
            fault = fault or error
            continue
        masks[z] = lungs.mask[0]
        for note in lungs.notes:
            notes.setdefault(note.what or note.text, []).append(note)
    if fault is not None and not masks.any():
        raise fault
    told = [
        replace(first, text=f"{first.text} (other slices with this: {len(more)})" if more else first.text)
        for first, *more in notes.values()
    ]
    return DerivedLungs(masks, tuple(told))


def lungs_of(image: sitk.Image, label: np.ndarray, mapping: LabelMapping, location: str) -> DerivedLungs:
    """The lungs, including the pathologies that were drawn, and notes on them.

    Raises:
        BadInput: no lung was found, or the values are not HU.
    """
    values = [
        rule.value for rule in mapping.rules if rule.pathology and rule.value not in (mapping.normal, mapping.ignore)
    ]
    try:
        lungs = derive_lungs(image, np.isin(label, values), mapping.lung)
    except BadInput as error:
        raise BadInput(f"{location}: {error}") from error
    if not ((lungs.mask > 0) & (label == 0)).any():
        raise BadInput(
            f"{location}: no lung was found (lung: {mapping.lung}); expected a chest CT in HU: leave the patient "
            f"out, draw the lung, or go without: remove the label of normal lung from the mapping and set lung: none"
        )
    return lungs


def _axial(labelled: Labelled, is_drawn: np.ndarray) -> Labelled:
    """Reorients a scan to axial slices, since nnU-Net cuts its slices across z.

    Args:
        labelled: the scan.
        is_drawn: (z, y, x) bool, where structures were drawn, to find the slices with drawn structures again.
    """
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(labelled.image.GetDirection())
    if code[2] in "SI":
        return labelled
    label, drawn = (turned_with(labelled.image, array) for array in (labelled.label, is_drawn.astype(np.uint8)))
    return replace(
        labelled,
        image=sitk.DICOMOrient(labelled.image, "LPS"),
        label=label,
        drawn=tuple(int(z) for z in np.flatnonzero(drawn.any(axis=(1, 2)))),
        notes=(*labelled.notes, Note(f"reoriented from {code} to axial slices")),
    )


def cases(
    labelled: Labelled,
    patient: Patient,
    number: int,
    mapping: LabelMapping,
    options: ConvertOptions,
    notes: list[Note] | None = None,
) -> Sequence[Case]:
    """The cases of a labelled scan: a volume, or its slices; what is lost on the way is added to ``notes``."""
    notes = [] if notes is None else notes
    image = labelled.image
    volume = Case(
        patient.case_id(number),
        patient.patient,
        sitk.GetArrayFromImage(image),
        labelled.label,
        image.GetSpacing(),
        image.GetOrigin(),
        image.GetDirection(),
    )
    whole = volume
    if options.crop_lungs is not None:
        volume = crop(volume, options.crop_lungs, z_too=options.form == "volumes", ignore=mapping.ignore)
    lesions = {rule.value for rule in mapping.rules} - {mapping.normal, mapping.ignore}
    volume = resized(volume, options.spacing, options.size, lesions, options.kernel)
    notes += losses.lost_lesions(whole, volume, lesions, {value: name for name, value in mapping.labels.items()})
    side = None if options.random_window is None else window_side(volume, options.random_window, lesions)
    if options.form == "volumes":
        return [_cut(volume, side, lesions)]
    inside = (volume.label > 0) & (volume.label != (-1 if mapping.ignore is None else mapping.ignore))
    kept = np.flatnonzero(inside.any(axis=(1, 2)))
    if not options.all_slices:
        kept = np.intersect1d(kept, labelled.drawn)
    notes += losses.slices_left_out(len(volume.label) - len(kept), options.all_slices)
    chosen = spread(volume, kept, lesions, options.apart)
    notes += losses.close_slices(len(kept) - len(chosen))
    slices = [_cut(one_slice(volume, patient.case_id(number, z), z), side, lesions) for z in chosen]
    shown = [case for case in slices if _shows_enough(case, lesions, mapping, options.least_lung)]
    notes += losses.slices_of_little_lung(len(slices) - len(shown))
    return shown


def _cut(case: Case, side: float | None, lesions: Collection[int]) -> Case:
    """The case, or a window of it."""
    return case if side is None else random_window(case, side, lesions)


def _shows_enough(case: Case, lesions: Collection[int], mapping: LabelMapping, least: float) -> bool:
    """Whether a slice has a lesion, or at least this share of normal lung."""
    return bool(np.isin(case.label, list(lesions)).any() or (case.label == mapping.normal).mean() >= least)
