"""A new arm is one file of ``generator/families`` and one line of ``methods.METHODS``."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tqdm import tqdm

from nnunet_difflung.audit.audit import audit_dataset
from nnunet_difflung.commands.augment import main
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.config import GeneratorConfig, SamplingConfig
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.generator import families
from nnunet_difflung.generator.families import family_of, trained_family_of
from nnunet_difflung.generator.report import TrainingReport
from nnunet_difflung.generator.sampling import paint_batch
from nnunet_difflung.generator.store import load_generator
from nnunet_difflung.generator.training import train_generator
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.methods import METHODS, Method
from tests.support.commands import OPTIONS, prepared, synthetic_arrays
from tests.support.generators import TINY, open_data
from tests.support.tiny import HU, LABELS, make_dataset, tree_hashes

FILE = '''
"""Paints each class at its mean."""

import torch

from nnunet_difflung.generator.checkpoint import TrainingState
from nnunet_difflung.generator.families.interface import ABLATION_OPTIONS, TrainedFamily, averaged


class ClassMean(TrainedFamily):
    varies = False
    unused_options = (*ABLATION_OPTIONS, "prediction", "sampler", "steps")

    def build(self, config, image_channels, condition_channels):
        return torch.nn.Conv2d(condition_channels, image_channels, 1)

    def initial_state(self, config, image_channels, condition_channels, device):
        network = self.build(config, image_channels, condition_channels).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        return TrainingState(network, optimizer, averaged(network, config))

    def make_update(self, state, config, accelerator, steps):
        network, optimizer = accelerator.prepare(state.network, state.optimizer)

        def update(image, condition, weight, noise, t):
            inside = weight * condition.any(1, keepdim=True)
            loss = ((network(condition) - image).square() * inside).sum() / inside.sum().clamp(min=1)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            return loss

        return update

    def paint(self, generator, sampling, canvas):
        painted = generator.network(canvas.condition).clamp(-1, 1)
        return painted if canvas.known is None else torch.where(canvas.is_known, canvas.known, painted)

    def seconds_per_image(self, config, sampling, image_channels, condition_channels, edge, device):
        return 1e-4, 1e-4


FAMILY = ClassMean
'''


@pytest.fixture
def class_mean(tmp_path, monkeypatch) -> Method:
    """The file, and its line in the table."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "class_mean.py").write_text(FILE)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path / "new")])
    method = Method("mean", "class_mean", "mean", "nnUNetTrainerDiffLungMean", "each class at its mean")
    monkeypatch.setitem(METHODS, "mean", method)
    yield method
    sys.modules.pop(f"{families.__name__}.class_mean", None)


def test_a_new_arm_trains_is_kept_and_paints(class_mean, tmp_path, monkeypatch):
    data = open_data(tmp_path, monkeypatch)
    config = replace(TINY, epochs=60, learning_rate=0.05, ema_decay=0.9)
    train_generator(data, class_mean, config, tmp_path / "whole", progress=True)
    train_generator(data, class_mean, config, tmp_path / "parts", progress=False, save_every=0, stop_after=50)
    train_generator(data, class_mean, config, tmp_path / "parts", progress=False)
    generator = load_generator(tmp_path / "parts")
    assert generator.hash == load_generator(tmp_path / "whole").hash
    assert (tmp_path / "whole" / "progress.png").is_file()
    values = data.cache.roles.condition_values()
    condition = torch.eye(len(values))[..., None, None].expand(-1, -1, 8, 8)
    painted = paint_batch(class_mean, generator, SamplingConfig(), condition, torch.zeros(len(values), 1, 8, 8))
    for name in ("normal_lung", "ILD"):
        image = painted[data.cache.roles.conditions.index(name)]
        assert 1000 * image.mean() == pytest.approx(HU[name][0], abs=60), name


def test_a_new_arm_goes_through_the_command(class_mean, tmp_path, monkeypatch, capsys):
    folders = prepared(tmp_path, monkeypatch)
    folder = make_dataset(folders[0], patients=4, folds=2)
    before = tree_hashes(folder)
    options = [*OPTIONS, "-f", "0", "--method", "mean", "--epochs", "4"]
    main([*options, "--dry-run"])
    main(options)
    said = capsys.readouterr()
    assert "Estimate on cpu" in said.out
    assert "with --method mean, --steps has no effect" in said.err
    assert "-tr nnUNetTrainerDiffLungMean" in said.out
    raw, manifest = open_raw_dataset("801"), read_manifest(folder)
    assert manifest["cases"]
    assert (folders[2] / raw.name / "DiffLung__mean" / "fold_0" / "class_mean" / "generator.safetensors").is_file()
    for identifier, record in manifest["cases"].items():
        image, label = synthetic_arrays(raw, identifier, folder)
        changed = (label == LABELS["emphysema"]) & (raw.read_label(record["host"])[0] != label)
        assert record["method"] == "mean"
        assert np.unique(image[0][changed]).size <= 1, "a class has one intensity"
    assert audit_dataset(raw.name, deep=True) == []
    main(options)
    assert "nothing to do" in capsys.readouterr().out
    remove(["-d", "801"])
    assert tree_hashes(folder) == before


def test_every_method_has_a_family_that_trains_where_it_has_a_generator():
    for method in METHODS.values():
        assert family_of(method).method is method
        if method.generator == method.name:
            trained_family_of(method)
        else:
            with pytest.raises(ValueError, match=method.name):
                trained_family_of(method)
        if method.generator:
            assert method.trained.trained is method.trained


def test_the_table_of_methods_is_light():
    code = "import sys, nnunet_difflung.methods; print({'torch', 'numpy', 'diffusers', 'monai'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("total", [5, 60, 80])
def test_a_training_with_fewer_steps_than_rows_of_its_log_draws_its_curve(tmp_path, monkeypatch, total):
    """On CUDA losses are read every eight steps, and the first sheet may be due earlier."""
    monkeypatch.setattr(TrainingReport, "_draw_sheet", lambda *_: None)
    report = TrainingReport(tmp_path, total, METHODS["difflung"], GeneratorConfig(), True, least=8)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    state = SimpleNamespace(step=0, pending_losses=[], optimizer=optimizer)
    with tqdm(total=total, disable=True) as bar:
        for step in range(1, total + 1):
            state.step = step
            state.pending_losses.append(1.0)
            if report.due(state):
                report.after_steps(1, state, bar, None)
    assert (tmp_path / "progress.png").is_file()
    assert report.rows[0]["step"] <= 8
    assert {row["loss"] for row in report.rows} == {1.0}
