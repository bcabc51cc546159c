"""An nnU-Net raw dataset: cases, roles of the labels, patients, folds; its format is known here and in ``layout``.

In memory a case is always (c, z, y, x), also when it is a single slice (z = 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset.labels import LabelRoles, label_roles
from nnunet_difflung.dataset.layout import Case, find_reader, find_splits, list_cases, read_dataset_json
from nnunet_difflung.dataset.splits import check_splits, is_synthetic, patient_grouped_splits, patients_of
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import DATASET, PATH_VARIABLES, dataset_folder, nnunet_folder, preprocessed_folder


@dataclass(frozen=True)
class RawDataset:
    """A dataset in ``$nnUNet_raw`` with its real cases, the roles of its labels, its patients and its folds."""

    folder: Path
    dataset_json: dict
    cases: dict[str, Case]
    roles: LabelRoles
    reader: type
    patients: dict[str, str]
    splits: list[dict[str, list[str]]]
    splits_are_new: bool

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
        """Checks fold names; None means every fold of the split.

        Raises:
            BadInput: a fold that the split does not have.
        """
        if not names:
            return list(range(len(self.splits)))
        folds: list[int | str] = []
        for fold in names:
            if fold == "all":
                folds.append("all")
            elif str(fold).isdigit() and int(fold) < len(self.splits):
                folds.append(int(fold))
            else:
                raise BadInput(
                    f"fold {fold} is not in the split of {self.name}, which has folds 0 to "
                    f"{len(self.splits) - 1}; give one of these numbers, or all"
                )
        return list(dict.fromkeys(folds))

    def training_cases(self, fold: int | str) -> list[str]:
        """Ids of the real training cases of a fold (``all``: of every case)."""
        if fold == "all":
            return sorted(self.cases)
        return sorted(i for i in self.splits[int(fold)]["train"] if not is_synthetic(i))

    def validation_cases(self, fold: int | str) -> list[str]:
        """Ids of a fold's validation cases (``all``: none)."""
        return [] if fold == "all" else sorted(self.splits[int(fold)]["val"])

    def read_image(self, identifier: str) -> tuple[np.ndarray, dict]:
        """(c, z, y, x) float32 in the dataset's own intensities, and the reader's properties."""
        return _read(self.reader().read_images, self.cases[identifier].images)

    def read_label(self, identifier: str) -> tuple[np.ndarray, dict]:
        """(z, y, x) int16 label values, and the reader's properties."""
        label, properties = _read(self.reader().read_seg, self.cases[identifier].label)
        return np.rint(label[0]).astype(np.int16), properties


def _read(read, files):
    """Calls a reader; an error of any kind becomes one line with the file's name."""
    try:
        return read(files)
    except Exception as error:
        reason = str(error) or "the reader's message is above"
        name = files if isinstance(files, str) else ", ".join(files)
        raise BadInput(f"{name} cannot be read ({reason}); replace or repair the file") from error


def check_dataset(dataset: str, normal_label: str | None = None, structure_labels: Sequence[str] = ()) -> None:
    """Checks nnU-Net's path variables and what dataset.json says, which takes no time and no large package.

    Args:
        dataset: id or name.
        normal_label: name of the normal lung's label; None finds it by its name.
        structure_labels: labels that are neither normal lung nor pathology.

    Raises:
        BadInput: a folder or dataset.json is missing, or dataset.json is faulty.
    """
    for variable in PATH_VARIABLES:
        nnunet_folder(variable)
    _described(dataset, normal_label, structure_labels)


def _described(
    dataset: str, normal_label: str | None, structure_labels: Sequence[str]
) -> tuple[Path, dict, LabelRoles]:
    """A dataset's folder, its dataset.json and the roles of its labels."""
    folder = dataset_folder(dataset)
    dataset_json = read_dataset_json(folder)
    return folder, dataset_json, label_roles(dataset_json, str(folder / DATASET), normal_label, structure_labels)


def open_raw_dataset(
    dataset: str,
    normal_label: str | None = None,
    structure_labels: Sequence[str] = (),
    patient_pattern: str | None = None,
) -> RawDataset:
    """Opens a dataset by id or name and checks everything that can be checked without reading voxels.

    Raises:
        BadInput: the message names the file, what was found, what was expected, and the remedy.
    """
    folder, dataset_json, roles = _described(dataset, normal_label, structure_labels)
    all_cases = list_cases(folder, dataset_json)
    cases = {i: case for i, case in all_cases.items() if not is_synthetic(i)}
    if not cases:
        raise BadInput(f"{folder} has no training case; put images into imagesTr and labels into labelsTr")
    patients = patients_of(list(cases), patient_pattern)
    splits, where = find_splits(folder)
    if splits is not None:
        check_splits(splits, list(all_cases), patients, where)
    reader = find_reader(dataset_json, cases)
    folds = patient_grouped_splits(patients) if splits is None else splits
    return RawDataset(folder, dataset_json, cases, roles, reader, patients, folds, splits_are_new=splits is None)
