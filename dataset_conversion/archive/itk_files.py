"""Reads an image file with ITK, and says in one line why a file cannot be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_difflung.errors import BadInput

if TYPE_CHECKING:
    import SimpleITK as sitk


def read_by_itk(path: Path) -> sitk.Image:
    """The image in a file.

    Raises:
        BadInput: ITK cannot read it.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise BadInput(_unreadable(path, str(error))) from error


def _unreadable(path: Path, error: str) -> str:
    reason = error.strip().splitlines()[-1].removeprefix("sitk::ERROR: ").removeprefix("ITK ERROR: ")
    beside = re.search(r"open \"(.+)\" \(data file", error) or re.search(r"File cannot be read: (\S+)", error)
    if beside or path.name.lower().endswith((".mhd", ".nhdr")) and "No such file" in reason:
        name = Path(beside[1]).name if beside else "of its voxels"
        return (
            f"{path} cannot be read: its data file {name} is missing or incomplete; expected the data file that the "
            f"header names beside it: copy both files again"
        )
    if "Refusing to change spacing" in reason:
        return (
            f"{path} cannot be read: its header gives a voxel size of 0 mm ({reason}); expected mm along each axis: "
            f"correct the spacing in its header, or export it again"
        )
    return f"{path} cannot be read ({reason}); expected a complete image file: copy it again"
