"""Checks from the files that no synthetic case or generator of a fold has seen one of its validation patients."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_difflung.audit.content_leaks import (
    content_problems,
    fingerprint_problems,
    problems_of_test_set,
    real_files,
    twin_problems,
)
from nnunet_difflung.audit.plan_numbers import plan_problems
from nnunet_difflung.audit.unseen import patients_in_both
from nnunet_difflung.dataset.contents import FileHashes, hashes_of_dataset
from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX, is_synthetic
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.commit import read_steadily
from nnunet_difflung.injection.leaks import (
    Problem,
    file_problems,
    first_names,
    generator_notes,
    generator_problems,
    listing_problems,
    record_problems,
    run_problems,
    split_problems,
)
from nnunet_difflung.injection.manifest import MANIFEST, find_manifest, is_planned, read_manifest, without_contents
from nnunet_difflung.paths import DATASET, SPLITS, dataset_folders, dataset_id
from nnunet_difflung.patients.ids import UnknownPatients
from nnunet_difflung.patients.reading import contradiction, find_reading, suspicion
from nnunet_difflung.runtime.files import read_json, sha256
from nnunet_difflung.runtime.wording import quoted

_SIDES = ("train", "val")
_COMPARED = ("cases", "patients", "runs", "files", "contents", "without_contents", "fingerprint")  # of two manifests


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
        notes: what could not be checked, and why; a line for each.
    """

    dataset: str
    problems: tuple[Problem, ...]
    folds: tuple[FoldSummary, ...]
    notes: tuple[str, ...] = ()

    @property
    def leaks(self) -> int:
        """Number of problems that are leaks."""
        return sum(problem.leak for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """JSON content with ``dataset``, ``leaks`` (their number), ``problems``, ``notes`` (lines) and ``folds``."""
        return {
            "dataset": self.dataset,
            "leaks": self.leaks,
            "problems": [problem.text for problem in self.problems],
            "notes": list(self.notes),
            "folds": [asdict(fold) for fold in self.folds],
        }


def audit(
    dataset_name: str,
    deep: bool = False,
    anew: bool = False,
    untouched: bool = False,
    arrays: bool = False,
    sides: bool = False,
) -> Audit:
    """Audits the raw and the preprocessed folder of a dataset, or whichever of them exists.

    An interrupted change of the dataset is finished first.

    Args:
        dataset_name: ``DatasetXXX_NAME``.
        deep: compare the hashes of the synthetic files too.
        anew: hash the files of the real cases again even if their sizes and times have not changed.
        untouched: write nothing; an interrupted change is not finished.
        arrays: compare the preprocessed arrays with the raw dataset too.
        sides: look for patients in training and validation of a fold where there are no synthetic cases, too; a
            trainer does so for its own fold.
    """
    raw, preprocessed = dataset_folders(dataset_name)
    hashes = hashes_of_dataset(dataset_name, anew)

    def read() -> Audit:
        return _Auditor(dataset_name, raw, preprocessed, hashes, deep, sides).audit()

    result = read_steadily(raw, read, untouched) if raw is not None else read()
    if not untouched:
        hashes.save()
    if not arrays or preprocessed is None or not is_planned(preprocessed):
        return result
    from nnunet_difflung.audit.preprocessed import compare_preprocessed  # late: not needed before nnU-Net has planned

    compared = compare_preprocessed(dataset_name, progress=True, anew=anew)
    return replace(result, problems=(*result.problems, *compared.problems), notes=(*result.notes, *compared.notes))


def audit_table(dataset_name: str, deep: bool = False, anew: bool = False) -> dict[str, Any]:
    """``audit`` as JSON content; with ``deep`` it compares the preprocessed arrays too."""
    return audit(dataset_name, deep, anew, arrays=deep, sides=True).as_dict()


def audit_dataset(dataset_name: str, deep: bool = False) -> list[str]:
    """The problems that ``audit`` finds, a line for each."""
    return [problem.text for problem in audit(dataset_name, deep).problems]


class _Auditor:
    """One reading of a dataset's files."""

    def __init__(
        self, name: str, raw: Path | None, preprocessed: Path | None, hashes: FileHashes, deep: bool, sides: bool
    ):
        self.name, self.raw, self.preprocessed, self.deep, self.sides = name, raw, preprocessed, deep, sides
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.files = real_files(raw, hashes) if raw is not None else None
        self.raw_splits = _read_splits(raw, self.problems)
        self.preprocessed_splits = _read_splits(preprocessed, self.problems)
        both = ((raw, self.raw_splits), (preprocessed, self.preprocessed_splits))
        self.splits = {str(folder / SPLITS): content for folder, content in both if folder and content is not None}

    def audit(self) -> Audit:
        """Checks everything that can be checked from what is there."""
        try:
            manifest = find_manifest(self.name)
            copy = read_manifest(self.preprocessed) if self.preprocessed is not None else None
        except BadInput as error:
            return self._result(None, [*self.problems, Problem(str(error))], {})
        if manifest is not None:
            manifest = {**manifest, "dataset": self.name}  # the name of now, for messages; the folder may be renamed
        first = self._all_folds()
        if self.files is not None:
            problems, notes = patients_in_both(self.name, self.files.folder, first)
            self.problems += twin_problems(self.files, first) + problems_of_test_set(self.files) + problems
            self.notes += notes
        if manifest is None:
            self.problems += _problems_without_manifest(self.raw, self.splits)
            if not self.splits and not self.problems:
                self.notes.append(f"there is no {SPLITS}, so no fold was checked; difflung_augment makes the folds")
            if self.raw is not None and self.files is None:
                self.notes.append(f"{self.raw / DATASET} cannot be read, so the real cases were not checked")
            patients = self._patients_of_real_cases()
            return _result(self.name, None, self.splits, self.problems, self.notes, patients)
        if copy is not None and any(copy.get(key) != manifest.get(key) for key in _COMPARED):
            self.problems.append(Problem(self._which_is_right(manifest, copy)))
        self.problems += self._by(manifest, self.deep)
        if self.preprocessed is not None:
            of_fingerprint = fingerprint_problems(self.preprocessed, manifest)
            self.problems += of_fingerprint
            if not of_fingerprint:
                problems, notes = plan_problems(self.preprocessed, manifest)
                self.problems += problems
                self.notes += notes
        self._compare_patients(manifest)
        self._note(manifest)
        return self._result(manifest, self.problems, self.splits)

    def _patients_of_real_cases(self) -> dict[str, str]:
        """Case id → patient where the dataset has no manifest; empty if that is not known, which a note says."""
        where, splits = next(iter(self.splits), ""), self._all_folds()
        cases = sorted({name for split in splits for side in _SIDES for name in split[side] if not is_synthetic(name)})
        try:
            patients = find_reading(self.name, cases).patients if cases else {}
        except BadInput as error:
            if not isinstance(error, UnknownPatients):
                self.problems.append(Problem(str(error)))
                return {}
            self.notes.append(
                "it is not known who the patients are, so each case is counted as one, and it was not checked whether "
                "a fold has a patient in training and in validation; name them by difflung_augment --patients FILE"
            )
            if cut := suspicion(cases, splits, where):
                self.notes.append(f"{cut[0]}; if so, delete the file and give difflung_augment {cut[1]}")
            return {}
        for fold, split in enumerate(splits if self.sides else []):
            training, validation = ({patients[i] for i in split[side] if i in patients} for side in _SIDES)
            if both := training & validation:
                file = where if fold < len(self.raw_splits or splits) else list(self.splits)[-1]
                text = f"{file} has the same patients in training and validation: {first_names(both)}"
                remedy = "put all cases of a patient on the same side, or correct who the patients are"
                self.problems.append(Problem(f"{text} (fold {fold}); {remedy}", fold, True))
        return patients

    def _all_folds(self) -> list[dict]:
        """The folds of the raw splits, and those that only the preprocessed splits have, which nnU-Net trains too."""
        raw = self.raw_splits or []
        return [*raw, *(self.preprocessed_splits or [])[len(raw) :]]

    def _by(self, manifest: dict, deep: bool) -> list[Problem]:
        """The problems of splits, records, files and generators by what a manifest says."""
        problems = record_problems(manifest) + run_problems(manifest)
        for where, content in self.splits.items():
            problems += split_problems(manifest, content, where)
        if not self.splits and manifest["cases"]:
            text = f"{self.name} has synthetic cases but no {SPLITS}: nnU-Net would validate on synthetic cases"
            problems.append(Problem(text, None, True))
        synthetic, first = bool(manifest["cases"]), self._all_folds()
        problems += _disagreement(self.raw_splits, self.preprocessed_splits, self.preprocessed, synthetic)
        problems += generator_problems(self.name, manifest, first)
        if self.raw is not None:
            problems += file_problems(self.raw, manifest, deep) + listing_problems(self.raw, manifest)
        if self.files is not None and synthetic:
            problems += content_problems(self.files, manifest, first)
        return problems

    def _which_is_right(self, manifest: dict, copy: dict) -> str:
        """Two manifests that differ, and what to do: the dataset's files tell which of them is right."""
        text = f"the manifests in {self.raw} and {self.preprocessed} differ"
        if self.raw is None or self.preprocessed is None or self.files is None:
            return text
        number = dataset_id(self.name)
        wrong_raw, wrong_copy = (bool(self._by(content, True)) for content in (manifest, copy))
        if wrong_raw and not wrong_copy:
            return (
                f"{text}, and the files of the dataset are those of the latter: copy {self.preprocessed / MANIFEST} "
                f"to {self.raw / MANIFEST}"
            )
        if not wrong_raw and wrong_copy:
            return (
                f"{text}, and the files of the dataset are those of the former: copy {self.raw / MANIFEST} to "
                f"{self.preprocessed / MANIFEST}, then run nnUNetv2_plan_and_preprocess -d {number}, since what is "
                f"preprocessed there may have been made from other cases"
            )
        return (
            f"{text}, and the files of the dataset do not tell which is right; run difflung_remove -d "
            f"{quoted(self.name)}, then difflung_augment -d {quoted(self.name)}"
        )

    def _compare_patients(self, manifest: dict) -> None:
        """Compares the manifest's patients with the file in the dataset, which an option may have overruled."""
        text = contradiction(self.raw, manifest["patients"]) if self.raw is not None and manifest["patients"] else None
        reading = manifest.get("reading") or {}
        overruled = reading.get("from") == "pattern" or (
            reading.get("from") == "file" and "/" not in str(reading.get("file"))
        )
        if text and overruled:
            self.notes.append(f"{text}, as an option said")
        elif text:
            again = f"difflung_remove -d {quoted(self.name)} --generators, then difflung_augment -d {quoted(self.name)}"
            self.problems.append(Problem(f"{text}; restore the file, or run {again}"))

    def _note(self, manifest: dict) -> None:
        earlier = [f"{method} fold {fold}" for method, fold in without_contents(manifest)]
        if self.raw is None:
            self.notes.append(
                "the raw dataset is not here, so the contents of its cases were not compared with the manifest"
            )
        elif self.files is None:
            self.notes.append(f"{self.raw / DATASET} cannot be read, so the real cases were not checked")
        if earlier:
            self.notes.append(
                f"made by an earlier version: {first_names(earlier)}; the contents of the real cases were not "
                f"recorded, so cases renamed, swapped or changed since cannot be seen (difflung_remove -d "
                f"{quoted(self.name)}, then difflung_augment -d {quoted(self.name)} records them)"
            )
        where, splits = next(iter(self.splits.items()), ("", []))
        guessed = manifest.get("reading", {}).get("from", "recorded") in ("splits", "recorded")
        if guessed and (cut := suspicion(manifest["patients"], splits, where)):
            self.notes.append(
                f"{cut[0]}; if so, run difflung_remove -d {quoted(self.name)} --generators, delete {SPLITS} if it is "
                f"still there, and run difflung_augment -d {quoted(self.name)} {cut[1]}"
            )
        changed = [name for name in (DATASET, SPLITS) if self.raw is not None and _is_changed(self.raw, manifest, name)]
        if changed and self.problems:
            were = "were" if len(changed) > 1 else "was"
            self.notes.append(
                f"{' and '.join(changed)} in {self.raw} {were} changed after the synthetic cases were added: "
                f"difflung_remove takes the synthetic cases out of it and keeps your changes"
            )
        self.notes += generator_notes(self.name, manifest)

    def _result(self, manifest: dict | None, problems: list[Problem], splits: dict[str, list[dict]]) -> Audit:
        return _result(self.name, manifest, splits, problems, self.notes)


def _is_changed(folder: Path, manifest: dict, name: str) -> bool:
    """Whether somebody else has changed a JSON file that the injection rewrote."""
    path, hashes = folder / name, manifest["files"].get(name)
    return hashes is not None and path.is_file() and sha256(path) not in (hashes["before"], hashes["after"])


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


def _result(
    name: str,
    manifest: dict | None,
    splits: dict[str, list[dict]],
    problems: list[Problem],
    notes: list[str],
    patients: dict[str, str] | None = None,
) -> Audit:
    patients = manifest["patients"] if manifest else patients or {}
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
    return Audit(name, tuple(problems), tuple(folds), tuple(notes))
