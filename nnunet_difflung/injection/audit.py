"""Proves from the files themselves that no synthetic case has seen a validation patient."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX, is_synthetic
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.commit import read_steadily
from nnunet_difflung.injection.leaks import (
    Problem,
    file_problems,
    generator_problems,
    record_problems,
    some,
    split_problems,
)
from nnunet_difflung.injection.manifest import find_manifest, is_planned, read_manifest
from nnunet_difflung.paths import SPLITS, dataset_folders
from nnunet_difflung.runtime.files import read_json


def _read_splits(folder: Path | None, found: list[Problem]) -> list[dict] | None:
    path = folder / SPLITS if folder is not None else None
    if path is None or not path.is_file():
        return None
    try:
        splits = read_json(path)
        lists = [split[side] for split in splits for side in ("train", "val")]
        assert all(isinstance(part, list) and all(isinstance(i, str) for i in part) for part in lists)
        return splits
    except (ValueError, AssertionError, TypeError, KeyError, OSError):
        found.append(Problem(f"{path} is no split file; expected a JSON list of {{'train': [...], 'val': [...]}}"))
        return None


def _agreement(raw: list[dict] | None, other: list[dict] | None, folder: Path | None, synthetic: bool) -> list[Problem]:
    """Raw and preprocessed splits as nnU-Net compares them: fold by fold, as sets."""
    if folder is None or (raw is None and other is None):
        return []
    path = folder / SPLITS
    if other is None:
        planned = synthetic and is_planned(folder)
        return [Problem(f"{path} is missing: nnU-Net would draw folds over synthetic cases", None, True)] * planned
    if raw is None:
        return []
    differ = [
        f
        for f, split in enumerate(raw)
        if f >= len(other) or any(set(split[side]) != set(other[f][side]) for side in ("train", "val"))
    ]
    folds = ", ".join(map(str, differ))
    return [Problem(f"{path} differs from the raw {SPLITS} in fold {folds}")] * bool(differ)


def _without_manifest(raw: Path | None, splits: dict[str, list[dict]]) -> list[Problem]:
    found = [
        Problem(f"{where} fold {fold} lists {some(ids)}, and there is no manifest", fold, True)
        for where, content in splits.items()
        for fold, split in enumerate(content)
        if (ids := {i for i in (*split["train"], *split["val"]) if is_synthetic(i)})
    ]
    parts = [raw / part for part in ("imagesTr", "labelsTr")] if raw is not None else []
    files = [path.name for part in parts for path in part.glob(f"{SYNTHETIC_PREFIX}*")]
    if files:
        found.append(Problem(f"{raw} holds {some(files)}, and there is no manifest"))
    return found


def audit_table(dataset_name: str, deep: bool = False) -> dict:
    """Everything that the audit knows.

    Args:
        dataset_name: ``DatasetXXX_NAME``. An interrupted change of it is finished first.
        deep: compare the hashes of the synthetic files too.

    Returns:
        ``{"dataset", "leaks": n, "problems": [lines], "folds": [{"fold", "training_cases", "training_patients",
        "synthetic": {method: n}, "validation_cases", "leaks"}]}``; what the raw or the preprocessed folder shows, and
        both where both are there.
    """
    raw, preprocessed = dataset_folders(dataset_name)

    def read() -> dict:
        return _audit(dataset_name, raw, preprocessed, deep)

    return read_steadily(raw, read) if raw is not None else read()


def _audit(dataset_name: str, raw: Path | None, preprocessed: Path | None, deep: bool) -> dict:
    found: list[Problem] = []
    in_raw, in_preprocessed = _read_splits(raw, found), _read_splits(preprocessed, found)
    splits = {str(f / SPLITS): s for f, s in ((raw, in_raw), (preprocessed, in_preprocessed)) if s is not None}
    try:
        manifest = find_manifest(dataset_name)
        copy = read_manifest(preprocessed) if preprocessed is not None else None
    except BadInput as error:
        return _table(dataset_name, None, {}, [*found, Problem(str(error))])
    if manifest is None:
        return _table(dataset_name, None, splits, found + _without_manifest(raw, splits))
    if copy is not None and (copy["cases"], copy["patients"], copy["runs"]) != tuple(
        manifest[key] for key in ("cases", "patients", "runs")
    ):
        found.append(Problem(f"the manifests in {raw} and {preprocessed} differ; copy the right one over the other"))
    found += record_problems(manifest)
    for where, content in splits.items():
        found += split_problems(manifest, content, where)
    if not splits and manifest["cases"]:
        text = f"{dataset_name} has synthetic cases and no {SPLITS}: nnU-Net would validate on them"
        found.append(Problem(text, None, True))
    found += _agreement(in_raw, in_preprocessed, preprocessed, bool(manifest["cases"]))
    found += generator_problems(dataset_name, manifest, next(iter(splits.values()), []))
    if raw is not None:
        found += file_problems(raw, manifest, deep)
    return _table(dataset_name, manifest, splits, found)


def _table(name: str, manifest: dict | None, splits: dict[str, list[dict]], found: list[Problem]) -> dict:
    patients = manifest["patients"] if manifest else {}
    cases = manifest["cases"] if manifest else {}
    rows = []
    for fold, split in enumerate(next(iter(splits.values()), [])):
        real = [i for i in split["train"] if not is_synthetic(i)]
        methods = Counter(cases[i]["method"] if i in cases else "unknown" for i in split["train"] if is_synthetic(i))
        rows.append(
            {
                "fold": fold,
                "training_cases": len(real),
                "training_patients": len({patients.get(i, i) for i in real}),
                "synthetic": dict(methods),
                "validation_cases": len(split["val"]),
                "leaks": sum(p.leak for p in found if p.fold == fold),
            }
        )
    everywhere = Counter(case["method"] for case in cases.values() if case["fold"] == "all")
    if everywhere:
        rows.append(
            {
                "fold": "all",
                "training_cases": len(patients),
                "training_patients": len(set(patients.values())),
                "synthetic": dict(everywhere),
                "validation_cases": 0,
                "leaks": sum(p.leak for p in found if p.fold == "all"),
            }
        )
    return {"dataset": name, "leaks": sum(p.leak for p in found), "problems": [p.text for p in found], "folds": rows}


def audit_dataset(dataset_name: str, deep: bool = False) -> list[str]:
    """Problems of a dataset, a line each; empty if fold-locking is proven (or nothing synthetic is there).

    Args:
        dataset_name: ``DatasetXXX_NAME``; its raw or its preprocessed folder may be missing.
        deep: compare the hashes of the synthetic files too.
    """
    return audit_table(dataset_name, deep)["problems"]
