"""Harmonise: real texture is pasted and noised, then denoised by a diffusion model."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.diffusion import paint
from nnunet_difflung.generator.families.diffusion import ReverseProcess
from nnunet_difflung.generator.families.interface import Canvas
from nnunet_difflung.generator.trained import Generator


class Harmonise(ReverseProcess):
    """Paints with another method's diffusion generator, starting from an intermediate noise level."""

    starts_from_paste = True
    paints_whole_slices = False
    uses_strength = True
    unused_options = ()

    def check_options(self, sampling: SamplingConfig, given: Mapping[str, object]) -> None:
        """Also refuses samplers other than DDIM, and a strength of 0."""
        super().check_options(sampling, given)
        if given.get("sampler") not in (None, "ddim"):
            raise BadInput(
                f"--method {self.method.name} starts DDIM from an intermediate noise level, which "
                f"--sampler {given['sampler']} cannot do; leave --sampler out"
            )
        if sampling.strength <= 0:
            raise BadInput(
                "--strength 0 would leave the pasted texture unchanged; give a share above 0, or --method copy_paste"
            )

    def paint(self, generator: Generator, sampling: SamplingConfig, canvas: Canvas) -> torch.Tensor:
        """The reverse process from ``canvas.start``, noised to ``sampling.strength`` (Eq. 6)."""
        return paint(
            generator.for_reverse_steps(sampling.precision, canvas.noise.device),
            generator.config,
            "ddim",
            sampling.steps,
            canvas.condition,
            canvas.noise,
            canvas.known,
            canvas.is_known,
            canvas.sources,
            canvas.start,
            sampling.strength,
        )


FAMILY = Harmonise
