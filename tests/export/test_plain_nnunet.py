"""An exported model in nnU-Net without this package: the same predictions, and a start for trainings."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, predict_entry_point

from nnunet_difflung.commands.export import main
from nnunet_difflung.paths import PATH_VARIABLES
from tests.export.conftest import DATASET, SHIM
from tests.support.plain_nnunet import INSTALL, PREDICT, calling, without_package

TRAINER = "nnUNetTrainerDiffLung"
OPTIONS = ["--save_probabilities", "-device", "cpu", "-npp", "0", "-nps", "0", "--disable_progress_bar"]
FROM_FOLDER = """
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder({model!r}, None)
    predictor.predict_from_files_sequential({images!r}, {out!r}, save_probabilities=True)
"""
TRAIN = """
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
    from nnunetv2.training.logging.nnunet_logger import LocalLogger
    LocalLogger.plot_progress_png = lambda *_: None
    trainer = get_trainer_from_args("801", "2d", 0, "nnUNetTrainer", device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 3, 1
    trainer.plot_network_architecture = lambda: None
    maybe_load_checkpoint(trainer, False, False, {weights!r})
    exported = torch.load({weights!r}, weights_only=True)["network_weights"]
    state = trainer.network.state_dict()
    loaded = {{key: value.clone() for key, value in state.items() if ".seg_layers." not in key}}
    assert loaded and all(torch.equal(value, exported[key]) for key, value in loaded.items())
    trainer.run_training()
    assert any(not torch.equal(trainer.network.state_dict()[key], value) for key, value in loaded.items())
    print("went on with", type(trainer).__name__)
"""


@pytest.fixture(scope="module")
def elsewhere(trained, tmp_path_factory) -> dict[str, Path | str]:
    """What a process without this package made of an exported zip file and folder, beside the original's predictions.

    Returns:
        folders of predictions ``original``, ``zip`` and ``folder``; ``said``: the process's output.
    """
    here, other = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("other")
    images, threads = here / "images", torch.get_num_threads()
    images.mkdir()
    for name in ("lung_001_s00", "lung_003_s01"):  # validation patients of fold 0
        shutil.copy(trained / "nnUNet_raw" / DATASET / "imagesTr" / f"{name}_0000.nii.gz", images)
    predict = ["-i", images, "-d", DATASET, "-c", "2d", "-f", "0", "-tr", TRAINER, *OPTIONS]
    with pytest.MonkeyPatch.context() as patch:
        for variable in PATH_VARIABLES:
            patch.setenv(variable, str(trained / variable))
        patch.setenv("nnUNet_extTrainer", str(SHIM))
        for out in ("model.zip", "model"):
            assert main(["-d", "801", "-f", "0", "-o", str(here / out)]) == 0
        patch.setattr(sys, "argv", ["nnUNetv2_predict", "-o", *map(str, [here / "predictions", *predict])])
        predict_entry_point()  # uses all cores, as it does in the other process
        torch.set_num_threads(threads)
    results, weights = other / "results", here / "model" / "fold_0" / "checkpoint_final.pth"
    results.mkdir()
    (other / "of_folder").mkdir()  # unlike its commands, nnU-Net's function does not make it
    code = (
        calling(INSTALL, [here / "model.zip"])
        + calling(PREDICT, ["-o", other / "of_zip", *predict])
        + FROM_FOLDER.format(model=str(here / "model"), images=str(images), out=str(other / "of_folder"))
        + TRAIN.format(weights=str(weights))
    )
    preprocessed = other / "preprocessed"
    shutil.copytree(trained / "nnUNet_preprocessed", preprocessed)
    said = without_package(
        other, code, nnUNet_results=str(results), nnUNet_preprocessed=str(preprocessed), nnUNet_raw=""
    )
    return {
        "original": here / "predictions",
        "zip": other / "of_zip",
        "folder": other / "of_folder",
        "said": said,
    }


def predictions(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Case → segmentation and probabilities."""
    return {
        path.name: (
            sitk.GetArrayFromImage(sitk.ReadImage(str(path))),
            np.load(path.with_name(path.name.replace(".nii.gz", ".npz")))["probabilities"],
        )
        for path in sorted(folder.glob("*.nii.gz"))
    }


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_plain_nnunet_predicts_bit_for_bit_the_same(elsewhere, kind):
    expected, of_export = predictions(elsewhere["original"]), predictions(elsewhere[kind])
    assert list(of_export) == list(expected)
    assert len(expected) == 2
    for name, arrays in expected.items():
        for array, other in zip(arrays, of_export[name], strict=True):
            assert array.std() > 0
            assert (array.dtype, array.tobytes()) == (other.dtype, other.tobytes())


def test_nnunets_own_trainer_goes_on_from_the_weights(elsewhere):
    assert "went on with nnUNetTrainer\n" in elsewhere["said"]


@pytest.mark.parametrize(
    ("trainer", "folds"),
    [
        ("nnUNetTrainerDiffLungReference_1epoch", (0, 1)),
        ("nnUNetTrainerDiffLungPoly", (0,)),
        ("nnUNetTrainerDiffLungOversampling", (0,)),
    ],
)
def test_the_other_trainers_models_compute_the_same(home, tmp_path, trainer, folds):
    main(["-d", "801", "-f", *map(str, folds), "-tr", trainer, "-o", str(tmp_path / "model")])
    of_export, expected = (
        _logits(folder, folds)
        for folder in (tmp_path / "model", home / "nnUNet_results" / DATASET / f"{trainer}__nnUNetPlans__2d")
    )
    assert of_export[0] == "nnUNetTrainer"
    assert expected[0] == trainer
    assert of_export[1].numpy().tobytes() == expected[1].numpy().tobytes()


def _logits(model: Path, folds: tuple[int, ...]) -> tuple[str, torch.Tensor]:
    """The trainer that a model's checkpoints name, and what the model says of noise."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    noise = torch.randn((1, 1, 40, 40), generator=torch.Generator().manual_seed(0))
    return predictor.trainer_name, predictor.predict_logits_from_preprocessed_data(noise)
