"""Estimates of time and disk space, before hours are spent, and how they are printed."""

from __future__ import annotations

import os
import shutil
import time
from typing import cast

import torch

from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.diffusion import build_network
from nnunet_difflung.generator.encoding import size_factor
from nnunet_difflung.generator.training import total_steps
from nnunet_difflung.painting.fold import Fold
from nnunet_difflung.paths import nnunet_folder


def estimate_seconds(fold: Fold, device: str) -> tuple[float, float]:
    """Estimated seconds of training and painting, from one timed pass of a diffusion network on the real device.

    A GAN takes about three times as long to train as a diffusion network of its widths, and paints in one pass.
    """
    if fold.method.family == "copy":
        return 0.0, 0.1 * fold.plan.slices
    config, gan = fold.settings.generator, fold.method.family == "gan"
    largest = max(max(case.shape[1:]) for case in fold.facts.values())
    factor = size_factor(config)
    edge = -(-min(config.patch_size or largest, largest) // factor) * factor
    channels = len(fold.raw.channels)
    network = cast(torch.nn.Module, build_network(config, channels, len(fold.raw.roles.conditions))).to(device)
    inputs = channels + len(fold.raw.roles.conditions)
    for batch in (1, config.batch_size, config.batch_size):  # the first passes of a shape set things up
        begun = time.perf_counter()
        loss = (
            network(
                torch.zeros(batch, inputs, edge, edge, device=device),
                torch.zeros(batch, dtype=torch.long, device=device),
            )
            .sample.square()
            .mean()
        )
        loss.item()  # waits for the device
        forward = (time.perf_counter() - begun) / batch
        loss.backward()
        gradient = next(network.parameters()).grad
        assert gradient is not None
        gradient.sum().item()
        seconds = {"forward": forward, "both": (time.perf_counter() - begun) / batch}
        if seconds["both"] > 2:  # a whole batch would take long to try
            break
    slices = sum(case.lung_slices(fold.raw.roles) for case in fold.facts.values())
    training = total_steps(config, slices) * config.batch_size * seconds["both"] * (3 if gan else 1)
    area = 1.0 if fold.settings.sampling.paint == "composite" else (largest / edge) ** 2
    return training, fold.plan.slices * (1 if gan else fold.settings.sampling.steps) * seconds["forward"] * area


def estimate_bytes(fold: Fold) -> tuple[int, int]:
    """Upper bounds of bytes needed in nnUNet_raw, and in nnUNet_results while painting."""
    shapes = [(fold.facts[planned.host].shape, len(planned.slices)) for planned in fold.plan.cases]
    voxels = sum(z * y * x for (z, y, x), _ in shapes)
    painted = sum(slices * y * x for (_, y, x), slices in shapes)
    channels = len(fold.raw.channels)
    cases = voxels * (4 * channels + 2)
    return cases, cases + painted * 4 * channels


def duration(seconds: float) -> str:
    """A time that a person reads at a glance."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes that a person reads at a glance."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def check_disk(folds: list[Fold]) -> None:
    """Refuses a plan for which nnUNet_raw or nnUNet_results has no room.

    Raises:
        BadInput: with the space that is needed and the space that is free.
    """
    needs = [estimate_bytes(fold) for fold in folds]
    raw, results = (nnunet_folder(variable) for variable in ("nnUNet_raw", "nnUNet_results"))
    in_raw, in_results = sum(n[0] for n in needs), sum(n[1] for n in needs)
    if os.stat(raw).st_dev == os.stat(results).st_dev:
        in_raw = in_results = in_raw + in_results
    for variable, need in (("nnUNet_raw", in_raw), ("nnUNet_results", in_results)):
        free = shutil.disk_usage(nnunet_folder(variable)).free
        if need > free:
            raise BadInput(
                f"{variable}={nnunet_folder(variable)} has {size(free)} free, but the plan may need "
                f"{size(need)}; free some space, or lower --max-synthetic"
            )
