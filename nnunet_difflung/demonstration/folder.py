"""The folder of a demo: what is in it, and that nothing but a demo is written over or deleted."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from nnunet_difflung.demonstration.stages import ARMS, NAME, Demo
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import PATH_VARIABLES

PROGRESS, PREVIEW, REPORT = "progress.json", "preview.png", "report.html"
_OWN = re.compile(  # what lies in the folder of a demo
    rf"{'|'.join(PATH_VARIABLES)}|predictions_({'|'.join(ARMS)})|\w+_({'|'.join(ARMS)})\.log|commands_quiet\.log|"
    rf"difflung_demo_[\d_-]+\.log|(progress|summary)\.json|preview\.png|report\.html|\.writing_.*"
)
_OF_PHANTOM = re.compile(rf"\.?{NAME}(\..*)?")  # the dataset of a demo, and what its converter writes beside it


def check_place(demo: Demo) -> None:
    """Refuses to begin a demo in folders of nnU-Net that hold a user's datasets; writes nothing.

    Raises:
        BadInput: names the folder that no demo has made.
    """
    if (demo.folder / PROGRESS).is_file():
        return
    for place in map(demo.path, PATH_VARIABLES):
        if place.is_symlink() or (place.is_dir() and any(place.iterdir())):
            raise BadInput(
                f"{place} is not the folder of a demo, so no demo is written there; choose another folder with -o"
            )


def _foreign(folder: Path) -> list[str]:
    """Names in a demo's folder, and in nnU-Net's folders in it, that no demo writes; sorted."""
    names = [path.name for path in folder.iterdir() if not _OWN.fullmatch(path.name)]
    for place in (folder / variable for variable in PATH_VARIABLES):
        if place.is_dir() and not place.is_symlink():
            names += [f"{place.name}/{path.name}" for path in place.iterdir() if not _OF_PHANTOM.fullmatch(path.name)]
    return sorted(names)


def delete_demo(folder: Path) -> None:
    """Deletes a demo of an earlier command; never a folder that holds anything else.

    Raises:
        BadInput: the folder is a link, or holds no demo, or files beside it.
    """
    if not os.path.lexists(folder):
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    foreign = _foreign(folder) if is_folder else []
    if not is_folder or foreign or (any(folder.iterdir()) and not (folder / PROGRESS).is_file()):
        raise BadInput(
            f"-o {folder} does not hold a demo and nothing else{f' (it holds {foreign[0]})' if foreign else ''}, so "
            f"--overwrite does not delete it; choose another folder with -o"
        )
    shutil.rmtree(folder)
