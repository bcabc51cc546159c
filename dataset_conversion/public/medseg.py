"""Reads the files that MedSeg publishes, and refuses what does not fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.case import Case
from nnunet_difflung.errors import BadInput

FOLDERS = ("rp_im", "rp_msk", "rp_lung_msk")
PREFIX = "medseg"


def find_patients(folder: str | Path) -> list[str]:
    """Numbers of the patients for whom image, lesion mask and lung mask exist.

    Raises:
        BadInput: one of the three folders, or a file of a triple, is missing.
    """
    names = {}
    for part in FOLDERS:
        path = Path(folder) / part
        if not path.is_dir():
            raise BadInput(f"{path} is missing; -i names the folder that holds {', '.join(FOLDERS)}")
        names[part] = {p.name.removesuffix(".nii.gz") for p in path.glob("*.nii.gz")}
    everyone = set().union(*names.values())
    if not everyone:
        raise BadInput(f"{folder}: no N.nii.gz in {', '.join(FOLDERS)}; unpack MedSeg's archives there")
    for part in FOLDERS:
        for patient in sorted(everyone - names[part]):
            raise BadInput(
                f"{Path(folder) / part / (patient + '.nii.gz')} is missing although patient {patient} "
                f"occurs in another folder; add the file or remove the patient from the others"
            )
    for patient in sorted(everyone):
        if not patient.isdigit():
            raise BadInput(f"{Path(folder) / FOLDERS[0] / (patient + '.nii.gz')}: expected a number as patient name")
    return sorted(everyone, key=int)


def read_patient(folder: str | Path, patient: str) -> tuple[Case, int]:
    """One patient as a volume in the labels of this dataset.

    Returns:
        The case, and the number of lesion voxels outside the lung mask (kept as lesions).

    Raises:
        BadInput: files that cannot be read, lie elsewhere than the image, or hold other labels.
    """
    paths = [Path(folder) / part / f"{patient}.nii.gz" for part in FOLDERS]
    volumes = [_read(path) for path in paths]
    image = volumes[0]
    for path, mask, allowed in zip(paths[1:], volumes[1:], ({0, 1, 2}, {0, 1}), strict=True):
        for what in ("Size", "Spacing", "Origin", "Direction"):
            found, wanted = getattr(mask, f"Get{what}")(), getattr(image, f"Get{what}")()
            if len(found) != len(wanted) or not np.allclose(found, wanted, atol=1e-3):
                raise BadInput(
                    f"{path}: {what.lower()} {found} differs from {wanted} of {paths[0]}; "
                    f"masks must lie on the image's grid"
                )
        unknown = sorted(set(np.unique(sitk.GetArrayViewFromImage(mask)).tolist()) - allowed)
        if unknown:
            raise BadInput(f"{path}: label {unknown[0]:g} is not among {sorted(allowed)}; correct the mask")
    pixels, lesion, lung = (sitk.GetArrayFromImage(volume) for volume in volumes)
    if pixels.min() < 0 or pixels.max() > 255 or (pixels != np.round(pixels)).any():
        raise BadInput(
            f"{paths[0]}: intensities from {pixels.min():g} to {pixels.max():g}; expected whole numbers "
            f"from 0 to 255 (an 8-bit lung window)"
        )
    label = np.where(lesion > 0, lesion + 1, lung > 0).astype(np.uint8)
    name = f"{PREFIX}_p{int(patient):03d}"
    case = Case(name, name, pixels.astype(np.uint8), label, image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return case, int(((lesion > 0) & (lung == 0)).sum())


def _read(path: Path) -> sitk.Image:
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise BadInput(f"{path} cannot be read as NIfTI ({str(error).splitlines()[-1]}); download it again") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise BadInput(f"{path}: expected a 3D volume of one channel, found size {image.GetSize()}")
    return image
