"""Training batches as a pure function of (seed, step): drawing, cropping, mirroring and ablation.

There is no state, so a resumed training sees the same batches as an uninterrupted one, and each of several processes
can make its own part of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.config import GeneratorConfig
from nnunet_difflung.dataset.cache import SliceCache, SliceIndex
from nnunet_difflung.generator.ablation import ablatable, ablate, annealed, draw_ablation
from nnunet_difflung.generator.encoding import Encoding, grow, size_factor

_MOST_DRAWN = 0.9  # share of a batch that is drawn for pathologies, at most


@dataclass(frozen=True)
class Batch:
    """A process's part of a training batch.

    A family whose network is told more than the masks has further channels in ``condition`` (``regions.RegionSource``).

    Attributes:
        image: (b, c, p, p) float32 in [−1, 1], isolated.
        condition: (b, k, p, p) float32 masks after ablation.
        weight: (b, 1, p, p) float32, 0 where the label is ``ignore`` or beyond the image.
    """

    image: np.ndarray
    condition: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """What is drawn for an example.

    Attributes:
        case: id of the case.
        wanted: the pathology that the example's slot is reserved for, or None.
        image: (c, y, x) crop in the dataset's intensities.
        condition: (y, x) its condition map.
        ablated: (k,) bool, the classes whose masks are hidden, of those that may be (``ablation.ablatable``).
        mirrored: whether the example is mirrored left-right.
        z: position of the slice in its case.
        crop: (y, x) where the crop lies in the slice.
    """

    case: str
    wanted: str | None
    image: np.ndarray
    condition: np.ndarray
    ablated: np.ndarray
    mirrored: bool
    z: int
    crop: tuple[slice, slice]


def share_of_each(wanted: float, pathologies: int) -> float:
    """Share of each batch that is drawn for each pathology; what is drawn uniformly is at least a tenth.

    Args:
        wanted: ``GeneratorConfig.balanced_share``.
        pathologies: number of pathologies in the training cases.
    """
    return min(wanted, _MOST_DRAWN / max(1, pathologies))


class BatchSource:
    """Makes the batch of any training step of a fold.

    Attributes:
        reads_spacing: the batches depend on the size of the training cases' voxels.

    Args:
        cache: the dataset's real cases.
        index: the fold's training slices.
        config: resolved configuration of the generator.
        windows: for each channel the intensities mapped to −1 and 1.
        probabilities: (k,) ablation probability of each class of ``ablation.ablatable`` at the start
            (``initial_probabilities``).
        total_steps: number of steps of the whole training, over which the probabilities are annealed.
        ablation: ablation of the method.
    """

    reads_spacing = False

    def __init__(
        self,
        cache: SliceCache,
        index: SliceIndex,
        config: GeneratorConfig,
        windows: Sequence[Sequence[float]],
        probabilities: np.ndarray,
        total_steps: int,
        ablation: str,
    ):
        self.cache, self.index, self.config = cache, index, config
        self.encoding = Encoding(windows, cache.roles.condition_values(), size_factor(config))
        self.probabilities, self.total_steps, self.ablation = probabilities, total_steps, ablation
        self.pathologies = np.array([cache.roles.values[name] for name in cache.roles.pathologies])
        values = dict(zip(cache.roles.conditions, cache.roles.condition_values(), strict=True))
        self.ablatable = np.array([values[name] for name in ablatable(cache.roles, ablation, config.ablated_classes)])
        self.present = [name for name, slices in index.holding.items() if len(slices)]
        self.share = share_of_each(config.balanced_share, len(self.present))

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        """The examples in the given slots of a step's global batch."""
        examples = [self._example(step, slot) for slot in slots]
        return Batch(*(np.stack(part) for part in zip(*examples, strict=True)))

    def _example(self, step: int, slot: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.config.seed, step, slot])
        drawn = self._draw(step, rng)
        parts = self._parts(drawn, rng)
        if drawn.mirrored:
            image, masks, weight = (part[..., ::-1].copy() for part in parts)
            return image, masks, weight
        return parts

    def _draw(self, step: int, rng: np.random.Generator) -> Drawn:
        wanted = self._draw_class(rng)
        number = int(rng.choice(self.index.holding[wanted] if wanted else len(self.index)))
        case, z = self.index.cases[number], self.index.z[number]
        condition = self.cache.condition(case)[z]
        crop = self._draw_crop(np.asarray(condition), wanted, rng)
        shifted = self._shifted(case, int(z), rng)
        if shifted != z:
            z, condition = shifted, self.cache.condition(case)[shifted]
        mirrored = self.config.flip and rng.random() < 0.5
        ablated = draw_ablation(
            annealed(self.probabilities, step / self.total_steps, self.ablation, self.config.annealing), rng
        )
        image = np.asarray(self.cache.image(case)[(slice(None), z, *crop)])
        return Drawn(case, wanted, image, np.asarray(condition[crop]), ablated, mirrored, int(z), crop)

    def _shifted(self, case: str, z: int, rng: np.random.Generator) -> int:
        """The slice to take instead of the drawn one."""
        return z

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

    def _parts(self, drawn: Drawn, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An example's part of each array of ``Batch``, before it is mirrored."""
        roles, shape = self.cache.roles, (self.config.patch_size, self.config.patch_size)
        counts = drawn.condition != (-1 if roles.ignore is None else roles.ignore)
        return (
            self.encoding.image(drawn.image, drawn.condition, shape),
            self.encoding.masks(ablate(drawn.condition, drawn.ablated, self.ablatable), shape),
            grow(counts, shape).astype(np.float32)[None],
        )
