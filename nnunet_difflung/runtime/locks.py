"""Locks: only one command at a time trains and paints a fold; several may share a cache."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType

from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.files import clear_half_written, delete_path
from nnunet_difflung.runtime.messages import note
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.runtime.wording import quoted

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has no such locks; users have to run one command at a time
    fcntl = None
_WORK_LOCK = ".lock"
_ABANDONED = 3600.0  # seconds; some cluster file systems grant a lock on every node, so a cache may be in use anyway


@contextmanager
def working_alone(folders: Iterable[Path], share: Share) -> Iterator[None]:
    """Holds the locks of generators' folders, so that two commands never train or paint the same fold at the same time.

    Args:
        folders: folders to lock; created if missing. Every command locks them in sorted order, which avoids deadlocks.
        share: the first process takes the locks; the others wait until it has written their common token into them.
    """
    handles: list[int] = []
    try:
        for folder in sorted(folders):
            path = folder / _WORK_LOCK
            if not share.main:
                share.wait_until(partial(_holds, path, share.token))
                continue
            while not handles or not is_at(handles[-1], path):  # the folder may be deleted in the meantime
                folder.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    handles.append(open_lock(path))
                    acquire(handles[-1], path, False, "working on")
            clear_half_written(folder)  # left by a killed command; a checkpoint can have gigabytes
            os.ftruncate(handles[-1], 0)
            os.write(handles[-1], share.token.encode())  # lets the other processes start
        yield
    finally:
        for handle in handles:
            os.close(handle)


@contextmanager
def using(folder: Path) -> Iterator[Callable[[], bool]]:
    """Marks a folder that several commands may read and add files to as in use.

    Yields:
        a function that deletes the folder if no other command uses it, and returns whether it did. Do not use the
        folder afterwards.
    """
    path = folder / _WORK_LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = open_lock(path)
        except FileNotFoundError:
            continue  # another command has just deleted the folder
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            yield lambda: False  # another user's folder: it can only be read
            return
        if _try(handle, path):
            clear_half_written(folder, _ABANDONED)
        _flock(handle, path, "LOCK_SH")
        if is_at(handle, path):
            break
        os.close(handle)

    try:
        yield lambda: _delete(handle, path)
    finally:
        os.close(handle)


@contextmanager
def holding(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Holds a lock file; the system releases the lock when the process ends, even after a kill.

    Args:
        path: path of the file, created if missing; its folder must exist, and may be renamed in the meantime.
        refusal: message if another command holds the lock; None waits for the lock, with a message.

    Raises:
        BadInput: with ``refusal``.
    """
    said = False
    while True:
        handle = open_lock(path)
        try:
            if refusal is None:
                said = acquire(handle, path, said)
            elif not _try(handle, path):
                raise BadInput(refusal)
            if is_at(handle, path):
                yield
                return
        finally:
            os.close(handle)


def check_lockable(file: Path, lock: Path) -> None:
    """Refuses a file system without locks; writes nothing.

    Args:
        file: a file that exists there.
        lock: the lock file that will be needed, for the message.

    Raises:
        BadInput: the file cannot be locked.
    """
    _is_locked(file, lock)


def is_held(lock: Path) -> bool:
    """Whether another command holds a lock now; writes nothing."""
    return lock.is_file() and _is_locked(lock, lock)


def _is_locked(file: Path, lock: Path) -> bool:
    handle = os.open(file, os.O_RDONLY)
    try:
        _flock(handle, lock, "LOCK_SH", "LOCK_NB")
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def delete_unused(folder: Path, empty: Callable[[Path], object] | None = None) -> bool:
    """Deletes a folder unless a command is using it; returns whether it did.

    Args:
        folder: the folder.
        empty: deletes what is to be deleted in it; if other files are left, the folder stays. None deletes everything.
    """
    path = folder / _WORK_LOCK
    handle = open_lock(path)
    try:
        return _delete(handle, path, empty)
    finally:
        os.close(handle)


def open_lock(path: Path) -> int:
    """Opens a lock file, and makes it if it is missing; never the file that a link points to.

    Raises:
        BadInput: there is a link in its place.
        OSError: it cannot be opened.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise BadInput(f"{path} is a link, and a lock file is never one; delete it (rm {quoted(path)})") from error


def _delete(handle: int, path: Path, empty: Callable[[Path], object] | None = None) -> bool:
    """Deletes the folder of an open lock if nobody else holds the lock; returns whether it did."""
    if not (_try(handle, path) and is_at(handle, path)):
        return False
    if empty is not None:
        empty(path.parent)
    for entry in path.parent.iterdir() if empty is None else ():
        if entry != path:
            delete_path(entry)
    path.unlink()  # deleted last, since another command could get the lock afterwards
    with suppress(OSError):  # a command that waited for the lock has started a new folder
        path.parent.rmdir()
    return True


def _holds(path: Path, token: str) -> bool:
    """Whether processes with this token hold a lock."""
    return path.is_file() and path.read_text(encoding="utf-8") == token


def is_at(handle: int, path: Path) -> bool:
    """Whether an open lock file is still at its path; its folder may have been deleted in the meantime."""
    try:
        return os.fstat(handle).st_ino == os.stat(path).st_ino
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
    return False


def acquire(handle: int, path: Path, said: bool, doing: str = "changing") -> bool:
    """Takes an open lock; waits while another command holds it.

    Args:
        handle: handle of the open file.
        path: path of the file, for messages.
        said: whether the message before waiting has been printed already.
        doing: what the holder does to the dataset ("changing") or to the lock's folder.

    Returns:
        whether the message has been printed.
    """
    if _try(handle, path):
        return said
    if not said:
        whose = path.parent.parent.name if doing == "changing" else path.parent
        note(f"another command is {doing} {whose} (it holds {path}); waiting for it")
    _flock(handle, path, "LOCK_EX")
    return True


def _try(handle: int, path: Path) -> bool:
    """Takes an exclusive lock if nobody else holds the lock; otherwise a shared lock held before is released."""
    try:
        _flock(handle, path, "LOCK_EX", "LOCK_NB")
        return True
    except BlockingIOError:
        return False


def _flock(handle: int, path: Path, *flags: str) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, sum(getattr(fcntl, flag) for flag in flags))
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno == errno.ESTALE:  # deleted by another machine; is_at will notice
            return
        raise BadInput(
            f"{path} cannot be locked ({error}), so two commands could write there at the same time; mount the "
            f"file system with file locks (Lustre: option flock), or move the folder to another file system"
        ) from error
