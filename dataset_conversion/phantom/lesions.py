"""Where the phantom's pathologies are, and what a reader would draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.anatomy import Thorax
from nnunet_difflung.dataset_conversion.phantom.fields import FIELD_OF_VIEW_MM, PlaneField, VolumeField, pixel_centres

LABELS = {"background": 0, "normal_lung": 1, "emphysema": 2, "ILD": 3}
SMALLEST_EMPHYSEMA_MM2 = 380.0  # 12 pixels of a 64 x 64 image
SMALLEST_ILD_MM2 = 250.0
SMALLEST_LUNG_MM2 = 300.0
COARSE_GRID = 64


@dataclass(frozen=True)
class Extent:
    """Calibration of the cohort: factor on the cavity, and share of lung per unit of relative extent of a pathology."""

    lung_scale: float = 1.0
    emphysema: float = 0.06
    ild: float = 0.28


class Lesions:
    """Lung and lesion masks of one patient on any grid.

    Args:
        thorax: shapes of the patient.
        heights: z of the slices of the patient in mm; pathologies get their shares of the lung in these slices.
        extent: calibration of the cohort.
    """

    def __init__(self, thorax: Thorax, heights: list[float], extent: Extent):
        self.thorax, patient = thorax, thorax.patient
        rng = patient.rng(2)
        self.fields = {
            name: VolumeField(rng, scale, patient.height)
            for name, scale in (("clusters", 11.0), ("zones", 40.0), ("ild", 13.0), ("ild_zones", 45.0))
        }
        self.side = float(rng.normal(0, 0.5))
        centres = pixel_centres(COARSE_GRID)
        lungs = [self.lung(centres, z) for z in heights]
        self.coarse = [(lung, *self.scores(centres, z, lung)) for lung, z in zip(lungs, heights, strict=True)]
        self.set_extent(extent)

    def set_extent(self, extent: Extent) -> None:
        """Sets the thresholds of the scores so that each pathology gets its share of this patient's lung."""
        patient = self.thorax.patient
        total = sum(int(lung.sum()) for lung, _ild, _emphysema in self.coarse)
        ild_pixels = min(extent.ild * patient.ild, 0.72) * total
        emphysema_pixels = min(extent.emphysema * patient.emphysema, 0.45) * total
        ild = self._threshold(np.concatenate([ild_score[lung] for lung, ild_score, _ in self.coarse]), ild_pixels)
        free = np.concatenate(
            [emphysema_score[lung & (ild_score < ild)] for lung, ild_score, emphysema_score in self.coarse]
        )
        self.thresholds = (ild, self._threshold(free, emphysema_pixels))

    @staticmethod
    def _threshold(scores: np.ndarray, pixels: float) -> float:
        """The score that ``pixels`` of the scores exceed."""
        if pixels < 1 or not len(scores):
            return np.inf
        return float(np.quantile(scores, max(0.0, 1 - pixels / len(scores))))

    def lung(self, centres: np.ndarray, z: float) -> np.ndarray:
        """Mask (n, n) of the lungs without specks."""
        mask = self.thorax.lungs(centres[None], centres[:, None], z) < 0
        return drop_small(mask, SMALLEST_LUNG_MM2, centres)

    def scores(self, centres: np.ndarray, z: float, lung: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of ILD and emphysema at each pixel; only their order matters.

        ILD is found under the pleura, at the base and at the back, emphysema in clusters away from the pleura in the
        upper lobes.
        """
        from scipy import ndimage

        pixel = float(centres[1] - centres[0])
        depth = ndimage.distance_transform_edt(lung).astype(np.float32) * pixel
        t = -z / self.thorax.patient.height
        field = {name: field.at(centres, z) for name, field in self.fields.items()}
        ild = (
            1.9 * np.exp(-depth / 14)
            + 2.6 * t
            + 0.006 * centres[:, None]
            + 0.75 * field["ild"]
            + 0.6 * field["ild_zones"]
        )
        emphysema = (
            field["clusters"]
            + 0.7 * field["zones"]
            - 3.2 * t
            - 1.2 * np.exp(-depth / 6)
            + self.side * np.sign(centres)[None]
        )
        return ild, emphysema

    def truth(self, centres: np.ndarray, z: float) -> np.ndarray:
        """True labels (n, n) uint8, before a reader draws them."""
        lung = self.lung(centres, z)
        return self._truth(lung, *self.scores(centres, z, lung), centres)

    def coarse_truth(self) -> list[np.ndarray]:
        """True labels of all slices on the grid of ``COARSE_GRID`` pixels, which is fast."""
        return [self._truth(*slice_, pixel_centres(COARSE_GRID)) for slice_ in self.coarse]

    def _truth(self, lung, ild_score, emphysema_score, centres: np.ndarray) -> np.ndarray:
        ild = drop_small(lung & (ild_score > self.thresholds[0]), SMALLEST_ILD_MM2, centres)
        emphysema = drop_small(lung & ~ild & (emphysema_score > self.thresholds[1]), SMALLEST_EMPHYSEMA_MM2, centres)
        return (lung + emphysema * 1 + ild * 2).astype(np.uint8)


class FormedLesions(Lesions):
    """Like ``Lesions``, with paraseptal emphysema, which lies under the pleura.

    Patients whose form is paraseptal have mostly that; in the others a small part of the emphysema is paraseptal.
    """

    def __init__(self, thorax: Thorax, heights: list[float], extent: Extent):
        rng = thorax.patient.rng(6)
        self.rows = VolumeField(rng, 16.0, thorax.patient.height)
        self.row_bonus = 1.2 if thorax.patient.form == "paraseptal" else rng.uniform(-3.5, -2.0)
        super().__init__(thorax, heights, extent)

    def scores(self, centres: np.ndarray, z: float, lung: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of ILD and of emphysema of either kind at each pixel."""
        ild, emphysema = super().scores(centres, z, lung)
        return ild, np.maximum(emphysema, self._row_score(centres, z, lung))

    def _row_score(self, centres: np.ndarray, z: float, lung: np.ndarray) -> np.ndarray:
        from scipy import ndimage

        depth = ndimage.distance_transform_edt(lung).astype(np.float32) * float(centres[1] - centres[0])
        t = -z / self.thorax.patient.height
        score = 1.2 * self.rows.at(centres, z) + self.side * np.sign(centres)[None] - 2.6 * t - (depth / 9) ** 4
        return score + self.row_bonus

    def paraseptal(self, truth: np.ndarray, z: float) -> np.ndarray | None:
        """Mask (n, n) of the paraseptal part of the emphysema in the ``truth`` of a slice; None if it has none."""
        if not (truth == LABELS["emphysema"]).any():
            return None
        centres = pixel_centres(len(truth))
        lung = self.lung(centres, z)
        return (truth == LABELS["emphysema"]) & (
            self._row_score(centres, z, lung) > super().scores(centres, z, lung)[1]
        )


def lesions_of(thorax: Thorax, heights: list[float], extent: Extent) -> Lesions:
    """The lesions of a patient of the classic phantom or of the present one."""
    return (FormedLesions if thorax.patient.scanner else Lesions)(thorax, heights, extent)


def drop_small(mask: np.ndarray, smallest_mm2: float, centres: np.ndarray) -> np.ndarray:
    """The mask without connected components smaller than ``smallest_mm2``."""
    from scipy import ndimage

    components, number = ndimage.label(mask)
    if not number:
        return mask
    area = np.bincount(components.ravel()) * float(centres[1] - centres[0]) ** 2
    keep = area >= smallest_mm2
    keep[0] = False
    return keep[components]


def read(truth: np.ndarray, pixels: int, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Labels (``pixels``, ``pixels``) that a reader draws on an image.

    With ``amount`` 1, outlines of lesions deviate smoothly by about half a pixel (at least 1 mm), the outline of the
    lung (which readers take from a threshold) by a third of that, and a tenth of the small lesions is missed.

    Args:
        truth: (n, n) true labels, where n is a multiple of ``pixels``.
        pixels: of the image along x and y.
        amount: factor on these errors; 0 gives the truth.
        rng: of this slice.
    """
    from scipy import ndimage

    n = len(truth)
    centres, pixel = pixel_centres(n), FIELD_OF_VIEW_MM / n
    seen = truth.copy()
    for value in (LABELS["emphysema"], LABELS["ILD"]):
        components, number = ndimage.label(truth == value)
        missed = rng.random(60) < 0.1 * amount
        for k in range(1, number + 1):
            lesion = components == k
            if lesion.sum() * pixel**2 < 2 * SMALLEST_EMPHYSEMA_MM2 and missed[k % 60]:
                seen[lesion] = LABELS["normal_lung"]
    shift = amount * max(0.5 * FIELD_OF_VIEW_MM / pixels, 1.0) / pixel
    dy, dx = (shift * PlaneField(rng, 9.0).at(centres) for _ in range(2))
    lung = _warped((truth > 0).astype(np.uint8), 0.3 * dy, 0.3 * dx) > 0
    seen = _warped(seen, dy, dx)
    beside = np.maximum(ndimage.maximum_filter(seen, 5), LABELS["normal_lung"])
    seen = np.where(lung, np.where(seen > 0, seen, beside), 0)
    return majority(seen, n // pixels, len(LABELS))


def _warped(labels: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Labels taken from positions shifted by ``dy`` and ``dx`` (in pixels)."""
    n = len(labels)
    y = np.clip(np.rint(np.arange(n)[:, None] + dy), 0, n - 1).astype(np.intp)
    x = np.clip(np.rint(np.arange(n)[None] + dx), 0, n - 1).astype(np.intp)
    return labels[y, x]


def majority(labels: np.ndarray, factor: int, number_of_labels: int) -> np.ndarray:
    """The most frequent label of each block of ``factor`` x ``factor`` pixels; the higher value if counts are equal."""
    if factor == 1:
        return labels
    n = len(labels) // factor
    blocks = labels.reshape(n, factor, n, factor)
    votes = np.stack([(blocks == c).sum(axis=(1, 3)) for c in range(number_of_labels)])
    return (number_of_labels - 1 - votes[::-1].argmax(axis=0)).astype(np.uint8)
