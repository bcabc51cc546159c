"""Cross-validation folds that never put one patient on both sides."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def patient_folds(voxels: Mapping[str, Sequence[int]], seed: int, folds: int = 5) -> list[list[str]]:
    """Deals patients into folds so that each class is spread over as many folds as it has patients.

    Classes are dealt from the one that the fewest patients have to the one that most have: each patient goes to
    the fold that holds the fewest patients with that class, then the fewest patients, so that a class of which two
    or more patients exist occurs in the training part of every fold.

    Args:
        voxels: patient -> number of voxels of each foreground class (all of equal length).
        seed: decides ties.
        folds: wanted number of folds; never more than there are patients.

    Returns:
        For each fold the sorted patients of its validation part. A single patient gives one fold without validation.
    """
    rng = np.random.default_rng(seed)
    patients = sorted(voxels)
    order = [patients[i] for i in rng.permutation(len(patients))]
    present = {patient: np.asarray(voxels[patient]) > 0 for patient in patients}
    number_of_classes = len(next(iter(present.values()))) if present else 0
    folds = max(1, min(folds, len(patients)))
    dealt: list[list[str]] = [[] for _ in range(folds)]
    rarest_first = sorted(range(number_of_classes), key=lambda c: sum(int(p[c]) for p in present.values()))
    for c in [*rarest_first, None]:
        for patient in [p for p in order if c is None or present[p][c]]:
            if any(patient in fold for fold in dealt):
                continue
            with_class = [0 if c is None else sum(int(present[p][c]) for p in fold) for fold in dealt]
            target = min(range(folds), key=lambda k: (with_class[k], len(dealt[k])))
            dealt[target].append(patient)
    return [sorted(fold) for fold in dealt]


def splits_from_folds(folds: Sequence[Sequence[str]], cases: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """nnU-Net's ``splits_final.json`` for folds of patients.

    Args:
        folds: validation patients of each fold.
        cases: case id -> patient.
    """
    if len(folds) == 1:
        everything = sorted(cases)
        return [{"train": everything, "val": everything}]
    return [{"train": sorted(c for c, patient in cases.items() if patient not in set(fold)),
             "val": sorted(c for c, patient in cases.items() if patient in set(fold))} for fold in folds]
