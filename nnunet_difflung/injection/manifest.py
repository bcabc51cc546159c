"""The manifest: the cases added to a dataset, what they were made from, and the hash of every changed file.

Files are named relative to the raw dataset folder, or with the prefix ``preprocessed:`` relative to the dataset's
folder in ``$nnUNet_preprocessed``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from nnunet_difflung import __version__
from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import DATASET, MANIFEST, SPLITS, dataset_folders, preprocessed_folder
from nnunet_difflung.runtime.files import check_format, read_json

PREPROCESSED = "preprocessed:"
FINGERPRINT = f"{PREPROCESSED}dataset_fingerprint.json"
FORMAT = 1
_NOT_PLANS = {DATASET, SPLITS, MANIFEST, FINGERPRINT.removeprefix(PREPROCESSED)}  # JSON files beside nnU-Net's plans
_IDENTIFIER = re.compile(rf"{SYNTHETIC_PREFIX}[A-Za-z0-9_.-]+")
_FILES = re.compile(
    rf"dataset\.json|splits_final\.json|{PREPROCESSED}(splits_final|dataset_fingerprint)\.json|"
    rf"(imagesTr|labelsTr)/{SYNTHETIC_PREFIX}[A-Za-z0-9_.-]+"
)
_FOLDERS = ("imagesTr", "labelsTr", PREPROCESSED)
_HASH = re.compile(r"[0-9a-f]{64}")
_REMEDY = "restore it, or copy the intact one from the dataset's folder in nnUNet_raw or nnUNet_preprocessed"


def new_manifest(
    dataset: str,
    patients: dict[str, str],
    contents: Mapping[str, Mapping[str, str]] | None = None,
    reading: dict | None = None,
) -> dict:
    """The manifest of a dataset without synthetic cases.

    Args:
        dataset: ``DatasetXXX_NAME``.
        patients: case id → patient, of the real cases.
        contents: case id → file, named relative to the raw dataset → SHA-256, of the real cases; None leaves the key
            out, as earlier versions did.
        reading: where the patients are known from (``Reading.as_dict``).
    """
    manifest = {
        "format": FORMAT,
        "version": __version__,
        "dataset": dataset,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "patients": dict(patients),
        **({"reading": reading} if reading else {}),
        "runs": [],
        "cases": {},
        "files": {},
        "made_folders": [],
    }
    if contents is not None:
        manifest["contents"] = {identifier: dict(files) for identifier, files in contents.items()}
    return manifest


def is_identifier(name: object) -> bool:
    """Whether a name is a well-formed id of a synthetic case."""
    return isinstance(name, str) and bool(_IDENTIFIER.fullmatch(name))


def resolve(folder: Path, name: str) -> Path:
    """Path of a file that is named as in the manifest.

    Raises:
        BadInput: the name is a path outside the dataset, or ``nnUNet_preprocessed`` is needed and not set.
    """
    inside = name.removeprefix(PREPROCESSED)
    if inside.startswith("/") or "\\" in inside or "\0" in inside or ".." in inside.split("/"):
        raise BadInput(f"{name!r} names a file outside the dataset {folder.name}; expected a path inside it")
    if name.startswith(PREPROCESSED):
        return preprocessed_folder(folder.name) / inside
    return folder / inside


def read_manifest(folder: str | Path) -> dict | None:
    """The manifest in a raw or preprocessed dataset folder, checked; None if there is none.

    Raises:
        BadInput: it is damaged or of a newer format, or has ids or files that this package never writes.
    """
    path = Path(folder) / MANIFEST
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} cannot be read as JSON ({error}); {_REMEDY}") from error
    if isinstance(content, dict):
        check_format(
            path, content, FORMAT, ", or remove the synthetic cases with difflung_remove of the version that added them"
        )
    fault = fault_in(content)
    if fault:
        raise BadInput(f"{path} is damaged: {fault}; {_REMEDY}")
    return content


def fault_in(content: object) -> str | None:
    """The first fault in a manifest's content, or None."""
    if not isinstance(content, dict):
        return f"its content is a {type(content).__name__}, expected an object"
    for key, kind in (("dataset", str), ("patients", dict), ("runs", list), ("cases", dict), ("files", dict)):
        if not isinstance(content.get(key), kind):
            return f"{key!r} is {type(content.get(key)).__name__}, expected {kind.__name__}"
    if not isinstance(content.get("reading", {}), dict):
        return f"'reading' is {type(content['reading']).__name__}, expected dict"
    if not _names(list(content["patients"].values())):
        return "'patients' has a value that is not a patient's name"
    made = content.get("made_folders", [])
    if not _names(made) or not set(made) <= set(_FOLDERS):
        return f"'made_folders' is not a list of {', '.join(_FOLDERS)}"
    return (
        _fault_in_files(content["files"])
        or _fault_in_contents(content)
        or _fault_in_cases(content)
        or _fault_in_runs(content["runs"])
    )


def _fault_in_contents(content: dict) -> str | None:
    """A fault in the hashes of the real cases, which manifests of earlier versions do not have."""
    if not _is_hash(content.get("fingerprint", "0" * 64)):
        return "'fingerprint' is not a SHA-256"
    earlier = content.get("without_contents", [])
    if not isinstance(earlier, list) or not all(isinstance(run, list) and len(run) == 2 for run in earlier):
        return "'without_contents' is not a list of pairs of method and fold"
    if "contents" not in content:
        return None
    contents = content["contents"]
    if not isinstance(contents, dict) or set(contents) != set(content["patients"]):
        return "'contents' does not hold the real cases that 'patients' names"
    for identifier, files in contents.items():
        if not isinstance(files, dict) or not files or not all(map(_is_hash, files.values())):
            return f"'contents' has no SHA-256 for each file of {identifier}"
    return None


def _fault_in_cases(content: dict) -> str | None:
    for identifier, case in content["cases"].items():
        if not is_identifier(identifier):
            return f"{identifier!r} is not an id of a synthetic case ({_IDENTIFIER.pattern})"
        if not isinstance(case, dict) or not {"method", "fold", "sources", "files"} <= set(case):
            return f"case {identifier} lacks one of 'method', 'fold', 'sources', 'files'"
        if not isinstance(case["method"], str) or not isinstance(case.get("generator") or "", str):
            return f"case {identifier} has a malformed 'method' or 'generator'"
        if not (_names(case["sources"]) and _names(case["files"]) and _is_fold(case["fold"])):
            return f"case {identifier} has a malformed 'fold', 'sources' or 'files'"
        if not isinstance(case.get("placebo", False), bool):
            return f"case {identifier} has a malformed 'placebo'"
        if not set(case["files"]) <= set(content["files"]):
            return f"case {identifier} has a file that is not under 'files'"
    return None


def _fault_in_files(files: dict) -> str | None:
    for name, hashes in files.items():
        if not _FILES.fullmatch(name):
            return f"'files' names {name!r}, which this package never writes"
        if (
            not isinstance(hashes, dict)
            or not _is_hash(hashes.get("after"))
            or not (hashes.get("before") is None or _is_hash(hashes["before"]))
        ):
            return f"'files' has no 'before' and 'after' hashes for {name!r}"
    return None


def _fault_in_runs(runs: list) -> str | None:
    for run in runs:
        if not isinstance(run, dict) or not isinstance(run.get("method"), str) or not _is_fold(run.get("fold")):
            return "a run lacks 'method' or 'fold'"
        if not isinstance(run.get("generator") or {}, dict):
            return "a run's 'generator' is not an object"
        if not _names((run.get("generator") or {}).get("training_cases", [])):
            return "a run's generator has malformed 'training_cases'"
    return None


def _names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_fold(value: object) -> bool:
    return value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and bool(_HASH.fullmatch(value))


def find_manifest(dataset_name: str) -> dict | None:
    """The manifest of ``DatasetXXX_NAME`` from its raw folder, or else from its preprocessed one.

    Raises:
        BadInput: the manifest is damaged or of a newer format.
    """
    for folder in dataset_folders(dataset_name):
        manifest = read_manifest(folder) if folder is not None else None
        if manifest is not None:
            return manifest
    return None


def hash_of_patients(manifest: dict) -> str:
    """Hash of who the patients are, which a manifest records so that a change of its ``patients`` is seen."""
    return hashlib.sha256(repr(sorted(manifest["patients"].items())).encode()).hexdigest()


def without_contents(manifest: dict) -> list[tuple[str, int | str]]:
    """(method, fold) of the runs of earlier versions, which did not record what their real cases held."""
    if "contents" not in manifest:
        return [(run["method"], run["fold"]) for run in manifest["runs"]]
    return [(method, fold) for method, fold in manifest.get("without_contents", [])]


def run_of(manifest: dict, case: dict) -> dict | None:
    """The run that made a case."""
    return next((r for r in manifest["runs"] if (r["method"], r["fold"]) == (case["method"], case["fold"])), None)


def cases_of(manifest: dict, run: dict) -> set[str]:
    """Ids of the synthetic cases of a run; a fold whose targets were met already has a run without cases."""
    return {i for i, c in manifest["cases"].items() if (c["method"], c["fold"]) == (run["method"], run["fold"])}


def plans_files(preprocessed: Path) -> list[Path]:
    """nnU-Net's plans in a preprocessed folder, whatever they are called, sorted."""
    return [path for path in sorted(preprocessed.glob("*.json")) if path.name not in _NOT_PLANS and _is_plans(path)]


def _is_plans(path: Path) -> bool:
    try:
        content = read_json(path)
        return isinstance(content["configurations"], dict) and "plans_name" in content
    except (OSError, ValueError, TypeError, KeyError):
        return False  # nnU-Net cannot train with it either


def is_planned(preprocessed: Path) -> bool:
    """Whether nnU-Net has planned the dataset, and so copied the raw splits if there were any."""
    return any(preprocessed.glob("*Plans*.json")) or bool(plans_files(preprocessed))


def backup_name(target: str) -> str:
    """Name of the backup of a file."""
    return target.replace(PREPROCESSED, "preprocessed_")


def lists_synthetic(splits: Path) -> bool:
    """Whether a split file names synthetic cases; works for a damaged file too."""
    return f'"{SYNTHETIC_PREFIX}'.encode() in splits.read_bytes()
