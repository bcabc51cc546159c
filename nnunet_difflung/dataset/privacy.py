"""What is made from a dataset is readable by nobody who may not read the dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from nnunet_difflung.paths import NNUNET_PREPROCESSED, NNUNET_RESULTS
from nnunet_difflung.runtime.modes import readable_like

_PARTS = ("imagesTr", "labelsTr")


def as_private_as(folder: Path | None, files: Iterable[str] | None = None) -> AbstractContextManager[None]:
    """A context in which whatever is written is no more readable than a raw dataset's files and folders.

    Args:
        folder: of the raw dataset; None if it is not here, which closes nothing.
        files: of its real cases; None takes what is in imagesTr and labelsTr.
    """
    if folder is None:
        return nullcontext()
    parts = [path for path in (folder / part for part in _PARTS) if path.is_dir()]
    if files is None:
        files = [str(path) for part in parts if os.access(part, os.R_OK | os.X_OK) for path in part.iterdir()]
    roots = [root for variable in (NNUNET_PREPROCESSED, NNUNET_RESULTS) if (root := os.environ.get(variable))]
    into = [place if (place := Path(root, folder.name)).is_dir() else Path(root) for root in roots]
    return readable_like([folder, *parts, *files], [folder, *into])
