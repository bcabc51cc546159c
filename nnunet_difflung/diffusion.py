"""The mask-conditioned diffusion model as pure functions over diffusers' networks and schedulers."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

from nnunet_difflung.config import GeneratorConfig


def build_network(config: GeneratorConfig, image_channels: int, condition_channels: int) -> UNet2DModel:
    """The network ε_θ(x_t, t | m) of Eq. 7: image and masks enter as channels, the image's target leaves.

    Without attention it is purely convolutional, so that it can be trained on crops and applied to any size.
    """
    levels = len(config.channels)
    attending = {levels - 2} if config.attention and levels > 1 else set()
    return UNet2DModel(
        in_channels=image_channels + condition_channels,
        out_channels=image_channels,
        layers_per_block=config.layers_per_block,
        block_out_channels=tuple(config.channels),
        down_block_types=tuple("AttnDownBlock2D" if i in attending else "DownBlock2D" for i in range(levels)),
        up_block_types=tuple("AttnUpBlock2D" if i in attending else "UpBlock2D" for i in reversed(range(levels))),
        norm_num_groups=min(32, config.channels[0] // 2),
        add_attention=config.attention,
    )


def size_factor(config: GeneratorConfig) -> int:
    """Image edges must be multiples of this for the network's poolings."""
    return 2 ** (len(config.channels) - 1)


def _schedule_options(config: GeneratorConfig) -> dict:
    return {"num_train_timesteps": config.train_timesteps, "beta_schedule": config.noise_schedule,
            "prediction_type": config.prediction, "rescale_betas_zero_snr": config.zero_terminal_snr,
            "timestep_spacing": "trailing"}


def forward_process(config: GeneratorConfig) -> DDPMScheduler:
    """β and ᾱ of Eq. 1 and 2, with ``add_noise`` (Eq. 6) and ``get_velocity``."""
    return DDPMScheduler(**_schedule_options(config))


def diffusion_loss(network: Callable, process: DDPMScheduler, x_0: torch.Tensor, condition: torch.Tensor,
                   weight: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Eq. 7, ‖ε − ε_θ(x_t, t | m)‖², or the same for the velocity; the mean over the voxels that count.

    Args:
        network: UNet2DModel.
        process: the forward process.
        x_0: (n, c, h, w) in [−1, 1].
        condition: (n, k, h, w) masks after ablation.
        weight: (n, 1, h, w), 0 for voxels that do not count.
        noise: (n, c, h, w) standard normal ε.
        t: (n,) timesteps.

    Returns:
        Scalar: each image's weighted mean, averaged over images (so that equal parts of a batch can be averaged).
    """
    x_t = process.add_noise(x_0, noise, t)
    target = noise if process.config.prediction_type == "epsilon" else process.get_velocity(x_0, noise, t)
    predicted = network(torch.cat([x_t, condition], 1), t).sample.float()
    error = (predicted - target).square() * weight
    return (error.sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * x_0.shape[1]).clamp(min=1)).mean()


def reverse_process(config: GeneratorConfig, sampler: str):
    """The scheduler that steps back: ``ddim``, ``dpm`` (DPM-Solver++, second order) or ``ddpm``."""
    options = _schedule_options(config)
    if sampler == "dpm":
        return DPMSolverMultistepScheduler(**options)
    return {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}[sampler](**options)


@torch.no_grad()
def paint(network: Callable, config: GeneratorConfig, sampler: str, steps: int, condition: torch.Tensor,
          noise: torch.Tensor, known: torch.Tensor | None = None, is_known: torch.Tensor | None = None,
          generators: Sequence[torch.Generator] | None = None) -> torch.Tensor:
    """Samples p(x_0 | m), with a known region re-imposed at every step where one is given.

    DDIM runs with diffusers' ``use_clipped_model_output``: the default clips x_0 but keeps the ε that belonged to the
    unclipped one, which shifts lung by tens of HU.

    Args:
        network: UNet2DModel with the averaged weights, in evaluation mode.
        config: of the generator.
        sampler: see ``reverse_process``.
        steps: number of reverse steps.
        condition: (n, k, h, w) complete masks; nothing is ablated when sampling.
        noise: (n, c, h, w) standard normal, x_T, and the ε with which the known region is noised.
        known: (n, c, h, w) real image in [−1, 1].
        is_known: (n, 1, h, w) bool; None paints everything.
        generators: one for each image, for the noise of stochastic samplers.

    Returns:
        (n, c, h, w) in [−1, 1]; equal to ``known`` in the known region.
    """
    scheduler = reverse_process(config, sampler)
    scheduler.set_timesteps(steps)
    extra = {"use_clipped_model_output": True} if sampler == "ddim" else {}
    extra["generator"] = list(generators) if generators else None
    timesteps = scheduler.timesteps.to(noise.device)
    x_t = _impose(noise, known, is_known, noise, scheduler, timesteps[0])
    for i, t in enumerate(timesteps):
        predicted = network(torch.cat([x_t, condition], 1), t).sample.float()
        x_t = scheduler.step(predicted, t, x_t, **extra).prev_sample
        x_t = _impose(x_t, known, is_known, noise, scheduler, timesteps[i + 1] if i + 1 < len(timesteps) else None)
    return x_t.clamp(-1, 1)


def _impose(x_t: torch.Tensor, known: torch.Tensor | None, is_known: torch.Tensor | None, noise: torch.Tensor,
            scheduler, t: torch.Tensor | None) -> torch.Tensor:
    """Replaces the known region of x_t by √ᾱ_t·x_0 + √(1 − ᾱ_t)·ε (Eq. 6); t = None is the clean image."""
    if known is None or is_known is None:
        return x_t
    there = known if t is None else scheduler.add_noise(known, noise, t.expand(len(known)))
    return torch.where(is_known, there, x_t)
