"""The folder or zip file that is written: whole or not at all, and never in the place of something else."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.files import delete_path, replacing, sync, sync_below
from nnunet_difflung.runtime.writable import check_folders

ZIP = ".zip"
CARD = "MODEL_CARD.md"
_EXPORTED = re.compile(rf"{re.escape(CARD)}|dataset\.json|plans\.json|fold_(\d+|all)(/[\w.-]+\.pth)?")


def is_zip(out: Path) -> bool:
    """Whether a name asks for a zip file."""
    return out.name.lower().endswith(ZIP)


def check_output(out: Path, overwrite: bool) -> None:
    """Refuses a place where something else lies; writes nothing.

    Args:
        out: the folder or the zip file.
        overwrite: whether an earlier export may be replaced.

    Raises:
        BadInput: there is something that was not exported, or that may not be replaced; or it is not writable.
    """
    check_folders([out.parent])
    if not os.path.lexists(out):
        return
    if is_zip(out):
        if not out.is_file():
            raise BadInput(f"-o {out} is not a file; give another name")
        if overwrite and not _is_export(out):
            raise BadInput(f"-o {out} is no zip file of an exported model; give another name")
    else:
        if not out.is_dir():
            raise BadInput(f"-o {out} is a file; give the name of a folder, or one that ends in {ZIP}")
        foreign = sorted(name for name in map(str, _inside(out)) if not _EXPORTED.fullmatch(name))
        if foreign:
            raise BadInput(f"-o {out} has {foreign[0]}, which is no part of an exported model; give another folder")
        if not any(out.iterdir()):
            return
        if overwrite and not any(out.rglob(CARD)):
            raise BadInput(f"-o {out} has no {CARD}, so it was not exported; give another folder")
    if not overwrite:
        raise BadInput(f"-o {out} exists already; give another name, or --overwrite to replace it")


def _is_export(out: Path) -> bool:
    """Whether a file is a zip file of exported models, each in DATASET/MODEL, and of nothing else."""
    try:
        with zipfile.ZipFile(out) as file:
            names = [entry.filename for entry in file.infolist() if not entry.is_dir()]
    except (OSError, zipfile.BadZipFile):
        return False
    parts = [name.split("/", 2) for name in names]
    models = [part[2] for part in parts if len(part) == 3]
    return len(models) == len(names) and CARD in models and all(map(_EXPORTED.fullmatch, models))


def _inside(folder: Path) -> Iterator[Path]:
    return (path.relative_to(folder) for path in folder.rglob("*"))


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """Yields an empty folder; what it holds at the end of the block becomes ``out``, a folder or a zip file.

    After an error there is what was there before.

    Args:
        out: as ``check_output`` accepts it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f".writing_{secrets.token_hex(4)}_{out.name}")
    staged.mkdir()
    try:
        yield staged
        if is_zip(out):
            _pack(staged, out)
        else:
            sync_below(staged)
            _put_in_place(staged, out)
        sync(out.parent)
    finally:
        if staged.exists():
            shutil.rmtree(staged)


def _pack(folder: Path, out: Path) -> None:
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(folder).as_posix())


def _put_in_place(staged: Path, out: Path) -> None:
    earlier = staged.with_name(f"{staged.name}_earlier")
    if out.is_dir():
        os.rename(out, earlier)
    try:
        os.rename(staged, out)
    except BaseException:
        if earlier.is_dir():
            os.rename(earlier, out)
        raise
    if earlier.is_dir():
        delete_path(earlier)
