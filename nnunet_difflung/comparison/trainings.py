"""Finds the finished nnU-Net trainings of the arms and checks that they can be compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_difflung.config import METHOD, PAPERS_METHOD
from nnunet_difflung.errors import BadInput
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import NNUNET_RESULTS, VALIDATED, dataset_id, fold_name, meant, names_in, nnunet_folder
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.wording import quoted

PLANS, FINAL = "nnUNetPlans", "checkpoint_final.pth"
_NOTES = "debug.json"  # what nnU-Net writes of a training at its beginning
_LOG = re.compile(r"training_log_([\d_]+)\.txt")  # one for each start of a training, named by its time
_BEGUN, _DONE = re.compile(r": Epoch 0\s*$", re.MULTILINE), "Training done."
ARMS = {
    "reference": "nnUNetTrainerDiffLungReference",
    "oversampling": "nnUNetTrainerDiffLungOversampling",
    **{m.name: m.trainer for m in METHODS.values()},
    "reference_poly": "nnUNetTrainerDiffLungReferencePoly",
    f"{METHOD}_poly": "nnUNetTrainerDiffLungPoly",
    f"{PAPERS_METHOD}_poly": "nnUNetTrainerDiffLungPoly",
    "nnUNetTrainer": "nnUNetTrainer",
}
# Trainers of METHOD that train on cases of PAPERS_METHOD where there are no others, as all did in earlier versions.
_OF_TWO_METHODS = (ARMS[METHOD], ARMS[f"{METHOD}_poly"])
_MUST_AGREE = {  # key in debug.json → its meaning
    "num_epochs": "numbers of epochs",
    "num_iterations_per_epoch": "iterations per epoch",
    "batch_size": "batch sizes",
    "configuration_manager": "plans of the configuration",
}
_SAME_PLANS = "train again with the same plans and trainer length"
_CAUSES = {
    "batch_size": "usually because nnU-Net caps its batch size by the number of training cases, so planning "
    "again after another method was injected changes it: inject all methods before "
    "nnUNetv2_plan_and_preprocess, then train all arms again"
}


@dataclass(frozen=True)
class Trainings:
    """Trainings of several arms on the same folds of a dataset, with one or more seeds.

    Attributes:
        dataset: ``DatasetXXX_NAME``.
        results: name of a repetition → its nnUNet_results folder.
        folds: numbers or ``all``.
        configuration: nnU-Net configuration, such as ``2d``.
        arms: keys of ``ARMS``.
        plans: name of nnU-Net's plans.
        length: suffix of the trainers such as ``5epochs``; empty for nnU-Net's 1000 epochs.
        predictions: folder inside each ``fold_K`` with evaluated predictions; None for nnU-Net's validation.
    """

    dataset: str
    results: dict[str, Path]
    folds: tuple[int | str, ...]
    configuration: str
    arms: tuple[str, ...]
    plans: str = PLANS
    length: str = ""
    predictions: str | None = None

    def trainer(self, arm: str) -> str:
        """Name of the class that trained an arm."""
        return f"{ARMS[arm]}_{self.length}" if self.length else ARMS[arm]

    def training(self, seed: str, arm: str, fold: int | str) -> Path:
        """nnU-Net's folder of a training: of the arm's trainer, or of that which had its cases in earlier versions."""
        own = self._folder(seed, arm, fold)
        if arm == PAPERS_METHOD and not own.is_dir():
            earlier = self._folder(seed, METHOD, fold)
            return earlier if method_of(earlier) == PAPERS_METHOD else own
        return own

    def _folder(self, seed: str, arm: str, fold: int | str) -> Path:
        model = f"{self.trainer(arm)}__{self.plans}__{self.configuration}"
        return self.results[seed] / self.dataset / model / fold_name(fold)

    def scored(self, seed: str, arm: str, fold: int | str) -> Path:
        """Folder with the predicted segmentations and their summary.json."""
        return self.training(seed, arm, fold) / (self.predictions or "validation")

    def has(self, seed: str, arm: str, fold: int | str) -> bool:
        """Whether a training is finished and scored, and had the arm's cases, as far as its folder says."""
        scored = (self.scored(seed, arm, fold) / "summary.json").is_file()
        return scored and not self.other_method(seed, arm, fold) and not begun_anew(self.training(seed, arm, fold))

    def other_method(self, seed: str, arm: str, fold: int | str) -> str:
        """The method whose cases the training in an arm's folder had, if it is not the arm's; else nothing."""
        if ARMS[arm] not in _OF_TWO_METHODS:
            return ""
        had, named = method_of(self.training(seed, arm, fold)) or METHOD, arm.removesuffix("_poly")
        return had if had != named else ""

    def each(self) -> Iterator[tuple[str, str, int | str]]:
        """(arm, seed, fold) of every training."""
        return ((arm, seed, fold) for arm in self.arms for seed in self.results for fold in self.folds)


def method_of(training: Path) -> str:
    """The method whose cases a training had, as its trainer noted (debug.json); empty if there is no note."""
    notes = training / _NOTES
    return str(read_json(notes).get("method", "")) if notes.is_file() else ""


def validated(training: Path) -> str:
    """The checkpoint that nnU-Net's validation of a training scored; that of its end if there is no note."""
    note = training / VALIDATED
    return str(read_json(note)["checkpoint"]) if note.is_file() else FINAL


def begun_anew(training: Path) -> Path | None:
    """The log of a training that is not finished, in whose folder scores can only be those of an earlier one.

    nnU-Net begins a training anew in the folder of an earlier one and leaves its ``summary.json`` there to the end.

    Returns:
        None if the last training that was begun is finished, or the folder has no logs.
    """
    logs = logs_of(training)
    paths, texts = list(logs), list(logs.values())
    begun = max((i for i, text in enumerate(texts) if _BEGUN.search(text)), default=None)
    return None if begun is None or any(_DONE in text for text in texts[begun:]) else paths[begun]


def logs_of(training: Path) -> dict[Path, str]:
    """The logs of a training, one for each start, and their texts; in the order of the starts."""
    logs = sorted((path for path in training.glob("training_log_*") if _LOG.fullmatch(path.name)), key=_started)
    return {path: path.read_text(encoding="utf-8", errors="replace") for path in logs}


def _started(log: Path) -> list[int]:
    match = _LOG.fullmatch(log.name)
    return [int(number) for number in match[1].split("_") if number] if match else []


def named_results(folders: Sequence[Path]) -> dict[str, Path]:
    """A short name for each results folder: its own name, with its parents' names if that is not unique.

    Raises:
        BadInput: a folder is missing or given twice.
    """
    folders = [Path(folder).resolve() for folder in folders]
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"--results {folder} is not a folder; give nnUNet_results folders of finished trainings")
        if folders.count(folder) > 1:
            raise BadInput(f"--results {folder} is given {folders.count(folder)} times; each repetition counts once")
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]).lstrip("/") for folder in folders]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, folders, strict=True))


def find_trainings(
    dataset: str,
    folds: Sequence[str],
    results: Sequence[Path] | None = None,
    configuration: str | None = None,
    arms: Sequence[str] | None = None,
    plans: str = PLANS,
    length: str = "",
    predictions: str | None = None,
) -> Trainings:
    """The trainings of a dataset on some folds.

    Args:
        dataset: id or name.
        folds: numbers, or ``all``.
        results: nnUNet_results folders, one for each repetition; None: ``$nnUNet_results``.
        configuration: nnU-Net configuration; None: the only one that was trained.
        arms: keys of ``ARMS``; None: all with a finished training.
        plans: this and the following arguments are described in ``Trainings``.

    Raises:
        BadInput: a folder, dataset or configuration is missing or ambiguous, or no training is finished.
    """
    numbers = fold_numbers(folds)
    named = named_results(results or [Path(nnunet_folder(NNUNET_RESULTS))])
    folders = list(named.values())
    name = dataset_in(folders[0], dataset)
    configuration = configuration or find_configuration(folders, name, length, plans)
    candidates = Trainings(name, named, numbers, configuration, (), plans, length, predictions)
    return replace(candidates, arms=tuple(dict.fromkeys(arms or finished_arms(candidates))))


def fold_numbers(names: Sequence[str]) -> tuple[int | str, ...]:
    """The folds of nnU-Net's trainings that ``-f`` names: numbers and ``all``, each once.

    Raises:
        BadInput: a name is neither.
    """
    for fold in names:
        if fold != "all" and not fold.isdecimal():
            raise BadInput(f"-f {fold} is not a fold; expected numbers such as 0 1 2, or all")
    return tuple(dict.fromkeys(fold if fold == "all" else int(fold) for fold in names))


def dataset_in(folder: Path, dataset: str) -> str:
    """``DatasetXXX_NAME`` in a results folder, from an id or a name.

    Raises:
        BadInput: no folder or several folders match.
    """
    names = names_in(folder)
    matching = meant(dataset, names)
    if len(matching) != 1:
        raise BadInput(
            f"-d {dataset} matches {len(matching)} of the folders in {folder} ({', '.join(names) or 'none'}), expected "
            f"one; train the arms of the dataset first, or give its full name, such as Dataset801_NAME"
        )
    return matching[0]


def training_command(dataset: str, trainer: str, length: str = "") -> str:
    """The advice to train ``DatasetXXX_NAME``, with the command for one fold."""
    with_length = f"{trainer}_{length}" if length else trainer
    return f"train first, as in nnUNetv2_train {dataset_id(dataset)} 2d 0 -tr {quoted(with_length)}"


def find_configuration(
    folders: Sequence[Path], dataset: str, length: str, plans: str, trainers: Iterable[str] = tuple(ARMS.values())
) -> str:
    """The configuration that the arms were trained with.

    Args:
        folders: nnUNet_results folders.
        dataset: ``DatasetXXX_NAME``.
        length: suffix of the trainers; may be empty.
        plans: name of nnU-Net's plans.
        trainers: the arms' trainers, without the suffix.

    Raises:
        BadInput: there are none or several.
    """
    arm = "|".join(re.escape(name) for name in trainers)
    pattern = re.compile(rf"(?:{arm}){f'_{re.escape(length)}' if length else ''}__{re.escape(plans)}__(.+)")
    models = sorted({p.name for folder in folders for p in (folder / dataset).glob("nnUNetTrainer*") if p.is_dir()})
    configurations = sorted({match[1] for name in models if (match := pattern.fullmatch(name))})
    where = ", ".join(str(folder / dataset) for folder in folders)
    if not models:
        raise BadInput(f"{where}: there are no trainings; {training_command(dataset, next(iter(trainers)), length)}")
    if len(configurations) != 1:
        raise BadInput(
            f"{where}: expected trainings of one configuration, but "
            f"{f'with --length {length}' if length else 'without --length'} and with -p {plans} there are "
            f"{', '.join(configurations) or 'none'}; "
            f"choose with -c, --length and -p among {', '.join(models)}"
        )
    return configurations[0]


def finished_arms(trainings: Trainings) -> tuple[str, ...]:
    """The arms of ``ARMS`` with at least one scored training among the folds and repetitions.

    Raises:
        BadInput: there is none.
    """
    arms = tuple(
        arm
        for arm in ARMS
        if any(trainings.has(seed, arm, fold) for seed in trainings.results for fold in trainings.folds)
    )
    if not arms:
        example = trainings.scored(next(iter(trainings.results)), "reference", trainings.folds[0])
        raise BadInput(
            f"no arm has a finished training: expected files such as {example / 'summary.json'}; "
            f"check -f, -c and --length, or run: {_remedy(trainings, 'reference', trainings.folds[0])}"
        )
    return arms


def check_present(trainings: Trainings) -> None:
    """Refuses a comparison in which a training is missing, or may have had the cases of another arm.

    Raises:
        BadInput: names the first such training, and the command to run.
    """
    missing = [one for one in trainings.each() if not trainings.has(one[1], one[0], one[2])]
    if missing:
        arm, seed, fold = missing[0]
        folder, run = trainings.training(seed, arm, fold), f"nnUNet_results={quoted(trainings.results[seed])} "
        run += _remedy(trainings, arm, fold, seed)
        if had := trainings.other_method(seed, arm, fold):
            text = (
                f"{folder / _NOTES} says that this training had the cases of {had}, so it is none of arm {arm} (fold "
                f"{fold}; {len(missing)} such trainings); leave {arm} out with --arms"
            )
            if arm.removesuffix("_poly") == METHOD:  # no trainer takes cases of the other method where it has these
                text += (
                    f", or move {folder} to another place, run difflung_augment -d {dataset_id(trainings.dataset)} -f "
                    f"{fold} --method {METHOD}, preprocess the new cases, and run {run}"
                )
            raise BadInput(text)
        if (trainings.scored(seed, arm, fold) / "summary.json").is_file() and (log := begun_anew(folder)):
            earlier = folder / "checkpoint_final.pth"
            move = f"; first move {earlier} away, which --c would take for this training's" if earlier.is_file() else ""
            raise BadInput(
                f"{log} is of a training that is not finished, so the scores in {folder} are those of an earlier one "
                f"(arm {arm}, fold {fold}; {len(missing)} such trainings): run {run}{move}; or leave the arm out with "
                f"--arms"
            )
        raise BadInput(
            f"{trainings.scored(seed, arm, fold) / 'summary.json'} is missing (arm {arm}, fold {fold}; "
            f"{len(missing)} such trainings): run {run}; or leave the arm out with --arms"
        )
    for arm, seed, fold in trainings.each():
        folder = trainings.training(seed, arm, fold)
        if ARMS[arm] in _OF_TWO_METHODS and not method_of(folder):
            raise BadInput(
                f"{folder / _NOTES} does not say whether this training had the cases of {METHOD} or, as in earlier "
                f"versions, of {PAPERS_METHOD}; restore the file from a copy, or leave the arm out with --arms"
            )


def train_command(trainings: Trainings, seed: str, arm: str, fold: int | str) -> str:
    """The ``nnUNetv2_train`` of a training; with ``--val`` it validates the training again."""
    start = f"nnUNetv2_train {dataset_id(trainings.dataset)} {quoted(trainings.configuration)} {fold}"
    return f"{start} {_trainer_options(trainings, seed, arm, fold)}"


def _trainer_options(trainings: Trainings, seed: str, arm: str, fold: int | str) -> str:
    plans = "" if trainings.plans == PLANS else f" -p {quoted(trainings.plans)}"
    return f"-tr {trainings.training(seed, arm, fold).parent.name.split('__')[0]}{plans}"


def _remedy(trainings: Trainings, arm: str, fold: int | str, seed: str | None = None) -> str:
    number = dataset_id(trainings.dataset)
    seed = seed or next(iter(trainings.results))
    model, trainer = trainings.training(seed, arm, fold).parent, _trainer_options(trainings, seed, arm, fold)
    if trainings.predictions is None:
        return (
            f"{train_command(trainings, seed, arm, fold)} (add --c if it was started, "
            f"or --val if only the validation is missing)"
        )
    images, labels = (f'"$nnUNet_raw"/{quoted(trainings.dataset)}/{part}' for part in ("imagesTs", "labelsTs"))
    target = quoted(trainings.scored(seed, arm, fold))
    return (
        f"nnUNetv2_predict -i {images} -o {target} -d {number} -c {quoted(trainings.configuration)} -f {fold} "
        f"{trainer} && nnUNetv2_evaluate_folder {labels} {target} -djfile {quoted(model / 'dataset.json')} "
        f"-pfile {quoted(model / 'plans.json')}"
    )


def check_alike(trainings: Trainings) -> dict:
    """Refuses trainings for which nnU-Net recorded different settings (debug.json).

    Returns:
        ``epochs``, ``iterations`` (of a training), ``device``, ``doses`` (arm → how synthetic cases were drawn, as far
        as that is recorded), and ``weights_of_unknown_origin`` if a training began with such; empty if no training has
        a debug.json.

    Raises:
        BadInput: two trainings differ in length, batch size or plans, two of a fold in their real cases, or two of an
            arm in the dose; a validation is not that of the end of a training; or a training began with weights that
            had seen its validation patients.
    """
    first: tuple[Path, dict] | None = None
    devices: set[str] = set()
    doses: dict[str, tuple[Path, str]] = {}
    cases: dict[tuple, list[tuple[Path, str]]] = {}
    unknown_weights: list[str] = []
    for arm, seed, fold in trainings.each():
        folder = trainings.training(seed, arm, fold)
        if trainings.predictions is None and (scored := validated(folder)) != FINAL:
            raise BadInput(
                f"the validation in {folder} is of {scored}, expected {FINAL} for a fair comparison; run "
                f"nnUNetv2_train … --val, or leave the arm out with --arms"
            )
        path = folder / _NOTES
        if not path.is_file():
            continue
        notes = read_json(path)
        devices.add(str(notes.get("gpu_name", notes.get("device"))))
        first = first or (path, notes)
        _check_weights(path, arm, str(notes.get("pretrained", "")))
        if notes.get("pretrained") == "unknown":
            unknown_weights.append(f"{arm}, fold {fold}")
        if notes.get("real_cases"):
            same = cases.setdefault((seed, fold), [])
            _check_cases(path, arm, str(notes["real_cases"]), same)
            same.append((path, str(notes["real_cases"])))
        if "dose" in notes:
            other, dose = doses.setdefault(arm, (path, notes["dose"]))
            if notes["dose"] != dose:
                raise BadInput(
                    f"{path} and {other} record different doses of synthetic cases ({notes['dose']} and {dose}), "
                    f"expected one for all trainings of arm {arm}; train again with the same dose, or leave the arm "
                    f"out with --arms"
                )
        for key, meaning in _MUST_AGREE.items():
            if notes.get(key) != first[1].get(key):
                raise BadInput(
                    f"{path} and {first[0]} record different {meaning} ({str(notes.get(key))[:60]} and "
                    f"{str(first[1].get(key))[:60]}), expected the same for a fair comparison; "
                    f"{_CAUSES.get(key, _SAME_PLANS)}, or leave the arm out with --arms"
                )
    if first is None:
        return {}
    epochs, iterations = int(first[1]["num_epochs"]), int(first[1]["num_iterations_per_epoch"])
    facts = {"epochs": epochs, "iterations": epochs * iterations, "device": sorted(devices)}
    facts["doses"] = {arm: dose for arm, (_, dose) in doses.items()}
    return facts | ({"weights_of_unknown_origin": unknown_weights} if unknown_weights else {})


def _check_weights(path: Path, arm: str, pretrained: str) -> None:
    """Raises BadInput if a training began with weights that had seen patients whom it is validated on."""
    if pretrained == "validation patients":
        raise BadInput(
            f"{path} records that this training began with pretrained weights that were trained on validation patients "
            f"of its fold, so its scores are not of unseen patients; train it again without them, or leave {arm} out "
            f"with --arms"
        )


def _check_cases(path: Path, arm: str, own: str, others: list[tuple[Path, str]]) -> None:
    """Raises BadInput if the real cases of a training are not those of another arm's on the same fold.

    ``own`` and ``others`` are what ``trainers.case_record.real_cases`` gave.
    """
    for other, theirs in others:
        (ids, contents), (their_ids, their_contents) = own.split(), theirs.split()
        same_contents = contents == their_contents or "unknown" in (contents, their_contents)
        if ids != their_ids or not same_contents:
            what = "different real cases" if ids != their_ids else "real cases whose files have changed in between"
            raise BadInput(
                f"{path} and {other} record {what} of the two trainings, so their difference is not only that of the "
                f"synthetic cases; train both again on the dataset as it is now, or leave {arm} out with --arms"
            )
