"""Converts MedSeg's COVID-19 CT volumes (segmentation dataset nr. 2) to an nnU-Net dataset.

MedSeg (medicalsegmentation.com/covid19) publishes them as three archives that unpack to ``rp_im/N.nii.gz`` (CT),
``rp_msk/N.nii.gz`` (1 ground glass, 2 consolidation) and ``rp_lung_msk/N.nii.gz`` (1 lung), where N is the number of
the patient. Give the folder that holds these three folders with -i.

The intensities are an 8-bit lung window chosen for each volume, not HU. They are stored unchanged, in a channel named
``lung_window_8bit``, so that nnU-Net normalises each case separately. Normal lung is the lung mask without lesions;
lesions outside the lung mask are kept as lesions. With ``--crop-lungs``, slices are numbered from the cropped box.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from nnunet_difflung.dataset_conversion.public.medseg import find, patient_name
from nnunet_difflung.dataset_conversion.public.sets import PublicSet, parser, run
from nnunet_difflung.runtime.console import command

MAPPING = {
    "labels": {
        "normal_lung": ["lungs"],
        "ground_glass": ["ground_glass"],
        "consolidation": ["consolidation"],
    }
}
ABOUT = {
    "description": "COVID-19 CT volumes of MedSeg, 8-bit lung window per volume, not HU",
    "reference": "medicalsegmentation.com/covid19",
    "license": "see MedSeg's terms",
}
PUBLIC = PublicSet(
    "Dataset801_MedSegCOVID19",
    801,
    "MedSegCOVID19",
    MAPPING,
    find,
    patients="MedSeg's numbers of the files",
    about=ABOUT,
)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry point."""
    p = parser(PUBLIC, __doc__ or "")
    p.add_argument(
        "--test-patients",
        dest="test",
        type=patient_name,
        nargs="*",
        default=argparse.SUPPRESS,
        metavar="N",
        help="the same as --test, with the numbers of the patients, for example 8 9",
    )
    options = p.parse_args(arguments)
    margin = options.crop_lungs if options.form == "slices" else None
    return run(replace(PUBLIC, find=partial(find, margin=margin)), options, arguments)


if __name__ == "__main__":
    main()
