"""Converts MedSeg's 100 axial COVID-19 slices (segmentation dataset nr. 1) to an nnU-Net dataset.

Published (medicalsegmentation.com/covid19; MedSeg, Jenssen, Sakinis, figshare 10.6084/m9.figshare.13521488) as
``tr_im.nii.gz`` (100 slices), ``tr_mask.nii.gz`` (1 ground glass, 2 consolidation, 3 pleural effusion) and
``tr_lungmasks_updated.nii.gz`` (1 and 2: lungs). ``val_im.nii.gz`` has no published masks and is not used.

The slices come from JPEG files whose grey values were stretched to look like HU, so the channel is ``windowed`` and not
``CT``. They show more than 40 patients, but the files do not say which slice belongs to which patient. Slices of the
same patient follow each other, so the folds are made of groups of five slices in a row (``g01`` … ``g20``). A group is
not a patient: it may hold several patients, and a patient may be in two neighbouring groups, and so in the training and
in the validation part of a fold. The dataset gets no ``patients.json``; use it for training only, or measure on another
set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.public.sets import FileSource, MaskOf, PublicSet, converter, nifti
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput

GROUP = 5
MAPPING = {
    "labels": {
        "normal_lung": ["lungs"],
        "ground_glass": ["ground_glass"],
        "consolidation": ["consolidation"],
        "pleural_effusion": {"structures": ["pleural_effusion"], "pathology": False},
    }
}
VALUES = {"ground_glass": 1, "consolidation": 2, "pleural_effusion": 3}


@dataclass(frozen=True)
class GroupSource(FileSource):
    """Consecutive slices of the stack, from ``first`` on; see ``FileSource``."""

    first: int = 0

    def listing(self) -> Listing:
        """See ``FileSource``; only the slices of this group."""
        listing = super().listing()
        return replace(listing, size=(*listing.size[:2], min(GROUP, max(0, listing.size[2] - self.first))))

    def load(self) -> Scan:
        """The slices of this group."""
        import SimpleITK as sitk

        scan, part = super().load(), slice(self.first, self.first + GROUP)
        structures = {name: mask[:, :, part] for name, mask in scan.structures.items()}
        drawn = {name: mask for name, mask in structures.items() if sitk.GetArrayViewFromImage(mask).any()}
        return replace(scan, image=scan.image[:, :, part], structures=drawn)


def find(folder: Path) -> list[GroupSource]:
    """The groups of five slices.

    Raises:
        BadInput: a file is missing or damaged.
    """
    files = {}
    for stem in ("tr_im", "tr_mask", "tr_lungmasks_updated"):
        path = nifti(folder, stem)
        if path is None:
            raise BadInput(f"{folder / (stem + '.nii.gz')} is missing; download it from MedSeg's page and put it there")
        files[stem] = path
    masks = (
        MaskOf("lungs", files["tr_lungmasks_updated"]),
        *(MaskOf(name, files["tr_mask"], (value,)) for name, value in VALUES.items()),
    )
    stack = FileSource("", folder, files["tr_im"], masks, True)
    problems = stack.listing().problems
    if problems:
        raise BadInput(problems[0])
    slices = stack.listing().size[2]
    text = f"a group of {GROUP} slices in a row, since the dataset does not say which patients they show"
    notes = (Note(text, Kind.GUESSED, what="groups of slices taken as patients, since the dataset names no patients"),)
    return [
        GroupSource(f"g{k + 1:02d}", folder, files["tr_im"], masks, True, notes, k * GROUP)
        for k in range(-(-slices // GROUP))
    ]


PUBLIC = PublicSet(
    "Dataset802_MedSegCOVID19Slices",
    802,
    "MedSegCOVID19Slices",
    MAPPING,
    find,
    patients=f"not published; groups of {GROUP} slices in a row stand for them",
    warning="a patient may be in two neighbouring groups, and so in training and in validation; use this dataset for "
    "training only, or measure on another set",
)
main = converter(PUBLIC, __doc__)


if __name__ == "__main__":
    main()
