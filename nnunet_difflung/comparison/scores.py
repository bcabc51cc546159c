"""Reads nnU-Net's summary.json files of the arms as arrays of voxel counts per seed, fold and patient."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from nnunet_difflung.comparison.own_validation import check_validations
from nnunet_difflung.comparison.statistics import mean_without_nan, pool
from nnunet_difflung.comparison.trainings import Trainings
from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import find_manifest
from nnunet_difflung.paths import SPLITS, dataset_folders
from nnunet_difflung.patients.reading import also_among, find_reading
from nnunet_difflung.patients.record import read_record
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.messages import quiet, warn

Cases = dict[str, np.ndarray]  # case id → (classes, 3) voxels: true positive, false positive, false negative


@dataclass(frozen=True)
class Scores:
    """Voxel counts of every arm.

    Attributes:
        classes: names of the foreground labels.
        seeds: names of the repetitions.
        folds: numbers, or ``all``.
        patients: names, sorted.
        cases: fold → case id → patient.
        counts: arm → (classes, seeds, folds, patients, 3) TP, FP, FN; NaN where a patient is not in a fold.
        per_case: arm → (classes, seeds, folds) Dice, averaged over the cases that have a value, as nnU-Net does.
    """

    classes: tuple[str, ...]
    seeds: tuple[str, ...]
    folds: tuple[int | str, ...]
    patients: tuple[str, ...]
    cases: dict[int | str, dict[str, str]]
    counts: dict[str, np.ndarray]
    per_case: dict[str, np.ndarray]

    def holds(self) -> np.ndarray:
        """(classes, folds, patients) bool: whether the class is in the patient's reference segmentations."""
        counts = next(iter(self.counts.values()))[:, 0]
        return counts[..., 0] + counts[..., 2] > 0

    def dice(self, arm: str) -> np.ndarray:
        """(classes, seeds, folds, patients) pooled Dice of the patients whose reference holds the class, else NaN."""
        return np.where(self.holds()[:, None], pool(self.counts[arm]), np.nan)

    def false_positives(self, arm: str) -> np.ndarray:
        """(classes, seeds, folds, patients) voxels predicted in patients without the class, else NaN."""
        return np.where(self.holds()[:, None], np.nan, self.counts[arm][..., 1])

    def pooled(self, arm: str) -> np.ndarray:
        """(classes, seeds, folds) Dice over all voxels of a fold."""
        return pool(np.nansum(self.counts[arm], axis=3))


def foreground(trainings: Trainings) -> tuple[dict, dict[str, str]]:
    """The dataset.json that the trainings used, and its classes: name → key in nnU-Net's summary.json.

    Raises:
        BadInput: no dataset.json beside the trainings.
    """
    training = trainings.training(next(iter(trainings.results)), trainings.arms[0], trainings.folds[0])
    path = training.parent / "dataset.json"
    if not path.is_file():
        raise BadInput(
            f"{path} is missing; nnU-Net writes it beside the folds of a training, so copy it from the "
            f"dataset's folder in nnUNet_raw"
        )
    content = read_json(path)
    keys = {name: str(tuple(value) if isinstance(value, list) else value) for name, value in content["labels"].items()}
    return content, {name: key for name, key in keys.items() if name != "ignore" and key != "0"}


def read_summary(path: Path, classes: dict[str, str], file_ending: str) -> Cases:
    """The voxel counts in nnU-Net's summary.json.

    Args:
        path: path of the file.
        classes: name → key, from ``foreground``.
        file_ending: of the dataset's files; the name of a predicted file without it is the case id.

    Raises:
        BadInput: the file is not such a summary, lists no case, or lists a case twice.
    """
    cases: Cases = {}
    try:
        for entry in read_json(path)["metric_per_case"]:
            name = Path(entry["prediction_file"]).name.removesuffix(file_ending)
            if name in cases:
                raise BadInput(f"{path} lists case {name} twice; evaluate again")
            cases[name] = np.array(
                [[entry["metrics"][key][count] for count in ("TP", "FP", "FN")] for key in classes.values()], float
            )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"{path} is not a summary.json of the classes {', '.join(classes)} ({error!r}); evaluate again "
            f"with nnUNetv2_evaluate_folder, or nnUNetv2_train … --val"
        ) from error
    if not cases:
        raise BadInput(f"{path} lists no case; check that the predictions are in this folder and evaluate again")
    return cases


def case_patients(
    cases: Iterable[str], dataset: str, pattern: str | None = None, file: Path | None = None
) -> dict[str, str]:
    """Case id → patient: as stated, else as recorded by an earlier command, else as ids or splits say.

    Args:
        cases: ids of the scored cases.
        dataset: ``DatasetXXX_NAME``.
        pattern: regular expression whose first group is the patient.
        file: CSV or JSON file of patients.

    Raises:
        BadInput: it is not known who the patients are, or what is stated contradicts the record.
    """
    scored = sorted(set(cases))
    splits, where = _splits_of(dataset)
    listed = {case for split in splits or () for side in ("train", "val") for case in split[side]}
    in_splits = splits is not None and set(scored) <= listed
    undecided = pattern is None and file is None and read_record(dataset) is None
    judged = sorted({case for case in listed if not is_synthetic(case)}) if undecided and in_splits else scored
    reading = find_reading(dataset, judged, pattern, file, splits if in_splits else None, where)
    origin = [reading.origin()] if undecided else []  # else it was stated, or shown when it was recorded
    for line in (*reading.lines(), *origin):
        if line.startswith("Warning: "):
            warn(line)
        elif not quiet():
            print(line, file=sys.stderr)
    return {case: reading.patients[case] for case in scored}


def _splits_of(dataset: str) -> tuple[list[dict] | None, str]:
    for folder in dataset_folders(dataset):
        if folder is not None and (folder / SPLITS).is_file():
            return read_json(folder / SPLITS), str(folder / SPLITS)
    return None, ""


def check_cases(summaries: dict[tuple[str, str, int | str], Cases], trainings: Trainings, names: list[str]) -> None:
    """Refuses trainings that were not scored on the same real cases with the same references.

    Args:
        summaries: (arm, seed, fold) → voxel counts of the cases.
        trainings: the trainings that were scored, for messages.
        names: names of the classes.

    Raises:
        BadInput: two summaries cannot be paired, or one lists a synthetic case; names the file and the case.
    """
    again = ("train and validate" if trainings.predictions is None else "predict and evaluate") + " again"
    injected = _injected(trainings.dataset)
    first: dict[int | str, tuple[Path, Cases]] = {}
    for (arm, seed, fold), cases in summaries.items():
        path = trainings.scored(seed, arm, fold) / "summary.json"
        synthetic = sorted(case for case in cases if _painted(case, injected))
        if synthetic:
            raise BadInput(
                f"{path} scores the synthetic case {synthetic[0]} ({len(synthetic)} such cases), expected "
                f"only real cases; use the trainers of this package, which validate on real cases, and "
                f"{again}"
            )
        first_path, expected = first.setdefault(fold, (path, cases))
        unpaired = sorted(set(cases) ^ set(expected))
        if unpaired:
            raise BadInput(
                f"{path} and {first_path} were scored on different cases, so patients cannot be paired: "
                f"{unpaired[0]} is in only one of them ({len(unpaired)} such cases); {again} with the same splits"
            )
        for case, counts in cases.items():
            differ = counts[:, [0, 2]].sum(1) != expected[case][:, [0, 2]].sum(1)
            if differ.any():
                raise BadInput(
                    f"{path} and {first_path} were scored against different references: case {case} has different "
                    f"numbers of {names[int(np.argmax(differ))]} voxels; {again} with the same labels"
                )


def _injected(dataset: str) -> set[str]:
    return set((find_manifest(dataset) or {"cases": {}})["cases"])


def _painted(case: str, injected: set[str]) -> bool:
    return is_synthetic(case) or case in injected


def _check_unseen(trainings: Trainings, summaries: Iterable[tuple[tuple[str, str, int | str], Cases]]) -> None:
    """Refuses predictions of cases that the fold's network was trained on, by the folds if they are known."""
    files = [folder / SPLITS for folder in dataset_folders(trainings.dataset) if folder and (folder / SPLITS).is_file()]
    known = {file: read_json(file) for file in files}
    for ((arm, seed, fold), cases), (file, splits) in product(summaries, known.items()):
        of_fold = splits if fold == "all" else splits[int(fold) : int(fold) + 1]
        sides = ("train", "val") if fold == "all" else ("train",)
        if seen := sorted({case for split in of_fold for side in sides for case in split[side]}.intersection(cases)):
            raise BadInput(
                f"{trainings.scored(seed, arm, fold)} has predictions of {seen[0]} ({len(seen)} such cases), a "
                f"training case of fold {fold} in {file}; predict cases that are in no fold, such as imagesTs"
            )


def _check_unseen_patients(
    trainings: Trainings,
    summaries: Iterable[tuple[tuple[str, str, int | str], Cases]],
    pattern: str | None,
    file: Path | None,
) -> None:
    """Refuses predictions of patients whom the fold's network was trained on; warns if ids alone say who they are."""
    splits, where = _splits_of(trainings.dataset)
    if splits is None:
        return
    for (arm, seed, fold), cases in summaries:
        of_fold = splits if fold == "all" else splits[int(fold) : int(fold) + 1]
        training = sorted({case for split in of_fold for case in split["train"] if not is_synthetic(case)})
        both, stated = also_among(trainings.dataset, training, sorted(cases), pattern, file)
        if not both:
            continue
        case, patient = min(both.items())
        first, scored = f"{len(both)} such cases, first: {case} of {patient}", trainings.scored(seed, arm, fold)
        if stated:
            raise BadInput(
                f"{scored} has predictions of patients whom fold {fold} in {where} is trained on ({first}); predict "
                f"and evaluate cases of other patients"
            )
        warn(
            f"{scored} has predictions of patients whom fold {fold} in {where} is trained on, if the ids say rightly "
            f"who they are ({first}); say who the patients are with --patients FILE"
        )
        return


def collect(
    trainings: Trainings,
    classes: dict[str, str],
    file_ending: str,
    pattern: str | None = None,
    file: Path | None = None,
) -> Scores:
    """Reads all summaries, checks that they can be paired, and adds up each patient's cases.

    Raises:
        BadInput: see ``read_summary``, ``check_validations``, ``check_cases`` and ``case_patients``; or predictions are
            of training cases.
    """
    summaries = {
        (arm, seed, fold): read_summary(trainings.scored(seed, arm, fold) / "summary.json", classes, file_ending)
        for arm, seed, fold in trainings.each()
    }
    if trainings.predictions is None:
        injected = _injected(trainings.dataset)
        check_validations(
            trainings,
            ((place, {case for case in cases if not _painted(case, injected)}) for place, cases in summaries.items()),
        )
    check_cases(summaries, trainings, list(classes))
    if trainings.predictions is not None:
        _check_unseen(trainings, summaries.items())
        _check_unseen_patients(trainings, summaries.items(), pattern, file)
    patient_of = case_patients(
        (case for cases in summaries.values() for case in cases), trainings.dataset, pattern, file
    )
    return added_up(summaries, trainings, tuple(classes), patient_of)


def added_up(
    summaries: dict[tuple[str, str, int | str], Cases],
    trainings: Trainings,
    classes: tuple[str, ...],
    patient_of: dict[str, str],
) -> Scores:
    """Adds up each patient's cases.

    Args:
        summaries: (arm, seed, fold) → voxel counts of the cases; all of the trainings, scored on the same cases.
        trainings: the trainings that were scored.
        classes: names of the foreground labels.
        patient_of: case id → patient.
    """
    patients = tuple(sorted({patient_of[case] for cases in summaries.values() for case in cases}))
    seeds, shape = tuple(trainings.results), (len(classes), len(trainings.results), len(trainings.folds))
    counts = {arm: np.full((*shape, len(patients), 3), np.nan) for arm in trainings.arms}
    per_case = {arm: np.full(shape, np.nan) for arm in trainings.arms}
    for (arm, seed, fold), cases in summaries.items():
        s, f = seeds.index(seed), trainings.folds.index(fold)
        for case in sorted(cases):
            of_patient = counts[arm][:, s, f, patients.index(patient_of[case])]
            of_patient[:] = np.where(np.isnan(of_patient), 0, of_patient) + cases[case]
        per_case[arm][:, s, f] = mean_without_nan(pool(np.stack([cases[case] for case in sorted(cases)])), 0)
    arm, seed = trainings.arms[0], seeds[0]  # all other trainings were scored on the same cases
    return Scores(
        classes,
        seeds,
        trainings.folds,
        patients,
        {fold: {case: patient_of[case] for case in sorted(summaries[arm, seed, fold])} for fold in trainings.folds},
        counts,
        per_case,
    )
