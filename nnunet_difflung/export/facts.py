"""What is on record about a model: its data, synthetic cases and validation, as numbers without a case's id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.audit.pretrained import seen, taught_by
from nnunet_difflung.comparison.own_validation import Record, check_validation
from nnunet_difflung.comparison.scores import added_up, case_patients, check_cases, foreground, read_summary
from nnunet_difflung.comparison.statistics import over_patients
from nnunet_difflung.comparison.trainings import ARMS, FINAL, method_of, validated
from nnunet_difflung.export.models import Model
from nnunet_difflung.injection.manifest import find_manifest
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.files import read_json

_REAL_ONLY = {arm for arm in ARMS if arm.startswith(("reference", "oversampling"))}
_OF_UNKNOWN_METHOD = "method not on record"


@dataclass(frozen=True)
class Group:
    """Numbers of cases and of the patients whom they show."""

    cases: int
    patients: int


@dataclass(frozen=True)
class FoldFacts:
    """A fold's training.

    Attributes:
        fold: number or ``all``.
        real: training cases; None if its checkpoint does not say.
        validation: likewise.
        synthetic: method → number of training cases; None if that is not on record.
        in_manifest: ``synthetic`` is what the dataset's manifest says now, since the checkpoint does not say.
        dose: share of the patches from synthetic cases and its schedule; empty: all cases were drawn alike.
        epochs: of the training; None if it is not on record.
        iterations: of an epoch.
        torch: version of PyTorch; empty if it is not on record.
    """

    fold: int | str
    real: Group | None
    validation: Group | None
    synthetic: Mapping[str, int] | None
    in_manifest: bool
    dose: str
    epochs: int | None
    iterations: int | None
    torch: str


@dataclass(frozen=True)
class ClassScore:
    """nnU-Net's validation of a class.

    Attributes:
        name: of the label or region.
        dice: mean over the patients who have the class; NaN if there is none.
        patients: number of these patients.
        without: patients without the class.
        falsely: those of them in whom it is predicted.
    """

    name: str
    dice: float
    patients: int
    without: int
    falsely: int


@dataclass(frozen=True)
class Facts:
    """All that a model card says of a training's records.

    Attributes:
        folds: in the order of the command.
        everyone: real cases and patients of training and validation together; None if no checkpoint says them.
        scores: of each class; empty without a validation.
        scored_folds: folds whose validation the scores are of.
        scored: validation cases and patients.
        unseen: whether none of these patients was in the training of the fold that they score; None if a checkpoint
            does not say.
    """

    folds: tuple[FoldFacts, ...]
    everyone: Group | None
    scores: tuple[ClassScore, ...]
    scored_folds: tuple[int | str, ...]
    scored: Group | None
    unseen: bool | None


def gather(
    model: Model, records: Mapping[int | str, Record | None], pattern: str | None = None, file: Path | None = None
) -> Facts:
    """Collects the facts.

    Args:
        model: finished trainings.
        records: fold → what its checkpoint says about its cases; None if it says nothing.
        pattern: regular expression whose first group is the patient of a case id; None reads patients as they are
            recorded, or as ids or splits say.
        file: CSV or JSON file that says who the patients are, instead of a pattern.

    Raises:
        BadInput: it is not known who the patients are, or a validation is not of the training's own cases.
    """
    trainings = model.trainings
    dataset_json, classes = foreground(trainings)
    seed = next(iter(trainings.results))
    summaries = {
        (model.arm, seed, fold): read_summary(path, classes, dataset_json["file_ending"])
        for fold in trainings.folds
        if (path := _summary(model, fold)) is not None
    }
    check_cases(summaries, trainings, list(classes))
    for place, scored in summaries.items():
        check_validation(trainings, place, set(scored), records[place[2]])
    ids = {case for record in records.values() if record for case in (*record["real"], *record["validation"])}
    of_summaries = {case for cases in summaries.values() for case in cases}
    patient_of = case_patients(ids | of_summaries, trainings.dataset, pattern, file) if ids | of_summaries else {}
    manifest = find_manifest(trainings.dataset)
    return Facts(
        tuple(_fold_facts(model, fold, records[fold], manifest, patient_of) for fold in trainings.folds),
        _group(ids, patient_of) if ids else None,
        _scores(model, summaries, tuple(classes), patient_of) if summaries else (),
        tuple(fold for _, _, fold in summaries),
        _group(of_summaries, patient_of) if summaries else None,
        _unseen([records[fold] for _, _, fold in summaries], patient_of),
    )


def _summary(model: Model, fold: int | str) -> Path | None:
    """nnU-Net's validation of a fold; None if there is none of unseen patients by the exported checkpoint."""
    training = model.training(fold)
    path, current = training / "validation" / "summary.json", model.checkpoint == FINAL == validated(training)
    return path if fold != "all" and current and path.is_file() else None


def _group(cases: set[str], patient_of: Mapping[str, str]) -> Group:
    return Group(len(cases), len({patient_of[case] for case in cases}))


def _unseen(records: Sequence[Record | None], patient_of: Mapping[str, str]) -> bool | None:
    taught = [(taught_by(record), record["validation"]) for record in records if record]
    if any(seen(of_weights, validation, patient_of) for of_weights, validation in taught):
        return False
    complete = len(taught) == len(records) and all(of_weights["complete"] for of_weights, _ in taught)
    return True if complete else None


def _fold_facts(
    model: Model, fold: int | str, record: Record | None, manifest: dict | None, patient_of: Mapping[str, str]
) -> FoldFacts:
    training = model.training(fold)
    notes = read_json(training / "debug.json") if (training / "debug.json").is_file() else {}
    dose = (record or {}).get("dose")
    synthetic = _synthetic_in(record, manifest, method_of(training)) if record else _in_manifest(model, fold, manifest)
    epochs, iterations = (notes.get(key) for key in ("num_epochs", "num_iterations_per_epoch"))
    return FoldFacts(
        fold,
        _group(set(record["real"]), patient_of) if record else None,
        _group(set(record["validation"]), patient_of) if record else None,
        synthetic,
        record is None and bool(synthetic),
        f"share {dose['share']:g}, {dose['schedule']}" if dose else "",
        None if epochs is None else int(epochs),
        None if iterations is None else int(iterations),
        str(notes.get("torch_version", "")),
    )


def _synthetic_in(record: Record, manifest: dict | None, noted: str) -> dict[str, int]:
    """Method → number of the synthetic cases of a checkpoint's record, with the methods as the manifest knows them."""
    known = (manifest or {"cases": {}})["cases"]
    methods = (known[case]["method"] if case in known else noted or _OF_UNKNOWN_METHOD for case in record["synthetic"])
    return dict(sorted(Counter(methods).items()))


def _in_manifest(model: Model, fold: int | str, manifest: dict | None) -> dict[str, int] | None:
    """The same for a checkpoint without a record; None if the manifest cannot say it."""
    if model.arm in _REAL_ONLY:
        return {}
    method = method_of(model.training(fold)) or (model.arm if model.arm in METHODS else "")
    if manifest is None or not method:
        return None
    number = sum(c["method"] == method and str(c["fold"]) == str(fold) for c in manifest["cases"].values())
    return {method: number} if number else None


def _scores(
    model: Model, summaries: dict, classes: tuple[str, ...], patient_of: dict[str, str]
) -> tuple[ClassScore, ...]:
    folds = tuple(fold for _, _, fold in summaries)
    scores = added_up(summaries, model.of_folds(folds).trainings, classes, patient_of)
    dice, false = scores.dice(model.arm), scores.false_positives(model.arm)
    rows = []
    for number, name in enumerate(classes):
        summary, of_patient = over_patients(dice[number]), np.nan_to_num(false[number], nan=-1).max(axis=(0, 1))
        rows.append(
            ClassScore(
                name, summary["mean"], summary["patients"], int((of_patient >= 0).sum()), int((of_patient > 0).sum())
            )
        )
    return tuple(rows)
