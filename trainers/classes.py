"""Which classes the oversampling trainer balances."""

from __future__ import annotations

from typing import Any

from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.labels import label_roles, structures_by_name
from nnunet_difflung.paths import DATASET
from nnunet_difflung.trainers.sampling import Label


def to_balance(dataset_json: dict, manifest: dict) -> dict[str, Label]:
    """The pathologies of a dataset: those that ``difflung_augment`` has been told, or else those that names tell.

    Args:
        dataset_json: content of nnU-Net's dataset.json.
        manifest: of the dataset; may be empty.

    Returns:
        Name → key of the class in nnU-Net's ``class_locations``; all foreground classes or regions where the names
        leave open which of them are pathologies.
    """
    labels = {name: _key(value) for name, value in dataset_json["labels"].items() if name != "ignore"}
    foreground = {name: key for name, key in labels.items() if key != 0}
    names = _painted(manifest) or _by_name(dataset_json)
    return {name: key for name, key in foreground.items() if name in names} or foreground


def _key(value: Any) -> Label:
    return tuple(int(part) for part in value) if isinstance(value, (list, tuple)) else int(value)


def _painted(manifest: dict) -> set[str]:
    """The pathologies for which the runs in a manifest had a target."""
    return {name for run in manifest["runs"] for name in (run.get("summary") or {}).get("targets", {})}


def _by_name(dataset_json: dict) -> set[str]:
    try:
        roles = label_roles(dataset_json, DATASET)
    except BadInput:
        return set()
    return set(roles.pathologies) - set(structures_by_name(roles))
