"""A trained generator in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nnunet_difflung.config import GeneratorConfig
from nnunet_difflung.runtime.device import for_reverse_steps


@dataclass(frozen=True)
class Generator:
    """Averaged weights, ready to paint.

    Attributes:
        network: in evaluation mode; what it maps to what is its family's matter (``families``).
        config: with the windows and patch size that were resolved from the fold's training cases.
        conditions: names of the condition channels.
        training_cases: ids of all cases that the weights have seen.
        hash: SHA-256 of the weights' file.
        folder: where it lies.
        ready: precision → the network as reverse steps call it, made when it is first asked for.
    """

    network: torch.nn.Module
    config: GeneratorConfig
    conditions: tuple[str, ...]
    training_cases: tuple[str, ...]
    hash: str
    folder: Path
    ready: dict[str, Callable] = field(default_factory=dict, repr=False, compare=False)

    def for_reverse_steps(self, precision: str, device: torch.device) -> Callable:
        """The network of a diffusion model as painting calls it, in ``fp32`` or ``bf16``."""
        if precision not in self.ready:
            self.ready[precision] = for_reverse_steps(self.network, precision, device)
        return self.ready[precision]
