"""Writes a dataset to a hidden folder, patient by patient and resumable, and publishes it once it is complete.

While ``DatasetXXX_Name`` is written, or after an interruption, ``$nnUNet_raw`` may also hold:

- ``.DatasetXXX_Name.partial``: the cases written so far; its folder ``.progress`` has a note for each finished patient;
- ``.DatasetXXX_Name.lock``: held by the command that writes the dataset;
- ``.DatasetXXX_Name.publishing``: the journal, an empty file. As long as it does not exist, an existing dataset has not
  been touched. Once it exists, the new dataset is complete and replaces the old one; every step of the replacement can
  be repeated until it is finished;
- ``.DatasetXXX_Name.old``: the dataset that is being replaced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_RAW, nnunet_folder
from nnunet_difflung.runtime.files import (
    check_format,
    clear_half_written,
    delete_path,
    openable,
    read_json,
    sync,
    sync_below,
    write_json,
)
from nnunet_difflung.runtime.locks import holding
from nnunet_difflung.runtime.messages import note
from nnunet_difflung.runtime.signals import Interruption
from nnunet_difflung.runtime.wording import quoted

CHANGING = ".difflung/lock"  # in a dataset; held by the commands that add or remove synthetic cases
_PROGRESS, _FORMER_LOCK = ".progress", ".lock"  # the first versions kept their lock in the staged folder

_FORMAT = 1  # of the note on a finished patient


@dataclass(frozen=True)
class _Places:
    """The paths of the files that the module's description lists."""

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
        """Whether a command is writing this dataset, or was interrupted while it published it."""
        return any(path.exists() for path in (self.lock, self.journal, self.old))

    def check_links(self) -> None:
        """Raises BadInput if a link is in the place of a file or folder of this module, or files cannot be written."""
        openable(self.raw)
        for path in (self.target, self.partial, self.old, self.journal):
            if path.is_symlink():
                raise BadInput(
                    f"{path} is a link to {os.path.realpath(path)}; a converter replaces folders, never what a link "
                    f"points to: delete the link (rm {quoted(path)}), or give another --dataset-id"
                )

    def check_free(self, overwrite: bool) -> None:
        """Raises BadInput if the dataset exists and may not be replaced, or if its id is taken by another dataset."""
        same_id = [path.name for path in self.raw.glob(f"{self.name[:10]}_*") if path.name != self.name]
        if same_id:
            raise BadInput(
                f"{self.raw}: the id of {self.name} is already used by {same_id[0]}; give another --dataset-id"
            )
        if self.target.exists() and not overwrite:
            raise BadInput(f"{self.target} already exists; give --overwrite to replace it, or another --dataset-id")


@contextlib.contextmanager
def staged_dataset(full_name: str, overwrite: bool = False, key: str | None = None) -> Iterator[Path]:
    """A hidden folder in ``$nnUNet_raw`` that becomes ``full_name`` if the block succeeds and is deleted otherwise.

    If the process is killed, at any moment, either the old or the new dataset is there and complete; the next call for
    this name finishes a replacement that had begun, and cleans up.

    Args:
        full_name: ``DatasetXXX_Name``.
        overwrite: whether to replace a dataset of this name.
        key: identifies what is converted and how. If it is given, finished patients (``finished_patients``) are kept
            after an error or an interruption, and the next conversion with the same key continues with them.

    Raises:
        BadInput: the dataset exists and ``overwrite`` is False, its id is used by another dataset, or another command
            is writing it.
    """
    check_name(full_name, overwrite)
    places = _Places(Path(nnunet_folder(NNUNET_RAW)), full_name)
    with _alone(places):
        _recover(places)
        places.check_free(overwrite)
        try:
            _continue(places.partial, key)
            yield places.partial
            _publish(places)
        finally:
            if not places.journal.exists() and (key is None or not _notes(places.partial)):
                shutil.rmtree(places.partial, ignore_errors=True)


def check_name(full_name: str, overwrite: bool, untouched: bool = False) -> None:
    """Checks that a dataset of this name may be written; finishes an interrupted replacement.

    Args:
        full_name: ``DatasetXXX_Name``.
        overwrite: whether a dataset of this name may be replaced.
        untouched: whether to leave an interrupted replacement as it is.

    Raises:
        BadInput: see ``staged_dataset``.
    """
    places = _Places(Path(nnunet_folder(NNUNET_RAW)), full_name)
    places.check_links()
    if places.interrupted and not untouched:
        with _alone(places):
            _recover(places)
    places.check_free(overwrite)


@contextlib.contextmanager
def _alone(places: _Places) -> Iterator[None]:
    """Holds the lock of the dataset, and deletes it at the end."""
    busy = (
        f"{places.partial}: another command is writing {places.name}; wait until it ends, then run this command again"
    )
    with holding(places.lock, busy):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows does not delete open files
                places.lock.unlink()


def _continue(partial: Path, key: str | None) -> None:
    """Creates the staged folder, and empties it unless it was written with the same key."""
    partial.mkdir(exist_ok=True)
    key_file = partial / _PROGRESS / "key"
    if key is None or not key_file.is_file() or key_file.read_text(encoding="utf-8") != key:
        for path in partial.iterdir():
            delete_path(path)
    if key is not None:
        key_file.parent.mkdir(exist_ok=True)
        key_file.write_text(key, encoding="utf-8")


def _publish(places: _Places) -> None:
    """Replaces the dataset by the staged folder; from the moment the journal exists, ``_recover`` can finish it."""
    clear_half_written(places.partial)
    sync_below(places.partial)
    with contextlib.ExitStack() as stack:
        if (places.target / CHANGING).exists():  # wait for a command that is changing the old dataset
            with contextlib.suppress(FileNotFoundError):  # which may delete the folder of the lock
                stack.enter_context(holding(places.target / CHANGING))
        stack.enter_context(Interruption())  # delays Ctrl-C and SIGTERM
        places.journal.touch()
        sync(places.raw)
        _roll_forward(places)


def _recover(places: _Places) -> None:
    """Finishes an interrupted replacement."""
    if places.journal.exists():
        deleted = not places.partial.exists() and not places.target.exists()  # by somebody, since the interruption
        with Interruption():
            _roll_forward(places)
        if not deleted:
            note(f"{places.target} is complete: an interrupted command had converted all patients")
        elif places.target.exists():
            note(
                f"{places.target}: the earlier dataset is back, since {places.partial}, which was to replace it, has "
                f"been deleted"
            )
    elif places.old.exists() and not places.target.exists():  # the first versions replaced without a journal
        os.replace(places.old, places.target)
    elif places.old.exists():
        shutil.rmtree(places.old)


def _roll_forward(places: _Places) -> None:
    """Carries out the remaining steps of a replacement whose journal exists."""
    if places.partial.exists():
        for name in (_PROGRESS, _FORMER_LOCK):
            if (places.partial / name).exists():
                delete_path(places.partial / name)
        if places.target.exists():
            if places.old.exists():
                raise BadInput(
                    f"{places.target} and {places.old} both exist, so an interrupted replacement cannot be finished; "
                    f"keep a copy of the dataset that you need, and delete {places.old}"
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
    """Finished patients of a staged folder → what ``note_patient`` recorded about them."""
    finished = {}
    for path in _notes(folder):
        content = read_json(path)
        check_format(path, content, _FORMAT, f", or delete the folder {folder} to convert its patients again")
        finished[path.stem] = {key: value for key, value in content.items() if key != "format"}
    return finished


def _notes(folder: Path) -> list[Path]:
    """Files with notes on finished patients, without half-written notes of a killed process (``.writing_…``)."""
    return sorted(path for path in (folder / _PROGRESS).glob("*.json") if not path.name.startswith("."))


def note_patient(folder: Path, patient: str, content: dict) -> None:
    """Records atomically that all cases of a patient are written."""
    write_json(folder / _PROGRESS / f"{patient}.json", {"format": _FORMAT, **content})


def keep_only(folder: Path, patients: Collection[str]) -> None:
    """Removes all cases and notes from a staged folder, except those of finished patients among ``patients``.

    Cases of a patient whose conversion was interrupted are removed as well: the patient may be a test patient now, or
    may no longer be in the archive.
    """
    finished = finished_patients(folder)
    kept = {row["case_id"] for name, content in finished.items() if name in patients for row in content["records"]}
    for name in set(finished) - set(patients):
        (folder / _PROGRESS / f"{name}.json").unlink()
    for path in (p for part in ("imagesTr", "imagesTs", "labelsTr", "labelsTs") for p in (folder / part).glob("*")):
        case = path.name.removesuffix(".nii.gz")
        if (case.removesuffix("_0000") if path.parent.name.startswith("images") else case) not in kept:
            path.unlink()
