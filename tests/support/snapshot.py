"""A folder as it is on disk, so that a test can say that nothing, or only what it names, has changed."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A file, folder or link as ``os.lstat`` sees it; nothing is followed.

    Attributes:
        kind: ``file``, ``folder`` or ``link``.
        mode: permission bits.
        target: what a link points to.
        sha256: hash of a file's bytes.
        mtime: time of the last change in ns; 0 for a folder, whose time changes whenever an entry comes or goes.
    """

    kind: str
    mode: int
    target: str = ""
    sha256: str = ""
    mtime: int = 0


def snapshot(*folders: Path, folder_times: bool = False) -> dict[str, Entry]:
    """Everything in folders, and the folders themselves: path → entry.

    Args:
        folders: the folders.
        folder_times: compare the times of folders too, for a command that must not even make a file for a moment.
    """
    entries = {}
    for top in folders:
        for path in (Path(top), *_below(Path(top))):
            entries[str(path)] = _entry(path, folder_times)
    return entries


def changed(before: dict[str, Entry], after: dict[str, Entry]) -> list[str]:
    """Paths that came, went or are different, sorted."""
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


def _below(folder: Path) -> list[Path]:
    return [Path(root, name) for root, folders, files in os.walk(folder) for name in (*folders, *files)]


def _entry(path: Path, folder_times: bool) -> Entry:
    status = os.lstat(path)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return Entry("link", mode, target=os.readlink(path), mtime=status.st_mtime_ns)
    if stat.S_ISDIR(status.st_mode):
        return Entry("folder", mode, mtime=status.st_mtime_ns if folder_times else 0)
    return Entry("file", mode, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), mtime=status.st_mtime_ns)
