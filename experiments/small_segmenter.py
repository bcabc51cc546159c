"""A small U-Net that trains in half a minute, for ablations that would take nnU-Net days on two cores.

It has nnU-Net's network class and loss, without its augmentation, deep supervision and patches: it sees whole slices of
one size, mirrored at random, real and synthetic slices with the same probability. Its Dice are lower than nnU-Net's and
are compared only with each other; the tables are made with nnU-Net.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn

FEATURES = (8, 16, 32, 64)
RATE = 3e-3  # of AdamW; with SGD and momentum 0.99 it depends on the seed whether a rare class is found


@dataclass(frozen=True)
class Slices:
    """Slices of one size.

    Attributes:
        image: (n, y, x) HU.
        label: (n, y, x) label values.
        patient: (n,) names.
    """

    image: np.ndarray
    label: np.ndarray
    patient: np.ndarray


def train(
    data: Slices, classes: int, seed: int, iterations: int = 800, batch: int = 12, device: str = "cpu"
) -> nn.Module:
    """Trains on slices drawn uniformly; AdamW with polynomial decay.

    Args:
        data: training slices, real and synthetic.
        classes: number of labels, background included.
        seed: of weights and batches.
        iterations: steps.
        batch: slices in a step.
        device: ``cpu`` or ``cuda``.
    """
    torch.manual_seed(seed)
    network = PlainConvUNet(
        1,
        len(FEATURES),
        list(FEATURES),
        nn.Conv2d,
        3,
        [1, *[2] * (len(FEATURES) - 1)],
        1,
        classes,
        1,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    ).to(device)
    loss_of = DC_and_CE_loss(
        {"batch_dice": True, "do_bg": False, "smooth": 1e-5, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    rng = np.random.default_rng(seed)
    for step in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / iterations) ** 0.9
        chosen = rng.integers(len(data.image), size=batch)
        image, label = _scaled(data.image[chosen]), torch.from_numpy(data.label[chosen].astype(np.int64))[:, None]
        if rng.random() < 0.5:
            image, label = image.flip(-1), label.flip(-1)
        loss = loss_of(network(image.to(device)), label.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
    return network.eval()


@torch.no_grad()
def predict(network: nn.Module, image: np.ndarray) -> np.ndarray:
    """(n, y, x) HU → (n, y, x) label values."""
    device = next(network.parameters()).device
    return np.concatenate(
        [
            network(_scaled(part).to(device)).argmax(1).cpu().numpy().astype(np.uint8)
            for part in np.array_split(image, max(1, len(image) // 32))
        ]
    )


def dice_by_patient(predicted: np.ndarray, data: Slices, value: int) -> dict[str, float]:
    """Dice of a label for each patient who has it, over all voxels of the patient."""
    result = {}
    for patient in sorted(set(data.patient)):
        slices = data.patient == patient
        segmented, expected = predicted[slices] == value, data.label[slices] == value
        if expected.any():
            result[patient] = float(2 * (segmented & expected).sum() / (segmented.sum() + expected.sum()))
    return result


def _scaled(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.clip((image.astype(np.float32) + 700) / 400, -1, 4))[:, None]
