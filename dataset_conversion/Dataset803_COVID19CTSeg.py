"""Converts the COVID-19 CT lung and infection segmentation dataset (20 cases) to an nnU-Net dataset.

Published by Ma et al. (Zenodo 10.5281/zenodo.3757476; Medical Physics 2021, 10.1002/mp.14676) as
``COVID-19-CT-Seg_20cases.zip`` (``coronacases_001.nii.gz`` …, ``radiopaedia_10_85902_1.nii.gz`` …) and
``Lung_and_Infection_Mask.zip`` (the same names; 1 left lung, 2 right lung, 3 infection). Unpack both into folders of
these names, or the images into the folder that holds ``Lung_and_Infection_Mask``, and give that folder with -i.

The ten coronacases are in HU, the ten Radiopaedia cases are 8-bit display windows. nnU-Net cannot normalise both in one
channel, so ``--part`` chooses one of them, by default the cases in HU. Radiopaedia scans of the same case
(``radiopaedia_29_86490_1`` and ``…_86491_1``) are taken as one patient.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nnunet_difflung.dataset_conversion.public.sets import FileSource, MaskOf, PublicSet, below, nifti, parser, run
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.console import command

MASKS = "Lung_and_Infection_Mask"
MAPPING = {"labels": {"normal_lung": ["lungs"], "infection": ["infection"]}}
PARTS = ("coronacases", "radiopaedia")


def find(folder: Path, part: str = "coronacases") -> list[FileSource]:
    """The cases of one part.

    Raises:
        BadInput: a folder or the image of a case is missing.
    """
    masks = below(folder, MASKS)
    images = folder / "COVID-19-CT-Seg_20cases" if (folder / "COVID-19-CT-Seg_20cases").is_dir() else folder
    sources = []
    for mask in sorted(masks.glob(f"{part}_*.nii*")):
        stem = mask.name.split(".nii")[0]
        image = nifti(images, stem)
        if image is None:
            raise BadInput(
                f"{images / (stem + '.nii.gz')} is missing, but its mask is in {masks}; "
                f"unpack COVID-19-CT-Seg_20cases.zip"
            )
        patient = re.sub(r"^(radiopaedia_\d+)_.*", r"\1", stem)
        drawn = (MaskOf("lungs", mask, (1, 2)), MaskOf("infection", mask, (3,)))
        sources.append(FileSource(patient, folder, image, drawn, part == "radiopaedia"))
    if not sources:
        raise BadInput(f"{masks}: there is no {part}_*.nii.gz; unpack Lung_and_Infection_Mask.zip there")
    return sources


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry point."""
    names = dict(zip(PARTS, ("COVID19CTSeg", "COVID19CTSegWindowed"), strict=True))
    public = PublicSet(
        "Dataset803_COVID19CTSeg",
        803,
        names[PARTS[0]],
        MAPPING,
        find,
        patients="the case numbers in the names of the files",
    )
    p = parser(public, __doc__)
    p.add_argument(
        "--part",
        choices=PARTS,
        default=PARTS[0],
        help="which part of the dataset to convert (default: %(default)s); "
        f"the default of --name is {names[PARTS[0]]}, or {names[PARTS[1]]} for radiopaedia",
    )
    p.set_defaults(name=None)
    options = p.parse_args(arguments)
    options.name = options.name or names[options.part]
    return run(replace(public, find=partial(find, part=options.part)), options, arguments)


if __name__ == "__main__":
    main()
