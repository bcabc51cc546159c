"""Converts the multimedia database of interstitial lung diseases of Geneva (HUG, MedGIFT) to an nnU-Net dataset.

Described by Depeursinge et al. (Computerized Medical Imaging and Graphics 2012, 10.1016/j.compmedimag.2011.07.003).
``ILD_DB_txtROIs/<patient>`` holds the CT slices ``CT-7605-0004.dcm`` and the contours ``CT-INSPIRIUM-7605.txt`` (in
subfolders if a patient has several series; in ``HRCT_pilot/<patient>`` for the pilot study).
``ILD_DB_lungMasks`` holds lung masks in the same folders (``lung_mask/lung_mask_7605_4.dcm``).

The readers outlined only some regions, of 17 tissues. Outlined regions get their label, the rest of the lung gets
nnU-Net's ``ignore`` label, and slices without outlines are left out. Tissues that only few patients have are ignored as
well. If lung masks are not published for a series, the lungs are found by thresholds, which the notes of the patient
say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset_conversion.dicom.headers import Header, read_dataset, read_header
from nnunet_difflung.dataset_conversion.dicom.identity import told_apart
from nnunet_difflung.dataset_conversion.dicom.series import ct_series, read_volume, stack
from nnunet_difflung.dataset_conversion.public.hug_rois import draw, read_rois
from nnunet_difflung.dataset_conversion.public.sets import PublicSet, below, converter
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.walk import walk

LABELS = {
    "normal_lung": "healthy",
    "emphysema": "emphysema",
    "ground_glass": "ground_glass",
    "fibrosis": "fibrosis",
    "micronodules": "micronodules",
    "consolidation": "consolidation",
    "reticulation": "reticulation",
}
MAPPING = {
    "labels": {label: [tissue] for label, tissue in LABELS.items()},
    "ignore_label": [f"(?!({'|'.join(LABELS.values())})$).*"],
}


@dataclass(frozen=True)
class HugSource:
    """A series with contours; see ``sources.Source``.

    Attributes:
        patient: number of the patient, such as ``53``, or ``pilot_200`` in the pilot study.
        folder: root folder of the archive.
        text: the file with the contours, in the folder of the slices.
        lungs: folder with lung masks, or None.
    """

    patient: str
    folder: Path
    text: Path
    lungs: Path | None

    def _slices(self) -> list[str]:
        """Paths of the DICOM files beside the contours, relative to the archive."""
        beside = self.text.parent.relative_to(self.folder)
        return [
            (beside / name).as_posix() for name in walk(self.text.parent).files if re.fullmatch(r"[^/]+\.dcm", name)
        ]

    def _headers(self) -> list[Header]:
        read = [read_header(self.folder / path, self.folder) for path in self._slices()]
        headers, _ = told_apart([header[1] for header in read if header], self.folder)
        series, notes = ct_series(headers)
        if not series:
            raise BadInput(
                f"{self.text.parent}: there are no CT slices beside {self.text.name} "
                f"({'; '.join(note.text for note in notes) or 'no .dcm files'}); unpack all files of the patient"
            )
        return next(iter(series.values()))

    def listing(self) -> Listing:
        """What headers and contours tell."""
        files = [self.text.relative_to(self.folder).as_posix(), *self._slices()]
        try:
            series = stack(self._headers(), self.folder)
            names = sorted({roi.label for roi in read_rois(self.text)[1]} | {"lung"})
        except BadInput as error:
            return Listing(self.patient, tuple(files), (0, 0, 0), (0, 0, 0), "CT", (0, 0), (), (str(error),))
        size = (*series.slices[0].size, len(series.slices))
        return Listing(self.patient, tuple(files), size, series.spacing, "CT", (0, 0), tuple(names))

    def load(self) -> Scan:
        """CT in HU, the outlined tissues, and the lungs as a structure of their own."""
        from nnunet_difflung.dataset_conversion.imaging.lung_mask import derive_lungs

        series = stack(self._headers(), self.folder)
        image, (spacing, rois) = read_volume(series, self.folder), read_rois(self.text)
        slice_of = {_number(header.path): z for z, header in enumerate(series.slices)}
        shape = image.GetSize()[::-1]
        missing = sorted({roi.slice_number for roi in rois} - set(slice_of))
        if missing:
            raise BadInput(
                f"{self.text}: contours on slice {missing[0]}, which is missing in {self.text.parent}; expected a file "
                f"that ends with -{missing[0]:04d}.dcm: unpack all files of the patient"
            )
        masks = draw(rois, spacing, shape, slice_of)
        notes = list(series.notes)
        lung = self._lungs(shape, slice_of)
        if lung is None:
            lungs = derive_lungs(image, np.logical_or.reduce(list(masks.values())))
            lung = lungs.mask
            notes += lungs.notes
        annotated = sorted({slice_of[roi.slice_number] for roi in rois})
        structures = {name: series.place(mask) for name, mask in {"lung": lung, **masks}.items()}
        return Scan(image, structures, "CT", tuple(annotated), False, tuple(notes))

    def _lungs(self, shape: tuple[int, ...], slice_of: dict[int, int]) -> np.ndarray | None:
        """The published lung masks (z, y, x); None if there are none."""
        files = [self.lungs / path for path in walk(self.lungs).files if path.endswith(".dcm")] if self.lungs else []
        result = np.zeros(shape, np.uint8)
        for path in files:
            z, pixels = slice_of.get(_number(path.name)), read_dataset(path).pixel_array
            if z is None or pixels.shape != shape[1:]:
                raise BadInput(
                    f"{path}: this lung mask of {pixels.shape[1]} x {pixels.shape[0]} pixels matches no slice in "
                    f"{self.text.parent}; expected a mask of the number and the size of a slice: unpack the lung masks "
                    f"of the patient again"
                )
            result[z] = pixels > 0
        return result if result.any() else None


def _number(path: str) -> int:
    """Number of the slice at the end of the name of a file; -1 if there is none."""
    match = re.search(r"(\d+)\.dcm$", path)
    return int(match[1]) if match else -1


def find(folder: Path) -> list[HugSource]:
    """All series with contours.

    Raises:
        BadInput: the folder with the contours is missing or has no contours.
    """
    root = below(folder, "ILD_DB_txtROIs")
    sources = []
    for text in sorted(root / path for path in walk(root).files if path.endswith(".txt")):
        subfolder = text.parent.relative_to(root)
        if subfolder.parts and re.match(r"(CT|Tho)", text.name) and any(text.parent.glob("*.dcm")):
            lungs = folder / "ILD_DB_lungMasks" / subfolder
            pilot = subfolder.parts[0] == "HRCT_pilot" and len(subfolder.parts) > 1
            patient = f"pilot_{subfolder.parts[1]}" if pilot else subfolder.parts[0]
            sources.append(HugSource(patient, folder, text, lungs if lungs.is_dir() else None))
    if not sources:
        raise BadInput(f"{root}: there is no CT-*.txt beside .dcm files; unpack ILD_DB_txtROIs there")
    return sources


main = converter(
    PublicSet("Dataset805_HUGILD", 805, "HUGILD", MAPPING, find, crop=False, patients="the folders, as published"),
    __doc__,
)


if __name__ == "__main__":
    main()
