"""From masks to images, whatever the method."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.generator.families.interface import Canvas
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.methods import Method


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
        generator: that of ``method.trained``.
        sampling: sampler, steps, strength, precision.
        condition: this and all that follow as of ``Canvas``.

    Returns:
        (n, c, h, w) in [−1, 1]; equal to ``known`` where that is kept.
    """
    canvas = Canvas(condition, noise, known, is_known, blend, start, sources)
    return family_of(method).paint(generator, sampling, canvas)
