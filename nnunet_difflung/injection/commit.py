"""Changes a dataset all or nothing: a journal file decides a change, which is completed after any interruption.

All files of a change are in the hidden folder ``.difflung/`` of the raw dataset before the journal is written. If there
is no journal, the dataset has not been changed; if there is, each step can be repeated until all are done.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.dataset_lock import HIDDEN, is_bare, locked, remove_empty
from nnunet_difflung.injection.manifest import MANIFEST, PREPROCESSED, resolve
from nnunet_difflung.paths import DATASET, SPLITS
from nnunet_difflung.runtime.files import check_format, delete_path, read_json, sha256, write_json
from nnunet_difflung.runtime.messages import warn
from nnunet_difflung.runtime.modes import exactly_like, like, make_folder
from nnunet_difflung.runtime.signals import Interruption
from nnunet_difflung.runtime.wording import quoted
from nnunet_difflung.runtime.writable import check_folders, is_writable

ORIGINALS = f"{HIDDEN}/originals"
_JSON = rf"(dataset|splits_final|{MANIFEST.removesuffix('.json')})\.json"
_TARGETS = re.compile(
    rf"{_JSON}|imagesTr|labelsTr|(imagesTr|labelsTr)/{SYNTHETIC_PREFIX}[^/]+|{re.escape(ORIGINALS)}(/[^/]+)?|"
    rf"{PREPROCESSED}({_JSON}|dataset_fingerprint\.json|[^/]+/{SYNTHETIC_PREFIX}[^/]+)?"
)
_KEPT_FOR_REMOVAL = ("originals", "fingerprint")  # in the hidden folder, until the synthetic cases are removed
_UNKNOWN = "compare the dataset with a copy before you delete that file"

COMMIT = f"{HIDDEN}/commit"
_JOURNAL = "journal.json"
_FORMAT = 1
Result = TypeVar("Result")


@dataclass(frozen=True)
class Step:
    """A step of a change.

    Attributes:
        do: ``put`` (rename ``source`` to ``target``), ``delete``, ``mkdir`` or ``rmdir`` (only if empty).
        target: file or folder, named as in the manifest.
        source: path relative to the raw dataset folder.
        after: SHA-256 of the target after the step.
    """

    do: str
    target: str
    source: str = ""
    after: str | None = None


def read_journal(path: Path) -> tuple[dict, list[Step]]:
    """Reads the journal and its steps, and checks that they only concern files that this package changes.

    Raises:
        BadInput: the journal is damaged, of a newer format, or has a step that this package never writes.
    """
    try:
        journal = read_json(path)
        check_format(
            path,
            journal,
            _FORMAT,
            " and run the same command again; do not delete the file: a change of the dataset is half done",
        )
        steps = [Step(**step) for step in journal["steps"]]
        bool(journal["clear"])
        wrong = next((step for step in steps if not _is_allowed(step)), None)
    except BadInput:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(
            f"{path} is not a journal of an interrupted change ({type(error).__name__}: {error}); {_UNKNOWN}"
        ) from error
    if wrong:
        raise BadInput(f"{path} has a step {wrong.do} {wrong.target!r}, which this package never writes; {_UNKNOWN}")
    return journal, steps


def _is_allowed(step: Step) -> bool:
    source_is_hidden = step.source.startswith(f"{HIDDEN}/") and not {"", "."} & set(step.source.split("/"))
    return (
        step.do in ("put", "delete", "mkdir", "rmdir")
        and _TARGETS.fullmatch(step.target) is not None
        and ".." not in [*step.target.split("/"), *step.source.split("/")]
        and "\\" not in step.target + step.source
        and (source_is_hidden if step.do == "put" else not step.source)
    )


def begin(folder: Path) -> Path:
    """Makes an empty folder for the files of a new commit (the lock must be held, an earlier commit finished)."""
    path = folder / COMMIT
    for made in (path.parent, path):
        if made == path or not made.is_dir():
            make_folder(made, folder)
    return path


def commit(folder: Path, steps: Sequence[Step], clear: bool = False) -> None:
    """Does all steps. Once the journal is written, the change is decided: after a kill, ``recover`` finishes it.

    Args:
        folder: the raw dataset folder, locked.
        steps: the steps; their sources must be in ``folder`` and complete on disk.
        clear: at the end, delete what this package has made in the hidden folder.

    Raises:
        BadInput: a folder is not writable, so that the change would stay half done; nothing has been changed.
    """
    check_folders(resolve(folder, step.target).parent for step in steps)
    with Interruption():  # Ctrl-C and SIGTERM wait
        if not (folder / COMMIT).is_dir():
            begin(folder)
        for parent in sorted({(folder / step.source).parent for step in steps if step.source}):
            _sync_folder(parent)
        write_json(folder / COMMIT / _JOURNAL, {"format": _FORMAT, "clear": clear, "steps": [asdict(s) for s in steps]})
        _sync_folder(folder / COMMIT)
        _roll_forward(folder)


def journal(folder: Path) -> Path:
    """Path of the journal of a decided change; it exists while the change is made, or was interrupted."""
    return folder / COMMIT / _JOURNAL


def pending(folder: Path) -> bool:
    """Whether a commit has been decided and not finished: it was interrupted, or is running."""
    return journal(folder).is_file()


def recover(folder: Path) -> None:
    """Finishes an interrupted commit, or deletes its files if it had not been decided.

    Other files in the hidden folder stay. If there is nothing to do, nothing is written; what is only to be deleted
    stays where this user can only read the dataset.

    Args:
        folder: the raw dataset folder.
    """
    hidden = folder / HIDDEN
    if hidden.is_symlink() and not pending(folder):
        return  # what a link points to is not ours; a command that has to write there refuses it
    remove_empty(folder)
    left = (folder / COMMIT).is_dir() or (hidden.is_dir() and not (folder / MANIFEST).exists() and is_bare(hidden))
    if pending(folder) or (left and is_writable(folder) and is_writable(hidden)):
        with locked(folder):
            finish(folder)


def read_steadily(folder: Path, read: Callable[[], Result], untouched: bool = False) -> Result:
    """Result of ``read`` while no other command changed the dataset; an interrupted change is finished first.

    Readers take no lock, so ``read`` is called again if another command has changed the dataset in the meantime.

    Args:
        folder: the raw dataset folder.
        read: reads the dataset.
        untouched: do not finish an interrupted change.

    Raises:
        BadInput: raised by ``read``, or the dataset cannot be read because a change of it is half done.
    """
    while True:
        if not untouched:
            recover(folder)
        before = _state(folder)
        try:
            result = read()
        except (BadInput, FileNotFoundError) as error:
            if _state(folder) != before:
                continue
            if pending(folder):
                raise half_done(folder) from error
            raise
        if _state(folder) == before:
            return result


def half_done(folder: Path) -> BadInput:
    """The refusal to read a dataset that is being changed, or whose change was interrupted."""
    return BadInput(
        f"{folder} is being changed by another command, or such a change was interrupted; wait, "
        f"or run difflung_audit -d {quoted(folder.name)}, which finishes the change"
    )


def _state(folder: Path) -> list[tuple[int, int] | None]:
    """Differs before and after a change, which writes its journal first, replaces these files, and deletes it last."""
    return [stamp(folder / name) for name in (f"{COMMIT}/{_JOURNAL}", DATASET, SPLITS, MANIFEST)]


def stamp(path: Path) -> tuple[int, int] | None:
    """A value that changes when a file is replaced; None if the file does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def finish(folder: Path) -> None:
    """Does what ``recover`` does, for a caller that holds the lock."""
    if pending(folder):
        with Interruption():  # Ctrl-C and SIGTERM wait
            _roll_forward(folder)
    elif (folder / COMMIT).is_dir():
        shutil.rmtree(folder / COMMIT)


def _roll_forward(folder: Path) -> None:
    journal, steps = read_journal(folder / COMMIT / _JOURNAL)
    for step in steps:
        {"put": _put, "delete": _delete, "mkdir": _mkdir, "rmdir": _rmdir}[step.do](folder, step)
    for parent in sorted({resolve(folder, step.target).parent for step in steps}):
        _sync_folder(parent)
    if journal["clear"]:
        _clear_but_journal(folder / HIDDEN)
    os.unlink(folder / COMMIT / _JOURNAL)
    shutil.rmtree(folder / COMMIT)


def _put(folder: Path, step: Step) -> None:
    source, target = folder / step.source, resolve(folder, step.target)
    if os.path.lexists(source):
        if target.parent.is_dir():
            _rename(source, target)
        elif step.target.startswith(PREPROCESSED):  # it was deleted in the meantime, so there is no copy to update
            os.unlink(source)
        else:
            raise BadInput(
                f"{target.parent} is missing, so an interrupted change cannot be finished; create the folder "
                f"and run the same command again"
            )
    elif step.after and target.parent.is_dir() and not (target.is_file() and sha256(target) == step.after):
        warn(
            f"{target} was changed or deleted after a change of the dataset had been interrupted; "
            f"difflung_audit shows what is wrong, difflung_remove restores the dataset."
        )


def _rename(source: Path, target: Path) -> None:
    """Renames a file; also works across file systems (nnUNet_preprocessed, or imagesTr behind a link)."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = target.with_name(
            f".{target.name}.difflung_writing"
        )  # without an image's ending, so that nobody takes it for a case
        temporary.unlink(missing_ok=True)
        copy_as_it_is(source, temporary)
        os.replace(temporary, target)
        os.unlink(source)


def _delete(folder: Path, step: Step) -> None:
    with suppress(FileNotFoundError):
        os.unlink(resolve(folder, step.target))


def _mkdir(folder: Path, step: Step) -> None:
    with suppress(FileExistsError):
        make_folder(resolve(folder, step.target), folder)


def _rmdir(folder: Path, step: Step) -> None:
    with suppress(OSError):
        os.rmdir(resolve(folder, step.target))


def copy_as_it_is(source: Path, target: Path) -> None:
    """Copies a file with its mode, times and, where possible, its owner; of a link, the link."""
    if not source.is_symlink():
        target.touch(mode=0o600)  # readable for nobody else until it is complete
    shutil.copy2(source, target, follow_symlinks=False)
    if not source.is_symlink():
        exactly_like(target, source)
    sync_file(target)


def give_mode(new: Path, replaced: Path, beside: Path) -> None:
    """Gives a new file the mode of the file that it will replace, or else of a file beside which it will lie."""
    if replaced.is_file():
        exactly_like(new, replaced)
    elif beside.is_file():
        like(new, beside)


def sync_file(path: Path) -> None:
    """Waits until a file's bytes are on disk."""
    if not path.is_symlink():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name == "posix" and path.is_dir():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _clear_but_journal(hidden: Path) -> None:
    """Deletes what this package has made in the hidden folder, and empty folders; files of other names are a user's."""
    for name in _KEPT_FOR_REMOVAL:
        if os.path.lexists(hidden / name):
            delete_path(hidden / name)
    for folder, _, files in os.walk(hidden, topdown=False):
        for name in files:
            if name.startswith(SYNTHETIC_PREFIX):  # a staged case that was not added
                os.unlink(Path(folder, name))
        if Path(folder) not in (hidden, hidden / Path(COMMIT).name):
            with suppress(OSError):  # not empty
                os.rmdir(folder)


def foreign_in(hidden: Path) -> list[str]:
    """Files in a dataset's hidden folder that this package does not write, relative to it; links are not followed."""
    own = {"lock", Path(COMMIT).name, *_KEPT_FOR_REMOVAL}
    below = (Path(root, name) for root, folders, files in os.walk(hidden) for name in (*folders, *files))
    files = (path.relative_to(hidden) for path in below if path.is_symlink() or not path.is_dir())
    foreign = (path for path in files if path.parts[0] not in own and not path.name.startswith(SYNTHETIC_PREFIX))
    return sorted(path.as_posix() for path in foreign)
