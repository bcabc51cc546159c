"""Whether folders can be written, asked before a long computation and before a change begins."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.wording import quoted


def check_folders(folders: Iterable[Path]) -> None:
    """Refuses folders in which no file can be made; writes nothing.

    A folder that does not exist yet would be made, so the nearest folder above it that exists is checked.

    Args:
        folders: folders in which files will be made, replaced or deleted.

    Raises:
        BadInput: names the folder that is not writable, or the file that lies in the place of a folder.
    """
    for folder in dict.fromkeys(folders):
        there = nearest(folder)
        if not os.path.isdir(there):
            raise BadInput(f"{there} is a file, but a folder of this name is needed; move the file to another place")
        if not is_writable(there):
            raise BadInput(
                f"{there} is not writable, and files have to be written there; make the folder writable for you "
                f"(chmod u+w {quoted(there)}, or ask its owner)"
            )


def nearest(path: Path) -> Path:
    """The path itself, or the nearest folder (or file) above it that exists."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def is_writable(path: Path) -> bool:
    """Whether this user may write a file, or make and delete files in a folder."""
    return os.access(path, os.W_OK | os.X_OK if os.path.isdir(path) else os.W_OK)
