"""``difflung_augment --dry-run``: shows the plan and the time and disk space that it needs; writes nothing."""

from __future__ import annotations

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache, check_cases, missing_bytes, read_cache
from nnunet_difflung.dataset.channels import CaseChannels
from nnunet_difflung.dataset.contents import check_same_content
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import CaseFacts, read_case, with_class_counts
from nnunet_difflung.lesions.contact import LungContact
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.pipeline.estimates import (
    check_disk,
    check_disk_for_cache,
    duration,
    estimate_bytes,
    estimate_seconds,
    size,
)
from nnunet_difflung.pipeline.fold import check_folds, prepare_fold
from nnunet_difflung.pipeline.images import look_at_images
from nnunet_difflung.pipeline.preflight import warn_of_orientation, warn_or_refuse_values
from nnunet_difflung.pipeline.report import describe_fold, describe_nothing_to_add
from nnunet_difflung.pipeline.request import Request
from nnunet_difflung.pipeline.roles import warn_of_classes_on_border, warn_of_labels_outside_lung
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.runtime.wording import counted


class _Uncached(SliceCache):
    """Facts of checked cases without a cache; arrays, which few checks need, are read from the dataset."""

    def __init__(self, raw: RawDataset, facts: dict[str, CaseFacts]):
        super().__init__(cache_folder(raw.name), facts, raw.roles)
        self._raw = raw

    def image(self, identifier: str) -> np.ndarray:
        """(c, z, y, x) in the dataset's own intensities."""
        return self._raw.read_image(identifier)[0]

    def condition(self, identifier: str) -> np.ndarray:
        """(z, y, x) uint8 label values, and ``roles.body_value`` for the derived body class."""
        return read_case(self._raw, self._raw.cases[identifier])[1]


def dry_run(raw: RawDataset, numbers: list[int | str], request: Request) -> None:
    """Shows the class tables, deficits, plan, time and disk space of folds; writes nothing.

    Raises:
        BadInput: the command itself would refuse the request.
    """
    cached = read_cache(raw, cache_folder(raw.name))
    if cached is None:
        check_disk_for_cache(raw)
    cases = cached or _Uncached(raw, check_cases(raw, request.processes))
    raw = with_class_counts(raw, cases.facts)
    warn_or_refuse_values(raw, cases.facts, request.settings)
    check_same_content(raw, numbers)
    warn_of_orientation(raw, cases.facts)

    def read_label(identifier: str) -> np.ndarray:
        return cached.label(identifier) if cached else raw.read_label(identifier)[0]

    lesions: dict[str, list[Lesion]] = {}
    channels: dict[str, CaseChannels] = {}
    contact = LungContact(raw.roles)
    folds = [
        prepare_fold(
            raw, number, request.settings, cases, lesions, read_label, contact=contact, channels_of_cases=channels
        )
        for number in numbers
    ]
    warn_of_labels_outside_lung(contact)
    warn_of_classes_on_border(folds)
    for fold in folds:
        print(describe_fold(fold))
    check_folds(folds)
    to_be_cached = missing_bytes(raw, cache_folder(raw.name))
    check_disk(folds, to_be_cached)
    look_at_images(raw, cases, numbers, request.processes, Share(), remember=False)
    for fold in folds:
        if not fold.plan.cases:
            print(describe_nothing_to_add(fold))
    folds = [fold for fold in folds if fold.plan.cases]
    if folds:
        estimated = estimate_seconds(folds[0], request.device, read_label)
        training, painting = (len(folds) * seconds for seconds in estimated)
        disk = sum(sum(estimate_bytes(fold)) for fold in folds) + to_be_cached
        print(
            f"\nEstimate on {request.device}: {duration(training)} of training and {duration(painting)} of painting "
            f"for {counted(len(folds), 'fold')}; up to {size(disk)} of disk space"
            + (f", {size(to_be_cached)} of it for cached cases." if to_be_cached else ".")
        )
        if request.device == "cpu" and request.settings.preset != "fast" and training > 3600:
            print("On a CPU, --preset fast trains a small network in minutes (for small images and first looks).")
    print("Dry run: nothing was written.")
