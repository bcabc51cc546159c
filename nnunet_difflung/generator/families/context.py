"""Diffusion that fills a region of a real slice given the slice around it (Palette, Saharia et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from accelerate import Accelerator

from nnunet_difflung.config import GeneratorConfig, SamplingConfig
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.along_z import (
    along_stacks,
    beside,
    seeing_neighbours,
    window_slices,
    with_neighbours_noise,
)
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

    def __init__(self, state: TrainingState, config: GeneratorConfig, accelerator: Accelerator, steps: int):
        super().__init__(state, config, accelerator, steps)
        self.loss = partial(region_loss, slices=window_slices(config.neighbours))

    def __call__(
        self, image: torch.Tensor, condition: torch.Tensor, weight: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """See ``DiffusionUpdate``; the noise of neighbouring slices is made alike, as their distance says."""
        if self.config.neighbours:
            channels = image.shape[1] // window_slices(self.config.neighbours)
            noise = with_neighbours_noise(noise, channels, condition[:, -1:, :1, :1])
        return super().__call__(image, condition, weight, noise, t)


class Context(Diffusion):
    """The network sees the real image outside the region, and paints nothing else.

    Its input channels are the image, noised in the region and real elsewhere; the region; the masks; the region's
    style. In volumes image, region and masks are those of the slice, of the one before and of the one after it, and a
    last channel holds how much of their noise neighbouring slices share (``along_z``).
    """

    source = RegionSource
    uses_style = True
    uses_neighbours = True
    paints_whole_slices = False
    reimposes = False
    sampler = "ddpm"  # fresh noise at each step joins the region to its surroundings better than ddim (docs/method.md)
    margin = 2  # pixels, over which what is painted fades into the host (painting.fade)

    def check_options(self, sampling: SamplingConfig, given: Mapping[str, object]) -> None:
        """Also refuses whole slices, which have no surroundings."""
        super().check_options(sampling, given)
        if sampling.paint == "full":
            raise BadInput(
                f"--method {self.method.name} fills regions of real slices and cannot paint whole ones; add "
                f"--paint composite"
            )

    def channels_beside_image(self, config: GeneratorConfig, image_channels: int, condition_channels: int) -> int:
        """The masks, the region, its style, and in volumes what of it the neighbouring slices have."""
        style, slices = style_channels(image_channels), window_slices(config.neighbours)
        if slices == 1:
            return condition_channels + 1 + style
        return (slices - 1) * image_channels + slices * (condition_channels + 1) + style + 1

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
        told = [(~canvas.is_known).to(canvas.condition.dtype), canvas.condition]
        stacks, joined = [1] * len(canvas.noise) if canvas.stacks is None else canvas.stacks, None
        if generator.config.neighbours:
            shared = canvas.noise.new_zeros(len(canvas.noise)) if canvas.shared is None else canvas.shared
            indices = beside(stacks).to(canvas.noise.device)
            active = (~canvas.is_known).flatten(1).any(1)
            channels = (canvas.noise.shape[1], canvas.condition.shape[1])
            network = seeing_neighbours(network, *channels, indices, active, sampling.batch_size)
            style_and_shared = [style, shared.view(-1, 1, 1, 1).expand_as(style[:, :1])]
            joined = partial(along_stacks, lengths=stacks, shared=shared)
        else:
            style_and_shared = [style]
        if canvas.parts is not None:
            network = held_to_style(network, generator.config, style, canvas.parts, stacks)
        return paint(
            network,
            generator.config,
            sampling.sampler,
            sampling.steps,
            torch.cat([*told, *style_and_shared], 1),
            canvas.noise,
            canvas.known,
            canvas.is_known,
            canvas.sources,
            noised=False,
            joined=joined,
        )


FAMILY = Context
