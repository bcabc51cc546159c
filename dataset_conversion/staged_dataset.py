"""A dataset that appears when it is complete: written into a hidden folder, resumable by patient, then renamed."""
from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnunet_difflung.command_line import BadInput, nnunet_folder
from nnunet_difflung.files import write_json

_PROGRESS = ".progress"


@contextlib.contextmanager
def staged_dataset(full_name: str, overwrite: bool = False, key: str | None = None) -> Iterator[Path]:
    """A hidden folder in ``$nnUNet_raw`` that becomes ``full_name`` when the block ends well, and goes otherwise.

    Args:
        full_name: ``DatasetXXX_Name``.
        overwrite: replace a dataset of this name.
        key: of what is being converted and how; with it, what is finished of a patient (``finished_patients``) stays
            after a fault or an interruption, and the folder is found again by a conversion of the same key.

    Raises:
        BadInput: the dataset stands already and ``overwrite`` is off, or its id is taken by another name.
    """
    raw = Path(nnunet_folder("nnUNet_raw"))
    target, partial = raw / full_name, raw / f".{full_name}.partial"
    same_id = [p.name for p in raw.glob(f"{full_name[:10]}_*") if p.name != full_name]
    if same_id:
        raise BadInput(f"{raw}: the id of {full_name} is taken by {same_id[0]}; give another --dataset-id")
    if target.exists() and not overwrite:
        raise BadInput(f"{target} exists already; give --overwrite to replace it or another --dataset-id")
    mark = partial / _PROGRESS / "key"
    if key is None or not mark.is_file() or mark.read_text() != key:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    if key is not None:
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(key)
    try:
        yield partial
        shutil.rmtree(partial / _PROGRESS, ignore_errors=True)
        if target.exists():
            old = raw / f".{full_name}.old"
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            partial.rename(target)
            shutil.rmtree(old)
        else:
            partial.rename(target)
    finally:
        if key is None or not any((partial / _PROGRESS).glob("*.json")):
            shutil.rmtree(partial, ignore_errors=True)


def finished_patients(folder: Path) -> dict[str, dict]:
    """Patient → what ``note_patient`` has kept of it in a staged folder."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / _PROGRESS).glob("*.json"))}


def note_patient(folder: Path, patient: str, content: dict) -> None:
    """Keeps that all cases of a patient are written; whole or not at all."""
    write_json(folder / _PROGRESS / f"{patient}.json", content)


def forget_patient(folder: Path, patient: str, case_ids: Sequence[str]) -> None:
    """Takes a patient's cases out of a staged folder again."""
    (folder / _PROGRESS / f"{patient}.json").unlink(missing_ok=True)
    for case_id in case_ids:
        for part in ("Tr", "Ts"):
            (folder / f"images{part}" / f"{case_id}_0000.nii.gz").unlink(missing_ok=True)
            (folder / f"labels{part}" / f"{case_id}.nii.gz").unlink(missing_ok=True)
