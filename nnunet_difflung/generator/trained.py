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
        network: in evaluation mode; its inputs and outputs depend on its family (``generator.families``).
        config: configuration with the windows and patch size resolved from the fold's training cases.
        conditions: names of the condition channels.
        training_cases: ids of all cases that it was trained on.
        hash: SHA-256 of the weights' file.
        folder: folder of its files.
        ready: precision → the network as reverse steps call it; made at its first use.
    """

    network: torch.nn.Module
    config: GeneratorConfig
    conditions: tuple[str, ...]
    training_cases: tuple[str, ...]
    hash: str
    folder: Path
    ready: dict[str, Callable] = field(default_factory=dict, repr=False, compare=False)

    def for_reverse_steps(self, precision: str, device: torch.device) -> Callable:
        """The network of a diffusion model for reverse steps in ``fp32`` or ``bf16``."""
        if precision not in self.ready:
            self.ready[precision] = for_reverse_steps(self.network, precision, device)
        return self.ready[precision]
