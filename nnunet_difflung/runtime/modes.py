"""Who may read what a command writes: nobody who may not read what it is made from.

The user's umask is respected. In a shared folder (its setgid bit is set, mode 2770), the group reads a new file as it
reads the files beside it, whatever the umask says: that is what such folders are for. On systems without these modes
nothing happens.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_READS, _ENTERS = 0o444, 0o111


@contextmanager
def readable_like(sources: Iterable[str | os.PathLike[str]], into: Iterable[Path]) -> Iterator[None]:
    """Whatever is written in this context, by worker processes too, is readable by nobody who cannot read the sources.

    It sets the umask of the process, and restores it at the end.

    Args:
        sources: files, and folders to which the written folders are to be alike. Missing ones are ignored.
        into: the folders in which is written; a folder that all of them lie in, and the sources too, closes nothing.
    """
    if os.name != "posix":
        yield
        return
    into = [Path(os.path.realpath(folder)) for folder in into]
    before = os.umask(stat.S_IRWXO | stat.S_IRWXG)
    try:
        os.umask(_umask(before, sources, into))
        yield
    finally:
        os.umask(before)


def _umask(before: int, sources: Iterable[str | os.PathLike[str]], into: list[Path]) -> int:
    closed, of_group = 0, stat.S_IRWXG
    groups = {_group_in(folder) for folder in into}
    folders: dict[str, str] = {}
    for source in [os.fspath(each) for each in sources]:
        with suppress(OSError):
            status = os.stat(source)
            closed |= _closed(status, groups, _READS)
            of_group &= status.st_mode
            above = os.path.dirname(source)
            if os.path.islink(source):
                above = os.path.dirname(os.path.realpath(source))
            if above not in folders:
                folders[above] = os.path.realpath(above)
    for folder in {higher for name in set(folders.values()) for higher in _only_above_sources(Path(name), into)}:
        with suppress(OSError):
            closed |= _closed(os.stat(folder), groups, _ENTERS)
    if into and all(_is_shared(folder) for folder in into):
        before &= ~(of_group | (_ENTERS & stat.S_IRWXG if of_group & _READS else 0))
    return before | closed


def _closed(status: os.stat_result, groups: set[int], needed: int) -> int:
    """The bits that a umask needs so that nothing new is open to people to whom a file or a folder is closed.

    Args:
        status: of the file or folder.
        groups: the groups that new files will have; what another group may read is closed to these.
        needed: the bits that open it: reading a file, entering a folder.
    """
    mode, closed = status.st_mode, 0
    to_others = mode & needed & stat.S_IRWXO
    if not mode & needed & stat.S_IRWXG or (not to_others and groups - {status.st_gid}):
        closed |= stat.S_IRWXG
    if not to_others:
        closed |= stat.S_IRWXO
    elif needed == _READS:
        closed |= stat.S_IWOTH & ~mode
    return closed


def _group_in(folder: Path) -> int:
    """The group that a new file in a folder gets."""
    try:
        status = os.stat(folder)
    except OSError:
        return os.getegid()
    return status.st_gid if status.st_mode & stat.S_ISGID else os.getegid()


def _only_above_sources(folder: Path, into: list[Path]) -> Iterator[Path]:
    """A folder and the folders above it, up to the first one that all of ``into`` lie in too."""
    for above in (folder, *folder.parents):
        if all(target.is_relative_to(above) for target in into):
            return
        yield above


def _is_shared(folder: Path) -> bool:
    try:
        return bool(os.stat(folder).st_mode & stat.S_ISGID)
    except OSError:
        return False


def like(path: Path, model: Path) -> None:
    """Closes a new file to those to whom its model is closed; in a shared folder the group may read it like the model.

    Args:
        path: the new file.
        model: the file that it is a copy of, or that lies beside it.
    """
    if os.name != "posix":
        return
    status = os.stat(model)
    mode, wanted = stat.S_IMODE(os.stat(path).st_mode), _for_group_of(path, status)
    new = mode & (wanted | stat.S_IRUSR | stat.S_IWUSR)
    if _is_shared(path.parent):
        new |= wanted & stat.S_IRWXG & ~_ENTERS
    if new != mode:
        os.chmod(path, new)


def exactly_like(path: Path, model: Path) -> None:
    """Gives a file that takes the place of another one its mode, and its owner and group where possible."""
    if os.name != "posix":
        return
    status = os.stat(model)
    if status.st_uid != os.geteuid():
        with suppress(OSError):  # only root can give files away
            os.chown(path, status.st_uid, -1)
    os.chmod(path, _for_group_of(path, status))


def _for_group_of(path: Path, model: os.stat_result) -> int:
    """The mode of a model for a new file, which gets the model's group; without the group's rights if it cannot.

    In a shared folder the new file keeps the folder's group.
    """
    mode = stat.S_IMODE(model.st_mode)
    if os.stat(path).st_gid != model.st_gid:
        try:
            if _is_shared(path.parent):
                raise PermissionError
            os.chown(path, -1, model.st_gid)
        except PermissionError:  # not a group of this user
            mode &= ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3
    return mode


def make_folder(path: Path, model: Path) -> None:
    """Makes a folder with the mode of another one, as far as the umask allows, and its group where possible.

    Raises:
        FileExistsError: there is something of this name.
    """
    status = os.stat(model)
    os.mkdir(path, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
    if os.name == "posix":
        wanted, made = _for_group_of(path, status), stat.S_IMODE(os.stat(path).st_mode)
        made &= wanted | stat.S_IRWXU | stat.S_ISGID
        os.chmod(path, made | wanted & (stat.S_ISGID | stat.S_IRWXG) if status.st_mode & stat.S_ISGID else made)
