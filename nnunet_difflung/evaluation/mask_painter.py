"""Paints several samples of whole slices from validation masks, for comparison only; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.evaluation.real_slices import RealSlice, Window
from nnunet_difflung.generator.encoding import Encoding, intensities
from nnunet_difflung.generator.sampling import SliceInputs, paint_slices
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.methods import Method


@dataclass(frozen=True)
class MaskPainter:
    """A fold's generator, and how its samples are painted.

    Attributes:
        method: the generator's method.
        generator: generator of the fold.
        sampling: sampler, steps and batch size.
        values: (k,) voxel values of the condition channels.
        window: intensities to which the images are clipped.
        samples: images painted from each mask.
        seed: determines the noise together with fold, case, z and number of the sample; the batch has no influence.
        fold: index in the split.
        channel: the compared channel.
    """

    method: Method
    generator: Generator
    sampling: SamplingConfig
    values: np.ndarray
    window: Window
    samples: int
    seed: int
    fold: int
    channel: int = 0

    def paint(self, slices: Sequence[RealSlice]) -> Iterator[tuple[RealSlice, np.ndarray, float]]:
        """Paints every mask ``samples`` times.

        The images are isolated in the same way as written synthetic cases: outside the body (condition 0) they are set
        to the low end of the generator's window, whatever the network painted there.

        Yields:
            slice, (samples, h, w) float32 of the compared channel in the dataset's intensities, mean seconds per image.
        """
        shapes: dict[tuple[int, int], list[RealSlice]] = {}
        for true in slices:
            shapes.setdefault(self.encoding.grown(true.image.shape), []).append(true)
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
                    yield group.pop(0), np.stack(done[: self.samples]), float(np.mean(seconds[: self.samples]))
                    del done[: self.samples], seconds[: self.samples]

    @property
    def encoding(self) -> Encoding:
        """Makes the network's inputs of a slice."""
        return Encoding.of(self.generator.config, self.values)

    def _paint_batch(self, jobs: Sequence[tuple[RealSlice, int]], shape: tuple[int, int]) -> list[np.ndarray]:
        """(h, w) float32 images, each in its slice's own shape."""
        windows, device = self.generator.config.windows, next(self.generator.network.parameters()).device
        inputs = []
        for true, sample in jobs:
            rng = np.random.default_rng([self.seed, self.fold, *true.key, sample])
            noise = rng.standard_normal((len(windows), *shape), np.float32)
            inputs.append(SliceInputs(self.encoding.masks(true.condition, shape), noise, int(rng.integers(2**62))))
        painted = paint_slices(self.method, self.generator, self.sampling, inputs, device)
        images = [
            np.where(
                true.condition == 0,
                windows[self.channel][0],
                intensities(image, windows, true.condition.shape)[self.channel],
            )
            for image, (true, _) in zip(painted, jobs, strict=True)
        ]
        return [np.clip(image, *self.window).astype(np.float32) for image in images]
