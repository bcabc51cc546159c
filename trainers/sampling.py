"""The rule by which training patches are drawn: a share of them from listed slices, the others as nnU-Net draws them.

Pure functions of the manifest, of what nnU-Net's preprocessing noted of each case, and of the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_difflung.runtime.wording import counted
from nnunet_difflung.trainers.dose import Dose

CROPPING = ("bbox_used_for_cropping", "shape_after_cropping_and_before_resampling")  # what nnU-Net notes of them
Label = int | tuple[int, ...]  # a key of nnU-Net's class_locations: a label's value, or the values of a region


@dataclass(frozen=True)
class Source:
    """Slices from which patches are drawn, each as likely as another.

    Attributes:
        name: for the log.
        slices: (case, position along ``axis`` in nnU-Net's preprocessed array).
        axis: of the preprocessed arrays (z, y, x), along which a patch is centred on its slice.
        label: the class on one of whose voxels in the slice the patch is centred; None: the place in the slice is
            nnU-Net's choice.
    """

    name: str
    slices: tuple[tuple[str, int], ...]
    axis: int = 0
    label: Label | None = None

    def described(self) -> str:
        """For the log."""
        cases = len({case for case, _ in self.slices})
        return f"{counted(len(self.slices), 'slice')} of {counted(cases, 'case')} ({self.name})"


@dataclass(frozen=True)
class Rule:
    """How each patch of a batch is drawn, independently of the others.

    Attributes:
        real: cases that nnU-Net's own rule draws from: case by case, each as likely as another.
        sources: have equal parts of the dose.
        dose: the share of patches that ``sources`` have together.
    """

    real: tuple[str, ...]
    sources: tuple[Source, ...]
    dose: Dose

    def probabilities(self, epoch: int, epochs: int) -> np.ndarray:
        """Probability that a patch comes from the real cases in nnU-Net's way, and from each source, in order."""
        share = self.dose.at(epoch, epochs)
        return np.array([1 - share, *[share / len(self.sources)] * len(self.sources)])


def painted(
    cases: Mapping[str, Mapping[str, Any]],
    properties: Mapping[str, Mapping[str, Any]],
    sizes: Mapping[str, Sequence[int]],
    transpose_forward: Sequence[int],
) -> Source:
    """The painted slices of synthetic cases; the other slices of a volume are copies of its host.

    Args:
        cases: id → entry of the manifest, with ``slices``: z in the image file, from 0.
        properties: id → what nnU-Net noted when it preprocessed the case; of that, ``CROPPING``.
        sizes: id → shape (z, y, x) of the preprocessed array.
        transpose_forward: of nnU-Net's plans: the file's axis that became each axis of the array.
    """
    axis = list(transpose_forward).index(0)
    slices = {
        (name, _after_preprocessing(z, properties[name], axis, sizes[name][axis]))
        for name, case in cases.items()
        for z in case["slices"]
    }
    return Source("synthetic", tuple(sorted(slices)), axis)


def _after_preprocessing(z: int, properties: Mapping[str, Any], axis: int, size: int) -> int:
    """Position of a slice after nnU-Net's cropping and resampling, which leave a 2d configuration's slices alone."""
    box, shape = (properties[key] for key in CROPPING)
    first, before = box[axis][0], shape[axis]
    return int(np.clip((z - first + 0.5) * size // before, 0, size - 1))


def balanced(cases: Iterable[tuple[str, Mapping[Label, Any]]], classes: Mapping[str, Label]) -> tuple[Source, ...]:
    """For each class that occurs in the cases, the slices that show it.

    A case counts with the slices in which it has the class, so that a dataset of volumes is drawn from as one of the
    same slices.

    Args:
        cases: id, and class → some of its voxels, (n, 4) as (channel, z, y, x): nnU-Net's ``class_locations``. They
            are asked for one after the other, and none is kept: those of a volume are megabytes.
        classes: name → class.
    """
    slices: dict[str, list[tuple[str, int]]] = {name: [] for name in classes}
    for case, of_class in cases:
        for name, label in classes.items():
            if len(voxels := of_class.get(label, ())):
                slices[name] += [(case, int(position)) for position in np.unique(np.asarray(voxels)[:, 1])]
    return tuple(Source(name, tuple(slices[name]), 0, label) for name, label in classes.items() if slices[name])
