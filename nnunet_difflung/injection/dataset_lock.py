"""The lock that lets only one command at a time change a dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunet_difflung.dataset.places import refuse_link
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import MANIFEST
from nnunet_difflung.runtime.locks import acquire, is_at, open_lock
from nnunet_difflung.runtime.modes import make_folder

HIDDEN = ".difflung"


def lock_file(folder: Path) -> Path:
    """Path of a dataset's lock file; it may not exist."""
    return folder / HIDDEN / "lock"


def hidden_places(folder: Path) -> list[Path]:
    """The hidden folder of a dataset and what this package makes in it; a link in the place of these is refused."""
    hidden = folder / HIDDEN
    inside = ("lock", "commit", "commit/journal.json", "originals", "fingerprint")
    return [hidden, *(hidden / name for name in inside)]


def check_hidden(folder: Path) -> None:
    """Refuses links in the place of the hidden folder's files, since files would be deleted in another place.

    Raises:
        BadInput: names the link and what to do.
    """
    for path in hidden_places(folder):
        refuse_link(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the dataset's lock; waits, with a message, while another command holds it.

    Raises:
        BadInput: the dataset cannot be written, its file system has no locks, or its hidden folder is a link.
    """
    check_hidden(folder)
    path = lock_file(folder)
    announced = False
    while True:
        try:
            if not path.parent.is_dir():
                make_folder(path.parent, folder)
            handle = open_lock(path)
        except (FileNotFoundError, FileExistsError):
            if not folder.is_dir() or path.parent.is_file():
                raise
            continue
        except OSError as error:
            raise BadInput(
                f"{path} cannot be written ({error.strerror}); make the dataset's folder writable"
            ) from error
        announced = acquire(handle, path, announced)
        if is_at(handle, path):
            break
        os.close(handle)
    try:
        yield
    finally:
        _tidy(folder)
        os.close(handle)
        remove_empty(folder)  # on NFS a file that is deleted while it is open stays in its folder until it is closed


def is_bare(hidden: Path) -> bool:
    """Whether the hidden folder can be deleted: it contains no staged files, originals or journal."""
    try:
        return all(
            path.name == "lock" or (path.name in ("commit", "originals") and not os.listdir(path))
            for path in hidden.iterdir()
        )
    except FileNotFoundError:  # another command is deleting it
        return False


def remove_empty(folder: Path) -> None:
    """Deletes the hidden folder if nothing is in it and the dataset has no synthetic cases; needs no lock."""
    if not (folder / MANIFEST).exists():
        with suppress(OSError):  # there is none, or this user cannot write the dataset
            if not os.listdir(folder / HIDDEN):
                os.rmdir(folder / HIDDEN)


def _tidy(folder: Path) -> None:
    """Deletes the hidden folder if it is bare and the dataset has no synthetic cases (the lock is still held).

    If there are other files, such as a user's, only the lock is deleted.
    """
    hidden = folder / HIDDEN
    if hidden.is_dir() and not (folder / MANIFEST).exists():
        with suppress(OSError):
            if not is_bare(hidden):
                os.unlink(lock_file(folder))
                return
            for path in hidden.iterdir():
                os.rmdir(path) if path.is_dir() else os.unlink(path)
            os.rmdir(hidden)
