"""Removes every synthetic case from a dataset and restores its files byte for byte."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.commit import COMMIT, ORIGINALS, Step, begin, commit, finish, pending, sync_file
from nnunet_difflung.injection.dataset_lock import HIDDEN, locked
from nnunet_difflung.injection.manifest import (
    FINGERPRINT,
    MANIFEST,
    PREPROCESSED,
    backup_name,
    is_planned,
    lists_synthetic,
    read_manifest,
    resolve,
)
from nnunet_difflung.paths import DATASET, SPLITS, cache_folder, dataset_folder, fold_folders, is_fold, our_folders
from nnunet_difflung.runtime.files import delete_path, read_json, sha256
from nnunet_difflung.runtime.locks import delete_unused


class Removal:
    """The plan of a removal.

    Attributes:
        folder: the raw dataset's folder.
        manifest: the dataset's manifest.
        files: the manifest's hashes of the files that the injection wrote.
        force: restore files even if they were changed after the injection.
        steps: steps of the change.
        backups: for each file that a step needs in the commit's folder: the original, and its path there relative to
            the dataset's folder.
        lines: descriptions of the steps for the user.
    """

    def __init__(self, folder: Path, manifest: dict, force: bool):
        self.folder, self.files, self.force = folder, manifest["files"], force
        self.manifest = manifest
        self.steps: list[Step] = []
        self.backups: list[tuple[Path, str]] = []
        self.lines: list[str] = []

    def delete(self, target: str) -> None:
        """Deletes a file, if it exists."""
        self.steps.append(Step("delete", target))

    def put_back(self, target: str, backup: str, expected: str) -> None:
        """Restores a file.

        Args:
            target: the file to restore, named as in the manifest.
            backup: the file whose original is used, named as in the manifest.
            expected: SHA-256 of the original.

        Raises:
            BadInput: the original is missing or damaged.
        """
        path = self.folder / ORIGINALS / backup_name(backup)
        if not os.path.lexists(path) or not (path.is_symlink() or sha256(path) == expected):
            raise BadInput(
                f"{path}, the original of {resolve(self.folder, target)}, is "
                f"{'damaged' if path.exists() else 'missing'}; put a copy of the original (SHA-256 {expected}) there"
            )
        source = f"{COMMIT}/{len(self.backups)}_{path.name}"
        self.backups.append((path, source))
        self.steps.append(Step("put", target, source, expected))

    def delete_synthetic(self) -> None:
        """Deletes the synthetic files in the raw dataset, and what nnU-Net's preprocessing made of them."""
        preprocessed = resolve(self.folder, PREPROCESSED)
        derived = sorted(p for p in preprocessed.glob(f"*/{SYNTHETIC_PREFIX}*") if not p.is_dir())
        for path in derived:
            self.delete(PREPROCESSED + path.relative_to(preprocessed).as_posix())
        names = [name for name in self.files if name.startswith(("imagesTr/", "labelsTr/"))]
        for name in names:
            path = self.folder / name
            if not path.is_file():
                self.lines.append(f"{path} had already been deleted")
            elif sha256(path) != self.files[name]["after"]:
                self.lines.append(f"{path} was changed after it was injected; deleted all the same")
            self.delete(name)
        self.lines.append(
            f"removed: {len(self.manifest['cases'])} synthetic cases ({len(names)} files) of "
            f"{self.folder.name}, and {len(derived)} files that nnU-Net's preprocessing made of them"
        )

    def restore(self, name: str) -> None:
        """Restores a JSON file that the injection rewrote."""
        entry, path = self.files.get(name), resolve(self.folder, name)
        if entry is None:
            return
        actual = sha256(path) if path.is_file() else None
        if actual not in (entry["before"], entry["after"]):
            self.refuse_or_note(path, "deleted" if actual is None else "changed")
        if actual == entry["before"]:
            return
        if entry["before"] is None:
            self.delete(name)
        else:
            self.put_back(name, name, entry["before"])
        self.lines.append(f"{path}: {'deleted' if entry['before'] is None else 'original restored'}")

    def refuse_or_note(self, path: Path, what: str) -> None:
        """Adds a line saying that somebody else has changed or deleted a file.

        Raises:
            BadInput: it was changed, and ``force`` is off.
        """
        if not self.force and what == "changed":
            raise BadInput(
                f"{path} was changed after the synthetic cases were injected, and restoring it would undo "
                f"that change; undo the change yourself, or keep a copy of the file and use --force"
            )
        self.lines.append(f"{path} was {what} after the synthetic cases were injected")

    def restore_preprocessed_splits(self) -> None:
        """Restores the preprocessed splits; replaces or deletes a copy of augmented splits that nnU-Net has made."""
        name = PREPROCESSED + SPLITS
        path, entry = resolve(self.folder, name), self.files.get(name, {"before": None, "after": None})
        if entry["before"] is not None:
            self.restore(name)
            return
        if not path.is_file() or not (lists_synthetic(path) or sha256(path) == entry["after"]):
            return
        raw = self.folder / SPLITS
        unchanged = sha256(path) == entry["after"] or (raw.is_file() and read_json(raw) == read_json(path))
        if not unchanged:
            self.refuse_or_note(path, "changed")
        original = self.files.get(SPLITS, {}).get("before")
        copied = original is not None and is_planned(path.parent) and not entry.get("deleted_before")
        if copied:
            self.put_back(name, SPLITS, original)
        else:
            self.delete(name)
        self.lines.append(f"{path}: {'replaced by the raw original' if copied else 'deleted'}")

    def restore_preprocessed_dataset_json(self) -> None:
        """Replaces the copy of the augmented dataset.json that nnU-Net's planning made by the original."""
        path, original = resolve(self.folder, PREPROCESSED + DATASET), self.files.get(DATASET, {}).get("before")
        backup = self.folder / ORIGINALS / backup_name(DATASET)
        if original is None or not path.is_file() or not backup.is_file() or sha256(path) == original:
            return
        copy, before = read_json(path), read_json(backup)
        if all(copy.get(k) == before.get(k) for k in {*copy, *before} - {"numTraining", "dataset"}):
            self.put_back(PREPROCESSED + DATASET, DATASET, original)
            self.lines.append(f"{path}: replaced by the raw original")

    def remove_fingerprint(self) -> None:
        """Deletes the fingerprint if the injection made it."""
        entry, path = self.files.get(FINGERPRINT), resolve(self.folder, FINGERPRINT)
        if entry is None or not path.is_file():
            return
        if sha256(path) == entry["after"]:
            self.delete(FINGERPRINT)
        else:
            self.lines.append(
                f"{path} has been extracted again since and is kept; if the dataset held synthetic cases at that "
                f"time, run nnUNetv2_plan_and_preprocess --clean"
            )

    def finish(self) -> None:
        """Deletes the manifests, the raw one last, and the empty folders that the injection made."""
        self.delete(PREPROCESSED + MANIFEST)
        self.steps += [Step("rmdir", name) for name in self.manifest.get("made_folders", [])]
        self.delete(MANIFEST)


def plan_removal(folder: Path, force: bool) -> tuple[Removal | None, list[str]]:
    """Plans a removal; changes nothing.

    Args:
        folder: the raw dataset's folder.
        force: restore files even if they were changed after the injection.

    Returns:
        the plan, or None if there is nothing to remove; and lines that describe it.

    Raises:
        BadInput: a file to be restored was changed by somebody else, or its original is missing or damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        hidden = folder / HIDDEN
        if hidden.is_dir() and any(path.name != "lock" for path in hidden.iterdir()):
            empty = Removal(folder, {"files": {}, "cases": {}}, force)
            return empty, [f"removed: {hidden}, which an interrupted command had left"]
        return None, [f"{folder.name} has no synthetic cases; nothing to do"]
    plan = Removal(folder, manifest, force)
    plan.delete_synthetic()
    plan.restore(SPLITS)
    plan.restore_preprocessed_splits()
    plan.restore(DATASET)
    plan.restore_preprocessed_dataset_json()
    plan.remove_fingerprint()
    plan.finish()
    return plan, plan.lines


def remove(dataset: str, dry_run: bool = False, force: bool = False, generators: bool = False) -> list[str]:
    """Removes all synthetic cases and restores the dataset.

    Args:
        dataset: id or name.
        dry_run: change nothing; return what would be done.
        force: restore dataset.json and the splits even if they were changed after the injection.
        generators: also delete the trained generators and the cache in ``$nnUNet_results``.

    Returns:
        what was done, a line for each action.

    Raises:
        BadInput: a file to be restored was changed by somebody else, or its original is missing or damaged.
    """
    folder = dataset_folder(dataset)
    if dry_run:
        first = ["an interrupted change would be finished first"] if pending(folder) else []
        return first + plan_removal(folder, force)[1] + _generators(folder.name, delete=False, asked=generators)
    lines = ["an interrupted change was finished first"] if pending(folder) else []
    with locked(folder):
        finish(folder)
        plan, planned = plan_removal(folder, force)
        if plan is not None:
            _carry_out(folder, plan)
    return lines + planned + _generators(folder.name, delete=generators, asked=generators)


def _carry_out(folder: Path, plan: Removal) -> None:
    begin(folder)
    for backup, source in plan.backups:
        shutil.copy2(backup, folder / source, follow_symlinks=False)
        sync_file(folder / source)
    commit(folder, plan.steps, clear=True)


def _generators(name: str, delete: bool, asked: bool) -> list[str]:
    folders = our_folders(name)
    if not folders:
        return []
    kept = [path for folder in folders for path in _delete(folder)] if delete else []
    lines = [f"{path} is kept: another command is using it" for path in kept]
    listed = ", ".join(str(folder) for folder in folders if not delete or not folder.exists())
    if listed:
        lines.append(f"removed: {listed}" if asked else f"generators are kept in {listed} (--generators deletes them)")
    return lines


def _delete(folder: Path) -> list[Path]:
    """Deletes the cache or a method's folder.

    Returns:
        the folders that are kept because another command is using them.
    """
    if folder == cache_folder(folder.parent.name):
        return [] if delete_unused(folder) else [folder]
    kept = [path for path in fold_folders(folder) if not delete_unused(path)]
    if not kept:
        for entry in folder.iterdir():
            if not is_fold(entry.name):  # a fold folder that still exists belongs to another command
                delete_path(entry)
        with suppress(OSError):
            folder.rmdir()
    return kept
