"""What only a CUDA card can show; ``make gpu`` runs these first. Without a card, only what a CPU can rehearse runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from nnunet_difflung.config import METHOD, SamplingConfig
from nnunet_difflung.generator import steps as train_step
from nnunet_difflung.generator.families import diffusion, trained_family_of
from nnunet_difflung.generator.sampling import paint_batch
from nnunet_difflung.generator.store import load_generator
from nnunet_difflung.generator.training import train_generator
from nnunet_difflung.methods import METHODS, Method
from nnunet_difflung.runtime import device as device_speed
from tests.support.generators import CBMAT, TINY, logged

needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DEFAULT = METHODS[METHOD]
HU = 1000.0  # of one unit of the network's range, [−1, 1]
TRAINED = replace(TINY, channels=(16, 32), patch_size=32, epochs=60)


def masks_and_noise(conditions: int, size: int = 32, n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hot masks in vertical stripes, and noise; made on the CPU, so that they are the same everywhere."""
    source = torch.Generator().manual_seed(3)
    stripes = torch.arange(size) * (conditions + 1) // size
    condition = torch.stack([(stripes == i + 1).float().expand(size, size) for i in range(conditions)])
    return condition.expand(n, -1, -1, -1).contiguous(), torch.randn(n, 1, size, size, generator=source)


def surroundings(method: Method, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a method that fills a region of a real image needs besides: the image, here a ramp, and what of it stays."""
    if METHODS[method.generator].family != "context":
        return {}
    ramp = torch.linspace(-0.9, 0.1, noise.shape[-1], device=noise.device).expand_as(noise)
    return {"known": ramp, "is_known": ramp < -0.4}


def painted(
    folder: Path, device: str, precision: str = "fp32", sampler: str = "ddim", method: Method = DEFAULT
) -> torch.Tensor:
    """(n, 1, h, w) in [−1, 1] on the CPU, from the same masks and noise on every device."""
    generator = load_generator(folder, device)
    condition, noise = masks_and_noise(len(generator.conditions))
    image = paint_batch(
        method,
        generator,
        SamplingConfig(steps=10, precision=precision, sampler=sampler),
        condition.to(device),
        noise.to(device),
        **surroundings(method, noise.to(device)),
        sources=[torch.Generator().manual_seed(i) for i in range(len(noise))],
    )
    assert image.device.type == device
    return image.float().cpu()


@pytest.mark.parametrize("method", sorted({m.generator for m in METHODS.values() if m.generator}))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_generator_trains_and_paints(data, tmp_path, method, precision):
    if METHODS[method].family == "gan":
        pytest.importorskip("monai")
    config = replace(TINY, precision=precision, discriminator_channels=8)
    train_generator(data, METHODS[method], config, tmp_path / "g", DEVICE, progress=False)
    image = painted(tmp_path / "g", DEVICE, precision, method=METHODS[method])
    assert image.isfinite().all()
    assert image.abs().max() <= 1
    assert image.std() > 0


@needs_card
@pytest.mark.parametrize("sampler", ["ddim", "dpm", "unipc", "ddpm"])
def test_cuda_and_bf16_paint_what_the_cpu_paints_in_fp32(data, tmp_path, sampler):
    train_generator(data, DEFAULT, TRAINED, tmp_path / "g", "cuda", progress=False)
    expected = painted(tmp_path / "g", "cpu", sampler=sampler)
    for precision, near in (("fp32", 5), ("bf16", 20)):
        apart = HU * (painted(tmp_path / "g", "cuda", precision, sampler) - expected)
        print(f"{sampler} {precision}: mean {apart.mean():+.2f} HU, mean absolute {apart.abs().mean():.2f} HU")
        assert apart.abs().mean() < near
        assert apart.mean().abs() < near / 4


def losses_of(data, config, folder: Path, monkeypatch, compiling: bool) -> list[float]:
    monkeypatch.setattr(diffusion, "worth_compiling", lambda device, steps: compiling)
    train_generator(data, DEFAULT, config, folder, "cuda", progress=False)
    return [row["loss"] for row in logged(folder)]


@needs_card
@pytest.mark.parametrize("sampler", ["ddim", "dpm", "unipc"])
def test_replayed_passes_paint_what_single_ones_paint_whatever_was_painted_before(data, tmp_path, sampler):
    train_generator(data, DEFAULT, TRAINED, tmp_path / "g", "cuda", progress=False)
    generator = load_generator(tmp_path / "g", "cuda")
    single = replace(generator, ready={"fp32": generator.network})
    sampling = SamplingConfig(steps=5, sampler=sampler)
    for n, size in ((2, 32), (1, 64), (2, 32), (3, 48)):
        condition, noise = (part.to("cuda") for part in masks_and_noise(len(generator.conditions), size, n))
        around = surroundings(DEFAULT, noise)
        one, other = (paint_batch(DEFAULT, g, sampling, condition, noise, **around) for g in (generator, single))
        assert (one - other).abs().max() < 1e-3
    replayed = generator.ready["fp32"]
    assert isinstance(replayed, device_speed.Replayed)
    assert len(replayed.recorded) == 3


@needs_card
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_network_learns_what_the_eager_one_learns(data, tmp_path, monkeypatch, precision, capsys):
    config = replace(TINY, channels=(16, 32), epochs=12, precision=precision)
    eager = losses_of(data, config, tmp_path / "eager", monkeypatch, False)
    fast = losses_of(data, config, tmp_path / "compiled", monkeypatch, True)
    assert "torch.compile does not work" not in capsys.readouterr().err
    assert fast == pytest.approx(eager, rel=0.02 if precision == "fp32" else 0.1)


@needs_card
def test_a_batch_that_the_card_does_not_hold_is_done_in_parts():
    config = replace(TINY, channels=(64, 64), patch_size=256, batch_size=16)
    device, total = torch.device("cuda"), torch.cuda.get_device_properties(0).total_memory
    inputs = [torch.randn(16, channels, 256, 256, device=device) for channels in (1, 3)]
    inputs += [torch.ones_like(inputs[0]), torch.randn_like(inputs[0]), torch.arange(16, device=device) * 60]
    losses, parts = [], []
    for limit in (total, 3 * 2**30):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
        try:
            state = trained_family_of(CBMAT).new_state(config, 1, 3, device)
            update = trained_family_of(CBMAT).make_update(state, config, Accelerator(), 10)
            losses.append([float(train_step.train_step(state, update, tuple(inputs), config, 10)) for _ in range(2)])
            parts.append(update.parts)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        del state, update
    print("parts", parts)
    assert parts[0] == 1 < parts[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@needs_card
def test_an_interrupted_training_ends_with_the_same_weights(data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    config = replace(TINY, epochs=6)
    train_generator(data, DEFAULT, config, tmp_path / "plain", "cuda", progress=False)
    train_generator(data, DEFAULT, config, tmp_path / "resumed", "cuda", progress=False, save_every=0, stop_after=5)
    train_generator(data, DEFAULT, config, tmp_path / "resumed", "cuda", progress=False, save_every=0)
    assert load_generator(tmp_path / "plain").hash == load_generator(tmp_path / "resumed").hash


@needs_card
def test_bf16_is_the_usual_precision_of_a_card_that_computes_in_it():
    able = torch.cuda.get_device_capability()[0] >= 8
    assert device_speed.usual_precision("cuda") == ("bf16" if able else "fp32")
