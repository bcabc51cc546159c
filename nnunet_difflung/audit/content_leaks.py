"""The rules of the audit about what files hold, whatever they are called: real cases, test set, fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_difflung.dataset.contents import (
    EMPTY,
    Contents,
    FileHashes,
    is_uniform,
    name_of,
    present_cases,
    quick_key,
    same_images,
    torn_apart,
)
from nnunet_difflung.dataset.layout import Case
from nnunet_difflung.injection.fingerprint import counted_cases
from nnunet_difflung.injection.leaks import Problem, first_names, origins, start_over
from nnunet_difflung.injection.manifest import FINGERPRINT, PREPROCESSED
from nnunet_difflung.paths import DATASET, dataset_id
from nnunet_difflung.runtime.files import read_json, sha256
from nnunet_difflung.runtime.wording import quoted


@dataclass(frozen=True)
class RealFiles:
    """The real cases that are in a raw dataset now.

    Attributes:
        folder: of the raw dataset.
        cases: id → its files that exist.
        hashes: of files.
    """

    folder: Path
    cases: dict[str, Case]
    hashes: FileHashes

    def images(self, identifiers: Iterable[str]) -> dict[str, dict[str, str]]:
        """id → image file, named as in the manifest → SHA-256."""
        folder, of = self.folder, self.hashes.of
        return {i: {name_of(folder, file): of(file) for file in self.cases[i].images} for i in identifiers}

    def label(self, identifier: str) -> dict[str, str]:
        """The label file of a case, named as in the manifest, and its SHA-256; empty if there is none."""
        file = self.cases[identifier].label
        return {name_of(self.folder, file): self.hashes.of(file)} if file else {}


def real_files(folder: Path, hashes: FileHashes) -> RealFiles | None:
    """The real cases in a raw dataset; None if its dataset.json does not say what they are."""
    try:
        return RealFiles(folder, present_cases(folder, read_json(folder / DATASET)), hashes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


# ---- what the manifest says about real cases, and what is there ----


@dataclass
class _Differences:
    """How the files of the real cases differ from the manifest.

    Attributes:
        missing: cases that lack a file.
        changed: cases with a file that no case had.
        added: cases that the manifest does not name.
        holds: case → the cases whose file it holds now under its own name.
    """

    missing: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)
    holds: dict[str, set[str]] = field(default_factory=dict)


def content_problems(files: RealFiles, manifest: dict, splits: list[dict]) -> list[Problem]:
    """Compares what the real cases hold with the manifest, and finds cases that were renamed, swapped or changed.

    Args:
        files: the real cases.
        manifest: of the dataset.
        splits: content of its ``splits_final.json``.
    """
    differences = _compare(files, manifest)
    again = start_over(manifest["dataset"])
    problems = _misplaced(differences.holds, manifest, splits)
    listed = {name for split in splits for side in ("train", "val") for name in split[side]}
    texts = {
        "files are missing of real cases from which synthetic cases or generators were made: {}": differences.missing,
        "files of real cases were changed after synthetic cases or generators had been made from them: {}": (
            differences.changed
        ),
        "real cases were added or renamed after the synthetic cases were made, and the manifest does not name them: "
        "{}": differences.added - listed,
    }
    for text, names in texts.items():
        if names:
            remedy = "move them out of the dataset" if names <= differences.added else "restore the files"
            problems.append(Problem(f"{files.folder}: {text.format(first_names(names))}; {remedy}, or {again}"))
    return problems


def _compare(files: RealFiles, manifest: dict) -> _Differences:
    patients, recorded = set(manifest["patients"]), manifest.get("contents")
    differences = _Differences(missing=patients - set(files.cases), added=set(files.cases) - patients)
    if recorded is not None:
        before = {i: _parts(hashes) for i, hashes in recorded.items()}
        images = files.images(files.cases)
        for position, now in enumerate((images, {i: files.label(i) for i in files.cases})):
            _compare_part(now, {i: parts[position] for i, parts in before.items()}, differences)
    differences.changed -= differences.missing
    return differences


def _parts(hashes: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Image files and label of a case, which is the last of its files in the manifest."""
    listed = list(hashes.items())
    return dict(listed[:-1]), dict(listed[-1:])


def _compare_part(now: Contents, before: Contents, differences: _Differences) -> None:
    """Compares the image files, or the labels, of all cases; a file that was moved with its case is the same."""
    owners: dict[str, set[str]] = {}
    for identifier, hashes in before.items():
        for digest in hashes.values():
            owners.setdefault(digest, set()).add(identifier)
    for identifier, hashes in now.items():
        expected = before.get(identifier, {})
        if len(hashes) < len(expected):
            differences.missing.add(identifier)
        for digest, former in _pairs(hashes, expected):
            if digest == former:
                continue
            others = owners.get(digest, set()) - {identifier}
            if others:
                differences.holds.setdefault(identifier, set()).update(others)
            elif identifier in before:
                differences.changed.add(identifier)


def _pairs(now: Mapping[str, str], expected: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """The hash of each file that is there, and the hash that it should have, by its name or else by its position."""
    former = [*expected.values(), *([None] * len(now))]
    return [(digest, expected.get(name, former[k])) for k, (name, digest) in enumerate(now.items())]


def _misplaced(holds: Mapping[str, set[str]], manifest: dict, splits: list[dict]) -> list[Problem]:
    """Cases that hold the files of others: a leak in each fold in which this moves a patient to the other side."""
    problems, leaking = [], set()
    again = f"give each file its own name again, or {start_over(manifest['dataset'])}"
    for fold, split in enumerate(splits):
        sides = {side: set(split[side]) for side in ("train", "val")}
        trained, held_out = _seen(manifest, fold, sides["train"]), _patients(manifest, sides["val"])
        lines = []
        for identifier, others in sorted(holds.items()):
            validated = {o for o in others if identifier in sides["val"] and _patients(manifest, {o}) & trained}
            learned = {o for o in others if identifier in sides["train"] and _patients(manifest, {o}) & held_out}
            if validated or learned:
                lines.append(f"{identifier} holds {first_names(validated | learned)}")
                leaking.add(identifier)
        if lines:
            text = f"fold {fold}: files of training and validation were swapped, copied or renamed: {_first(lines)}"
            problems.append(Problem(f"{text}; {again}", fold, True))
    rest = [f"{name} holds {first_names(others)}" for name, others in sorted(holds.items()) if name not in leaking]
    if rest:
        text = "files of real cases were swapped, copied or renamed after synthetic cases were made from them"
        problems.append(Problem(f"{text}: {_first(rest)}; {again}"))
    return problems


def _seen(manifest: dict, fold: int, training: set[str]) -> set[str]:
    """Patients that a fold's training sees: of its real cases, of its synthetic cases and of their generators."""
    names = set(training)
    for case in manifest["cases"].values():
        names |= origins(case) if case["fold"] == fold else set()
    for run in manifest["runs"]:
        names |= set((run.get("generator") or {}).get("training_cases", [])) if run["fold"] == fold else set()
    return _patients(manifest, names)


def _patients(manifest: dict, names: set[str]) -> set[str]:
    return {manifest["patients"].get(name, name) for name in names}


def _first(lines: list[str]) -> str:
    return "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")


# ---- the same image twice ----


def twin_problems(files: RealFiles, splits: list[dict]) -> list[Problem]:
    """Images that are in a fold's training under one id and in its validation under another, recompressed or not."""
    alike: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for identifier, case in files.cases.items():
        for file in case.images:
            alike.setdefault(quick_key(file), []).append((identifier, file))
    holders: dict[str, dict[str, str]] = {}
    for key, group in alike.items():
        if len({identifier for identifier, _ in group}) > 1 and not (len(key) > 1 and is_uniform(Path(group[0][1]))):
            for identifier, file in group:
                holders.setdefault(identifier, {})[name_of(files.folder, file)] = files.hashes.of_data(file)
    groups = same_images(files.folder, holders)
    return [
        Problem(
            f"fold {fold} trains on {training} and validates on {validation}, which hold the same image (equal "
            f"SHA-256); remove one of the two cases, or put both on the same side of splits_final.json",
            fold,
            True,
        )
        for fold, split in enumerate(splits if groups else [])
        for training, validation in torn_apart(groups, split)
    ]


def problems_of_test_set(files: RealFiles) -> list[Problem]:
    """Images and labels of training cases that are in the test set too, under any name, recompressed or not."""
    problems = []
    for part, of_case in (("imagesTs", lambda c: c.images), ("labelsTs", lambda c: (c.label,) if c.label else ())):
        folder = files.folder / part
        alike: dict[tuple[int, ...], list[str]] = {}
        tests = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        for case in files.cases.values() if tests else ():
            for file in of_case(case):
                alike.setdefault(quick_key(file), []).append(file)
        lines = []
        for path in tests:
            twin = next((file for file in alike.get(quick_key(path), ()) if _same(path, file, files.hashes)), None)
            if twin is not None and not is_uniform(path, EMPTY if part == "imagesTs" else 1):
                lines.append(f"{path.name} is {name_of(files.folder, twin)}")
        if lines:
            text = f"{folder} holds files of training cases (equal SHA-256): {_first(lines)}"
            problems.append(Problem(f"{text}; remove these cases from the test set", None, True))
    return problems


def _same(path: Path, file: str, hashes: FileHashes) -> bool:
    return hashes.of_data(path) == hashes.of_data(file)


# ---- the fingerprint ----


def fingerprint_problems(preprocessed: Path, manifest: dict) -> list[Problem]:
    """Whether nnU-Net's fingerprint is the one of the real cases."""
    path = preprocessed / FINGERPRINT.removeprefix(PREPROCESSED)
    recorded = manifest.get("fingerprint") or manifest["files"].get(FINGERPRINT, {}).get("after")
    if not path.is_file() or not manifest["cases"]:
        return []
    real, counted = len(manifest["patients"]), counted_cases(path)
    if counted <= real and recorded in (None, sha256(path)):
        return []
    name = manifest["dataset"]
    what = f"counts {counted} cases, and the dataset has {real} real cases" if counted > real else "was extracted again"
    text = (
        f"{path} {what}, so nnU-Net would plan and normalise by synthetic cases, those of other folds included; run "
        f"difflung_remove -d {quoted(name)}, nnUNetv2_extract_fingerprint -d {dataset_id(name)} --clean and "
        f"difflung_augment -d {quoted(name)}, and plan and preprocess again"
    )
    return [Problem(text, None, True)]
