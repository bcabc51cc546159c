"""Patients of a test set who have cases in the folds, too: results on them are not of unseen patients."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.injection.leaks import Problem
from nnunet_difflung.paths import DATASET
from nnunet_difflung.patients.reading import also_among
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.wording import counted


def patients_in_both(name: str, folder: Path, splits: Iterable[Mapping]) -> tuple[list[Problem], list[str]]:
    """Looks for patients of the folds in ``imagesTs``.

    Args:
        name: ``DatasetXXX_NAME``.
        folder: of the raw dataset.
        splits: its folds.

    Returns:
        Problems (it was stated who the patients are, and the cases have labels, so that they are there to be
        evaluated), and else notes.
    """
    tests, labelled = _cases(folder, "imagesTs"), _cases(folder, "labelsTs")
    folds = sorted({case for split in splits for side in ("train", "val") for case in split[side]})
    real = [case for case in folds if not is_synthetic(case)]
    both, stated = also_among(name, real, sorted(tests)) if tests and real else ({}, False)
    if not both:
        return [], []
    case, patient = min(both.items())
    text = (
        f"{folder / 'imagesTs'} has {counted(len(both), 'case')} of patients who have cases in the folds (first: "
        f"{case}, patient {patient})"
    )
    if stated and labelled.intersection(both):
        remedy = "so this test set is not of unseen patients; move these cases out of imagesTs and labelsTs"
        return [Problem(f"{text}, {remedy}", None, True)], []
    doubt = "" if stated else ", if the ids say rightly who they are"
    return [], [f"{text}{doubt}; results on them are not of unseen patients"]


def _cases(folder: Path, part: str) -> set[str]:
    """Ids of the cases in ``imagesTs`` or ``labelsTs``; none if the dataset.json does not say how files end."""
    try:
        ending = str(read_json(folder / DATASET)["file_ending"])
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    names = {path.name.removesuffix(ending) for path in (folder / part).glob(f"*{ending}")} if ending else set()
    return {re.sub("_[0-9]{4}$", "", name) for name in names} if part.startswith("images") else names
