"""One command at a time changes a dataset, and one at a time trains and paints a fold."""
from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.manifest import MANIFEST
from nnunet_difflung.processes import Share

try:
    import fcntl
except ImportError:  # Windows: no lock; one command at a time is the user's matter there
    fcntl = None

HIDDEN = ".difflung"
_WORK_LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the dataset's lock; waits, with a message, while another process holds it."""
    path = folder / HIDDEN / "lock"
    said = False
    while True:
        try:
            path.parent.mkdir(exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except (FileNotFoundError, FileExistsError):
            if not folder.is_dir() or path.parent.is_file():
                raise
            continue
        except OSError as error:
            raise BadInput(f"{path} cannot be written ({error.strerror}); make the dataset writable") from error
        said = _acquire(handle, path, said)
        with suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == os.stat(path).st_ino:
                break
        os.close(handle)
    try:
        yield
    finally:
        _tidy(folder)
        os.close(handle)


@contextmanager
def working_alone(folders: Iterable[Path], share: Share) -> Iterator[None]:
    """Holds the locks of generators' folders, so that two commands never train or paint the same fold at a time.

    Args:
        folders: made where they are missing; locked in one order by everybody, so that nobody waits in a circle.
        share: the first process takes the locks, the others wait until it has them.
    """
    token, handles = _token(), []
    try:
        for folder in sorted(folders):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / _WORK_LOCK
            if not share.main:
                share.wait_until(lambda path=path: path.is_file() and path.read_text() == token)
                continue
            handles.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
            _acquire(handles[-1], path, False, "working on")
            for left in folder.rglob(".writing_*"):  # by a killed command; a checkpoint may have gigabytes
                left.unlink(missing_ok=True)
            os.ftruncate(handles[-1], 0)
            os.write(handles[-1], token.encode())  # now the other processes begin to write
        yield
    finally:
        for handle in handles:
            os.close(handle)


def _token() -> str:
    """The same in all processes that one launcher started, and in no others."""
    words = [os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):
        words.append(str(os.getppid() if "WORLD_SIZE" in os.environ else os.getpid()))
    return " ".join(words)


def _acquire(handle: int, path: Path, said: bool, doing: str = "changing") -> bool:
    if fcntl is None:
        return said
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not said:
            whose = path.parent.parent.name if doing == "changing" else path.parent
            print(f"Another command is {doing} {whose} (it holds {path}); waiting for it.", file=sys.stderr, flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
        said = True
    except OSError as error:
        raise BadInput(f"{path} cannot be locked, which keeps two commands apart ({error}); have the file system "
                       f"mounted with file locks (Lustre: flock), or move the folder to another") from error
    return said


def is_bare(hidden: Path) -> bool:
    """Whether the hidden folder holds nothing of use: no painted results, no backups, no journal."""
    return all(path.name == "lock" or (path.name in ("commit", "originals") and not os.listdir(path))
               for path in hidden.iterdir())


def _tidy(folder: Path) -> None:
    """Removes the hidden folder where it serves nothing (the lock is still held)."""
    hidden = folder / HIDDEN
    if hidden.is_dir() and not (folder / MANIFEST).exists() and is_bare(hidden):
        with suppress(OSError):
            for path in hidden.iterdir():
                os.rmdir(path) if path.is_dir() else os.unlink(path)
            os.rmdir(hidden)
