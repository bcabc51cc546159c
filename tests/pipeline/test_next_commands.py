"""The commands that ``difflung_augment`` prints at its end."""

from __future__ import annotations

import pytest

from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.pipeline.report import next_commands
from tests.support.tiny import make_dataset, set_paths


@pytest.mark.parametrize("test_set", [False, True])
def test_only_folders_that_exist_are_named(tmp_path, monkeypatch, test_set):
    folder = make_dataset(set_paths(tmp_path, monkeypatch)[0], patients=2, slices=1, folds=2)
    if test_set:
        for part in ("imagesTs", "labelsTs"):
            (folder / part).mkdir()
    said = next_commands(open_raw_dataset(folder.name), "2d", "cbmat", [0], "cpu")
    images, labels = (folder / "imagesTs", folder / "labelsTs") if test_set else ("IMAGES", "LABELS")
    assert f"nnUNetv2_predict -i {images} -o PREDICTIONS" in said
    assert f"nnUNetv2_evaluate_folder {labels} PREDICTIONS" in said
