"""nnU-Net's data loader with another rule for which patches it draws."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module

from nnunet_difflung.trainers.sampling import Rule, Source

DRAWN = "drawn"  # key in a batch: the name of the source of each patch
REAL = "real"  # its value for a patch that was drawn in nnU-Net's way


class Mixture:
    """A rule, the epoch that it is applied in, and what was drawn by it in that epoch.

    nnU-Net's worker processes see the epoch, too. They draw some batches ahead, so the first few batches of an epoch
    may still be drawn with the share of the one before.
    """

    def __init__(self, rule: Rule, epoch: int, epochs: int) -> None:
        self.rule = rule
        self.epochs = epochs
        self._epoch = multiprocessing.Value("i", epoch)
        self._counts: Counter[str] = Counter()

    def begin(self, epoch: int) -> None:
        """From now on patches are drawn with the share of ``epoch``."""
        self._epoch.value = epoch
        self._counts.clear()

    def probabilities(self) -> np.ndarray:
        """Of the rule in the present epoch."""
        return self.rule.probabilities(self._epoch.value, self.epochs)

    def count(self, drawn: Iterable[str]) -> None:
        """Notes the patches of a batch that was trained on."""
        self._counts.update(drawn)

    def report(self) -> str:
        """What was drawn since ``begin`` and what was expected, for the log."""
        total = max(1, sum(self._counts.values()))
        names = [REAL, *(source.name for source in self.rule.sources)]
        shares = (
            f"{name} {self._counts[name] / total:.3f} (expected {expected:.3f})"
            for name, expected in zip(names, self.probabilities(), strict=True)
        )
        return f"Share of {total} training patches: {', '.join(shares)}"


class MixedLoader(nnUNetDataLoader):
    """Draws each patch by the ``mixture`` that the training dataset carries; the rest is nnU-Net's.

    Random numbers come from numpy's global state, as those of nnU-Net's loader do: the trainer seeds it for each epoch,
    and nnU-Net for each worker process.
    """

    def __init__(self, data: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(data, *arguments, **options)
        self.mixture: Mixture = data.mixture
        self._drawn: list[tuple[Source | None, int]] = []  # of the batch being made: source, and position in the case
        self._next = 0

    def get_indices(self) -> list[str]:
        """Draws the cases of a batch, and for patches from a source also their slices."""
        rule = self.mixture.rule
        cases, self._drawn, self._next = [], [], 0
        probabilities = self.mixture.probabilities()
        for choice in np.random.choice(len(probabilities), (self.batch_size,), p=probabilities):
            if choice == 0:
                case, source, position = rule.real[np.random.randint(len(rule.real))], None, 0
            else:
                source = rule.sources[choice - 1]
                case, position = source.slices[np.random.randint(len(source.slices))]
            cases.append(case)
            self._drawn.append((source, position))
        return cases

    def get_bbox(self, data_shape, force_fg, class_locations, overwrite_class=None, verbose=False):  # nnU-Net's types
        """nnU-Net's choice of a place; for a patch from a source among the voxels of its slice, centred on it."""
        source, position = self._drawn[self._next]
        self._next += 1
        if source is None:
            return super().get_bbox(data_shape, force_fg, class_locations, overwrite_class, verbose)
        axis, forced = source.axis, force_fg or source.label is not None
        inside = {label: _in_slice(voxels, axis, position) for label, voxels in class_locations.items()}
        lower, _ = super().get_bbox(data_shape, forced, inside, source.label, verbose)
        margin = max(self.need_to_pad[axis], self.patch_size[axis] - data_shape[axis])
        lower[axis] = max(-margin // 2, position - self.patch_size[axis] // 2)
        return lower, [start + length for start, length in zip(lower, self.patch_size, strict=True)]

    def generate_train_batch(self) -> dict[str, Any]:
        """nnU-Net's batch, with the name of each patch's source."""
        batch = super().generate_train_batch()
        return batch | {DRAWN: [REAL if source is None else source.name for source, _ in self._drawn]}


def _in_slice(voxels: Any, axis: int, position: int) -> Any:
    return voxels[voxels[:, 1 + axis] == position] if len(voxels) else voxels


@contextmanager
def mixed_training() -> Iterator[None]:
    """Lets nnU-Net's ``get_dataloaders`` take ``MixedLoader`` for a dataset that carries a mixture, and only for that.

    nnU-Net has no place for a loader of one's own; the alternative is a copy of that function, which would age.
    """
    original = nnunet_module.nnUNetDataLoader

    def loader(data: Any, *arguments: Any, **options: Any) -> nnUNetDataLoader:
        return (MixedLoader if hasattr(data, "mixture") else original)(data, *arguments, **options)

    nnunet_module.nnUNetDataLoader = loader
    try:
        yield
    finally:
        nnunet_module.nnUNetDataLoader = original
