"""Estimates of time and disk space before a long run."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np

from nnunet_difflung.dataset.cache import missing_bytes
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.encoding import size_factor
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.generator.training import neighbours_of, total_steps
from nnunet_difflung.painting.box import largest_box
from nnunet_difflung.paths import NNUNET_RAW, NNUNET_RESULTS, cache_folder, nnunet_folder
from nnunet_difflung.preparing.application import planned_region
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.preparing.stacks import sizes_of
from nnunet_difflung.runtime.wording import size
from nnunet_difflung.segmenter.crops import edge_of
from nnunet_difflung.segmenter.data import number_of_classes
from nnunet_difflung.segmenter.store import seconds_of_training


def estimate_seconds(fold: Fold, device: str, read_label: Callable[[str], np.ndarray]) -> tuple[float, float]:
    """Estimated seconds of training and of painting, from what the method's family measures on the device.

    With candidates, the segmenter's training is part of the first, and each case with lesions is painted as often.

    Args:
        fold: with its plan.
        device: ``cpu``, ``cuda`` or ``mps``.
        read_label: case id → (z, y, x) label values.
    """
    config, sampling = fold.settings.generator, fold.settings.sampling
    config = replace(config, neighbours=neighbours_of(fold.method, config, fold.data))
    largest = max(max(case.shape[1:]) for case in fold.facts.values())
    factor = size_factor(config)
    edge = -(-min(config.patch_size or largest, largest) // factor) * factor
    training, painting = family_of(fold.method).seconds_per_image(
        config, sampling, len(fold.raw.channels), len(fold.raw.roles.conditions), edge, device
    )
    slices = sum(case.lung_slices(fold.raw.roles) for case in fold.facts.values())
    generator = total_steps(config, slices) * config.batch_size * training
    images = painted_pixels(fold, read_label) / edge**2
    return generator + _seconds_of_segmenter(fold, device), images * painting


def painted_pixels(fold: Fold, read_label: Callable[[str], np.ndarray]) -> int:
    """Pixels that the network computes in a reverse step of all cases together, each painted once for each candidate.

    Slices are counted with the crop that the network sees of them, which lesions of a volume that are painted together
    share. What the gate has painted again is not known before.

    Args:
        fold: with its plan.
        read_label: case id → (z, y, x) label values.
    """
    config, sampling = fold.settings.generator, fold.settings.sampling
    factor, together = size_factor(config), bool(neighbours_of(fold.method, config, fold.data))
    pixels = 0
    for planned in fold.plan.cases:
        region, depth = planned_region(fold, planned, read_label), fold.facts[planned.host].shape[0]
        sizes = sizes_of(region, planned, depth, factor, sampling, together)
        times = 1 if planned.placebo else sampling.candidates
        pixels += times * sum(size.painted * size.shape[0] * size.shape[1] for size in sizes)
    return pixels


def _seconds_of_segmenter(fold: Fold, device: str) -> float:
    if fold.settings.sampling.candidates == 1:
        return 0.0
    data, config = fold.segmenter_data, fold.segmenter_config
    classes, edge = number_of_classes(data.roles), edge_of(data, config)
    return seconds_of_training(config, len(fold.raw.channels), classes, edge, device)


def estimate_bytes(fold: Fold) -> tuple[int, int]:
    """Upper bounds of bytes needed in nnUNet_raw, and in nnUNet_results while painting."""
    box, planned = fold.settings.sampling.box, fold.plan.cases
    voxels = sum(math.prod(part.stop - part.start for part in largest_box(fold, case, box)) for case in planned)
    painted = sum(len(case.slices) * math.prod(fold.facts[case.host].shape[1:]) for case in planned)
    channels = len(fold.raw.channels)
    cases = voxels * (4 * channels + 2)
    sampling = fold.settings.sampling
    dropping = "drop" in (sampling.gate, sampling.memorised) or sampling.candidates > 1
    again = sampling.repaints if dropping and family_of(fold.method).varies else 0
    return cases, cases + painted * 4 * channels * sampling.candidates * (1 + again)


def check_disk_for_cache(raw: RawDataset, facts: Mapping[str, CaseFacts] | None = None) -> int:
    """Refuses a dataset whose cache may need more disk space than is free in nnUNet_results, before it is made.

    Args:
        raw: the dataset.
        facts: of its cases, if they have been read.

    Returns:
        the bytes that are still to be cached (``missing_bytes``).

    Raises:
        BadInput: names the needed and the free space.
    """
    need, folder = missing_bytes(raw, cache_folder(raw.name), facts), nnunet_folder(NNUNET_RESULTS)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise BadInput(
            f"{NNUNET_RESULTS}={folder} has {size(free)} free, but the cache of {raw.name} may need {size(need)}; free "
            f"some space, or let {NNUNET_RESULTS} name a folder on a larger disk"
        )
    return need


def check_disk(folds: list[Fold], cache: int = 0) -> None:
    """Refuses plans that may need more disk space than is free in nnUNet_raw or nnUNet_results.

    What an interrupted command has painted with these settings takes its space already.

    Args:
        folds: what is planned.
        cache: bytes of the cache that is still to be made in nnUNet_results.

    Raises:
        BadInput: names the needed and the free space.
    """
    needs, painted = [estimate_bytes(fold) for fold in folds], sum(map(painted_bytes, folds))
    raw, results = (nnunet_folder(variable) for variable in (NNUNET_RAW, NNUNET_RESULTS))
    in_raw, in_results = sum(n[0] for n in needs), sum(n[1] for n in needs) + cache - painted
    if os.stat(raw).st_dev == os.stat(results).st_dev:
        in_raw = in_results = in_raw + in_results
    for variable, need in ((NNUNET_RAW, in_raw), (NNUNET_RESULTS, in_results)):
        free = shutil.disk_usage(nnunet_folder(variable)).free
        if need <= free:
            continue
        found = f"{variable}={nnunet_folder(variable)} has {size(free)} free"
        if painted:
            raise BadInput(
                f"{found}, but what is left of the plan may need {size(need)}; free some space and run the same "
                f"command again: with another --max-synthetic all cases would be painted anew"
            )
        raise BadInput(f"{found}, but the plan may need {size(need)}; free some space, or lower --max-synthetic")


def painted_bytes(fold: Fold) -> int:
    """Bytes in nnUNet_results of what has been painted with these settings; what is outdated of it will be deleted."""
    total = 0
    for folder, _, files in (found for work in fold.begun_works() for found in os.walk(work)):
        for name in files:
            with suppress(FileNotFoundError):  # another command may be working there
                total += os.stat(os.path.join(folder, name)).st_size
    return total
