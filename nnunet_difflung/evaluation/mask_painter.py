"""Paints whole slices from validation masks, several samples of each, for comparison only: nothing is written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.evaluation.real_slices import RealSlice, Window
from nnunet_difflung.generator.encoding import denormalise, one_hot, size_factor
from nnunet_difflung.generator.sampling import paint_batch
from nnunet_difflung.generator.store import Generator
from nnunet_difflung.methods import Method


@dataclass(frozen=True)
class MaskPainter:
    """A fold's generator and how its samples are drawn.

    Attributes:
        method: the generator's method.
        generator: of the fold.
        sampling: sampler, steps and batch size.
        values: (k,) voxel values of the condition channels.
        window: intensities to which the images are clipped.
        samples: images painted from each mask.
        seed: fixes the noise, together with fold, case, z and number of the sample; independent of the batch.
        fold: of the split.
    """

    method: Method
    generator: Generator
    sampling: SamplingConfig
    values: np.ndarray
    window: Window
    samples: int
    seed: int
    fold: int

    def paint(self, slices: Sequence[RealSlice]) -> Iterator[tuple[RealSlice, np.ndarray, float]]:
        """Paints every mask ``samples`` times.

        The images are isolated as ``synthesize`` does before it writes a case: outside the body (condition 0) they are
        set to the low end of the generator's window, whatever the network painted there.

        Yields:
            slice, (samples, h, w) float32 of the first channel in the dataset's intensities, mean seconds per image.
        """
        shapes: dict[tuple[int, int], list[RealSlice]] = {}
        for true in slices:
            shapes.setdefault(self._padded(true), []).append(true)
        for shape, group in shapes.items():
            jobs = [(true, sample) for true in group for sample in range(self.samples)]
            done: list[np.ndarray] = []
            seconds: list[float] = []
            for first in range(0, len(jobs), self.sampling.batch_size):
                batch = jobs[first : first + self.sampling.batch_size]
                begun = time.perf_counter()
                done += self._paint_batch(batch, shape)
                seconds += [(time.perf_counter() - begun) / len(batch)] * len(batch)
                while len(done) >= self.samples:
                    height, width = group[0].image.shape
                    images = np.stack([image[:height, :width] for image in done[: self.samples]])
                    yield group.pop(0), images, float(np.mean(seconds[: self.samples]))
                    del done[: self.samples], seconds[: self.samples]

    def _padded(self, true: RealSlice) -> tuple[int, int]:
        """The slice's shape, enlarged to what the network's poolings need."""
        factor = size_factor(self.generator.config)
        height, width = (-(-edge // factor) * factor for edge in true.image.shape)
        return height, width

    def _paint_batch(self, jobs: Sequence[tuple[RealSlice, int]], shape: tuple[int, int]) -> list[np.ndarray]:
        channels = len(self.generator.config.windows)
        device = next(self.generator.network.parameters()).device
        rngs = [np.random.default_rng([self.seed, self.fold, *true.key, sample]) for true, sample in jobs]
        noise = np.stack([rng.standard_normal((channels, *shape), np.float32) for rng in rngs])
        sources = [torch.Generator().manual_seed(int(rng.integers(2**62))) for rng in rngs]
        conditions = [self._condition(true, shape) for true, _ in jobs]
        masks = np.stack([one_hot(condition, self.values) for condition in conditions])
        painted = (
            paint_batch(
                self.method,
                self.generator,
                self.sampling,
                torch.from_numpy(masks).to(device),
                torch.from_numpy(noise).to(device),
                sources=sources,
            )
            .float()
            .cpu()
            .numpy()
        )
        windows = self.generator.config.windows
        images = [
            np.where(condition == 0, windows[0][0], denormalise(image, windows)[0])
            for image, condition in zip(painted, conditions, strict=True)
        ]
        return [np.clip(image, *self.window).astype(np.float32) for image in images]

    @staticmethod
    def _condition(true: RealSlice, shape: tuple[int, int]) -> np.ndarray:
        """The slice's condition map, padded to (h, w) ``shape`` with 0 (outside the body)."""
        return np.pad(true.condition, [(0, edge - n) for edge, n in zip(shape, true.condition.shape, strict=True)])
