"""Which slices are painted in one batch, and which process makes and paints which batches.

Batches depend on the plan alone: on the sizes of its jobs, in their order. One process finds them while it makes the
jobs. Several processes measure the sizes of a share of the cases each, without their textures, and read those of the
others; then each knows all batches, and makes the jobs of its own ones only. It gets batches that follow each other, so
that hardly any case is applied by two processes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from nnunet_difflung.preparing.stacks import JobSize

Key = tuple[int, int]
"""Number of the planned case, and of the job in it."""


class Sized(Protocol):
    """What decides the batch of a job."""

    @property
    def key(self) -> Key:
        """See ``Key``."""

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) that the network sees."""

    @property
    def number_of_slices(self) -> int:
        """Slices among its inputs, with those beside the painted ones."""


J = TypeVar("J", bound=Sized)


class Batches(Generic[J]):
    """Groups jobs by shape, in an order that depends on the plan alone."""

    def __init__(self, size: int):
        self.size = size
        self.groups: dict[tuple[int, int], list[J]] = {}

    def add(self, job: J) -> list[J] | None:
        """Adds a job to its group; returns the group when it is a complete batch."""
        group = self.groups.setdefault(job.shape, [])
        group.append(job)
        return self.groups.pop(job.shape) if sum(other.number_of_slices for other in group) >= self.size else None

    def incomplete(self) -> set[int]:
        """Indices of the planned cases with slices that are not in a complete batch yet."""
        return {job.key[0] for group in self.groups.values() for job in group}

    def rest(self) -> list[list[J]]:
        """The groups that no further job completes."""
        return list(self.groups.values())


@dataclass(frozen=True)
class Part:
    """What a process makes, paints and measures.

    Attributes:
        batches: its batches, in their order.
        slices: number of slices that are painted in them.
        measured: indices of the planned cases that it measures and writes.
    """

    batches: list[list[Key]]
    slices: int
    measured: frozenset[int]

    @cached_property
    def wanted(self) -> dict[int, set[int]]:
        """Index of a planned case → numbers of its jobs in these batches."""
        wanted: dict[int, set[int]] = {}
        for index, number in (key for batch in self.batches for key in batch):
            wanted.setdefault(index, set()).add(number)
        return wanted


class KnownBatches(Batches[J]):
    """The batches of a process's part, each complete when its last job is made."""

    def __init__(self, part: Part):
        super().__init__(0)
        self._batch = {key: number for number, batch in enumerate(part.batches) for key in batch}
        self._length = [len(batch) for batch in part.batches]
        self._begun: dict[int, list[J]] = {}

    def add(self, job: J) -> list[J] | None:
        """Adds a job to its batch; returns the batch when it is complete."""
        number = self._batch[job.key]
        group = self._begun.setdefault(number, [])
        group.append(job)
        return self._begun.pop(number) if len(group) == self._length[number] else None

    def incomplete(self) -> set[int]:
        """See ``Batches``."""
        return {job.key[0] for group in self._begun.values() for job in group}


def parts_of(cases: Collection[int], sizes: Sequence[JobSize], size: int, number: int) -> list[Part]:
    """The parts of several processes, with about as many pixels each.

    A case is measured by the process that paints its last batch.

    Args:
        cases: indices of the planned cases, in their order.
        sizes: of all of their jobs, in the order of the cases.
        size: slices of a batch.
        number: of processes.
    """
    batches, grouping = [], Batches[JobSize](size)
    for job in sizes:
        batch = grouping.add(job)
        batches += [batch] if batch else []
    batches += grouping.rest()
    weights = [sum(job.number_of_slices * job.shape[0] * job.shape[1] for job in batch) for batch in batches]
    owners, before, total = [], 0, sum(weights)
    for weight in weights:
        owners.append(min(number - 1, (2 * before + weight) * number // (2 * total)))
        before += weight
    last = {job.key[0]: owner for batch, owner in zip(batches, owners, strict=True) for job in batch}
    measurer = {index: last.get(index, position % number) for position, index in enumerate(cases)}
    parts = []
    for process in range(number):
        own = [batch for batch, owner in zip(batches, owners, strict=True) if owner == process]
        measured = frozenset(index for index, owner in measurer.items() if owner == process)
        slices = sum(job.painted for batch in own for job in batch)
        parts.append(Part([[job.key for job in batch] for batch in own], slices, measured))
    return parts
