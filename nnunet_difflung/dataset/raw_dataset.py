"""An nnU-Net raw dataset: cases, roles of the labels, patients, folds. Only this file and ``layout`` know its format.

In memory an image is always (c, z, y, x), also when it is a single slice (z = 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_difflung.dataset.layout import Case, find_reader, find_splits, list_cases, read_dataset_json
from nnunet_difflung.dataset.splits import (
    FOLDS,
    check_several_patients,
    check_splits,
    is_synthetic,
    make_splits,
    splits_in_use,
)
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.completeness import damage
from nnunet_difflung.meaning.labels import LabelRoles, label_roles
from nnunet_difflung.paths import (
    DATASET,
    PATH_VARIABLES,
    dataset_folder,
    fold_folders,
    fold_name,
    nnunet_folder,
    our_folders,
    preprocessed_folder,
)
from nnunet_difflung.patients.reading import Reading, find_reading, noting_others
from nnunet_difflung.runtime.files import read_own_json


@dataclass(frozen=True)
class RawDataset:
    """A dataset in ``$nnUNet_raw`` with its real cases, the roles of its labels, its patients and its folds.

    Attributes:
        folder: the dataset's folder.
        dataset_json: content of ``dataset.json``.
        cases: id → files of the real cases.
        roles: roles of the labels.
        reader: nnU-Net's reader for the files.
        reading: the patients, and where they are known from.
        listed_splits: content of the split file; None if there is none, so that folds have to be made.
        voxels: case id → number of voxels of each label in the order of ``roles.values``, for making folds; None if
            they have not been counted yet.
        contents: case id → file, named as in the manifest → SHA-256, when the cases were read; None if they have not
            been read yet.
    """

    folder: Path
    dataset_json: dict
    cases: dict[str, Case]
    roles: LabelRoles
    reader: type
    reading: Reading
    listed_splits: list[dict[str, list[str]]] | None
    voxels: Mapping[str, Sequence[int]] | None = None
    contents: Mapping[str, Mapping[str, str]] | None = None

    @property
    def patients(self) -> dict[str, str]:
        """Case id → patient."""
        return self.reading.patients

    @property
    def splits_are_new(self) -> bool:
        """Whether the dataset has no split file, so that this package makes the folds."""
        return self.listed_splits is None

    @cached_property
    def splits(self) -> list[dict[str, list[str]]]:
        """The folds of the split file, or new folds; for these the labels are counted if that has not been done yet."""
        if self.listed_splits is not None:
            return self.listed_splits
        voxels = self._count_voxels() if self.voxels is None else self.voxels
        return splits_in_use(make_splits(self.patients, voxels), self.patients, _trained_on(self.name))

    @property
    def number_of_folds(self) -> int:
        """Number of folds; it does not require counting labels."""
        return min(FOLDS, len(set(self.patients.values()))) if self.listed_splits is None else len(self.listed_splits)

    def _count_voxels(self) -> dict[str, list[int]]:
        counts = {}
        for identifier in self.cases:
            label, _ = self.read_label(identifier)
            counts[identifier] = [int(np.count_nonzero(label == value)) for value in self.roles.values.values()]
        return counts

    @property
    def name(self) -> str:
        """``DatasetXXX_NAME``."""
        return self.folder.name

    @property
    def channels(self) -> list[str]:
        """Channel names in order."""
        names = self.dataset_json["channel_names"]
        return [names[key] for key in sorted(names, key=int)]

    @property
    def preprocessed(self) -> Path:
        """The dataset's folder in ``$nnUNet_preprocessed`` (it may not exist)."""
        return preprocessed_folder(self.name)

    def folds(self, names: Sequence[str] | None = None) -> list[int | str]:
        """Folds by name, checked; without names every fold of the split.

        Raises:
            BadInput: the split does not have the fold.
        """
        if not names:
            return list(range(self.number_of_folds))
        folds: list[int | str] = []
        for fold in names:
            if fold == "all":
                folds.append("all")
            elif str(fold).isdecimal() and int(fold) < self.number_of_folds:
                folds.append(int(fold))
            else:
                raise BadInput(
                    f"fold {fold} is not in the split of {self.name}, which has folds 0 to "
                    f"{self.number_of_folds - 1}; give one of these numbers, or all"
                )
        return list(dict.fromkeys(folds))

    def training_cases(self, fold: int | str) -> list[str]:
        """Ids of a fold's real training cases; of all real cases for ``all``."""
        if fold == "all":
            return sorted(self.cases)
        return sorted(i for i in self.splits[int(fold)]["train"] if not is_synthetic(i))

    def validation_cases(self, fold: int | str) -> list[str]:
        """Ids of a fold's validation cases; none for ``all``."""
        return [] if fold == "all" else sorted(self.splits[int(fold)]["val"])

    def files(self) -> list[str]:
        """The image and label files of all real cases."""
        return [file for case in self.cases.values() for file in (*case.images, case.label)]

    def read_image(self, identifier: str) -> tuple[np.ndarray, dict]:
        """(c, z, y, x) float32 in the dataset's own intensities, and the reader's properties."""
        return read_whole(self.reader().read_images, self.cases[identifier].images)

    def read_label(self, identifier: str) -> tuple[np.ndarray, dict]:
        """(z, y, x) int16 label values, and the reader's properties.

        Raises:
            BadInput: the file cannot be read, or it is a picture in colours, or holds values that are no label values.
        """
        file = self.cases[identifier].label
        label, properties = read_whole(self.reader().read_seg, file)
        if len(label) > 1 and (label != label[:1]).any():
            raise BadInput(
                f"{file} has {len(label)} channels that differ, as in a picture in colours (RGB, RGBA or with a "
                f"palette), but nnU-Net reads label values from one; save the values themselves as a grey picture"
            )
        with np.errstate(invalid="ignore"):  # NaN, and values out of range
            values = label[0].astype(np.int16)
        different = values != label[0]
        if different.any():
            raise BadInput(
                f"{file} holds the value {label[0][different][0]:g}, which is not a label value; expected whole "
                f"numbers (nnU-Net cuts fractions off, so that 0.998 becomes background): write the labels as integers"
            )
        return values, properties


def read_whole(read: Callable[[Any], Any], files: str | Sequence[str]) -> Any:
    """Calls one of nnU-Net's readers, which fill up what is missing in a file with zeros.

    Raises:
        BadInput: a file broke off, or cannot be read.
    """
    for file in (files,) if isinstance(files, str) else files:
        if Path(file).is_file() and (reason := damage(Path(file), quickly=True)):  # readers fill up with zeros
            raise BadInput(f"{file} is damaged ({reason}); replace or repair the file")
    try:
        return read(files)
    except Exception as error:
        reason = str(error) or "the reader's message is above"
        name = files if isinstance(files, str) else ", ".join(files)
        raise BadInput(f"{name} cannot be read ({reason}); replace or repair the file") from error


def read_image(reader: type, files: Sequence[str]) -> tuple[np.ndarray, float]:
    """Reads a case's image without its dataset, in any process.

    Args:
        reader: nnU-Net's.
        files: of the channels.

    Returns:
        (c, z, y, x) float32 and the spacing along z in mm.

    Raises:
        BadInput: a file cannot be read.
    """
    image, properties = read_whole(reader().read_images, files)
    return image, float(properties["spacing"][0])


def check_dataset(dataset: str, normal_labels: Sequence[str] = (), structure_labels: Sequence[str] = ()) -> LabelRoles:
    """Checks nnU-Net's path variables and the content of dataset.json, which is fast and needs no large package.

    Args:
        dataset: id or name.
        normal_labels: names of normal lung's labels; without any they are found by their names.
        structure_labels: labels that are neither normal lung nor pathology.

    Returns:
        The roles of the labels.

    Raises:
        BadInput: a folder or dataset.json is missing, or dataset.json is faulty.
    """
    for variable in PATH_VARIABLES:
        nnunet_folder(variable)
    return _described(dataset, normal_labels, structure_labels)[2]


def _described(
    dataset: str, normal_labels: Sequence[str], structure_labels: Sequence[str]
) -> tuple[Path, dict, LabelRoles]:
    """A dataset's folder, its dataset.json and the roles of its labels."""
    folder = dataset_folder(dataset)
    dataset_json = read_dataset_json(folder)
    return folder, dataset_json, label_roles(dataset_json, str(folder / DATASET), normal_labels, structure_labels)


def open_raw_dataset(
    dataset: str,
    normal_labels: Sequence[str] = (),
    structure_labels: Sequence[str] = (),
    patient_pattern: str | None = None,
    patients_file: str | Path | None = None,
) -> RawDataset:
    """Opens a dataset by id or name, and checks everything that can be checked without reading voxels.

    Args:
        dataset: id or name.
        normal_labels: names of normal lung's labels; without any they are found by their names.
        structure_labels: labels that are neither normal lung nor pathology.
        patient_pattern: regular expression that matches each case id and whose first group is the patient.
        patients_file: CSV or JSON file that says who the patients are, instead of a pattern.

    Raises:
        BadInput: names the file, the fault, what was expected, and the remedy.
    """
    folder, dataset_json, roles = _described(dataset, normal_labels, structure_labels)
    all_cases = list_cases(folder, dataset_json)
    cases = {i: case for i, case in all_cases.items() if not is_synthetic(i)}
    if not cases:
        raise BadInput(f"{folder} has no training case; put images into imagesTr and labels into labelsTr")
    splits, where = find_splits(folder)
    reading = find_reading(folder.name, list(cases), patient_pattern, patients_file, splits, where)
    reading = noting_others(reading, folder)
    if splits is None:
        check_several_patients(reading.patients)
    else:
        check_splits(splits, list(all_cases), reading.patients, where)
    return RawDataset(folder, dataset_json, cases, roles, find_reader(dataset_json, cases), reading, splits)


def _trained_on(dataset_name: str) -> list[tuple[int, list[str]]]:
    """Fold and training cases of each generator of the dataset, finished or not.

    Raises:
        BadInput: a generator's card is damaged, so that it cannot be known which folds are in use.
    """
    folds = [
        fold for folder in our_folders(dataset_name) for fold in fold_folders(folder) if fold.name != fold_name("all")
    ]
    cards = [
        read_own_json(fold / "generator.json", f", or delete the folder {fold} to train its generator anew")
        for fold in folds
        if (fold / "generator.json").is_file()
    ]
    return [(card["fold"], card["training_cases"]) for card in cards if {"fold", "training_cases"} <= card.keys()]
