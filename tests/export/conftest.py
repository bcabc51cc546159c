"""Finished trainings of a tiny dataset, made once; each test has its own copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import nnunet_difflung
from nnunet_difflung.paths import PATH_VARIABLES
from tests.support.tiny import make_dataset, set_paths, write_fingerprint

DATASET = "Dataset801_Tiny"
SHIM = Path(nnunet_difflung.__file__).parent / "nnunet_ext"


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """nnU-Net's folders: fold 0 of nnUNetTrainerDiffLung, validated; folds 0 and 1 of two other trainers."""
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

    from nnunet_difflung.commands.augment import main
    from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
    from tests.support.commands import OPTIONS
    from tests.support.training import trained_briefly, two_iterations

    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        raw, preprocessed, _ = set_paths(home, patch)
        write_fingerprint(preprocessed)
        make_dataset(raw, patients=4, folds=2, emphysema_every=2, dataset_key=True, description="of Dr Who's ward")
        main([*OPTIONS, "-f", "0"])
        patch.setattr(module, "default_num_processes", 1)
        trained_briefly(open_raw_dataset("801"), "nnUNetTrainerDiffLung", patch).perform_actual_validation()
        for fold in (0, 1):
            two_iterations(DATASET, "nnUNetTrainerDiffLungReference_1epoch", fold)
        two_iterations(DATASET, "nnUNetTrainerDiffLungPoly")
        two_iterations(DATASET, "nnUNetTrainerDiffLungOversampling")
    return home


@pytest.fixture
def home(trained, tmp_path, monkeypatch) -> Path:
    """A copy of these folders, which nnU-Net's variables name."""
    home = tmp_path / "home"
    shutil.copytree(trained, home)
    for variable in PATH_VARIABLES:
        monkeypatch.setenv(variable, str(home / variable))
    monkeypatch.setenv("nnUNet_extTrainer", str(SHIM))
    return home
