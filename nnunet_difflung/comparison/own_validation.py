"""Whether nnU-Net's validation of a training scores the cases that the training was validated on, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nnunet_difflung.comparison.checkpoint import read_checkpoint
from nnunet_difflung.comparison.trainings import FINAL, Trainings, train_command
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import CASES_IN_CHECKPOINT, SPLITS, dataset_folders
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.wording import quoted

Record = Mapping[str, Any]  # ``trainers.case_record``: ``real``, ``synthetic``, ``validation``: ids; ``dose``
Place = tuple[str, str, int | str]  # arm, seed, fold


def check_validations(trainings: Trainings, scored: Iterable[tuple[Place, set[str]]]) -> None:
    """Refuses validations of other cases than the trainings' own.

    nnU-Net scores every file in a training's ``validation`` folder, also those that an earlier training with other
    folds has left there. A checkpoint is read only where the folds of now do not say that all is well.

    Args:
        trainings: the trainings.
        scored: (arm, seed, fold) and the real cases in its summary.

    Raises:
        BadInput: see ``check_validation``.
    """
    for place, cases in scored:
        of_now = _in_splits(trainings.dataset, place[2])
        if of_now is None or cases != set(of_now[1]["val"]):
            arm, seed, fold = place
            check_validation(trainings, place, cases, _record_in(trainings.training(seed, arm, fold) / FINAL))


def check_validation(trainings: Trainings, place: Place, scored: set[str], record: Record | None) -> None:
    """Refuses a validation of other cases than its training's.

    Args:
        trainings: the training is one of them.
        place: arm, seed and fold.
        scored: the real cases in the summary.
        record: what the checkpoint says about its cases; None if it says nothing: then the folds of now count.

    Raises:
        BadInput: cases of the training are scored, or not the validation cases; names one, and what to do.
    """
    arm, seed, fold = place
    folder = trainings.training(seed, arm, fold)
    if record is not None:
        source, training, expected = str(folder / FINAL), set(record["real"]), set(record["validation"])
    elif (of_now := _in_splits(trainings.dataset, fold)) is not None:
        source, training, expected = str(of_now[0]), set(of_now[1]["train"]), set(of_now[1]["val"])
    else:
        return
    summary, again = folder / "validation" / "summary.json", train_command(trainings, seed, arm, fold)
    cause = "nnU-Net scores all files of that folder, also those of an earlier training"
    if seen := sorted(scored & training - expected):  # a case in both is a fault of the folds, which the audit tells
        raise BadInput(
            f"{summary} scores {seen[0]} ({len(seen)} such cases), a training case of fold {fold} in {source} ({cause}"
            f"); delete {quoted(summary.parent)} and run {again} --val"
        )
    if differ := sorted(scored ^ expected):
        which = "is not scored" if differ[0] in expected else "is none of them"
        raise BadInput(
            f"{summary} does not score the validation cases of fold {fold} in {source}: {differ[0]} {which} "
            f"({len(differ)} cases differ; {cause}); delete {quoted(summary.parent)} and run {again} --val"
        )


def _in_splits(dataset: str, fold: int | str) -> tuple[Path, dict[str, list[str]]] | None:
    """The file with the folds that nnU-Net reads, or that it is copied from, and a fold of it; None if not known."""
    for folder in reversed(dataset_folders(dataset)):
        if folder is not None and (folder / SPLITS).is_file():
            splits = read_json(folder / SPLITS)
            return (folder / SPLITS, splits[int(fold)]) if fold != "all" and int(fold) < len(splits) else None
    return None


def _record_in(checkpoint: Path) -> Record | None:
    """What a checkpoint says about its cases; None if it says nothing, or cannot be read."""
    try:
        return read_checkpoint(checkpoint)["init_args"].get(CASES_IN_CHECKPOINT)
    except (OSError, BadInput):  # scores can be compared without checkpoints
        return None
