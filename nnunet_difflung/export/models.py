"""Finds the finished trainings that become exported models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_difflung.comparison.trainings import (
    ARMS,
    FINAL,
    PLANS,
    Trainings,
    begun_anew,
    find_configuration,
    training_command,
)
from nnunet_difflung.errors import BadInput
from nnunet_difflung.export.output import CARD, ZIP, is_zip
from nnunet_difflung.paths import DATASET, dataset_id, fold_folders, fold_name
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.wording import quoted

PLANS_FILE = "plans.json"


@dataclass(frozen=True)
class Model:
    """The trainings of one configuration on several folds.

    Attributes:
        trainings: of one arm, in one results folder.
        checkpoint: name of the file to export of each fold.
    """

    trainings: Trainings
    checkpoint: str = FINAL

    @property
    def arm(self) -> str:
        """The arm, a key of ``ARMS``; of two arms with the same trainer the first."""
        return self.trainings.arms[0]

    @property
    def trainer(self) -> str:
        """Name of the class that trained the model."""
        return self.trainings.trainer(self.arm)

    @property
    def name(self) -> str:
        """Name of the model's folder, here and where it is installed."""
        return f"{self.trainer}__{self.trainings.plans}__{self.trainings.configuration}"

    @property
    def folder(self) -> Path:
        """nnU-Net's folder of the model."""
        return next(iter(self.trainings.results.values())) / self.trainings.dataset / self.name

    def training(self, fold: int | str) -> Path:
        """nnU-Net's folder of a fold."""
        return self.folder / fold_name(fold)

    def of_folds(self, folds: tuple[int | str, ...]) -> Model:
        """The same model on other folds."""
        return replace(self, trainings=replace(self.trainings, folds=folds))

    def sources(self) -> list[Path]:
        """The files that are read for an export."""
        return [self.folder / name for name in self._names()]

    def place_in(self, out: Path) -> Path:
        """Folder of the model, relative to ``out``: in a zip file, where nnU-Net installs it."""
        return Path(self.trainings.dataset, self.name) if is_zip(out) else Path()

    def files_in(self, out: Path) -> list[Path]:
        """The files that an export writes, relative to ``out``."""
        return [self.place_in(out) / name for name in (CARD, *self._names())]

    def _names(self) -> list[str]:
        return [DATASET, PLANS_FILE, *(f"{fold_name(fold)}/{self.checkpoint}" for fold in self.trainings.folds)]


def find_models(
    results: Path,
    dataset: str,
    folds: Sequence[int | str],
    trainer: str,
    configurations: Sequence[str] = (),
    plans: str = PLANS,
    length: str = "",
    checkpoint: str = FINAL,
) -> list[Model]:
    """The models that a command asks for, all of them complete.

    Args:
        results: nnUNet_results.
        dataset: ``DatasetXXX_NAME``.
        folds: numbers or ``all``.
        trainer: name of a class, with its length or without.
        configurations: of nnU-Net; none means the only one that was trained.
        plans: name of nnU-Net's plans.
        length: suffix of the trainer such as ``5epochs``, if its name has none.
        checkpoint: name of a file in each fold's folder.

    Raises:
        BadInput: the trainer is unknown, a training is missing or not finished, or a file of it is lost; or a second
            stage is to be exported without the first, from whose predictions it predicts.
    """
    base, _, suffix = trainer.partition("_")
    arm = next((arm for arm, name in ARMS.items() if name == base), None)
    if arm is None:
        raise BadInput(
            f"-tr {trainer} is unknown to this command; expected {', '.join(dict.fromkeys(ARMS.values()))}, or one "
            f"of them with a length, such as nnUNetTrainerDiffLung_20epochs{_there_are(results / dataset)}"
        )
    if suffix and length:
        raise BadInput(f"-tr {trainer} names a length, and so does --length {length}; leave --length out")
    length = length or suffix
    full = f"{base}_{length}" if length else base
    if not configurations and not any((results / dataset).glob(f"{full}__{plans}__*")):
        there = _there_are(results / dataset)
        raise BadInput(
            f"there is no training of {full} with -p {plans}; choose with -tr, --length and -p{there}, or "
            f"{training_command(dataset, full)}"
        )
    if not configurations:
        configurations = [find_configuration([results], dataset, length, plans, [base])]
    models = [
        Model(Trainings(dataset, {results.name: results}, tuple(folds), name, (arm,), plans, length), checkpoint)
        for name in dict.fromkeys(configurations)
    ]
    for model in models:
        _check_complete(model)
        _check_stage(model, [other.trainings.configuration for other in models])
    return models


def _check_complete(model: Model) -> None:
    if not model.folder.is_dir():
        raise BadInput(
            f"{model.folder} is missing; choose with -tr, --length, -c and -p a model that was trained"
            f"{_there_are(model.folder.parent)}"
        )
    for name in (DATASET, PLANS_FILE):
        if not (model.folder / name).is_file():
            raise BadInput(
                f"{model.folder / name} is missing, without which nnU-Net cannot predict; it writes it when a training "
                f"begins, so copy it from another model of the same plans, or from the dataset's preprocessed folder"
            )
    for fold in model.trainings.folds:
        _check_fold(model, fold)


def _check_fold(model: Model, fold: int | str) -> None:
    folder = model.training(fold)
    train = (
        f"nnUNetv2_train {dataset_id(model.trainings.dataset)} {quoted(model.trainings.configuration)} {fold} "
        f"-tr {quoted(model.trainer)} -p {quoted(model.trainings.plans)}"
    )
    finished = [
        path.name
        for path in fold_folders(model.folder)
        if (path / model.checkpoint).is_file() and (path / FINAL).is_file() and begun_anew(path) is None
    ]
    what_is = f"; finished in {model.folder}: {', '.join(finished) or 'none'}"
    if not folder.is_dir():
        raise BadInput(f"{folder} is missing: give finished folds with -f, or run {train}{what_is}")
    log = begun_anew(folder)
    if log is not None:
        raise BadInput(
            f"{log} is of a training that is not finished, so the checkpoints in {folder} may be of two trainings; run "
            f"{train} --c, or give other folds with -f{what_is}"
        )
    if not (folder / FINAL).is_file():
        raise BadInput(
            f"{folder / FINAL} is missing, so this training is not finished: run {train} --c, or give other folds with "
            f"-f{what_is}"
        )
    if not (folder / model.checkpoint).is_file():
        names = ", ".join(sorted(path.name for path in folder.glob("*.pth")))
        raise BadInput(f"{folder / model.checkpoint} is missing; -chk can be one of {names}")


def _check_stage(model: Model, configurations: Sequence[str]) -> None:
    own = model.trainings.configuration
    from nnunet_difflung.audit.array_files import inherited  # late: with numpy, which a refusal need not wait for

    previous = inherited(read_content(model.folder / PLANS_FILE).get("configurations", {}), own).get("previous_stage")
    if previous and previous not in configurations:
        raise BadInput(
            f"-c {own}: nnU-Net predicts it from predictions of {previous}, so a colleague needs both; export them "
            f"into one zip file with -c {quoted(previous, *configurations)} -o NAME{ZIP}"
        )


def read_content(path: Path) -> dict[str, Any]:
    """Content of a model's ``dataset.json`` or ``plans.json``.

    Raises:
        BadInput: it is damaged.
    """
    try:
        return read_json(path)
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}); copy it from another model of the same plans") from error


def _there_are(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*__*__*") if path.is_dir())
    return f"; {folder} has {', '.join(names) or 'no trainings'}"
