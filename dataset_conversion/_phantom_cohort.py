"""The phantom's patients as a group: who has what, and a calibration to the wanted shares of pixels."""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nnunet_difflung.dataset_conversion._phantom_anatomy import Patient, Thorax, draw_patient
from nnunet_difflung.dataset_conversion._phantom_fields import pixel_centres
from nnunet_difflung.dataset_conversion._phantom_lesions import LABELS, Extent, Lesions, read

SHARES = {"normal_lung": 0.123, "emphysema": 0.003, "ILD": 0.038}  # of all pixels: Diff-Lung, table 1
SLICE_INTERVAL_MM = 5.0
TEST_EMPHYSEMA_PATIENTS = 0.4
FIRST_T, LAST_T = 0.10, 0.88


@dataclass(frozen=True)
class CohortSettings:
    """What defines the patients, whatever the number of pixels.

    Attributes:
        patients, test_patients: how many; slices: per patient.
        seed: of everything.
        label_noise: 0 for perfect readers, 1 for usual ones.
        shares: class -> share of all training pixels.
        emphysema_patients: share of the patients who have emphysema (at least two of each part, if there are two).
    """

    patients: int = 30
    test_patients: int = 15
    slices: int = 6
    seed: int = 0
    label_noise: float = 1.0
    shares: tuple[tuple[str, float], ...] = tuple(SHARES.items())
    emphysema_patients: float = 0.27


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
    return patients


def slice_heights(patient: Patient, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Heights of a patient's slices, spread evenly over the lungs, from the base upwards.

    Returns:
        z in mm (negative: below the apex) and each slice's number in a scan of 5 mm intervals.
    """
    t = np.linspace(LAST_T, FIRST_T, slices) if slices > 1 else np.array([0.45])
    numbers = np.round((LAST_T - t) * patient.height / SLICE_INTERVAL_MM).astype(int)
    return (-LAST_T * patient.height + numbers * SLICE_INTERVAL_MM), numbers


def painting_grid(pixels: int, finest: int = 192) -> int:
    """Pixels of the grid on which tissue is painted before it is averaged to ``pixels``."""
    return pixels * max(1, -(-finest // pixels))


def patient_labels(patient: Patient, heights: np.ndarray, extent: Extent, pixels: int, grid: int,
                   label_noise: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """True labels on the painting grid and the reader's labels on the image grid, one of each per slice."""
    lesions, centres = Lesions(Thorax(patient, extent.lung_scale), heights, extent), pixel_centres(grid)
    truth = [lesions.truth(centres, z) for z in heights]
    return truth, [read(one, pixels, label_noise, patient.rng(5, i)) for i, one in enumerate(truth)]


def calibrate(settings: CohortSettings, rounds: int = 5) -> Extent:
    """Finds the extents that give the training part its shares of pixels, on images of 64 x 64.

    The result depends on the settings alone, not on the number of pixels of the dataset.
    """
    patients = draw_cohort(settings, test=False)
    wanted, extent = dict(settings.shares), Extent()
    lung_wanted = sum(wanted.values())
    for _ in range(rounds):
        counts = np.zeros(len(LABELS))
        for patient in patients:
            heights, _numbers = slice_heights(patient, settings.slices)
            _truth, seen = patient_labels(patient, heights, extent, 64, 128, settings.label_noise)
            counts += np.bincount(np.concatenate([s.ravel() for s in seen]), minlength=len(LABELS))
        found = dict(zip(LABELS, np.maximum(counts / counts.sum(), 1e-6), strict=True))
        lung_found = 1 - found["background"]
        extent = Extent(
            lung_scale=extent.lung_scale * float(np.clip(np.sqrt(lung_wanted / lung_found), 0.8, 1.25)),
            emphysema=extent.emphysema * float(np.clip(wanted["emphysema"] / found["emphysema"]
                                                       * lung_found / lung_wanted, 0.3, 3)),
            ild=extent.ild * float(np.clip(wanted["ILD"] / found["ILD"] * lung_found / lung_wanted, 0.3, 3)))
    return extent
