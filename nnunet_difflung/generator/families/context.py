"""Diffusion that fills a region of a real slice given the slice around it (Palette, Saharia et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator

from nnunet_difflung.config import GeneratorConfig, SamplingConfig
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.checkpoint import TrainingState
from nnunet_difflung.generator.diffusion import paint, region_loss
from nnunet_difflung.generator.families.diffusion import Diffusion, DiffusionUpdate
from nnunet_difflung.generator.families.interface import Canvas
from nnunet_difflung.generator.guidance import held_to_style
from nnunet_difflung.generator.regions import RegionSource
from nnunet_difflung.generator.style import style_channels
from nnunet_difflung.generator.trained import Generator


class ContextUpdate(DiffusionUpdate):
    """The loss of Eq. 7 in the region, and an AdamW step."""

    loss = staticmethod(region_loss)


class Context(Diffusion):
    """The network sees the real image outside the region, and paints nothing else.

    Its input channels are the image, noised in the region and real elsewhere; the region; the masks; the region's
    style.
    """

    source = RegionSource
    uses_style = True
    paints_whole_slices = False
    reimposes = False
    sampler = "ddpm"  # fresh noise at each step joins the region to its surroundings better than ddim (docs/method.md)

    def check_options(self, sampling: SamplingConfig, given: Mapping[str, object]) -> None:
        """Also refuses whole slices, which have no surroundings."""
        super().check_options(sampling, given)
        if sampling.paint == "full":
            raise BadInput(
                f"--method {self.method.name} fills regions of real slices and cannot paint whole ones; add "
                f"--paint composite"
            )

    def channels_beside_image(self, image_channels: int, condition_channels: int) -> int:
        """The masks, the region, and its style."""
        return condition_channels + 1 + style_channels(image_channels)

    def make_update(
        self, state: TrainingState, config: GeneratorConfig, accelerator: Accelerator, steps: int
    ) -> ContextUpdate:
        """See ``TrainedFamily``."""
        return ContextUpdate(state, config, accelerator, steps)

    def paint(self, generator: Generator, sampling: SamplingConfig, canvas: Canvas) -> torch.Tensor:
        """The reverse process from pure noise in the region; without ``canvas.style`` the network is told none.

        With ``canvas.parts`` what is painted is held to its style (``guidance.held_to_style``).
        """
        if canvas.known is None or canvas.is_known is None:
            raise ValueError("a region can only be filled in a real image")
        style = canvas.style
        if style is None:
            size = (len(canvas.noise), style_channels(canvas.noise.shape[1]), *canvas.noise.shape[2:])
            style = canvas.noise.new_zeros(size)
        network = generator.for_reverse_steps(sampling.precision, canvas.noise.device)
        if canvas.parts is not None:
            network = held_to_style(network, generator.config, style, canvas.parts)
        region = (~canvas.is_known).to(canvas.condition.dtype)
        return paint(
            network,
            generator.config,
            sampling.sampler,
            sampling.steps,
            torch.cat([region, canvas.condition, style], 1),
            canvas.noise,
            canvas.known,
            canvas.is_known,
            canvas.sources,
            noised=False,
        )


FAMILY = Context
