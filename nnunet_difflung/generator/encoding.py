"""Converts stored intensities and labels to a network's inputs and back: windows, [−1, 1], isolation, one-hot masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.config import CT_WINDOW, GeneratorConfig
from nnunet_difflung.dataset.cache import SliceCache

CUT = 0.02  # share of a pathology's voxels that one end of a window may cut off
_ENDS = (0.5, 99.5)  # percentiles


def size_factor(config: GeneratorConfig) -> int:
    """The number that image edges must be multiples of, because of the network's poolings."""
    return 2 ** (len(config.channels) - 1)


def intensity_windows(
    cache: SliceCache, identifiers: Sequence[str], channels: Sequence[str], chosen: Sequence[Sequence[float]] = ()
) -> tuple[tuple[float, float], ...]:
    """For each channel the intensities that map to −1 and 1.

    [−1000, 1000] HU for CT (paper, section 3.2); else the 0.5 and 99.5 percentiles of labelled and body voxels of the
    given cases, which must be training cases of the fold; their smallest and largest value if these are the same. A
    rare class may lie beyond the percentiles of all voxels and would be painted in a single value: if an end cuts off
    more than 2 % of a pathology's voxels, it is moved to that pathology's own percentile.
    """
    if chosen:
        return tuple((float(low), float(high)) for low, high in chosen)
    windows = []
    for channel, name in enumerate(channels):
        if name.upper() == "CT":
            windows.append(CT_WINDOW)
            continue
        values = np.concatenate([np.asarray(cache.image(i)[channel])[cache.condition(i) > 0][::7] for i in identifiers])
        low, high = np.percentile(values, _ENDS)
        if low == high:  # a mask or a probability that is rarely above 0
            low, high = float(values.min()), float(values.max())
        for of_class in _of_pathologies(cache, identifiers, channel).values():
            below, above = _beyond(of_class, (low, high))
            own_low, own_high = np.percentile(of_class, _ENDS)
            low, high = own_low if below > CUT else low, own_high if above > CUT else high
        windows.append((float(low), float(high if high > low else low + 1)))
    return tuple(windows)


def cut_off(
    cache: SliceCache, identifiers: Sequence[str], windows: Sequence[Sequence[float]]
) -> dict[tuple[int, str], float]:
    """(channel, pathology) → share of its voxels beyond an end of the window, where that is more than ``CUT``."""
    shares = {
        (channel, name): max(_beyond(values, window))
        for channel, window in enumerate(windows)
        for name, values in _of_pathologies(cache, identifiers, channel).items()
    }
    return {key: share for key, share in shares.items() if share > CUT}


def _beyond(values: np.ndarray, window: Sequence[float]) -> tuple[float, float]:
    """Shares of values below and above a window."""
    return float((values < window[0]).mean()), float((values > window[1]).mean())


def _of_pathologies(cache: SliceCache, identifiers: Sequence[str], channel: int) -> dict[str, np.ndarray]:
    """Pathology → the intensities of its voxels, of those that there are."""
    found: dict[str, list[np.ndarray]] = {}
    for identifier in identifiers:
        counts = cache.facts[identifier]
        present = [name for name in cache.roles.pathologies if counts.voxels(name)]
        if present:
            condition, image = np.asarray(cache.condition(identifier)), cache.image(identifier)[channel]
            for name in present:
                found.setdefault(name, []).append(image[condition == cache.roles.values[name]])
    return {name: np.concatenate(parts) for name, parts in found.items()}


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
    """(k, y, x) float32 masks of the condition classes; background and ignored voxels are not in any of them."""
    return (condition[None] == values[:, None, None]).astype(np.float32)


@dataclass(frozen=True)
class Encoding:
    """Converts slices to inputs of a generator's network; ``intensities`` is the inverse.

    All inputs of a slice are padded to the same ``shape``, at the ends of both axes.

    Attributes:
        windows: for each channel the (low, high) intensities that are mapped to −1 and 1.
        values: (k,) label values of the condition channels.
        factor: see ``size_factor``.
    """

    windows: Sequence[Sequence[float]]
    values: np.ndarray
    factor: int

    @classmethod
    def of(cls, config: GeneratorConfig, values: np.ndarray) -> Encoding:
        """The encoding of a resolved configuration."""
        return cls(config.windows, values, size_factor(config))

    def grown(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """The smallest (h, w) that contains a slice of this shape and that the network accepts."""
        height, width = (-(-edge // self.factor) * self.factor for edge in shape)
        return height, width

    def image(self, image: np.ndarray, condition: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Intensities as a network's input: in [−1, 1], isolated, padded.

        Args:
            image: (c, y, x) in the dataset's intensities.
            condition: (y, x) condition map before any ablation.
            shape: (h, w) of the result.

        Returns:
            (c, h, w) float32.
        """
        return grow(isolate(normalise(image, self.windows), condition), shape, -1)

    def masks(self, condition: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """(y, x) condition map → (k, h, w) float32 masks of its classes."""
        return one_hot(grow(condition, shape), self.values)


def intensities(painted: np.ndarray, windows: Sequence[Sequence[float]], shape: Sequence[int]) -> np.ndarray:
    """(c, h, w) painted in [−1, 1] → (c, y, x) in the dataset's intensities, cut to (y, x) ``shape``."""
    height, width = shape
    return denormalise(painted[:, :height, :width], windows)


def grow(array: np.ndarray, shape: tuple[int, int], value: float = 0) -> np.ndarray:
    """Pads (…, y, x) to (…, h, w) of ``shape`` with ``value``, at the ends of both axes."""
    pad = [(0, edge - length) for edge, length in zip(shape, array.shape[-2:], strict=True)]
    return np.pad(array, [*[(0, 0)] * (array.ndim - 2), *pad], constant_values=value)
