"""``difflung_audit --images``: the comparison of a dataset's images, and a sheet with the suspicious pairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.audit.image_check import CasePair, ImageCheck, check_images
from nnunet_difflung.dataset.cache import ImageReader, cached_image
from nnunet_difflung.dataset.contents import hashes_of_dataset
from nnunet_difflung.dataset.layout import find_reader, list_cases, read_dataset_json
from nnunet_difflung.dataset.places import check_links
from nnunet_difflung.dataset.privacy import as_private_as
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset, read_image
from nnunet_difflung.dataset.splits import is_synthetic, real_only
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_RAW, NNUNET_RESULTS, SPLITS, cache_folder, dataset_folders, image_sheet
from nnunet_difflung.runtime.figures import bare, drawing, show_grey
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.parallel import bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAIRS_SHOWN = 12


@dataclass(frozen=True)
class ImageAudit:
    """Result of ``audit_images``.

    Attributes:
        check: the suspicious pairs.
        folds: whether the dataset has folds; without them all pairs of cases were compared.
        sheet: picture of the most suspicious pairs; None if there are none, or nnUNet_results is not set.
    """

    check: ImageCheck
    folds: bool
    sheet: Path | None

    def as_dict(self) -> dict:
        """JSON content."""
        return {**self.check.as_dict(), "sheet": None if self.sheet is None else str(self.sheet)}


def audit_images(name: str, processes: int = 1, progress: bool = True) -> ImageAudit:
    """Compares the images of a dataset's real cases across training and validation, and draws what is suspicious.

    Images are taken from the cache where it is up to date, else from the raw dataset.

    Args:
        name: ``DatasetXXX_NAME``.
        processes: number of processes.
        progress: show progress bars.

    Raises:
        BadInput: the dataset is not in ``nnUNet_raw``, or a file of it cannot be read.
    """
    raw, preprocessed = dataset_folders(name)
    if raw is None:
        raise BadInput(f"--images needs the images of {name}, which is not in {NNUNET_RAW}; audit it without --images")
    sheet = image_sheet(name) if os.path.isdir(os.environ.get(NNUNET_RESULTS, "")) else None
    if sheet is not None:
        check_links(name, [], [sheet.parent])
    images = _Images(name, raw)
    splits = _splits(raw, preprocessed)
    patients = None if splits else _patients(name)
    cases = bar(images.cases, visible=progress, desc="finding cached images", unit="case", delay=2)
    check = check_images({case: images.reader(case) for case in cases}, splits, patients, processes, progress)
    if not check.pairs or sheet is None:
        return ImageAudit(check, splits is not None, None)
    with as_private_as(raw, [file for case in images.cases.values() for file in (*case.images, case.label)]):
        draw_pairs(check.pairs[:_PAIRS_SHOWN], lambda case: images.reader(case)()[0], sheet)
    return ImageAudit(check, splits is not None, sheet)


class _Images:
    """The images of real cases, in the cache or in the raw dataset."""

    def __init__(self, name: str, folder: Path):
        dataset_json = read_dataset_json(folder)
        self.cases = {i: case for i, case in list_cases(folder, dataset_json).items() if not is_synthetic(i)}
        if not self.cases:
            raise BadInput(f"{folder} has no real training case, so there are no images to compare")
        self._reader = find_reader(dataset_json, self.cases)
        self._folder, self._hashes = folder, hashes_of_dataset(name)
        results = os.environ.get(NNUNET_RESULTS, "")
        self._cache = cache_folder(name) if os.path.isdir(results) else None

    def reader(self, identifier: str) -> ImageReader:
        """Reads a case's image; another process may call it."""
        case = self.cases[identifier]
        cached = cached_image(self._folder, self._cache, case, self._hashes, self._reader) if self._cache else None
        return partial(_read, cached, self._reader, case.images)


def _read(cached: ImageReader | None, reader: type, files: Sequence[str]) -> tuple[np.ndarray, float]:
    """The cached image, or that of the files where there is none, or none any more."""
    if cached is not None:
        with suppress(OSError, ValueError):
            return cached()
    return read_image(reader, files)


def _splits(*folders: Path | None) -> list[dict[str, list[str]]] | None:
    """The real cases of the first readable split file; a file that cannot be read is the audit's matter."""
    for folder in folders:
        try:
            return real_only(read_json(folder / SPLITS)) if folder is not None else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return None


def _patients(name: str) -> dict[str, str] | None:
    """Case id → patient as far as they are known; None if every case has to be compared with every other."""
    try:
        return open_raw_dataset(name).patients
    except BadInput:
        return None


def draw_pairs(pairs: Sequence[CasePair], image: Callable[[str], np.ndarray], path: Path) -> None:
    """Writes a PNG with the most similar slices of each pair of cases side by side.

    Args:
        pairs: at least one.
        image: case id → (c, z, y, x).
        path: of the PNG file.
    """
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    with drawing(path, 5.2 * columns, 3.1 * rows) as figure:
        axes = figure.subplots(rows, 2 * columns, squeeze=False).reshape(-1, 2)
        for two in axes:
            for axis in two:
                axis.set_axis_off()
        for (left, right), pair in zip(axes, pairs, strict=False):
            best = pair.slices[0]
            found = "same voxels" if pair.identical else f"similarity {best.similarity:.2f}"
            title = f"training {pair.training}\nslice {best.training_slice}: {found}"
            _draw(left, image(pair.training)[0, best.training_slice], title)
            title = f"validation {pair.validation}\nslice {best.validation_slice}"
            _draw(right, image(pair.validation)[0, best.validation_slice], title)


def _draw(axis: Axes, plane: np.ndarray, title: str) -> None:
    low, high = np.percentile(plane, (1, 99))
    axis.set_axis_on()
    show_grey(axis, plane, (float(low), max(float(high), float(low) + 1)))
    bare(axis, title, 8)
