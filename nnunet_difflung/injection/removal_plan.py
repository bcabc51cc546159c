"""The steps that take synthetic cases out of a dataset, and the lines that describe them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from nnunet_difflung.dataset.places import belongs_to_another
from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.commit import COMMIT, ORIGINALS, Step
from nnunet_difflung.injection.leaks import first_names
from nnunet_difflung.injection.manifest import (
    FINGERPRINT,
    MANIFEST,
    PREPROCESSED,
    backup_name,
    is_planned,
    lists_synthetic,
    resolve,
)
from nnunet_difflung.injection.preconditions import real_cases
from nnunet_difflung.injection.without_cases import as_bytes, take_out
from nnunet_difflung.paths import DATASET, SPLITS, dataset_id
from nnunet_difflung.runtime.files import read_json, sha256
from nnunet_difflung.runtime.wording import counted


class Removal:
    """The plan of a removal.

    Attributes:
        folder: the raw dataset's folder.
        manifest: the dataset's manifest.
        files: the manifest's hashes of the files that the injection wrote.
        force: restore originals even if the files were changed after the injection, and delete changed synthetic files.
        steps: steps of the change.
        sources: for each file that a step needs in the commit's folder: the original, or the content to write, and its
            path there relative to the dataset's folder.
        restored: file of the raw folder -> the original or the content that it gets.
        lines: descriptions of the steps for the user.
        is_whole: whether no synthetic case is left afterwards.
    """

    def __init__(self, folder: Path, manifest: dict, force: bool):
        self.folder, self.files, self.force = folder, manifest["files"], force
        self.manifest = manifest
        self.steps: list[Step] = []
        self.sources: list[tuple[Path | bytes, str]] = []
        self.restored: dict[str, Path | bytes] = {}
        self.lines: list[str] = []
        self.is_whole = True

    def delete(self, target: str) -> None:
        """Deletes a file, if it exists."""
        self.steps.append(Step("delete", target))

    def put(self, target: str, origin: Path | bytes, after: str | None = None) -> None:
        """Writes a file: a copy of an original, with its SHA-256 if it is a link, or content."""
        source = f"{COMMIT}/{len(self.sources)}_{resolve(self.folder, target).name}"
        if after is None:
            after = hashlib.sha256(origin).hexdigest() if isinstance(origin, bytes) else sha256(origin)
        self.sources.append((origin, source))
        self.steps.append(Step("put", target, source, after))

    def original(self, name: str) -> Path | None:
        """The intact original of a file that the injection rewrote; None if it is missing or damaged."""
        path, expected = self.folder / ORIGINALS / backup_name(name), self.files[name]["before"]
        return path if path.is_symlink() or (path.is_file() and sha256(path) == expected) else None

    def delete_synthetic(self) -> None:
        """Deletes the synthetic files in the raw dataset, and what nnU-Net's preprocessing made of them.

        Raises:
            BadInput: a synthetic file was changed by somebody else, and ``force`` is off.
        """
        preprocessed = resolve(self.folder, PREPROCESSED)
        derived = self._derived(preprocessed)
        for path in derived:
            self.delete(PREPROCESSED + path.relative_to(preprocessed).as_posix())
        names = [name for name in self.files if name.startswith(("imagesTr/", "labelsTr/"))]
        gone = [name for name in names if not (self.folder / name).is_file()]
        for name in names:
            path = self.folder / name
            if name not in gone and sha256(path) != self.files[name]["after"]:
                if not self.force:
                    raise BadInput(
                        f"{path}, a file of a synthetic case, was changed after it was injected; move it to another "
                        f"folder if you want to keep it, or give --force, which deletes it"
                    )
                self.lines.append(f"{path} was changed after it was injected; deleted all the same")
            self.delete(name)
        if gone:
            self.lines.append(f"{len(gone)} files had already been deleted: {first_names(gone)}")
        self.lines.append(
            f"removed: {counted(len(self.manifest['cases']), 'synthetic case')} "
            f"({counted(len(names) - len(gone), 'file')}) of {self.folder.name}, and "
            f"{counted(len(derived), 'file')} that nnU-Net's preprocessing made of them"
        )

    def _derived(self, preprocessed: Path) -> list[Path]:
        """Files that nnU-Net's preprocessing made of synthetic cases; not those of another dataset behind a link."""
        names = "|".join(map(re.escape, self.manifest["cases"]))
        of_cases = re.compile(rf"({names})([._].*)?" if names else "(?!)")
        files = sorted(p for p in preprocessed.glob(f"*/{SYNTHETIC_PREFIX}*") if p.is_symlink() or not p.is_dir())
        files = [p for p in files if of_cases.fullmatch(p.name)]
        foreign = {p: other for p in {f.parent for f in files} if (other := belongs_to_another(self.folder.name, p))}
        for path, other in sorted(foreign.items()):
            self.lines.append(f"{path} is a link to a folder of {other}, whose files are kept")
        return [path for path in files if path.parent not in foreign]

    def restore(self, name: str) -> None:
        """Restores a JSON file that the injection rewrote; a change that somebody made since is kept.

        Raises:
            BadInput: the file was changed in such a way that the synthetic cases cannot be taken out of it.
        """
        entry, path = self.files.get(name), resolve(self.folder, name)
        if entry is None:
            return
        actual = sha256(path) if path.is_file() else None
        if actual == entry["before"]:
            if actual is not None:
                self.restored[name] = path
        elif actual is None:
            self._restore_deleted(name)
        elif actual != entry["after"] and not self.force:
            self._take_out(name, None)
        else:
            if actual != entry["after"]:
                self.lines.append(f"{path} was changed after the synthetic cases were injected")
            if entry["before"] is None:
                self.delete(name)
                self.lines.append(f"{path}: deleted")
            elif (original := self.original(name)) is not None:
                self._put_original(name, original)
            else:
                self._take_out(name, entry["before"])

    def _put_original(self, name: str, original: Path) -> None:
        path = resolve(self.folder, name)
        self.restored[name] = path.parent / os.readlink(original) if original.is_symlink() else original
        self.put(name, original, self.files[name]["before"])
        self.lines.append(f"{resolve(self.folder, name)}: original restored")

    def _restore_deleted(self, name: str) -> None:
        path, original = resolve(self.folder, name), self.original(name)
        self.lines.append(f"{path} was deleted after the synthetic cases were injected")
        if original is not None:
            self._put_original(name, original)
        else:
            self.lines.append(f"{path} cannot be restored, since {self.folder / ORIGINALS} lacks its original")

    def _take_out(self, name: str, expected: str | None) -> None:
        """Takes the synthetic cases out of a file whose original cannot be used.

        Args:
            name: the file.
            expected: SHA-256 of the original, which is lost; None if the file was changed since, so that the original
                would undo that change.

        Raises:
            BadInput: it is not such a file any more.
        """
        path, original = resolve(self.folder, name), self.original(name)
        try:
            present = path.read_bytes()
            content = take_out(name, json.loads(present), set(self.manifest["cases"]), real_cases(self.folder))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "give --force, which brings the original back" if original else "restore it from a copy"
            raise BadInput(
                f"{path} was changed after the synthetic cases were injected and cannot be read any more "
                f"({error!r}); {remedy}"
            ) from error
        if original is not None and not original.is_symlink() and read_json(original) == content:
            self._put_original(name, original)
            return
        written = as_bytes(content, expected, present)
        self.restored[name] = written
        self.put(name, written)
        if expected is None:
            result = "was changed after the synthetic cases were injected; they are taken out, and your change is kept"
        elif hashlib.sha256(written).hexdigest() == expected:
            result = f"restored byte for byte, though its copy in {ORIGINALS} is missing or damaged"
        else:
            result = (
                f"its content is that of the original, its formatting may differ, since the copy in {ORIGINALS} is "
                f"missing or damaged"
            )
        self.lines.append(f"{path}: {result}")

    def restore_preprocessed_splits(self) -> None:
        """Restores the preprocessed splits; replaces or deletes a copy of augmented splits that nnU-Net has made."""
        name = PREPROCESSED + SPLITS
        path, entry = resolve(self.folder, name), self.files.get(name, {"before": None, "after": None})
        if entry["before"] is not None:
            self.restore(name)
            return
        if not path.is_file() or not (lists_synthetic(path) or sha256(path) == entry["after"]):
            return
        unchanged = sha256(path) == entry["after"] or _hold_the_same(self.folder / SPLITS, path)
        copied = SPLITS in self.restored and is_planned(path.parent) and not entry.get("deleted_before")
        if not unchanged and not self.force:
            self.files = {**self.files, name: {"before": None, "after": sha256(path)}}
            self._take_out(name, None)
        elif copied:
            self.put(name, self.restored[SPLITS])
            self.lines.append(f"{path}: replaced by the raw original")
        else:
            self.delete(name)
            self.lines.append(f"{path}: deleted")

    def restore_preprocessed_dataset_json(self) -> None:
        """Replaces the copy of the augmented dataset.json that nnU-Net's planning made by the original."""
        name = PREPROCESSED + DATASET
        path, origin = resolve(self.folder, name), self.restored.get(DATASET)
        if origin is None or not path.is_file():
            return
        before = origin if isinstance(origin, bytes) else origin.read_bytes()
        if path.read_bytes() == before:
            return
        copy, original = _content(path), json.loads(before)
        if not isinstance(copy, dict):
            self.lines.append(f"{path} cannot be read and is kept; nnUNetv2_plan_and_preprocess writes it again")
        elif all(copy.get(k) == original.get(k) for k in {*copy, *original} - {"numTraining", "dataset"}):
            self.put(name, origin)
            self.lines.append(f"{path}: replaced by the raw original")
            if is_planned(path.parent):
                self.lines.append(
                    f"plans and preprocessed real cases in {path.parent} are kept, so that nnU-Net can train; plans "
                    f"that count the synthetic cases matter only for the batch size of very small datasets "
                    f"(nnUNetv2_plan_and_preprocess makes them anew)"
                )

    def restore_fingerprint(self) -> None:
        """Deletes the fingerprint if the injection made it, unless nnU-Net's plans need it: no trainer starts without.

        It is the fingerprint of the real cases alone, which nnU-Net would have extracted itself.
        """
        entry, path = self.files.get(FINGERPRINT), resolve(self.folder, FINGERPRINT)
        if entry is None:
            return
        planned = is_planned(path.parent)
        again = f"nnUNetv2_plan_and_preprocess -d {dataset_id(self.folder.name)} --clean"
        if not path.is_file():
            if planned:
                self.lines.append(f"{path} is missing, without which no nnU-Net trainer starts; run {again}")
        elif sha256(path) != entry["after"]:
            self.lines.append(
                f"{path} has been extracted again since and is kept; if the dataset held synthetic cases at that "
                f"time, run {again}"
            )
        elif planned:
            self.lines.append(f"{path} is kept: it is that of the real cases, and nnU-Net's trainers need it")
        else:
            self.delete(FINGERPRINT)

    def finish(self) -> None:
        """Deletes the manifests, the raw one last, and the empty folders that the injection made."""
        self.delete(PREPROCESSED + MANIFEST)
        self.steps += [Step("rmdir", name) for name in self.manifest.get("made_folders", [])]
        self.delete(MANIFEST)


def _content(path: Path) -> Any:
    """Content of a JSON file; None if it cannot be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _hold_the_same(first: Path, second: Path) -> bool:
    """Whether two JSON files have the same content; one that cannot be read has none."""
    content = _content(first)
    return content is not None and content == _content(second)
