"""Which cases of a dataset are synthetic, and on which of them an arm may train, according to the manifest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.injection.manifest import find_manifest
from nnunet_difflung.paths import dataset_id

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def manifest(dataset_name: str) -> dict:
    """``difflung_manifest.json`` of a dataset; an empty manifest if the dataset was never augmented."""
    return find_manifest(dataset_name) or {"cases": {}}


def real_only(identifiers: Iterable[str], manifest: dict) -> list[str]:
    """``identifiers`` without the synthetic ones, in their order."""
    return [key for key in identifiers if not is_synthetic(key) and key not in manifest["cases"]]


def of_arm(manifest: dict, method: str, fold: int | str) -> list[str]:
    """Synthetic identifiers painted with ``method`` for ``fold`` (a number or "all"), sorted."""
    return sorted(
        key for key, case in manifest["cases"].items() if case["method"] == method and str(case["fold"]) == str(fold)
    )


def check(trainer: nnUNetTrainer) -> None:
    """Refuses a training whose synthetic cases are missing, not preprocessed, or leak a validation patient.

    Raises:
        RuntimeError: one line that says what is wrong and which command helps.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    from nnunet_difflung.injection.audit import audit_dataset

    name, fold = trainer.plans_manager.dataset_name, trainer.fold
    preprocess = (
        f"nnUNetv2_preprocess -d {dataset_id(name)} -plans_name {trainer.plans_manager.plans_name} "
        f"-c {trainer.configuration_name}"
    )
    synthetic = of_arm(manifest(name), trainer.method, fold)
    if not synthetic:
        raise RuntimeError(
            f"{name} has no synthetic cases of method '{trainer.method}' for fold {fold}. Run: "
            f"difflung_augment -d {name} -f {fold} --method {trainer.method}; then: {preprocess}"
        )
    folder = trainer.preprocessed_dataset_folder
    present = set(infer_dataset_class(folder).get_identifiers(folder))
    missing = [key for key in synthetic if key not in present]
    if missing:
        raise RuntimeError(
            f"{len(missing)} of the {len(synthetic)} synthetic cases for fold {fold} are not preprocessed "
            f"in {folder} (first: {missing[0]}). Run: {preprocess}"
        )
    problems = audit_dataset(name)
    if problems:
        raise RuntimeError(
            f"the leak audit of {name} failed with {len(problems)} problem(s), the first: "
            f"{problems[0]}. List all problems: difflung_audit -d {name}; start over: "
            f"difflung_remove -d {name}, then difflung_augment -d {name}"
        )
