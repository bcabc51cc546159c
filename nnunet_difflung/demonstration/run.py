"""Runs the demo, and sums up what came of it."""

from __future__ import annotations

import os
from typing import Any

from nnunet_difflung.demonstration.folder import PREVIEW, PROGRESS, REPORT, check_place
from nnunet_difflung.demonstration.small_trainings import pooled_dice
from nnunet_difflung.demonstration.stages import ARMS, NAME, Demo
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_RAW, PATH_VARIABLES
from nnunet_difflung.runtime.environment import versions
from nnunet_difflung.runtime.files import copy_file, read_json, write_json
from nnunet_difflung.runtime.messages import open_log, stage


def run(demo: Demo) -> dict:
    """Runs the stages that are not finished yet, and writes ``summary.json``, ``preview.png`` and ``report.html``."""
    check_place(demo)
    demo.folder.mkdir(parents=True, exist_ok=True)
    for variable in PATH_VARIABLES:
        demo.path(variable).mkdir(exist_ok=True)
    progress = demo.folder / PROGRESS
    options = {"length": demo.length, "epochs": demo.epochs, "size": demo.size}
    finished: dict[str, Any] = read_json(progress) if progress.is_file() else {"options": options, "seconds": {}}
    if not progress.is_file():
        write_json(progress, finished)  # first of all, so that --overwrite knows the folder of a demo
    open_log(demo.folder)
    if finished["options"] != options:
        raise BadInput(
            f"{demo.folder} holds a demo with {finished['options']}; start over with --overwrite, or choose "
            f"another folder with -o"
        )
    seconds: dict[str, float] = finished["seconds"]
    for name, work in demo.stages():
        if name not in seconds:
            with stage(name, seconds):
                work()
            write_json(progress, finished)
    summary = _summary(demo, seconds)
    write_json(demo.folder / "summary.json", summary)
    copy_file(demo.augmented() / PREVIEW, demo.folder / PREVIEW)
    if (demo.augmented() / REPORT).is_file():  # an earlier version that began the demo wrote none
        copy_file(demo.augmented() / REPORT, demo.folder / REPORT)
    return summary


def _summary(demo: Demo, seconds: dict[str, float]) -> dict:
    """Each class's Dice on the test patients (mean over cases, and over all voxels), leaks, seconds, versions."""
    from nnunet_difflung.audit.audit import audit_table

    os.environ.update({k: v for k, v in demo.environment().items() if k.startswith("nnUNet_")})
    names = {str(v): k for k, v in read_json(demo.path(NNUNET_RAW) / NAME / "dataset.json")["labels"].items() if v}
    summary: dict = {}
    for arm in ARMS:
        scores = read_json(demo.folder / f"predictions_{arm}" / "summary.json")
        summary[arm] = {name: round(scores["mean"][key]["Dice"], 4) for key, name in names.items()}
        summary[f"{arm}_pooled"] = {
            name: round(pooled_dice(scores["metric_per_case"], key), 4) for key, name in names.items()
        }
    report = read_json(demo.augmented() / "augment_report.json")
    return {
        **summary,
        "leaks": audit_table(NAME)["leaks"],
        "quality": report["folds"][0]["quality"],
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "test_cases": len(list((demo.path(NNUNET_RAW) / NAME / "labelsTs").glob("*.nii.gz"))),
        "versions": versions(),
    }
