"""The arms and datasets of the bench."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from nnunet_difflung import trainers
from nnunet_difflung.demonstration.small_trainings import small_name
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import dataset_id


@dataclass(frozen=True)
class Arm:
    """One way to train on a fold.

    Attributes:
        trainer: name of the nnU-Net trainer, without a length.
        method: of ``difflung_augment``; empty for an arm without synthetic cases.
        options: further options of ``difflung_augment``.
        explanation: for the table.
        dose: ``DIFFLUNG_SYNTHETIC_SHARE`` of the training; empty: cases are drawn alike.
        schedule: ``DIFFLUNG_SYNTHETIC_SCHEDULE`` of the training; empty: constant.
        of_volumes: the arm differs from another only in volumes.
    """

    trainer: str
    method: str = ""
    options: tuple[str, ...] = ()
    explanation: str = ""
    dose: str = ""
    schedule: str = ""
    of_volumes: bool = False


@dataclass(frozen=True)
class Set:
    """A dataset of the bench.

    Attributes:
        dataset: ``DatasetXXX_NAME``, which is also the name of its converter.
        rare: label of the rare class.
        title: for the table and the picture.
        augment: options of ``difflung_augment`` for all arms, unless others are given.
        configuration: of nnU-Net, whose smaller variant is trained.
        convert: options of the converter that make the set what it is.
        batch: patches in a training step, unless another number is given.
        patch: size of the patches; empty: nnU-Net's.
        stages: resolutions of the network, which its patches must allow; None: nnU-Net's.
    """

    dataset: str
    rare: str
    title: str
    augment: str = "--preset fast"
    configuration: str = "2d"
    convert: tuple[str, ...] = ()
    batch: int = 12
    patch: tuple[int, ...] = ()
    stages: int | None = None

    @property
    def number(self) -> str:
        """nnU-Net's dataset id."""
        return str(dataset_id(self.dataset))

    @property
    def network(self) -> str:
        """The configuration that is trained."""
        return small_name(self.configuration)

    @property
    def arms(self) -> dict[str, Arm]:
        """The arms that differ from each other in this set."""
        return {name: arm for name, arm in ARMS.items() if self.configuration != "2d" or not arm.of_volumes}


_PLACEBO, _SELECTION, _DOSE = ("--placebo", "0.3"), ("--candidates", "4"), "0.25"
_COPIES, _DIFFLUNG, _CBMAT = (METHODS[name].trainer for name in ("copy_paste", "difflung", "cbmat"))

ARMS = {
    "reference": Arm("nnUNetTrainerDiffLungReference", explanation="real cases alone, this package's optimizer"),
    "oversampling": Arm(
        "nnUNetTrainerDiffLungOversampling",
        explanation="real cases alone, patches drawn by class, each class equally often",
    ),
    "copy_paste": Arm(_COPIES, "copy_paste", explanation="real lesions pasted into other real slices"),
    "difflung": Arm(_DIFFLUNG, "difflung", explanation="lesions painted by a network that sees their surroundings"),
    "difflung_slices": Arm(
        _DIFFLUNG, "difflung", ("--neighbours", "0"), "difflung, each slice painted by itself", of_volumes=True
    ),
    "difflung_box": Arm(
        _DIFFLUNG, "difflung", ("--box",), "difflung, synthetic cases cut to a box around the lesions", of_volumes=True
    ),
    "difflung_real_styles": Arm(
        _DIFFLUNG, "difflung", ("--styles", "real"), "difflung, each lesion with level and spread of a real one"
    ),
    "difflung_full": Arm(
        _DIFFLUNG,
        "difflung",
        _SELECTION + _PLACEBO,
        "difflung, the hardest of 4 candidates that a segmenter recognises, and 30 % placebo cases",
    ),
    "copy_paste_placebo": Arm(_COPIES, "copy_paste", _PLACEBO, "copy_paste, and 30 % placebo cases"),
    "copy_paste_dose": Arm(_COPIES, "copy_paste", explanation="copy_paste, a quarter of each batch", dose=_DOSE),
    "difflung_dose": Arm(_DIFFLUNG, "difflung", explanation="difflung, a quarter of each batch", dose=_DOSE),
    "difflung_falling": Arm(
        _DIFFLUNG,
        "difflung",
        explanation="difflung, a quarter of the patches, from half of each batch falling to none",
        dose=_DOSE,
        schedule="falling",
    ),
    "difflung_placebo": Arm(_DIFFLUNG, "difflung", _PLACEBO, "difflung, and 30 % placebo cases"),
    "difflung_placebo_dose": Arm(
        _DIFFLUNG, "difflung", _PLACEBO, "difflung with 30 % placebo cases, a quarter of each batch", _DOSE
    ),
    "difflung_selection": Arm(
        _DIFFLUNG, "difflung", _SELECTION, "difflung, the hardest of 4 candidates that a segmenter recognises"
    ),
    "cbmat": Arm(_CBMAT, "cbmat", explanation="the paper's diffusion model"),
    "cbmat_dose": Arm(_CBMAT, "cbmat", explanation="the paper's diffusion model, a quarter of each batch", dose=_DOSE),
    "mat": Arm("nnUNetTrainerDiffLungSegGuided", "mat", explanation="segmentation-guided diffusion"),
    "stock": Arm("nnUNetTrainer", explanation="nnU-Net as it is, as many iterations"),
}
DECISIVE = ("reference", "oversampling", "copy_paste", "difflung")

SETS = {
    "lidc": Set(
        "Dataset807_LIDCNodules",
        "ground_glass",
        "LIDC nodules",
        "--preset fast --patch-size 32 --epochs 10 --memorised off",
    ),  # 3100 slices in a fold: 2600 steps
    "medseg": Set("Dataset802_MedSegCOVID19Slices", "consolidation", "MedSeg COVID-19 slices"),
    "phantom": Set("Dataset800_ChestPhantom", "emphysema", "chest phantom"),
    "lidc_volumes": Set(
        "Dataset807_LIDCNodules",
        "ground_glass",
        "LIDC nodules as volumes",
        "--preset fast --patch-size 32 --epochs 4 --memorised off",
        "3d_fullres",
        ("--as", "volumes"),
        2,
    ),
    "phantom_volumes": Set(
        "Dataset800_ChestPhantom",
        "emphysema",
        "chest phantom as volumes",
        configuration="3d_fullres",
        convert=("--volumes", "--spacing", "2.5", "--test-patients", "0"),
        batch=2,
        patch=(16, 64, 64),
        stages=4,
    ),
}


def missing(name: str) -> str:
    """What this version lacks for an arm; empty if it lacks nothing."""
    arm = ARMS[name]
    if arm.method and arm.method not in METHODS:
        return f"--method {arm.method}"
    if arm.trainer != "nnUNetTrainer" and not hasattr(trainers, arm.trainer):
        return f"the trainer {arm.trainer}"
    known = importlib.import_module("nnunet_difflung.commands.augment").parser()._option_string_actions
    return next((word for word in arm.options if word.startswith("--") and word not in known), "")
