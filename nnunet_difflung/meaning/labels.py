"""The role of each label of a dataset for the generator: normal lung, pathology, structure, or ignore."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.label_names import Meaning, meaning_of, named, option
from nnunet_difflung.meaning.normal_lung import (
    NORMAL_OPTION,
    STRUCTURE_OPTION,
    are,
    by_name,
    listed,
    refuse_lung_as_pathology,
    refuse_structures_alone,
)

BODY = "derived_body"
_LARGEST = 254  # the body class gets the next value, and condition maps are uint8


@dataclass(frozen=True)
class LabelRoles:
    """The roles of a dataset's labels.

    Attributes:
        normal: the labels that lesions may be pasted into; several where each lung or lobe has its own.
        pathologies: the labels that can be painted.
        structures: all other labels; the generator is conditioned on them, but they are never changed.
        values: name → voxel value of the labels above.
        ignore: voxel value of nnU-Net's ``ignore`` label, or None.
    """

    normal: tuple[str, ...]
    pathologies: tuple[str, ...]
    structures: tuple[str, ...]
    values: dict[str, int]
    ignore: int | None

    @property
    def lung(self) -> tuple[str, ...]:
        """Normal lung and the pathologies; shares refer to their voxels."""
        return (*self.normal, *self.pathologies)

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

    def normal_voxels(self, counts: Mapping[str, Sequence[int]]) -> list[int]:
        """Number of voxels of normal lung in each slice, from those of each label."""
        return [sum(voxels) for voxels in zip(*(counts[name] for name in self.normal), strict=True)]

    def is_normal(self, label: np.ndarray) -> np.ndarray:
        """Where an array of label values is normal lung; bool of the same shape."""
        first, *others = (self.values[name] for name in self.normal)
        mask = label == first
        for value in others:
            mask |= label == value
        return mask


def label_roles(
    dataset_json: dict, where: str, normal_labels: Sequence[str] = (), structure_labels: Sequence[str] = ()
) -> LabelRoles:
    """Determines the roles of the labels in dataset.json.

    Args:
        dataset_json: content of nnU-Net's dataset.json.
        where: path of that file, for messages.
        normal_labels: names of normal lung's labels; without any they are found by their names.
        structure_labels: labels that are neither normal lung nor pathology.

    Raises:
        BadInput: labels are region-based or have values that nnU-Net refuses, a given name is not a label, a pathology
            is missing, or the names leave open what is normal lung; the message then has the options that say so.
    """
    labels = dataset_json["labels"]
    values = _values(labels, where, bool(dataset_json.get("regions_class_order")))
    ignore = values.pop("ignore", None)
    foreground = {name: value for name, value in values.items() if value != 0}
    structures = _given(STRUCTURE_OPTION, structure_labels, foreground, where)
    given = _given(NORMAL_OPTION, normal_labels, foreground, where)
    normal = given or by_name(foreground, structures, where)
    both = [name for name in structures if name in normal]
    if both:
        raise BadInput(
            f"{option(STRUCTURE_OPTION, both)} is the normal lung of {where}, into which lesions are placed; "
            f"leave it out, or name another normal lung with {NORMAL_OPTION}"
        )
    pathologies = tuple(name for name in foreground if name not in (*normal, *structures))
    if not pathologies:
        raise BadInput(
            f"{where} has no pathology: its labels are {', '.join(foreground)}, of which "
            f"{are(normal, 'normal lung', 'normal lung')}; add a label for at least one pathology"
            f"{f', or name fewer labels with {NORMAL_OPTION} and {STRUCTURE_OPTION}' if given or structures else ''}"
        )
    if given:
        refuse_lung_as_pathology(normal, pathologies, structures, where)
    else:
        refuse_structures_alone(normal, pathologies, structures, where)
    return LabelRoles(tuple(n for n in foreground if n in normal), pathologies, structures, foreground, ignore)


def described(roles: LabelRoles) -> str:
    """Which label is what, as part of a sentence."""
    structures = f", structures are {', '.join(map(repr, roles.structures))}" if roles.structures else ""
    pathologies = ", ".join(map(repr, roles.pathologies))
    return f"normal lung is {listed(roles.normal)}, pathologies are {pathologies}{structures}"


def structures_by_name(roles: LabelRoles) -> tuple[str, ...]:
    """The pathologies whose names say that they are anatomy, such as trachea or heart."""
    return tuple(name for name in roles.pathologies if meaning_of(name) is Meaning.STRUCTURE)


def structure_option(names: Sequence[str]) -> str:
    """The option that makes these labels structures; it can be added to a command that has the option already."""
    return option(STRUCTURE_OPTION, names)


def with_names(shares: dict[str, float], roles: LabelRoles) -> dict[str, float]:
    """The same with pathologies named as dataset.json spells them; names that it does not have stay as they are."""
    return {named(name, roles.pathologies) or name: share for name, share in shares.items()}


def _given(name: str, given: Sequence[str], foreground: dict[str, int], where: str) -> tuple[str, ...]:
    """The labels that an option names, each once."""
    labels = []
    for text in given:
        label = named(text, foreground)
        if label is None:
            raise BadInput(f"{name} {text} is not among the labels of {where}: {', '.join(foreground)}")
        labels.append(label)
    return tuple(dict.fromkeys(labels))


# ---- dataset.json ----


def _values(labels: dict, where: str, ordered_regions: bool) -> dict[str, int]:
    """Label → value as nnU-Net requires: 0, 1, 2, … with background 0, each used once, ``ignore`` the highest."""
    if not isinstance(labels, dict):
        raise BadInput(f'{where}: labels is {labels!r}; expected names with their values, such as {{"background": 0}}')
    if ordered_regions or any(isinstance(v, (list, tuple)) for v in labels.values()):
        raise BadInput(
            f"{where} has region-based labels (lists of values); a synthetic mask needs one class per "
            f"voxel, so convert the labels to plain integers and drop regions_class_order"
        )
    for name, value in labels.items():
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise BadInput(f"{where}: the label {name!r} holds half a letter, which cannot be printed; rename it")
        if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)):
            swapped = "; nnU-Net v2 writes the name first: {name: value}" if re.fullmatch(r"\d+", name) else ""
            raise BadInput(
                f"{where}: label {name} has the value {value!r}; expected a whole number, such as 1{swapped}"
            )
    values = {name: int(value) for name, value in labels.items()}
    twice = [name for name, value in values.items() if list(values.values()).count(value) > 1]
    if twice:
        raise BadInput(
            f"{where}: the labels {' and '.join(twice)} share the value {values[twice[0]]}; expected one value each"
        )
    if values.get("background") != 0:
        raise BadInput(f"{where} has no label 'background' with the value 0, which nnU-Net needs; add it")
    _check_order(labels, values, where)
    return values


def _check_order(labels: dict, values: dict[str, int], where: str) -> None:
    """Refuses what nnU-Net refuses, or fails at in its first training step."""
    highest = max(values.values())
    if BODY in values:
        raise BadInput(f"{where}: the name {BODY} is reserved for a class of this package; rename the label")
    if highest > _LARGEST:
        raise BadInput(f"{where}: the label value {highest} is too large; expected at most {_LARGEST}")
    gaps = sorted(set(range(highest)) - set(values.values()))
    if gaps:
        raise BadInput(
            f"{where}: no label has the value {gaps[0]}, but {_name_of(highest, values)} has {highest}; nnU-Net needs "
            f"the values 0, 1, 2, … without a gap: renumber the labels in the files and here"
        )
    ignore = labels.get("ignore")
    if "ignore" in labels and (not isinstance(ignore, int) or ignore != highest):
        raise BadInput(
            f"{where}: label ignore has the value {ignore!r}; nnU-Net needs it to be the highest value, as a number "
            f"without quotes: {highest if str(ignore) == str(highest) else 'renumber the labels in the files and here'}"
        )


def _name_of(value: int, values: dict[str, int]) -> str:
    return next(name for name, own in values.items() if own == value)
