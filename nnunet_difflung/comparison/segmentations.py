"""Figures that need the segmentations themselves: every file is read once for all of them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nnunet_difflung.comparison import lesions, surface
from nnunet_difflung.comparison.scores import Scores
from nnunet_difflung.comparison.statistics import mean_without_nan
from nnunet_difflung.comparison.trainings import Trainings
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_PREPROCESSED, NNUNET_RAW

Read = Callable[[Path], tuple[np.ndarray, tuple[float, ...]]]


def lesion_scores(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, ...],
    values: list[list[int]],
    ignore: int | None,
) -> np.ndarray:
    """(classes, 3) numbers of lesions, of detected and of false ones in a case; see ``lesions.count_lesions``.

    Args:
        reference: (z, y, x) label values.
        prediction: the same shape.
        spacing: z, y, x in mm.
        values: label values of each class.
        ignore: label value of voxels that are left out; None if there is none.
    """
    counted = np.ones(reference.shape, bool) if ignore is None else reference != ignore
    rows = []
    for of_class in values:
        masks = (np.isin(labels, of_class) & counted for labels in (reference, prediction))
        counts = lesions.count_lesions(*masks, spacing)
        rows.append((counts.lesions, counts.detected, counts.false))
    return np.array(rows, float)


def collect_segmentations(
    trainings: Trainings, scores: Scores, dataset_json: dict, tolerance: float | None
) -> dict[str, dict[str, np.ndarray]]:
    """Lesion-wise figures of all arms and, with a tolerance, those of surfaces, from the files beside summary.json.

    Args:
        trainings: the trainings to read.
        scores: their cases and patients.
        dataset_json: content of the dataset's dataset.json.
        tolerance: of the surface Dice in mm; None leaves the surfaces out.

    Returns:
        figure → arm → (classes, seeds, folds, patients). Surfaces are averaged over the patient's cases that contain
        the class; lesions are added up over the patient's cases. NaN for patients without the class, or without a
        lesion, except for false lesions.

    Raises:
        BadInput: a segmentation or the folder of the references is missing, or the shapes of two segmentations differ.
    """
    names = (*lesions.FIGURES, *(surface.FIGURES if tolerance is not None else ()))
    figures = {name: {arm: np.full(scores.counts[arm].shape[:-1], np.nan) for arm in trainings.arms} for name in names}
    labels = dataset_json["labels"]
    values = [labels[name] if isinstance(labels[name], list) else [labels[name]] for name in scores.classes]
    ignore, pairs = labels.get("ignore"), _Pairs(trainings, dataset_json)
    for arm, seed, fold in trainings.each():
        of_patient: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = {}
        for case, patient in scores.cases[fold].items():
            case_pair = pairs.read(case, arm, seed, fold)
            of_surface = None if tolerance is None else surface.case_scores(*case_pair, values, ignore, tolerance)
            of_patient.setdefault(patient, []).append((lesion_scores(*case_pair, values, ignore), of_surface))
        s, f = scores.seeds.index(seed), scores.folds.index(fold)
        for patient, of_cases in of_patient.items():
            for name, value in zip(names, _of_patient(of_cases), strict=True):
                figures[name][arm][:, s, f, scores.patients.index(patient)] = value
    return figures


def _of_patient(of_cases: list[tuple[np.ndarray, np.ndarray | None]]) -> list[np.ndarray]:
    """The figures of a patient (classes,): lesion sensitivity, false lesions and, if they were computed, surfaces."""
    total, detected, false = np.sum([of_lesions for of_lesions, _ in of_cases], axis=0).T
    sensitivity = np.divide(detected, total, out=np.full(len(total), np.nan), where=total > 0)
    surfaces = [of_surface for _, of_surface in of_cases if of_surface is not None]
    return [sensitivity, false, *(mean_without_nan(np.stack(surfaces), 0).T if surfaces else ())]


class _Pairs:
    """Reads a case's reference and prediction with nnU-Net's reader of the dataset."""

    def __init__(self, trainings: Trainings, dataset_json: dict) -> None:
        self.trainings, self.ending = trainings, dataset_json["file_ending"]
        self.references, self.reader = _reference_folder(trainings), _reader(dataset_json)

    def read(self, case: str, arm: str, seed: str, fold: int | str) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
        """Label values (z, y, x) of the reference and of the prediction, and the spacing in mm."""
        reference, spacing = self.reader(self.references / f"{case}{self.ending}")
        path = self.trainings.scored(seed, arm, fold) / f"{case}{self.ending}"
        prediction = self.reader(path)[0]
        if prediction.shape != reference.shape:
            raise BadInput(
                f"{path} has shape {prediction.shape}, expected {reference.shape} as in {self.references}; "
                f"predict again"
            )
        return reference, prediction, spacing


def _reference_folder(trainings: Trainings) -> Path:
    """The folder of the reference segmentations that nnU-Net scored against."""
    raw, preprocessed = (Path(os.environ.get(v, "")) / trainings.dataset for v in (NNUNET_RAW, NNUNET_PREPROCESSED))
    choices = (raw / "labelsTs",) if trainings.predictions else (preprocessed / "gt_segmentations", raw / "labelsTr")
    for folder in choices:
        if folder.is_dir():
            return folder
    raise BadInput(
        f"--lesions and --surface need the reference segmentations in {' or '.join(map(str, choices))}; set "
        f"nnUNet_raw and nnUNet_preprocessed, or leave these options out"
    )


def _reader(dataset_json: dict) -> Read:
    """Reads label values (z, y, x) and the spacing with nnU-Net's reader of the dataset."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    def read(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
        if not path.is_file():
            raise BadInput(f"{path} is missing; predict again, or leave --lesions and --surface out")
        with contextlib.redirect_stdout(io.StringIO()):
            reader = determine_reader_writer_from_dataset_json(dataset_json, str(path), verbose=False)
        labels, properties = reader().read_seg(str(path))
        return np.rint(labels[0]).astype(np.int16), tuple(properties["spacing"])

    return read
