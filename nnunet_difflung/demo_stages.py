"""The stages of the demo, each the command that a user would type."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.command_line import Failed
from nnunet_difflung.small_trainings import CONFIGURATION, installed, make_small_configuration, shown, side_by_side

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
        augment = ["difflung_augment", "-d", str(DATASET), "-f", str(FOLD), "--preset", "fast", "-device", "cpu",
                   "--epochs", str(self.epochs), "--target-share", "emphysema=0.1", "--max-synthetic", "72"]
        plan = ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET), "-c", "2d", "-np", "2"]
        return [("phantom", lambda: self.call([sys.executable, "-m", f"nnunet_difflung.dataset_conversion.{NAME}",
                                               "--size", str(self.size), "--overwrite"])),
                ("augment", lambda: self.call(augment)),
                ("plan", lambda: (self.call(plan), make_small_configuration(self.plans))),
                ("train", lambda: self.both(self.train_command)),
                ("predict", lambda: [self.call(self.predict_command(arm)) for arm in ARMS]),
                ("evaluate", lambda: [self.call(self.evaluate_command(arm)) for arm in ARMS]),
                ("audit", lambda: self.call(["difflung_audit", "-d", str(DATASET)]))]

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
        return ["nnUNetv2_train", str(DATASET), CONFIGURATION, str(FOLD), "-tr", self.trainer(arm), "-device", "cpu",
                *resume]

    def predict_command(self, arm: str) -> list[str]:
        """Prediction of the test patients, whom no network has seen."""
        return ["nnUNetv2_predict", "-i", str(self.path("nnUNet_raw") / NAME / "imagesTs"), "-o",
                str(self.folder / f"predictions_{arm}"), "-d", str(DATASET), "-c", CONFIGURATION, "-f", str(FOLD),
                "-tr", self.trainer(arm), "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta"]

    def evaluate_command(self, arm: str) -> list[str]:
        """nnU-Net's own evaluation."""
        return ["nnUNetv2_evaluate_folder", str(self.path("nnUNet_raw") / NAME / "labelsTs"),
                str(self.folder / f"predictions_{arm}"), "-np", "1",
                "-djfile", str(self.path("nnUNet_raw") / NAME / "dataset.json"),
                "-pfile", str(self.plans)]
