"""Plans how a dataset becomes what it was before the injection: which files go, and which originals come back."""
from __future__ import annotations

import os
from pathlib import Path

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.commit import COMMIT
from nnunet_difflung.files import read_json, sha256
from nnunet_difflung.fingerprint import FINGERPRINT
from nnunet_difflung.journal import ORIGINALS, Step
from nnunet_difflung.lock import HIDDEN
from nnunet_difflung.manifest import DATASET, MANIFEST, PREPROCESSED, SPLITS, read_manifest, resolve
from nnunet_difflung.originals import backup_name, is_planned, lists_synthetic
from nnunet_difflung.splits import SYNTHETIC_PREFIX


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
            raise BadInput(f"{path} is {'damaged' if path.exists() else 'missing'}, the original of "
                           f"{resolve(self.folder, target)} (SHA-256 {expected}); put a copy of the original there")
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
        self.lines.append(f"removed: {len(self.manifest['cases'])} synthetic cases ({len(names)} files) of "
                          f"{self.folder.name}, and {len(derived)} files that nnU-Net made of them")

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
            raise BadInput(f"{path} was changed after the synthetic cases were injected, so restoring it would undo "
                           f"that change; keep a copy of it and use --force, or undo the change")
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
            self.lines.append(f"{path} was made anew since and is left; if synthetic cases were in the dataset then, "
                              f"run nnUNetv2_plan_and_preprocess --clean")

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
