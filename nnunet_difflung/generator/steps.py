"""A training step of any family: learning rate, noise, batch, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from nnunet_difflung.config import GeneratorConfig
from nnunet_difflung.generator.batches import BatchSource
from nnunet_difflung.generator.checkpoint import TrainingState
from nnunet_difflung.generator.families.interface import Update


def learning_rate(step: int, total: int, config: GeneratorConfig) -> float:
    """Linear warm-up, then a half cosine to zero; a function of the step, so there is no state to restore."""
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
        seed: seed of the training.
        step: step of the training.
        power: t = u^power · T with u uniform in [0, 1); 1 is uniform, more draws small t more often.
    """
    source = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step, 7]).generate_state(1)[0]))
    noise = torch.randn(tuple(shape), generator=source)
    t = torch.rand(shape[:1], generator=source, dtype=torch.float64) ** power * timesteps
    return noise, t.long().clamp(max=timesteps - 1)


def step_inputs(source: BatchSource, step: int, slots: list[int]) -> tuple[torch.Tensor, ...]:
    """A process's image, condition, weight, ε and t for a step, on the CPU; a pure function of (seed, step)."""
    config, batch = source.config, source.batch(step, slots)
    shape = (config.batch_size, *batch.image.shape[1:])
    noise, t = draw_noise(shape, config.train_timesteps, config.seed, step, config.timestep_power)
    return (*(torch.from_numpy(part) for part in (batch.image, batch.condition, batch.weight)), noise[slots], t[slots])


def train_step(
    state: TrainingState, update: Update, inputs: tuple[torch.Tensor, ...], config: GeneratorConfig, total_steps: int
) -> torch.Tensor:
    """Does a training step; returns this process's loss as a tensor on its device."""
    for optimizer in state.optimizers().values():
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state.step, total_steps, config)
    loss = update(*inputs)
    state.ema.step(state.network.parameters())
    state.step += 1
    return loss.detach().float()


def over_processes(accelerator: Accelerator, losses: list[torch.Tensor], asked: bool) -> tuple[list[float], bool]:
    """Losses averaged over processes, and whether any process was asked to stop (then all stop at the same step)."""
    together = torch.stack([*losses, torch.tensor(float(asked), device=losses[0].device)])
    *values, asked = accelerator.reduce(together, "mean").tolist()
    return values, asked > 0
