"""Datasets with the modes that users give them, and who may read a tree."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def set_modes(folder: Path, files: int, folders: int) -> None:
    """Gives every file and folder below, and the folder itself, a mode."""
    for root, _, names in os.walk(folder):
        os.chmod(root, folders)
        for name in names:
            os.chmod(Path(root, name), files)


def mode(path: Path) -> int:
    """The permission bits of a path."""
    return stat.S_IMODE(os.lstat(path).st_mode)


def open_to(tree: Path, bits: int) -> list[str]:
    """Files below a folder that have one of these bits and can be reached: all folders above them in it have x too."""
    entered = bits >> 2  # r → x of the same people
    reached = []
    for root, _, names in os.walk(tree):
        above = [Path(root), *Path(root).parents]
        inside = [folder for folder in above if folder.is_relative_to(tree)]
        if all(mode(folder) & entered for folder in inside):
            reached += [str(Path(root, name)) for name in names if mode(Path(root, name)) & bits]
    return sorted(reached)


@contextmanager
def umask(value: int) -> Iterator[None]:
    """Sets the umask of the process for a while."""
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)
