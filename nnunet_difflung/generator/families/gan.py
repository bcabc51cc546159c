"""The conditional GANs: Pix2Pix and SPADE, which paint in one pass."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from nnunet_difflung.config import GeneratorConfig, SamplingConfig
from nnunet_difflung.generator.checkpoint import TrainingState
from nnunet_difflung.generator.cost import seconds_of_passes
from nnunet_difflung.generator.families.interface import (
    ABLATION_OPTIONS,
    Canvas,
    TrainedFamily,
    averaged,
    exchanging,
    fitting_parts,
)
from nnunet_difflung.generator.gan import build_gan, build_generator, discriminator_loss, generator_loss, require_gan
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.runtime.device import computing_in, in_precision

DISCRIMINATORS = "discriminators"

Part = tuple[torch.Tensor, ...]
"""(image, condition, weight, noise) of some images of a batch."""


class GanUpdate:
    """An Adam step of the discriminators on painted and real images, then one of the generator against them.

    Both losses are means over images, so their gradients can be summed over parts of the batch.
    """

    def __init__(self, kind: str, state: TrainingState, config: GeneratorConfig, accelerator: Accelerator):
        self.kind, self.accelerator, self.config = kind, accelerator, config
        self.judges = state.further_networks[DISCRIMINATORS]
        self.network, self.optimizer, self.discriminators, self.discriminator_optimizer = accelerator.prepare(
            state.network, state.optimizer, self.judges, state.further_optimizers["discriminator_optimizer"]
        )
        self.parts = 1
        if accelerator.device.type == "cuda":
            self.parts = self._fitting_parts(config.batch_size // accelerator.num_processes)

    def _fitting_parts(self, batch: int) -> int:
        return fitting_parts(self.accelerator, batch, self._try)

    def _try(self, images: int) -> None:
        """The forward and backward passes of a step of this process alone; if they fail, they leave nothing behind."""
        network, device, edge = (
            self.accelerator.unwrap_model(self.network),
            self.accelerator.device,
            self.config.patch_size,
        )
        weights = sum(p.numel() for part in (network, self.judges) for p in part.parameters())
        kept = torch.empty(2 * weights, device=device)  # Adam's memory
        of_image, of_condition = (
            torch.zeros(images, channels, edge, edge, device=device)
            for channels in (network.image_channels, network.condition_channels)
        )
        part = of_image, of_condition, torch.ones_like(of_image[:, :1]), torch.zeros_like(of_image)
        try:
            with exchanging(self.network, False), exchanging(self.discriminators, False):
                painted = self._painted(part)
                self._judge(part, painted, 1.0)
                self.discriminator_optimizer.zero_grad()
                self._deceive(part, painted, 1.0)
        finally:
            self.optimizer.zero_grad()
            self.discriminator_optimizer.zero_grad()
        del kept

    def __call__(
        self, image: torch.Tensor, condition: torch.Tensor, weight: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """Updates the weights and returns the generator's loss; arguments as for ``diffusion_loss``; t is not used."""
        parts = list(zip(*(x.tensor_split(self.parts) for x in (image, condition, weight, noise)), strict=True))
        shares, last = [len(part[0]) / len(image) for part in parts], len(parts) - 1
        painted = self._painted(parts[0]) if not last else None  # of several parts, only one is in memory
        for number, (part, share) in enumerate(zip(parts, shares, strict=True)):
            with exchanging(self.discriminators, number == last):
                self._judge(part, self._painted(part, False) if painted is None else painted, share)
        self._step(self.discriminator_optimizer)
        total = torch.zeros((), device=image.device)
        for number, (part, share) in enumerate(zip(parts, shares, strict=True)):
            with exchanging(self.network, number == last):
                total += self._deceive(part, self._painted(part) if painted is None else painted, share)
        self._step(self.optimizer)
        return total

    def _painted(self, part: Part, gradient: bool = True) -> torch.Tensor:
        _, condition, _, noise = part
        with computing_in(self.config.precision, self.accelerator.device), torch.set_grad_enabled(gradient):
            return self.network(condition, noise).float()

    def _judge(self, part: Part, painted: torch.Tensor, share: float) -> None:
        """Adds the gradients of the discriminators' loss, which counts as this share of the batch."""
        image, condition, weight, _ = part
        with computing_in(self.config.precision, self.accelerator.device):
            loss = discriminator_loss(self.kind, self.discriminators, painted.detach(), image, condition, weight)
        self.accelerator.backward(loss * share)

    def _deceive(self, part: Part, painted: torch.Tensor, share: float) -> torch.Tensor:
        """Adds the gradients of the generator's loss, which counts as this share of the batch; returns it."""
        image, condition, weight, _ = part
        self.judges.requires_grad_(False)  # the bare module: no gradients of it are exchanged between processes here
        try:
            with computing_in(self.config.precision, self.accelerator.device):
                loss = generator_loss(self.kind, self.config, self.judges, painted, image, condition, weight) * share
            self.accelerator.backward(loss)
        finally:
            self.judges.requires_grad_(True)
        return loss.detach()

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()
        optimizer.zero_grad()


class Gan(TrainedFamily):
    """The GAN that ``method.name`` names: ``pix2pix`` or ``spade``."""

    unused_options = (*ABLATION_OPTIONS, "prediction", "sampler", "steps")

    def require(self) -> None:
        """Checks that MONAI is installed."""
        require_gan()

    def build(self, config: GeneratorConfig, image_channels: int, condition_channels: int) -> torch.nn.Module:
        """See ``gan.build_generator``."""
        return build_generator(self.method.name, config, image_channels, condition_channels)

    def initial_state(
        self, config: GeneratorConfig, image_channels: int, condition_channels: int, device: torch.device
    ) -> TrainingState:
        """Generator, its averaged weights and discriminators, with an Adam optimizer for each side."""
        networks = build_gan(self.method.name, config, image_channels, condition_channels)
        network, discriminators = (part.to(device) for part in networks)
        optimizer, discriminator_optimizer = (
            torch.optim.Adam(part.parameters(), lr=config.learning_rate, betas=(0.5, 0.999))
            for part in (network, discriminators)
        )
        return TrainingState(
            network,
            optimizer,
            averaged(network, config),
            {DISCRIMINATORS: discriminators},
            {"discriminator_optimizer": discriminator_optimizer},
        )

    def make_update(
        self, state: TrainingState, config: GeneratorConfig, accelerator: Accelerator, steps: int
    ) -> GanUpdate:
        """See ``TrainedFamily``."""
        return GanUpdate(self.method.name, state, config, accelerator)

    def paint(self, generator: Generator, sampling: SamplingConfig, canvas: Canvas) -> torch.Tensor:
        """Paints in one pass; the network does not see the surroundings, so the painted image is faded into them."""
        network = in_precision(generator.network, sampling.precision, canvas.noise.device)
        painted = network(canvas.condition, canvas.noise).float().clamp(-1, 1)
        known, blend = canvas.known, canvas.blend
        if known is None or canvas.is_known is None:
            return painted
        faded = painted if blend is None else blend * painted + (1 - blend) * known
        return torch.where(canvas.is_known, known, faded)

    def seconds_per_image(
        self,
        config: GeneratorConfig,
        sampling: SamplingConfig,
        image_channels: int,
        condition_channels: int,
        edge: int,
        device: str,
    ) -> tuple[float, float]:
        """Training takes about three times as long as for a diffusion network of these widths; painting is one pass."""
        forward, both = seconds_of_passes(config, image_channels, condition_channels, edge, device)
        return 3 * both, forward


FAMILY = Gan
