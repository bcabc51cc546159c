"""Time, disk and how a person reads them, before hours are spent."""

from __future__ import annotations

import os
import shutil

import numpy as np

from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.encoding import size_factor
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.generator.training import total_steps
from nnunet_difflung.paths import NNUNET_RAW, NNUNET_RESULTS, nnunet_folder
from nnunet_difflung.pipeline.fold import FoldWork


def estimate_seconds(work: FoldWork, facts: dict[str, CaseFacts], device: str) -> tuple[float, float]:
    """Estimated seconds of training and painting, from what the method's family measures on the real device."""
    config, sampling = work.settings.generator, work.settings.sampling
    largest = max(max(facts[i].shape[1:]) for i in work.facts)
    factor = size_factor(config)
    edge = -(-min(config.patch_size or largest, largest) // factor) * factor
    training, painting = family_of(work.method).seconds_per_image(
        config, sampling, len(work.raw.channels), len(work.raw.roles.conditions), edge, device
    )
    slices = sum(host.lung_slices for host in work.facts.values())
    area = 1.0 if sampling.paint == "composite" else (largest / edge) ** 2
    return total_steps(config, slices) * config.batch_size * training, work.plan.slices * painting * area


def estimate_bytes(work: FoldWork, facts: dict[str, CaseFacts]) -> tuple[int, int]:
    """Upper bounds of bytes needed in nnUNet_raw, and in nnUNet_results while painting."""
    voxels = [np.prod(facts[case.host].shape) for case in work.plan.cases]
    planes = [len(case.slices) * np.prod(facts[case.host].shape[1:]) for case in work.plan.cases]
    channels = len(work.raw.channels)
    cases = int(sum(voxels)) * (4 * channels + 2)
    return cases, cases + int(sum(planes)) * 4 * channels


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


def check_disk(works: list[FoldWork], facts: dict[str, CaseFacts]) -> None:
    """Refuses a plan for which nnUNet_raw or nnUNet_results has no room."""
    needs = [estimate_bytes(work, facts) for work in works]
    raw, results = (nnunet_folder(variable) for variable in (NNUNET_RAW, NNUNET_RESULTS))
    in_raw, in_results = sum(n[0] for n in needs), sum(n[1] for n in needs)
    if os.stat(raw).st_dev == os.stat(results).st_dev:
        in_raw = in_results = in_raw + in_results
    for variable, need in ((NNUNET_RAW, in_raw), (NNUNET_RESULTS, in_results)):
        free = shutil.disk_usage(nnunet_folder(variable)).free
        if need > free:
            raise BadInput(
                f"{variable}={nnunet_folder(variable)} has {size(free)} free, but the plan may need "
                f"{size(need)}; free some space, or lower --max-synthetic"
            )
