"""The cases of a training, and the checks before it: nothing that validates it may have taught it anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from nnunet_difflung.audit.array_files import identifiers
from nnunet_difflung.audit.audit import audit
from nnunet_difflung.audit.preprocessed import compare_preprocessed
from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.leaks import first_names
from nnunet_difflung.injection.manifest import MANIFEST
from nnunet_difflung.paths import DATASET, SPLITS, dataset_folders, dataset_id
from nnunet_difflung.patients.ids import UnknownPatients
from nnunet_difflung.patients.reading import find_reading
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.wording import counted, quoted
from nnunet_difflung.trainers.synthetic_cases import manifest as manifest_of
from nnunet_difflung.trainers.synthetic_cases import run_without_cases, why_none


class Arm(Protocol):
    """What the checks need to know of a trainer of this package; the names are nnU-Net's but for three."""

    plans_manager: Any
    configuration_manager: Any
    configuration_name: str
    fold: int | str
    preprocessed_dataset_folder: str
    preprocessed_dataset_folder_base: str
    is_cascaded: bool
    folder_with_segs_from_previous_stage: str
    method: str
    use_synthetic: ClassVar[bool]

    @classmethod
    def reference_name(cls) -> str:
        """The trainer of the real cases alone that differs from this one in nothing else."""

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Writes a line to the log of the training."""


@dataclass(frozen=True)
class TrainingCases:
    """Ids of the cases of a training.

    Attributes:
        real: real training cases.
        synthetic: synthetic training cases.
        validation: validation cases.
    """

    real: list[str]
    synthetic: list[str]
    validation: list[str]


def check_split(trainer: Arm) -> None:
    """Refuses where nnU-Net would draw folds of its own over real and synthetic cases.

    Raises:
        RuntimeError: one line that says what is wrong and what to do.
    """
    name, fold = trainer.plans_manager.dataset_name, trainer.fold
    if trainer.is_cascaded and trainer.use_synthetic:
        raise RuntimeError(
            f"{trainer.configuration_name} needs a segmentation by {trainer.configuration_manager.previous_stage_name} "
            f"of each training case, and synthetic cases have none, since no model is validated on them; train "
            f"another configuration (3d_fullres or {trainer.configuration_manager.previous_stage_name}), or use "
            f"-tr {trainer.reference_name()}, which trains on the real cases"
        )
    if not identifiers(Path(trainer.preprocessed_dataset_folder)):
        raise RuntimeError(f"{trainer.preprocessed_dataset_folder} holds no case; run {preprocess_command(trainer)}")
    if fold == "all":
        return
    path = Path(trainer.preprocessed_dataset_folder_base) / SPLITS
    if not path.is_file():
        _refuse_new_splits(trainer, path)
        return
    number = _number_of_folds(path)
    if int(fold) >= number:
        raise RuntimeError(
            f"fold {fold} is not in {path}, which has {number} folds, 0 to {number - 1}; train one of these, since "
            f"nnU-Net would draw a random fold over real and synthetic cases of {name}"
        )


def _number_of_folds(path: Path) -> int:
    try:
        splits = read_json(path)
        lists = [split[side] for split in splits for side in ("train", "val")]
        if lists and all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in lists):
            return len(splits)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise RuntimeError(
        f"{path} is not a split file; expected a JSON list of {{'train': [...], 'val': [...]}}, one for each fold; "
        f"restore it from a copy"
    )


def _refuse_new_splits(trainer: Arm, path: Path) -> None:
    """Lets nnU-Net make folds only where no others exist and there is no synthetic case."""
    name = trainer.plans_manager.dataset_name
    raw, _ = dataset_folders(name)
    if raw is not None and (raw / SPLITS).is_file():
        raise RuntimeError(
            f"{path} is missing, and nnU-Net would make other folds than those in {raw / SPLITS}; copy that file: "
            f"cp {quoted(raw / SPLITS, path)}"
        )
    if manifest_of(name)["cases"]:
        raise RuntimeError(
            f"{path} is missing, and nnU-Net would make new folds over real and synthetic cases; restore the file from "
            f"a copy, or start over: difflung_remove -d {quoted(name)}, then difflung_augment -d {quoted(name)}"
        )
    left = {key for key in identifiers(Path(trainer.preprocessed_dataset_folder)) if is_synthetic(key)}
    if left:
        raise RuntimeError(
            f"{path} is missing, and nnU-Net would make new folds with the synthetic cases {first_names(left)}, which "
            f"are no longer in the dataset; run {preprocess_command(trainer)}"
        )


def check_cases(trainer: Arm, cases: TrainingCases) -> None:
    """Refuses a training that lacks cases, whose audit fails, or whose arrays are not those of the dataset.

    Raises:
        RuntimeError: one line that says what is wrong and what to do.
    """
    _check_synthetic(trainer, cases)
    _check_present(trainer, cases)
    name = trainer.plans_manager.dataset_name
    result = audit(name, deep=True)
    if result.problems:
        raise RuntimeError(
            f"the leak audit of {name} failed with {len(result.problems)} problem(s), the first: "
            f"{result.problems[0].text}. List all problems: difflung_audit -d {quoted(name)}"
        )
    _check_sides(trainer, cases)
    _check_known(trainer, cases)
    used = {*cases.real, *cases.synthetic, *cases.validation}
    folder, plans = Path(trainer.preprocessed_dataset_folder), trainer.plans_manager.plans_name
    compared = compare_preprocessed(name, folder, used, progress=True, plans=plans)
    if compared.problems:
        raise RuntimeError(compared.problems[0].text)
    for note in (*result.notes, *compared.notes):
        trainer.print_to_log_file(f"Audit of {name}: {note}")


def _check_synthetic(trainer: Arm, cases: TrainingCases) -> None:
    name, fold, method = trainer.plans_manager.dataset_name, trainer.fold, trainer.method
    if cases.synthetic or not trainer.use_synthetic:
        return
    run = run_without_cases(manifest_of(name), method, fold)
    if run is not None:
        why, wanted = why_none(run)
        trainer.print_to_log_file(
            f"{'' if wanted else 'WARNING: '}difflung_augment added no case of method '{method}' to fold {fold}, since "
            f"{why}: this training has real cases only, as that of {trainer.reference_name()}"
            f"{'' if wanted else ', so the two cannot show what synthetic cases change'}",
            also_print_to_console=True,
        )
        return
    raise RuntimeError(
        f"{name} has no synthetic cases of method '{method}' for fold {fold}. Run: "
        f"difflung_augment -d {quoted(name)} -f {fold} --method {method}; then: {preprocess_command(trainer)}"
    )


def _check_present(trainer: Arm, cases: TrainingCases) -> None:
    """Refuses cases that are not preprocessed, or that the cascade has no segmentation of."""
    folder, fold = trainer.preprocessed_dataset_folder, trainer.fold
    present = identifiers(Path(folder))
    kinds = (("synthetic", cases.synthetic), ("real training", cases.real), ("validation", cases.validation))
    for kind, names in kinds:
        missing = [key for key in names if key not in present]
        if missing:
            raise RuntimeError(
                f"{len(missing)} of the {len(names)} {kind} cases for fold {fold} are not preprocessed in {folder} "
                f"(first: {missing[0]}). Run: {preprocess_command(trainer)}"
            )
    if trainer.is_cascaded:
        predicted = identifiers(Path(trainer.folder_with_segs_from_previous_stage))
        missing = [key for key in (*cases.real, *cases.validation) if key not in predicted]
        if missing:
            stage = trainer.configuration_manager.previous_stage_name
            raise RuntimeError(
                f"{len(missing)} cases have no segmentation by {stage} (first: {missing[0]}) in "
                f"{trainer.folder_with_segs_from_previous_stage}; train {stage} with -tr {type(trainer).__name__} in "
                f"all folds first"
            )


def _check_sides(trainer: Arm, cases: TrainingCases) -> None:
    """Refuses a case or a patient in training and validation; with fold ``all`` both are the same by design."""
    if trainer.fold == "all":
        return
    dataset = trainer.plans_manager.dataset_name
    patients = known_patients(dataset, [*cases.real, *cases.validation])
    training = {patients.get(name, name) for name in cases.real}
    both = {name for name in cases.validation if patients.get(name, name) in training or name in cases.real}
    if both:
        path = os.path.join(trainer.preprocessed_dataset_folder_base, SPLITS)
        raw, _ = dataset_folders(dataset)
        copy = f" and {raw / SPLITS}" if raw is not None and (raw / SPLITS).is_file() else ""
        raise RuntimeError(
            f"{path} fold {trainer.fold} validates on {first_names(both)} and trains on other cases of the same "
            f"patients; delete {path}{copy} and run difflung_augment -d {quoted(dataset)}, which makes folds by "
            f"patient where there are none, or put folds by patient in its place"
        )


def _check_known(trainer: Arm, cases: TrainingCases) -> None:
    """Refuses, with fold ``all`` and without the raw dataset, preprocessed cases that nothing else says are its own."""
    name, base = trainer.plans_manager.dataset_name, Path(trainer.preprocessed_dataset_folder_base)
    raw, _ = dataset_folders(name)
    if trainer.fold != "all" or (raw is not None and (raw / DATASET).is_file()):
        return  # a numbered fold has the cases of the split file; the raw dataset is compared with the arrays
    if recorded := manifest_of(name)["patients"]:
        known, where = set(recorded), MANIFEST
    elif (base / SPLITS).is_file():
        _number_of_folds(base / SPLITS)
        folds = read_json(base / SPLITS)
        known, where = {case for fold in folds for case in fold["train"] + fold["val"]}, str(base / SPLITS)
    else:
        return
    unknown = {*cases.real, *cases.validation} - known
    if unknown:
        raise RuntimeError(
            f"{trainer.preprocessed_dataset_folder} holds {counted(len(unknown), 'case')} not in {where} "
            f"({first_names(unknown)}), which may have left {name}, and fold all takes every case there; where the raw "
            f"dataset is, run {preprocess_command(trainer)}, which deletes arrays of cases that are not in it"
        )


def known_patients(dataset_name: str, cases: Sequence[str]) -> dict[str, str]:
    """Case id → patient, as recorded, stated beside the dataset, or read from unambiguous ids; empty if unknown.

    Raises:
        RuntimeError: the patients are stated, but not as they can be read.
    """
    recorded = manifest_of(dataset_name)["patients"]
    try:
        return recorded or find_reading(dataset_name, cases).patients
    except UnknownPatients:
        return {}
    except BadInput as error:
        raise RuntimeError(str(error)) from error


def preprocess_command(trainer: Arm) -> str:
    """The command that preprocesses the trainer's configuration."""
    return (
        f"nnUNetv2_preprocess -d {dataset_id(trainer.plans_manager.dataset_name)} "
        f"-plans_name {quoted(trainer.plans_manager.plans_name)} -c {quoted(trainer.configuration_name)}"
    )
