"""Runs nnU-Net's own preprocessing on a tiny raw dataset, in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from tests.support import tiny_nnunet

INTENSITIES = {"mean": -700.0, "std": 250.0, "percentile_00_5": -1000.0, "percentile_99_5": 100.0}


def write_plans(raw: Path, preprocessed: Path, configurations: dict[str, dict], **plans) -> dict:
    """Writes ``nnUNetPlans.json``.

    Args:
        raw: folder of the raw dataset.
        preprocessed: its folder in nnUNet_preprocessed.
        configurations: name -> settings that differ from those of ``tiny_nnunet.plans``.
        plans: other entries of the plans.

    Returns:
        the content.
    """
    content = tiny_nnunet.plans() | {"dataset_name": raw.name} | plans
    usual = content["configurations"]["2d"]
    channels = len(json.loads((raw / "dataset.json").read_text())["channel_names"])
    several = {
        "normalization_schemes": ["CTNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
    }
    content["configurations"] = {
        name: usual | several | {"data_identifier": f"nnUNetPlans_{name}"} | settings
        for name, settings in configurations.items()
    }
    content["foreground_intensity_properties_per_channel"] = {str(c): INTENSITIES for c in range(channels)}
    preprocessed.mkdir(parents=True, exist_ok=True)
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(content))
    shutil.copy(raw / "dataset.json", preprocessed)
    return content


def preprocess(raw: Path, preprocessed: Path, *names: str) -> None:
    """Preprocesses all cases, or those named, of every configuration in ``nnUNetPlans.json``."""
    plans = PlansManager(str(preprocessed / "nnUNetPlans.json"))
    dataset_json = json.loads((raw / "dataset.json").read_text())
    cases = get_filenames_of_train_images_and_targets(str(raw), json.loads((raw / "dataset.json").read_text()))
    (preprocessed / "gt_segmentations").mkdir(exist_ok=True)
    for name in plans.available_configurations:
        configuration = plans.get_configuration(name)
        folder = preprocessed / configuration.data_identifier
        folder.mkdir(exist_ok=True)
        for identifier in names or cases:
            files = cases[identifier]
            for old in folder.glob(f"{identifier}*"):
                old.unlink()
            DefaultPreprocessor(verbose=False).run_case_save(
                str(folder / identifier), files["images"], files["label"], plans, configuration, dataset_json
            )
            shutil.copy(files["label"], preprocessed / "gt_segmentations")
