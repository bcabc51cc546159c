"""The one way in which folders of a user are searched: what is hidden, linked or cannot be read is treated alike."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_difflung.errors import BadInput

# folders that macOS, Synology, QNAP and Windows add to a user's
_OF_THE_SYSTEM = (
    "__macosx",
    "@eadir",
    "@recycle",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
)


@dataclass(frozen=True)
class Walk:
    """What lies below a folder; all paths are relative to it, separated by ``/``, and sorted.

    Attributes:
        files: regular files, and links to such files.
        hidden: files and folders that were left out, since they are hidden or belong to the operating system.
        broken: links whose target does not exist.
        repeated: links to folders that are listed elsewhere already, or that hold the listed folder.
    """

    files: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()


@dataclass
class _Found:
    files: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)  # to folders, which are entered after all real folders


def walk(folder: Path) -> Walk:
    """Lists the files below a folder.

    Links to folders are followed, but each folder is listed once: under its own path rather than through a link. A link
    to a folder above is not followed, since it would bring in whatever lies beside the listed folder. Names
    that begin with a dot (``.DS_Store``, ``._p1.nii.gz``, ``.ipynb_checkpoints``) and folders that operating systems
    add (``__MACOSX``, ``@eaDir``) are left out. What is neither a file nor a folder, such as a socket, is passed over.

    Raises:
        BadInput: a folder cannot be listed, or a name is not valid UTF-8 (SimpleITK ends the process on such a name).
    """
    found = _Found()
    entered: set[tuple[int, int]] = set()
    above = {_identity(parent) for parent in folder.resolve().parents}
    _enter(folder, "", found, entered)
    while found.links:
        found.links.sort()
        path = found.links.pop(0)
        if _identity(folder / path) in entered | above:
            found.repeated.append(path)
        else:
            _enter(folder, path, found, entered)
    return Walk(*(tuple(sorted(paths)) for paths in (found.files, found.hidden, found.broken, found.repeated)))


def _enter(root: Path, start: str, found: _Found, entered: set[tuple[int, int]]) -> None:
    """Lists a folder with its subfolders, without following links to folders."""
    waiting = [start]
    while waiting:
        path = waiting.pop()
        folder = root / path
        identity = _identity(folder)
        if identity in entered:  # a folder that was entered through a link, such as a link to a part of the archive
            continue
        entered.add(identity)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise BadInput(
                f"{folder} cannot be listed ({os.strerror(error.errno or 0)}); make the folder readable, or move it "
                f"out of {root}"
            ) from error
        for entry in entries:
            below = f"{path}/{entry.name}" if path else entry.name
            if not _is_unicode(entry.name):
                raise BadInput(
                    f"{folder} holds {ascii(entry.name)}, a name that is not valid UTF-8; expected names in UTF-8, "
                    f"since other programs fail on it: rename it"
                )
            if entry.name.startswith(".") or entry.name.lower() in _OF_THE_SYSTEM:
                found.hidden.append(below)
            elif entry.is_symlink():
                _link(entry.path, below, found)
            elif entry.is_dir():
                waiting.append(below)
            elif entry.is_file():
                found.files.append(below)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _link(link: str, below: str, found: _Found) -> None:
    if os.path.isdir(link):
        found.links.append(below)
    elif os.path.isfile(link):
        found.files.append(below)
    elif not os.path.exists(link):  # a link to itself does not exist either
        found.broken.append(below)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
