"""Figures of small patches of lung, of real ones and of the phantom's, by which the phantom's texture was fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.anatomy import Patient, Thorax, draw_patient
from nnunet_difflung.dataset_conversion.phantom.emphysema import FORMS
from nnunet_difflung.dataset_conversion.phantom.fields import pixel_centres
from nnunet_difflung.dataset_conversion.phantom.lesions import LABELS, Extent, FormedLesions
from nnunet_difflung.dataset_conversion.phantom.parenchyma import FINE_GRID, Painter
from nnunet_difflung.dataset_conversion.phantom.scanner import draw_scanner

PATCH = 31  # pixels of 0.7 mm, as those of the real patches
LUNG_BELOW_HU = -500.0  # pixels above it are vessels or chest wall
LUNG_SHARE = {"paraseptal": (0.5, 0.92)}  # of a patch; other forms: at least 0.9
LUNG_SCALE = 1.0  # of the cavity
ROW_MM = 11.0  # depth of the border that is filled with paraseptal emphysema
CIP_CLASSES = {"normal": "NT", "mild": "CL1", "moderate": "CL2", "severe": "CL3", "paraseptal": "PS"}
# ``figures`` of 893 patches of the Chest Imaging Platform (github.com/acil-bwh/ChestImagingPlatform, BSD-style licence)
# that a reader labelled with one of these forms; nothing but these figures was taken from them
CIP_FIGURES: dict[str, dict[str, float]] = {
    "normal": {
        "mean": -884.678,
        "sd": 51.731,
        "below_950": 0.024,
        "correlation_1": 0.788,
        "correlation_2": 0.464,
        "correlation_4": 0.146,
        "auc_of_mean": 0.5,
    },
    "mild": {
        "mean": -881.393,
        "sd": 61.044,
        "below_950": 0.078,
        "correlation_1": 0.8,
        "correlation_2": 0.463,
        "correlation_4": 0.094,
        "auc_of_mean": 0.478,
    },
    "moderate": {
        "mean": -909.168,
        "sd": 66.959,
        "below_950": 0.298,
        "correlation_1": 0.825,
        "correlation_2": 0.519,
        "correlation_4": 0.153,
        "auc_of_mean": 0.766,
    },
    "severe": {
        "mean": -945.842,
        "sd": 57.476,
        "below_950": 0.617,
        "correlation_1": 0.805,
        "correlation_2": 0.485,
        "correlation_4": 0.138,
        "auc_of_mean": 0.97,
    },
    "paraseptal": {
        "mean": -896.527,
        "sd": 88.78,
        "below_950": 0.278,
        "correlation_1": 0.936,
        "correlation_2": 0.828,
        "correlation_4": 0.631,
        "auc_of_mean": 0.58,
    },
}


def figures(patches: np.ndarray, normal: np.ndarray) -> dict[str, float]:
    """Summary figures of patches of one kind.

    Args:
        patches: (n, y, x) HU.
        normal: (m, y, x) HU of normal lung.

    Returns:
        ``mean`` and ``sd`` (within a patch) of pixels below -500 HU, averaged over patches; ``below_950``: share of all
        pixels; ``correlation_K``: between pixels K apart, of HU cut off at -500, K = 1, 2, 4; ``auc_of_mean``: how well
        a patch's mean tells it from normal lung, 0.5 for not at all, above 0.5 if it is darker.
    """
    means = _lung_means(patches)
    cut = np.minimum(patches, LUNG_BELOW_HU).astype(np.float64)
    cut -= cut.mean(axis=(1, 2), keepdims=True)
    lung = np.where(patches < LUNG_BELOW_HU, patches, np.nan)
    result = {
        "mean": float(means.mean()),
        "sd": float(np.nanstd(lung, axis=(1, 2)).mean()),
        "below_950": float((patches < -950).mean()),
    }
    for k in (1, 2, 4):
        along = (cut[:, k:] * cut[:, :-k]).mean(axis=(1, 2)) + (cut[:, :, k:] * cut[:, :, :-k]).mean(axis=(1, 2))
        result[f"correlation_{k}"] = float((along / 2 / (cut**2).mean(axis=(1, 2))).mean())
    darker = means[:, None] - _lung_means(normal)[None]
    return result | {"auc_of_mean": float((darker < 0).mean() + 0.5 * (darker == 0).mean())}


def _lung_means(patches: np.ndarray) -> np.ndarray:
    return np.nanmean(np.where(patches < LUNG_BELOW_HU, patches, np.nan), axis=(1, 2))


def phantom_patches(form: str, patients: int, seed: int, each: int = 12) -> np.ndarray:
    """Patches (n, 31, 31) of one form of the phantom's emphysema, or of normal lung, at 0.7 mm.

    The lung is filled with the form, or its border for the paraseptal form, since a patch that a reader has labelled
    lies inside of an area. Patients, scanners and heights are drawn as for a dataset.

    Args:
        form: a key of ``FORMS``, or ``normal``.
        patients: number of slices, each of another patient.
        seed: of the patients.
        each: patches of a slice.
    """
    found: list[np.ndarray] = []
    for i in range(patients):
        patient = draw_patient((seed, 2, i), form in FORMS)
        patient = replace(patient, form=form if form in FORMS else "", ild=0.0, scanner=draw_scanner(patient.rng(7)))
        found += _patches_of(patient, each)
    return np.stack(found)


def _patches_of(patient: Patient, each: int) -> list[np.ndarray]:
    from scipy import ndimage

    rng, form = patient.rng(8), patient.form
    z = -float(rng.uniform(0.25, 0.6)) * patient.height
    thorax = Thorax(patient, LUNG_SCALE)
    centres = pixel_centres(FINE_GRID // 2)
    lung = FormedLesions(thorax, [z], Extent()).lung(centres, z)
    depth = ndimage.distance_transform_edt(lung) * float(centres[1] - centres[0])
    rows = (depth < ROW_MM) & lung if form == "paraseptal" else np.zeros_like(lung)
    lesion = rows if form == "paraseptal" else lung if form else np.zeros_like(lung)
    truth = np.where(lesion, LABELS["emphysema"], lung * LABELS["normal_lung"]).astype(np.uint8)
    image = Painter(thorax).slice(truth, rows, z, FINE_GRID, patient.rng(4, 0))
    low, high = LUNG_SHARE.get(form, (0.9, 1.0))
    places = np.argwhere(lesion if form else lung) * 2
    found: list[np.ndarray] = []
    for row, column in rng.permutation(places)[: 20 * each] - PATCH // 2:
        patch = image[row : row + PATCH, column : column + PATCH]
        if len(found) < each and patch.shape == (PATCH, PATCH) and low <= (patch < LUNG_BELOW_HU).mean() <= high:
            found.append(patch)
    return found
