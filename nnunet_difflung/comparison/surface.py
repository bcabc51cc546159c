"""Surface figures of segmentations: the Hausdorff distance's 95th percentile, and the normalised surface Dice."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nnunet_difflung.comparison.scores import Scores
from nnunet_difflung.comparison.statistics import mean_without_nan
from nnunet_difflung.comparison.trainings import Trainings
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_PREPROCESSED, NNUNET_RAW

FIGURES = ("hd95_mm", "nsd")
Read = Callable[[Path], tuple[np.ndarray, tuple[float, ...]]]


def surface_scores(
    reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], tolerance: float
) -> tuple[float, float]:
    """Distances between the surfaces (edge voxels) of two masks.

    Args:
        reference: (z, y, x) bool with at least one voxel. A single slice (z = 1) is measured in 2D.
        prediction: the same shape.
        spacing: z, y, x in mm (pixels for formats without a spacing).
        tolerance: in the same unit; surfaces closer than this count as matching.

    Returns:
        HD95, the larger of both directions, and NSD in [0, 1]. For an empty prediction these are the image's diagonal
        and 0, so that a prediction that misses the class counts in the mean.
    """
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    if reference.shape[0] == 1:
        reference, prediction, spacing = reference[0], prediction[0], spacing[1:]
    if not prediction.any():
        return float(np.linalg.norm(np.multiply(reference.shape, spacing))), 0.0
    predicted, expected = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, reference))
    edges = [float(edge) for edge in spacing]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd95 = compute_hausdorff_distance(predicted, expected, include_background=True, percentile=95, spacing=edges)
        nsd = compute_surface_dice(predicted, expected, [float(tolerance)], include_background=True, spacing=edges)
    return float(hd95), float(nsd)


def case_scores(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, ...],
    values: list[list[int]],
    ignore: int | None,
    tolerance: float,
) -> np.ndarray:
    """(classes, 2) HD95 and NSD of a case; NaN for the classes that its reference does not contain.

    Args:
        reference: (z, y, x) label values.
        prediction: the same shape.
        spacing: z, y, x in mm.
        values: label values of each class.
        ignore: label value of voxels that are left out, as in nnU-Net's evaluation; None if there is none.
        tolerance: in mm.
    """
    scores = np.full((len(values), 2), np.nan)
    counted = np.ones(reference.shape, bool) if ignore is None else reference != ignore
    for index, of_class in enumerate(values):
        expected = np.isin(reference, of_class) & counted
        if expected.any():
            scores[index] = surface_scores(expected, np.isin(prediction, of_class) & counted, spacing, tolerance)
    return scores


def collect_surfaces(
    trainings: Trainings, scores: Scores, dataset_json: dict, tolerance: float
) -> dict[str, dict[str, np.ndarray]]:
    """Surface figures of all arms from the segmentations beside their summary.json.

    Returns:
        figure → arm → (classes, seeds, folds, patients): mean over the patient's cases that contain the class, NaN
        for patients without it.

    Raises:
        BadInput: a segmentation or the folder of the references is missing, or the shapes of two segmentations differ.
    """
    labels = dataset_json["labels"]
    values = [labels[name] if isinstance(labels[name], list) else [labels[name]] for name in scores.classes]
    references, ending = _reference_folder(trainings), dataset_json["file_ending"]
    read = _reader(dataset_json)
    surfaces = {
        figure: {arm: np.full(scores.counts[arm].shape[:-1], np.nan) for arm in trainings.arms} for figure in FIGURES
    }
    for arm, seed, fold in trainings.each():
        of_patient: dict[str, list[np.ndarray]] = {}
        for case, patient in scores.cases[fold].items():
            reference, spacing = read(references / f"{case}{ending}")
            path = trainings.scored(seed, arm, fold) / f"{case}{ending}"
            prediction = read(path)[0]
            if prediction.shape != reference.shape:
                raise BadInput(
                    f"{path} has shape {prediction.shape}, expected {reference.shape} as in {references}; predict again"
                )
            of_patient.setdefault(patient, []).append(
                case_scores(reference, prediction, spacing, values, labels.get("ignore"), tolerance)
            )
        s, f = scores.seeds.index(seed), scores.folds.index(fold)
        for patient, of_cases in of_patient.items():
            mean = mean_without_nan(np.stack(of_cases), 0)
            for index, figure in enumerate(FIGURES):
                surfaces[figure][arm][:, s, f, scores.patients.index(patient)] = mean[:, index]
    return surfaces


def _reference_folder(trainings: Trainings) -> Path:
    """The folder of the reference segmentations that nnU-Net scored against."""
    raw, preprocessed = (Path(os.environ.get(v, "")) / trainings.dataset for v in (NNUNET_RAW, NNUNET_PREPROCESSED))
    choices = (raw / "labelsTs",) if trainings.predictions else (preprocessed / "gt_segmentations", raw / "labelsTr")
    for folder in choices:
        if folder.is_dir():
            return folder
    raise BadInput(
        f"--surface needs the reference segmentations in {' or '.join(map(str, choices))}; set nnUNet_raw "
        f"and nnUNet_preprocessed, or leave --surface out"
    )


def _reader(dataset_json: dict) -> Read:
    """Reads label values (z, y, x) and the spacing with nnU-Net's reader of the dataset."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    def read(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
        if not path.is_file():
            raise BadInput(f"{path} is missing; predict again, or leave --surface out")
        with contextlib.redirect_stdout(io.StringIO()):
            reader = determine_reader_writer_from_dataset_json(dataset_json, str(path), verbose=False)
        labels, properties = reader().read_seg(str(path))
        return np.rint(labels[0]).astype(np.int16), tuple(properties["spacing"])

    return read
