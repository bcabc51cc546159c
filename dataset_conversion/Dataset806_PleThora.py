"""PleThora: thoracic cavities and pleural effusions on NSCLC-Radiomics CT, as an nnU-Net dataset.

Published by Kiser et al. (Medical Physics 2020, 10.1002/mp.14424; TCIA 10.7937/tcia.2020.6c7y-gq39) as
``Thoracic_Cavities/LUNG1-001/LUNG1-001_thor_cav_primary_reviewer.nii.gz`` and
``Effusions/LUNG1-001/LUNG1-001_effusion_first_reviewer.nii.gz``; the CT is TCIA's collection NSCLC-Radiomics (Aerts et
al. 2014, 10.7937/k9/tcia.2015.pf0m9rei), unpacked so that ``NSCLC-Radiomics/LUNG1-001/…/*.dcm`` lies in the folder.

The cavity is everything inside the ribs but the mediastinum: lung, tumour, atelectasis, effusion. Without the effusion
it becomes ``normal_lung``, the class that lesions are painted into; it holds tumours and atelectasis, so it is not
normal lung as a reader would draw it. The authors warn that some programs show their masks in a wrong orientation: a
cavity that does not lie on lung in the CT's space is tried mirrored along y and z, and refused if that does not help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset_conversion.archive.image_files import read_volume
from nnunet_difflung.dataset_conversion.public.sets import PublicSet, below, converter, nifti
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput

if TYPE_CHECKING:
    import SimpleITK as sitk

    from nnunet_difflung.dataset_conversion.dicom.source import DicomSource

MAPPING = {"labels": {"normal_lung": ["thoracic_cavity"], "pleural_effusion": ["effusion"]}}
LUNG, SHARE = -400.0, 0.4  # HU below which is lung, and the share of a cavity that is at least so dark


@dataclass(frozen=True)
class PleThoraSource:
    """A patient: CT from DICOM, masks from NIfTI; see ``sources.Source``."""

    patient: str
    folder: Path
    ct: DicomSource
    cavity: Path
    effusion: Path | None

    def listing(self) -> Listing:
        """The CT's, with the masks as structures."""
        listing = self.ct.listing()
        series = self.ct.folder.relative_to(self.folder)
        masks = [p.relative_to(self.folder) for p in (self.cavity, self.effusion) if p]
        files = tuple(path.as_posix() for path in (*(series / path for path in listing.files), *masks))
        names = ("effusion", "thoracic_cavity") if self.effusion else ("thoracic_cavity",)
        return Listing(
            self.patient, files, listing.size, listing.spacing, "CT", listing.intensity, names, listing.problems
        )

    def load(self) -> Scan:
        """CT and masks on its grid."""
        scan = self.ct.load()
        masks = {"thoracic_cavity": self.cavity, **({"effusion": self.effusion} if self.effusion else {})}
        read = {name: read_volume(path) for name, path in masks.items()}
        placed, note = placed_on(scan.image, read, self.cavity)
        return Scan(scan.image, placed, "CT", None, scan.windowed, (*scan.notes, *note))


def placed_on(image: sitk.Image, masks: dict[str, sitk.Image], where: Path) -> tuple[dict[str, sitk.Image], tuple]:
    """The masks on the CT's grid, by their place or, where that is not on lung, by their array mirrored.

    Raises:
        BadInput: no way puts the cavity onto lung.
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
        ways = {axes: _on_lung(np.flip(arrays["thoracic_cavity"], axes), dark) for axes in mirrorings}
        axes = max(ways, key=lambda axes: ways[axes])
        if ways[axes] >= SHARE:
            turned = {name: image_like(np.ascontiguousarray(np.flip(a, axes)), image) for name, a in arrays.items()}
            how = " and ".join("zyx"[axis] for axis in axes) or "nothing"
            return turned, (f"the masks' headers lie beside the CT: array order taken, mirrored along {how}",)
    raise BadInput(
        f"{where}: does not lie on the lungs of the patient's CT, nor mirrored; expected PleThora's mask of "
        f"this series of NSCLC-Radiomics: download both again"
    )


def _on_lung(cavity: np.ndarray, dark: np.ndarray) -> float:
    """Share of the cavity's voxels that are dark as lung."""
    return float(dark[cavity > 0].mean()) if cavity.any() else 0.0


def find(folder: Path) -> list[PleThoraSource]:
    """Patients with a cavity and their CT.

    Raises:
        BadInput: a folder is missing, or the CT of a mask.
    """
    from nnunet_difflung.dataset_conversion.dicom.source import DicomSource, find_sources

    cavities, effusions = below(folder, "Thoracic_Cavities"), folder / "Effusions"
    root = next((p for p in (folder, *sorted(folder.glob("*"))) if (p / "NSCLC-Radiomics").is_dir()), None)
    if root is None:
        raise BadInput(
            f"{folder / 'NSCLC-Radiomics'} is missing; download the CT collection of that name from "
            f"TCIA and unpack it there (a manifest-… folder around it does not matter)"
        )
    sources = []
    for place in sorted(p for p in cavities.iterdir() if p.is_dir()):
        name, series = place.name, root / "NSCLC-Radiomics" / place.name
        cavity = nifti(place, f"{name}_thor_cav_primary_reviewer")
        if cavity is None:
            raise BadInput(f"{place / (name + '_thor_cav_primary_reviewer.nii.gz')} is missing; download it again")
        ct = find_sources(series) if series.is_dir() else []
        if len(ct) != 1:
            raise BadInput(
                f"{series}: {len(ct) or 'no'} CT patients; expected the series of {name}; download it from "
                f"NSCLC-Radiomics"
            )
        only = tuple(header for header in ct[0].headers if header.modality == "CT")
        sources.append(
            PleThoraSource(
                name,
                folder,
                DicomSource(name, series, only, ct[0].notes),
                cavity,
                nifti(effusions / name, f"{name}_effusion_first_reviewer"),
            )
        )
    if not sources:
        raise BadInput(f"{cavities}: no folder of a patient; unpack Thoracic_Cavities there")
    return sources


main = converter(PublicSet("Dataset806_PleThora", 806, "PleThora", MAPPING, find), __doc__)


if __name__ == "__main__":
    main()
