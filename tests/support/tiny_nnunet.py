"""A preprocessed nnU-Net dataset of 32×32 slices and a network of a few thousand weights, made on the fly."""

from __future__ import annotations

import json
from pathlib import Path

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_difflung.injection.manifest import MANIFEST, new_manifest

NAME = "Dataset942_Tiny"
REAL = [f"patient{i}_s{j}" for i in range(3) for j in range(2)]
SPLITS = [{"train": REAL[2:], "val": REAL[:2]}, {"train": REAL[:4], "val": REAL[4:]}]
DATASET_JSON = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "lung": 1, "emphysema": 2},
    "numTraining": len(REAL),
    "file_ending": ".nii.gz",
}
SHAPE = (1, 1, 32, 32)


def plans() -> dict:
    """Plans of one 2d configuration, in the form that nnU-Net 2.8 reads."""
    resample = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 8, 8],
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3]] * 3,
            "strides": [[1, 1], [2, 2], [2, 2]],
            "n_conv_per_stage": [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "nnUNetPlans_2d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [32, 32],
        "median_image_size_in_voxels": [32.0, 32.0],
        "spacing": [1.0, 1.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resample,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resample, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resample, "order": 1},
        "architecture": architecture,
        "batch_dice": True,
    }
    return {
        "dataset_name": NAME,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [999, 1, 1],
        "original_median_shape_after_transp": [1, 32, 32],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
    }


def write_case(folder: Path, identifier: str, seed: int) -> None:
    """One preprocessed slice: a bright square of label 1 with a dark corner of label 2."""
    rng = np.random.default_rng(seed)
    y, x = rng.integers(2, 14, 2)
    seg = np.zeros(SHAPE, np.int8)
    seg[0, 0, y : y + 14, x : x + 14] = 1
    seg[0, 0, y : y + 5, x : x + 5] = 2
    data = (np.array([-1.0, 1.0, 0.0])[seg] + 0.3 * rng.normal(size=SHAPE)).astype(np.float32)
    locations = {label: np.argwhere(seg == label) for label in (1, 2)}
    nnUNetDatasetBlosc2.save_case(
        data,
        seg,
        {
            "class_locations": locations,
            "bbox_used_for_cropping": [[0, size] for size in SHAPE[1:]],
            "shape_after_cropping_and_before_resampling": SHAPE[1:],
        },
        str(folder / identifier),
        chunks=SHAPE,
        blocks=SHAPE,
        filters=[blosc2.Filter.NOFILTER],
        filters_seg=[blosc2.Filter.NOFILTER],
    )


def write_dataset(preprocessed: Path, synthetic: dict[str, dict]) -> None:
    """Fills ``preprocessed``/NAME with the real cases, ``synthetic`` ones and a manifest.

    As after an injection, each synthetic case is listed in its fold's training cases.

    Args:
        preprocessed: nnUNet_preprocessed.
        synthetic: id -> {"method", "fold", "sources"}.
    """
    base = preprocessed / NAME
    folder = base / "nnUNetPlans_2d"
    folder.mkdir(parents=True)
    for seed, identifier in enumerate([*REAL, *synthetic]):
        write_case(folder, identifier, seed)
    splits = [
        {
            "train": fold["train"] + [key for key, case in synthetic.items() if case["fold"] == number],
            "val": fold["val"],
        }
        for number, fold in enumerate(SPLITS)
    ]
    manifest = new_manifest(NAME, {identifier: identifier.split("_")[0] for identifier in REAL})
    manifest["cases"] = {key: {"files": [], **case} for key, case in synthetic.items()}
    manifest["runs"] = [
        {"method": method, "fold": fold}
        for method, fold in {(case["method"], case["fold"]) for case in synthetic.values()}
    ]
    for name, content in {
        "nnUNetPlans.json": plans(),
        "dataset.json": DATASET_JSON,
        "dataset_fingerprint.json": {},
        "splits_final.json": splits,
        MANIFEST: manifest,
    }.items():
        (base / name).write_text(json.dumps(content))
