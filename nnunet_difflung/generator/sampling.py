"""Paints masks with any method: a batch of tensors, or slices as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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
    style: torch.Tensor | None = None,
    parts: torch.Tensor | None = None,
    stacks: Sequence[int] | None = None,
    shared: torch.Tensor | None = None,
) -> torch.Tensor:
    """Paints masks with a method.

    Args:
        method: a value of ``methods.METHODS``.
        generator: generator of ``method.trained``.
        sampling: sampler, steps, strength, precision.
        condition: this and the following arguments are described in ``Canvas``.

    Returns:
        (n, c, h, w) in [−1, 1]; equal to ``known`` where ``is_known`` is true.
    """
    canvas = Canvas(condition, noise, known, is_known, blend, start, sources, style, parts, stacks, shared)
    return family_of(method).paint(generator, sampling, canvas)


@dataclass(frozen=True)
class SliceInputs:
    """Inputs of a network for a slice to paint; the arrays are those of ``Canvas`` without their first axis.

    Attributes:
        condition: (k, h, w).
        noise: (c, h, w) float32.
        seed: seed of the further noise that a sampler draws.
        known: (c, h, w); None, like the following arrays, to paint the whole slice.
        is_known: (1, h, w) bool.
        blend: (1, h, w) float32.
        start: (c, h, w).
        style: (2c + 1, h, w) float32.
        parts: (1, h, w) int32.
        shared: share of its noise that it has in common with its neighbours.
    """

    condition: np.ndarray
    noise: np.ndarray
    seed: int
    known: np.ndarray | None = None
    is_known: np.ndarray | None = None
    blend: np.ndarray | None = None
    start: np.ndarray | None = None
    style: np.ndarray | None = None
    parts: np.ndarray | None = None
    shared: float = 0.0


def paint_slices(
    method: Method,
    generator: Generator,
    sampling: SamplingConfig,
    slices: Sequence[SliceInputs],
    device: str | torch.device,
    stacks: Sequence[int] | None = None,
) -> np.ndarray:
    """Paints slices of the same shape together.

    Args:
        method: a value of ``methods.METHODS``.
        generator: generator of ``method.trained``.
        sampling: sampler, steps, strength, precision.
        slices: what to paint.
        device: where.
        stacks: lengths of the stacks of neighbouring slices; None: no two are neighbours.

    Returns:
        (n, c, h, w) float32 in [−1, 1].
    """

    def stacked(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays)).to(device)

    def stacked_if_given(arrays: Sequence[np.ndarray | None]) -> torch.Tensor | None:
        given = [array for array in arrays if array is not None]
        return stacked(given) if given else None

    painted = paint_batch(
        method,
        generator,
        sampling,
        stacked([inputs.condition for inputs in slices]),
        stacked([inputs.noise for inputs in slices]),
        stacked_if_given([inputs.known for inputs in slices]),
        stacked_if_given([inputs.is_known for inputs in slices]),
        stacked_if_given([inputs.blend for inputs in slices]),
        stacked_if_given([inputs.start for inputs in slices]),
        [torch.Generator().manual_seed(inputs.seed) for inputs in slices],
        stacked_if_given([inputs.style for inputs in slices]),
        stacked_if_given([inputs.parts for inputs in slices]),
        stacks,
        None if stacks is None else torch.tensor([inputs.shared for inputs in slices]).to(device),
    )
    return painted.float().cpu().numpy()
