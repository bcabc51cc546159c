"""What all rows of a bench share: the converted dataset, nnU-Net's plans and arrays, and the cache of cases."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from experiments.bench.arms import SETS
from experiments.bench.commands import Commands
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.demonstration.small_trainings import make_small_configuration
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_PREPROCESSED, NNUNET_RAW, PATH_VARIABLES, cache_folder
from nnunet_difflung.runtime.files import read_json, write_json


@dataclass(frozen=True)
class Base:
    """The shared part of a bench.

    Attributes:
        root: folder that holds nnU-Net's three folders.
        dataset: ``DatasetXXX_NAME``.
        patients: case id → patient.
        rare: patients with the rare class.
        lesions: names of the pathologies.
        splits: the dataset's own folds.
        network: batch size, patch size and features of the U-Net.
    """

    root: Path
    dataset: str
    patients: dict[str, str]
    rare: tuple[str, ...]
    lesions: tuple[str, ...]
    splits: list[dict[str, list[str]]]
    network: dict

    def sources(self, fold: int) -> int:
        """Training patients of a fold with the rare class."""
        return len({self.patients[case] for case in self.splits[fold]["train"]}.intersection(self.rare))


def prepare(folder: Path, kind: str, convert: list[str], batch: int) -> Base:
    """Makes the shared part, or reads it where it is complete.

    Args:
        folder: of the bench.
        kind: key of ``SETS``.
        convert: further options of the converter.
        batch: patches in a training step.

    Raises:
        BadInput: no patient has the rare class, or the shared part was made with other options.
    """
    made, root, dataset = folder / "base.json", folder / "base", SETS[kind].dataset
    wanted = {"set": kind, "convert": convert, "batch": batch}
    if not made.is_file():
        commands = Commands(root, folder / "logs" / "base.log")
        if not (root / NNUNET_RAW / dataset / "dataset.json").is_file():
            options = [*SETS[kind].convert, *convert]
            commands.module("convert", f"nnunet_difflung.dataset_conversion.{dataset}", options)
        plan = ["nnUNetv2_plan_and_preprocess", "-d", SETS[kind].number, "-c", SETS[kind].configuration, "-np", "1"]
        commands.run("plan and preprocess", plan)
        plans = root / NNUNET_PREPROCESSED / dataset / "nnUNetPlans.json"
        changes = {"batch_size": batch} | ({"patch_size": list(SETS[kind].patch)} if SETS[kind].patch else {})
        make_small_configuration(plans, 1, SETS[kind].stages, SETS[kind].configuration, **changes)
        write_json(made, wanted | _read(root, kind) | {"commands": commands.typed, "seconds": commands.seconds})
    content = read_json(made)
    for key, value in wanted.items():
        if content[key] != value:
            raise BadInput(f"{folder} was begun with {key} {content[key]!r}, now it is {value!r}; use another -o")
    return Base(
        root,
        dataset,
        content["patients"],
        tuple(content["rare"]),
        tuple(content["lesions"]),
        content["splits"],
        content["network"],
    )


def _read(root: Path, kind: str) -> dict:
    """Patients, classes and folds of the dataset; fills the cache that all rows copy."""
    os.environ.update({variable: str(root / variable) for variable in PATH_VARIABLES})
    raw = open_raw_dataset(SETS[kind].dataset)
    cache, rare = build_cache(raw, cache_folder(raw.name), 1, False), SETS[kind].rare
    having = sorted({raw.patients[case] for case, facts in cache.facts.items() if facts.voxels(rare)})
    if not having:
        raise BadInput(f"no patient of {raw.name} has {rare}; expected a dataset with this class")
    plans = read_json(root / NNUNET_PREPROCESSED / raw.name / "nnUNetPlans.json")["configurations"]
    return {
        "patients": raw.patients,
        "rare": having,
        "lesions": list(raw.roles.pathologies),
        "splits": raw.splits,
        "network": {
            "patch_size": plans[SETS[kind].network].get("patch_size", plans[SETS[kind].configuration]["patch_size"]),
            "batch_size": plans[SETS[kind].network]["batch_size"],
            "features": plans[SETS[kind].network]["architecture"]["arch_kwargs"]["features_per_stage"],
        },
    }
