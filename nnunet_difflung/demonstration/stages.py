"""The stages of the demo: commands that a user would type.

Only the U-Net is smaller than in nnU-Net's plans: it is added to the plans file as configuration ``2d_demo``, so that
both arms train in minutes on two CPU cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.config import METHOD
from nnunet_difflung.demonstration.small_trainings import (
    CONFIGURATION,
    how_it_ended,
    installed,
    make_small_configuration,
    shown,
    side_by_side,
)
from nnunet_difflung.errors import Failed
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import (
    NNUNET_PREPROCESSED,
    NNUNET_RAW,
    NNUNET_RESULTS,
    PATH_VARIABLES,
    fold_name,
    method_name,
)
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.messages import quiet, say

DATASET, NAME, FOLD = 800, "Dataset800_ChestPhantom", 0
ARMS = {"reference": "nnUNetTrainerDiffLungReference", "difflung": METHODS[METHOD].trainer}
FORMS = ("severe", "moderate")  # of emphysema, those that differ most from normal lung
CROP, CROPS_IN_BATCH, STAGES = 64, 10, 5  # of the small U-Net: pixels, number, resolutions
STEPS_OF_CROP = 2 ** (STAGES - 1)  # what a crop has to be a multiple of
OUTPUT = "commands_quiet.log"


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
        with open(self.folder / OUTPUT, "a", encoding="utf-8") if quiet() else nullcontext() as file:
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
