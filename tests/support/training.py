"""nnU-Net's preprocessing and one epoch of two iterations of a trainer, for datasets that commands have augmented."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

import nnunet_difflung
from nnunet_difflung.dataset.raw_dataset import RawDataset
from tests.support.preprocessing import preprocess, write_plans


def trained_briefly(raw: RawDataset, name: str, monkeypatch: pytest.MonkeyPatch, fold: int = 0) -> nnUNetTrainer:
    """Preprocesses a dataset and trains on it, through nnU-Net's own functions, in this process.

    Args:
        raw: the dataset, augmented.
        name: of the trainer, which nnU-Net looks up.
        monkeypatch: of the test.
        fold: of the dataset.

    Returns:
        the trainer after its training.
    """
    monkeypatch.setenv("nnUNet_extTrainer", str(Path(nnunet_difflung.__file__).parent / "nnunet_ext"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)
    torch.set_num_threads(1)
    write_plans(raw.folder, raw.preprocessed, {"2d": {}})
    preprocess(raw.folder, raw.preprocessed)
    return two_iterations(raw.name, name, fold)


def two_iterations(dataset: str, name: str, fold: int | str = 0) -> nnUNetTrainer:
    """Trains on a preprocessed dataset, as ``trained_briefly`` does."""
    trainer = get_trainer_from_args(dataset, "2d", fold, name, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
    trainer.plot_network_architecture = lambda: None
    trainer.run_training()
    return trainer
