"""A small U-Net that trains in half a minute, for ablations that would take nnU-Net days on two cores.

It has nnU-Net's network class and loss, without its augmentation, deep supervision and patches: it sees whole slices of
one size, mirrored at random, real and synthetic slices with the same probability. Its Dice are lower than nnU-Net's and
are compared only with each other; the tables are made with nnU-Net.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nnunet_difflung.segmenter.network import fit, new_network


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
    rng = np.random.default_rng(seed)

    def drawn(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = rng.integers(len(data.image), size=batch)
        image, label = _scaled(data.image[chosen]), torch.from_numpy(data.label[chosen].astype(np.int64))[:, None]
        return (image.flip(-1), label.flip(-1)) if rng.random() < 0.5 else (image, label)

    return fit(new_network(1, classes, seed), drawn, iterations, device=device)


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
