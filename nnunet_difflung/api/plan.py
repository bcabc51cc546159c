"""A fold's plan: which masks ``difflung_augment`` would paint, and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from nnunet_difflung.api.dataset import Dataset, as_dataset
from nnunet_difflung.api.options import request_for
from nnunet_difflung.lesions.pasting import apply_operations
from nnunet_difflung.lesions.plan import PlannedCase, shares
from nnunet_difflung.pipeline.planning import plan_folds, readable_cases
from nnunet_difflung.pipeline.preflight import check_box, check_names
from nnunet_difflung.preparing.fold import Fold


@dataclass(frozen=True)
class PlannedMask:
    """A planned synthetic case: a real case, the host, and the lesions to paint into it.

    The arrays are made when they are asked for.
    """

    fold: Fold = field(repr=False)
    planned: PlannedCase

    @property
    def host(self) -> str:
        """Id of the real case."""
        return self.planned.host

    @property
    def lesions(self) -> tuple[str, ...]:
        """Pathology of each lesion, in the order in which they are placed."""
        return tuple(operation.pathology for operation in self.planned.operations)

    @property
    def slices(self) -> tuple[int, ...]:
        """z of the slices of the host that change."""
        return self.planned.slices

    @property
    def placebo(self) -> bool:
        """Whether outlines of lesions are only repainted as the normal lung that they are, so that no label changes."""
        return self.planned.placebo

    @property
    def seed(self) -> int:
        """Of the noise from which ``difflung_augment`` paints the case."""
        return self.planned.seed

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(z, y, x) of the host in mm."""
        return self.fold.cache.facts[self.host].spacing

    def image(self) -> np.ndarray:
        """(c, z, y, x) the host's intensities."""
        return np.array(self.fold.cache.image(self.host))

    def labels(self) -> np.ndarray:
        """(z, y, x) the host's label values."""
        return np.array(self.fold.cache.label(self.host))

    def new_labels(self) -> np.ndarray:
        """(z, y, x) label values with the planned lesions; those of the host for a placebo."""
        labels = self.labels()
        if self.placebo:
            return labels
        operations, roles = self.planned.operations, self.fold.cache.roles
        return apply_operations(operations, labels, self.spacing, self.fold.lesions, roles)[0]


class FoldPlan(Sequence[PlannedMask]):
    """The plan of a fold: a sequence of ``PlannedMask``, and what it does to the classes' shares.

    Args:
        fold: the fold with its plan.
    """

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._masks = tuple(PlannedMask(fold, planned) for planned in fold.plan.cases)

    @property
    def fold(self) -> int | str:
        """Number of the fold, or ``all``."""
        return self._fold.number

    @property
    def method(self) -> str:
        """The method that would paint."""
        return self._fold.method.name

    @property
    def targets(self) -> dict[str, float]:
        """Pathology → target share of the lung voxels."""
        return dict(self._fold.plan.targets)

    @property
    def shares_before(self) -> dict[str, float]:
        """Class → share of the lung voxels of the fold's training cases."""
        return shares(self._fold.plan.before)

    @property
    def shares_after(self) -> dict[str, float]:
        """The same with the planned cases."""
        return shares(self._fold.plan.after)

    @property
    def notes(self) -> tuple[str, ...]:
        """What stood in the way of the targets, a line each."""
        return tuple(self._fold.plan.notes)

    def __len__(self) -> int:
        return len(self._masks)

    def __iter__(self) -> Iterator[PlannedMask]:
        return iter(self._masks)

    @overload
    def __getitem__(self, index: int) -> PlannedMask: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[PlannedMask, ...]: ...

    def __getitem__(self, index: int | slice) -> PlannedMask | tuple[PlannedMask, ...]:
        return self._masks[index]

    def __repr__(self) -> str:
        return f"FoldPlan(fold={self.fold!r}, method={self.method!r}, masks={len(self)})"


def plan(dataset: Dataset | str | int | Path, fold: int | str = 0, **options: object) -> FoldPlan:
    """Plans a fold as ``difflung_augment`` does with the same options; paints nothing and writes nothing.

    Args:
        dataset: from ``load_dataset``, or what it takes.
        fold: number, or ``all``.
        options: those of ``difflung_augment`` with underscores, such as ``preset="fast"``, ``max_synthetic=12``,
            ``target_share={"emphysema": 0.1}``.

    Raises:
        BadInput: ``difflung_augment`` would refuse the dataset or an option.
    """
    view = as_dataset(dataset)
    request = request_for(view, fold, options)
    check_names(view.raw, request.settings)
    check_box(view.raw, request.settings)
    cases = readable_cases(view.raw, request.processes, progress=False)
    return FoldPlan(plan_folds(view.raw, [view.fold(fold)], cases, request.settings, shown=False)[0])
