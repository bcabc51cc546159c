"""The mapping file, which says which structures of an archive become which label.

YAML or JSON, for example::

    labels:                          # in this order the values 1, 2, 3, …
      normal_lung: [".*lung.*"]      # regular expressions for whole names of structures, in any case
      ground_glass: ["GGO", "ground.?glass"]
      consolidation:
        structures: ["consolid.*"]
        priority: 9                  # where structures overlap, the larger priority wins
        pathology: true              # false for structures outside the lung, such as heart or airways
    ignore_structures: ["body", "spinal.*"]
    lung: none                       # threshold or lungmask: find normal_lung in the image where it was not drawn
    ignore_label: ["uncertain"]      # becomes nnU-Net's ignore label: what is there is not known

Negative values of a label map (structures called ``value -1``) mark what was not looked at: only ``ignore_label`` and
``ignore_structures`` may take them.

The priority of a label is its value unless a number is given, so later labels win; ``ignore_label`` has priority 0.
With ``ignore_label`` (a list, which may be empty, or ``structures`` and ``priority``), slices that nobody annotated are
ignored as well. Only ``labels`` is required.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nnunet_difflung.dataset_conversion.case import IGNORE
from nnunet_difflung.dataset_conversion.files.spelling import composed
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.normal_lung import normal_by_name

NORMAL = "normal_lung"
LUNGS = ("none", "threshold", "lungmask")

KEYS = ("labels", "ignore_structures", "lung", "ignore_label")
LABEL = re.compile(r"[A-Za-z][\w .-]*")  # name of a label
MARK = re.compile(r"(?:.* )?value -\d+")  # name of a structure with a negative value
_UNMATCHED = "matches no label of the mapping"
_QUOTE = "; put words such as yes, no and null, and numbers, in quotes"
_MARKS = (
    "negative values mark what was not looked at: put them under ignore_label, and they become nnU-Net's ignore label, "
    "or under ignore_structures, and they become background"
)


@dataclass(frozen=True)
class Rule:
    """A label, its structures, and its priority: where labels overlap, the larger priority wins."""

    label: str
    value: int
    structures: tuple[str, ...]
    priority: float
    pathology: bool = True

    def matches(self, structure: str) -> bool:
        """Whether a structure belongs to this label."""
        return _matches(self.structures, structure)


@dataclass(frozen=True)
class LabelMapping:
    """The content of a mapping file.

    Attributes:
        rules: of the labels in order, and last of nnU-Net's ignore label, if there is one.
        ignore_structures: regular expressions for structures that become no label.
        lung: how normal lung is found where it was not drawn; ``none`` leaves it background.
    """

    rules: tuple[Rule, ...]
    ignore_structures: tuple[str, ...] = ()
    lung: str = "none"

    @property
    def labels(self) -> dict[str, int]:
        """Label → value as in dataset.json, background first."""
        return {"background": 0, **{rule.label: rule.value for rule in self.rules}}

    @property
    def ignore(self) -> int | None:
        """Value of nnU-Net's ignore label; None if there is none."""
        return self.labels.get(IGNORE)

    @property
    def normal(self) -> int | None:
        """Value of normal lung, recognised as in ``difflung_augment``; None if there is none, or several."""
        names = [rule.label for rule in self.rules if rule.label != IGNORE]
        normal = normal_by_name(names)
        return self.labels[normal[0]] if len(normal) == 1 < len(names) else self.labels.get(NORMAL)

    def rule_of(self, structure: str) -> Rule | None:
        """The rule of the label that a structure becomes; None for a structure to ignore.

        Raises:
            BadInput: no rule or several rules match the structure.
        """
        rules = [rule for rule in self.rules if rule.matches(structure)]
        ignored = _matches(self.ignore_structures, structure)
        if len(rules) + ignored > 1:
            names = [rule.label for rule in rules]
            if ignored:
                names.append("ignore_structures")
            raise BadInput(
                f"structure {structure!r} is matched by {' and by '.join(names)}; expected a match by only one of "
                f"them: make the regular expressions more specific"
            )
        if rules and rules[0].label != IGNORE and MARK.fullmatch(structure):
            raise BadInput(f"structure {structure!r} is matched by {rules[0].label}; {_MARKS}")
        if not rules and not ignored:
            raise BadInput(f"structure {structure!r} {_UNMATCHED}; add it to a label or to ignore_structures")
        return rules[0] if rules else None

    def check(self, structures: Iterable[str], location: str, holders: Mapping[str, str] | None = None) -> None:
        """Checks that every structure of an archive has a label, and every label a structure.

        Args:
            structures: names of the structures.
            location: the archive, for messages.
            holders: structure → a patient who has it, for messages.

        Raises:
            BadInput: a structure has no label or several, or a label matches no structure.
        """
        structures = sorted(structures)
        unmatched = []
        for structure in structures:
            try:
                self.rule_of(structure)
            except BadInput as error:
                if _UNMATCHED not in str(error):
                    patient = f", patient {holders[structure]}" if holders and structure in holders else ""
                    raise BadInput(f"{location}{patient}: {error}") from error
                unmatched.append(structure)
        if unmatched:
            raise BadInput(
                f"{location}: the mapping has no label for {', '.join(map(repr, unmatched))}; add "
                f"{'it' if len(unmatched) == 1 else 'each of them'} to a label or to ignore_structures"
                f"{f' ({_MARKS})' if any(map(MARK.fullmatch, unmatched)) else ''}"
            )
        for rule in self.rules:
            if rule.structures and not any(rule.matches(structure) for structure in structures):
                raise BadInput(
                    f"{location}: label {rule.label} ({', '.join(rule.structures)}) matches no structure; the archive "
                    f"has {', '.join(map(repr, structures)) or 'none'}; correct its expressions or remove the label"
                )


def _matches(patterns: Iterable[str], structure: str) -> bool:
    """Whether one of the regular expressions matches a whole name, in any case and either spelling of Unicode."""
    return any(re.fullmatch(composed(pattern), composed(structure), re.IGNORECASE) for pattern in patterns)


def read_mapping(path: str | Path) -> LabelMapping:
    """Reads and checks a mapping file.

    Raises:
        BadInput: the file does not exist, cannot be read, or is not a valid mapping.
    """
    path = Path(path)
    is_json = path.suffix.lower() == ".json"
    try:
        text = _decoded(path.read_bytes())
        content = json.loads(text, object_pairs_hook=_without_duplicates) if is_json else yaml.load(text, _Loader)
    except FileNotFoundError as error:
        raise BadInput(
            f"--mapping {path} does not exist; run the command with --list to write a first mapping, then edit it"
        ) from error
    except OSError as error:
        raise BadInput(f"--mapping {path} cannot be read ({error.strerror}); expected a text file") from error
    except UnicodeDecodeError as error:
        raise BadInput(
            f"--mapping {path} is not in UTF-8 (byte {error.object[error.start]:#x}); expected a text file: save it as "
            f"UTF-8 in your editor"
        ) from error
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    except RecursionError as error:
        raise BadInput(f"{path} is nested too deeply; expected lists of regular expressions: correct it") from error
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:  # of JSON, YAML and the values in them
        reason = " ".join(str(error).split())
        remedy = "indent with blanks instead of tabs" if "'\\t'" in reason else "correct it"
        raise BadInput(f"{path} is not valid {'JSON' if is_json else 'YAML'} ({reason}); {remedy}") from error
    try:
        return parse_mapping(content)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def _decoded(content: bytes) -> str:
    """The text of a file in UTF-8, with or without the mark that Windows puts first, or in UTF-16 with it."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def parse_mapping(content: Any) -> LabelMapping:
    """A mapping from the content of its file.

    Raises:
        BadInput: the content is not a valid mapping.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("labels"), Mapping):
        raise BadInput(
            "'labels:' is missing or not a mapping; expected the name and the regular expressions of each label"
        )
    _check_keys(content, KEYS, "the mapping")
    lung = "none" if content.get("lung") is None else content["lung"]
    if lung not in LUNGS:
        raise BadInput(f"lung: {lung!r} is unknown; expected {', '.join(LUNGS[:-1])} or {LUNGS[-1]}")
    rules = []
    names = list(content["labels"].items())
    known = normal_by_name([label for label in content["labels"] if isinstance(label, str)])
    normal = known[0] if len(known) == 1 and NORMAL not in content["labels"] else NORMAL
    if lung != "none" and normal not in content["labels"]:
        names.insert(0, (NORMAL, []))
    for value, (label, entry) in enumerate(names, start=1):
        if not isinstance(label, str) or not LABEL.fullmatch(label) or label in ("background", IGNORE):
            raise BadInput(
                f"label {label!r}: expected a name that begins with a letter and is not background or ignore (for "
                f"nnU-Net's ignore label, use ignore_label){_QUOTE if not isinstance(label, str) else ''}"
            )
        rule = _rule(label, value, entry)
        if not rule.structures and not (label == normal and lung != "none"):
            raise BadInput(f"label {label} has no structures; give regular expressions, or remove the label")
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
    _check_keys(options, ("structures", "priority", "pathology"), f"label {label}")
    number = options.get("priority", value if priority is None else priority)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise BadInput(f"label {label}: priority {number!r} is not a number; expected one such as 9")
    pathology = options.get("pathology", label != IGNORE)
    if not isinstance(pathology, bool):
        raise BadInput(f"label {label}: pathology {pathology!r} is neither true nor false")
    return Rule(label, value, _expressions(options.get("structures") or [], f"label {label}"), float(number), pathology)


def _expressions(entry: Any, location: str) -> tuple[str, ...]:
    entries = [entry] if isinstance(entry, str) else entry
    if not isinstance(entries, list) or not all(isinstance(pattern, str) for pattern in entries):
        raise BadInput(
            f"{location}: {entry!r} is not a list of strings; expected a list of regular expressions in quotes"
        )
    for pattern in entries:
        try:
            re.compile(composed(pattern))
        except (re.error, OverflowError, RecursionError) as error:
            raise BadInput(
                f"{location}: {pattern!r} is not a regular expression ({error}); correct it, or write a backslash "
                f"before each of the characters that are meant literally"
            ) from error
    return tuple(entries)


def _check_keys(content: Mapping, keys: tuple[str, ...], location: str) -> None:
    for key in content:
        if key not in keys:
            raise BadInput(f"{location}: unknown key {key!r}; expected {', '.join(keys)}")


def _without_duplicates(pairs: list[tuple[Any, Any]]) -> dict:
    """A dict of the entries of a file; raises BadInput if a key occurs twice."""
    result: dict = {}
    for key, value in pairs:
        if not isinstance(key, Hashable):
            raise BadInput(f"{key!r} is not a name; expected the name of a label or of an option before the colon")
        if key in result:
            raise BadInput(f"{key!r} is listed twice; merge its expressions into one list")
        result[key] = value
    return result


class _Loader(yaml.SafeLoader):
    """Loads YAML; a key that occurs twice is an error, while PyYAML would keep the last value."""

    def construct_mapping(self, node, deep=False):
        return _without_duplicates(
            [(self.construct_object(key, True), self.construct_object(value, True)) for key, value in node.value]
        )


_Loader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node))
