"""How long a network takes, from its number of operations and a rate that is measured here, without building it."""

from __future__ import annotations

import time
from statistics import median

import torch
from torch import nn

from nnunet_difflung.config import GeneratorConfig
from nnunet_difflung.runtime.device import computing_in

_MEASURED = {"cpu": 3e8}  # operations of a convolution whose rate is measured; many fewer are too few for a clock
_MEASURED_ELSEWHERE = 1e11
_REPEATS = 3
_LONG = 0.2  # seconds of a pass that is not repeated


def operations(config: GeneratorConfig, image_channels: int, condition_channels: int, edge: int) -> list[float]:
    """Floating-point operations of a forward pass of ``diffusion.build_network``, for each resolution level.

    A multiplication and an addition count as two. The embedding of the step is left out.

    Args:
        config: widths, blocks and attention of the network.
        image_channels: painted channels.
        condition_channels: all other input channels.
        edge: of the image, a multiple of ``encoding.size_factor``.
    """
    widths, layers = config.channels, config.layers_per_block
    last, counts = len(widths) - 1, []
    for level, width in enumerate(widths):
        pixels = (edge >> level) ** 2
        above, below = widths[max(0, level - 1)], widths[min(last, level + 1)]
        down = [above] + [width] * (layers - 1)
        up = [below + width, *[2 * width] * (layers - 1), width + above]  # each with what the way down has kept
        middle = [width, width] if level == last else []
        count = sum(_block(entering, width, pixels) for entering in down + up + middle)
        if config.attention:
            attending = layers * 2 + 1 if level == last - 1 else 0
            count += (attending + (level == last)) * _attention(width, pixels)
        if level < last:
            count += _convolution(width, width, pixels / 4)  # to the next level
        if level > 0:
            count += _convolution(width, width, pixels * 4)  # back to the one before
        if level == 0:
            count += _convolution(image_channels + condition_channels + image_channels, width, pixels)
        counts.append(count)
    return counts


def _convolution(entering: int, leaving: int, pixels: float, taps: int = 9) -> float:
    return 2.0 * taps * entering * leaving * pixels


def _block(entering: int, width: int, pixels: int) -> float:
    """A residual block: two convolutions, and one of single pixels where the width changes."""
    count = _convolution(entering, width, pixels) + _convolution(width, width, pixels)
    return count + (_convolution(entering, width, pixels, 1) if entering != width else 0.0)


def _attention(width: int, pixels: int) -> float:
    return 4 * _convolution(width, width, pixels, 1) + 4.0 * width * pixels**2


def seconds_of_passes(
    config: GeneratorConfig, image_channels: int, condition_channels: int, edge: int, device: str
) -> tuple[float, float]:
    """Estimated seconds per image of a forward pass, and of a forward and a backward pass, on the device.

    For each level the rate is that of a normalisation, an activation and a convolution of its width, at its resolution
    and with a training batch, or on a part of that if it would take long.
    """
    forward = both = 0.0
    counts = operations(config, image_channels, condition_channels, edge)
    for level, (width, count) in enumerate(zip(config.channels, counts, strict=True)):
        of_forward, of_both = _seconds_of_operation(config, width, edge >> level, device)
        forward, both = forward + count * of_forward, both + count * of_both
    return forward, both


def _seconds_of_operation(config: GeneratorConfig, width: int, edge: int, device: str) -> tuple[float, float]:
    """Seconds for each operation of a forward pass: of that pass, and with the backward pass."""
    most = _MEASURED.get(device, _MEASURED_ELSEWHERE)
    batch = max(1, min(config.batch_size, int(most / _convolution(width, width, edge**2))))
    edge = max(4, min(edge, int((most / _convolution(width, width, batch)) ** 0.5)))
    layer = nn.Sequential(
        nn.GroupNorm(min(32, config.channels[0] // 2), width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
    ).to(device)
    x = torch.ones(batch, width, edge, edge, device=device, requires_grad=True)
    times = []
    for _ in range(1 + _REPEATS):
        begun = time.perf_counter()
        with computing_in(config.precision, torch.device(device)):
            loss = layer(x).float().mean()
        loss.item()  # waits for the device
        between = time.perf_counter()
        loss.backward()
        next(layer.parameters()).grad.sum().item()  # type: ignore[union-attr]
        times.append((between - begun, time.perf_counter() - begun))
        if times[-1][1] > _LONG and len(times) > 1:
            break
    count = _convolution(width, width, batch * edge**2)
    forward, both = (median(part) / count for part in zip(*times[1:], strict=True))  # the first one includes set-up
    return forward, both
