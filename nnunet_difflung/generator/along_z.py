"""What a network of volumes sees of the slices above and below the one it paints, and the noise that they share.

The noise of a stack of slices is a first-order autoregression along z: each slice is standard normal, and slices at a
distance d share exp(−d / L) of it. L is measured in real lesions. All slices of a stack are denoised together, and each
prediction sees the slices beside it as they are at that step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import torch

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.lesions.masks import MIN_VOXELS

_MOST_CASES = 40  # in which the correlation is measured
_BOUNDS = (0.02, 0.98)  # of a case's correlation of neighbouring slices
_DEFAULT_MM = 5.0  # where the lesions have too few voxels above each other
_LEAST_PAIRS = 100  # of voxels in all cases together; fewer tell more of chance than of the lesions


def window_slices(neighbours: int | None) -> int:
    """Number of slices that the network sees."""
    return 1 + 2 * (neighbours or 0)


def correlation(spacing: float, length: float) -> float:
    """Share of the noise that slices at a distance have in common; both in mm."""
    return float(np.exp(-spacing / length))


def correlation_length(cache: SliceCache, cases: Sequence[str]) -> float:
    """Length in mm over which the voxels of a lesion resemble those above and below them.

    In each case the correlation of voxels one slice apart is measured within all lesions, whose means are subtracted
    class by class and slice pair by slice pair; the case's length is −d / ln r. The result is the median over the
    cases, each counting as much as it has pairs of voxels; 5 mm where they have fewer than 100 together.

    Args:
        cache: the dataset's real cases.
        cases: ids of training cases; of many, evenly chosen ones are looked at.
    """
    roles = cache.roles
    holding = sorted(i for i in cases if any(cache.facts[i].voxels(name) for name in roles.pathologies))
    chosen = holding[:: -(-len(holding) // _MOST_CASES)] if holding else []
    lengths, weights = [], []
    for identifier in chosen:
        products, pairs = _of_case(cache, identifier)
        if pairs and products[1] > 0:
            r = float(np.clip(products[0] / products[1], *_BOUNDS))
            lengths.append(-cache.facts[identifier].spacing[0] / np.log(r))
            weights.append(pairs)
    if sum(weights) < _LEAST_PAIRS:
        return _DEFAULT_MM
    order = np.argsort(lengths)
    total = np.cumsum(np.array(weights)[order])
    return round(float(np.array(lengths)[order][np.searchsorted(total, total[-1] / 2)]), 3)


def _of_case(cache: SliceCache, identifier: str) -> tuple[np.ndarray, int]:
    """Sums of products and of squares of voxels one slice apart within the lesions, and the number of pairs."""
    roles, facts = cache.roles, cache.facts[identifier]
    image, condition = cache.image(identifier), cache.condition(identifier)
    counts = np.sum([facts.counts[name] for name in roles.pathologies], axis=0)
    sums, pairs = np.zeros(2), 0
    for z in np.flatnonzero((np.asarray(counts[:-1]) > 0) & (np.asarray(counts[1:]) > 0)):
        below, above = np.asarray(condition[z]), np.asarray(condition[z + 1])
        for name in roles.pathologies:
            both = (below == roles.values[name]) & (above == roles.values[name])
            if both.sum() < MIN_VOXELS:
                continue
            a, b = (np.asarray(image[:, n])[:, both].astype(np.float64) for n in (z, z + 1))
            a, b = (part - part.mean(1, keepdims=True) for part in (a, b))
            sums += [float((a * b).sum()), float(np.sqrt((a**2).sum() * (b**2).sum()))]
            pairs += int(both.sum())
    return sums, pairs


def beside(lengths: Sequence[int]) -> torch.Tensor:
    """(n, 2) int64: for each slice of consecutive stacks the index of the one before and after it; −1 if it has none.

    Args:
        lengths: number of slices of each stack, in the order of z.
    """
    parts, first = [], 0
    for length in lengths:
        number = torch.arange(length)
        before = torch.where(number > 0, number - 1 + first, -1)
        after = torch.where(number + 1 < length, number + 1 + first, -1)
        parts.append(torch.stack([before, after], 1))
        first += length
    return torch.cat(parts)


def gathered(maps: torch.Tensor, indices: torch.Tensor, own: torch.Tensor, missing: float = 0.0) -> torch.Tensor:
    """Maps of slices with those of the slices beside them.

    Args:
        maps: (n, c, h, w) of all slices.
        indices: (m, 2), of ``beside``, for the slices wanted.
        own: (m,) indices of the slices wanted.
        missing: value where a slice has no neighbour.

    Returns:
        (m, 3c, h, w): of the slice itself, of the one before, of the one after.
    """
    neighbours = [
        torch.where((of_side < 0).view(-1, 1, 1, 1), torch.full_like(maps[own], missing), maps[of_side.clamp(min=0)])
        for of_side in indices.unbind(1)
    ]
    return torch.cat([maps[own], *neighbours], 1)


def seeing_neighbours(
    network: Callable, channels: int, masks: int, indices: torch.Tensor, active: torch.Tensor, at_once: int
) -> Callable[[torch.Tensor, torch.Tensor], SimpleNamespace]:
    """A network of volumes that is called like one of slices: with x_t, region, masks and what else each is told.

    Args:
        network: takes x_t, then the region, then the masks of a slice and of its neighbours, and what else it is told.
        channels: of an image.
        masks: number of masks.
        indices: (n, 2), from ``beside``.
        active: (n,) bool, the slices in which something is painted; for the others nothing is computed.
        at_once: number of slices in one call of ``network``, which bounds its memory.
    """

    def called(inputs: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
        x_t, told = inputs[:, :channels], inputs[:, channels:]
        sample = torch.zeros_like(x_t)
        for part in active.nonzero()[:, 0].split(at_once):
            maps = ((x_t, -1.0), (told[:, :1], 0.0), (told[:, 1 : 1 + masks], 0.0))
            seen = [gathered(of_all, indices[part], part, missing) for of_all, missing in maps]
            sample[part] = network(torch.cat([*seen, told[part, 1 + masks :]], 1), t).sample.to(sample.dtype)
        return SimpleNamespace(sample=sample)

    return called


def along_stacks(noise: torch.Tensor, lengths: Sequence[int], shared: torch.Tensor) -> torch.Tensor:
    """(n, …) independent standard normal noise of stacks of slices → the same, correlated along each stack.

    Args:
        noise: of the slices of consecutive stacks, in the order of z.
        lengths: number of slices of each stack.
        shared: (n,) what a slice shares with the one before it.
    """
    result, first = noise.clone(), 0
    for length in lengths:
        for i in range(first + 1, first + length):
            result[i] = shared[i] * result[i - 1] + (1 - shared[i] ** 2).sqrt() * noise[i]
        first += length
    return result


def with_neighbours_noise(noise: torch.Tensor, channels: int, shared: torch.Tensor) -> torch.Tensor:
    """(n, 3c, h, w) independent noise of a slice, the one before and the one after → correlated along z.

    Args:
        noise: standard normal.
        channels: c.
        shared: (n, 1, 1, 1) what neighbouring slices share.
    """
    own, before, after = noise.split(channels, 1)
    rest = (1 - shared**2).sqrt()
    return torch.cat([own, shared * own + rest * before, shared * own + rest * after], 1)
