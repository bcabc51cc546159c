"""The commands to run after ``difflung_augment``."""

from __future__ import annotations

from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import dataset_id
from nnunet_difflung.runtime.wording import quoted


def next_commands(raw: RawDataset, configuration: str, method: str, folds: list[int | str], device: str) -> str:
    """nnU-Net's commands that use the synthetic cases."""
    dataset, fold = dataset_id(raw.name), folds[0]
    on = "" if device == "cuda" else f" -device {device}"
    trainer = METHODS[method].trainer
    images, labels = (
        quoted(raw.folder / part) if (raw.folder / part).is_dir() else instead
        for part, instead in (("imagesTs", "IMAGES"), ("labelsTs", "LABELS"))
    )
    configuration = quoted(configuration)
    model = f"-d {dataset} -c {configuration} -f {fold} -tr {trainer}{on}"
    return "\n".join(
        [
            "Next:",
            f"  nnUNetv2_plan_and_preprocess -d {dataset} -c {configuration}",
            f"  nnUNetv2_train {dataset} {configuration} {fold} -tr {trainer}{on}",
            f"  nnUNetv2_train {dataset} {configuration} {fold} -tr nnUNetTrainerDiffLungReference{on}",
            f"  nnUNetv2_predict -i {images} -o PREDICTIONS {model}",
            f"  nnUNetv2_evaluate_folder {labels} PREDICTIONS -djfile {quoted(raw.folder / 'dataset.json')} "
            f"-pfile {quoted(raw.preprocessed / 'nnUNetPlans.json')}",
            f"Undo: difflung_remove -d {dataset}",
        ]
    )
