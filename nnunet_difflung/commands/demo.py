"""``difflung_demo``: the whole chain on a chest phantom, small enough for a laptop.

The stages run the commands that a user would type. Only the U-Net is smaller than in nnU-Net's plans: it is added to
the plans file as configuration ``2d_demo``, so that both arms train in minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_difflung.commands import options as shared
from nnunet_difflung.commands.options import positive
from nnunet_difflung.commands.small_trainings import (
    CONFIGURATION,
    how_it_ended,
    installed,
    make_small_configuration,
    pooled_dice,
    shown,
    side_by_side,
)
from nnunet_difflung.config import METHOD
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import (
    NNUNET_PREPROCESSED,
    NNUNET_RAW,
    NNUNET_RESULTS,
    PATH_VARIABLES,
    fold_name,
    method_name,
)
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.environment import versions
from nnunet_difflung.runtime.files import copy_file, read_json, write_json
from nnunet_difflung.runtime.messages import open_log, quiet, report, say, stage

DATASET, NAME, FOLD = 800, "Dataset800_ChestPhantom", 0
ARMS = {"reference": "nnUNetTrainerDiffLungReference", "difflung": METHODS[METHOD].trainer}
FORMS = ("severe", "moderate")  # of emphysema, those that differ most from normal lung
CROP, CROPS_IN_BATCH, STAGES = 64, 10, 5  # of the small U-Net: pixels, number, resolutions
STEPS_OF_CROP = 2 ** (STAGES - 1)  # what a crop has to be a multiple of
_PROGRESS, _OUTPUT = "progress.json", "commands_quiet.log"
PREVIEW, REPORT = "preview.png", "report.html"
_OWN = re.compile(  # what lies in the folder of a demo
    rf"{'|'.join(PATH_VARIABLES)}|predictions_({'|'.join(ARMS)})|\w+_({'|'.join(ARMS)})\.log|commands_quiet\.log|"
    rf"difflung_demo_[\d_-]+\.log|(progress|summary)\.json|preview\.png|report\.html|\.writing_.*"
)
_OF_PHANTOM = re.compile(rf"\.?{NAME}(\..*)?")  # the dataset of a demo, and what its converter writes beside it


_DESCRIPTION = """
Shows the whole chain on a synthetic chest phantom, in 10 to 35 minutes on two CPU cores: makes the dataset, trains the
generator, adds synthetic cases, trains nnU-Net without and with them, and reports Dice on unseen patients. The command
can be interrupted at any time; run it again to resume.
"""
_EXAMPLE = "difflung_demo -o demo"


@dataclass(frozen=True)
class Demo:
    """A demonstration in a folder.

    Attributes:
        folder: folder of all files; another run resumes after the last finished stage.
        length: suffix of nnU-Net's trainer variants, such as ``5epochs``.
        epochs: epochs of the generator's training.
        size: edge of the phantom's slices in pixels.
    """

    folder: Path
    length: str = "5epochs"
    epochs: int = 60
    size: int = 288

    def path(self, variable: str) -> Path:
        """Path of one of nnU-Net's three folders."""
        return self.folder / variable

    @property
    def plans(self) -> Path:
        """Path of nnU-Net's plans file."""
        return self.path(NNUNET_PREPROCESSED) / NAME / "nnUNetPlans.json"

    def augmented(self) -> Path:
        """Folder of what difflung_augment reports; of the method of the cases, which differs in earlier versions."""
        from nnunet_difflung.injection.manifest import MANIFEST

        run = read_json(self.path(NNUNET_RAW) / NAME / MANIFEST)["runs"][0]
        return self.path(NNUNET_RESULTS) / NAME / method_name(run["method"])

    def environment(self) -> dict[str, str]:
        """Environment of the commands: nnU-Net's folders, few processes, threads that sleep while they wait."""
        paths = {variable: str(self.path(variable).resolve()) for variable in PATH_VARIABLES}
        patient = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin while they wait are slow beside any other program
        return patient | os.environ | paths | {"nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}

    def stages(self) -> list[tuple[str, Callable[[], None]]]:
        """Name and function of each stage, in order."""
        return [
            ("phantom", self.make_phantom),
            ("augment", self.add_cases),
            ("plan", self.make_plans),
            ("train", lambda: self.both(self.train_command)),
            ("predict", lambda: self.one_by_one(self.predict_command)),
            ("evaluate", lambda: self.one_by_one(self.evaluate_command)),
            ("audit", lambda: self.call(["difflung_audit", "-d", str(DATASET)])),
        ]

    def make_phantom(self) -> None:
        """Writes the dataset."""
        module = f"nnunet_difflung.dataset_conversion.{NAME}"
        self.call([sys.executable, "-m", module, "--size", str(self.size), "--forms", *FORMS, "--overwrite"])

    def add_cases(self) -> None:
        """Trains the generator and adds the synthetic cases."""
        self.call(
            [
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
        )

    def make_plans(self) -> None:
        """Plans and preprocesses the dataset, and adds the small U-Net to the plans."""
        self.call(["nnUNetv2_plan_and_preprocess", "-d", str(DATASET), "-c", "2d", "-np", "2"])
        crop = min(CROP, self.size // STEPS_OF_CROP * STEPS_OF_CROP)
        make_small_configuration(
            self.plans, convolutions=1, stages=STAGES, patch_size=[crop, crop], batch_size=CROPS_IN_BATCH
        )

    def call(self, arguments: list[str]) -> None:
        """Prints and runs a command, and waits for it."""
        say(f"\n$ {shown(arguments)}")
        with open(self.folder / _OUTPUT, "a", encoding="utf-8") if quiet() else nullcontext() as file:
            done = subprocess.run(installed(arguments), env=self.environment(), stdout=file, stderr=file)
        if done.returncode:
            place = f"its message is {f'in {file.name}' if file else 'above'}"
            raise Failed(how_it_ended(shown(arguments), done.returncode, place))

    def one_by_one(self, command_of: Callable[[str], list[str]]) -> None:
        """Runs a command for the arms one after the other."""
        for arm in ARMS:
            self.call(command_of(arm))

    def both(self, command_of: Callable[[str], list[str]]) -> None:
        """Runs a command for both arms at the same time."""
        commands = {arm: command_of(arm) for arm in ARMS}
        side_by_side({self.folder / f"{c[0]}_{arm}.log": c for arm, c in commands.items()}, self.environment())

    def trainer(self, arm: str) -> str:
        """Name of an arm's trainer."""
        return f"{ARMS[arm]}_{self.length}"

    def train_command(self, arm: str) -> list[str]:
        """The command that trains an arm, or resumes its training."""
        model = self.path(NNUNET_RESULTS) / NAME / f"{self.trainer(arm)}__nnUNetPlans__{CONFIGURATION}"
        begun = any((model / fold_name(FOLD)).glob("checkpoint_*.pth"))
        return [
            "nnUNetv2_train",
            str(DATASET),
            CONFIGURATION,
            str(FOLD),
            "-tr",
            self.trainer(arm),
            "-device",
            "cpu",
            *(["--c"] if begun else []),
        ]

    def predict_command(self, arm: str) -> list[str]:
        """The command that predicts the test patients, which no network has seen."""
        return [
            "nnUNetv2_predict",
            "-i",
            str(self.path(NNUNET_RAW) / NAME / "imagesTs"),
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
        """The command of nnU-Net's own evaluation."""
        return [
            "nnUNetv2_evaluate_folder",
            str(self.path(NNUNET_RAW) / NAME / "labelsTs"),
            str(self.folder / f"predictions_{arm}"),
            "-np",
            "1",
            "-djfile",
            str(self.path(NNUNET_RAW) / NAME / "dataset.json"),
            "-pfile",
            str(self.plans),
        ]


def run(demo: Demo) -> dict:
    """Runs the stages that are not finished yet, and writes ``summary.json``, ``preview.png`` and ``report.html``."""
    _check_place(demo)
    demo.folder.mkdir(parents=True, exist_ok=True)
    for variable in PATH_VARIABLES:
        demo.path(variable).mkdir(exist_ok=True)
    progress = demo.folder / _PROGRESS
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
            begun = time.monotonic()
            stage(name)
            work()
            seconds[name] = round(time.monotonic() - begun, 1)
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
    lines.append("one training of each arm, which does not show how much trainings vary")
    return "\n".join([*lines, f"leaks: {summary['leaks']}   seconds: {summary['seconds']['total']:.0f}"])


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    p = shared.command_parser("difflung_demo", _DESCRIPTION, _EXAMPLE)
    group = p.add_argument_group("run")
    group.add_argument(
        "-o",
        dest="folder",
        type=Path,
        default=Path("demo"),
        metavar="FOLDER",
        help="folder for everything that the demo writes (default: %(default)s)",
    )
    group.add_argument(
        "--length",
        default="5epochs",
        choices=("1epoch", "5epochs", "20epochs"),
        help="length of both nnU-Net trainings, with 250 iterations an epoch (default: %(default)s)",
    )
    group.add_argument(
        "--epochs",
        type=positive,
        default=60,
        metavar="N",
        help="epochs of the generator's training (default: %(default)s)",
    )
    group.add_argument(
        "--size",
        type=positive,
        default=288,
        metavar="PIXELS",
        help="edge of the phantom's slices of 360 mm (default: %(default)s, 1.25 mm pixels)",
    )
    group.add_argument("--overwrite", action="store_true", help="delete FOLDER first and start over")
    return p


def _check_place(demo: Demo) -> None:
    """Refuses to begin a demo in folders of nnU-Net that hold a user's datasets; writes nothing.

    Raises:
        BadInput: names the folder that no demo has made.
    """
    if (demo.folder / _PROGRESS).is_file():
        return
    for place in map(demo.path, PATH_VARIABLES):
        if place.is_symlink() or (place.is_dir() and any(place.iterdir())):
            raise BadInput(
                f"{place} is not the folder of a demo, so no demo is written there; choose another folder with -o"
            )


def _foreign(folder: Path) -> list[str]:
    """Names in a demo's folder, and in nnU-Net's folders in it, that no demo writes; sorted."""
    names = [path.name for path in folder.iterdir() if not _OWN.fullmatch(path.name)]
    for place in (folder / variable for variable in PATH_VARIABLES):
        if place.is_dir() and not place.is_symlink():
            names += [f"{place.name}/{path.name}" for path in place.iterdir() if not _OF_PHANTOM.fullmatch(path.name)]
    return sorted(names)


def _delete_demo(folder: Path) -> None:
    """Deletes a demo of an earlier command; never a folder that holds anything else.

    Raises:
        BadInput: the folder is a link, or holds no demo, or files beside it.
    """
    if not os.path.lexists(folder):
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    foreign = _foreign(folder) if is_folder else []
    if not is_folder or foreign or (any(folder.iterdir()) and not (folder / _PROGRESS).is_file()):
        raise BadInput(
            f"-o {folder} does not hold a demo and nothing else{f' (it holds {foreign[0]})' if foreign else ''}, so "
            f"--overwrite does not delete it; choose another folder with -o"
        )
    shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parser().parse_args(arguments)
    folder = options.folder
    if options.overwrite:
        _delete_demo(folder)
    summary = run(Demo(folder, options.length, options.epochs, options.size))
    report(folder=folder, summary=summary)
    say(_table(summary))
    say(f"{folder / 'summary.json'} holds the figures, {folder / PREVIEW} shows real and synthetic CT.")
    say(f"Open {folder / REPORT} in a browser: what difflung_augment did, with pictures.")
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
