"""The role of each label of a dataset for the generator: normal lung, pathology, structure, or ignore."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.dataset.label_names import Meaning, is_part, meaning_of, named, option
from nnunet_difflung.errors import BadInput

BODY = "derived_body"
_LARGEST = 254  # the body class gets the next value, and condition maps are uint8
_NORMAL_OPTION, _STRUCTURE_OPTION = "--normal-label", "--structure-label"
_SAYS_LUNG = (Meaning.NORMAL, Meaning.LUNG)
_MAY_BE_LUNG = (*_SAYS_LUNG, Meaning.PERHAPS_LUNG)
_READS_AS = {
    Meaning.NORMAL: "normal lung",
    Meaning.LUNG: "lung",
    Meaning.PERHAPS_LUNG: "perhaps normal lung",
    Meaning.STRUCTURE: "a structure",
    Meaning.DISEASE: "a pathology",
    Meaning.UNSURE: "unclear",
    Meaning.UNKNOWN: "unclear",
}


@dataclass(frozen=True)
class LabelRoles:
    """The roles of a dataset's labels.

    Attributes:
        normal: the labels that lesions may be pasted into; several where each lung or lobe has its own.
        pathologies: the labels that can be painted, and are ablated in training.
        structures: all other labels; the generator is conditioned on them, but they are never changed or ablated.
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
    structures = _given(_STRUCTURE_OPTION, structure_labels, foreground, where)
    given = _given(_NORMAL_OPTION, normal_labels, foreground, where)
    normal = given or _by_name(foreground, structures, where)
    both = [name for name in structures if name in normal]
    if both:
        raise BadInput(
            f"{option(_STRUCTURE_OPTION, both)} is the normal lung of {where}, into which lesions are placed; "
            f"leave it out, or name another normal lung with {_NORMAL_OPTION}"
        )
    pathologies = tuple(name for name in foreground if name not in (*normal, *structures))
    if not pathologies:
        raise BadInput(
            f"{where} has no pathology: its labels are {', '.join(foreground)}, of which "
            f"{_are(normal, 'normal lung', 'normal lung')}; add a label for at least one pathology"
            f"{f', or name fewer labels with {_NORMAL_OPTION} and {_STRUCTURE_OPTION}' if given or structures else ''}"
        )
    if given:
        _refuse_lung_as_pathology(normal, pathologies, structures, where)
    else:
        _refuse_structures_alone(normal, pathologies, structures, where)
    return LabelRoles(tuple(n for n in foreground if n in normal), pathologies, structures, foreground, ignore)


def normal_by_name(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that are normal lung by their names; none if that is not plain."""
    plain = _plainly_normal({name: meaning_of(name) for name in labels})
    return plain or ()


def described(roles: LabelRoles) -> str:
    """Which label is what, as part of a sentence."""
    structures = f", structures are {', '.join(map(repr, roles.structures))}" if roles.structures else ""
    pathologies = ", ".join(map(repr, roles.pathologies))
    return f"normal lung is {_listed(roles.normal)}, pathologies are {pathologies}{structures}"


def structures_by_name(roles: LabelRoles) -> tuple[str, ...]:
    """The pathologies whose names say that they are anatomy, such as trachea or heart."""
    return tuple(name for name in roles.pathologies if meaning_of(name) is Meaning.STRUCTURE)


def structure_option(names: Sequence[str]) -> str:
    """The option that makes these labels structures; it can be added to a command that has the option already."""
    return option(_STRUCTURE_OPTION, names)


def with_names(shares: dict[str, float], roles: LabelRoles) -> dict[str, float]:
    """The same with pathologies named as dataset.json spells them; names that it does not have stay as they are."""
    return {named(name, roles.pathologies) or name: share for name, share in shares.items()}


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


# ---- which labels are normal lung ----


def _given(name: str, given: Sequence[str], foreground: dict[str, int], where: str) -> tuple[str, ...]:
    """The labels that an option names, each once."""
    labels = []
    for text in given:
        label = named(text, foreground)
        if label is None:
            raise BadInput(f"{name} {text} is not among the labels of {where}: {', '.join(foreground)}")
        labels.append(label)
    return tuple(dict.fromkeys(labels))


def _by_name(foreground: dict[str, int], structures: Sequence[str], where: str) -> tuple[str, ...]:
    """The labels whose names say plainly that they are normal lung: one label, or one for each lung or lobe.

    Raises:
        BadInput: no name says so, or several do and are not parts of the lungs, or a name may say so.
    """
    meanings = {name: meaning_of(name) for name in foreground}
    normal = _plainly_normal({name: meaning for name, meaning in meanings.items() if name not in structures})
    if normal == ():  # then it may be among the structures, which is refused
        normal = tuple(name for name in structures if meanings[name] in _SAYS_LUNG)
    if not normal:
        raise BadInput(_question(meanings, structures, where))
    return normal


def _plainly_normal(meanings: Mapping[str, Meaning]) -> tuple[str, ...] | None:
    """The labels that are normal lung: one, or the parts of the lungs; None if the names leave it open."""
    lung = tuple(name for name, meaning in meanings.items() if meaning in _SAYS_LUNG)
    in_doubt = any(meaning in (Meaning.PERHAPS_LUNG, Meaning.UNSURE) for meaning in meanings.values())
    parts = len({meanings[name] for name in lung}) == 1 and all(is_part(name) for name in lung)
    return None if in_doubt or (len(lung) > 1 and not parts) else lung


def _question(meanings: dict[str, Meaning], structures: Sequence[str], where: str) -> str:
    """Asks which labels are normal lung: how each name reads, and options that say it."""
    names = [name for name in meanings if name not in structures]
    reads = "; ".join(f"{name!r} reads as {_READS_AS[meanings[name]]}" for name in names)
    lung = [name for name in names if meanings[name] in _MAY_BE_LUNG]
    doubt = "leaves open which labels are normal lung" if lung else "has no label that is clearly normal lung"
    line = f"{where} {doubt}: {reads or 'it has no further label'}"
    choice = lung or [name for name in names if meanings[name] in (Meaning.UNKNOWN, Meaning.UNSURE)][:1]
    anatomy = [*structures, *(name for name in names if meanings[name] is Meaning.STRUCTURE)]
    pathologies = [name for name in names if name not in (*choice, *anatomy)]
    if not choice or not pathologies:
        if choice:
            return f"{line}; none of them can be a pathology: add a label for it"
        return (
            f"{line}; lesions are pasted into normal lung: add a label for it, or name it with {_NORMAL_OPTION} LABEL"
        )
    line += f"; say so{'' if lung else ', for example,'} with {_options(choice, anatomy)}"
    if len(choice) > 1:
        single = next((name for name in choice if meanings[name] is Meaning.NORMAL), choice[0])
        apart = [name for name in choice if name != single]
        line += f", or with {_options([single], [*anatomy, *apart])} to keep lesions out of {_listed(apart)}"
    return f"{line} ({_are(pathologies, 'a pathology', 'pathologies')} then)"


def _options(normal: Sequence[str], structures: Sequence[str]) -> str:
    return f"{option(_NORMAL_OPTION, normal)} {option(_STRUCTURE_OPTION, structures)}".strip()


def _refuse_lung_as_pathology(
    normal: Sequence[str], pathologies: Sequence[str], structures: Sequence[str], where: str
) -> None:
    """Refuses that a lung becomes a pathology of the other because only one of them was named as normal lung."""
    lung = [name for name in pathologies if meaning_of(name) in _MAY_BE_LUNG]
    if not lung:
        return
    if len(lung) < len(pathologies):
        apart = f"{_options(normal, [*structures, *lung])} to keep lesions out of {_listed(lung)}"
        remedies = f"give {_options([*normal, *lung], structures)}, or {apart}"
    elif any(meaning_of(name) not in _MAY_BE_LUNG for name in normal):
        remedies = (
            f"give {_options([*lung, *(name for name in normal if meaning_of(name) in _MAY_BE_LUNG)], structures)}"
        )
    else:
        remedies = "add a label for a pathology"
    reads = "a pathology, but its name reads" if len(lung) == 1 else "pathologies, but their names read"
    raise BadInput(
        f"{where}: with {option(_NORMAL_OPTION, normal)} alone, {_listed(lung)} would be {reads} as lung; {remedies}"
    )


def _refuse_structures_alone(
    normal: Sequence[str], pathologies: Sequence[str], structures: Sequence[str], where: str
) -> None:
    if all(meaning_of(name) is Meaning.STRUCTURE for name in pathologies):
        raise BadInput(
            f"{where} has no label that reads as a pathology: {_are(normal, 'normal lung', 'normal lung')}, and "
            f"{_are(pathologies, 'a structure', 'structures')} by name; add a label for a pathology, or, if "
            f"{_listed(pathologies)} shall be painted into normal lung, give {_options(normal, structures)}"
        )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))


def _are(names: Sequence[str], one: str, several: str) -> str:
    """``'a' is a pathology``, ``'a' and 'b' are pathologies``."""
    return f"{_listed(names)} {f'is {one}' if len(names) == 1 else f'are {several}'}"
