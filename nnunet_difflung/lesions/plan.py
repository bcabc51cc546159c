"""The plan of a fold's synthetic cases as data; ``pasting`` applies it to the hosts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np

from nnunet_difflung.lesions.masks import Transform


@dataclass(frozen=True)
class LungSource:
    """Where the texture of a placebo comes from: normal lung of a real case, cut out in the outline of a lesion.

    Attributes:
        case: id of the real case.
        start: (z, y, x) of the first voxel of the outline in that case.
        spacing: (z, y, x) of the case in mm; the outline has the lesion's size in mm.
        slices: of the case.
        scale: factor of the outline; below 1 where it is cut out smaller, since the planned one is.
    """

    case: str
    start: tuple[int, int, int]
    spacing: tuple[float, float, float]
    slices: int
    scale: float = 1.0


@dataclass(frozen=True)
class Operation:
    """A lesion that is varied and pasted into a host.

    Attributes:
        pathology: label name.
        donor: id of the real case that the lesion comes from.
        component: number of the lesion in that case.
        transform: how its outline is varied.
        place: (z, y, x) of its first voxel in the host.
        voxels: number of voxels that it changes in the host.
        lung: of a placebo: the normal lung that is pasted in the lesion's outline; None pastes the lesion.
        around: empty; or the operation pastes the pathology that lies around a lesion of ``around``, another pathology,
            and ``component`` is that lesion's.
    """

    pathology: str
    donor: str
    component: int
    transform: Transform
    place: tuple[int, int, int]
    voxels: int
    lung: LungSource | None = None
    around: str = ""

    def as_record(self) -> dict:
        """Content for the manifest, of JSON types only."""
        record = {key: value for key, value in asdict(self).items() if key not in ("lung", "around") or value}
        if self.lung is not None:
            del record["lung"]["slices"]
            if self.lung.scale == 1:  # as earlier versions wrote it
                del record["lung"]["scale"]
        return record


@dataclass(frozen=True)
class Pasted:
    """The voxels that an operation changes in its host.

    Attributes:
        pathology: label name.
        mask: (z, y, x) bool.
        place: (z, y, x) of the first voxel of the mask in the host.
    """

    pathology: str
    mask: np.ndarray
    place: tuple[int, int, int]


@dataclass(frozen=True)
class PlannedCase:
    """A planned synthetic case: a real case, the host, and the lesions to paste into it.

    Attributes:
        index: of the case in the plan of its fold.
        host: id of the real case.
        operations: the lesions, in the order in which they are pasted.
        slices: z of the slices that are changed.
        seed: of the noise from which the case is painted.
        placebo: the outlines of the operations are repainted as the normal lung that they are; no label changes.
    """

    index: int
    host: str
    operations: tuple[Operation, ...]
    slices: tuple[int, ...]
    seed: int
    placebo: bool = False

    def sources(self) -> list[str]:
        """Ids of all real cases that the synthetic case is made from, sorted."""
        lungs = {op.lung.case for op in self.operations if op.lung}
        return sorted({self.host, *(op.donor for op in self.operations), *lungs})

    def as_record(self) -> dict:
        """Content for the manifest, of JSON types only."""
        return {
            "host": self.host,
            "sources": self.sources(),
            "slices": list(self.slices),
            "seed": self.seed,
            "operations": [op.as_record() for op in self.operations],
            **({"placebo": True} if self.placebo else {}),
        }


@dataclass
class Plan:
    """The planned cases of a fold.

    Attributes:
        cases: the planned cases.
        targets: pathology → target share of the lung voxels.
        before, after: class → number of lung voxels in the training cases, without and with the planned cases.
        max_slices: largest number of slices to paint with new lesions; placebo cases come on top.
        notes: for the user, one line each.
        likeness: pathology → figure → how alike planned and real lesions are in it (``likeness.compare``).
        in_margins: number of the slices of cases with new lesions that hold none of them, but lie above or below one
            and are painted along with it; not bounded by ``max_slices``.
    """

    cases: list[PlannedCase]
    targets: dict[str, float]
    before: dict[str, int]
    after: dict[str, int]
    max_slices: int
    notes: list[str] = field(default_factory=list)
    likeness: dict[str, dict[str, dict]] = field(default_factory=dict)
    in_margins: int = 0

    @property
    def slices(self) -> int:
        """Number of slices to paint."""
        return sum(len(case.slices) for case in self.cases)

    @property
    def with_lesions(self) -> list[PlannedCase]:
        """The cases that get new lesions."""
        return [case for case in self.cases if not case.placebo]

    @property
    def placebos(self) -> list[PlannedCase]:
        """The cases whose outlines are repainted as normal lung."""
        return [case for case in self.cases if case.placebo]


def shares(counts: dict[str, int]) -> dict[str, float]:
    """The share of each lung class in all lung voxels, from voxel counts."""
    total = max(1, sum(counts.values()))
    return {name: count / total for name, count in counts.items()}
