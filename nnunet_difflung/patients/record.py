"""The record of a dataset's patients, by which every command reads ids as the first one did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import MANIFEST, dataset_folders, fold_folders, our_folders, patients_record
from nnunet_difflung.runtime.files import check_format, json_bytes, read_json, read_own_json, write_bytes

FORMAT = 1


@dataclass(frozen=True)
class Record:
    """Patients as an earlier command has recorded them.

    Attributes:
        path: file of the record.
        source: see ``Reading``; ``recorded`` if the record does not say it.
        patients: case id → patient; for a file of patients, all its rows.
        pattern: the regular expression that gave them, if one did.
        file: the file that gave them, if one did.
        sha256: hash of that file.
        used: whether generators or synthetic cases were made with these patients.
    """

    path: Path
    source: str
    patients: dict[str, str]
    pattern: str | None
    file: str | None
    sha256: str | None
    used: bool


def read_record(name: str) -> Record | None:
    """The record of ``DatasetXXX_NAME``: in the manifest of its synthetic cases, else in its results; None if neither.

    Raises:
        BadInput: the record in the results is damaged or of a newer format.
    """
    generators = any(fold_folders(folder) for folder in our_folders(name))
    path, own = _own_record(name)
    for manifest_path, manifest in _manifests(name):
        used = generators or bool(manifest.get("cases") or manifest.get("runs"))
        if own and manifest["patients"].items() <= own["patients"].items():  # a file of patients may list more cases
            return _record(manifest_path, manifest.get("reading") or own.get("reading"), own["patients"], used)
        return _record(manifest_path, manifest.get("reading"), manifest["patients"], used)
    return _record(path, own.get("reading"), own["patients"], generators) if path and own else None


def _own_record(name: str) -> tuple[Path | None, dict[str, Any]]:
    """Path and content of the record in the results, checked; the content is empty if there is none."""
    path = patients_record(name)
    if path is None or not path.is_file():
        return path, {}
    content = read_own_json(path, ", or delete it and say anew who the patients are")
    fault = None if isinstance(content, dict) else "it is not an object"
    if fault is None:
        check_format(path, content, FORMAT, f", or delete {path}")
        fault = _fault(content)
    if fault:
        raise BadInput(f"{path} is damaged: {fault}; restore it, or delete it and say anew who the patients are")
    return path, content


def _manifests(name: str) -> list[tuple[Path, dict[str, Any]]]:
    """Manifests in the raw and the preprocessed folder, as far as they can be read; others check them."""
    manifests = []
    for folder in dataset_folders(name):
        path = folder / MANIFEST if folder is not None else None
        if path is not None and path.is_file():
            try:
                content = read_json(path)
            except (ValueError, OSError):
                continue
            if isinstance(content, dict) and _fault(content) is None and content["patients"]:
                manifests.append((path, content))
    return manifests


def _fault(content: Mapping[str, Any]) -> str | None:
    patients, reading = content.get("patients"), content.get("reading")
    if not isinstance(patients, dict) or not all(isinstance(patient, str) for patient in patients.values()):
        return "'patients' is not an object of case ids and names of patients"
    return "'reading' is not an object" if not isinstance(reading, dict | None) else None


def _record(path: Path, reading: Mapping[str, Any] | None, patients: dict[str, str], used: bool) -> Record:
    reading = reading or {}
    keys = ("pattern", "file", "sha256")
    texts = {key: value if isinstance(value := reading.get(key), str) else None for key in keys}
    source = reading.get("from")
    return Record(path, source if isinstance(source, str) else "recorded", patients, used=used, **texts)


def write_record(name: str, reading: Mapping[str, Any], patients: Mapping[str, str]) -> None:
    """Records the patients in the dataset's results, unless the same is recorded.

    Args:
        name: ``DatasetXXX_NAME``.
        reading: where they are known from, as ``Reading.as_dict`` gives it.
        patients: case id → patient.
    """
    path = patients_record(name)
    if path is None:
        return
    content = json_bytes({"format": FORMAT, "dataset": name, "reading": dict(reading), "patients": dict(patients)})
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)
