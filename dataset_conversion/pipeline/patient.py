"""One patient of an archive → nnU-Net cases: HU, labels on the image's grid, derived lung, crop, pixels, slices."""

from __future__ import annotations

from collections.abc import Sequence
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
from nnunet_difflung.dataset_conversion.imaging.lung_mask import lung_mask
from nnunet_difflung.dataset_conversion.imaging.resampling import crop, one_slice, resized
from nnunet_difflung.dataset_conversion.output.writer import write_case
from nnunet_difflung.dataset_conversion.pipeline.mapping import LabelMapping
from nnunet_difflung.dataset_conversion.pipeline.options import ConvertOptions
from nnunet_difflung.dataset_conversion.pipeline.patients import Patient
from nnunet_difflung.dataset_conversion.sources import Scan
from nnunet_difflung.errors import BadInput

OUTSIDE = 0.05  # share of a structure that may lie beyond the image


@dataclass(frozen=True)
class Labelled:
    """A scan with its label map.

    Attributes:
        image: 3D, as it will be written.
        label: (z, y, x) uint8.
        channel: nnU-Net's channel name.
        drawn: positions along z to which ``--as slices`` keeps.
        derived: labels that nobody drew.
        notes: for the report.
    """

    image: sitk.Image
    label: np.ndarray
    channel: str
    drawn: tuple[int, ...]
    derived: tuple[str, ...]
    notes: tuple[str, ...]


def convert_patient(
    patient: Patient, mapping: LabelMapping, options: ConvertOptions, folder: Path
) -> tuple[list[CaseRecord], dict]:
    """Writes a patient's cases.

    Returns:
        Their records; and ``channel``, ``derived`` and ``notes`` of the patient.

    Raises:
        BadInput: with file or patient, what was found and the remedy.
    """
    records: list[CaseRecord] = []
    channel = ""
    derived: set[str] = set()
    notes: list[str] = []
    for number, source in enumerate(patient.sources):
        where = f"{source.folder}, patient {patient.name}"
        labelled = label_scan(source.load(), mapping, options, where)
        if channel not in ("", labelled.channel):
            raise BadInput(
                f"{where}: one scan has channel {channel}, another {labelled.channel}; expected "
                f"one kind of intensities; take one of the scans out"
            )
        channel = labelled.channel
        derived |= set(labelled.derived)
        notes += [note for note in labelled.notes if note not in notes]
        records += [
            write_case(folder, case, len(mapping.labels), patient.test)
            for case in cases(labelled, patient, number, mapping, options)
        ]
    if not records:
        raise BadInput(
            f"{patient.sources[0].folder}, patient {patient.name}: none of the mapping's labels is drawn; "
            f"take the patient out, or give --all-slices if its lung is to be kept"
        )
    return records, {"channel": channel, "derived": sorted(derived), "notes": notes}


def label_scan(scan: Scan, mapping: LabelMapping, options: ConvertOptions, where: str) -> Labelled:
    """Intensities and labels of a loaded scan, turned so that z is the patient's axis."""
    image, notes = scan.image, list(scan.notes)
    if options.rescale is not None:
        slope, intercept = options.rescale
        image = sitk.Cast(image, sitk.sitkFloat32) * slope + intercept
        notes.append(f"rescaled: value · {slope:g} + {intercept:g}")
    image, channel, remarks = prepare_intensities(image, scan.modality, scan.windowed, options.window, where)
    notes += remarks
    label = _labels(scan, image, mapping, notes, where)
    shown = label > 0
    drawn = np.flatnonzero(shown.any(axis=(1, 2))) if scan.annotated is None else np.array(scan.annotated, int)
    normal = mapping.normal
    derived: tuple[str, ...] = ()
    if mapping.lung != "none" and not (label == normal).any():
        lung = lung_mask_of(image, label, mapping, where)
        label[(lung > 0) & (label == 0)] = normal
        derived = (next(name for name, value in mapping.labels.items() if value == normal),)
    if mapping.ignore is not None and scan.annotated is not None:
        label[np.setdiff1d(np.arange(len(label)), drawn)] = mapping.ignore
    return _axial(Labelled(image, label, channel, tuple(int(z) for z in drawn), derived, tuple(notes)), shown)


def _labels(scan: Scan, image: sitk.Image, mapping: LabelMapping, notes: list[str], where: str) -> np.ndarray:
    """(z, y, x) label map; where structures overlap, the larger priority wins."""
    label = np.zeros(image.GetSize()[::-1], np.uint8)
    ranked = sorted(
        (rule.priority, rule.value, name) for name in scan.structures if (rule := mapping.rule_of(name)) is not None
    )
    for _, value, name in ranked:
        mask = scan.structures[name]
        _check_place(mask, image, name, where)
        if not same_grid(mask, image):
            notes.append(f"{name}: brought from another grid")
        label[on_grid(mask, image) > 0] = value
    return label


def _check_place(mask: sitk.Image, image: sitk.Image, name: str, where: str) -> None:
    """Refuses a structure that does not lie in its image.

    Raises:
        BadInput: more than ``OUTSIDE`` of it lies beyond the image, or a mask with as many voxels as the image lies
            elsewhere (its header was lost).
    """
    if same_grid(mask, image):
        return
    inside = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    if mask.GetSize() == image.GetSize():
        corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (np.array(mask.GetSize()) - 1)
        reach = to_index(image, corners @ index_to_physical(mask).T + np.array(mask.GetOrigin()))
        apart = max(np.abs(reach.min(0)).max(), np.abs(reach.max(0) - corners.max(0)).max())
        if apart > 1:
            raise BadInput(
                f"{where}: the mask of {name!r} has as many voxels as its image but lies up to "
                f"{apart:.0f} voxels beside it (spacing, origin or direction differ); expected the image's "
                f"place: repair the mask's header, or export it again"
            )
    if len(inside):
        places = to_index(image, inside @ index_to_physical(mask).T + np.array(mask.GetOrigin()))
        beyond = ((places < -0.5) | (places > np.array(image.GetSize()) - 0.5)).any(axis=1).mean()
        if beyond > OUTSIDE:
            raise BadInput(
                f"{where}: {100 * beyond:.0f} % of {name!r} lie beyond the image; expected one that was "
                f"drawn on it: repair its header, or take the structure out"
            )


def lung_mask_of(image: sitk.Image, label: np.ndarray, mapping: LabelMapping, where: str) -> np.ndarray:
    """The lungs, with the pathologies that were drawn in them.

    Raises:
        BadInput: no lung found, or values that are not HU.
    """
    values = [
        rule.value for rule in mapping.rules if rule.pathology and rule.value not in (mapping.normal, mapping.ignore)
    ]
    try:
        lung = lung_mask(image, np.isin(label, values), mapping.lung)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error
    if not (lung & (label == 0)).any():
        raise BadInput(
            f"{where}: no lung found by {mapping.lung}; expected a chest CT in HU: take the patient out, or "
            f"draw the lung"
        )
    return lung


def _axial(labelled: Labelled, shown: np.ndarray) -> Labelled:
    """Turned by whole axes where z is not the patient's long axis, since nnU-Net's slices are cut across z.

    ``shown`` (z, y, x) says where something was drawn: on other slices now than before.
    """
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(labelled.image.GetDirection())
    if code[2] in "SI":
        return labelled
    label, where = (turned_with(labelled.image, array) for array in (labelled.label, shown.astype(np.uint8)))
    return replace(
        labelled,
        image=sitk.DICOMOrient(labelled.image, "LPS"),
        label=label,
        drawn=tuple(int(z) for z in np.flatnonzero(where.any(axis=(1, 2)))),
        notes=(*labelled.notes, f"turned from {code} to axial slices"),
    )


def cases(
    labelled: Labelled, patient: Patient, number: int, mapping: LabelMapping, options: ConvertOptions
) -> Sequence[Case]:
    """The cases that a labelled scan becomes."""
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
    if options.crop_lungs is not None:
        volume = crop(volume, options.crop_lungs, z_too=options.form == "volumes", ignore=mapping.ignore)
    lesions = {rule.value for rule in mapping.rules} - {mapping.normal, mapping.ignore}
    volume = resized(volume, options.spacing, options.size, lesions)
    if options.form == "volumes":
        return [volume]
    inside = (volume.label > 0) & (volume.label != (-1 if mapping.ignore is None else mapping.ignore))
    kept = np.flatnonzero(inside.any(axis=(1, 2)))
    if not options.all_slices:
        kept = np.intersect1d(kept, labelled.drawn)
    return [one_slice(volume, patient.case_id(number, int(z)), int(z)) for z in kept]
