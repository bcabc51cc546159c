"""The phantom's patients as a group: who has which disease, and the calibration to the target shares of pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.anatomy import Patient, Thorax, draw_patient
from nnunet_difflung.dataset_conversion.phantom.fields import pixel_centres
from nnunet_difflung.dataset_conversion.phantom.lesions import COARSE_GRID, LABELS, Extent, Lesions, lesions_of, read
from nnunet_difflung.dataset_conversion.phantom.scanner import draw_scanner

SHARES = {"normal_lung": 0.123, "emphysema": 0.003, "ILD": 0.038}  # of all pixels: Diff-Lung, table 1
TEST_EMPHYSEMA_PATIENTS = 0.4  # share of the test patients who have emphysema
FORMS_DEALT = ("moderate", "paraseptal", "severe", "mild")
FIRST_T, LAST_T = 0.10, 0.88  # range of the slices, from apex (0) to base (1) of the lungs


@dataclass(frozen=True)
class CohortSettings:
    """What defines the patients, independent of the number of pixels.

    Attributes:
        patients, test_patients: number of patients for training and for the test.
        slices: number of slices per patient.
        seed: of all random draws.
        label_noise: 0 for perfect readers, 1 for typical readers.
        shares: class → share of all training pixels.
        emphysema_patients: share of the training patients who have emphysema; at least two patients of each part have
            it, if the part has two.
        forms: of emphysema, keys of ``emphysema.FORMS``, dealt to the patients who have it in turn; not for the classic
            phantom.
        classic: whether to draw the earlier phantom, whose emphysema is a level of HU and not a texture.
    """

    patients: int = 30
    test_patients: int = 15
    slices: int = 6
    seed: int = 0
    label_noise: float = 1.0
    shares: tuple[tuple[str, float], ...] = tuple(SHARES.items())
    emphysema_patients: float = 0.27
    forms: tuple[str, ...] = FORMS_DEALT
    classic: bool = False


def draw_cohort(settings: CohortSettings, test: bool) -> list[Patient]:
    """The patients of the training or of the test part."""
    number = settings.test_patients if test else settings.patients
    part = int(test)
    share = TEST_EMPHYSEMA_PATIENTS if test else settings.emphysema_patients
    affected = min(number, max(2, round(share * number)))
    order = np.random.default_rng([settings.seed, part]).permutation(number)
    with_emphysema = {int(i) for i in order[:affected]}
    patients = [draw_patient((settings.seed, part, i), i in with_emphysema) for i in range(number)]
    if patients and not any(p.ild for p in patients[1:]):
        patients = [replace(p, ild=1.0) for p in patients]
    if settings.classic:
        return patients
    forms = {int(i): settings.forms[k % len(settings.forms)] for k, i in enumerate(order[:affected])}
    return [replace(p, form=forms.get(i, ""), scanner=draw_scanner(p.rng(7))) for i, p in enumerate(patients)]


def slice_heights(patient: Patient, slices: int) -> tuple[list[float], list[int]]:
    """Heights of the slices of a patient from the base upwards, spread over the lungs in steps of whole millimetres.

    Returns:
        z of the slices in mm (negative: below the apex), and their numbers in a scan with steps of 1 mm.
    """
    span = (LAST_T - FIRST_T) * patient.height
    step = max(1, round(span / (slices - 1))) if slices > 1 else 0
    lowest = -(FIRST_T + LAST_T) / 2 * patient.height - step * (slices - 1) / 2
    return [lowest + i * step for i in range(slices)], [i * step for i in range(slices)]


def painting_grid(pixels: int, finest: int = 144) -> int:
    """Number of pixels of the grid on which tissue is painted before it is averaged to ``pixels``."""
    return pixels * max(1, -(-finest // pixels))


def patient_labels(
    lesions: Lesions, heights: list[float], pixels: int, label_noise: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each slice, the true labels on the painting grid and the labels of the reader on the image grid."""
    patient, centres = lesions.thorax.patient, pixel_centres(painting_grid(pixels))
    truth = [lesions.truth(centres, z) for z in heights]
    return truth, [read(slice_truth, pixels, label_noise, patient.rng(5, i)) for i, slice_truth in enumerate(truth)]


def calibrate(settings: CohortSettings, pixels: int, rounds: int = 4) -> Extent:
    """Finds the extents with which the training part has the target shares of pixels.

    A search on coarse masks is followed by one correction by what readers draw on images of ``pixels`` x ``pixels``,
    but at most 64 x 64 pixels: finer images change the shares only a little.
    """
    pixels = min(pixels, COARSE_GRID)
    patients = draw_cohort(settings, test=False)
    heights = [slice_heights(patient, settings.slices)[0] for patient in patients]
    targets = dict(settings.shares)
    scale = 1.0
    x, y = pixel_centres(COARSE_GRID)[None], pixel_centres(COARSE_GRID)[:, None]
    for _ in range(rounds):
        lung_share = np.mean(
            [
                np.mean(Thorax(patient, scale).lungs(x, y, z) < 0)
                for patient, patient_heights in zip(patients, heights, strict=True)
                for z in patient_heights
            ]
        )
        scale *= float(np.clip(np.sqrt(sum(targets.values()) / lung_share), 0.8, 1.25))
    extent = Extent(lung_scale=scale)
    all_lesions = [
        lesions_of(Thorax(patient, scale), patient_heights, extent)
        for patient, patient_heights in zip(patients, heights, strict=True)
    ]
    for _ in range(2 * rounds):
        masks = []
        for lesions in all_lesions:
            lesions.set_extent(extent)
            masks += [
                read(truth, COARSE_GRID, settings.label_noise, lesions.thorax.patient.rng(5, i))
                for i, truth in enumerate(lesions.coarse_truth())
            ]
        extent = _corrected(extent, masks, targets)
    masks = []
    for patient, patient_heights in zip(patients, heights, strict=True):
        lesions = lesions_of(Thorax(patient, extent.lung_scale), patient_heights, extent)
        masks += patient_labels(lesions, patient_heights, pixels, settings.label_noise)[1]
    return _corrected(extent, masks, targets)


def _corrected(extent: Extent, masks: list[np.ndarray], targets: dict[str, float]) -> Extent:
    """Extents scaled by the ratio of the target shares to the shares in the masks."""
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=len(LABELS)) + 1
    shares = dict(zip(LABELS, counts / counts.sum(), strict=True))
    factor = {name: float(np.clip(target / shares[name], 0.4, 2.5)) for name, target in targets.items()}
    return replace(extent, emphysema=extent.emphysema * factor["emphysema"], ild=extent.ild * factor["ILD"])
