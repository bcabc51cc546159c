"""Reads an image file with ITK, and says in one line why a file cannot be read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.completeness import header_fault

if TYPE_CHECKING:
    import SimpleITK as sitk


def read_by_itk(path: Path) -> sitk.Image:
    """The image in a file.

    Raises:
        BadInput: ITK cannot read it.
    """
    import SimpleITK as sitk

    if fault := header_fault(path):
        raise BadInput(f"{path} cannot be read ({fault}); expected a complete image file: copy it again")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        if is_unicode(path):
            return sitk.ReadImage(str(path))
        with linked(path, f"volume{path.suffix}") as named:
            return sitk.ReadImage(str(named))
    except RuntimeError as error:
        raise BadInput(_unreadable(path, str(error))) from error


def is_unicode(path: Path) -> bool:
    """Whether a path has no bytes of another encoding, which end ITK at once."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def linked(path: Path, name: str) -> Iterator[Path]:
    """A link to a file under another name, for readers that go by names."""
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / name
        named.symlink_to(path.resolve())
        yield named


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
