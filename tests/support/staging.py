"""Synthetic cases as synthesis would leave them, without any generator."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.staged_case import StagedCase
from nnunet_difflung.dataset.writing import copy_sidecar, spacing_sidecar, write_changed_copy
from nnunet_difflung.injection.inject import staging_folder
from nnunet_difflung.paths import fold_name, method_name
from nnunet_difflung.runtime.files import write_json

GENERATOR = "a" * 64


def stage_cases(
    raw: RawDataset,
    method: str = "cbmat",
    fold: int | str = 0,
    count: int = 2,
    bump: float = 3.0,
    staged_in: Path | None = None,
) -> tuple[list[StagedCase], dict]:
    """Stages changed copies of training cases of the fold, and the run that goes with them."""
    work = (staged_in or staging_folder(raw)) / "work" / f"{method}_{fold}"
    for part in ("imagesTr", "labelsTr"):
        (work / part).mkdir(parents=True, exist_ok=True)
    training = raw.training_cases(fold)
    cases = []
    for index in range(count):
        host = training[index % len(training)]
        cases.append(_stage(raw, work, f"difflung_{method}_f{fold}_{index:04d}", host, method, fold, bump))
    run = {
        "method": method,
        "fold": fold,
        "settings": {"seed": 0, "count": count},
        "generator": {
            "hash": GENERATOR,
            "folder": f"{method_name(method)}/{fold_name(fold)}",
            "training_cases": training,
        },
        "summary": {"injected": count},
    }
    return cases, run


def _stage(
    raw: RawDataset, work: Path, identifier: str, host: str, method: str, fold: int | str, bump: float
) -> StagedCase:
    ending = raw.dataset_json["file_ending"]
    case = raw.cases[host]
    image, _ = raw.read_image(host)
    label, _ = raw.read_label(host)
    where = raw.roles.is_normal(label)
    targets = tuple(work / "imagesTr" / f"{identifier}_{c:04d}{ending}" for c in range(len(case.images)))
    write_changed_copy(case.images, [str(t) for t in targets], image + bump, where, raw.reader)
    target = work / "labelsTr" / f"{identifier}{ending}"
    shutil.copyfile(case.label, target)
    copy_sidecar(spacing_sidecar(case.images[0], True, raw.reader), work / "imagesTr" / f"{identifier}.json")
    copy_sidecar(spacing_sidecar(case.label, False, raw.reader), work / "labelsTr" / f"{identifier}.json")
    record = {
        "method": method,
        "fold": fold,
        "sources": [host],
        "host": host,
        "slices": [0],
        "operations": [],
        "seed": np.int64(7),
        "generator": GENERATOR,
        "quality": {"bias": np.float32(1.5)},
    }
    return StagedCase(identifier, targets, target, record)


def plan_like_nnunet(raw: RawDataset, fingerprint: bool = True) -> None:
    """What nnU-Net's planning and preprocessing leave behind, of the cases that are there now (empty files)."""
    folder = raw.preprocessed
    (folder / "nnUNetPlans_2d").mkdir(parents=True, exist_ok=True)
    (folder / "gt_segmentations").mkdir(exist_ok=True)
    shutil.copy(raw.folder / "dataset.json", folder / "dataset.json")
    if (raw.folder / "splits_final.json").is_file() and not (folder / "splits_final.json").is_file():
        shutil.copy(raw.folder / "splits_final.json", folder / "splits_final.json")
    if fingerprint and not (folder / "dataset_fingerprint.json").is_file():
        write_json(folder / "dataset_fingerprint.json", {"spacings": []})
    write_json(folder / "nnUNetPlans.json", {"plans_name": "nnUNetPlans"})
    ending = raw.dataset_json["file_ending"]
    for label in (raw.folder / "labelsTr").glob(f"*{ending}"):
        identifier = label.name.removesuffix(ending)
        shutil.copy(label, folder / "gt_segmentations" / label.name)
        for name in (f"{identifier}.b2nd", f"{identifier}_seg.b2nd", f"{identifier}.pkl"):
            (folder / "nnUNetPlans_2d" / name).write_text(name)
