"""The shortcut probe's classifier: a small CNN that is trained on some patients and tested on others."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from experiments.shortcut_patches import Patches
from nnunet_difflung.errors import BadInput

FOLDS = 3  # groups of patients, each tested with a network that was trained on the other groups
BATCH, RATE = 64, 2e-3


def inputs(patches: Patches, scale: np.ndarray) -> torch.Tensor:
    """(n, c + 1, p, p): standardised intensities, clipped at 5 sd, 0 where hidden; and the mask of visible pixels."""
    pixels = np.clip((patches.pixels - scale[0][:, None, None]) / scale[1][:, None, None], -5, 5)
    visible = patches.visible[:, None]
    return torch.from_numpy(np.concatenate([pixels * visible, visible], axis=1).astype(np.float32))


def network(channels: int) -> torch.nn.Sequential:
    """Five convolutions, the mean over the patch, one logit."""
    layers: list[torch.nn.Module] = []
    for width, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2)):
        layers += [torch.nn.Conv2d(channels, width, 3, stride, 1), torch.nn.GroupNorm(4, width), torch.nn.ReLU()]
        channels = width
    return torch.nn.Sequential(
        *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Dropout(0.2), torch.nn.Linear(channels, 1)
    )


def fit(classes: tuple[torch.Tensor, torch.Tensor], steps: int, seed: int) -> torch.nn.Sequential:
    """Trains on batches that are half negative, half positive (pairs, if the classes are), turned at random."""
    torch.manual_seed(seed)
    source, model = torch.Generator().manual_seed(seed), network(classes[0].shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    wanted = torch.arange(2).repeat_interleave(BATCH // 2)[:, None].float()
    for _ in range(steps):
        drawn = torch.rand(BATCH // 2, generator=source)
        batch = torch.cat([part[(drawn * len(part)).long()] for part in classes])
        turns, mirror = torch.randint(4, (1,), generator=source).item(), torch.rand(1, generator=source).item() < 0.5
        batch = torch.rot90(batch.flip(-1) if mirror else batch, turns, (2, 3))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def deal(negative: Patches, positive: Patches, seed: int) -> dict[str, int]:
    """Patient → group; patients with many patches of the rarer kind are dealt first, so that every group has some."""
    names = np.random.default_rng(seed).permutation(np.unique(np.concatenate([negative.patient, positive.patient])))
    fewest = min((negative, positive), key=lambda p: len(np.unique(p.patient)))
    order = sorted(names, key=lambda name: -np.count_nonzero(fewest.patient == name))
    return {name: i % FOLDS for i, name in enumerate(order)}


@torch.no_grad()
def scores(model: torch.nn.Sequential, images: torch.Tensor) -> np.ndarray:
    """(n,) logits."""
    return torch.cat([model(part)[:, 0] for part in images.split(256)]).numpy()


def grouped_auc(negative: Patches, positive: Patches, steps: int, seed: int) -> float:
    """AUC on patients that the classifier has not seen, averaged over the groups of patients.

    Raises:
        BadInput: one of the two kinds has patches of fewer patients than there are groups.
    """
    for patches in (negative, positive):
        if len(np.unique(patches.patient)) < FOLDS:
            raise BadInput(f"{len(np.unique(patches.patient))} patients have patches, expected at least {FOLDS}")
    group, areas = deal(negative, positive, seed), []
    for fold in range(FOLDS):
        held = [np.array([group[name] == fold for name in p.patient]) for p in (negative, positive)]
        training = [p[~out] for p, out in zip((negative, positive), held, strict=True)]
        pixels = np.concatenate([np.moveaxis(p.pixels, 1, -1)[p.lung] for p in training])
        scale = np.stack([pixels.mean(0), np.maximum(pixels.std(0), 1e-6)])
        model = fit(tuple(inputs(p, scale) for p in training), steps, seed * FOLDS + fold)
        results = [scores(model, inputs(p[out], scale)) for p, out in zip((negative, positive), held, strict=True)]
        truth = np.repeat([0, 1], [len(r) for r in results])
        areas.append(roc_auc_score(truth, np.concatenate(results)))
    return float(np.mean(areas))
