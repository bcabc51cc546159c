"""Which structures of an archive become which label; ``mapping_file`` reads it from a file."""
from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.dataset_conversion.nnunet_format import IGNORE
from nnunet_difflung.labels import label_roles

NORMAL = "normal_lung"
LUNGS = ("none", "threshold", "lungmask")


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
            raise BadInput(f"structure {structure!r} is matched by {' and by '.join(names)}; expected one; make the "
                           f"expressions narrower")
        if not rules and not left_out:
            raise BadInput(f"structure {structure!r} is in no label of the mapping; add it to a label or to "
                           f"ignore_structures")
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
            raise BadInput(f"{where}: no label for {', '.join(map(repr, unknown))}; add "
                           f"{'it' if len(unknown) == 1 else 'each'} to a label or to ignore_structures")
        for rule in self.rules:
            if rule.structures and not any(rule.matches(structure) for structure in structures):
                raise BadInput(f"{where}: {rule.label} ({', '.join(rule.structures)}) matches no structure; the "
                               f"archive has {', '.join(map(repr, structures)) or 'none'}; correct or remove it")
