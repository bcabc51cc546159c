"""Batches made ahead, compiled networks and rare looks at the loss: faster, and the same training."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.config import SamplingConfig, preset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator import steps as train_step
from nnunet_difflung.generator import training as train
from nnunet_difflung.generator.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from nnunet_difflung.generator.diffusion import build_network
from nnunet_difflung.generator.families import trained_family_of
from nnunet_difflung.generator.sampling import paint_batch
from nnunet_difflung.generator.store import Generator, load_generator
from nnunet_difflung.methods import METHODS
from nnunet_difflung.painting import jobs as painting
from nnunet_difflung.runtime.device import ahead, compiled, parts_that_fit, worth_compiling
from nnunet_difflung.runtime.launcher import join, let_device_change
from tests.support.generators import CBMAT, TINY, logged

CPU = torch.device("cpu")


def numbered(step: int) -> tuple[torch.Tensor, ...]:
    time.sleep(0.002 * (step % 3))  # threads finish in another order than they began
    return torch.full((2,), step), torch.tensor(step)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_come_in_order_whatever_the_threads(threads):
    with ahead(numbered, range(5, 25), CPU, threads) as take:
        found = [take(step) for step in range(5, 25)]
    assert [int(number) for _, number in found] == list(range(5, 25))
    assert all((part == number).all() for part, number in found)


def test_what_fails_in_a_thread_is_raised_and_another_order_is_refused():
    def broken(step: int) -> tuple[torch.Tensor, ...]:
        if step == 3:
            raise ValueError("no such case")
        return numbered(step)

    with ahead(broken, range(9), CPU, 2) as take, pytest.raises(ValueError, match="no such case"):
        list(map(take, range(9)))
    with (
        ahead(numbered, range(9), CPU, 2) as take,
        pytest.raises(RuntimeError, match="step 4 was requested, but step 0"),
    ):
        take(4)


def test_threads_and_rare_looks_at_the_loss_leave_the_same_generator(data, tmp_path, monkeypatch):
    config = replace(TINY, epochs=6)
    train.train_generator(data, CBMAT, config, tmp_path / "plain", progress=False)
    monkeypatch.setattr(train, "steps_between_losses", lambda device: 5)
    monkeypatch.setattr(train, "ahead", lambda make, steps, device: ahead(make, steps, device, 2))
    train.train_generator(data, CBMAT, config, tmp_path / "fast", progress=False, save_every=0, stop_after=4)
    train.train_generator(data, CBMAT, config, tmp_path / "fast", progress=False, save_every=0)
    one, other = (load_generator(tmp_path / name) for name in ("plain", "fast"))
    assert one.hash == other.hash
    losses, rows = ([row["loss"] for row in logged(tmp_path / "plain")], logged(tmp_path / "fast"))
    assert len(losses) == 12
    assert [row["step"] for row in rows] == [5, 10, 12]
    for row, part in zip(rows, (losses[:5], losses[5:10], losses[10:]), strict=True):
        assert row["loss"] == pytest.approx(sum(part) / len(part))


def test_a_network_that_cannot_be_compiled_is_used_as_it_is(monkeypatch):
    network, said, tried = torch.nn.Linear(2, 2), [], []

    def refuses(_):
        raise RuntimeError("no C++ compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", refuses)
    assert compiled(network, tried.append, said.append) is network
    assert not tried
    assert "no C++ compiler found" in said[0]
    assert "long story" not in said[0]
    monkeypatch.setattr(torch, "compile", lambda module: lambda x: module(x))
    fast = compiled(network, lambda f: tried.append(f(torch.zeros(1, 2))), said.append)
    assert fast is not network
    assert len(tried) == 1
    assert len(said) == 1

    def backward_fails(f):
        raise ValueError("backward")

    assert compiled(network, backward_fails, said.append) is network
    assert "backward" in said[1]


def test_compiling_is_for_long_trainings_on_cuda_and_can_be_switched_off(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.delenv("nnUNet_compile", raising=False)
    assert worth_compiling(cuda, 100_000)
    assert not worth_compiling(cuda, 10)
    assert not worth_compiling(CPU, 100_000)
    monkeypatch.setenv("nnUNet_compile", "f")
    assert not worth_compiling(cuda, 100_000)


def test_a_batch_is_halved_until_it_fits_and_one_image_that_does_not_is_bad_input():
    said, tried = [], []

    def at_most(limit):
        def trial(images):
            tried.append(images)
            if images > limit:
                raise torch.cuda.OutOfMemoryError("Tried to allocate 2 GiB")

        return trial

    assert parts_that_fit(16, at_most(16), said.append) == 1
    assert not said
    assert parts_that_fit(12, at_most(4), said.append) == 4
    assert "12 images" in said[0]
    assert tried[-3:] == [12, 6, 3]
    assert parts_that_fit(6, at_most(1), said.append) == 6
    with pytest.raises(BadInput, match="--patch-size"):
        parts_that_fit(5, at_most(0), said.append)


def hungry(network: torch.nn.Module, most: int) -> torch.nn.Module:
    """The network on a GPU whose memory holds the backward pass of so many images."""

    def full(gradient: torch.Tensor) -> None:
        if len(gradient) > most:
            raise torch.cuda.OutOfMemoryError("Tried to allocate 2 GiB")

    def forward(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(full)

    first = network.conv_in if hasattr(network, "conv_in") else network.last
    first.register_forward_hook(forward)
    return network


@pytest.fixture
def process_group(tmp_path):
    """One of one process that exchanges gradients, as with several GPUs."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["cbmat", "pix2pix", "spade"])
def test_memory_that_ends_in_the_backward_pass_of_several_processes_splits_the_batch(process_group, method):
    config, family, found = replace(TINY, discriminator_channels=8), trained_family_of(METHODS[method]), []
    inputs = (torch.zeros(4, 1, 16, 16), torch.zeros(4, 3, 16, 16), torch.ones(4, 1, 16, 16))
    inputs += (torch.ones_like(inputs[0]), torch.arange(4))
    for exchanging in (False, True):
        state = family.new_state(config, 1, 3, CPU)
        hungry(state.network, 2)
        update = family.make_update(state, config, Accelerator(cpu=True), 9)
        if exchanging:
            update.network = update.fast = torch.nn.parallel.DistributedDataParallel(state.network)
            if method != "cbmat":
                update.discriminators = torch.nn.parallel.DistributedDataParallel(update.judges)
        update.parts = update._fitting_parts(4)
        assert update.parts == 2
        for network in state.networks().values():
            assert all(p.requires_grad and (p.grad is None or not p.grad.any()) for p in network.parameters())
        found.append([float(train_step.train_step(state, update, inputs, config, 9)) for _ in range(2)])
    assert found[0] == pytest.approx(found[1])


def test_a_compiled_network_that_fails_in_several_processes_leaves_the_other_one_usable(process_group, monkeypatch):
    config = replace(TINY, patch_size=16)
    state = trained_family_of(CBMAT).new_state(config, 1, 3, CPU)
    update = trained_family_of(CBMAT).make_update(state, config, Accelerator(cpu=True), 9)
    hungry(state.network, 1)
    update.network = torch.nn.parallel.DistributedDataParallel(state.network)
    monkeypatch.setattr(torch, "compile", lambda network: network)
    assert compiled(update.network, lambda network: update._try(network, 2, 16), [].append) is update.network
    update.network(torch.zeros(1, 4, 16, 16), torch.zeros(1)).sample.sum().backward()
    update.network(torch.zeros(1, 4, 16, 16), torch.zeros(1)).sample.sum().backward()


def test_all_processes_split_their_batch_as_the_one_with_least_memory(capsys):
    state = trained_family_of(CBMAT).new_state(TINY, 1, 3, CPU)
    update = trained_family_of(CBMAT).make_update(state, TINY, Accelerator(cpu=True), 9)
    update.accelerator.gather = lambda parts: torch.cat([parts, torch.tensor([4]), parts])
    assert update._fitting_parts(4) == 4
    assert "summed over 4 parts" in capsys.readouterr().out


@pytest.mark.parametrize("parts", [2, 5])
def test_parts_of_a_batch_add_up_to_its_step(data, parts):
    config = train.resolve(CBMAT, replace(TINY, batch_size=5), data)
    source = train._source(data, CBMAT, train.index_slices(data.cache, data.training_cases), config, 9)
    found = []
    for cut in (1, parts):
        state = trained_family_of(CBMAT).new_state(config, 1, len(data.cache.roles.conditions), CPU)
        update = trained_family_of(CBMAT).make_update(state, config, Accelerator(cpu=True), 9)
        update.parts = cut
        losses = [
            float(train_step.train_step(state, update, train_step.step_inputs(source, step, list(range(5))), config, 9))
            for step in range(2)
        ]
        found.append((losses, torch.cat([p.detach().flatten() for p in state.network.parameters()])))
    (losses, whole), (in_parts, summed) = found
    assert in_parts == pytest.approx(losses, rel=1e-5)
    apart = (whole - summed).abs()  # AdamW's first steps are of size lr where a gradient is near 0, whatever its sign
    assert apart.mean() < 1e-5
    assert apart.max() < 4 * config.learning_rate


def test_painting_goes_on_in_halves_where_memory_is_short(monkeypatch):
    seen = []

    def together(jobs, *_):
        seen.append(list(jobs))
        if len(jobs) > 2:
            raise torch.cuda.OutOfMemoryError("full")
        return [10 * job for job in jobs]

    monkeypatch.setattr(painting, "_paint_together", together)
    slices, volumes = (
        Generator(torch.nn.Identity(), replace(TINY, neighbours=neighbours), (), (), "", Path())
        for neighbours in (None, 1)
    )
    sampling = SamplingConfig(batch_size=6)
    assert painting.paint_jobs([1, 2, 3, 4, 5], None, slices, sampling, "cuda") == [10, 20, 30, 40, 50]
    assert seen == [[1, 2, 3, 4, 5], [1, 2], [3, 4, 5], [3], [4, 5]]

    at_once = []

    def full(jobs, method, generator, sampling, device):
        at_once.append(sampling.batch_size)
        raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setattr(painting, "_paint_together", full)
    job = SimpleNamespace(shape=(512, 256), inputs=(None,) * 9)
    with pytest.raises(BadInput, match=r"one image of 512 × 256 pixels .* use --paint composite"):
        painting.paint_jobs([job], None, slices, sampling, "cuda")
    assert at_once == [6]
    with pytest.raises(
        BadInput, match=r"9 slices of 512 × 256 pixels .* use -device cpu, or train a generator with --neighbours 0"
    ):
        painting.paint_jobs([job], None, volumes, sampling, "cuda")
    assert at_once[1:] == [6, 3, 1], "a stack's slices need not go through the network at once"


def test_bf16_paints_nearly_the_same_and_belongs_to_the_settings():
    config = replace(TINY, windows=((-1000.0, 1000.0),))
    torch.manual_seed(0)
    network = build_network(config, 1, 3).eval().requires_grad_(False)
    generator = Generator(network, config, ("a", "b", "c"), (), "", Path())
    condition, noise = torch.zeros(2, 3, 16, 16), torch.randn(2, 1, 16, 16)
    painted = [
        paint_batch(METHODS["cbmat"], generator, SamplingConfig(steps=3, precision=precision), condition, noise)
        for precision in ("fp32", "bf16")
    ]
    assert painted[1].dtype == torch.float32
    assert 0 < (painted[0] - painted[1]).abs().max() < 0.1
    for precision in ("fp32", "bf16"):
        settings = settings_from(parse(["-d", "1", "-device", "cpu", "--precision", precision]))
        assert settings.sampling.precision == settings.generator.precision == precision


@pytest.mark.parametrize("name", ["fast", "default", "paper"])
def test_an_automatic_batch_is_the_presets_whatever_the_card(name):
    def batch(*more: str) -> int:
        return settings_from(parse(["-d", "1", "-device", "cpu", "--preset", name, *more])).generator.batch_size

    assert batch("--batch-size", "auto") == batch() == preset(name).generator.batch_size != batch("--batch-size", "5")


def test_both_precisions_are_trained_in_one_process(data, tmp_path):
    for precision in ("fp32", "bf16", "fp32"):
        folder = tmp_path / f"{precision}_{len(list(tmp_path.iterdir()))}"
        train.train_generator(data, CBMAT, replace(TINY, epochs=1, precision=precision), folder, progress=False)
        assert load_generator(folder).config.precision == precision


@pytest.fixture
def earlier_device():
    """Pretends that the process has trained on a device, which accelerate keeps."""

    def trained_on(device: str) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        Accelerator(cpu=True, mixed_precision="no")
        for state in (PartialState, AcceleratorState):
            state._shared_state["device"] = torch.device(device)

    yield trained_on
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_process_can_train_on_one_device_and_then_on_another(data, tmp_path, earlier_device):
    earlier_device("cuda")
    train.train_generator(data, CBMAT, replace(TINY, epochs=1), tmp_path, "cpu", progress=False)
    assert load_generator(tmp_path).training_cases == data.training_cases
    earlier_device("cuda")
    join("cpu")
    assert PartialState().device == CPU
    looked = PartialState._shared_state["backend"]
    PartialState._shared_state["backend"] = "kept"
    join("cpu")
    assert PartialState().backend == "kept" != looked, "the same device is not looked for again"


def test_each_of_several_processes_keeps_its_device(earlier_device):
    earlier_device("meta")
    PartialState._shared_state["num_processes"] = 2
    let_device_change("cpu")
    assert PartialState().device.type == "meta"


def test_a_restored_optimizer_lies_in_memory_as_its_weights_do(tmp_path):
    def step(state: TrainingState) -> None:
        state.network(torch.zeros(1, 4, 8, 8), torch.zeros(1)).sample.square().mean().backward()
        state.optimizer.step()

    def fresh() -> TrainingState:
        state = trained_family_of(CBMAT).new_state(TINY, 1, 3, CPU)
        state.network.to(memory_format=torch.channels_last)  # as on CUDA, where the fused AdamW insists on it
        return state

    saved, restored = fresh(), fresh()
    step(saved)
    save_checkpoint(saved, tmp_path, "settings")
    load_checkpoint(restored, tmp_path, "settings")
    for weight, entry in restored.optimizer.state.items():
        assert entry["exp_avg"].stride() == weight.stride() == entry["exp_avg_sq"].stride()
    for one, other in zip(saved.network.parameters(), restored.network.parameters(), strict=True):
        before, after = saved.optimizer.state[one], restored.optimizer.state[other]
        assert all(torch.equal(before[key], after[key]) for key in before)
