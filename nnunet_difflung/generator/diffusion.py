"""The mask-conditioned diffusion model as pure functions over diffusers' networks and schedulers.

diffusers takes seconds to import, so it is imported only where a network is made or run; commands that refuse their
input or have nothing to do need not wait for it. Its lazily imported classes hide their bases from type checkers, so
the parts in use are declared here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, cast

import torch

from nnunet_difflung.config import GeneratorConfig

_SECOND_ORDER = ("dpm", "unipc")


class ForwardProcess(Protocol):
    """The part of diffusers' ``DDPMScheduler`` that is used here."""

    alphas_cumprod: torch.Tensor
    config: SimpleNamespace

    def add_noise(self, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, /) -> torch.Tensor:
        """x_t of Eq. 6."""

    def get_velocity(self, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, /) -> torch.Tensor:
        """The target of v-prediction."""

    def save_pretrained(self, folder: Path, /) -> None:
        """Writes its configuration."""


def build_network(config: GeneratorConfig, image_channels: int, condition_channels: int) -> torch.nn.Module:
    """The network ε_θ(x_t, t | m) of Eq. 7 (UNet2DModel): image and masks are input channels; the target is the output.

    Without attention it is purely convolutional, so that it can be trained on crops and applied to any size.
    """
    from diffusers import UNet2DModel

    levels = len(config.channels)
    attending = {levels - 2} if config.attention and levels > 1 else set()
    network = UNet2DModel(
        in_channels=image_channels + condition_channels,
        out_channels=image_channels,
        layers_per_block=config.layers_per_block,
        block_out_channels=tuple(config.channels),
        down_block_types=tuple("AttnDownBlock2D" if i in attending else "DownBlock2D" for i in range(levels)),
        up_block_types=tuple("AttnUpBlock2D" if i in attending else "UpBlock2D" for i in reversed(range(levels))),
        norm_num_groups=min(32, config.channels[0] // 2),
        add_attention=config.attention,
    )
    return cast(torch.nn.Module, network)


def _schedule_options(config: GeneratorConfig) -> dict:
    return {
        "num_train_timesteps": config.train_timesteps,
        "beta_schedule": config.noise_schedule,
        "prediction_type": config.prediction,
        "rescale_betas_zero_snr": config.zero_terminal_snr,
        "timestep_spacing": "trailing",
    }


def forward_process(config: GeneratorConfig) -> ForwardProcess:
    """β and ᾱ of Eq. 1 and 2, with ``add_noise`` (Eq. 6) and ``get_velocity``."""
    from diffusers import DDPMScheduler

    return cast(ForwardProcess, DDPMScheduler(**_schedule_options(config)))


def diffusion_loss(
    network: Callable,
    process: ForwardProcess,
    x_0: torch.Tensor,
    condition: torch.Tensor,
    weight: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
) -> torch.Tensor:
    """Eq. 7, ‖ε − ε_θ(x_t, t | m)‖², or the same for the velocity, averaged with ``weight``.

    Args:
        network: UNet2DModel.
        process: the forward process.
        x_0: (n, c, h, w) in [−1, 1].
        condition: (n, k, h, w) masks after ablation.
        weight: (n, 1, h, w), 0 for voxels that do not count.
        noise: (n, c, h, w) standard normal ε.
        t: (n,) timesteps.

    Returns:
        Scalar: the mean over images of each image's weighted mean, so that equal parts of a batch can be averaged.
    """
    return _loss(network, process, process.add_noise(x_0, noise, t), x_0, condition, weight, noise, t)


def region_loss(
    network: Callable,
    process: ForwardProcess,
    x_0: torch.Tensor,
    condition: torch.Tensor,
    weight: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    slices: int = 1,
) -> torch.Tensor:
    """Eq. 7 in a region whose surroundings the network sees without noise (Palette, Saharia et al. 2022).

    The arguments are those of ``diffusion_loss``; the first channel of ``condition`` is 1 in the region, and ``weight``
    is 0 outside. With several ``slices``, ``x_0`` and ``noise`` are (n, slices · c, h, w), and the first ``slices``
    channels of ``condition`` are their regions; the network predicts the first slice (``along_z``).
    """
    channels = x_0.shape[1] // slices
    region = condition[:, :slices].repeat_interleave(channels, 1) > 0
    x_t = torch.where(region, process.add_noise(x_0, noise, t), x_0)
    return _loss(network, process, x_t, x_0[:, :channels], condition, weight, noise[:, :channels], t)


def _loss(
    network: Callable,
    process: ForwardProcess,
    x_t: torch.Tensor,
    x_0: torch.Tensor,
    condition: torch.Tensor,
    weight: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
) -> torch.Tensor:
    target = noise if process.config.prediction_type == "epsilon" else process.get_velocity(x_0, noise, t)
    predicted = network(torch.cat([x_t, condition], 1), t).sample.float()
    error = (predicted - target).square() * weight
    return (error.sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * x_0.shape[1]).clamp(min=1)).mean()


def reverse_timesteps(steps: int, train_timesteps: int) -> list[int]:
    """Timesteps of DDIM and DDPM, falling from T − 1 to 0, spaced quadratically so that the last ones are small.

    With even spacing and few steps, the last step removes so much noise at once that fine texture is lost (an ideal
    denoiser with 25 steps kept 11 of 40 HU; with this spacing nearly all). If ``steps`` is T, all timesteps are used.
    """
    even = torch.linspace(1, 0, steps, dtype=torch.float64) if steps > 1 else torch.ones(1, dtype=torch.float64)
    spaced = (even**2 * (train_timesteps - 1)).round().long().tolist()
    wanted = min(steps, train_timesteps)
    for i in range(1, wanted):  # neighbours must differ
        spaced[i] = min(spaced[i], spaced[i - 1] - 1)
    for i in range(wanted - 1, -1, -1):
        spaced[i] = max(spaced[i], wanted - 1 - i)
    return spaced[:wanted]


def reverse_step(
    x_t: torch.Tensor,
    predicted: torch.Tensor,
    bar: torch.Tensor,
    bar_before: torch.Tensor,
    prediction: str,
    fresh: torch.Tensor | None = None,
) -> torch.Tensor:
    """A reverse step between any two timesteps; x_0 is clipped, and ε recomputed from the clipped x_0.

    Deterministic: DDIM (Song, Meng, Ermon 2021, Eq. 12 with σ = 0). With ``fresh`` noise: the same with the σ that
    makes it DDPM's posterior (Eq. 3 and 4 for neighbouring timesteps).

    Args:
        x_t: (n, c, h, w).
        predicted: ε or velocity, as ``prediction`` says.
        bar: ᾱ of this timestep.
        bar_before: ᾱ of the next, smaller timestep; 1 for the clean image.
        prediction: ``epsilon`` or ``v_prediction``.
        fresh: (n, c, h, w) standard normal, or None.
    """
    if prediction == "epsilon":
        x_0 = (x_t - (1 - bar).sqrt() * predicted) / bar.sqrt()
    else:
        x_0 = bar.sqrt() * x_t - (1 - bar).sqrt() * predicted
    x_0 = x_0.clamp(-1, 1)
    noise = (x_t - bar.sqrt() * x_0) / (1 - bar).sqrt().clamp(min=1e-8)
    if fresh is None:
        return bar_before.sqrt() * x_0 + (1 - bar_before).sqrt() * noise
    variance = ((1 - bar_before) / (1 - bar).clamp(min=1e-8) * (1 - bar / bar_before)).clamp(min=0)
    kept = (1 - bar_before - variance).clamp(min=0).sqrt()
    return bar_before.sqrt() * x_0 + kept * noise + variance.sqrt() * fresh


@torch.no_grad()
def paint(
    network: Callable,
    config: GeneratorConfig,
    sampler: str,
    steps: int,
    condition: torch.Tensor,
    noise: torch.Tensor,
    known: torch.Tensor | None = None,
    is_known: torch.Tensor | None = None,
    generators: Sequence[torch.Generator] | None = None,
    start: torch.Tensor | None = None,
    strength: float = 1.0,
    resamplings: int = 1,
    noised: bool = True,
    joined: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Samples p(x_0 | m); a known region, if given, is re-imposed at every step.

    With ``resamplings`` above 1 each step but the last is taken back with fresh noise and done again, so that the
    painted region fits what is re-imposed (RePaint, Lugmayr et al. 2022).

    Args:
        network: UNet2DModel with the averaged weights, in evaluation mode.
        config: configuration of the generator.
        sampler: ``ddim``, ``ddpm``, or a second-order sampler of diffusers, ``dpm`` (DPM-Solver++) or ``unipc``.
        steps: number of reverse steps.
        condition: (n, k, h, w) complete masks; nothing is ablated when sampling.
        noise: (n, c, h, w) standard normal: x_T, and the ε for noising the known region.
        known: (n, c, h, w) real image in [−1, 1].
        is_known: (n, 1, h, w) bool; None paints everything.
        generators: for each image a generator (on the CPU) of ``ddpm``'s further noise.
        start: (n, c, h, w) in [−1, 1], an image to begin from instead of pure noise (``ddim`` and ``ddpm``).
        strength: how far ``start`` is noised first (Eq. 6), as a share of the training timesteps.
        resamplings: how often each reverse step is done (``ddim`` and ``ddpm``).
        noised: the known region is re-imposed with as much noise as x_t has, for networks that were trained so; else
            as it is.
        joined: makes the fresh noise of neighbouring slices alike (``along_z.along_stacks``); None: it is independent.

    Returns:
        (n, c, h, w) in [−1, 1]; equal to ``known`` in the known region.
    """
    if sampler in _SECOND_ORDER:
        return _paint_second_order(network, config, sampler, steps, condition, noise, known, is_known, noised)
    alpha_bar = forward_process(config).alphas_cumprod.to(noise.device)
    reach = config.train_timesteps if start is None else max(1, round(strength * config.train_timesteps))
    clean, timesteps = alpha_bar.new_ones(()), reverse_timesteps(steps, reach)
    x_t = noise
    if start is not None:
        first = alpha_bar[timesteps[0]]
        x_t = first.sqrt() * start + (1 - first).sqrt() * noise
    imposed = noise if noised else None
    x_t = _impose(x_t, known, is_known, imposed, alpha_bar[timesteps[0]])
    for i, t in enumerate(timesteps):
        bar, last = alpha_bar[t], i + 1 == len(timesteps)
        bar_before = clean if last else alpha_bar[timesteps[i + 1]]
        for again in range(1 if last else resamplings):
            if again:
                x_t = noised_again(x_t, _fresh(noise, generators, joined), bar, bar_before)
                if known is not None and imposed is not None:
                    imposed = (x_t - bar.sqrt() * known) / (1 - bar).sqrt()  # what the known region's noise is now
            predicted = network(torch.cat([x_t, condition], 1), torch.tensor(t, device=noise.device)).sample.float()
            fresh = _fresh(noise, generators, joined) if sampler == "ddpm" else None
            x_t = reverse_step(x_t, predicted, bar, bar_before, config.prediction, fresh)
            x_t = _impose(x_t, known, is_known, imposed, bar_before)
    return x_t.clamp(-1, 1)


def noised_again(x_t: torch.Tensor, fresh: torch.Tensor, bar: torch.Tensor, bar_before: torch.Tensor) -> torch.Tensor:
    """Takes x_t back from ᾱ ``bar_before`` to the smaller ᾱ ``bar`` with fresh noise (Eq. 1 over several timesteps)."""
    kept = bar / bar_before
    return kept.sqrt() * x_t + (1 - kept).sqrt() * fresh


def _paint_second_order(
    network: Callable,
    config: GeneratorConfig,
    sampler: str,
    steps: int,
    condition: torch.Tensor,
    noise: torch.Tensor,
    known: torch.Tensor | None,
    is_known: torch.Tensor | None,
    noised: bool,
) -> torch.Tensor:
    """DPM-Solver++ 2M (Lu et al. 2022) or UniPC (Zhao et al. 2023), timesteps evenly spaced in log SNR."""
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

    options = _schedule_options(config)
    scheduler: Any = (
        DPMSolverMultistepScheduler(**options, use_lu_lambdas=True)
        if sampler == "dpm"
        else UniPCMultistepScheduler(**options, use_exponential_sigmas=True)
    )
    scheduler.set_timesteps(steps, device=noise.device)
    scheduler.set_begin_index(0)  # else it is looked up by its timestep, which many steps, rounded, have twice
    sigmas = scheduler.sigmas.to(noise.device)
    bars = (1 / (1 + sigmas**2)).to(noise.dtype)
    imposed = noise if noised else None
    x_t = _impose(noise, known, is_known, imposed, bars[0])
    for i, t in enumerate(scheduler.timesteps):
        predicted = network(torch.cat([x_t, condition], 1), t).sample.float()
        x_t = scheduler.step(predicted, t, x_t).prev_sample
        x_t = _impose(x_t, known, is_known, imposed, bars[i + 1])
    return x_t.clamp(-1, 1) if known is None or is_known is None else torch.where(is_known, known, x_t.clamp(-1, 1))


def _fresh(
    like: torch.Tensor,
    generators: Sequence[torch.Generator] | None,
    joined: Callable[[torch.Tensor], torch.Tensor] | None,
) -> torch.Tensor:
    """Standard normal noise; each image has its own generator on the CPU, so that all devices get the same noise."""
    sources: Sequence[torch.Generator | None] = [None] * len(like) if generators is None else generators
    noise = torch.stack([torch.randn(like.shape[1:], generator=source) for source in sources]).to(like.device)
    return joined(noise) if joined else noise


def _impose(
    x_t: torch.Tensor,
    known: torch.Tensor | None,
    is_known: torch.Tensor | None,
    noise: torch.Tensor | None,
    bar: torch.Tensor,
) -> torch.Tensor:
    """Replaces the known region of x_t by √ᾱ_t·x_0 + √(1 − ᾱ_t)·ε (Eq. 6), or by x_0 without ``noise``."""
    if known is None or is_known is None:
        return x_t
    if noise is None:
        return torch.where(is_known, known, x_t)
    return torch.where(is_known, bar.sqrt() * known + (1 - bar).sqrt() * noise, x_t)
