"""A dataset that appears when it is complete: written into a hidden folder, resumable by patient, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_RAW, nnunet_folder
from nnunet_difflung.runtime.files import check_format, write_json

try:
    import fcntl
except ImportError:  # Windows: two commands at once are the user's matter there
    fcntl = None

_PROGRESS, _LOCK = ".progress", ".lock"
_FORMAT = 1  # of a finished patient's note


@contextlib.contextmanager
def staged_dataset(full_name: str, overwrite: bool = False, key: str | None = None) -> Iterator[Path]:
    """A hidden folder in ``$nnUNet_raw`` that becomes ``full_name`` when the block ends well, and goes otherwise.

    Args:
        full_name: ``DatasetXXX_Name``.
        overwrite: replace a dataset of this name.
        key: of what is being converted and how; with it, what is finished of a patient (``finished_patients``) stays
            after a fault or an interruption, and the folder is found again by a conversion of the same key.

    Raises:
        BadInput: the dataset stands already and ``overwrite`` is off, its id is taken by another name, or another
            command is writing it.
    """
    raw = Path(nnunet_folder(NNUNET_RAW))
    target, partial = raw / full_name, raw / f".{full_name}.partial"
    same_id = [p.name for p in raw.glob(f"{full_name[:10]}_*") if p.name != full_name]
    if same_id:
        raise BadInput(f"{raw}: the id of {full_name} is taken by {same_id[0]}; give another --dataset-id")
    if target.exists() and not overwrite:
        raise BadInput(f"{target} exists already; give --overwrite to replace it or another --dataset-id")
    with _alone(partial, full_name):
        _take_up(partial, key)
        try:
            yield partial
            shutil.rmtree(partial / _PROGRESS, ignore_errors=True)
            for left in partial.rglob(".writing_*"):  # by a killed call
                left.unlink()
            (partial / _LOCK).unlink(missing_ok=True)
            _publish(partial, target)
        finally:
            if key is None or not _notes(partial):
                shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _alone(partial: Path, full_name: str) -> Iterator[None]:
    """Holds the staged folder; the system lets go of it when the process ends, however it does."""
    partial.mkdir(exist_ok=True)
    handle = os.open(partial / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(
                f"{partial}: another command is writing {full_name}; wait until it has ended, then give this one again"
            ) from error
        yield
    finally:
        os.close(handle)


def _take_up(partial: Path, key: str | None) -> None:
    """Empties the staged folder unless it is of the same key."""
    mark = partial / _PROGRESS / "key"
    if key is None or not mark.is_file() or mark.read_text() != key:
        for path in partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()
    if key is not None:
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(key)


def _publish(partial: Path, target: Path) -> None:
    if not target.exists():
        partial.rename(target)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    partial.rename(target)
    shutil.rmtree(old)


def finished_patients(folder: Path) -> dict[str, dict]:
    """Patient → what ``note_patient`` has kept of it in a staged folder."""
    finished = {}
    for path in _notes(folder):
        content = json.loads(path.read_text())
        check_format(path, content, _FORMAT, f", or delete the folder {folder} to convert its patients anew")
        finished[path.stem] = {key: value for key, value in content.items() if key != "format"}
    return finished


def _notes(folder: Path) -> list[Path]:
    """Notes of finished patients; a note that a killed call was writing (``.writing_…``) is none."""
    return sorted(p for p in (folder / _PROGRESS).glob("*.json") if not p.name.startswith("."))


def note_patient(folder: Path, patient: str, content: dict) -> None:
    """Keeps that all cases of a patient are written; whole or not at all."""
    write_json(folder / _PROGRESS / f"{patient}.json", {"format": _FORMAT, **content})


def keep_only(folder: Path, patients: Collection[str]) -> None:
    """Takes everything out of a staged folder that is not a finished case of one of these patients.

    What an interrupted call has written of a patient and not noted goes too: the patient may be a test patient now,
    or be no more in the archive.
    """
    finished = finished_patients(folder)
    kept = {row["case_id"] for name, known in finished.items() if name in patients for row in known["records"]}
    for name in set(finished) - set(patients):
        (folder / _PROGRESS / f"{name}.json").unlink()
    for path in (p for part in ("imagesTr", "imagesTs", "labelsTr", "labelsTs") for p in (folder / part).glob("*")):
        case = path.name.removesuffix(".nii.gz")
        if (case.removesuffix("_0000") if path.parent.name.startswith("images") else case) not in kept:
            path.unlink()
