"""Plans folds without writing anything, for ``difflung_augment --dry-run`` and for the Python API."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from nnunet_difflung.config import Settings
from nnunet_difflung.dataset.cache import ImageReader, Look, SliceCache, check_cases, image_in_memory, read_cache
from nnunet_difflung.dataset.contents import check_same_content
from nnunet_difflung.dataset.raw_dataset import RawDataset, read_image
from nnunet_difflung.dataset.reading import read_case, with_class_counts
from nnunet_difflung.lesions.contact import LungContact
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.pipeline.fold import prepare_folds
from nnunet_difflung.pipeline.preflight import warn_of_geometry, warn_or_refuse_values
from nnunet_difflung.pipeline.roles import warn_of_classes_on_border, warn_of_labels_outside_lung
from nnunet_difflung.preparing.fold import Fold

_KEPT = 2**29  # bytes of arrays that are kept in memory
_READ_LAST = 2  # cases that were read again and are kept too, since most callers ask for the same case several times


class _Uncached(SliceCache):
    """Checked cases without a cache on the disk; the first ones are kept in memory, and others are read again."""

    def __init__(
        self, raw: RawDataset, processes: int, progress: bool, look: Look | None, looks: dict[str, Any] | None
    ):
        self._raw, self._left = raw, _KEPT
        self._arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._read_again = lru_cache(_READ_LAST)(lambda identifier: read_case(raw, raw.cases[identifier])[:2])
        facts = check_cases(raw, processes, progress, self._keep, _KEPT, look, looks)
        super().__init__(cache_folder(raw.name), facts, raw.roles)

    def _keep(self, identifier: str, image: np.ndarray, condition: np.ndarray) -> None:
        self._left -= image.nbytes + condition.nbytes
        if self._left >= 0:
            image.flags.writeable = condition.flags.writeable = False  # as a memory map's are
            self._arrays[identifier] = image, condition

    def _read(self, identifier: str) -> tuple[np.ndarray, np.ndarray]:
        kept = self._arrays.get(identifier)
        return kept if kept is not None else self._read_again(identifier)

    def image(self, identifier: str) -> np.ndarray:
        """(c, z, y, x) in the dataset's own intensities."""
        return self._read(identifier)[0]

    def reader(self, identifier: str) -> ImageReader:
        """Reads a case's image; another process may call it."""
        kept = self._arrays.get(identifier)
        if kept is not None:
            return partial(image_in_memory, kept[0], self.facts[identifier].spacing[0])
        return partial(read_image, self._raw.reader, self._raw.cases[identifier].images)

    def condition(self, identifier: str) -> np.ndarray:
        """(z, y, x) uint8 label values, and ``roles.body_value`` for the derived body class."""
        return self._read(identifier)[1]

    def label(self, identifier: str) -> np.ndarray:
        """(z, y, x) label values without the derived body class."""
        return super().label(identifier) if identifier in self._arrays else self._raw.read_label(identifier)[0]


def readable_cases(
    raw: RawDataset,
    processes: int = 1,
    progress: bool = True,
    look: Look | None = None,
    looks: dict[str, Any] | None = None,
) -> SliceCache:
    """The dataset's real cases: from its cache if that is complete and up to date, else from the files, checked.

    Args:
        raw: the dataset.
        processes: number of processes that read cases.
        progress: show a progress bar.
        look: called for each case that is read from its files (``check_cases``).
        looks: case id → what ``look`` returned; filled here.

    Raises:
        BadInput: the first fault of a case.
    """
    return read_cache(raw, cache_folder(raw.name)) or _Uncached(raw, processes, progress, look, looks)


def plan_folds(
    raw: RawDataset,
    numbers: Sequence[int | str],
    cases: SliceCache,
    settings: Settings,
    shown: bool = True,
    lesions: dict[str, list[Lesion]] | None = None,
) -> list[Fold]:
    """The folds with their plans.

    Args:
        raw: the dataset.
        numbers: of the folds.
        cases: the dataset's real cases.
        settings: settings of the run.
        shown: show progress, and print warnings of what looks wrong about the dataset.
        lesions: case id → its lesions, as far as they are known; others are found here.

    Returns:
        The folds; their ``raw`` knows the class counts of the cases.

    Raises:
        BadInput: ``difflung_augment`` would refuse the dataset with these settings.
    """
    raw = with_class_counts(raw, cases.facts)
    warn_or_refuse_values(raw, cases.facts, settings, shown)
    check_same_content(raw, numbers)
    if shown:
        warn_of_geometry(raw, cases.facts)
    contact = LungContact(raw.roles)
    folds = prepare_folds(raw, numbers, settings, cases, contact, {} if lesions is None else lesions, shown)
    if shown:
        warn_of_labels_outside_lung(contact)
        warn_of_classes_on_border(folds)
    return folds
