"""``difflung_demo``: the whole product on a chest phantom, through the real commands, on a laptop.

Each stage is one of the commands that a user would type; only the U-Net is made smaller than nnU-Net's plan for it, as
a configuration ``2d_demo`` in the plans file, so that both arms train in minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.commands.small_trainings import (
    CONFIGURATION,
    installed,
    make_small_configuration,
    pooled_dice,
    shown,
    side_by_side,
)
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.environment import versions
from nnunet_difflung.runtime.files import copy_file, read_json, write_json

DATASET, NAME, FOLD = 800, "Dataset800_ChestPhantom", 0
ARMS = {"reference": "nnUNetTrainerDiffLungReference", "difflung": "nnUNetTrainerDiffLung"}


@dataclass(frozen=True)
class Demo:
    """A demonstration in a folder.

    Attributes:
        folder: everything is kept here; a second run goes on after the last finished stage.
        length: suffix of nnU-Net's trainer variants, such as ``5epochs``.
        epochs: of the generator.
        size: pixels of the phantom's slices.
    """

    folder: Path
    length: str = "5epochs"
    epochs: int = 60
    size: int = 64

    def path(self, variable: str) -> Path:
        """One of nnU-Net's three folders."""
        return self.folder / variable

    @property
    def plans(self) -> Path:
        """nnU-Net's plans file."""
        return self.path("nnUNet_preprocessed") / NAME / "nnUNetPlans.json"

    def environment(self) -> dict[str, str]:
        """Variables of the commands: nnU-Net's folders, and few worker processes."""
        paths = {v: str(self.path(v).resolve()) for v in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        return os.environ | paths | {"nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}

    def stages(self) -> list[tuple[str, Callable[[], None]]]:
        """Name and work of each stage, in order."""
        augment = [
            "difflung_augment",
            "-d",
            str(DATASET),
            "-f",
            str(FOLD),
            "--preset",
            "fast",
            "-device",
            "cpu",
            "--epochs",
            str(self.epochs),
            "--target-share",
            "emphysema=0.1",
            "--max-synthetic",
            "72",
        ]
        plan = ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET), "-c", "2d", "-np", "2"]
        return [
            (
                "phantom",
                lambda: self.call(
                    [
                        sys.executable,
                        "-m",
                        f"nnunet_difflung.dataset_conversion.{NAME}",
                        "--size",
                        str(self.size),
                        "--overwrite",
                    ]
                ),
            ),
            ("augment", lambda: self.call(augment)),
            ("plan", lambda: (self.call(plan), make_small_configuration(self.plans))),
            ("train", lambda: self.both(self.train_command)),
            ("predict", lambda: [self.call(self.predict_command(arm)) for arm in ARMS]),
            ("evaluate", lambda: [self.call(self.evaluate_command(arm)) for arm in ARMS]),
            ("audit", lambda: self.call(["difflung_audit", "-d", str(DATASET)])),
        ]

    def call(self, arguments: list[str]) -> None:
        """Runs a command in the foreground and shows it."""
        print(f"\n$ {shown(arguments)}", flush=True)
        if subprocess.run(installed(arguments), env=self.environment()).returncode:
            raise Failed(f"{shown(arguments)} failed; its message is above")

    def both(self, command_of: Callable[[str], list[str]]) -> None:
        """Runs a command for both arms side by side."""
        commands = {arm: command_of(arm) for arm in ARMS}
        side_by_side({self.folder / f"{c[0]}_{arm}.log": c for arm, c in commands.items()}, self.environment())

    def trainer(self, arm: str) -> str:
        """Name of an arm's trainer."""
        return f"{ARMS[arm]}_{self.length}"

    def train_command(self, arm: str) -> list[str]:
        """nnU-Net's training of an arm, going on where an interrupted one stopped."""
        results = self.path("nnUNet_results") / NAME / f"{self.trainer(arm)}__nnUNetPlans__{CONFIGURATION}"
        resume = ["--c"] * any((results / f"fold_{FOLD}").glob("checkpoint_*.pth"))
        return [
            "nnUNetv2_train",
            str(DATASET),
            CONFIGURATION,
            str(FOLD),
            "-tr",
            self.trainer(arm),
            "-device",
            "cpu",
            *resume,
        ]

    def predict_command(self, arm: str) -> list[str]:
        """Prediction of the test patients, whom no network has seen."""
        return [
            "nnUNetv2_predict",
            "-i",
            str(self.path("nnUNet_raw") / NAME / "imagesTs"),
            "-o",
            str(self.folder / f"predictions_{arm}"),
            "-d",
            str(DATASET),
            "-c",
            CONFIGURATION,
            "-f",
            str(FOLD),
            "-tr",
            self.trainer(arm),
            "-device",
            "cpu",
            "-npp",
            "1",
            "-nps",
            "1",
            "--disable_tta",
        ]

    def evaluate_command(self, arm: str) -> list[str]:
        """nnU-Net's own evaluation."""
        return [
            "nnUNetv2_evaluate_folder",
            str(self.path("nnUNet_raw") / NAME / "labelsTs"),
            str(self.folder / f"predictions_{arm}"),
            "-np",
            "1",
            "-djfile",
            str(self.path("nnUNet_raw") / NAME / "dataset.json"),
            "-pfile",
            str(self.plans),
        ]


def run(demo: Demo) -> dict:
    """Runs the stages that are not done yet, and writes ``summary.json`` and ``preview.png``."""
    demo.folder.mkdir(parents=True, exist_ok=True)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        demo.path(variable).mkdir(exist_ok=True)
    progress = demo.folder / "progress.json"
    options = {"length": demo.length, "epochs": demo.epochs, "size": demo.size}
    known = read_json(progress) if progress.is_file() else {"options": options, "seconds": {}}
    if known["options"] != options:
        raise BadInput(
            f"{demo.folder} holds a demo with {known['options']}; begin anew with --overwrite, or choose "
            f"another folder with -o"
        )
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
    from nnunet_difflung.injection.audit import audit_table

    os.environ.update({k: v for k, v in demo.environment().items() if k.startswith("nnUNet_")})
    names = {str(v): k for k, v in read_json(demo.path("nnUNet_raw") / NAME / "dataset.json")["labels"].items() if v}
    summary: dict = {}
    for arm in ARMS:
        scores = read_json(demo.folder / f"predictions_{arm}" / "summary.json")
        summary[arm] = {name: round(scores["mean"][key]["Dice"], 4) for key, name in names.items()}
        summary[f"{arm}_pooled"] = {
            name: round(pooled_dice(scores["metric_per_case"], key), 4) for key, name in names.items()
        }
    report = read_json(demo.path("nnUNet_results") / NAME / "DiffLung__cbmat" / "augment_report.json")
    return {
        **summary,
        "leaks": audit_table(NAME)["leaks"],
        "quality": report["folds"][0]["quality"],
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "test_cases": len(list((demo.path("nnUNet_raw") / NAME / "labelsTs").glob("*.nii.gz"))),
        "versions": versions(),
    }


def _table(summary: dict) -> str:
    lines = [
        "",
        "Dice on test patients that no network has seen",
        f"{'':<14}{'mean over cases':^26}{'all voxels':^26}",
        f"{'class':<14}" + f"{'reference':>13}{'difflung':>13}" * 2,
    ]
    for name in summary["reference"]:
        row = [summary[arm][name] for arm in ("reference", "difflung", "reference_pooled", "difflung_pooled")]
        lines.append(f"{name:<14}" + "".join(f"{value:>13.3f}" for value in row))
    return "\n".join([*lines, f"leaks: {summary['leaks']}   seconds: {summary['seconds']['total']:.0f}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    p = argparse.ArgumentParser(
        prog="difflung_demo",
        description="Shows the whole chain on a chest phantom in about "
        "ten minutes on two CPU cores: dataset, generator, synthetic cases, both nnU-Net "
        "trainings, Dice on unseen patients. Interrupt it and run it again to go on.",
    )
    p.add_argument("-o", default="demo", metavar="FOLDER", help="everything is written here (default: demo)")
    p.add_argument(
        "--length",
        default="5epochs",
        choices=("1epoch", "5epochs", "20epochs"),
        help="of both nnU-Net trainings, 250 iterations an epoch (default: 5epochs)",
    )
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
