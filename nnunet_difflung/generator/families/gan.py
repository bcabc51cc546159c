"""The conditional GANs: Pix2Pix and SPADE, which paint in one pass."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from nnunet_difflung.config import GeneratorConfig, SamplingConfig
from nnunet_difflung.generator.checkpoint import TrainingState
from nnunet_difflung.generator.cost import seconds_of_passes
from nnunet_difflung.generator.families.interface import ABLATION_OPTIONS, Canvas, TrainedFamily, averaged
from nnunet_difflung.generator.gan import build_gan, build_generator, discriminator_loss, generator_loss, require_gan
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.runtime.device import computing_in, in_precision

DISCRIMINATORS = "discriminators"


class GanUpdate:
    """An Adam step of the discriminators on painted and real images, then one of the generator against them."""

    def __init__(self, kind: str, state: TrainingState, config: GeneratorConfig, accelerator: Accelerator):
        self.kind, self.accelerator, self.config = kind, accelerator, config
        self.judges = state.further_networks[DISCRIMINATORS]
        self.network, self.optimizer, self.discriminators, self.discriminator_optimizer = accelerator.prepare(
            state.network, state.optimizer, self.judges, state.further_optimizers["discriminator_optimizer"]
        )

    def __call__(
        self, image: torch.Tensor, condition: torch.Tensor, weight: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """Updates the weights and returns the generator's loss; arguments as for ``diffusion_loss``; t is not used."""
        with computing_in(self.config.precision, self.accelerator.device):
            fake = self.network(condition, noise).float()
            loss = discriminator_loss(self.kind, self.discriminators, fake.detach(), image, condition, weight)
        self._descend(loss, self.discriminator_optimizer)
        self.judges.requires_grad_(False)  # the bare module: no gradients of it are exchanged between processes here
        with computing_in(self.config.precision, self.accelerator.device):
            loss = generator_loss(self.kind, self.config, self.judges, fake, image, condition, weight)
        self._descend(loss, self.optimizer)
        self.judges.requires_grad_(True)
        return loss

    def _descend(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        self.accelerator.backward(loss)
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
