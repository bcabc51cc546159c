"""The comparison GANs: what their networks promise, what their losses count, and training through the shared loop."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

import tests.support.tiny
from nnunet_difflung.dataset.cache import index_slices
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.checkpoint import NEWEST
from nnunet_difflung.generator.encoding import one_hot, size_factor
from nnunet_difflung.generator.families import trained_family_of
from nnunet_difflung.generator.gan import Discriminators, build_gan, build_generator, discriminator_loss, generator_loss
from nnunet_difflung.generator.store import load_generator, save_generator
from nnunet_difflung.generator.training import _source, resolve, train_generator
from nnunet_difflung.methods import METHODS
from tests.support.generators import TINY, logged, open_data

GANS = ("pix2pix", "spade")
CONFIG = replace(TINY, discriminator_channels=8)
WEIGHTS = "gan/generator.safetensors"


@pytest.fixture(params=GANS)
def kind(request) -> str:
    return request.param


def inputs(n: int, h: int, w: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hot masks of three classes and noise for two channels."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n, h, w), generator=source)
    return torch.stack([labels == i for i in (1, 2, 3)], 1).float(), torch.randn(n, 2, h, w, generator=source)


@pytest.mark.parametrize(("layers", "channels"), [(1, (8, 16)), (2, (8, 16, 24)), (1, (8,) * 4)])
def test_any_multiple_of_the_size_factor_is_painted(kind, layers, channels):
    config = replace(CONFIG, channels=channels, layers_per_block=layers)
    network, factor = build_generator(kind, config, 2, 3), size_factor(config)
    for h, w in ((1, 1), (1, 5), (3, 2)):
        image = network(*inputs(2, h * factor, w * factor))
        assert image.shape == (2, 2, h * factor, w * factor)
        assert image.abs().max() <= 1
        assert image.isfinite().all()


def test_an_image_depends_on_its_own_masks_and_noise_only(kind):
    network = build_generator(kind, CONFIG, 2, 3).train()  # in which batch norm would show itself
    condition, noise = inputs(3, 16, 24)
    together = network(condition, noise)
    assert all(
        torch.allclose(network(condition[i : i + 1], noise[i : i + 1])[0], together[i], atol=1e-5) for i in range(3)
    )
    assert torch.equal(network(condition, noise), together)
    for other in (network(condition, inputs(3, 16, 24, 1)[1]), network(condition.roll(1, 1), noise)):
        assert ((other - together).abs().amax((1, 2, 3)) > 1e-3).all()


def test_spade_modulates_by_the_masks_nearby_not_by_their_area():
    norm = build_generator("spade", CONFIG, 2, 3).blocks[0].norm_0
    maps, x = torch.cat(inputs(1, 32, 32), 1), torch.randn(1, norm.mlp_gamma.out_channels, 32, 32)
    other = maps.clone()
    other[..., 16:] = 0
    assert torch.allclose(norm(x, maps)[..., :12], norm(x, other)[..., :12], atol=1e-6)
    assert (norm(x, maps)[..., 20:] - norm(x, other)[..., 20:]).abs().mean() > 1e-3


@pytest.mark.parametrize(("patch", "verdicts"), [(8, 2), (16, 2), (24, 1), (64, 6), (192, 22)])
def test_discriminators_fit_the_crops(kind, patch, verdicts):
    """192 pixels give the 22 × 22 verdicts of a PatchGAN that sees 70 × 70; small crops take fewer layers."""
    scales = Discriminators(kind, replace(CONFIG, patch_size=patch), 5)(torch.cat(inputs(2, patch, patch), 1))
    assert len(scales) == {"pix2pix": 1, "spade": 2}[kind]
    assert scales[0][-1].shape == (2, 1, verdicts, verdicts)
    assert [scale[0].shape[-1] for scale in scales] == [patch // 2, patch // 4][: len(scales)]
    assert all(scale[-1].isfinite().all() and scale[-1].numel() for scale in scales)


def verdict(real: float, painted: float):
    """Discriminators that know a real image by its ones; its only feature is the image itself."""

    def judge(maps: torch.Tensor) -> list[list[torch.Tensor]]:
        image = maps[:, :1]
        return [[image, torch.where(image.mean((1, 2, 3)) == 1, real, painted)[:, None, None, None]]]

    return judge


def test_losses_have_their_textbook_values():
    image, fake, condition = torch.ones(2, 1, 8, 8), torch.full((2, 1, 8, 8), 0.5), torch.zeros(2, 3, 8, 8)
    rest = fake, image, condition, torch.ones(2, 1, 8, 8)
    config = replace(CONFIG, l1_weight=10.0, feature_weight=4.0)
    assert discriminator_loss("pix2pix", verdict(0, 0), *rest) == pytest.approx(2 * math.log(2))
    assert discriminator_loss("pix2pix", verdict(20, -20), *rest) == pytest.approx(0, abs=1e-6)
    assert discriminator_loss("spade", verdict(0.5, 0.25), *rest) == pytest.approx(0.5 + 1.25)
    assert discriminator_loss("spade", verdict(2, -3), *rest) == 0
    assert generator_loss("pix2pix", config, verdict(0, 0), *rest) == pytest.approx(math.log(2) + 10 * 0.5)
    assert generator_loss("spade", config, verdict(1, -3), *rest) == pytest.approx(3 + 4 * 0.5)


def test_voxels_without_weight_do_not_count(kind):
    condition, fake = inputs(2, 16, 16)
    image, weight = inputs(2, 16, 16, 1)[1], torch.ones(2, 1, 16, 16)
    weight[..., 9:], weight[1, :, 2:5] = 0, 0
    _, discriminators = build_gan(kind, CONFIG, 2, 3)
    for loss in (partial(discriminator_loss, kind), partial(generator_loss, kind, CONFIG)):

        def value(fake, image, loss=loss):
            return loss(discriminators, fake, image, condition, weight)

        before = value(fake, image)
        free, counting = 5 * (weight == 0), 5 * weight
        assert value(fake + free, image) == before == value(fake, image - free)
        assert value(fake + counting, image) != before != value(fake, image - counting)
        painted = fake.clone().requires_grad_()
        value(painted, image).backward()
        assert (painted.grad[(weight == 0).expand_as(fake)] == 0).all()
        assert painted.grad.abs().sum() > 0


def test_a_step_moves_both_sides_and_leaves_no_gradient(kind):
    accelerator, family = Accelerator(cpu=True), trained_family_of(METHODS[kind])
    state = family.new_state(CONFIG, 2, 3, accelerator.device)
    sides = (state.network, state.further_networks["discriminators"])
    before = [[p.detach().clone() for p in part.parameters()] for part in sides]
    condition, image = inputs(2, 16, 16)
    rest = torch.ones(2, 1, 16, 16), inputs(2, 16, 16, 1)[1], torch.zeros(2)
    loss = family.make_update(state, CONFIG, accelerator, 1)(image, condition, *rest)
    assert loss.isfinite()
    for part, old in zip(sides, before, strict=True):
        assert any(not torch.equal(p, q) for p, q in zip(part.parameters(), old, strict=True))
        assert all(p.grad is None and p.requires_grad for p in part.parameters())


def test_gradients_of_parts_of_a_batch_add_up_to_those_of_the_batch(kind):
    condition, image = inputs(5, 16, 16)
    weight = (inputs(5, 16, 16, 2)[1][:, :1] > 0).float()
    found = []
    for parts in (1, 2, 5):
        state = trained_family_of(METHODS[kind]).new_state(CONFIG, 2, 3, torch.device("cpu"))
        update = trained_family_of(METHODS[kind]).make_update(state, CONFIG, Accelerator(cpu=True), 1)
        update.parts, gradients = parts, []

        def record(optimizer, gradients=gradients):
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            gradients.append(torch.cat([p.grad.flatten() for p in weights if p.grad is not None]))
            optimizer.zero_grad()

        update._step = record
        loss = update(image.tanh(), condition, weight, inputs(5, 16, 16, 1)[1], torch.zeros(5))
        found.append((*gradients, loss[None]))
    for in_parts in found[1:]:
        for one, other in zip(found[0], in_parts, strict=True):
            assert (one - other).abs().max() < 1e-5 * one.abs().max()


def test_interrupted_training_ends_with_the_same_bits(kind, data, tmp_path):
    train_generator(data, METHODS[kind], CONFIG, tmp_path / "whole", progress=False)
    train_generator(data, METHODS[kind], CONFIG, tmp_path / "parts", progress=False, save_every=0, stop_after=1)
    train_generator(data, METHODS[kind], CONFIG, tmp_path / "parts", progress=False, save_every=0, stop_after=3)
    state = load_file(tmp_path / "parts" / NEWEST)
    assert {name.split(".")[0] for name in state} == {
        "network",
        "ema",
        "optimizer",
        "discriminators",
        "discriminator_optimizer",
    }
    train_generator(data, METHODS[kind], CONFIG, tmp_path / "parts", progress=False)
    whole, parts = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    logs = [logged(tmp_path / name) for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 4
    assert not list((tmp_path / "parts").glob("checkpoint*"))


def test_reports_do_not_change_the_weights(data, tmp_path):
    train_generator(data, METHODS["spade"], CONFIG, tmp_path / "silent", progress=False)
    train_generator(data, METHODS["spade"], CONFIG, tmp_path / "shown", progress=True)
    silent, shown = (load_file(tmp_path / name / WEIGHTS) for name in ("silent", "shown"))
    assert all(torch.equal(silent[k], shown[k]) for k in silent)
    assert (tmp_path / "shown" / "progress.png").is_file()
    assert len(list((tmp_path / "shown" / "samples").glob("*.png"))) >= 3


def test_pix2pix_learns_each_class(tmp_path, monkeypatch):
    """Of classes with one intensity each, unseen masks are painted with those intensities."""
    wanted = {"normal_lung": -800.0, "emphysema": -300.0, "ILD": 200.0}
    monkeypatch.setattr(
        tests.support.tiny,
        "HU",
        {"air": (-1000.0, 0.0), "body": (600.0, 0.0), **{name: (value, 0.0) for name, value in wanted.items()}},
    )
    data = open_data(tmp_path, monkeypatch)
    config = replace(CONFIG, epochs=70, learning_rate=4e-3, ema_decay=0.95, patch_size=32)
    train_generator(data, METHODS["pix2pix"], config, tmp_path / "g", progress=False)
    generator, cache = load_generator(tmp_path / "g"), data.cache
    masks = np.concatenate([cache.condition(i) for i in cache.facts if i not in data.training_cases])
    condition = torch.from_numpy(np.stack([one_hot(m, cache.roles.condition_values()) for m in masks]))
    painted = 1000 * generator.network(condition, torch.randn(len(masks), 1, *masks.shape[1:]))[:, 0].numpy()
    for name, value in wanted.items():
        assert painted[masks == cache.roles.values[name]].mean() == pytest.approx(value, abs=100), name


def test_saved_generators_come_back(kind, tmp_path):
    config = replace(CONFIG, windows=((-1000.0, 1000.0), (0.0, 1.0)))
    network = build_generator(kind, config, 2, 3)
    card = {"channels": ["CT", "PET"], "conditions": ["a", "b", "c"], "training_cases": ["one", "two"]}
    save_generator(tmp_path, network, card, METHODS[kind], config)
    loaded = load_generator(tmp_path)
    assert (loaded.config, loaded.training_cases) == (config, ("one", "two"))
    assert torch.equal(loaded.network(*inputs(1, 16, 16)), network(*inputs(1, 16, 16)))
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".json", ".safetensors"}
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match="SHA-256"):
        load_generator(tmp_path)


def test_without_monai_one_line_says_what_to_install(kind, data, tmp_path, monkeypatch):
    train_generator(data, METHODS[kind], CONFIG, tmp_path / "trained", progress=False)
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    for attempt in (
        lambda: train_generator(data, METHODS[kind], CONFIG, tmp_path / "new", progress=False),
        lambda: load_generator(tmp_path / "trained"),
    ):
        with pytest.raises(BadInput, match=r"pip install 'nnunet_difflung\[gan\]'$") as found:
            attempt()
        assert "\n" not in str(found.value)
    assert not (tmp_path / "new").exists()


def test_monai_is_imported_only_when_needed():
    code = (
        "import sys, nnunet_difflung.generator.training; "
        "print(json.dumps(sorted(m for m in sys.modules if 'monai' in m)))"
    )
    done = subprocess.run([sys.executable, "-c", "import json; " + code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_masks_are_complete_when_gans_train(data):
    for name, ablated in (("pix2pix", False), ("spade", False), ("cbmat", True)):
        config = resolve(METHODS[name], TINY, data)
        source = _source(data, METHODS[name], index_slices(data.cache, data.training_cases), config, 10)
        assert (source.probabilities > 0).any() == ablated
