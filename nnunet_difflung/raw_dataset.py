"""An nnU-Net raw dataset: the only file that knows its layout.

In memory a case is always (c, z, y, x), also when it is a single slice (z = 1).
"""
from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.command_line import BadInput, nnunet_folder
from nnunet_difflung.files import read_json
from nnunet_difflung.labels import LabelRoles, label_roles
from nnunet_difflung.splits import check_splits, is_synthetic, patient_grouped_splits, patients_of

_KEYS = ("labels", "channel_names", "numTraining", "file_ending")


@dataclass(frozen=True)
class Case:
    """Files of one case; an image file for each channel, except in formats that hold several channels in one."""

    identifier: str
    images: tuple[str, ...]
    label: str


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
        return Path(nnunet_folder("nnUNet_preprocessed")) / self.name

    def folds(self, wanted: Sequence[str] | None = None) -> list[int | str]:
        """Checks fold names; None means every fold of the split.

        Raises:
            BadInput: a fold that the split does not have.
        """
        if not wanted:
            return list(range(len(self.splits)))
        folds: list[int | str] = []
        for fold in wanted:
            if fold == "all":
                folds.append("all")
            elif str(fold).isdigit() and int(fold) < len(self.splits):
                folds.append(int(fold))
            else:
                raise BadInput(f"fold {fold} is not in the split of {self.name}, which has folds 0 to "
                               f"{len(self.splits) - 1} (or all)")
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
    """Calls a reader and turns its failures into one line with the file's name."""
    try:
        return read(files)
    except Exception as error:
        reason = str(error) or "the reader's message is above"
        name = files if isinstance(files, str) else ", ".join(files)
        raise BadInput(f"{name} cannot be read ({reason}); replace or repair the file") from error


def dataset_folder(dataset: str) -> Path:
    """Finds ``$nnUNet_raw/DatasetXXX_NAME`` from an id or a name.

    Raises:
        BadInput: a path variable or the dataset is missing.
    """
    raw = Path(nnunet_folder("nnUNet_raw"))
    here = sorted(p.name for p in raw.glob("Dataset*") if p.is_dir())
    if str(dataset).isdigit():
        found = [name for name in here if name.startswith(f"Dataset{int(dataset):03d}_")]
        if len(found) > 1:
            raise BadInput(f"id {dataset} means several datasets in {raw}: {', '.join(found)}; give the full name")
    else:
        found = [name for name in here if name == dataset]
    if not found:
        raise BadInput(f"dataset {dataset} is not in nnUNet_raw={raw}, which holds {', '.join(here) or 'no dataset'}; "
                       f"give an id or a name such as 801 or Dataset801_NAME")
    return raw / found[0]


def open_raw_dataset(dataset: str, normal_label: str | None = None, structure_labels: Sequence[str] = (),
                     patient_pattern: str | None = None) -> RawDataset:
    """Opens a dataset by id or name and checks all that can be checked without reading voxels.

    Raises:
        BadInput: with the file, what was found, what was expected and what to do.
    """
    folder = dataset_folder(dataset)
    dataset_json = _dataset_json(folder)
    roles = label_roles(dataset_json, str(folder / "dataset.json"), normal_label, structure_labels)
    everything = list_cases(folder, dataset_json)
    cases = {i: case for i, case in everything.items() if not is_synthetic(i)}
    if not cases:
        raise BadInput(f"{folder} has no training case; expected images in imagesTr and labels in labelsTr")
    patients = patients_of(list(cases), patient_pattern)
    splits, where = _splits(folder)
    new = splits is None
    if new:
        splits = patient_grouped_splits(patients)
    else:
        check_splits(splits, list(everything), patients, where)
    return RawDataset(folder, dataset_json, cases, roles, _reader(dataset_json, cases), patients, splits, new)


def _dataset_json(folder: Path) -> dict:
    path = folder / "dataset.json"
    if not path.is_file():
        raise BadInput(f"{path} is missing; an nnU-Net dataset needs it with the keys {', '.join(_KEYS)}")
    try:
        content = read_json(path)
    except ValueError as error:
        raise BadInput(f"{path} is no valid JSON ({error})") from error
    missing = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise BadInput(f"{path} lacks the key {missing[0]!r}; expected {', '.join(_KEYS)}")
    return content


def list_cases(folder: Path, dataset_json: dict) -> dict[str, Case]:
    """All training cases that nnU-Net would see, with files checked to exist and to agree with dataset.json."""
    if "dataset" in dataset_json:
        from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
        listed = get_filenames_of_train_images_and_targets(str(folder), read_json(folder / "dataset.json"))
        cases = {i: Case(i, tuple(entry["images"]), entry["label"]) for i, entry in listed.items()}
    else:
        cases = _cases_in_folders(folder, dataset_json)
    for case in cases.values():
        for file in (*case.images, case.label):
            if not Path(file).is_file():
                raise BadInput(f"{file} is missing: case {case.identifier} of {folder.name} needs it")
    if len(cases) != dataset_json["numTraining"]:
        raise BadInput(f"{folder / 'dataset.json'} says numTraining {dataset_json['numTraining']}, but {len(cases)} "
                       f"training cases were found; correct numTraining or the files")
    return cases


def _cases_in_folders(folder: Path, dataset_json: dict) -> dict[str, Case]:
    ending = dataset_json["file_ending"]
    for part in ("imagesTr", "labelsTr"):
        if not (folder / part).is_dir():
            raise BadInput(f"{folder / part} is missing; nnU-Net expects images in imagesTr, labels in labelsTr")
    images: dict[str, list[str]] = {}
    for file in sorted((folder / "imagesTr").glob(f"*{ending}")):
        stem = file.name[:-len(ending)]
        if len(stem) < 6 or stem[-5] != "_" or not stem[-4:].isdigit():
            raise BadInput(f"{file} does not end in _XXXX{ending} (four digits for the channel); rename it")
        images.setdefault(stem[:-5], []).append(str(file))
    labels = {f.name[:-len(ending)]: str(f) for f in (folder / "labelsTr").glob(f"*{ending}")}
    lonely = sorted(set(labels) - set(images))
    if lonely:
        raise BadInput(f"{labels[lonely[0]]} has no image {lonely[0]}_0000{ending} in imagesTr "
                       f"({len(lonely)} such labels)")
    return {i: Case(i, tuple(files), str(folder / "labelsTr" / f"{i}{ending}")) for i, files in images.items()}


def _splits(folder: Path) -> tuple[list[dict] | None, str]:
    """Splits from the raw folder, or else from the preprocessed one."""
    preprocessed = Path(nnunet_folder("nnUNet_preprocessed")) / folder.name
    for path in (folder / "splits_final.json", preprocessed / "splits_final.json"):
        if path.is_file():
            try:
                splits = read_json(path)
                assert splits and all({"train", "val"} <= set(split) for split in splits)
            except (ValueError, AssertionError, TypeError) as error:
                raise BadInput(f"{path} is no split file; expected a JSON list of {{'train': [...], 'val': [...]}}, "
                               f"one for each fold") from error
            return splits, str(path)
    return None, ""


def _reader(dataset_json: dict, cases: dict[str, Case]) -> type:
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    example = next(iter(cases.values())).images[0]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return determine_reader_writer_from_dataset_json(dataset_json, example, verbose=False)
    except RuntimeError as error:
        raise BadInput(f"{example} cannot be read by any of nnU-Net's readers for file_ending "
                       f"{dataset_json['file_ending']!r}; repair the file, or correct file_ending") from error
