"""Reads what nnU-Net's preprocessing has written, without nnU-Net's trainers and so without torch."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_difflung.injection.manifest import plans_files
from nnunet_difflung.runtime.arrays import load, load_packed
from nnunet_difflung.runtime.files import read_json

BLOSC, NUMPY, UNPACKED = ".b2nd", ".npz", ".npy"


@dataclass(frozen=True)
class Configuration:
    """A preprocessed configuration of a dataset.

    Attributes:
        name: such as ``2d``.
        plans: content of the plans file.
        settings: the configuration in the plans, with what it inherits.
        folder: where its arrays are.
    """

    name: str
    plans: dict
    settings: dict
    folder: Path

    @property
    def plans_name(self) -> str:
        """Name of the plans, as for ``-plans_name``."""
        return str(self.plans["plans_name"])


def configurations(preprocessed: Path) -> dict[Path, list[Configuration]]:
    """Folder of arrays → the configurations that read it, of all plans: those of ResEnc share the default's folders."""
    by_folder: dict[Path, list[Configuration]] = {}
    for path in plans_files(preprocessed):
        plans = read_json(path)
        for name in plans["configurations"]:
            settings = inherited(plans["configurations"], name)
            folder = preprocessed / str(settings.get("data_identifier"))
            if "data_identifier" in settings and folder.is_dir():
                by_folder.setdefault(folder, []).append(Configuration(name, plans, settings, folder))
    return by_folder


def inherited(all_settings: dict, name: str) -> dict:
    """Settings of a configuration with those it inherits; a circle ends where it begins."""
    chain: list[str] = []
    while name in all_settings and name not in chain:
        chain.append(name)
        name = all_settings[name].get("inherits_from", "")
    return {key: value for link in reversed(chain) for key, value in all_settings[link].items()}


def identifiers(folder: Path) -> set[str]:
    """Ids of the cases whose arrays are in the folder of a configuration."""
    names = os.listdir(folder) if folder.is_dir() else []
    blosc = {name.removesuffix(BLOSC) for name in names if name.endswith(BLOSC) and not name.endswith(f"_seg{BLOSC}")}
    return blosc | {name.removesuffix(NUMPY) for name in names if name.endswith(NUMPY)}


def files_of(folder: Path, identifier: str) -> list[Path]:
    """The files of a preprocessed case that nnU-Net reads; some of them may be missing."""
    if (folder / f"{identifier}{NUMPY}").is_file():
        unpacked = [folder / f"{identifier}{part}{UNPACKED}" for part in ("", "_seg")]
        return [folder / f"{identifier}{NUMPY}", *(p for p in unpacked if p.is_file()), folder / f"{identifier}.pkl"]
    return [folder / f"{identifier}{part}" for part in (BLOSC, f"_seg{BLOSC}", ".pkl")]


def read_arrays(folder: Path, identifier: str) -> tuple[np.ndarray, np.ndarray, dict]:
    """A preprocessed case as nnU-Net reads it.

    Returns:
        (c, z, y, x) image, (1, z, y, x) label map, properties.

    Raises:
        Exception: of whatever kind the reader of a damaged file raises.
    """
    if (folder / f"{identifier}{NUMPY}").is_file():
        image, label = (
            load(path)
            if (path := folder / f"{identifier}{part}{UNPACKED}").is_file()
            else load_packed(folder / f"{identifier}{NUMPY}", key)
            for part, key in (("", "data"), ("_seg", "seg"))
        )
    else:
        import blosc2

        blosc2.set_nthreads(1)
        image, label = (
            blosc2.open(urlpath=str(folder / f"{identifier}{part}{BLOSC}"), mode="r")[:] for part in ("", "_seg")
        )
    return image, label, read_properties(folder / f"{identifier}.pkl")


def read_properties(path: Path) -> dict:
    """nnU-Net's properties of a case, from its pickle.

    Raises:
        pickle.UnpicklingError: the pickle holds something else than numbers, text, containers and numpy arrays.
    """
    with open(path, "rb") as file:
        return _Plain(file).load()


class _Plain(pickle.Unpickler):
    """Unpickles numpy's arrays and numbers, and calls nothing else: an audit must not run what a file asks for."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
        if (module.split(".")[0] == "numpy" and name in allowed) or (module, name) == ("collections", "OrderedDict"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")
