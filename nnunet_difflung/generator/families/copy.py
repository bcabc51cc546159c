"""Copy and paste: the real lesion's texture, blended into the host, without a network."""

from __future__ import annotations

import torch

from nnunet_difflung.config import GeneratorConfig, SamplingConfig
from nnunet_difflung.generator.families.interface import ABLATION_OPTIONS, Canvas, Family
from nnunet_difflung.generator.trained import Generator


class CopyPaste(Family):
    """Uses the pasted texture unchanged."""

    starts_from_paste = True
    paints_whole_slices = False
    varies = False
    unused_options = (
        *ABLATION_OPTIONS,
        "prediction",
        "sampler",
        "steps",
        "epochs",
        "batch_size",
        "patch_size",
        "balanced_share",
        "precision",
    )

    def paint(self, generator: Generator, sampling: SamplingConfig, canvas: Canvas) -> torch.Tensor:
        """``canvas.start`` outside the known region."""
        if canvas.known is None or canvas.is_known is None or canvas.start is None:
            raise ValueError("texture can only be pasted into a real image")
        return torch.where(canvas.is_known, canvas.known, canvas.start)

    def seconds_per_image(
        self,
        config: GeneratorConfig,
        sampling: SamplingConfig,
        image_channels: int,
        condition_channels: int,
        edge: int,
        device: str,
    ) -> tuple[float, float]:
        """Nothing is trained; pasting and writing take a moment."""
        return 0.0, 0.1


FAMILY = CopyPaste
