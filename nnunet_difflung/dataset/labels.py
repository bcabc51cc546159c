"""The role of each label of a dataset for the generator: normal lung, pathology, structure, or ignore."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.errors import BadInput

BODY = "derived_body"
_NORMAL = re.compile(r"(?<![a-z])(normal|healthy)(?![a-z])", re.IGNORECASE)  # not "abnormal", "unhealthy"
_LUNG = re.compile(r"^(lungs?|lung[ _-]?(tissue|parenchyma)|parenchyma)$", re.IGNORECASE)


@dataclass(frozen=True)
class LabelRoles:
    """The roles of a dataset's labels.

    Attributes:
        normal: the label that lesions may be pasted into.
        pathologies: the labels that can be painted, and are ablated in training.
        structures: all other labels; the generator is conditioned on them, but they are never changed or ablated.
        values: name → voxel value of the labels above.
        ignore: voxel value of nnU-Net's ``ignore`` label, or None.
    """

    normal: str
    pathologies: tuple[str, ...]
    structures: tuple[str, ...]
    values: dict[str, int]
    ignore: int | None

    @property
    def lung(self) -> tuple[str, ...]:
        """Normal lung and the pathologies; shares refer to their voxels."""
        return (self.normal, *self.pathologies)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the condition channels, in order; the derived body class is the last."""
        return (*self.lung, *self.structures, BODY)

    @property
    def body_value(self) -> int:
        """Value of the derived body class in a condition map; it is not a label of the dataset."""
        return max([*self.values.values(), self.ignore or 0]) + 1

    @property
    def condition_classes(self) -> dict[str, int]:
        """Name → voxel value of everything that a condition map can contain: labels, ignored voxels and the body."""
        ignored = {} if self.ignore is None else {"ignore": self.ignore}
        return {**self.values, **ignored, BODY: self.body_value}

    def condition_values(self) -> np.ndarray:
        """Voxel values of ``conditions``, in order."""
        return np.array([*(self.values[name] for name in self.conditions[:-1]), self.body_value])

    def lung_values(self) -> np.ndarray:
        """Voxel values of ``lung``, in order."""
        return np.array([self.values[name] for name in self.lung])


def label_roles(
    dataset_json: dict, where: str, normal_label: str | None = None, structure_labels: Sequence[str] = ()
) -> LabelRoles:
    """Determines the roles of the labels in dataset.json.

    Args:
        dataset_json: content of nnU-Net's dataset.json.
        where: path of that file, for messages.
        normal_label: name of the normal lung's label; None finds it by its name.
        structure_labels: labels that are neither normal lung nor pathology.

    Raises:
        BadInput: labels are region-based or have values that nnU-Net refuses, normal lung or a pathology is missing,
            or a given name is not a label.
    """
    labels = dataset_json["labels"]
    if dataset_json.get("regions_class_order") or any(isinstance(v, (list, tuple)) for v in labels.values()):
        raise BadInput(
            f"{where} has region-based labels (lists of values); a synthetic mask needs one class per "
            f"voxel, so convert the labels to plain integers and drop regions_class_order"
        )
    values = _values(labels, where)
    ignore = values.pop("ignore", None)
    foreground = {name: value for name, value in values.items() if value != 0}
    unknown = [name for name in structure_labels if name not in foreground]
    if unknown:
        raise BadInput(f"--structure-label {unknown[0]} is not among the labels of {where}: {', '.join(foreground)}")
    normal = _normal_label(foreground, where, normal_label)
    if normal in structure_labels:
        raise BadInput(
            f"--structure-label {normal} is the normal lung of {where}, into which lesions are placed; "
            f"leave it out, or name another normal lung with --normal-label"
        )
    pathologies = tuple(n for n in foreground if n != normal and n not in structure_labels)
    if not pathologies:
        raise BadInput(
            f"{where} has no pathology: its labels are {', '.join(foreground)}, of which {normal} is "
            f"taken as normal lung; add a label for at least one pathology, or name normal lung with --normal-label"
        )
    return LabelRoles(normal, pathologies, tuple(structure_labels), foreground, ignore)


def _values(labels: dict, where: str) -> dict[str, int]:
    """Label → value as nnU-Net requires: whole numbers, each used once, background 0."""
    for name, value in labels.items():
        if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)):
            raise BadInput(f"{where}: label {name} has the value {value!r}; expected a whole number, such as 1")
    values = {name: int(value) for name, value in labels.items()}
    twice = [name for name, value in values.items() if list(values.values()).count(value) > 1]
    if twice:
        raise BadInput(
            f"{where}: the labels {' and '.join(twice)} share the value {values[twice[0]]}; expected one value each"
        )
    if values.get("background") != 0:
        raise BadInput(f"{where} has no label 'background' with the value 0, which nnU-Net needs; add it")
    return values


def _normal_label(foreground: dict[str, int], where: str, given: str | None) -> str:
    if given is not None:
        if given not in foreground:
            raise BadInput(f"--normal-label {given} is not among the labels of {where}: {', '.join(foreground)}")
        return given
    for pattern in (_NORMAL, _LUNG):
        candidates = [name for name in foreground if pattern.search(name)]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            break
    raise BadInput(
        f"{where} has no label that is clearly normal lung (labels: {', '.join(foreground) or 'none'}; "
        f"candidates: {', '.join(candidates) or 'none'}); name it with --normal-label NAME"
    )
