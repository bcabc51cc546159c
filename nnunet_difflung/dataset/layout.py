"""Layout of an nnU-Net raw dataset: folders, case files, dataset.json, splits, and the reader for its format."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import DATASET, SPLITS, preprocessed_folder
from nnunet_difflung.runtime.files import openable, read_json

_KEYS = ("labels", "channel_names", "numTraining", "file_ending")


@dataclass(frozen=True)
class Case:
    """Files of a case: an image file for each channel, or fewer in formats that store several channels in a file."""

    identifier: str
    images: tuple[str, ...]
    label: str


def read_dataset_json(folder: Path) -> dict:
    """``dataset.json``, checked for the keys that nnU-Net needs.

    Raises:
        BadInput: the file is missing, is not JSON, or lacks a key.
    """
    path = folder / DATASET
    if not path.is_file():
        raise BadInput(f"{path} is missing; an nnU-Net dataset needs it with the keys {', '.join(_KEYS)}")
    try:
        content = read_json(path)
    except ValueError as error:
        raise BadInput(f"{path} is not valid JSON ({error}); restore or correct the file") from error
    missing = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise BadInput(f"{path} lacks the key {missing[0]!r}; expected {', '.join(_KEYS)}: add it")
    return content


def check_files(cases: Iterable[Case], name: str) -> None:
    """Checks that all files of the cases exist.

    Raises:
        BadInput: a file is missing.
    """
    for case in cases:
        for file in (*case.images, case.label):
            if not Path(file).is_file():
                raise BadInput(
                    f"{file} is missing: case {case.identifier} of {name} needs it; restore it, or remove the case"
                )


def list_cases(folder: Path, dataset_json: dict) -> dict[str, Case]:
    """All training cases that nnU-Net would find, after checking their files against dataset.json.

    Raises:
        BadInput: a file is missing or misnamed, or numTraining is not the number of cases.
    """
    if "dataset" in dataset_json:
        from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

        listed = get_filenames_of_train_images_and_targets(str(folder), read_json(folder / DATASET))
        cases = {i: Case(i, tuple(entry["images"]), entry["label"]) for i, entry in listed.items()}
    else:
        cases = _cases_in_folders(folder, dataset_json)
    for case in cases.values():
        for file in (*case.images, case.label):
            openable(file)
        if not case.identifier or case.identifier.startswith(".") or set("/\\\0") & set(case.identifier):
            raise BadInput(
                f"{folder / DATASET} names a case {case.identifier!r}; a case id has no slash and "
                f"does not begin with a dot: rename the case"
            )
    check_files(cases.values(), folder.name)
    if len(cases) != dataset_json["numTraining"]:
        raise BadInput(
            f"{folder / DATASET} says numTraining {dataset_json['numTraining']}, but {len(cases)} "
            f"training cases were found; correct numTraining, or add or remove files"
        )
    return cases


def _cases_in_folders(folder: Path, dataset_json: dict) -> dict[str, Case]:
    ending = dataset_json["file_ending"]
    for part in ("imagesTr", "labelsTr"):
        if not (folder / part).is_dir():
            raise BadInput(f"{folder / part} is missing; nnU-Net expects images in imagesTr, labels in labelsTr")
        _refuse_other_capitals(folder / part, ending)
    images: dict[str, list[str]] = {}
    for file in sorted((folder / "imagesTr").glob(f"*{ending}")):
        if file.name.startswith("."):
            raise BadInput(
                f"{file} begins with a dot, and nnU-Net would take it for a case; delete it (macOS leaves "
                f"such files beside copied files)"
            )
        stem = file.name[: -len(ending)]
        if len(stem) < 6 or stem[-5] != "_" or not stem[-4:].isdigit():
            raise BadInput(f"{file} does not end in _XXXX{ending} (four digits for the channel); rename it")
        images.setdefault(stem[:-5], []).append(str(file))
    labels = {f.name[: -len(ending)]: str(f) for f in (folder / "labelsTr").glob(f"[!.]*{ending}")}
    without_image = sorted(set(labels) - set(images))
    if without_image:
        raise BadInput(
            f"{labels[without_image[0]]} has no image {without_image[0]}_0000{ending} in imagesTr "
            f"({len(without_image)} such labels); add the image or remove the label"
        )
    return {i: Case(i, tuple(files), str(folder / "labelsTr" / f"{i}{ending}")) for i, files in images.items()}


def _refuse_other_capitals(folder: Path, ending: str) -> None:
    for file in sorted(folder.iterdir()):
        if file.name.lower().endswith(ending.lower()) and not file.name.endswith(ending):
            raise BadInput(
                f"{file} ends in {file.name[-len(ending) :]!r}, but nnU-Net looks for {ending!r} (file_ending in "
                f"{DATASET}) with exactly these letters and would leave the file out; rename it"
            )


def find_splits(folder: Path) -> tuple[list[dict] | None, str]:
    """Splits from the raw folder, or else from the preprocessed folder, and their path; (None, "") if there are none.

    Raises:
        BadInput: the file is not a split file.
    """
    for path in (folder / SPLITS, preprocessed_folder(folder.name) / SPLITS):
        if path.is_file():
            try:
                splits = read_json(path)
                if not splits or not all({"train", "val"} <= set(split) for split in splits):
                    raise ValueError("a fold lacks train or val")
            except (ValueError, TypeError) as error:
                raise BadInput(
                    f"{path} is not a split file; expected a JSON list of {{'train': [...], 'val': [...]}}, "
                    f"one for each fold"
                ) from error
            return splits, str(path)
    return None, ""


def find_reader(dataset_json: dict, cases: dict[str, Case]) -> type:
    """nnU-Net's reader for the dataset's files.

    Raises:
        BadInput: none of nnU-Net's readers can read the first image.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    example = next(iter(cases.values())).images[0]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return determine_reader_writer_from_dataset_json(dataset_json, example, verbose=False)
    except RuntimeError as error:
        raise BadInput(
            f"{example} cannot be read by any of nnU-Net's readers for file_ending {dataset_json['file_ending']!r}"
            f"{_reason(example, dataset_json['file_ending'])}; repair or convert the files, or correct file_ending"
        ) from error


def _reason(example: str, ending: str) -> str:
    """What the first reader for these files says of one, in brackets."""
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    for reader in LIST_OF_IO_CLASSES:
        if ending.lower() in reader.supported_file_endings:
            try:
                reader().read_images([example])
            except Exception as error:  # whatever its library raises
                said = " ".join(str(error).split())
                return f" ({said[:200]})" if said else ""
    return ""
