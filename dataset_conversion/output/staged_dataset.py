"""A dataset that appears when it is complete: written into a hidden folder, resumable by patient, then published.

Beside the dataset ``DatasetXXX_Name`` in ``$nnUNet_raw`` there may be, while it is written or after an interruption:

- ``.DatasetXXX_Name.partial``: the cases that are written; ``.progress`` in it has a note for each finished patient;
- ``.DatasetXXX_Name.lock``: held by the command that writes;
- ``.DatasetXXX_Name.publishing``: an empty file, the journal. Without it nothing has happened to an existing dataset.
  With it the new one is complete and takes its place; each step of that can be repeated until all are done;
- ``.DatasetXXX_Name.old``: the dataset that is being replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_RAW, nnunet_folder
from nnunet_difflung.runtime.files import (
    check_format,
    clear_half_written,
    delete_path,
    sync,
    sync_below,
    write_json,
)
from nnunet_difflung.runtime.locks import holding
from nnunet_difflung.runtime.signals import Interruption

CHANGING = ".difflung/lock"  # in a dataset: held by the commands that add synthetic cases to it or remove them
_PROGRESS, _FORMER_LOCK = ".progress", ".lock"  # the first versions had their lock in the staged folder

_FORMAT = 1  # of a finished patient's note


@dataclass(frozen=True)
class _Places:
    """Where the parts of one dataset lie; see the module's description."""

    raw: Path
    name: str

    @property
    def target(self) -> Path:
        return self.raw / self.name

    @property
    def partial(self) -> Path:
        return self.raw / f".{self.name}.partial"

    @property
    def old(self) -> Path:
        return self.raw / f".{self.name}.old"

    @property
    def lock(self) -> Path:
        return self.raw / f".{self.name}.lock"

    @property
    def journal(self) -> Path:
        return self.raw / f".{self.name}.publishing"

    @property
    def interrupted(self) -> bool:
        """Whether a command is at work here or was interrupted while it published the dataset."""
        return any(path.exists() for path in (self.lock, self.journal, self.old))

    def check_free(self, overwrite: bool) -> None:
        """Refuses a dataset that exists already, unless it may be replaced, and an id that is taken."""
        same_id = [p.name for p in self.raw.glob(f"{self.name[:10]}_*") if p.name != self.name]
        if same_id:
            raise BadInput(f"{self.raw}: the id of {self.name} is taken by {same_id[0]}; give another --dataset-id")
        if self.target.exists() and not overwrite:
            raise BadInput(f"{self.target} exists already; give --overwrite to replace it or another --dataset-id")


@contextlib.contextmanager
def staged_dataset(full_name: str, overwrite: bool = False, key: str | None = None) -> Iterator[Path]:
    """A hidden folder in ``$nnUNet_raw`` that becomes ``full_name`` if the block succeeds and is deleted otherwise.

    A kill at any moment leaves the dataset that was there before or the new one, complete; the next call for this name
    finishes what was decided and cleans up.

    Args:
        full_name: ``DatasetXXX_Name``.
        overwrite: replace a dataset of this name.
        key: identifies what is being converted and how. With it, the patients that are finished
            (``finished_patients``) stay after a fault or an interruption, and a conversion of the same key takes them
            up again.

    Raises:
        BadInput: the dataset exists already and ``overwrite`` is off, its id is taken by another name, or another
            command is writing it.
    """
    check_name(full_name, overwrite)
    places = _Places(Path(nnunet_folder(NNUNET_RAW)), full_name)
    with _alone(places):
        _recover(places)
        places.check_free(overwrite)
        try:
            _take_up(places.partial, key)
            yield places.partial
            _publish(places)
        finally:
            if not places.journal.exists() and (key is None or not _notes(places.partial)):
                shutil.rmtree(places.partial, ignore_errors=True)


def check_name(full_name: str, overwrite: bool, untouched: bool = False) -> None:
    """Whether a dataset of this name may be written; finishes a replacement that was decided and interrupted.

    Args:
        full_name: ``DatasetXXX_Name``.
        overwrite: a dataset of this name may be replaced.
        untouched: leave an interrupted replacement as it is.

    Raises:
        BadInput: as of ``staged_dataset``.
    """
    places = _Places(Path(nnunet_folder(NNUNET_RAW)), full_name)
    if places.interrupted and not untouched:
        with _alone(places):
            _recover(places)
    places.check_free(overwrite)


@contextlib.contextmanager
def _alone(places: _Places) -> Iterator[None]:
    """Holds the dataset's lock, which is deleted at the end."""
    busy = f"{places.partial}: another command is writing {places.name}; run this command again when it has ended"
    with holding(places.lock, busy):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows deletes no open file
                places.lock.unlink()


def _take_up(partial: Path, key: str | None) -> None:
    """Empties the staged folder unless it is of the same key."""
    partial.mkdir(exist_ok=True)
    mark = partial / _PROGRESS / "key"
    if key is None or not mark.is_file() or mark.read_text() != key:
        for path in partial.iterdir():
            delete_path(path)
    if key is not None:
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(key)


def _publish(places: _Places) -> None:
    """Puts the staged folder in the dataset's place; once the journal is there, ``_recover`` would finish it."""
    clear_half_written(places.partial)
    sync_below(places.partial)
    with contextlib.ExitStack() as stack:
        if (places.target / CHANGING).exists():  # a command that is changing the old dataset ends first
            with contextlib.suppress(FileNotFoundError):  # and took the hidden folder with it
                stack.enter_context(holding(places.target / CHANGING))
        stack.enter_context(Interruption())  # Ctrl-C and SIGTERM wait
        places.journal.touch()
        sync(places.raw)
        _roll_forward(places)


def _recover(places: _Places) -> None:
    """Finishes a replacement that was decided and interrupted."""
    if places.journal.exists():
        deleted = not places.partial.exists() and not places.target.exists()  # by somebody, since the interruption
        with Interruption():
            _roll_forward(places)
        if not deleted:
            print(f"{places.target} is complete now: an interrupted command had converted all of it.", file=sys.stderr)
        elif places.target.exists():
            print(
                f"{places.target}: the earlier dataset is back, since {places.partial}, which was to replace it, has "
                f"been deleted.",
                file=sys.stderr,
            )
    elif places.old.exists() and not places.target.exists():  # the first versions replaced without a journal
        os.replace(places.old, places.target)
    elif places.old.exists():
        shutil.rmtree(places.old)


def _roll_forward(places: _Places) -> None:
    if places.partial.exists():
        for name in (_PROGRESS, _FORMER_LOCK):
            if (places.partial / name).exists():
                delete_path(places.partial / name)
        if places.target.exists():
            if places.old.exists():
                raise BadInput(
                    f"{places.target} and {places.old} both exist, so an interrupted replacement cannot be finished; "
                    f"keep a copy of the one that you need and delete {places.old}"
                )
            os.replace(places.target, places.old)
        os.replace(places.partial, places.target)
        sync(places.raw)
    elif places.old.exists() and not places.target.exists():
        os.replace(places.old, places.target)
        sync(places.raw)
    if places.old.exists():
        shutil.rmtree(places.old)
    places.journal.unlink()


def finished_patients(folder: Path) -> dict[str, dict]:
    """Patient → what ``note_patient`` has kept of it in a staged folder."""
    finished = {}
    for path in _notes(folder):
        content = json.loads(path.read_text())
        check_format(path, content, _FORMAT, f", or delete the folder {folder} to convert its patients anew")
        finished[path.stem] = {key: value for key, value in content.items() if key != "format"}
    return finished


def _notes(folder: Path) -> list[Path]:
    """Notes of finished patients, without notes that a killed call was still writing (``.writing_…``)."""
    return sorted(p for p in (folder / _PROGRESS).glob("*.json") if not p.name.startswith("."))


def note_patient(folder: Path, patient: str, content: dict) -> None:
    """Keeps that all cases of a patient are written; whole or not at all."""
    write_json(folder / _PROGRESS / f"{patient}.json", {"format": _FORMAT, **content})


def keep_only(folder: Path, patients: Collection[str]) -> None:
    """Takes everything out of a staged folder that is not a finished case of one of these patients.

    Cases that an interrupted call has written of an unfinished patient go too: the patient may be a test patient now,
    or may have left the archive.
    """
    finished = finished_patients(folder)
    kept = {row["case_id"] for name, content in finished.items() if name in patients for row in content["records"]}
    for name in set(finished) - set(patients):
        (folder / _PROGRESS / f"{name}.json").unlink()
    for path in (p for part in ("imagesTr", "imagesTs", "labelsTr", "labelsTs") for p in (folder / part).glob("*")):
        case = path.name.removesuffix(".nii.gz")
        if (case.removesuffix("_0000") if path.parent.name.startswith("images") else case) not in kept:
            path.unlink()
