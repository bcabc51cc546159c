"""Prepares the files of a change before it is made: cases, splits, dataset.json, manifest, backups."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from pathlib import Path

from nnunet_difflung.dataset.contents import digest_of
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.dataset.staged_case import StagedCase
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.injection.commit import COMMIT, ORIGINALS, Step, begin, copy_as_it_is, give_mode, sync_file
from nnunet_difflung.injection.dataset_lock import HIDDEN
from nnunet_difflung.injection.fingerprint import counted_cases, staged_fingerprint
from nnunet_difflung.injection.json_style import in_style_of
from nnunet_difflung.injection.leaks import origins, record_problems, split_problems
from nnunet_difflung.injection.manifest import (
    FINGERPRINT,
    MANIFEST,
    PREPROCESSED,
    backup_name,
    fault_in,
    is_identifier,
    is_planned,
    lists_synthetic,
    resolve,
    run_of,
)
from nnunet_difflung.paths import DATASET, SPLITS
from nnunet_difflung.runtime.files import copy_file, json_bytes, read_json, sha256, write_bytes
from nnunet_difflung.runtime.modes import like, make_folder


def check_staged(case: StagedCase, raw: RawDataset, run: dict) -> None:
    """Checks that a staged case fits its run and the dataset.

    Raises:
        ValueError: it does not fit, which is an error in the calling code.
        BadInput: a staged file is missing.
    """
    name, ending = re.escape(case.identifier), re.escape(raw.dataset_json["file_ending"])
    example = next(iter(raw.cases.values()))
    if not is_identifier(case.identifier):
        raise ValueError(f"{case.identifier!r} is not an id of a synthetic case")
    if (case.record["method"], case.record["fold"]) != (run["method"], run["fold"]):
        raise ValueError(f"{case.identifier} is not of method {run['method']}, fold {run['fold']}")
    if (
        len(case.images) != len(example.images)
        or not re.fullmatch(name + ending, case.label.name)
        or not all(re.fullmatch(rf"{name}_\d{{4}}{ending}", path.name) for path in case.images)
    ):
        raise ValueError(
            f"{case.identifier} lacks or misnames files of a case of {raw.name}: {case.images}, {case.label}"
        )
    for path in (*case.images, case.label):
        if not path.is_file():
            raise BadInput(f"{path} is missing, a staged file of {case.identifier}; run the same command again")


class Change:
    """Prepares the files of a commit in the staging folder and records them in the manifest."""

    def __init__(self, raw: RawDataset, manifest: dict):
        self.raw, self.folder, self.manifest = raw, raw.folder, manifest
        self.backups = [Step("mkdir", ORIGINALS)]
        self.area = begin(raw.folder)
        self.count = 0
        self.preprocessed = raw.preprocessed.is_dir()

    def _staged(self, content: bytes, target: str) -> Step:
        self.count += 1
        source = f"{COMMIT}/{self.count}.json"
        write_bytes(self.folder / source, content)
        give_mode(self.folder / source, resolve(self.folder, target), self.folder / DATASET)
        return Step("put", target, source, hashlib.sha256(content).hexdigest())

    def _replace(self, target: str, content: bytes) -> Step:
        """A step that replaces a JSON file; the first time, the original is backed up."""
        path, entry = resolve(self.folder, target), self.manifest["files"].get(target)
        step = self._staged(content, target)
        if entry is None:
            before = None
            if path.is_file() and not (path.name == SPLITS and lists_synthetic(path)):
                before = sha256(path)
                self.count += 1
                source = f"{COMMIT}/{self.count}_{path.name}"
                copy_as_it_is(path, self.folder / source)
                self.backups.append(Step("put", f"{ORIGINALS}/{backup_name(target)}", source))
            entry = {"before": before}
            if target == PREPROCESSED + SPLITS and not path.is_file() and is_planned(path.parent):
                entry["deleted_before"] = True  # nnU-Net's planning had copied it, and somebody has deleted it since
        self.manifest["files"][target] = {**entry, "after": step.after}
        return step

    def add_case(self, case: StagedCase, run: dict) -> list[Step]:
        """Steps that move a staged case into the dataset."""
        check_staged(case, self.raw, run)
        images, labels = list(case.images), [case.label]
        for paths in (images, labels):
            sidecar = paths[0].with_name(f"{case.identifier}.json")
            if sidecar.is_file():
                paths.append(sidecar)
        files = [(path, "imagesTr") for path in images] + [(path, "labelsTr") for path in labels]
        host = self.raw.cases.get(str(case.record.get("host")), next(iter(self.raw.cases.values())))
        steps = []
        for path, part in files:
            model = Path(host.images[0] if part == "imagesTr" else host.label)
            target = f"{part}/{path.name}"
            if os.path.lexists(self.folder / target):
                raise BadInput(f"{self.folder / target} exists and is not in the manifest; move it to another folder")
            step = Step("put", target, self._inside(path, part, model), sha256(path))
            self.manifest["files"][target] = {"before": None, "after": step.after}
            steps.append(step)
        record = json.loads(json_bytes(case.record))
        self.manifest["cases"][case.identifier] = {
            **record,
            "files": [step.target for step in steps],
            "contents": digest_of(self.manifest["contents"], origins(record)),
        }
        return steps

    def add_run(self, run: dict) -> None:
        """Records a run, with one hash for what the training cases of its generator hold."""
        record = json.loads(json_bytes(run))
        if record.get("generator"):
            training = record["generator"].get("training_cases", [])
            record["generator"]["contents"] = digest_of(self.manifest["contents"], training)
        others = [earlier for earlier in self.manifest["runs"] if run_of({"runs": [record]}, earlier) is None]
        self.manifest["runs"] = [*others, record]  # an earlier run of the same fold had no cases and is replaced

    def _inside(self, path: Path, part: str, model: Path) -> str:
        """Path of a staged file relative to the dataset; files outside the hidden folder are copied into it first.

        Nobody may read it who may not read its model, a file of the real case that it was made from.
        """
        if not path.resolve().is_relative_to((self.folder / HIDDEN).resolve()):
            if not (self.area / part).is_dir():
                make_folder(self.area / part, self.folder)
            copy_file(path, self.area / part / path.name)
            path = self.area / part / path.name
        like(path, model)
        sync_file(path)
        return path.resolve().relative_to(self.folder.resolve()).as_posix()

    def folders(self) -> list[Step]:
        """Steps that make missing folders, such as imagesTr if ``dataset.json`` lists files elsewhere; records them."""
        made = [part for part in ("imagesTr", "labelsTr") if not (self.folder / part).is_dir()]
        if not self.preprocessed and staged_fingerprint(self.raw).is_file():
            made.append(PREPROCESSED)
            self.preprocessed = True
        self.manifest["made_folders"] = sorted({*self.manifest.get("made_folders", []), *made})
        return [Step("mkdir", part) for part in made]

    def fingerprint(self) -> list[Step]:
        """Steps that add the real cases' fingerprint, if it is staged and the dataset has no fingerprint.

        The manifest keeps the hash of the dataset's fingerprint, whoever made it, unless it counts synthetic cases.
        """
        path, staged = resolve(self.folder, FINGERPRINT), staged_fingerprint(self.raw)
        if path.is_file():
            if counted_cases(path) <= len(self.raw.cases):
                self.manifest.setdefault("fingerprint", sha256(path))
            return []
        if not staged.is_file():
            return []
        sync_file(staged)
        after = sha256(staged)
        self.manifest["fingerprint"] = after
        self.manifest["files"][FINGERPRINT] = {"before": None, "after": after}
        return [Step("put", FINGERPRINT, staged.relative_to(self.folder).as_posix(), after)]

    def splits(self, members: list[tuple[str, int | str]]) -> list[Step]:
        """Steps that add ids to their fold's training list, in both folders of the dataset; ``all`` has no list."""
        steps, latest = [], None
        paths = [resolve(self.folder, name) for name in (SPLITS, PREPROCESSED + SPLITS)]
        for name, path in zip((SPLITS, PREPROCESSED + SPLITS)[: 1 + self.preprocessed], paths, strict=False):
            if path.is_file():
                splits = read_json(path)
                if not members:
                    latest = splits
                    continue
            elif latest is None and paths[1].is_file():
                splits = read_json(paths[1])
            else:
                splits = copy.deepcopy(latest or self._splits_read())
            for identifier, fold in members:
                if fold != "all" and identifier not in splits[fold]["train"]:
                    splits[fold]["train"].append(identifier)
            latest = splits
            _refuse_leaks(self.manifest, splits, str(path))
            steps.append(self._replace(name, _like_the_file(path, splits)))
        return steps

    def _splits_read(self) -> list[dict]:
        """The folds as they were read, without synthetic cases that have been removed since."""
        present = self.manifest["cases"]
        return [
            {side: [i for i in cases if not is_synthetic(i) or i in present] for side, cases in split.items()}
            for split in self.raw.splits
        ]

    def dataset_json(self, cases: list[StagedCase]) -> list[Step]:
        """Steps that update ``numTraining`` and, if the dataset lists its files, the list."""
        path = self.folder / DATASET
        content = read_json(path)
        if not cases:
            return []
        content["numTraining"] = len(self.raw.cases) + len(self.manifest["cases"])
        if "dataset" in content:
            prefix = _path_style(content["dataset"], self.folder)
            for case in cases:
                content["dataset"][case.identifier] = {
                    "images": [f"{prefix}imagesTr/{file.name}" for file in case.images],
                    "label": f"{prefix}labelsTr/{case.label.name}",
                }
        changed, copied = _like_the_file(path, content), resolve(self.folder, PREPROCESSED + DATASET)
        steps = [self._replace(DATASET, changed)]
        if "dataset" in content and copied.is_file() and sha256(copied) == sha256(path):
            steps.append(self._staged(changed, PREPROCESSED + DATASET))  # nnU-Net preprocesses what its copy lists
        return steps

    def manifest_copies(self) -> list[Step]:
        """Steps that write the manifest and its copy in the preprocessed folder."""
        fault = fault_in(self.manifest)
        if fault:
            raise ValueError(f"not a manifest: {fault}")
        content = json_bytes(self.manifest)
        names = [PREPROCESSED + MANIFEST, MANIFEST] if self.preprocessed else [MANIFEST]
        return [self._staged(content, name) for name in names]


def _refuse_leaks(manifest: dict, splits: list[dict], where: str) -> None:
    problems = split_problems(manifest, splits, where) + record_problems(manifest)
    if problems:
        raise Failed(
            f"nothing was injected: {problems[0].text} ({len(problems)} such problems); put this right, then run the "
            f"same command again, which injects what it has painted"
        )


def _like_the_file(path: Path, content: object) -> bytes:
    """New content of a JSON file, written as the user has written the file; in this package's form if it is new."""
    try:
        return in_style_of(path.read_bytes(), content)
    except (FileNotFoundError, ValueError):
        return json_bytes(content)


def _path_style(listed: dict, folder: Path) -> str:
    """How ``dataset.json`` writes the paths that it lists: absolute, ``./…`` or relative to it."""
    example = str(next(iter(listed.values()))["label"])
    if os.path.isabs(example):
        return f"{os.path.abspath(folder)}/"  # nnUNet_raw may be relative
    return "./" if example.startswith("./") else ""
