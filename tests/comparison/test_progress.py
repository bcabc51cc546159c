"""Learning curves come from nnU-Net's logs: resumed trainings, trainings begun anew, classes without voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.comparison.progress import learning_curves, moving_average, pseudo_dice
from nnunet_difflung.comparison.trainings import Trainings

STAMP = "2026-11-29 13:23:07.596349: "


def log(folder: Path, start: str, epochs: dict[int, list[str]]) -> Path:
    """A log as nnU-Net 2.8 writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["", "This is the configuration used by this training:", "Epoch 7 of nothing"]
    for epoch, values in epochs.items():
        lines += [f"{STAMP}Epoch {epoch} ", f"{STAMP}Current learning rate: 0.01", f"{STAMP}train_loss -0.25"]
        lines += [f"{STAMP}Pseudo dice [{', '.join(values)}] ", f"{STAMP}Epoch time: 3.1 s"]
    path = folder / f"training_log_2026_11_29_{start}.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("write", ["np.float32({})", "{}", "np.float64({})"])
def test_numbers_are_read_as_any_version_of_numpy_prints_them(tmp_path, write):
    log(tmp_path, "10_00_00", {0: [write.format(v) for v in ("0.8404", "nan", "0.0")], 1: [write.format("1e-05")] * 3})
    expected = np.array([[0.8404, np.nan, 0], [1e-5] * 3])
    np.testing.assert_allclose(pseudo_dice(tmp_path), expected)


def test_a_resumed_training_goes_on_and_one_begun_anew_replaces_the_earlier_one(tmp_path):
    log(tmp_path, "9_00_00", {0: ["0.1"], 1: ["0.2"], 2: ["0.3"]})
    log(tmp_path, "10_00_00", {2: ["0.5"], 3: ["0.6"]})  # from the checkpoint after epoch 1
    assert pseudo_dice(tmp_path).ravel().tolist() == [0.1, 0.2, 0.5, 0.6]
    log(tmp_path, "11_00_00", {0: ["0.7"], 1: ["0.8"]})
    assert pseudo_dice(tmp_path).ravel().tolist() == [0.7, 0.8]


@pytest.mark.parametrize("epochs", [{}, {0: ["0.1"], 2: ["0.2"]}, {0: ["0.1"], 1: ["0.1", "0.2"]}])
def test_logs_that_are_no_whole_training_give_no_curve(tmp_path, epochs):
    log(tmp_path, "10_00_00", epochs)
    assert pseudo_dice(tmp_path).size == 0


def test_the_average_is_nnunets_and_keeps_its_value_where_a_class_has_no_voxels():
    found = moving_average(np.array([[0.5, np.nan], [1.0, 0.4], [np.nan, 0.4]]))
    np.testing.assert_allclose(found, [[0.5, 0.0], [0.55, 0.04], [0.55, 0.076]])


def test_arms_are_means_of_their_trainings_in_the_order_of_the_labels(tmp_path):
    trainings = Trainings("Dataset801_Tiny", {"results": tmp_path}, (0, 1), "2d", ("reference", "difflung"))
    log(trainings.training("results", "reference", 0), "10_00_00", {0: ["0.2", "0.6"], 1: ["0.2", "0.6"]})
    log(trainings.training("results", "reference", 1), "10_00_00", {0: ["0.4", "0.8"]})
    log(trainings.training("results", "difflung", 0), "10_00_00", {0: ["0.4"]})  # of a dataset with other labels
    curves = learning_curves(trainings, {"rare": "2", "usual": "1"})
    assert list(curves) == ["usual", "rare"]
    assert {name: list(of) for name, of in curves.items()} == {"usual": ["reference"], "rare": ["reference"]}
    np.testing.assert_allclose(curves["usual"]["reference"], [0.3])
    np.testing.assert_allclose(curves["rare"]["reference"], [0.7])
    regions = learning_curves(trainings, {"whole": "(1, 2)", "rare": "2"})
    np.testing.assert_allclose(regions["whole"]["reference"], [0.3])
