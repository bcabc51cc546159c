"""Plans folds without writing anything, for ``difflung_augment --dry-run`` and for the Python API."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_difflung.config import Settings
from nnunet_difflung.dataset.cache import SliceCache, check_cases, read_cache
from nnunet_difflung.dataset.channels import CaseChannels
from nnunet_difflung.dataset.contents import check_same_content
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import CaseFacts, read_case, with_class_counts
from nnunet_difflung.lesions.contact import LungContact
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.painting.fold import Fold
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.pipeline.fold import prepare_fold
from nnunet_difflung.pipeline.preflight import warn_of_orientation, warn_or_refuse_values
from nnunet_difflung.pipeline.roles import warn_of_classes_on_border, warn_of_labels_outside_lung


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

    def label(self, identifier: str) -> np.ndarray:
        """(z, y, x) label values without the derived body class."""
        return self._raw.read_label(identifier)[0]


def readable_cases(raw: RawDataset, processes: int = 1, progress: bool = True) -> SliceCache:
    """The dataset's real cases: from its cache if that is complete and up to date, else from the files, checked.

    Raises:
        BadInput: the first fault of a case.
    """
    cached = read_cache(raw, cache_folder(raw.name))
    return cached or _Uncached(raw, check_cases(raw, processes, progress))


def plan_folds(
    raw: RawDataset, numbers: Sequence[int | str], cases: SliceCache, settings: Settings, shown: bool = True
) -> list[Fold]:
    """The folds with their plans.

    Args:
        raw: the dataset.
        numbers: of the folds.
        cases: the dataset's real cases.
        settings: settings of the run.
        shown: print warnings of what looks wrong about the dataset.

    Returns:
        The folds; their ``raw`` knows the class counts of the cases.

    Raises:
        BadInput: ``difflung_augment`` would refuse the dataset with these settings.
    """
    raw = with_class_counts(raw, cases.facts)
    warn_or_refuse_values(raw, cases.facts, settings, shown)
    check_same_content(raw, numbers)
    if shown:
        warn_of_orientation(raw, cases.facts)
    lesions: dict[str, list[Lesion]] = {}
    channels: dict[str, CaseChannels] = {}
    contact = LungContact(raw.roles)
    folds = [
        prepare_fold(raw, number, settings, cases, lesions, contact=contact, channels_of_cases=channels)
        for number in numbers
    ]
    if shown:
        warn_of_labels_outside_lung(contact)
        warn_of_classes_on_border(folds)
    return folds
