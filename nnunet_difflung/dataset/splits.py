"""Patients behind case ids, and folds in which no patient is on both sides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_difflung.errors import BadInput

SYNTHETIC_PREFIX = "difflung_"
_SLICE_SUFFIX = re.compile(r"^(?P<patient>.+?)[ _.-]+(?:slice|sl|s|z|img|im)[ _.-]?\d+$", re.IGNORECASE)
_TWO_NUMBERS = re.compile(r"^(?P<patient>.*\d.*?)[ _.-]+\d+$")


def is_synthetic(identifier: str) -> bool:
    """Whether a case id is one of ours."""
    return identifier.startswith(SYNTHETIC_PREFIX)


def patients_of(identifiers: Sequence[str], pattern: str | None = None) -> dict[str, str]:
    """Maps each case id to its patient.

    Args:
        identifiers: ids of real cases.
        pattern: regular expression that matches a whole id; its first group (or all of the match) is the patient.
            None derives it: a closing slice counter (``_s012``, ``_z7``, ``_slice_3``) is dropped from every id that
            has one; where none has and every id holds two numbers (``lung_001_012``) the last is taken for the slice,
            if that leaves several patients; else each case is its own patient.

    Raises:
        BadInput: the pattern is no regular expression or does not match an id.
    """
    if pattern is not None:
        return {i: _patient(i, pattern) for i in identifiers}
    patients = {i: m["patient"] if (m := _SLICE_SUFFIX.match(i)) else i for i in identifiers}
    if len(set(patients.values())) < len(patients):
        return patients
    matches = {i: _TWO_NUMBERS.match(i) for i in identifiers}
    if all(matches.values()) and len({m["patient"] for m in matches.values()}) >= min(3, len(matches)):
        return {i: m["patient"] for i, m in matches.items()}
    return {i: i for i in identifiers}


def _patient(identifier: str, pattern: str) -> str:
    try:
        match = re.fullmatch(pattern, identifier)
    except re.error as error:
        raise BadInput(f"--patient-pattern {pattern!r} is not a regular expression ({error})") from error
    if not match:
        raise BadInput(
            f"--patient-pattern {pattern!r} does not match the case id {identifier!r}; it has to match "
            f"every whole id, with the patient as its first group, such as '(.+)_s[0-9]+'"
        )
    return match[1] if match.groups() else match[0]


def patient_grouped_splits(patients: dict[str, str], seed: int = 12345, folds: int = 5) -> list[dict[str, list[str]]]:
    """k-fold splits in nnU-Net's form; every patient's cases are on one side (k = 5, or the number of patients).

    Raises:
        BadInput: fewer than two patients.
    """
    names = sorted(set(patients.values()))
    if len(names) < 2:
        raise BadInput(
            f"all {len(patients)} cases belong to one patient ({names[0] if names else '-'}), so no fold "
            f"can be validated on another; check --patient-pattern"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    groups = [{names[i] for i in part} for part in np.array_split(order, min(folds, len(names)))]
    return [
        {
            "train": sorted(i for i, p in patients.items() if p not in group),
            "val": sorted(i for i, p in patients.items() if p in group),
        }
        for group in groups
    ]


def real_only(splits: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
    """The splits without our synthetic cases."""
    return [{side: [i for i in split[side] if not is_synthetic(i)] for side in ("train", "val")} for split in splits]


def check_splits(splits: list[dict], identifiers: Sequence[str], patients: dict[str, str], where: str) -> None:
    """Refuses splits that name unknown cases or put a patient on both sides of a fold.

    Raises:
        BadInput: with the fold, the case or the patient, and the remedy.
    """
    known = set(identifiers)
    for fold, split in enumerate(real_only(splits)):
        for side in ("train", "val"):
            unknown = sorted(set(split[side]) - known)
            if unknown:
                raise BadInput(
                    f"{where} fold {fold} lists the {side} case {unknown[0]!r}, which is not in the dataset "
                    f"({len(unknown)} such cases); correct or delete {where}"
                )
        if not split["train"]:
            raise BadInput(f"{where} fold {fold} has no training case; correct or delete {where}")
        both = {patients[i] for i in split["train"]} & {patients[i] for i in split["val"]}
        if both:
            raise BadInput(
                f"{where} fold {fold} has patient {sorted(both)[0]!r} in training and in validation "
                f"({len(both)} such patients): delete the file and patient-grouped folds are made, or say "
                f"with --patient-pattern how to read the patient ('(.+)' if every case is a patient)"
            )


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
    return [
        {
            "train": sorted(c for c, patient in cases.items() if patient not in set(fold)),
            "val": sorted(c for c, patient in cases.items() if patient in set(fold)),
        }
        for fold in folds
    ]
