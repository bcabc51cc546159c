"""Checks from the files that no synthetic case or generator of a fold has seen one of its validation patients."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX, is_synthetic
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.commit import read_steadily
from nnunet_difflung.injection.leaks import (
    Problem,
    file_problems,
    first_names,
    generator_problems,
    record_problems,
    split_problems,
)
from nnunet_difflung.injection.manifest import find_manifest, is_planned, read_manifest
from nnunet_difflung.paths import SPLITS, dataset_folders
from nnunet_difflung.runtime.files import read_json

_SIDES = ("train", "val")


@dataclass(frozen=True)
class FoldSummary:
    """The training and validation cases of a fold.

    Attributes:
        fold: number, or ``all``.
        training_cases: number of real training cases.
        training_patients: number of patients of the real training cases.
        synthetic: method → number of synthetic training cases.
        validation_cases: number of validation cases, including synthetic cases that are there by mistake.
        leaks: number of problems of this fold that are leaks.
    """

    fold: int | str
    training_cases: int
    training_patients: int
    synthetic: dict[str, int]
    validation_cases: int
    leaks: int


@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    Attributes:
        dataset: ``DatasetXXX_NAME``.
        problems: empty if fold-locking is proven, or if the dataset has no synthetic cases.
        folds: summaries by the raw splits, or by the preprocessed splits if there are no raw splits.
    """

    dataset: str
    problems: tuple[Problem, ...]
    folds: tuple[FoldSummary, ...]

    @property
    def leaks(self) -> int:
        """Number of problems that are leaks."""
        return sum(problem.leak for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """JSON content with ``dataset``, ``leaks`` (their number), ``problems`` (lines) and ``folds``."""
        return {
            "dataset": self.dataset,
            "leaks": self.leaks,
            "problems": [problem.text for problem in self.problems],
            "folds": [asdict(fold) for fold in self.folds],
        }


def audit(dataset_name: str, deep: bool = False, untouched: bool = False) -> Audit:
    """Audits the raw and the preprocessed folder of a dataset, or whichever of them exists.

    An interrupted change of the dataset is finished first.

    Args:
        dataset_name: ``DatasetXXX_NAME``.
        deep: compare the hashes of the synthetic files too.
        untouched: write nothing; an interrupted change is not finished.
    """
    raw, preprocessed = dataset_folders(dataset_name)

    def read() -> Audit:
        return _audit(dataset_name, raw, preprocessed, deep)

    return read_steadily(raw, read, untouched) if raw is not None else read()


def audit_table(dataset_name: str, deep: bool = False) -> dict[str, Any]:
    """``audit`` as JSON content."""
    return audit(dataset_name, deep).as_dict()


def audit_dataset(dataset_name: str, deep: bool = False) -> list[str]:
    """The problems that ``audit`` finds, a line for each."""
    return [problem.text for problem in audit(dataset_name, deep).problems]


def _audit(dataset_name: str, raw: Path | None, preprocessed: Path | None, deep: bool) -> Audit:
    problems: list[Problem] = []
    raw_splits, preprocessed_splits = _read_splits(raw, problems), _read_splits(preprocessed, problems)
    splits: dict[str, list[dict]] = {}
    for folder, content in ((raw, raw_splits), (preprocessed, preprocessed_splits)):
        if folder is not None and content is not None:
            splits[str(folder / SPLITS)] = content
    try:
        manifest = find_manifest(dataset_name)
        copy = read_manifest(preprocessed) if preprocessed is not None else None
    except BadInput as error:
        return _result(dataset_name, None, {}, [*problems, Problem(str(error))])
    if manifest is None:
        return _result(dataset_name, None, splits, problems + _problems_without_manifest(raw, splits))
    if copy is not None and any(copy[key] != manifest[key] for key in ("cases", "patients", "runs")):
        text = f"the manifests in {raw} and {preprocessed} differ; replace the wrong one by a copy of the right one"
        problems.append(Problem(text))
    problems += record_problems(manifest)
    for where, content in splits.items():
        problems += split_problems(manifest, content, where)
    if not splits and manifest["cases"]:
        text = f"{dataset_name} has synthetic cases but no {SPLITS}: nnU-Net would validate on synthetic cases"
        problems.append(Problem(text, None, True))
    problems += _disagreement(raw_splits, preprocessed_splits, preprocessed, bool(manifest["cases"]))
    problems += generator_problems(dataset_name, manifest, next(iter(splits.values()), []))
    if raw is not None:
        problems += file_problems(raw, manifest, deep)
    return _result(dataset_name, manifest, splits, problems)


def _read_splits(folder: Path | None, problems: list[Problem]) -> list[dict] | None:
    """Content of a folder's split file; None if it does not exist or is damaged, which is added to ``problems``."""
    path = folder / SPLITS if folder is not None else None
    if path is None or not path.is_file():
        return None
    try:
        splits = read_json(path)
        lists = [split[side] for split in splits for side in _SIDES]
        if all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in lists):
            return splits
    except (ValueError, TypeError, KeyError, OSError):
        pass
    problems.append(Problem(f"{path} is not a split file; expected a JSON list of {{'train': [...], 'val': [...]}}"))
    return None


def _disagreement(
    raw: list[dict] | None, preprocessed: list[dict] | None, folder: Path | None, synthetic: bool
) -> list[Problem]:
    """Differences of raw and preprocessed splits, which nnU-Net compares fold by fold, as sets.

    Args:
        raw: splits in the raw folder.
        preprocessed: splits in the preprocessed folder.
        folder: the preprocessed folder.
        synthetic: whether the dataset has synthetic cases.
    """
    if folder is None:
        return []
    path = folder / SPLITS
    if preprocessed is None:
        if raw is not None and synthetic and is_planned(folder):
            text = f"{path} is missing: nnU-Net would draw folds over real and synthetic cases"
            return [Problem(text, None, True)]
        return []
    if raw is None:
        return []
    different = [
        fold
        for fold, split in enumerate(raw)
        if fold >= len(preprocessed) or any(set(split[side]) != set(preprocessed[fold][side]) for side in _SIDES)
    ]
    if not different:
        return []
    return [Problem(f"{path} differs from the raw {SPLITS} in fold {', '.join(map(str, different))}")]


def _problems_without_manifest(raw: Path | None, splits: dict[str, list[dict]]) -> list[Problem]:
    problems = []
    for where, content in splits.items():
        for fold, split in enumerate(content):
            listed = {name for side in _SIDES for name in split[side] if is_synthetic(name)}
            if listed:
                text = f"{where} fold {fold} lists {first_names(listed)}, but there is no manifest"
                problems.append(Problem(text, fold, True))
    parts = [raw / part for part in ("imagesTr", "labelsTr")] if raw is not None else []
    files = [path.name for part in parts for path in part.glob(f"{SYNTHETIC_PREFIX}*")]
    if files:
        problems.append(Problem(f"{raw} holds {first_names(files)}, but there is no manifest"))
    return problems


def _result(name: str, manifest: dict | None, splits: dict[str, list[dict]], problems: list[Problem]) -> Audit:
    patients = manifest["patients"] if manifest else {}
    cases = manifest["cases"] if manifest else {}

    def leaks(fold: int | str) -> int:
        return sum(problem.leak for problem in problems if problem.fold == fold)

    folds = []
    for fold, split in enumerate(next(iter(splits.values()), [])):
        real = [case for case in split["train"] if not is_synthetic(case)]
        methods = Counter(cases[i]["method"] if i in cases else "unknown" for i in split["train"] if is_synthetic(i))
        held_in = len({patients.get(case, case) for case in real})
        folds.append(FoldSummary(fold, len(real), held_in, dict(methods), len(split["val"]), leaks(fold)))
    for_all = Counter(case["method"] for case in cases.values() if case["fold"] == "all")
    if for_all:
        number = len(set(patients.values()))
        folds.append(FoldSummary("all", len(patients), number, dict(for_all), 0, leaks("all")))
    return Audit(name, tuple(problems), tuple(folds))
