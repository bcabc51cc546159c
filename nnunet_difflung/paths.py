"""Where nnU-Net and this package keep what: the three path variables, datasets, results, caches."""

from __future__ import annotations

import os
from pathlib import Path

from nnunet_difflung.errors import BadInput

PATH_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
DATASET, SPLITS = "dataset.json", "splits_final.json"


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
        raise BadInput(f"{variable}={value} is not a folder; create it (mkdir -p {value}) or correct the variable")
    return value


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
        raise BadInput(
            f"dataset {dataset} is not in nnUNet_raw={raw}, which holds {', '.join(here) or 'no dataset'}; "
            f"give an id or a name such as 801 or Dataset801_NAME"
        )
    return raw / found[0]


def dataset_folders(dataset_name: str) -> tuple[Path | None, Path | None]:
    """The dataset's raw and preprocessed folders; None where the variable is unset or the folder missing."""
    found = []
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        root = os.environ.get(variable)
        folder = Path(root) / dataset_name if root else None
        found.append(folder if folder is not None and folder.is_dir() else None)
    return found[0], found[1]


def results_folder(dataset: str, method: str) -> Path:
    """``$nnUNet_results/<dataset>/DiffLung__<method>``."""
    return Path(nnunet_folder("nnUNet_results")) / dataset / f"DiffLung__{method}"


def cache_folder(dataset: str) -> Path:
    """Cached slices of a dataset, shared by folds and methods."""
    return Path(nnunet_folder("nnUNet_results")) / dataset / "DiffLung__cache"
