"""One training step of each kind of generator: what differs between diffusion and GANs; the loop is shared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from nnunet_difflung.config import GeneratorConfig
from nnunet_difflung.generator.batches import BatchSource
from nnunet_difflung.generator.checkpoint import TrainingState
from nnunet_difflung.generator.diffusion import build_network, diffusion_loss, forward_process
from nnunet_difflung.generator.gan import build_gan, discriminator_loss, generator_loss
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.device import compiled, computing_in, parts_that_fit, ready_for, worth_compiling

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel


def learning_rate(step: int, total: int, config: GeneratorConfig) -> float:
    """Linear warm-up, then a half cosine down to zero; a function of the step, so nothing has to be restored."""
    warmup = min(config.warmup_steps, total // 4)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def draw_noise(
    shape: Sequence[int], timesteps: int, seed: int, step: int, power: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """ε (on the CPU, so that it does not depend on the device) and t of a whole global batch.

    Args:
        shape: (n, c, h, w) of ε.
        timesteps: T of Eq. 2.
        seed: of the training.
        step: of the training.
        power: t = u^power · T with u uniform in [0, 1); 1 is uniform, more draws small t more often.
    """
    source = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step, 7]).generate_state(1)[0]))
    noise = torch.randn(tuple(shape), generator=source)
    t = torch.rand(shape[:1], generator=source, dtype=torch.float64) ** power * timesteps
    return noise, t.long().clamp(max=timesteps - 1)


def new_state(
    config: GeneratorConfig, image_channels: int, condition_channels: int, device: torch.device
) -> TrainingState:
    """Networks with their initial weights, which depend on the seed only, and optimizers."""
    torch.manual_seed(config.seed)
    if METHODS[config.method].family == "gan":
        network, discriminators = (part.to(device) for part in build_gan(config, image_channels, condition_channels))
        optimizers = [
            torch.optim.Adam(part.parameters(), lr=config.learning_rate, betas=(0.5, 0.999))
            for part in (network, discriminators)
        ]
        return TrainingState(network, optimizers[0], _averaged(network, config), discriminators, optimizers[1])
    network = ready_for(build_network(config, image_channels, condition_channels), device)
    ema = _averaged(network, config)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=device.type == "cuda"
    )
    return TrainingState(network, optimizer, ema)


def _averaged(network: torch.nn.Module, config: GeneratorConfig) -> EMAModel:
    from diffusers.training_utils import EMAModel

    return EMAModel(network.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)


class DiffusionUpdate:
    """Eq. 7 and one AdamW step."""

    def __init__(self, state: TrainingState, config: GeneratorConfig, accelerator: Accelerator, steps: int):
        self.accelerator, self.config, self.process = accelerator, config, forward_process(config)
        self.network, self.optimizer = accelerator.prepare(state.network, state.optimizer)
        self.fast, self.parts = self.network, 1
        batch = config.batch_size // accelerator.num_processes
        if accelerator.device.type == "cuda":
            self.parts = parts_that_fit(batch, lambda n: self._try(self.network, n, config.patch_size), tqdm.write)
        if worth_compiling(accelerator.device, steps):
            part = -(-batch // self.parts)
            self.fast = compiled(self.network, lambda network: self._try(network, part, config.patch_size), tqdm.write)

    def _try(self, network: Callable, images: int, edge: int) -> None:
        device = self.accelerator.device
        kept = torch.empty(2 * sum(p.numel() for p in self.network.parameters()), device=device)  # AdamW's, later
        size = (images, self.accelerator.unwrap_model(self.network).config.in_channels, edge, edge)
        with computing_in(self.config.precision, self.accelerator.device):
            out = network(torch.zeros(size, device=device), torch.zeros(size[0], dtype=torch.long, device=device))
        self.accelerator.backward(out.sample.float().square().mean())
        self.optimizer.zero_grad()
        del kept

    def __call__(
        self, image: torch.Tensor, condition: torch.Tensor, weight: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """Updates the weights and returns the loss; arguments as of ``diffusion_loss``.

        The loss is a mean over images, so its gradient is a sum over any parts of the batch.
        """
        parts = list(zip(*(x.tensor_split(self.parts) for x in (image, condition, weight, noise, t)), strict=True))
        total = torch.zeros((), device=image.device)
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with nullcontext() if last else self.accelerator.no_sync(self.network):
                with computing_in(self.config.precision, self.accelerator.device):
                    loss = diffusion_loss(self.fast, self.process, *part) * (len(part[0]) / len(image))
                self.accelerator.backward(loss)
            total += loss.detach()
        self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total


class GanUpdate:
    """One Adam step of the discriminators on painted and real images, then one of the generator against them."""

    def __init__(self, state: TrainingState, config: GeneratorConfig, accelerator: Accelerator, steps: int):
        self.accelerator, self.config, self.judges = accelerator, config, state.discriminators
        self.network, self.optimizer, self.discriminators, self.discriminator_optimizer = accelerator.prepare(
            state.network, state.optimizer, state.discriminators, state.discriminator_optimizer
        )

    def __call__(
        self, image: torch.Tensor, condition: torch.Tensor, weight: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """Updates the weights and returns the generator's loss; arguments as of ``diffusion_loss``, t is not used."""
        with computing_in(self.config.precision, self.accelerator.device):
            fake = self.network(condition, noise).float()
            loss = discriminator_loss(self.config, self.discriminators, fake.detach(), image, condition, weight)
        self._descend(loss, self.discriminator_optimizer)
        self.judges.requires_grad_(False)  # the bare module: several processes have nothing to exchange for it here
        with computing_in(self.config.precision, self.accelerator.device):
            loss = generator_loss(self.config, self.judges, fake, image, condition, weight)
        self._descend(loss, self.optimizer)
        self.judges.requires_grad_(True)
        return loss

    def _descend(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        self.accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()


def make_update(state: TrainingState, config: GeneratorConfig, accelerator: Accelerator, steps: int) -> Callable:
    """Readies the state's networks and optimizers for the device and processes, and returns what updates them.

    ``steps``: of the whole training; compiling pays in long ones only.
    """
    kind = GanUpdate if METHODS[config.method].family == "gan" else DiffusionUpdate
    return kind(state, config, accelerator, steps)


def step_inputs(source: BatchSource, step: int, slots: list[int]) -> tuple[torch.Tensor, ...]:
    """This process's image, condition, weight, ε and t of a step, on the CPU; a pure function of (seed, step)."""
    config, batch = source.config, source.batch(step, slots)
    shape = (config.batch_size, *batch.image.shape[1:])
    noise, t = draw_noise(shape, config.train_timesteps, config.seed, step, config.timestep_power)
    return (*(torch.from_numpy(part) for part in (batch.image, batch.condition, batch.weight)), noise[slots], t[slots])


def train_step(
    state: TrainingState, update: Callable, inputs: tuple[torch.Tensor, ...], config: GeneratorConfig, total_steps: int
) -> torch.Tensor:
    """One step of the whole training state; returns this process's loss, still on its device."""
    for optimizer in state.optimizers().values():
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state.step, total_steps, config)
    loss = update(*inputs)
    state.ema.step(state.network.parameters())
    state.step += 1
    return loss.detach().float()


def over_processes(accelerator: Accelerator, losses: list[torch.Tensor], asked: bool) -> tuple[list[float], bool]:
    """Losses averaged over processes, and whether any of them was asked to stop (then all stop at the same step)."""
    together = torch.stack([*losses, torch.tensor(float(asked), device=losses[0].device)])
    *values, asked = accelerator.reduce(together, "mean").tolist()
    return values, asked > 0
