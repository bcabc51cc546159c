"""An nnU-Net dataset as a read-only view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np

from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.commit import read_steadily
from nnunet_difflung.lesions.plan import shares
from nnunet_difflung.paths import NNUNET_RAW, dataset_folder, nnunet_folder


@dataclass(frozen=True)
class Case:
    """A real case of a dataset.

    Attributes:
        identifier: case id.
        patient: whose it is.
        image: (c, z, y, x) float32 in the dataset's own intensities (HU for CT); z = 1 for a single slice.
        labels: (z, y, x) int16 label values.
        spacing: (z, y, x) in mm.
    """

    identifier: str
    patient: str
    image: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    spacing: tuple[float, float, float]


@dataclass(frozen=True, repr=False)
class Dataset:
    """A view of an nnU-Net raw dataset: its real cases, patients, folds and labels. Nothing it does writes a file.

    Made by ``load_dataset``; files are read when they are asked for.

    Attributes:
        raw: the dataset as the rest of the package sees it.
        label_options: what ``load_dataset`` was told about labels and patients, as options of ``difflung_augment``.
    """

    raw: RawDataset
    label_options: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, cases={len(self.cases)}, patients={len(set(self.patients.values()))})"

    @property
    def name(self) -> str:
        """``DatasetXXX_NAME``."""
        return self.raw.name

    @property
    def folder(self) -> Path:
        """The dataset's folder in ``$nnUNet_raw``."""
        return self.raw.folder

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return tuple(self.raw.channels)

    @property
    def cases(self) -> tuple[str, ...]:
        """Ids of the real cases; synthetic cases do not count."""
        return tuple(self.raw.cases)

    @property
    def patients(self) -> Mapping[str, str]:
        """Case id → patient."""
        return MappingProxyType(self.raw.patients)

    @property
    def labels(self) -> Mapping[str, int]:
        """Name → value of the labels, without background and ``ignore``."""
        return MappingProxyType(self.raw.roles.values)

    @property
    def normal_labels(self) -> tuple[str, ...]:
        """The labels of normal lung, into which lesions are painted."""
        return self.raw.roles.normal

    @property
    def pathologies(self) -> tuple[str, ...]:
        """The labels that can be painted."""
        return self.raw.roles.pathologies

    @property
    def structures(self) -> tuple[str, ...]:
        """All other labels."""
        return self.raw.roles.structures

    @property
    def folds(self) -> tuple[int, ...]:
        """Numbers of the folds."""
        return tuple(range(self.raw.number_of_folds))

    def training_cases(self, fold: int | str) -> tuple[str, ...]:
        """Ids of a fold's real training cases; of all real cases for ``all``.

        Raises:
            BadInput: there is no such fold.
        """
        return tuple(self._with_folds.training_cases(self.fold(fold)))

    def validation_cases(self, fold: int | str) -> tuple[str, ...]:
        """Ids of a fold's validation cases; none for ``all``.

        Raises:
            BadInput: there is no such fold.
        """
        return tuple(self._with_folds.validation_cases(self.fold(fold)))

    def fold(self, fold: int | str) -> int | str:
        """A fold's number, or ``all``.

        Raises:
            BadInput: there is no such fold.
        """
        return self.raw.folds([str(fold)])[0]

    def case(self, identifier: str) -> Case:
        """Reads a case.

        Raises:
            BadInput: there is no such case, or a file cannot be read.
        """
        if identifier not in self.raw.cases:
            raise BadInput(
                f"{self.name} has no real case {identifier!r}; its {len(self.raw.cases)} cases are named like "
                f"{next(iter(self.raw.cases))}"
            )
        image, properties = self.raw.read_image(identifier)
        labels, _ = self.raw.read_label(identifier)
        z, y, x = (float(length) for length in properties["spacing"])
        return Case(identifier, self.raw.patients[identifier], image, labels, (z, y, x))

    def shares(self, fold: int | str = "all") -> dict[str, float]:
        """Class → share of the lung voxels in a fold's training cases, for normal lung and each pathology.

        The labels of all cases are read once.
        """
        cases = self.training_cases(fold)
        return shares({name: sum(self._voxels[case][name] for case in cases) for name in self.raw.roles.lung})

    @cached_property
    def _voxels(self) -> dict[str, dict[str, int]]:
        """Case id → label → number of voxels."""
        counts = {}
        for identifier in self.raw.cases:
            labels, _ = self.raw.read_label(identifier)
            counts[identifier] = {name: int((labels == value).sum()) for name, value in self.labels.items()}
        return counts

    @cached_property
    def _with_folds(self) -> RawDataset:
        """The dataset with what new folds are made from, where it has no split file."""
        if not self.raw.splits_are_new or self.raw.voxels is not None:
            return self.raw
        return replace(self.raw, voxels={case: list(counts.values()) for case, counts in self._voxels.items()})


def load_dataset(
    dataset: str | int | Path,
    *,
    normal_labels: Sequence[str] = (),
    structure_labels: Sequence[str] = (),
    patient_pattern: str | None = None,
    patients_file: str | Path | None = None,
) -> Dataset:
    """Opens a dataset and checks what can be checked without reading voxels; writes nothing.

    Args:
        dataset: id (``801``, ``"801"``), name (``"Dataset801_NAME"``), or the dataset's folder as a ``Path``.
        normal_labels: names of normal lung's labels; without any they are found by their names.
        structure_labels: labels that are neither normal lung nor pathology.
        patient_pattern: regular expression that matches each case id and whose first group is the patient.
        patients_file: CSV or JSON file that says who the patients are, instead of a pattern.

    Raises:
        BadInput: the dataset is missing or faulty, or the labels or patients are ambiguous; the message has the remedy.
    """
    if patient_pattern is not None and patients_file is not None:
        raise BadInput("patient_pattern and patients_file both say who the patients are; give one of them")
    name = _in_raw(dataset) if isinstance(dataset, Path) else str(dataset)
    told = [f"--normal-label={label}" for label in normal_labels]
    told += [f"--structure-label={label}" for label in structure_labels]
    told += [] if patient_pattern is None else [f"--patient-pattern={patient_pattern}"]
    told += [] if patients_file is None else [f"--patients={patients_file}"]

    def read() -> RawDataset:
        return open_raw_dataset(name, tuple(normal_labels), tuple(structure_labels), patient_pattern, patients_file)

    return Dataset(read_steadily(dataset_folder(name), read, untouched=True), tuple(told))


def as_dataset(dataset: Dataset | str | int | Path) -> Dataset:
    """A dataset that was loaded already, or is loaded now."""
    return dataset if isinstance(dataset, Dataset) else load_dataset(dataset)


def _in_raw(folder: Path) -> str:
    """Name of the dataset in a folder.

    Raises:
        BadInput: the folder does not lie in ``$nnUNet_raw``.
    """
    raw = Path(nnunet_folder(NNUNET_RAW))
    if folder.parent.resolve() != raw.resolve():
        raise BadInput(
            f"{folder} does not lie in {NNUNET_RAW}={raw}; let {NNUNET_RAW} name the folder that holds it, or move it"
        )
    return folder.name
