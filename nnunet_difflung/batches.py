"""Training batches as a pure function of (seed, step): what is drawn, cut, mirrored and ablated.

Nothing here has a state, so a resumed training sees the very batches that it would have seen, and each of several
processes can make its own part of a batch.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.ablation import ablate, annealed, draw_ablation
from nnunet_difflung.config import GeneratorConfig
from nnunet_difflung.slices import SliceCache

CT_WINDOW = (-1000.0, 1000.0)  # HU; paper, section 3.2


@dataclass(frozen=True)
class SliceIndex:
    """The training slices of a fold: those that show lung.

    Attributes:
        cases: (n,) case id of each slice.
        z: (n,) position of the slice in its case.
        holding: pathology → indices of the slices that hold it.
    """

    cases: list[str]
    z: np.ndarray
    holding: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.cases)


def index_slices(cache: SliceCache, identifiers: Sequence[str]) -> SliceIndex:
    """Lists the slices with lung of the given cases."""
    cases, z, holding = [], [], {name: [] for name in cache.roles.pathologies}
    for identifier in sorted(identifiers):
        counts = cache.facts[identifier].counts
        for position, lung in enumerate(np.sum([counts[name] for name in cache.roles.lung], axis=0)):
            if lung:
                for name, found in holding.items():
                    if counts[name][position]:
                        found.append(len(cases))
                cases.append(identifier)
                z.append(position)
    return SliceIndex(cases, np.array(z, int), {name: np.array(found, int) for name, found in holding.items()})


def intensity_windows(cache: SliceCache, identifiers: Sequence[str], channels: Sequence[str],
                      chosen: Sequence[Sequence[float]] = ()) -> tuple[tuple[float, float], ...]:
    """For each channel the intensities that map to −1 and 1.

    [−1000, 1000] HU for CT (paper, section 3.2); else the 0.5 and 99.5 percentiles of labelled and body voxels of the
    given cases, which must be training cases of the fold.
    """
    if chosen:
        return tuple((float(low), float(high)) for low, high in chosen)
    windows = []
    for channel, name in enumerate(channels):
        if name.upper() == "CT":
            windows.append(CT_WINDOW)
            continue
        values = np.concatenate([np.asarray(cache.image(i)[channel])[cache.condition(i) > 0][::7] for i in identifiers])
        low, high = np.percentile(values, (0.5, 99.5))
        windows.append((float(low), float(high if high > low else low + 1)))
    return tuple(windows)


def normalise(image: np.ndarray, windows: Sequence[Sequence[float]]) -> np.ndarray:
    """Clips each channel (first axis) to its window and maps it to [−1, 1]; float32."""
    low, high = _bounds(windows, image.ndim)
    return (2 * ((np.clip(image, low, high) - low) / (high - low)) - 1).astype(np.float32)


def denormalise(image: np.ndarray, windows: Sequence[Sequence[float]]) -> np.ndarray:
    """Inverse of ``normalise`` within the window."""
    low, high = _bounds(windows, image.ndim)
    return (np.clip(image, -1, 1) + 1) * ((high - low) / 2) + low


def _bounds(windows: Sequence[Sequence[float]], dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    bounds = np.asarray(windows, np.float32).T.reshape(2, -1, *[1] * (dimensions - 1))
    return bounds[0], bounds[1]


def isolate(image: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """Sets everything outside lung, structures and body to −1, the window's lower end (paper, section 3.2).

    Args:
        image: (c, y, x) in [−1, 1].
        condition: (y, x) condition map before any ablation.
    """
    return np.where(condition > 0, image, np.float32(-1))


def one_hot(condition: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(k, y, x) float32 masks of the condition classes; background and ignored voxels are in none of them."""
    return (condition[None] == values[:, None, None]).astype(np.float32)


@dataclass(frozen=True)
class Batch:
    """One process's part of a training batch.

    Attributes:
        image: (b, c, p, p) float32 in [−1, 1], isolated.
        condition: (b, k, p, p) float32 masks after ablation.
        weight: (b, 1, p, p) float32, 0 where the label is ``ignore`` or beyond the image.
    """

    image: np.ndarray
    condition: np.ndarray
    weight: np.ndarray


class BatchSource:
    """Makes the batch of any training step of one fold."""

    def __init__(self, cache: SliceCache, index: SliceIndex, config: GeneratorConfig,
                 windows: Sequence[Sequence[float]], probabilities: np.ndarray, total_steps: int):
        self.cache, self.index, self.config = cache, index, config
        self.windows, self.probabilities, self.total_steps = windows, probabilities, total_steps
        self.pathologies = np.array([cache.roles.values[name] for name in cache.roles.pathologies])
        self.present = [name for name, found in index.holding.items() if len(found)]
        self.share = min(config.balanced_share, 0.9 / max(1, len(self.present)))

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        """The examples at the given slots of the global batch of a step."""
        examples = [self._example(step, slot) for slot in slots]
        return Batch(*(np.stack(part) for part in zip(*examples, strict=True)))

    def _example(self, step: int, slot: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.config.seed, step, slot])
        wanted = self._draw_class(rng)
        number = int(rng.choice(self.index.holding[wanted] if wanted else len(self.index)))
        case, z = self.index.cases[number], self.index.z[number]
        condition = self.cache.condition(case)[z]
        crop = self._draw_crop(np.asarray(condition), wanted, rng)
        mirrored = self.config.flip and rng.random() < 0.5
        ablated = draw_ablation(annealed(self.probabilities, step / self.total_steps, self.config.method,
                                         self.config.annealing), rng)
        image = normalise(np.asarray(self.cache.image(case)[(slice(None), z, *crop)]), self.windows)
        return self._finish(image, np.asarray(condition[crop]), ablated, mirrored)

    def _draw_class(self, rng: np.random.Generator) -> str | None:
        """The pathology that this slot is reserved for, or None for a uniform draw."""
        position = rng.random() / self.share if self.share else len(self.present)
        return self.present[int(position)] if position < len(self.present) else None

    def _draw_crop(self, condition: np.ndarray, wanted: str | None, rng: np.random.Generator) -> tuple[slice, slice]:
        """A crop of the patch size around a random voxel of the wanted class (else of the body), shifted at random."""
        size = self.config.patch_size
        mask = condition == self.cache.roles.values[wanted] if wanted else condition > 0
        centre = rng.choice(np.argwhere(mask)) + rng.integers(-size // 4, size // 4 + 1, 2)
        start = np.clip(centre - size // 2, 0, np.maximum(np.array(condition.shape) - size, 0))
        return slice(start[0], start[0] + size), slice(start[1], start[1] + size)

    def _finish(self, image: np.ndarray, condition: np.ndarray, ablated: np.ndarray, mirrored: bool):
        roles, size = self.cache.roles, self.config.patch_size
        pad = [(0, size - n) for n in condition.shape]
        weight = np.pad(condition != (-1 if roles.ignore is None else roles.ignore), pad).astype(np.float32)[None]
        image = np.pad(isolate(image, condition), [(0, 0), *pad], constant_values=-1)
        masks = one_hot(np.pad(ablate(condition, ablated, self.pathologies), pad), roles.condition_values())
        parts = (image, masks, weight)
        return tuple(part[..., ::-1].copy() for part in parts) if mirrored else parts
