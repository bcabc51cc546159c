"""A fold's plan of synthetic cases as data, and the label maps that follow from it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import asdict, dataclass, field

import numpy as np

from nnunet_difflung.dataset.labels import LabelRoles
from nnunet_difflung.lesions.masks import Lesion, Transform, paste, transformed


@dataclass(frozen=True)
class HostFacts:
    """What planning knows of a training case: shape and spacing (z, y, x), and voxels of each label."""

    identifier: str
    spacing: tuple[float, float, float]
    voxels: dict[str, int]
    lung_slices: int


@dataclass(frozen=True)
class Operation:
    """One lesion, varied and pasted into a host.

    Attributes:
        pathology: label name.
        donor: case id that the lesion comes from.
        component: its number there.
        transform: mirror, angle, scale, dilation.
        place: (z, y, x) of its first voxel in the host.
        voxels: changed in the host.
    """

    pathology: str
    donor: str
    component: int
    transform: Transform
    place: tuple[int, int, int]
    voxels: int


@dataclass(frozen=True)
class PlannedCase:
    """A synthetic case to be: a host, and lesions pasted into it in this order."""

    index: int
    host: str
    operations: tuple[Operation, ...]
    slices: tuple[int, ...]
    seed: int

    def sources(self) -> list[str]:
        """Every case that it is made of."""
        return sorted({self.host, *(op.donor for op in self.operations)})

    def as_record(self) -> dict:
        """Plain content for the manifest."""
        return {
            "host": self.host,
            "sources": self.sources(),
            "slices": list(self.slices),
            "seed": self.seed,
            "operations": [asdict(op) for op in self.operations],
        }


@dataclass
class Plan:
    """The planned cases with class shares (of lung voxels) before and after."""

    cases: list[PlannedCase]
    targets: dict[str, float]
    before: dict[str, int]
    after: dict[str, int]
    max_slices: int
    notes: list[str] = field(default_factory=list)

    @property
    def slices(self) -> int:
        """Number of slices to paint."""
        return sum(len(case.slices) for case in self.cases)


def shares(counts: dict[str, int]) -> dict[str, float]:
    """Voxel counts of the lung classes → shares of lung."""
    total = max(1, sum(counts.values()))
    return {name: count / total for name, count in counts.items()}


def new_label(
    case: PlannedCase,
    label: np.ndarray,
    lesions: dict[str, list[Lesion]],
    facts: dict[str, HostFacts],
    roles: LabelRoles,
) -> np.ndarray:
    """Applies a planned case's operations to its host's label map; (z, y, x), a copy."""
    result = label.copy()
    for op in case.operations:
        lesion = lesion_of(op, lesions)
        ratio = np.array(lesion.spacing) / facts[case.host].spacing
        mask = transformed(lesion.mask, op.transform, ratio)
        paste(result, mask, op.place, roles.values[op.pathology], roles.values[roles.normal])
    return result


def lesion_of(op: Operation, lesions: dict[str, list[Lesion]]) -> Lesion:
    """The lesion that an operation pastes."""
    found = lesions[op.pathology]  # sorted by case, then component
    return found[bisect_left(found, (op.donor, op.component), key=lambda x: (x.case, x.component))]
