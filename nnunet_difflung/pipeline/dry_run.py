"""``difflung_augment --dry-run``: shows the plan and the time and disk space that it needs; writes nothing."""

from __future__ import annotations

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache, check_cases
from nnunet_difflung.dataset.contents import check_same_content
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import with_class_counts
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.pipeline.estimates import check_disk, duration, estimate_bytes, estimate_seconds, size
from nnunet_difflung.pipeline.fold import prepare_fold
from nnunet_difflung.pipeline.preflight import warn_of_orientation
from nnunet_difflung.pipeline.report import describe_fold
from nnunet_difflung.pipeline.request import Request


def dry_run(raw: RawDataset, numbers: list[int | str], request: Request) -> None:
    """Shows the class tables, deficits, plan, time and disk space of folds; writes nothing.

    Raises:
        BadInput: the command itself would refuse the request.
    """
    cases = SliceCache(cache_folder(raw.name), check_cases(raw, request.processes), raw.roles)  # facts without files
    raw = with_class_counts(raw, cases.facts)
    check_same_content(raw, numbers)
    warn_of_orientation(raw, cases.facts)

    def read_label(identifier: str) -> np.ndarray:
        return raw.read_label(identifier)[0]

    lesions: dict[str, list[Lesion]] = {}
    folds = [prepare_fold(raw, number, request.settings, cases, lesions, read_label) for number in numbers]
    for fold in folds:
        print(describe_fold(fold))
    check_disk(folds)
    folds = [fold for fold in folds if fold.plan.cases]
    if folds:
        training, painting = (len(folds) * seconds for seconds in estimate_seconds(folds[0], request.device))
        disk = sum(sum(estimate_bytes(fold)) for fold in folds)
        print(
            f"\nEstimate on {request.device}: {duration(training)} of training and {duration(painting)} of painting "
            f"for {len(folds)} fold(s); up to {size(disk)} of disk space."
        )
        if request.device == "cpu" and request.settings.preset != "fast" and training > 3600:
            print("On a CPU, --preset fast trains a small network in minutes (for small images and first looks).")
    print("Dry run: nothing was written.")
