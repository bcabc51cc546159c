"""``difflung_demo``: the whole product on a chest phantom, through the real commands, on a laptop.

Each stage is one of the commands that a user would type; only the U-Net is made smaller than nnU-Net's plan for it, as
a configuration ``2d_demo`` in the plans file, so that both arms train in minutes on two CPU cores.
"""
from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.command_line import BadInput, command
from nnunet_difflung.demo_stages import ARMS, NAME, Demo
from nnunet_difflung.files import copy_file, read_json, write_json
from nnunet_difflung.provenance import versions
from nnunet_difflung.small_trainings import pooled_dice


def run(demo: Demo) -> dict:
    """Runs the stages that are not done yet, and writes ``summary.json`` and ``preview.png``."""
    demo.folder.mkdir(parents=True, exist_ok=True)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        demo.path(variable).mkdir(exist_ok=True)
    progress = demo.folder / "progress.json"
    options = {"length": demo.length, "epochs": demo.epochs, "size": demo.size}
    known = read_json(progress) if progress.is_file() else {"options": options, "seconds": {}}
    if known["options"] != options:
        raise BadInput(f"{demo.folder} holds a demo with {known['options']}; begin anew with --overwrite, or choose "
                       f"another folder with -o")
    for name, work in demo.stages():
        if name not in known["seconds"]:
            begun = time.monotonic()
            work()
            known["seconds"][name] = round(time.monotonic() - begun, 1)
            write_json(progress, known)
    summary = _summary(demo, known["seconds"])
    write_json(demo.folder / "summary.json", summary)
    preview = demo.path("nnUNet_results") / NAME / "DiffLung__cbmat" / "preview.png"
    copy_file(preview, demo.folder / "preview.png")
    return summary


def _summary(demo: Demo, seconds: dict[str, float]) -> dict:
    """Per-class Dice on the test patients: nnU-Net's mean over cases, and pooled over all their voxels."""
    from nnunet_difflung.audit import audit_table
    os.environ.update({k: v for k, v in demo.environment().items() if k.startswith("nnUNet_")})
    names = {str(v): k for k, v in read_json(demo.path("nnUNet_raw") / NAME / "dataset.json")["labels"].items() if v}
    summary: dict = {}
    for arm in ARMS:
        scores = read_json(demo.folder / f"predictions_{arm}" / "summary.json")
        summary[arm] = {name: round(scores["mean"][key]["Dice"], 4) for key, name in names.items()}
        summary[f"{arm}_pooled"] = {name: round(pooled_dice(scores["metric_per_case"], key), 4)
                                    for key, name in names.items()}
    report = read_json(demo.path("nnUNet_results") / NAME / "DiffLung__cbmat" / "augment_report.json")
    return {**summary, "leaks": audit_table(NAME)["leaks"], "quality": report["folds"][0]["quality"],
            "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
            "test_cases": len(list((demo.path("nnUNet_raw") / NAME / "labelsTs").glob("*.nii.gz"))),
            "versions": versions()}


def _table(summary: dict) -> str:
    lines = ["", "Dice on test patients that no network has seen", f"{'':<14}{'mean over cases':^26}{'all voxels':^26}",
             f"{'class':<14}" + f"{'reference':>13}{'difflung':>13}" * 2]
    for name in summary["reference"]:
        row = [summary[arm][name] for arm in ("reference", "difflung", "reference_pooled", "difflung_pooled")]
        lines.append(f"{name:<14}" + "".join(f"{value:>13.3f}" for value in row))
    return "\n".join([*lines, f"leaks: {summary['leaks']}   seconds: {summary['seconds']['total']:.0f}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    p = argparse.ArgumentParser(prog="difflung_demo", description="Shows the whole chain on a chest phantom in about "
                                "ten minutes on two CPU cores: dataset, generator, synthetic cases, both nnU-Net "
                                "trainings, Dice on unseen patients. Interrupt it and run it again to go on.")
    p.add_argument("-o", default="demo", metavar="FOLDER", help="everything is written here (default: demo)")
    p.add_argument("--length", default="5epochs", choices=("1epoch", "5epochs", "20epochs"),
                   help="of both nnU-Net trainings, 250 iterations an epoch (default: 5epochs)")
    p.add_argument("--epochs", type=int, default=60, help="of the generator (default: 60)")
    p.add_argument("--size", type=int, default=64, help="pixels of the phantom (default: 64)")
    p.add_argument("--overwrite", action="store_true", help="begin anew")
    options = p.parse_args(arguments)
    folder = Path(options.o)
    if options.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    print(_table(run(Demo(folder, options.length, options.epochs, options.size))))
    print(f"{folder / 'summary.json'} holds the figures, {folder / 'preview.png'} shows real and synthetic CT.")
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
