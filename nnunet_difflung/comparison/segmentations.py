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
from nnunet_difflung.dataset.raw_dataset import read_whole
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
        expected, predicted = (np.isin(labels, of_class) & counted for labels in (reference, prediction))
        counts = lesions.count_lesions(expected, predicted, spacing)
        rows.append((counts.lesions, counts.detected, counts.false))
    return np.array(rows, float)


def collect_segmentations(
    trainings: Trainings, scores: Scores, dataset_json: dict, with_lesions: bool, tolerance: float | None
) -> dict[str, dict[str, np.ndarray]]:
    """Lesion-wise and surface figures of all arms, from the segmentations beside their summary.json.

    Args:
        trainings: the trainings to read.
        scores: their cases and patients.
        dataset_json: content of the dataset's dataset.json.
        with_lesions: whether to count lesions.
        tolerance: of the surface Dice in mm; None leaves the surfaces out.

    Returns:
        figure → arm → (classes, seeds, folds, patients). Surfaces are averaged over the patient's cases that contain
        the class; lesions are added up over the patient's cases. NaN for patients without the class, or without a
        lesion, except for false lesions.

    Raises:
        BadInput: a segmentation or the folder of the references is missing, a segmentation is damaged, or the shapes
            of two of them differ.
    """
    names = (*(lesions.FIGURES if with_lesions else ()), *(surface.FIGURES if tolerance is not None else ()))
    if not names:
        return {}
    figures = {name: {arm: np.full(scores.counts[arm].shape[:-1], np.nan) for arm in trainings.arms} for name in names}
    labels = dataset_json["labels"]
    values = [labels[name] if isinstance(labels[name], list) else [labels[name]] for name in scores.classes]
    ignore, pairs = labels.get("ignore"), _Pairs(trainings, dataset_json)
    for arm, seed, fold in trainings.each():
        counts: dict[str, list[np.ndarray]] = {}
        surfaces: dict[str, list[np.ndarray]] = {}
        for case, patient in scores.cases[fold].items():
            pair = pairs.read(case, arm, seed, fold)
            if with_lesions:
                counts.setdefault(patient, []).append(lesion_scores(*pair, values, ignore))
            if tolerance is not None:
                surfaces.setdefault(patient, []).append(surface.case_scores(*pair, values, ignore, tolerance))
        s, f = scores.seeds.index(seed), scores.folds.index(fold)
        for patient in set(scores.cases[fold].values()):
            of_patient = [*_lesions(counts.get(patient)), *_surfaces(surfaces.get(patient))]
            for name, value in zip(names, of_patient, strict=True):
                figures[name][arm][:, s, f, scores.patients.index(patient)] = value
    return figures


def _lesions(of_cases: list[np.ndarray] | None) -> list[np.ndarray]:
    """Lesion sensitivity and number of false lesions of a patient, (classes,) each."""
    if of_cases is None:
        return []
    total, detected, false = np.sum(of_cases, axis=0).T
    return [np.divide(detected, total, out=np.full(len(total), np.nan), where=total > 0), false]


def _surfaces(of_cases: list[np.ndarray] | None) -> list[np.ndarray]:
    """HD95 and surface Dice of a patient, (classes,) each."""
    return [] if of_cases is None else list(mean_without_nan(np.stack(of_cases), 0).T)


class _Pairs:
    """Reads a case's reference and prediction with nnU-Net's reader of the dataset."""

    def __init__(self, trainings: Trainings, dataset_json: dict) -> None:
        self.trainings, self.ending = trainings, dataset_json["file_ending"]
        self.references, self.reader = reference_folder(trainings), reader_of(dataset_json)

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


def reference_folder(trainings: Trainings) -> Path:
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


def reader_of(dataset_json: dict) -> Read:
    """Reads label values (z, y, x) and the spacing with nnU-Net's reader of the dataset."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    def read(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
        if not path.is_file():
            raise BadInput(f"{path} is missing; predict again, or leave --lesions and --surface out")
        with contextlib.redirect_stdout(io.StringIO()):
            reader = determine_reader_writer_from_dataset_json(dataset_json, str(path), verbose=False)
        labels, properties = read_whole(reader().read_seg, str(path))
        return np.rint(labels[0]).astype(np.int16), tuple(properties["spacing"])

    return read
