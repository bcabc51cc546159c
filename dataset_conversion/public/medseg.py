"""Reads the files that MedSeg publishes, and checks that they are consistent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.public.sets import FileSource, MaskOf
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.files import openable

if TYPE_CHECKING:
    import SimpleITK as sitk

FOLDERS = ("rp_im", "rp_msk", "rp_lung_msk")
CHANNEL = "lung_window_8bit"
VALUES = {"ground_glass": 1, "consolidation": 2}


@dataclass(frozen=True)
class MedSegSource(FileSource):
    """A patient; see ``FileSource``.

    Attributes:
        margin: mm above and below the labelled slices to which the volume is cropped, so that slices are numbered from
            there; None keeps all slices.
    """

    margin: float | None = None

    def listing(self) -> Listing:
        """See ``FileSource``; also checks all voxels, since images of 8 bits are read quickly."""
        listing = super().listing()
        if listing.problems:
            return listing
        try:
            self._check_volumes()
        except BadInput as error:
            return replace(listing, problems=(str(error),))
        return listing

    def load(self) -> Scan:
        """Image and masks; the intensities are never HU."""
        self._check_volumes()
        scan = replace(super().load(), modality=CHANNEL)
        arrays = {name: _array(mask) > 0 for name, mask in scan.structures.items()}
        lesion = arrays["ground_glass"] | arrays["consolidation"]
        outside = int((lesion & ~arrays["lungs"]).sum())
        if outside:
            note = f"{outside} of {int(lesion.sum())} lesion voxels lie outside the lung mask; they are kept as lesions"
            scan = replace(scan, notes=(*scan.notes, Note(note)))
        return scan if self.margin is None else _cut(scan, lesion | arrays["lungs"], self.margin)

    def _check_volumes(self) -> None:
        """Checks the voxels of image and masks.

        Raises:
            BadInput: a file cannot be read, a mask is on another grid than the image, or labels or intensities are out
                of range.
        """
        paths = [self.image, *dict.fromkeys(mask.path for mask in self.masks)]
        image, lesion, lung = (_read(path) for path in paths)
        for path, mask, allowed in zip(paths[1:], (lesion, lung), ({0, 1, 2}, {0, 1}), strict=True):
            for what in ("Size", "Spacing", "Origin", "Direction"):
                value, expected = getattr(mask, f"Get{what}")(), getattr(image, f"Get{what}")()
                if len(value) != len(expected) or not np.allclose(value, expected, atol=1e-3):
                    raise BadInput(
                        f"{path}: {what.lower()} {value} differs from {expected} of {paths[0]}; "
                        f"expected a mask on the grid of the image: download both again"
                    )
            unknown = sorted(set(np.unique(_array(mask)).tolist()) - allowed)
            if unknown:
                raise BadInput(
                    f"{path}: unknown label {unknown[0]:g}; expected {', '.join(map(str, sorted(allowed)))}: "
                    f"correct the mask"
                )
        pixels = _array(image)
        if pixels.min() < 0 or pixels.max() > 255 or (pixels != np.round(pixels)).any():
            raise BadInput(
                f"{paths[0]}: intensities from {pixels.min():g} to {pixels.max():g}; expected whole numbers from 0 to "
                f"255 (an 8-bit lung window): download the file again"
            )


def patient_name(number: str) -> str:
    """``medseg_p003`` for MedSeg's patient 3; other names are returned unchanged."""
    return f"medseg_p{int(number):03d}" if number.isdecimal() else number


def find(folder: Path, margin: float | None = None) -> list[MedSegSource]:
    """The patients, each with image, lesion mask and lung mask.

    Args:
        folder: that holds ``FOLDERS``.
        margin: see ``MedSegSource``.

    Raises:
        BadInput: one of the three folders or one of the three files of a patient is missing.
    """
    names = {}
    for part in FOLDERS:
        path = folder / part
        if not path.is_dir():
            raise BadInput(f"{path} is missing; give the folder that holds {', '.join(FOLDERS)} with -i")
        names[part] = {p.name.removesuffix(".nii.gz") for p in path.glob("[!.]*.nii.gz")}
    patients = set().union(*names.values())
    if not patients:
        raise BadInput(f"{folder}: there are no files N.nii.gz in {', '.join(FOLDERS)}; unpack MedSeg's archives there")
    for part in FOLDERS:
        for patient in sorted(patients - names[part]):
            raise BadInput(
                f"{folder / part / (patient + '.nii.gz')} is missing, but another folder has a file of patient "
                f"{patient}; add the file or remove the patient from the other folders"
            )
    for patient in sorted(patients):
        if not patient.isdecimal():
            raise BadInput(
                f"{folder / FOLDERS[0] / (patient + '.nii.gz')}: expected the number of a patient as the name of "
                f"the file; rename or remove it"
            )
    return [_source(folder, patient, margin) for patient in sorted(patients, key=int)]


def _source(folder: Path, patient: str, margin: float | None) -> MedSegSource:
    image, lesions, lungs = (folder / part / f"{patient}.nii.gz" for part in FOLDERS)
    masks = (*(MaskOf(name, lesions, (value,)) for name, value in VALUES.items()), MaskOf("lungs", lungs))
    return MedSegSource(patient_name(patient), folder, image, masks, windowed=True, margin=margin)


def _read(path: Path) -> sitk.Image:
    import SimpleITK as sitk

    try:
        image = sitk.ReadImage(openable(path))
    except RuntimeError as error:
        raise BadInput(f"{path} cannot be read as NIfTI ({str(error).splitlines()[-1]}); download it again") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise BadInput(f"{path}: size {image.GetSize()}; expected a 3D volume with one channel: download it again")
    return image


def _array(image: sitk.Image) -> np.ndarray:
    import SimpleITK as sitk

    return sitk.GetArrayViewFromImage(image)


def _cut(scan: Scan, labelled: np.ndarray, margin: float) -> Scan:
    """The scan from ``margin`` mm below to ``margin`` mm above the labelled slices."""
    slices = np.flatnonzero(labelled.any(axis=(1, 2)))
    if not len(slices):
        return scan
    extra = int(np.ceil(margin / scan.image.GetSpacing()[2] - 1e-6))
    part = slice(max(0, int(slices[0]) - extra), min(len(labelled), int(slices[-1]) + 1 + extra))
    structures = {name: mask[:, :, part] for name, mask in scan.structures.items()}
    notes = scan.notes
    if cut := len(labelled) - (part.stop - part.start):
        what = "slices beyond the margin of --crop-lungs"
        notes = (*notes, Note(f"{what}: {cut}", Kind.DROPPED, cut, what))
    return replace(scan, image=scan.image[:, :, part], structures=structures, notes=notes)
