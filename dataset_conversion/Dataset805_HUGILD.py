"""The multimedia database of interstitial lung diseases of Geneva (HUG, MedGIFT) as an nnU-Net dataset.

Described by Depeursinge et al. (Computerized Medical Imaging and Graphics 2012, 10.1016/j.compmedimag.2011.07.003).
``ILD_DB_txtROIs/<patient>`` holds the CT slices ``CT-7605-0004.dcm`` and the contours ``CT-INSPIRIUM-7605.txt`` (in
subfolders where a patient has several series; ``HRCT_pilot/<patient>`` for the pilot), and
``ILD_DB_lungMasks/<the same>`` the lungs (``lung_mask/lung_mask_7605_4.dcm``).

The readers outlined regions of 17 tissues and left the rest: what they outlined has its label, the rest of the lung is
nnU-Net's ``ignore`` label, and slices on which nothing is outlined are left out. Tissues of few patients are ignored as
well. Lungs that are not published for a series are found by threshold and marked in its notes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset_conversion.dicom.headers import Header, read_dataset, read_header
from nnunet_difflung.dataset_conversion.dicom.series import ct_series, read_volume, stack
from nnunet_difflung.dataset_conversion.public.hug_rois import draw, read_rois
from nnunet_difflung.dataset_conversion.public.sets import PublicSet, below, converter
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput

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
    """One series; see ``sources.Source``.

    Attributes:
        patient: number, ``pilot_200`` for the pilot's.
        folder: the archive's root.
        text: the ROI file, beside its slices.
        lungs: folder of lung masks, or None.
    """

    patient: str
    folder: Path
    text: Path
    lungs: Path | None

    def _headers(self) -> list[Header]:
        headers = [read_header(path, self.folder) for path in sorted(self.text.parent.glob("*.dcm"))]
        series, notes = ct_series([header[1] for header in headers if header])
        if not series:
            raise BadInput(
                f"{self.text.parent}: no CT slices beside {self.text.name} "
                f"({'; '.join(notes) or 'no .dcm'}); unpack the whole patient"
            )
        return next(iter(series.values()))

    def listing(self) -> Listing:
        """Headers and contours."""
        files = [p.relative_to(self.folder).as_posix() for p in (self.text, *sorted(self.text.parent.glob("*.dcm")))]
        try:
            series = stack(self._headers(), self.folder)
            names = sorted({roi.label for roi in read_rois(self.text)[1]} | {"lung"})
        except BadInput as error:
            return Listing(self.patient, tuple(files), (0, 0, 0), (0, 0, 0), "CT", (0, 0), (), (str(error),))
        size = (*series.slices[0].size, len(series.slices))
        return Listing(self.patient, tuple(files), size, series.spacing, "CT", (0, 0), tuple(names))

    def load(self) -> Scan:
        """CT in HU, the outlined tissues, and the lungs as a structure of their own."""
        from nnunet_difflung.dataset_conversion.imaging.lung_mask import lung_mask

        series = stack(self._headers(), self.folder)
        image, (spacing, rois) = read_volume(series, self.folder), read_rois(self.text)
        slice_of = {_number(header.path): z for z, header in enumerate(series.slices)}
        shape = image.GetSize()[::-1]
        missing = sorted({roi.slice_number for roi in rois} - set(slice_of))
        if missing:
            raise BadInput(
                f"{self.text}: contours on slice {missing[0]}, but no such slice is in {self.text.parent}; "
                f"expected a file that ends with -{missing[0]:04d}.dcm: unpack the whole patient"
            )
        masks = draw(rois, spacing, shape, slice_of)
        notes = list(series.notes)
        lung = self._lungs(shape, slice_of)
        if lung is None:
            lung = lung_mask(image, np.logical_or.reduce(list(masks.values())))
            notes.append("lung found by threshold, no lung masks beside this series")
        annotated = sorted({slice_of[roi.slice_number] for roi in rois})
        structures = {name: series.place(mask) for name, mask in {"lung": lung, **masks}.items()}
        return Scan(image, structures, "CT", tuple(annotated), False, tuple(notes))

    def _lungs(self, shape: tuple[int, ...], slice_of: dict[int, int]) -> np.ndarray | None:
        files = sorted(self.lungs.rglob("*.dcm")) if self.lungs else []
        result = np.zeros(shape, np.uint8)
        for path in files:
            z, pixels = slice_of.get(_number(path.name)), read_dataset(path).pixel_array
            if z is None or pixels.shape != shape[1:]:
                raise BadInput(
                    f"{path}: a lung mask of {pixels.shape} pixels for no slice of {self.text.parent}; "
                    f"expected one for each slice; unpack the patient's lung masks again"
                )
            result[z] = pixels > 0
        return result if result.any() else None


def _number(path: str) -> int:
    """Slice number at the end of a file's name."""
    match = re.search(r"(\d+)\.dcm$", path)
    return int(match[1]) if match else -1


def find(folder: Path) -> list[HugSource]:
    """All series with contours.

    Raises:
        BadInput: the folder of the contours is missing or holds none.
    """
    root = below(folder, "ILD_DB_txtROIs")
    sources = []
    for text in sorted(root.rglob("*.txt")):
        place = text.parent.relative_to(root)
        if place.parts and re.match(r"(CT|Tho)", text.name) and any(text.parent.glob("*.dcm")):
            lungs = folder / "ILD_DB_lungMasks" / place
            pilot = place.parts[0] == "HRCT_pilot" and len(place.parts) > 1
            patient = f"pilot_{place.parts[1]}" if pilot else place.parts[0]
            sources.append(HugSource(patient, folder, text, lungs if lungs.is_dir() else None))
    if not sources:
        raise BadInput(f"{root}: no CT-*.txt beside .dcm files; unpack ILD_DB_txtROIs there")
    return sources


main = converter(PublicSet("Dataset805_HUGILD", 805, "HUGILD", MAPPING, find, crop=False), __doc__)


if __name__ == "__main__":
    main()
