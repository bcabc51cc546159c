"""Takes every synthetic case out of a dataset again and restores its files byte for byte."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.commit import COMMIT, ORIGINALS, Step, begin, commit, finish, pending, sync_file
from nnunet_difflung.injection.dataset_lock import HIDDEN, locked
from nnunet_difflung.injection.fingerprint import FINGERPRINT
from nnunet_difflung.injection.manifest import (
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
    """Steps of a removal, the backups that they need in the commit's folder, and what to say of them, line by line."""

    def __init__(self, folder: Path, manifest: dict, force: bool):
        self.folder, self.files, self.force = folder, manifest["files"], force
        self.manifest = manifest
        self.steps: list[Step] = []
        self.backups: list[tuple[Path, str]] = []
        self.lines: list[str] = []

    def delete(self, target: str) -> None:
        """Deletes a file, if it is there."""
        self.steps.append(Step("delete", target))

    def put_back(self, target: str, backup: str, expected: str) -> None:
        """Restores a file from the backup of ``backup`` (the name in the manifest)."""
        path = self.folder / ORIGINALS / backup_name(backup)
        if not os.path.lexists(path) or not (path.is_symlink() or sha256(path) == expected):
            raise BadInput(
                f"{path} is {'damaged' if path.exists() else 'missing'}, the original of "
                f"{resolve(self.folder, target)} (SHA-256 {expected}); put a copy of the original there"
            )
        source = f"{COMMIT}/{len(self.backups)}_{path.name}"
        self.backups.append((path, source))
        self.steps.append(Step("put", target, source, expected))

    def delete_synthetic(self) -> None:
        """Synthetic files in the raw dataset, and what nnU-Net made of them in the preprocessed folder."""
        preprocessed = resolve(self.folder, PREPROCESSED)
        derived = sorted(p for p in preprocessed.glob(f"*/{SYNTHETIC_PREFIX}*") if not p.is_dir())
        for path in derived:
            self.delete(PREPROCESSED + path.relative_to(preprocessed).as_posix())
        names = [name for name in self.files if name.startswith(("imagesTr/", "labelsTr/"))]
        for name in names:
            path = self.folder / name
            if not path.is_file():
                self.lines.append(f"{path} was already deleted")
            elif sha256(path) != self.files[name]["after"]:
                self.lines.append(f"{path} was changed after it was injected; it goes with the rest")
            self.delete(name)
        self.lines.append(
            f"removed: {len(self.manifest['cases'])} synthetic cases ({len(names)} files) of "
            f"{self.folder.name}, and {len(derived)} files that nnU-Net made of them"
        )

    def restore(self, name: str) -> None:
        """A JSON file that the injection rewrote."""
        entry, path = self.files.get(name), resolve(self.folder, name)
        if entry is None:
            return
        found = sha256(path) if path.is_file() else None
        if found not in (entry["before"], entry["after"]):
            self.refuse_or_say(path, "deleted" if found is None else "changed")
        if found == entry["before"]:
            return
        if entry["before"] is None:
            self.delete(name)
        else:
            self.put_back(name, name, entry["before"])
        self.lines.append(f"{path}: {'deleted' if entry['before'] is None else 'the original is back'}")

    def refuse_or_say(self, path: Path, what: str) -> None:
        """A file changed by somebody else."""
        if not self.force and what == "changed":
            raise BadInput(
                f"{path} was changed after the synthetic cases were injected, so restoring it would undo "
                f"that change; keep a copy of it and use --force, or undo the change"
            )
        self.lines.append(f"{path} was {what} after the synthetic cases were injected")

    def restore_preprocessed_splits(self) -> None:
        """As ``restore``; a copy that nnU-Net made of our splits becomes a copy of the restored ones, or goes."""
        name = PREPROCESSED + SPLITS
        path, entry = resolve(self.folder, name), self.files.get(name, {"before": None, "after": None})
        if entry["before"] is not None:
            self.restore(name)
            return
        if not path.is_file() or not (lists_synthetic(path) or sha256(path) == entry["after"]):
            return
        raw = self.folder / SPLITS
        ours = sha256(path) == entry["after"] or (raw.is_file() and read_json(raw) == read_json(path))
        if not ours:
            self.refuse_or_say(path, "changed")
        original = self.files.get(SPLITS, {}).get("before")
        copied = original is not None and is_planned(path.parent) and not entry.get("deleted_before")
        if copied:
            self.put_back(name, SPLITS, original)
        else:
            self.delete(name)
        self.lines.append(f"{path}: {'the raw original is there' if copied else 'deleted'}")

    def restore_preprocessed_dataset_json(self) -> None:
        """nnU-Net copies dataset.json when it plans; an augmented copy becomes the original."""
        path, original = resolve(self.folder, PREPROCESSED + DATASET), self.files.get(DATASET, {}).get("before")
        backup = self.folder / ORIGINALS / backup_name(DATASET)
        if original is None or not path.is_file() or not backup.is_file() or sha256(path) == original:
            return
        ours, before = read_json(path), read_json(backup)
        if all(ours.get(k) == before.get(k) for k in {*ours, *before} - {"numTraining", "dataset"}):
            self.put_back(PREPROCESSED + DATASET, DATASET, original)
            self.lines.append(f"{path}: the original is there")

    def remove_fingerprint(self) -> None:
        """The fingerprint, if the injection made it."""
        entry, path = self.files.get(FINGERPRINT), resolve(self.folder, FINGERPRINT)
        if entry is None or not path.is_file():
            return
        if sha256(path) == entry["after"]:
            self.delete(FINGERPRINT)
        else:
            self.lines.append(
                f"{path} was made anew since and is left; if synthetic cases were in the dataset then, "
                f"run nnUNetv2_plan_and_preprocess --clean"
            )

    def finish(self) -> None:
        """The manifests go last, then folders that the injection made, if they are empty."""
        self.delete(PREPROCESSED + MANIFEST)
        self.steps += [Step("rmdir", name) for name in self.manifest.get("made_folders", [])]
        self.delete(MANIFEST)


def plan_removal(folder: Path, force: bool) -> tuple[Removal | None, list[str]]:
    """What has to be done, None where there is nothing, and what to say of it; changes nothing.

    Raises:
        BadInput: a file to be restored was changed by somebody else, or its original is lost.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        hidden = folder / HIDDEN
        if hidden.is_dir() and any(path.name != "lock" for path in hidden.iterdir()):
            empty = Removal(folder, {"files": {}, "cases": {}}, force)
            return empty, [f"removed: {hidden}, left by an interrupted command"]
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
        dry_run: only say what would be done.
        force: restore dataset.json and the splits although they were changed after the injection.
        generators: delete the trained generators in ``$nnUNet_results`` too.

    Returns:
        what was done, a line each.

    Raises:
        BadInput: a file to be restored was changed by somebody else, or its original is lost.
    """
    folder = dataset_folder(dataset)
    if dry_run:
        waiting = ["an interrupted change would be finished first"] if pending(folder) else []
        return waiting + plan_removal(folder, force)[1] + _generators(folder.name, delete=False, asked=generators)
    lines = ["an interrupted change was finished first"] if pending(folder) else []
    with locked(folder):
        finish(folder)
        plan, said = plan_removal(folder, force)
        if plan is not None:
            _carry_out(folder, plan)
    return lines + said + _generators(folder.name, delete=generators, asked=generators)


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
    told = [f"{path} stays: another command is using it" for path in kept]
    listed = ", ".join(str(folder) for folder in folders if not delete or not folder.exists())
    if not listed:
        return told
    return [*told, f"removed: {listed}" if asked else f"generators stay in {listed} (--generators deletes them)"]


def _delete(folder: Path) -> list[Path]:
    """Deletes the cache or a method's folder but for what another command uses, which is returned."""
    if folder == cache_folder(folder.parent.name):
        return [] if delete_unused(folder) else [folder]
    kept = [path for path in fold_folders(folder) if not delete_unused(path)]
    if not kept:
        for entry in folder.iterdir():
            if not is_fold(entry.name):  # those that are there now were begun by another command
                delete_path(entry)
        with suppress(OSError):
            folder.rmdir()
    return kept
