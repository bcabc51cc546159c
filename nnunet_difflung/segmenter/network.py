"""A small U-Net of nnU-Net's classes, and how it is trained; without nnU-Net's augmentation and deep supervision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn

FEATURES = (8, 16, 32, 64)
RATE = 3e-3  # of AdamW; with SGD and momentum 0.99 it depends on the seed whether a rare class is found
_MOST_GRADIENT = 12.0  # norm, as in nnU-Net


def new_network(channels: int, classes: int, seed: int, features: Sequence[int] = FEATURES) -> nn.Module:
    """A U-Net with new weights, which depend on the seed alone.

    Args:
        channels: of the image.
        classes: number of labels, background included.
        seed: of the weights.
        features: feature channels of each resolution level.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PlainConvUNet(
            channels,
            len(features),
            list(features),
            nn.Conv2d,
            3,
            [1, *[2] * (len(features) - 1)],
            1,
            classes,
            1,
            conv_bias=True,
            norm_op=nn.InstanceNorm2d,
            norm_op_kwargs={"affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
        )


def fit(
    network: nn.Module,
    batch: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    rate: float = RATE,
    device: str = "cpu",
    ignore: int | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Trains with nnU-Net's Dice and cross-entropy loss, AdamW and polynomial decay.

    Args:
        network: with new weights; it is moved to the device and changed.
        batch: step → image (n, c, y, x) float32 and labels (n, 1, y, x) int64.
        steps: number of training steps.
        rate: learning rate of the first step.
        device: ``cpu``, ``cuda`` or ``mps``.
        ignore: label without influence.
        after_step: called after each step.

    Returns:
        The network in evaluation mode.
    """
    loss_of = DC_and_CE_loss(
        {"batch_dice": True, "do_bg": False, "smooth": 1e-5, "ddp": False},
        {},
        ignore_label=ignore,
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    network = network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps) ** 0.9
        image, label = batch(step)
        loss = loss_of(network(image.to(device)), label.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), _MOST_GRADIENT)
        optimizer.step()
        after_step()
    return network.eval()
