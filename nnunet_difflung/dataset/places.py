"""Where a command may write: in the folders of its own dataset, and nowhere else through a link.

nnU-Net's three folders, and a dataset's folder in them, may be links: then what they point to is the dataset. Cases may
be links too, a file each: they are only read, and renamed or deleted as links. A link in the place of a *folder* of the
dataset would lead what is written there to another place, so it is refused before anything is computed. A file that is
rewritten, such as ``dataset.json``, is replaced where it stands; what a link or a hard link shares with it stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_PREPROCESSED, NNUNET_RAW, PATH_VARIABLES, names_in
from nnunet_difflung.runtime.wording import quoted

_CASES = ("imagesTr", "labelsTr")


def check_links(name: str, folders: Iterable[Path], own: Iterable[Path] = ()) -> None:
    """Refuses a dataset in which something would be written into another place; writes nothing.

    Args:
        name: ``DatasetXXX_NAME``.
        folders: the dataset's folders that will be written into; they may not exist.
        own: files and folders that only this package makes, so that a link in their place is not its own.

    Raises:
        BadInput: names the link, what it points to, and what to do.
    """
    refuse_shared(name)
    _refuse_one_for_raw_and_preprocessed(name)
    for folder in folders:
        outside = leads_to(name, folder)
        if outside is not None:
            raise BadInput(
                f"{_link_in(folder)} is a link to {outside}{_whose(name, outside)}, and files would be written there, "
                f"outside {name}; replace the link by a folder with copies of the files: "
                f"{_instead_of_link(_link_in(folder), outside, 'L')} "
                f"(cp -rs instead of cp -rpL makes links to the files)"
            )
    for path in own:
        refuse_link(path)


def refuse_link(path: Path) -> None:
    """Refuses a link in the place of a file or folder that only this package makes.

    Raises:
        BadInput: names the link, what it points to, and what to do.
    """
    if path.is_symlink():
        target = os.path.realpath(path)
        copied = (
            f"replace it by a copy: {_instead_of_link(path, target)}" if os.path.exists(target) else "delete the link"
        )
        raise BadInput(
            f"{path} is a link to {target}; files would be written and deleted there, outside the dataset; {copied}"
        )


def leads_to(name: str, folder: Path) -> str | None:
    """Where a folder of a dataset really lies, if that is outside the dataset; None if it is inside, or missing."""
    if not os.path.lexists(folder):
        return None
    target = os.path.realpath(folder)
    return None if any(_is_inside(target, home) for home in _homes(name)) else target


def belongs_to_another(name: str, folder: Path) -> str | None:
    """The other dataset that a folder of a dataset really belongs to, by way of a link; None if there is none."""
    outside = leads_to(name, folder)
    return _owner(name, outside) if outside is not None else None


def linked_from(name: str) -> list[Path]:
    """Folders with the cases of other datasets that are links to those of this one, sorted."""
    raw = os.environ.get(NNUNET_RAW)
    if not raw:
        return []
    parts = [Path(raw, name, part) for part in _CASES]
    own = {os.path.realpath(part) for part in parts if leads_to(name, part) is None}
    others = (Path(raw, other, part) for other in names_in(raw) if other != name for part in _CASES)
    return sorted(path for path in others if os.path.realpath(path) in own)


def refuse_shared(name: str) -> None:
    """Refuses a dataset whose folder is a link to that of another dataset, or into it.

    Raises:
        BadInput: names both folders.
    """
    for variable, root in _roots():
        folder = Path(root, name)
        if not folder.is_symlink():
            continue
        home = os.path.realpath(folder)
        for other in names_in(root):
            if other != name and _is_inside(home, os.path.realpath(Path(root, other))):
                raise BadInput(
                    f"{folder} is a link to {home}, the folder of {other} in {variable}, so both would be changed; "
                    f"copy the folder: {_instead_of_link(folder, home)}"
                )


def _refuse_one_for_raw_and_preprocessed(name: str) -> None:
    raw, preprocessed = (os.environ.get(variable) for variable in (NNUNET_RAW, NNUNET_PREPROCESSED))
    if raw and preprocessed and os.path.realpath(Path(raw, name)) == os.path.realpath(Path(preprocessed, name)):
        raise BadInput(
            f"{Path(raw, name)} and {Path(preprocessed, name)} are the same folder, which nnU-Net cannot plan either; "
            f"set {NNUNET_RAW} and {NNUNET_PREPROCESSED} to different folders"
        )


def _roots() -> Iterator[tuple[str, str]]:
    for variable in PATH_VARIABLES:
        root = os.environ.get(variable)
        if root:
            yield variable, root


def _homes(name: str) -> list[str]:
    return [os.path.realpath(Path(root, name)) for _, root in _roots()]


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _owner(name: str, path: str) -> str | None:
    others = ((other, Path(root, other)) for _, root in _roots() for other in names_in(root) if other != name)
    return next((other for other, folder in others if _is_inside(path, os.path.realpath(folder))), None)


def _whose(name: str, path: str) -> str:
    owner = _owner(name, path)
    return f" of {owner}" if owner else ""


def _link_in(path: Path) -> Path:
    """The lowest part of a path that is a link."""
    return next((part for part in (path, *path.parents) if part.is_symlink()), path)


def _instead_of_link(link: Path, target: str, files: str = "") -> str:
    """A command that puts a copy of what a link points to in the place of the link; ``files`` L: no links in it."""
    return f"rm {quoted(link)} && cp -rp{files} {quoted(os.path.realpath(target))} {quoted(link)}"
