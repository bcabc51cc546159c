"""The phantom's patients as a group: who has what, and a calibration to the wanted shares of pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.anatomy import Patient, Thorax, draw_patient
from nnunet_difflung.dataset_conversion.phantom.fields import pixel_centres
from nnunet_difflung.dataset_conversion.phantom.lesions import COARSE_GRID, LABELS, Extent, Lesions, read

SHARES = {"normal_lung": 0.123, "emphysema": 0.003, "ILD": 0.038}  # of all pixels: Diff-Lung, table 1
THICKNESS_MM = 5.0
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


def slice_heights(patient: Patient, slices: int) -> tuple[list[float], list[int]]:
    """Heights of a patient's slices, whole millimetres apart and spread over the lungs, from the base upwards.

    Returns:
        z in mm (negative: below the apex) and each slice's number in a scan of 1 mm steps.
    """
    span = (LAST_T - FIRST_T) * patient.height
    step = max(1, round(span / (slices - 1))) if slices > 1 else 0
    lowest = -(FIRST_T + LAST_T) / 2 * patient.height - step * (slices - 1) / 2
    return [lowest + i * step for i in range(slices)], [i * step for i in range(slices)]


def painting_grid(pixels: int, finest: int = 144) -> int:
    """Pixels of the grid on which tissue is painted before it is averaged to ``pixels``."""
    return pixels * max(1, -(-finest // pixels))


def patient_labels(
    patient: Patient, heights: list[float], extent: Extent, pixels: int, grid: int, label_noise: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """True labels on the painting grid and the reader's labels on the image grid, one of each per slice."""
    lesions, centres = Lesions(Thorax(patient, extent.lung_scale), heights, extent), pixel_centres(grid)
    truth = [lesions.truth(centres, z) for z in heights]
    return truth, [read(one, pixels, label_noise, patient.rng(5, i)) for i, one in enumerate(truth)]


def calibrate(settings: CohortSettings, pixels: int, rounds: int = 4) -> Extent:
    """Finds the extents that give the training part its shares of pixels.

    A search on coarse masks, then one correction by what readers draw on images of ``pixels`` x ``pixels`` (or
    64 x 64, if that is less: finer images change the shares by little and would cost more than they gain).
    """
    pixels = min(pixels, COARSE_GRID)
    patients = draw_cohort(settings, test=False)
    heights = [slice_heights(patient, settings.slices)[0] for patient in patients]
    wanted = dict(settings.shares)
    scale = 1.0
    x, y = pixel_centres(COARSE_GRID)[None], pixel_centres(COARSE_GRID)[:, None]
    for _ in range(rounds):
        found = np.mean(
            [
                np.mean(Thorax(patient, scale).lungs(x, y, z) < 0)
                for patient, its in zip(patients, heights, strict=True)
                for z in its
            ]
        )
        scale *= float(np.clip(np.sqrt(sum(wanted.values()) / found), 0.8, 1.25))
    extent = Extent(lung_scale=scale)
    everyone = [Lesions(Thorax(p, scale), its, extent) for p, its in zip(patients, heights, strict=True)]
    for _ in range(2 * rounds):
        masks = []
        for lesions in everyone:
            lesions.set_extent(extent)
            masks += [
                read(truth, COARSE_GRID, settings.label_noise, lesions.thorax.patient.rng(5, i))
                for i, truth in enumerate(lesions.coarse_truth())
            ]
        extent = _corrected(extent, masks, wanted)
    masks = []
    for patient, its in zip(patients, heights, strict=True):
        masks += patient_labels(patient, its, extent, pixels, painting_grid(pixels), settings.label_noise)[1]
    return _corrected(extent, masks, wanted)


def _corrected(extent: Extent, masks: list[np.ndarray], wanted: dict[str, float]) -> Extent:
    """Extents changed in proportion to what the masks lack of the wanted shares."""
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=len(LABELS)) + 1
    found = dict(zip(LABELS, counts / counts.sum(), strict=True))
    factor = {name: float(np.clip(wanted[name] / found[name], 0.4, 2.5)) for name in wanted}
    return replace(extent, emphysema=extent.emphysema * factor["emphysema"], ild=extent.ild * factor["ILD"])
