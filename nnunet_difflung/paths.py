"""Where nnU-Net and this package keep what: datasets, results, caches. No other module spells these names.

$nnUNet_raw/DatasetXXX_NAME
$nnUNet_preprocessed/DatasetXXX_NAME
$nnUNet_results/DatasetXXX_NAME/difflung_patients.json      who the patients are
                                DiffLung__METHOD/fold_K     generators
                                DiffLung__cache             cases as arrays
                                DiffLung__evaluate          Table 1
                                DiffLung__compare           Table 2
                                DiffLung__audit             sheet of suspicious images
                                DiffLung__logs              a log of each command
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from nnunet_difflung.errors import BadInput

NNUNET_RAW, NNUNET_PREPROCESSED, NNUNET_RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
PATH_VARIABLES = (NNUNET_RAW, NNUNET_PREPROCESSED, NNUNET_RESULTS)
DATASET, SPLITS = "dataset.json", "splits_final.json"
MANIFEST = "difflung_manifest.json"  # in the raw and the preprocessed folder of a dataset with synthetic cases
VALIDATED = "difflung_validated.json"  # in a training's folder: the checkpoint that nnU-Net's validation scored
CASES_IN_CHECKPOINT = "difflung_cases"  # in the init_args of our trainers' checkpoints; see trainers.case_record
_OURS, _FOLD = "DiffLung__", "fold_"
TABLE1, TABLE2 = f"{_OURS}evaluate/table1.json", f"{_OURS}compare/table2.json"  # in a dataset's results
IMAGE_SHEET = f"{_OURS}audit/images.png"
_LOGS = f"{_OURS}logs"


def nnunet_folder(variable: str) -> str:
    """Value of one of nnU-Net's three path variables.

    Raises:
        BadInput: the variable is not set or names no folder.
    """
    value = os.environ.get(variable)
    if not value:
        raise BadInput(
            f"the environment variable {variable} is not set; export {', '.join(PATH_VARIABLES)} "
            f"as nnU-Net's installation page describes"
        )
    if not os.path.isdir(value):
        raise BadInput(
            f"{variable}={value} is not a folder; create it (mkdir -p {shlex.quote(value)}) or correct the variable"
        )
    return value


# ---- names of datasets ----


def dataset_id(name: str) -> int | str:
    """The id of ``Dataset801_NAME`` for printed commands: 801, or the quoted name where nnU-Net refuses the id."""
    return shlex.quote(name) if others_with_id(name) else dataset_number(name)


def others_with_id(name: str) -> list[str]:
    """Other names that nnU-Net finds by the id of ``Dataset801_NAME``, which it then refuses; sorted.

    It looks into all three folders, and takes ``Dataset8010_NAME`` for one of them.
    """
    roots = [root for variable in PATH_VARIABLES if (root := os.environ.get(variable))]
    start = f"Dataset{dataset_number(name):03d}"
    return sorted({found for root in roots for found in names_in(root) if found.startswith(start)} - {name})


def dataset_number(name: str) -> int:
    """The number of ``Dataset801_NAME``: 801."""
    return int(name.removeprefix("Dataset").partition("_")[0])


def full_name(number: int, name: str) -> str:
    """``Dataset801_NAME`` of 801 and ``NAME``."""
    return f"Dataset{number:03d}_{name}"


def names_in(root: str | Path) -> list[str]:
    """Names of the datasets in one of nnU-Net's folders, sorted."""
    return sorted(path.name for path in Path(root).glob("Dataset*") if path.is_dir())


def meant(dataset: str, names: list[str]) -> list[str]:
    """The names that an id or a name stands for."""
    if str(dataset).isdecimal():
        return [name for name in names if name.startswith(full_name(int(dataset), ""))]
    return [name for name in names if name == dataset]


def _refuse_several(dataset: str, matches: list[str], folder: str | Path) -> None:
    if len(matches) > 1:
        raise BadInput(f"id {dataset} means several datasets in {folder}: {', '.join(matches)}; give the full name")


def _such_as(names: list[str]) -> str:
    """What may be given for a dataset, with the first of the names as the example."""
    name = next((name for name in names if re.match(r"Dataset\d+_.", name)), "Dataset801_NAME")
    return f"an id or a name such as {dataset_id(name)} or {name}"


def dataset_folder(dataset: str) -> Path:
    """Finds ``$nnUNet_raw/DatasetXXX_NAME`` from an id or a name.

    Raises:
        BadInput: the path variable or the dataset is missing, or an id stands for several datasets.
    """
    raw = Path(nnunet_folder(NNUNET_RAW))
    names = names_in(raw)
    matches = meant(dataset, names)
    _refuse_several(dataset, matches, raw)
    if not matches:
        raise BadInput(
            f"dataset {dataset} is not in {NNUNET_RAW}={raw}, which holds {', '.join(names) or 'no dataset'}; "
            f"give {_such_as(names)}"
        )
    return raw / matches[0]


def dataset_name(dataset: str) -> str:
    """``DatasetXXX_NAME`` from an id or a name, of a raw dataset or of one that is only in ``$nnUNet_preprocessed``.

    Raises:
        BadInput: no path variable is set, or the dataset is in neither folder.
    """
    preprocessed = os.environ.get(NNUNET_PREPROCESSED)
    if os.environ.get(NNUNET_RAW) or not preprocessed:
        try:
            return dataset_folder(dataset).name
        except BadInput:
            if not preprocessed:
                raise
    names = names_in(preprocessed)
    matches = meant(dataset, names)
    _refuse_several(dataset, matches, preprocessed)
    if not matches:
        raw = os.environ.get(NNUNET_RAW)
        in_raw = names_in(raw) if raw else []
        where = f"{NNUNET_RAW}={raw}, which holds {', '.join(in_raw) or 'no dataset'}"
        raise BadInput(
            f"dataset {dataset} is neither in {where if raw else f'{NNUNET_RAW}, which is not set'}, nor in "
            f"{NNUNET_PREPROCESSED}={preprocessed}, which holds {', '.join(names) or 'no dataset'}; "
            f"give {_such_as([*in_raw, *names])}"
        )
    return matches[0]


# ---- folders of a dataset ----


def dataset_folders(name: str) -> tuple[Path | None, Path | None]:
    """The dataset's raw and preprocessed folders; None where the variable is unset or the folder missing."""
    raw, preprocessed = (_folder_if_there(variable, name) for variable in (NNUNET_RAW, NNUNET_PREPROCESSED))
    return raw, preprocessed


def _folder_if_there(variable: str, name: str) -> Path | None:
    root = os.environ.get(variable)
    return Path(root, name) if root and Path(root, name).is_dir() else None


def raw_folder(name: str) -> Path:
    """``$nnUNet_raw/DatasetXXX_NAME``; it may not exist."""
    return Path(nnunet_folder(NNUNET_RAW), name)


def preprocessed_folder(name: str) -> Path:
    """``$nnUNet_preprocessed/DatasetXXX_NAME``; it may not exist."""
    return Path(nnunet_folder(NNUNET_PREPROCESSED), name)


def method_name(method: str) -> str:
    """``DiffLung__METHOD``, the name of a method's folder in a dataset's results."""
    return f"{_OURS}{method}"


def results_folder(name: str, method: str) -> Path:
    """``$nnUNet_results/DatasetXXX_NAME/DiffLung__METHOD``; it may not exist."""
    return Path(nnunet_folder(NNUNET_RESULTS), name, method_name(method))


def cache_folder(name: str) -> Path:
    """Cached cases of a dataset, shared by folds and methods."""
    return results_folder(name, "cache")


def table1_file(name: str) -> Path:
    """Where ``difflung_evaluate`` writes its results by default."""
    return Path(nnunet_folder(NNUNET_RESULTS), name, TABLE1)


def table2_file(name: str) -> Path:
    """Where ``difflung_compare`` writes its results by default."""
    return Path(nnunet_folder(NNUNET_RESULTS), name, TABLE2)


def image_sheet(name: str) -> Path:
    """Where ``difflung_audit --images`` draws pairs of slices that may show the same patient."""
    return Path(nnunet_folder(NNUNET_RESULTS), name, IMAGE_SHEET)


def logs_folder(name: str) -> Path:
    """Where the commands on a dataset write their logs; it may not exist."""
    return Path(nnunet_folder(NNUNET_RESULTS), name, _LOGS)


def our_folders(name: str) -> list[Path]:
    """The folders of methods and of the cache in a dataset's results, sorted; not those of tables, audits and logs.

    Returns:
        nothing where ``nnUNet_results`` is not set.
    """
    results = os.environ.get(NNUNET_RESULTS)
    others = {_LOGS, *(Path(table).parent.name for table in (TABLE1, TABLE2, IMAGE_SHEET))}
    folders = Path(results, name).glob(f"{_OURS}*") if results else ()
    return sorted(folder for folder in folders if folder.name not in others)


def patients_record(name: str) -> Path | None:
    """Where it is recorded who the patients of a dataset are; None where ``nnUNet_results`` is not set."""
    results = os.environ.get(NNUNET_RESULTS)
    return Path(results, name, "difflung_patients.json") if results else None


# ---- folds, of this package's generators and of nnU-Net's models ----


def fold_name(fold: int | str) -> str:
    """``fold_0`` or ``fold_all``."""
    return f"{_FOLD}{fold}"


def fold_of(folder: Path) -> int | str:
    """The fold of such a folder: a number, or ``all``."""
    name = folder.name.removeprefix(_FOLD)
    return int(name) if name.isdecimal() else name


def fold_folder(name: str, method: str, fold: int | str) -> Path:
    """Where the generator of a method's fold is kept; it may not exist."""
    return results_folder(name, method) / fold_name(fold)


def fold_folders(folder: Path) -> list[Path]:
    """The folders of folds in the folder of a method or a model, sorted."""
    return sorted(path for path in folder.glob(f"{_FOLD}*") if path.is_dir())
