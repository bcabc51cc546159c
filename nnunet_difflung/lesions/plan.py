"""A fold's plan of synthetic cases as data; ``pasting`` carries it out on the hosts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from nnunet_difflung.lesions.masks import Transform


@dataclass(frozen=True)
class Operation:
    """One lesion, varied and pasted into a host.

    Attributes:
        pathology: label name.
        donor: id of the real case that the lesion comes from.
        component: the lesion's number in that case.
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
    """A synthetic case to be made: a real case, its host, and the lesions to be pasted into it.

    Attributes:
        index: number in the plan of its fold.
        host: id of the real case.
        operations: the lesions, in the order in which they are pasted.
        slices: z of the host's slices that change.
        seed: of the noise from which it is painted.
    """

    index: int
    host: str
    operations: tuple[Operation, ...]
    slices: tuple[int, ...]
    seed: int

    def sources(self) -> list[str]:
        """Ids of all real cases that it is made of."""
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
