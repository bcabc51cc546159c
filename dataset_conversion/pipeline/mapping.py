"""The mapping file: which structures of an archive become which label.

YAML or JSON, for example::

    labels:                          # in this order the values 1, 2, 3, …
      normal_lung: [".*lung.*"]      # regular expressions for whole names of structures, in any case
      ground_glass: ["GGO", "ground.?glass"]
      consolidation:
        structures: ["consolid.*"]
        priority: 9                  # who wins where structures overlap: the larger number
        pathology: true              # false for what is not part of the lung, such as heart or airways
    ignore_structures: ["body", "spinal.*"]
    lung: none                       # or threshold, lungmask: normal_lung is found in the image where nobody drew it
    ignore_label: ["uncertain"]      # becomes nnU-Net's ignore label: nobody knows what is there

A label's priority is its value unless a number is given, so the later label wins; ``ignore_label`` has priority 0.
With ``ignore_label`` (a list that may be empty, or ``structures`` and ``priority``) slices that nobody looked at are
ignored too. All but ``labels`` may be left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nnunet_difflung.dataset.labels import label_roles
from nnunet_difflung.dataset_conversion.case import IGNORE
from nnunet_difflung.errors import BadInput

NORMAL = "normal_lung"
LUNGS = ("none", "threshold", "lungmask")

KEYS = ("labels", "ignore_structures", "lung", "ignore_label")


@dataclass(frozen=True)
class Rule:
    """A label, the structures that it is made of, and who wins where it overlaps another (the larger priority)."""

    label: str
    value: int
    structures: tuple[str, ...]
    priority: float
    pathology: bool = True

    def matches(self, structure: str) -> bool:
        """Whether a structure belongs to this label."""
        return any(re.fullmatch(pattern, structure, re.IGNORECASE) for pattern in self.structures)


@dataclass(frozen=True)
class LabelMapping:
    """What a mapping file says.

    Attributes:
        rules: of the labels in order, then of nnU-Net's ignore label where there is one.
        ignore_structures: expressions for structures that become nothing.
        lung: how normal lung is found where nobody drew it; ``none`` leaves it background.
    """

    rules: tuple[Rule, ...]
    ignore_structures: tuple[str, ...] = ()
    lung: str = "none"

    @property
    def labels(self) -> dict[str, int]:
        """Label → value as dataset.json wants it, background first."""
        return {"background": 0, **{rule.label: rule.value for rule in self.rules}}

    @property
    def ignore(self) -> int | None:
        """Value of nnU-Net's ignore label."""
        return self.labels.get(IGNORE)

    @property
    def normal(self) -> int | None:
        """Value of normal lung, found as ``difflung_augment`` finds it."""
        with suppress(BadInput):
            roles = label_roles({"labels": self.labels}, "mapping")
            return roles.values[roles.normal]
        return self.labels.get(NORMAL)

    def rule_of(self, structure: str) -> Rule | None:
        """The label that a structure becomes; None for structures to ignore.

        Raises:
            BadInput: no rule, or rules of different labels.
        """
        rules = [rule for rule in self.rules if rule.matches(structure)]
        left_out = any(re.fullmatch(pattern, structure, re.IGNORECASE) for pattern in self.ignore_structures)
        if len(rules) + left_out > 1:
            names = [*(rule.label for rule in rules), *(["ignore_structures"] if left_out else [])]
            raise BadInput(
                f"structure {structure!r} is matched by {' and by '.join(names)}; expected one; make the "
                f"expressions narrower"
            )
        if not rules and not left_out:
            raise BadInput(
                f"structure {structure!r} is in no label of the mapping; add it to a label or to ignore_structures"
            )
        return rules[0] if rules else None

    def check(self, structures: Iterable[str], where: str) -> None:
        """Whether the mapping covers what is drawn in the archive, and nothing that is not.

        Raises:
            BadInput: structures without label, with two, or a label that nothing is drawn for.
        """
        structures = sorted(structures)
        unknown = []
        for structure in structures:
            try:
                self.rule_of(structure)
            except BadInput as error:
                if "is in no label" not in str(error):
                    raise BadInput(f"{where}: {error}") from error
                unknown.append(structure)
        if unknown:
            raise BadInput(
                f"{where}: no label for {', '.join(map(repr, unknown))}; add "
                f"{'it' if len(unknown) == 1 else 'each'} to a label or to ignore_structures"
            )
        for rule in self.rules:
            if rule.structures and not any(rule.matches(structure) for structure in structures):
                raise BadInput(
                    f"{where}: {rule.label} ({', '.join(rule.structures)}) matches no structure; the "
                    f"archive has {', '.join(map(repr, structures)) or 'none'}; correct or remove it"
                )


def read_mapping(path: str | Path) -> LabelMapping:
    """Reads and checks a mapping file.

    Raises:
        BadInput: with the file, what was found, what was expected and the remedy.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = (
            json.loads(text, object_pairs_hook=_once) if path.suffix.lower() == ".json" else yaml.load(text, _Loader)
        )
    except FileNotFoundError as error:
        raise BadInput(f"--mapping {path} does not exist; --list writes a first one to edit") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--mapping {path} cannot be read ({error}); expected a text file") from error
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise BadInput(
            f"{path} is not valid {'JSON' if path.suffix.lower() == '.json' else 'YAML'} "
            f"({' '.join(str(error).split())}); correct it"
        ) from error
    try:
        return parse_mapping(content)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def parse_mapping(content: Any) -> LabelMapping:
    """A mapping from the content of its file.

    Raises:
        BadInput: what does not fit.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("labels"), Mapping):
        raise BadInput("expected 'labels:' with a name and regular expressions for each label")
    _known(content, KEYS, "the mapping")
    lung = "none" if content.get("lung") is None else content["lung"]
    if lung not in LUNGS:
        raise BadInput(f"lung: {lung!r} is none of {', '.join(LUNGS)}")
    rules = []
    names = list(content["labels"].items())
    if lung != "none" and NORMAL not in content["labels"]:
        names.insert(0, (NORMAL, []))
    for value, (label, entry) in enumerate(names, start=1):
        if (
            not isinstance(label, str)
            or not re.fullmatch(r"[A-Za-z][\w .-]*", label)
            or label in ("background", IGNORE)
        ):
            raise BadInput(
                f"label {label!r}: expected a name that begins with a letter and is not background or "
                f"ignore (see ignore_label); values follow from the order"
            )
        rule = _rule(label, value, entry)
        if not rule.structures and not (label == NORMAL and lung != "none"):
            raise BadInput(f"label {label} has no structure; give regular expressions, or remove it")
        rules.append(rule)
    if not rules:
        raise BadInput("'labels' is empty; expected at least one label")
    if len(rules) > 250:
        raise BadInput(f"{len(rules)} labels; expected at most 250")
    if content.get("ignore_label") is not None:
        rules.append(_rule(IGNORE, len(rules) + 1, content["ignore_label"], 0.0))
    return LabelMapping(tuple(rules), _expressions(content.get("ignore_structures") or [], "ignore_structures"), lung)


def _rule(label: str, value: int, entry: Any, priority: float | None = None) -> Rule:
    options = dict(entry) if isinstance(entry, Mapping) else {"structures": entry}
    _known(options, ("structures", "priority", "pathology"), f"label {label}")
    number = options.get("priority", value if priority is None else priority)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise BadInput(f"label {label}: priority {number!r} is not a number")
    pathology = options.get("pathology", label != IGNORE)
    if not isinstance(pathology, bool):
        raise BadInput(f"label {label}: pathology {pathology!r} is neither true nor false")
    return Rule(label, value, _expressions(options.get("structures") or [], f"label {label}"), float(number), pathology)


def _expressions(entry: Any, where: str) -> tuple[str, ...]:
    entries = [entry] if isinstance(entry, str) else entry
    if not isinstance(entries, list) or not all(isinstance(pattern, str) for pattern in entries):
        raise BadInput(f"{where}: {entry!r}; expected a list of regular expressions in quotes")
    for pattern in entries:
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadInput(f"{where}: {pattern!r} is not a regular expression ({error}); correct it") from error
    return tuple(entries)


def _known(content: Mapping, keys: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in keys:
            raise BadInput(f"unknown key {key!r} in {where}; expected {', '.join(keys)}")


def _once(pairs: list[tuple[Any, Any]]) -> dict:
    """A dict of a file's entries in which no key comes twice."""
    result: dict = {}
    for key, value in pairs:
        if key in result:
            raise BadInput(f"{key!r} is listed twice; put its expressions into one list")
        result[key] = value
    return result


class _Loader(yaml.SafeLoader):
    """YAML in which a key that comes twice is an error; PyYAML keeps the last."""

    def construct_mapping(self, node, deep=False):
        return _once(
            [(self.construct_object(key, True), self.construct_object(value, True)) for key, value in node.value]
        )


_Loader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node))
