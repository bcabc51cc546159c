"""Converts PleThora (thoracic cavities and pleural effusions on NSCLC-Radiomics CT) to an nnU-Net dataset.

Published by Kiser et al. (Medical Physics 2020, 10.1002/mp.14424; TCIA 10.7937/tcia.2020.6c7y-gq39) as
``Thoracic_Cavities/LUNG1-001/LUNG1-001_thor_cav_primary_reviewer.nii.gz`` and
``Effusions/LUNG1-001/LUNG1-001_effusion_first_reviewer.nii.gz``; the CT is TCIA's collection NSCLC-Radiomics (Aerts et
al. 2014, 10.7937/k9/tcia.2015.pf0m9rei), unpacked so that the folder holds ``NSCLC-Radiomics/LUNG1-001/…/*.dcm``.

The cavity is everything inside the ribs except the mediastinum: lung, tumour, atelectasis and effusion. The cavity
without the effusion becomes ``normal_lung``, the class that lesions are painted into. It includes tumours and
atelectasis, so it is not what a reader would draw as normal lung. The authors warn that some programs show their masks
in a wrong orientation: if a cavity does not lie on the lungs of the CT, it is mirrored along y and z, and refused if
this does not help either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset_conversion.files.volume_files import read_volume
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.public.sets import PublicSet, below, converter, nifti
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput

if TYPE_CHECKING:
    import SimpleITK as sitk

    from nnunet_difflung.dataset_conversion.dicom.source import DicomSource

MAPPING = {"labels": {"normal_lung": ["thoracic_cavity"], "pleural_effusion": ["effusion"]}}
LUNG, SHARE = -400.0, 0.4  # HU below which voxels are lung, and the smallest share of lung in a cavity


@dataclass(frozen=True)
class PleThoraSource:
    """A patient: CT from DICOM, masks from NIfTI; see ``sources.Source``."""

    patient: str
    folder: Path
    ct: DicomSource
    cavity: Path
    effusion: Path | None

    def listing(self) -> Listing:
        """The listing of the CT, with the masks as structures."""
        listing = self.ct.listing()
        series = self.ct.folder.relative_to(self.folder)
        masks = [p.relative_to(self.folder) for p in (self.cavity, self.effusion) if p]
        files = tuple(path.as_posix() for path in (*(series / path for path in listing.files), *masks))
        names = ("effusion", "thoracic_cavity") if self.effusion else ("thoracic_cavity",)
        return Listing(
            self.patient, files, listing.size, listing.spacing, "CT", listing.intensity, names, listing.problems
        )

    def load(self) -> Scan:
        """The CT, and the masks on its grid."""
        scan = self.ct.load()
        masks = {"thoracic_cavity": self.cavity, **({"effusion": self.effusion} if self.effusion else {})}
        images = {name: read_volume(path) for name, path in masks.items()}
        placed, notes = placed_on(scan.image, images, self.cavity)
        return Scan(scan.image, placed, "CT", None, scan.windowed, (*scan.notes, *notes))


def placed_on(image: sitk.Image, masks: dict[str, sitk.Image], path: Path) -> tuple[dict[str, sitk.Image], tuple]:
    """The masks on the grid of the CT, by their position or, if the cavity is not on lung then, by mirroring.

    Args:
        image: the CT.
        masks: structures by name, among them ``thoracic_cavity``.
        path: of the cavity, for messages.

    Returns:
        The masks, and notes.

    Raises:
        BadInput: the cavity does not lie on lung, mirrored or not.
    """
    import SimpleITK as sitk

    from nnunet_difflung.dataset_conversion.imaging.geometry import image_like, on_grid

    dark = sitk.GetArrayViewFromImage(image) < LUNG
    placed = {name: on_grid(mask, image) for name, mask in masks.items()}
    if _on_lung(placed["thoracic_cavity"], dark) >= SHARE:
        return {name: image_like(array, image) for name, array in placed.items()}, ()
    arrays = {name: (sitk.GetArrayFromImage(mask) > 0).astype(np.uint8) for name, mask in masks.items()}
    if all(array.shape == dark.shape for array in arrays.values()):
        mirrorings: tuple[tuple[int, ...], ...] = ((), (1,), (0,), (0, 1))
        shares = {axes: _on_lung(np.flip(arrays["thoracic_cavity"], axes), dark) for axes in mirrorings}
        axes = max(shares, key=lambda axes: shares[axes])
        if shares[axes] >= SHARE:
            turned = {name: image_like(np.ascontiguousarray(np.flip(a, axes)), image) for name, a in arrays.items()}
            how = "mirrored along " + " and ".join("zyx"[axis] for axis in axes) if axes else "not mirrored"
            text = f"the headers of the masks do not match the CT: the order of the arrays is used, {how}"
            what = "masks placed by the order of their arrays, since their headers do not match the CT"
            return turned, (Note(text, Kind.GUESSED, what=what),)
    raise BadInput(
        f"{path}: the mask does not lie on the lungs of the CT, mirrored or not; expected PleThora's mask of "
        f"this series of NSCLC-Radiomics: download both again"
    )


def _on_lung(cavity: np.ndarray, dark: np.ndarray) -> float:
    """Share of the voxels of a cavity that are as dark as lung."""
    return float(dark[cavity > 0].mean()) if cavity.any() else 0.0


def find(folder: Path) -> list[PleThoraSource]:
    """The patients, each with a cavity and a CT.

    Raises:
        BadInput: a folder, a cavity or a CT is missing.
    """
    from nnunet_difflung.dataset_conversion.dicom.source import DicomSource, find_sources

    cavities, effusions = below(folder, "Thoracic_Cavities"), folder / "Effusions"
    root = next((path for path in (folder, *sorted(folder.glob("*"))) if (path / "NSCLC-Radiomics").is_dir()), None)
    if root is None:
        raise BadInput(
            f"{folder / 'NSCLC-Radiomics'} is missing; download the CT collection of this name from TCIA and unpack it "
            f"there (it may be inside a folder manifest-…)"
        )
    sources = []
    for patient_folder in sorted(path for path in cavities.iterdir() if path.is_dir()):
        name, series = patient_folder.name, root / "NSCLC-Radiomics" / patient_folder.name
        cavity = nifti(patient_folder, f"{name}_thor_cav_primary_reviewer")
        if cavity is None:
            raise BadInput(
                f"{patient_folder / (name + '_thor_cav_primary_reviewer.nii.gz')} is missing; download it again"
            )
        ct = find_sources(series) if series.is_dir() else []
        if len(ct) != 1:
            raise BadInput(
                f"{series}: {len(ct)} patients with DICOM files; expected the CT of {name}: "
                f"download it from NSCLC-Radiomics"
            )
        ct_headers = tuple(header for header in ct[0].headers if header.modality == "CT")
        sources.append(
            PleThoraSource(
                name,
                folder,
                DicomSource(name, series, ct_headers, ct[0].notes),
                cavity,
                nifti(effusions / name, f"{name}_effusion_first_reviewer"),
            )
        )
    if not sources:
        raise BadInput(f"{cavities}: there are no folders of patients; unpack Thoracic_Cavities there")
    return sources


main = converter(
    PublicSet("Dataset806_PleThora", 806, "PleThora", MAPPING, find, patients="the folders, as published"), __doc__
)


if __name__ == "__main__":
    main()
