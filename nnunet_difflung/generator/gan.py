"""The conditional GANs of Table 1 over MONAI's blocks: Pix2Pix (Isola et al. 2017) and SPADE (Park et al. 2019).

Both paint from masks and noise, have about as many levels and weights as the diffusion U-Net, and can be applied to any
size. Noise enters as image channels instead of dropout or a style vector, and feature maps are normalised within each
image, so an image depends on its own masks and noise only.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from nnunet_difflung.config import GeneratorConfig
from nnunet_difflung.generator.encoding import size_factor
from nnunet_difflung.runtime.environment import require

_SCALES = {"pix2pix": 1, "spade": 2}  # number of discriminators, each at half the resolution of the one before


def require_gan() -> None:
    """Checks that MONAI 1.4 or newer is installed, before anything is computed.

    Raises:
        BadInput: it is not installed.
    """
    for module in ("monai.networks.nets", "monai.networks.nets.spade_network"):
        require(module, extra="gan", why="--method pix2pix and spade")


def build_generator(kind: str, config: GeneratorConfig, image_channels: int, condition_channels: int) -> nn.Module:
    """The network G(m, z): (n, k, h, w) masks and (n, c, h, w) noise to an (n, c, h, w) image in [−1, 1].

    h and w are any multiples of ``size_factor(config)``; ``kind`` is ``pix2pix`` or ``spade``.
    """
    network = Pix2PixGenerator if kind == "pix2pix" else SpadeGenerator
    return network(config, image_channels, condition_channels)


def build_gan(
    kind: str, config: GeneratorConfig, image_channels: int, condition_channels: int
) -> tuple[nn.Module, Discriminators]:
    """Generator and discriminators of ``pix2pix`` or ``spade``; the discriminators need ``config.patch_size``."""
    return (
        build_generator(kind, config, image_channels, condition_channels),
        Discriminators(kind, config, image_channels + condition_channels),
    )


def _groups(config: GeneratorConfig, affine: bool) -> tuple[str, dict]:
    """The diffusion U-Net's normalisation.

    Normalising each channel alone would erase what is constant over an image, such as the class of a crop that contains
    a single class, and it is undefined for a feature map of one pixel.
    """
    return "group", {"num_groups": min(32, config.channels[0] // 2), "affine": affine}


class Pix2PixGenerator(nn.Module):
    """U-Net from masks and noise to the image.

    Its top level has the full resolution, like the diffusion U-Net's, so that borders of masks are reproduced to the
    pixel. MONAI's U-Net normalises its last level, which would change an image's HU; so it outputs features, and a
    further convolution makes the image. It is twice as wide as the diffusion U-Net, which has a time embedding and
    further blocks instead.
    """

    def __init__(self, config: GeneratorConfig, image_channels: int, condition_channels: int):
        from monai.networks.nets import UNet

        super().__init__()
        self.image_channels, self.condition_channels = image_channels, condition_channels
        widths = [2 * width for width in config.channels]
        self.unet = UNet(
            2,
            image_channels + condition_channels,
            widths[0],
            channels=(widths[0], *widths),
            strides=(1,) + (2,) * (len(widths) - 1),
            num_res_units=2 * config.layers_per_block,
            norm=_groups(config, True),
        )
        self.last = nn.Conv2d(widths[0], image_channels, 3, padding=1)

    def forward(self, condition: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """See ``build_generator``."""
        return torch.tanh(self.last(functional.leaky_relu(self.unet(torch.cat([condition, noise], 1)), 0.2)))


class SpadeGenerator(nn.Module):
    """Residual blocks from the lowest resolution up, each modulated by masks and noise of its resolution.

    MONAI's blocks, put together as in the paper. MONAI's own ``SPADENet`` narrows to the image's channels at half the
    resolution, so it cannot paint texture of single pixels, and its γ and β are normalised over the image, so that a
    class's intensity would depend on the class's area; both differ from the paper.
    """

    def __init__(self, config: GeneratorConfig, image_channels: int, condition_channels: int):
        from monai.networks.nets.spade_network import SPADENetResBlock

        super().__init__()
        self.image_channels, self.condition_channels = image_channels, condition_channels
        self.factor, self.per_level = size_factor(config), config.layers_per_block
        maps = image_channels + condition_channels
        widths = [width for width in reversed(config.channels) for _ in range(self.per_level)]
        self.first = nn.Conv2d(maps, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            SPADENetResBlock(2, before, after, maps, 2 * config.channels[0], norm=_groups(config, False))
            for before, after in zip([widths[0], *widths], widths, strict=False)
        )
        for block in self.blocks:
            for spade in (block.norm_0, block.norm_1, *([block.norm_s] if block.learned_shortcut else ())):
                spade.mlp_gamma.adn, spade.mlp_beta.adn = nn.Identity(), nn.Identity()
        self.last = nn.Conv2d(widths[-1], image_channels, 3, padding=1)

    def forward(self, condition: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """See ``build_generator``."""
        maps = torch.cat([condition, noise], 1)
        height, width = maps.shape[2:]
        x = self.first(functional.interpolate(maps, (height // self.factor, width // self.factor)))
        for i, block in enumerate(self.blocks):
            up = i and i % self.per_level == 0
            x = block(functional.interpolate(x, scale_factor=2.0) if up else x, maps)
        return torch.tanh(self.last(functional.leaky_relu(x, 0.2)))


class Discriminators(nn.Module):
    """PatchGANs that judge image and masks together, at one or more resolutions.

    They have three layers (70 × 70 pixels) if the training crops are large enough, else as many as fit.
    MONAI's ``MultiScalePatchDiscriminator`` adds layers instead of halving the image: 182 M parameters for two scales.
    """

    def __init__(self, kind: str, config: GeneratorConfig, channels: int):
        from monai.networks.nets import PatchDiscriminator

        super().__init__()
        edges = [config.patch_size >> i for i in range(_SCALES[kind])]
        layers = [min(3, max(0, int(math.log2(max(1, edge) / 3)))) for edge in edges]
        self.scales = nn.ModuleList(
            PatchDiscriminator(2, config.discriminator_channels, channels, num_layers_d=n, norm="INSTANCE")
            for n in layers
        )

    def forward(self, maps: torch.Tensor) -> list[list[torch.Tensor]]:
        """For each scale the feature maps of all layers; the last one is the verdict, (n, 1, h', w') logits.

        Args:
            maps: (n, c + k, h, w), image and masks.
        """
        results = []
        for i, network in enumerate(self.scales):
            maps = functional.avg_pool2d(maps, 2) if i else maps
            results.append(network(maps))
        return results


def discriminator_loss(
    kind: str,
    discriminators: nn.Module,
    fake: torch.Tensor,
    image: torch.Tensor,
    condition: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """The discriminators' loss on real and painted images: cross-entropy (``pix2pix``) or hinge (``spade``).

    Args:
        kind: ``pix2pix`` or ``spade``.
        discriminators: from ``build_gan``.
        fake: (n, c, h, w) painted, without gradient.
        image: (n, c, h, w) real, in [−1, 1].
        condition: (n, k, h, w) masks of both images.
        weight: (n, 1, h, w), 0 for voxels that do not count; both images are set to 0 there.

    Returns:
        Scalar mean over patches and scales.
    """
    verdicts = [
        torch.chunk(scale[-1].float(), 2)
        for scale in discriminators(torch.cat([_seen(image, condition, weight), _seen(fake, condition, weight)]))
    ]
    if kind == "spade":
        losses = [functional.relu(1 - real).mean() + functional.relu(1 + painted).mean() for real, painted in verdicts]
    else:
        losses = [functional.softplus(-real).mean() + functional.softplus(painted).mean() for real, painted in verdicts]
    return torch.stack(losses).mean()


def generator_loss(
    kind: str,
    config: GeneratorConfig,
    discriminators: nn.Module,
    fake: torch.Tensor,
    image: torch.Tensor,
    condition: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """Adversarial term plus ``l1_weight`` · L1 (``pix2pix``) or ``feature_weight`` · feature matching (``spade``).

    Arguments as for ``discriminator_loss``; ``fake`` has a gradient here, ``config`` the weights of the terms.
    """
    seen = discriminators(_seen(fake, condition, weight))
    if kind == "spade":
        adversarial = torch.stack([-scale[-1].float().mean() for scale in seen]).mean()
        with torch.no_grad():
            wanted = discriminators(_seen(image, condition, weight))
        distances = [
            (a.float() - b.float()).abs().mean()
            for scale, other in zip(seen, wanted, strict=True)
            for a, b in zip(scale[:-1], other[:-1], strict=True)
        ]
        return adversarial + config.feature_weight * torch.stack(distances).sum() / len(seen)
    adversarial = torch.stack([functional.softplus(-scale[-1].float()).mean() for scale in seen]).mean()
    error = ((fake - image).abs() * weight).sum((1, 2, 3))
    l1 = (error / (weight.sum((1, 2, 3)) * image.shape[1]).clamp(min=1)).mean()
    return adversarial + config.l1_weight * l1


def _seen(image: torch.Tensor, condition: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.cat([image * weight, condition], 1)
