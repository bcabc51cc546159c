"""Holds what is painted to the level and spread that the network is told.

The mean over a lesion is a linear measurement of the clean image, so every prediction of the clean image has to agree
with it; what a prediction lacks is added, as DDNM does for linear inverse problems (Wang, Yu, Zhang 2023). Predictions
from much noise are smoother than the image itself, so the spread is corrected in the last steps only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch

from nnunet_difflung.config import GeneratorConfig
from nnunet_difflung.generator.diffusion import forward_process
from nnunet_difflung.generator.style import told_spread
from nnunet_difflung.lesions.masks import MIN_VOXELS

_LITTLE_NOISE = 0.99  # ᾱ above which a prediction of the clean image has the clean image's spread
_MOST_GAIN = 1.5  # factor of the spread in one step


def held_to_style(
    network: Callable,
    config: GeneratorConfig,
    style: torch.Tensor,
    parts: torch.Tensor,
    stacks: Sequence[int] | None = None,
) -> Callable[[torch.Tensor, torch.Tensor], SimpleNamespace]:
    """The network with its predictions corrected.

    Args:
        network: called with (n, channels, h, w), of which the first are x_t, and a timestep.
        config: configuration of the generator.
        style: (n, 2c + 1, h, w), see ``style``.
        parts: (n, 1, h, w) int, 0 or the number of a lesion (or piece of normal lung), within whose slices ``style`` is
            constant.
        stacks: lengths of stacks of slices; a lesion is held to its style as a whole, over all slices of its stack.
            None: each slice by itself.

    Returns:
        A function like ``network``.
    """
    bars = forward_process(config).alphas_cumprod.to(style.device)
    lesions = _lesions(style, parts, [1] * len(parts) if stacks is None else stacks)
    channels = (style.shape[1] - 1) // 2

    def corrected(inputs: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
        predicted, x_t, bar = network(inputs, t).sample.float(), inputs[:, :channels], bars[t.long()]
        signal, noise = bar.sqrt(), (1 - bar).sqrt()
        epsilon = config.prediction == "epsilon"
        x_0 = ((x_t - noise * predicted) / signal if epsilon else signal * x_t - noise * predicted).clamp(-1, 1)
        for slices, where, mean, spread in lesions:
            stack = x_0[slices].transpose(0, 1)  # a view: what is written into it is written into x_0
            stack[:, where] = _matched(stack[:, where], mean, spread if bar > _LITTLE_NOISE else None)
        sample = (x_t - signal * x_0) / noise if epsilon else (signal * x_t - x_0) / noise
        return SimpleNamespace(sample=sample)

    return corrected


def _matched(values: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor | None) -> torch.Tensor:
    """(c, m) values with the wanted mean, and nearer to the wanted standard deviation if one is given."""
    centred = values - values.mean(1, keepdim=True)
    if spread is not None:
        gain = spread / values.std(1, correction=0, keepdim=True).clamp(min=1e-4)
        centred = centred * gain.clamp(1 / _MOST_GAIN, _MOST_GAIN)
    return mean + centred


def _lesions(
    style: torch.Tensor, parts: torch.Tensor, stacks: Sequence[int]
) -> list[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Slices of the stack, voxels (s, h, w), mean (c, 1) and spread (c, 1) of each lesion with enough voxels."""
    lesions, first = [], 0
    for length in stacks:
        slices = slice(first, first + length)
        numbers, of_stack = parts[slices, 0], style[slices].transpose(0, 1)
        for number in numbers.unique().tolist():
            where = numbers == number
            if number == 0 or int(where.sum()) < MIN_VOXELS:
                continue
            level, spread = of_stack[:-1, where].chunk(2)
            if length == 1:  # the same in all voxels
                mean, deviation = level[:, :1], told_spread(spread[:, :1])
            else:
                mean = level.mean(1, keepdim=True)
                variance = told_spread(spread).square() + (level - mean).square()
                deviation = variance.mean(1, keepdim=True).sqrt()
            lesions.append((slices, where, mean, deviation))
        first += length
    return lesions
