"""Diffusion: trained with Eq. 7 and mask ablation; paints by the reverse process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from nnunet_difflung.config import GeneratorConfig, SamplingConfig
from nnunet_difflung.generator.checkpoint import TrainingState
from nnunet_difflung.generator.cost import seconds_of_passes
from nnunet_difflung.generator.diffusion import build_network, diffusion_loss, forward_process, paint
from nnunet_difflung.generator.families.interface import (
    ABLATION_OPTIONS,
    Canvas,
    Family,
    TrainedFamily,
    averaged,
    exchanging,
    fitting_parts,
)
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.runtime.device import compiled, computing_in, ready_for, worth_compiling
from nnunet_difflung.runtime.files import replacing, write_bytes
from nnunet_difflung.runtime.tensors import save_tensors


class DiffusionUpdate:
    """The loss of Eq. 7 and an AdamW step."""

    loss: Callable[..., torch.Tensor] = staticmethod(diffusion_loss)

    def __init__(self, state: TrainingState, config: GeneratorConfig, accelerator: Accelerator, steps: int):
        self.accelerator, self.config, self.process = accelerator, config, forward_process(config)
        self.network, self.optimizer = accelerator.prepare(state.network, state.optimizer)
        self.fast, self.parts = self.network, 1
        batch = config.batch_size // accelerator.num_processes
        if accelerator.device.type == "cuda":
            self.parts = self._fitting_parts(batch)
        if worth_compiling(accelerator.device, steps):
            part = -(-batch // self.parts)
            self.fast = compiled(self.network, lambda network: self._try(network, part, config.patch_size), tqdm.write)

    def _fitting_parts(self, batch: int) -> int:
        return fitting_parts(self.accelerator, batch, lambda n: self._try(self.network, n, self.config.patch_size))

    def _try(self, network: Callable, images: int, edge: int) -> None:
        """A forward and a backward pass of this process alone; if they fail, they leave nothing behind."""
        device = self.accelerator.device
        kept = torch.empty(2 * sum(p.numel() for p in self.network.parameters()), device=device)  # AdamW's memory
        size = (images, self.accelerator.unwrap_model(self.network).config.in_channels, edge, edge)
        try:
            with exchanging(network, False):
                with computing_in(self.config.precision, device):
                    out = network(
                        torch.zeros(size, device=device), torch.zeros(images, dtype=torch.long, device=device)
                    )
                out.sample.float().square().mean().backward()
        finally:
            self.optimizer.zero_grad()
        del kept

    def __call__(
        self, image: torch.Tensor, condition: torch.Tensor, weight: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """Updates the weights and returns the loss; the arguments are those of ``diffusion_loss``.

        The loss is a mean over images, so its gradient can be summed over parts of the batch.
        """
        parts = list(zip(*(x.tensor_split(self.parts) for x in (image, condition, weight, noise, t)), strict=True))
        total = torch.zeros((), device=image.device)
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with exchanging(self.network, last):
                with computing_in(self.config.precision, self.accelerator.device):
                    loss = self.loss(self.fast, self.process, *part) * (len(part[0]) / len(image))
                self.accelerator.backward(loss)
            total += loss.detach()
        self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total


class ReverseProcess(Family):
    """What families have in common that paint by a diffusion model's reverse process."""

    def most_steps(self, config: GeneratorConfig) -> int:
        """T of Eq. 2."""
        return config.train_timesteps

    def channels_beside_image(self, config: GeneratorConfig, image_channels: int, condition_channels: int) -> int:
        """Number of the network's input channels beside the image that it paints: the masks."""
        return condition_channels

    def seconds_per_image(
        self,
        config: GeneratorConfig,
        sampling: SamplingConfig,
        image_channels: int,
        condition_channels: int,
        edge: int,
        device: str,
    ) -> tuple[float, float]:
        """A training step is a forward and a backward pass; painting is a forward pass for each reverse step."""
        channels = self.channels_beside_image(config, image_channels, condition_channels)
        forward, both = seconds_of_passes(config, image_channels, channels, edge, device)
        return both, self.passes(sampling) * forward

    def passes(self, sampling: SamplingConfig) -> int:
        """Forward passes for an image: one for each reverse step, of which all but the last may be repeated."""
        return (sampling.steps - 1) * sampling.resamplings + 1


class Diffusion(ReverseProcess, TrainedFamily):
    """The mask-conditioned diffusion model of the paper; saved in the form of diffusers' ``save_pretrained``."""

    loss_axis = {"ylabel": "loss (Eq. 7)", "yscale": "log"}
    reimposes = True

    @property
    def unused_settings(self) -> tuple[str, ...]:
        """Those of the GANs."""
        return (*super().unused_settings, "l1_weight", "feature_weight", "discriminator_channels")

    @property
    def unused_options(self) -> tuple[str, ...]:
        """The ablation options: ``cbmat`` uses them all, and ``mat`` is told which classes to ablate."""
        if self.method.ablation == "cbmat":
            return ()
        return tuple(name for name in ABLATION_OPTIONS if self.method.ablation != "mat" or name != "ablated_classes")

    def build(self, config: GeneratorConfig, image_channels: int, condition_channels: int) -> torch.nn.Module:
        """diffusers' UNet2DModel."""
        beside = self.channels_beside_image(config, image_channels, condition_channels)
        return build_network(config, image_channels, beside)

    def initial_state(
        self, config: GeneratorConfig, image_channels: int, condition_channels: int, device: torch.device
    ) -> TrainingState:
        """The network, its average, and AdamW."""
        network = ready_for(self.build(config, image_channels, condition_channels), device)
        ema = averaged(network, config)
        optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            fused=device.type == "cuda",
        )
        return TrainingState(network, optimizer, ema)

    def make_update(
        self, state: TrainingState, config: GeneratorConfig, accelerator: Accelerator, steps: int
    ) -> DiffusionUpdate:
        """See ``TrainedFamily``."""
        return DiffusionUpdate(state, config, accelerator, steps)

    def paint(self, generator: Generator, sampling: SamplingConfig, canvas: Canvas) -> torch.Tensor:
        """The reverse process from pure noise, with the surroundings re-imposed at every step."""
        return paint(
            generator.for_reverse_steps(sampling.precision, canvas.noise.device),
            generator.config,
            sampling.sampler,
            sampling.steps,
            canvas.condition,
            canvas.noise,
            canvas.known,
            canvas.is_known,
            canvas.sources,
            resamplings=sampling.resamplings,
        )

    def weights(self, folder: Path) -> Path:
        """The file as diffusers names it."""
        return folder / "unet" / "diffusion_pytorch_model.safetensors"

    def save(self, folder: Path, network: torch.nn.Module, config: GeneratorConfig) -> None:
        """Writes network and scheduler as ``save_pretrained`` does, but each file completely or not at all."""
        _write_config(folder / "unet", network)
        _write_config(folder / "scheduler", forward_process(config))
        with replacing(self.weights(folder)) as temporary:
            save_tensors(network.state_dict(), temporary, {"format": "pt"})

    def load(
        self, folder: Path, config: GeneratorConfig, image_channels: int, condition_channels: int
    ) -> torch.nn.Module:
        """Loads the network from local safetensors only."""
        from diffusers import UNet2DModel

        network: Any = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True)
        return network


def _write_config(folder: Path, part: Any) -> None:
    """Writes the configuration of a part of diffusers under the name that diffusers gives it."""
    write_bytes(folder / part.config_name, part.to_json_string().encode())


FAMILY = Diffusion
