"""Writes the files of nnU-Net raw datasets: cases, dataset.json, and splits that keep patients together."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from nnunet_difflung.dataset.splits import make_splits
from nnunet_difflung.dataset_conversion.case import IGNORE, Case, CaseRecord
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_PREPROCESSED, full_name
from nnunet_difflung.patients.table import PATIENTS_FILE
from nnunet_difflung.runtime.files import write_json
from nnunet_difflung.runtime.parallel import in_parallel
from nnunet_difflung.runtime.wording import counted

Item = TypeVar("Item")


def dataset_name(dataset_id: int, name: str) -> str:
    """``DatasetXXX_Name`` from a checked id and name.

    Raises:
        BadInput: the id is not in 1..999, or the name has other characters than letters, digits, ``_`` and ``-``.
    """
    if not 1 <= dataset_id <= 999:
        raise BadInput(f"--dataset-id {dataset_id}: expected an unused nnU-Net dataset id from 1 to 999")
    if not re.fullmatch(r"[A-Za-z0-9_\-]+", name):
        raise BadInput(f"--name {name!r}: expected a name of letters, digits, '_' and '-'")
    return full_name(dataset_id, name)


def write_case(folder: str | Path, case: Case, number_of_labels: int, test: bool = False) -> CaseRecord:
    """Writes image and label map of a case as .nii.gz files.

    Args:
        folder: of the dataset.
        case: with an image of any integer or float dtype, which is kept, and label values 0..number_of_labels-1.
        number_of_labels: number of labels, including background.
        test: whether to write to imagesTs/labelsTs instead of imagesTr/labelsTr.
    """
    import SimpleITK as sitk

    if case.image.shape != case.label.shape or case.image.ndim != 3:
        raise ValueError(f"{case.case_id}: image {case.image.shape} and label {case.label.shape} differ or are not 3D")
    part = "Ts" if test else "Tr"
    paths = (
        Path(folder) / f"images{part}" / f"{case.case_id}_0000.nii.gz",
        Path(folder) / f"labels{part}" / f"{case.case_id}.nii.gz",
    )
    for path, array in zip(paths, (case.image, case.label.astype(np.uint8)), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        image.SetSpacing(file_spacing(case))
        image.SetOrigin(case.origin)
        image.SetDirection(case.direction)
        sitk.WriteImage(image, str(path), useCompression=True)
    counts = np.bincount(case.label.ravel(), minlength=number_of_labels)
    return CaseRecord(case.case_id, case.patient, test, tuple(int(n) for n in counts))


def file_spacing(case: Case) -> tuple[float, float, float]:
    """The spacing to write, in mm along x, y, z; for a slice, z is at least twice the pixel size.

    nnU-Net cuts 2D patches perpendicular to the axis with the largest spacing. A slice with 5.6 mm pixels and 5 mm
    thickness would be trained as patches of 1 × 64 pixels.
    """
    x, y, z = case.spacing
    return (x, y, max(z, 2 * x, 2 * y)) if len(case.image) == 1 else case.spacing


def for_each_patient(
    work: Callable[[Item], list[CaseRecord]], items: Sequence[Item], processes: int
) -> list[CaseRecord]:
    """Calls ``work`` for every item with a progress bar, several at a time; returns the records in the items' order."""
    return [record for records in in_parallel(work, items, processes, "patients") for record in records]


def finish_dataset(
    folder: str | Path,
    records: Sequence[CaseRecord],
    labels: Mapping[str, int],
    channels: Sequence[str],
    seed: int = 0,
    verify: bool = True,
    patients_known: bool = True,
    **about: str,
) -> list[dict]:
    """Adds dataset.json, splits_final.json and patients.json to written cases, and has nnU-Net check the dataset.

    Args:
        folder: of the dataset, with its cases.
        records: of all written cases.
        labels: name → value, background first; ``ignore``, if there is one, last.
        channels: a name for each channel; with the name "CT", nnU-Net uses its normalisation for CT.
        seed: of the folds.
        patients_known: whether the patients of the records are patients for certain; else patients.json, which other
            commands read without being told, is not written.
        verify: whether to run nnU-Net's ``verify_dataset_integrity``, which starts worker processes and takes seconds.
        **about: further entries of dataset.json, such as ``description`` and ``license``.

    Returns:
        The splits.
    """
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    training = [record for record in records if not record.test]
    about.setdefault("license", "see the source of the data")
    about.setdefault("converted_by", "nnunet_difflung")
    generate_dataset_json(
        str(folder),
        dict(enumerate(channels)),
        dict(labels),
        len(training),
        ".nii.gz",
        overwrite_image_reader_writer="SimpleITKIO",
        **about,
    )
    classes = [value for name, value in labels.items() if value and name != IGNORE]
    voxels = {record.case_id: [record.voxels[value] for value in classes] for record in training}
    splits = make_splits({record.case_id: record.patient for record in training}, voxels, seed)
    (Path(folder) / "splits_final.json").write_text(json.dumps(splits, indent=2) + "\n", encoding="utf-8")
    if patients_known:
        write_json(Path(folder) / PATIENTS_FILE, {record.case_id: record.patient for record in records})
    if verify:
        from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

        verify_dataset_integrity(str(folder), num_processes=1)
    return splits


def class_shares(records: Sequence[CaseRecord], test: bool = False) -> np.ndarray:
    """Share of each label value, background first, over all pixels of the training (or test) cases."""
    counts = np.sum([r.voxels for r in records if r.test == test], axis=0)
    return counts / counts.sum()


def summary(records: Sequence[CaseRecord], labels: Mapping[str, int], unit: str = "patient") -> str:
    """Table for the terminal: cases, patients (or another ``unit``) and class shares of the training and test part.

    ``unit`` is given in the singular.
    """
    lines = []
    for test, title in ((False, "training"), (True, "test")):
        part = [r for r in records if r.test == test]
        if not part:
            continue
        shares, patients_of_part = class_shares(records, test), len({r.patient for r in part})
        lines.append(f"{title}: {counted(len(part), 'case')} of {counted(patients_of_part, unit)}")
        if not test and patients_of_part == 1:
            lines.append("Warning: with a single patient, the only fold is validated on the cases it is trained on")
        for name, value in labels.items():
            patients = len({r.patient for r in part if r.voxels[value]})
            with_class = sum(r.voxels[value] > 0 for r in part)
            lines.append(
                f"  {name:<16}{100 * shares[value]:7.2f} % of pixels, in {counted(with_class, 'case')} of "
                f"{counted(patients, unit)}"
            )
        empty = [name for name, value in labels.items() if value and name != IGNORE and not shares[value]]
        if empty and not test:
            lines.append(f"Warning: no training case has {' or '.join(empty)}, so no model can learn it")
    return "\n".join(lines)


def warn_of_old_preprocessing(full_name: str) -> str | None:
    """A note if ``$nnUNet_preprocessed`` still has a folder of an earlier dataset of this name, else None."""
    folder = os.environ.get(NNUNET_PREPROCESSED)
    if folder and (Path(folder) / full_name).exists():
        return (
            f"Note: {Path(folder) / full_name} belongs to an earlier dataset of this name; delete it before you run "
            f"nnUNetv2_plan_and_preprocess"
        )
    return None


def what_next(full_name: str, number: int) -> str:
    """What to do after a conversion: delete what was preprocessed of an earlier dataset, or the next command.

    nnU-Net preprocesses after ``difflung_augment``, since it would have to do so again for the synthetic cases.
    """
    return warn_of_old_preprocessing(full_name) or (
        f"Next: difflung_augment -d {number} --dry-run; to train on the real cases alone, "
        f"nnUNetv2_plan_and_preprocess -d {number} -c 2d"
    )
