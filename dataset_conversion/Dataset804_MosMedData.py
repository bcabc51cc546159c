"""Converts the 50 studies with masks of MosMedData (chest CT with COVID-19 related findings) to an nnU-Net dataset.

Published by Morozov et al. (medRxiv 10.1101/2020.05.20.20100362; mosmed.ai) as ``COVID19_1110`` with
``studies/CT-0`` … ``CT-4`` (``study_0255.nii.gz``) and ``masks/study_0255_mask.nii.gz`` (1: ground glass or
consolidation). Only studies of CT-1 have masks; every study is a different patient. Intensities are HU; slices are 8 mm
apart, since only every tenth slice was published. Lung masks are not published: normal lung is found by thresholds and
marked as derived.
"""

from __future__ import annotations

from pathlib import Path

from nnunet_difflung.dataset_conversion.public.sets import FileSource, MaskOf, PublicSet, below, converter, nifti
from nnunet_difflung.errors import BadInput

MAPPING = {"labels": {"infection": ["infection"]}, "lung": "threshold"}


def find(folder: Path) -> list[FileSource]:
    """The studies that have a mask.

    Raises:
        BadInput: a folder or the study of a mask is missing.
    """
    folder = folder / "COVID19_1110" if (folder / "COVID19_1110").is_dir() else folder
    masks, studies = below(folder, "masks"), below(folder, "studies")
    sources = []
    for mask in sorted(masks.glob("study_*_mask.nii*")):
        stem = mask.name.split("_mask.nii")[0]
        image = next((path for severity in sorted(studies.iterdir()) if (path := nifti(severity, stem))), None)
        if image is None:
            raise BadInput(
                f"{studies / 'CT-1' / (stem + '.nii.gz')} is missing, but its mask is in {masks}; unpack all studies"
            )
        sources.append(FileSource(stem, folder, image, (MaskOf("infection", mask),)))
    if not sources:
        raise BadInput(f"{masks}: there is no study_*_mask.nii.gz; unpack the masks there")
    return sources


main = converter(
    PublicSet("Dataset804_MosMedData", 804, "MosMedData", MAPPING, find, patients="one study each, as published"),
    __doc__,
)


if __name__ == "__main__":
    main()
