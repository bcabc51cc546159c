"""What of a training's files is exported: what nnU-Net reads when it predicts, and nothing of cases or patients."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_difflung.errors import BadInput

TRAINER = nnUNetTrainer.__name__  # what an exported checkpoint calls its trainer
_DATASET = (
    "channel_names",
    "modality",  # what earlier versions of nnU-Net call the channel names
    "labels",
    "regions_class_order",
    "overwrite_image_reader_writer",
    "file_ending",
)
_PLANS = (
    "dataset_name",
    "plans_name",
    "original_median_spacing_after_transp",
    "original_median_shape_after_transp",
    "image_reader_writer",
    "transpose_forward",
    "transpose_backward",
    "configurations",
    "experiment_planner_used",
    "label_manager",
    "foreground_intensity_properties_per_channel",
    "foreground_intensity_properties_by_modality",  # as earlier versions of nnU-Net call them
)


def exported_dataset(content: Mapping[str, Any]) -> dict[str, Any]:
    """Channels, labels and file ending of a ``dataset.json``; without lists of cases and whatever else is in it."""
    return {key: content[key] for key in _DATASET if key in content}


def exported_plans(content: Mapping[str, Any]) -> dict[str, Any]:
    """nnU-Net's own entries of its plans."""
    return {key: content[key] for key in _PLANS if key in content}


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the part of a checkpoint that prediction and ``-pretrained_weights`` read, as of nnU-Net's own trainer.

    The optimizer's state is left out: that of Lookahead is of use to this package's trainers alone. So are the losses
    of the epochs, and the arguments of the trainer with the ids of its cases. The file holds tensors, text and numbers
    only (``torch.load`` reads it with ``weights_only=True``).
    """
    axes = content.get("inference_allowed_mirroring_axes")
    kept = {
        "network_weights": content["network_weights"],
        "init_args": {key: content["init_args"][key] for key in ("configuration", "fold")},
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": None if axes is None else tuple(int(axis) for axis in axes),
    }
    torch.save(kept, path)


def check_trainer(name: str) -> None:
    """Refuses a trainer whose network is not the one that nnU-Net's own trainer builds from the plans.

    Raises:
        BadInput: it builds another one, or nnU-Net does not find the trainer.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise BadInput(
            f"nnU-Net finds no trainer {name}, so its network cannot be checked; unset nnUNet_extTrainer if you have "
            f"set it, or correct the name"
        ) from error
    if trainer.build_network_architecture is not nnUNetTrainer.build_network_architecture:
        raise BadInput(
            f"{name} builds a network of its own ({trainer.__module__}), which plain nnU-Net cannot build; send the "
            f"trainer's code with nnUNetv2_export_model_to_zip's file instead"
        )


def check_predicts(folder: Path, folds: tuple[int | str, ...], checkpoint: str) -> None:
    """Has nnU-Net's predictor read an exported model, and puts the weights of each fold into the network.

    Args:
        folder: of the model.
        folds: numbers or ``all``.
        checkpoint: name of the file in each fold's folder.

    Raises:
        BadInput: weights do not belong to the network that the plans describe.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(device=torch.device("cpu"))
        for fold in folds:
            try:
                predictor.initialize_from_trained_model_folder(str(folder), (fold,), checkpoint)
            except RuntimeError as error:
                raise BadInput(
                    f"the weights in {checkpoint} of fold {fold} do not fit the network that {folder.name}'s plans "
                    f"describe ({str(error).splitlines()[0]}); restore plans.json of this training"
                ) from error
