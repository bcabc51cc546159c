"""Folds in which no patient is in training and in validation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nnunet_difflung.errors import BadInput

SYNTHETIC_PREFIX = "difflung_"
FOLDS = 5
_Exchange = tuple[list[str], list[str], str, "str | None"]  # from fold, to fold, patient, partner who moves back


def is_synthetic(identifier: str) -> bool:
    """Whether a case id is the id of a synthetic case."""
    return identifier.startswith(SYNTHETIC_PREFIX)


def make_splits(
    patients: Mapping[str, str], voxels: Mapping[str, npt.ArrayLike], seed: int = 0, folds: int = FOLDS
) -> list[dict[str, list[str]]]:
    """Makes new folds in nnU-Net's format; converters and ``difflung_augment`` both use this function.

    A fold has all cases of a patient in training or all in validation, and a class that two or more patients have is in
    the training part of every fold (for an exception see ``patient_folds``).

    Args:
        patients: case id -> patient.
        voxels: case id -> voxels of each foreground class, in the order of ``dataset.json`` and without ``ignore``.
        seed: decides ties.
        folds: wanted number of folds; never more than there are patients.

    Returns:
        ``[{"train": ids, "val": ids}, ...]``; a single patient gives a single fold, in which training and validation
        are the same.
    """
    totals: dict[str, np.ndarray] = {}
    for case, patient in patients.items():
        totals[patient] = totals.get(patient, 0) + np.asarray(voxels[case])
    return splits_from_folds(patient_folds(totals, seed, folds), patients)


def check_several_patients(patients: Mapping[str, str]) -> None:
    """Refuses a dataset with fewer than two patients, since none can be left out for validation.

    Raises:
        BadInput: all cases belong to one patient.
    """
    names = sorted(set(patients.values()))
    if len(names) < 2:
        raise BadInput(
            f"all {len(patients)} cases belong to one patient ({names[0] if names else '-'}), so no fold "
            f"can be validated on another; add cases of other patients, or say who the patients are with "
            f"--patients FILE or --patient-pattern ('(.+)' if every case is a patient)"
        )


def splits_in_use(
    splits: list[dict[str, list[str]]], patients: Mapping[str, str], trained: Sequence[tuple[int, Sequence[str]]]
) -> list[dict[str, list[str]]]:
    """Chooses between new splits and the splits that the first versions would have made.

    The first versions made folds without regard to classes. Their splits are used if the dataset's generators were
    trained on them and not on the new splits, so that these generators can still be used.

    Args:
        splits: from ``make_splits``.
        patients: case id -> patient.
        trained: (fold, training cases) of each generator of the dataset.
    """
    earlier = _splits_of_first_versions(patients)

    def fit(candidate: list[dict[str, list[str]]]) -> bool:
        return all(fold < len(candidate) and candidate[fold]["train"] == sorted(cases) for fold, cases in trained)

    return earlier if not fit(splits) and fit(earlier) else splits


def _splits_of_first_versions(patients: Mapping[str, str]) -> list[dict[str, list[str]]]:
    names = sorted(set(patients.values()))
    order = np.random.default_rng(12345).permutation(len(names))
    parts = np.array_split(order, min(FOLDS, len(names)))
    return splits_from_folds([[names[i] for i in part] for part in parts], patients)


def real_only(splits: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
    """The splits without synthetic cases."""
    return [{side: [i for i in split[side] if not is_synthetic(i)] for side in ("train", "val")} for split in splits]


def check_splits(splits: list[dict], identifiers: Sequence[str], patients: dict[str, str], where: str) -> None:
    """Refuses splits that name unknown cases, or have a patient in training and validation of the same fold.

    Args:
        splits: splits in nnU-Net's format.
        identifiers: ids of all cases of the dataset, synthetic ones included.
        patients: case id -> patient, of the real cases.
        where: path of the split file, for messages.

    Raises:
        BadInput: names the fold, the case or the patient, and the remedy.
    """
    in_dataset = set(identifiers)
    for fold, split in enumerate(real_only(splits)):
        for side in ("train", "val"):
            unknown = sorted(set(split[side]) - in_dataset)
            if unknown:
                raise BadInput(
                    f"{where} fold {fold} lists the {side} case {unknown[0]!r}, which is not in the dataset "
                    f"({len(unknown)} such cases); correct or delete {where}"
                )
        if not split["train"]:
            raise BadInput(f"{where} fold {fold} has no training case; correct or delete {where}")
        torn = {patients[i] for i in split["train"]} & {patients[i] for i in split["val"]}
        if torn:
            raise BadInput(
                f"{where} fold {fold} has patient {sorted(torn)[0]!r} in training and in validation "
                f"({len(torn)} such patients): delete the file to get new folds grouped by patient, or say who the "
                f"patients are with --patients FILE or --patient-pattern ('(.+)' if every case is a patient)"
            )


def patient_folds(voxels: Mapping[str, npt.ArrayLike], seed: int, folds: int = FOLDS) -> list[list[str]]:
    """Distributes patients over folds so that the patients of each class are in as many folds as possible.

    Classes are processed in order of the number of their patients, the rarest first. Each patient goes to the fold with
    the fewest patients with that class, and among these to the fold with the fewest patients. If all patients of a
    class end up in one fold (their rarer classes were processed before), patients are exchanged or moved, so that a
    class that two or more patients have is in the training part of every fold. This is impossible for some
    combinations, such as three patients in two folds of whom each pair has a class of its own.

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
    holders = [{patient for patient in patients if present[patient][c]} for c in range(number_of_classes)]
    for with_class in [*sorted(holders, key=len), set(patients)]:
        for patient in [p for p in order if p in with_class]:
            if not any(patient in fold for fold in dealt):
                number = [len(with_class.intersection(fold)) for fold in dealt]
                target = min(range(folds), key=lambda k: (number[k], len(dealt[k])))
                dealt[target].append(patient)
    _separate(dealt, [with_class for with_class in holders if len(with_class) > 1])
    return [sorted(fold) for fold in dealt]


def _separate(dealt: list[list[str]], holders: Sequence[set[str]]) -> None:
    """Exchanges or moves patients of classes that are in one fold only, as long as that leaves fewer such classes."""
    while len(dealt) > 1:
        together = _in_one_fold(dealt, holders)
        exchanges = _exchanges(dealt, set().union(*together))
        if not any(_improves(exchange, dealt, holders, len(together)) for exchange in exchanges):
            return


def _in_one_fold(dealt: Sequence[Sequence[str]], holders: Sequence[set[str]]) -> list[set[str]]:
    return [with_class for with_class in holders if any(with_class.issubset(fold) for fold in dealt)]


def _exchanges(dealt: Sequence[list[str]], candidates: set[str]) -> Iterator[_Exchange]:
    """All exchanges of candidates; exchanges with a partner come first, since they keep the sizes of the folds."""
    for with_partner in (True, False):
        for source, target in itertools.permutations(dealt, 2):
            for patient in sorted(candidates.intersection(source)):
                for partner in sorted(target) if with_partner else [None]:
                    yield source, target, patient, partner


def _improves(exchange: _Exchange, dealt: Sequence[list[str]], holders: Sequence[set[str]], before: int) -> bool:
    """Makes an exchange, and reverts it unless fewer classes than before are in one fold only."""
    source, target, patient, partner = exchange
    kept = [list(source), list(target)]
    source.remove(patient)
    target.append(patient)
    if partner is not None:
        target.remove(partner)
        source.append(partner)
    if len(_in_one_fold(dealt, holders)) < before:
        return True
    source[:], target[:] = kept
    return False


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
