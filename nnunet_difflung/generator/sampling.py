"""From masks to images, whatever the method: the one place where diffusion, GANs and copying meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.generator.diffusion import paint
from nnunet_difflung.generator.store import Generator
from nnunet_difflung.methods import Method
from nnunet_difflung.runtime.device import in_precision


@torch.no_grad()
def paint_batch(
    method: Method,
    generator: Generator,
    sampling: SamplingConfig,
    condition: torch.Tensor,
    noise: torch.Tensor,
    known: torch.Tensor | None = None,
    is_known: torch.Tensor | None = None,
    blend: torch.Tensor | None = None,
    start: torch.Tensor | None = None,
    sources: Sequence[torch.Generator] | None = None,
) -> torch.Tensor:
    """Paints masks with a method.

    Args:
        method: one of ``methods.METHODS``.
        generator: that of ``method.generator``.
        sampling: sampler, steps, strength, precision.
        condition: (n, k, h, w) complete masks; h and w are multiples of the network's size factor.
        noise: (n, c, h, w) standard normal; equal noise gives an equal image, whatever else is in the batch.
        known: (n, c, h, w) real image in [−1, 1] for painting into it; None paints everything.
        is_known: (n, 1, h, w) bool, where ``known`` is kept.
        blend: (n, 1, h, w) in [0, 1], weight of what is painted, for methods that do not see ``known`` themselves.
        start: (n, c, h, w) in [−1, 1], ``known`` with real lesion texture pasted (``method.pastes``).
        sources: for each image a generator of further noise (``ddpm``).

    Returns:
        (n, c, h, w) in [−1, 1]; equal to ``known`` where that is kept.
    """
    if method.family == "copy":
        return torch.where(is_known, known, start)
    if method.family == "gan":
        network = in_precision(generator.network, sampling.precision, noise.device)
        painted = network(condition, noise).float().clamp(-1, 1)
        return painted if known is None else torch.where(is_known, known, blend * painted + (1 - blend) * known)
    network = generator.for_reverse_steps(sampling.precision, noise.device)
    if method.family == "diffusion":
        return paint(
            network, generator.config, sampling.sampler, sampling.steps, condition, noise, known, is_known, sources
        )
    return paint(
        network,
        generator.config,
        "ddim",
        sampling.steps,
        condition,
        noise,
        known,
        is_known,
        sources,
        start,
        sampling.strength,
    )
