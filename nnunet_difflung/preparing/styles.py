"""How bright and how rough a new lesion is to be, given the real lesions of its class and the lung that it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.preparing.lung_level import lung_around_lesion

_FEWEST_VOXELS = 30  # of a lesion whose mean and spread say something about its class
_FEWEST_LESIONS = 8  # that tell how far the class's level follows the lung
_CONSTANT = 0.01  # a lesion with less than this share of its class's median spread is taken for constant


@dataclass(frozen=True)
class Style:
    """What a real lesion looks like; c channels in the dataset's intensities.

    Attributes:
        level: (c,) mean.
        lung: (c,) level of the normal lung around it (``lung_around``), or None if there is hardly any.
        spread: (c,) standard deviation.
        voxels: size.
        patient: whose it is.
    """

    level: np.ndarray
    lung: np.ndarray | None
    spread: np.ndarray
    voxels: int
    patient: str


class ClassStyles:
    """The styles of a class's real lesions in a fold, and how those of new ones are derived from them.

    Attributes:
        real: lesion (case, component) → its style.
        telling: those of ``real`` that say something about the class: of at least 30 voxels, with normal lung around
            them, and not constant where others are not.
        slope: (c,) how far the level follows the lung, 0 to 1: the slope of a least-squares line of level against lung;
            0 with ``level`` ``donor``, and with fewer than two patients or eight lesions that tell.
    """

    def __init__(self, real: dict[tuple[str, int], Style], config: SamplingConfig):
        """Fits the class.

        Args:
            real: lesion (case, component) → its style.
            config: ``level`` and ``styles`` are used.
        """
        self.real, self.telling = real, _telling(list(real.values()))
        telling = self.telling
        self._patients = len({style.patient for style in telling})
        self._draws = config.styles == "drawn" and self._patients > 1
        follows = config.level == "host" and self._patients > 1
        self.slope = _slope(telling) if follows and telling else np.zeros(1)
        self._lung = np.mean([_lung(style) for style in telling], axis=0) if telling else np.zeros(1)
        self._pool = np.array([self._coordinates(style) for style in telling])
        self._levels = np.array([style.level for style in telling])

    @property
    def width(self) -> float:
        """Width of the kernel in standard deviations: Silverman's rule for several dimensions, counting patients."""
        dimensions = self._pool.shape[1]
        return float((4 / ((dimensions + 2) * self._patients)) ** (1 / (dimensions + 4)))

    @property
    def changes(self) -> bool:
        """Whether any lesion gets another level or spread."""
        return bool(self._draws or self.slope.any())

    def change(
        self, lesion: Lesion, lung: np.ndarray | None, rng: np.random.Generator, own: Style | None = None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """How level and spread of a lesion are to change in another place.

        The level follows the lung with the class's slope. With ``drawn``, what the lung does not explain of the level,
        and the logarithm of the spread, are drawn by a smoothed bootstrap (Silverman and Young 1987): from a normal
        kernel around the lesion's own, pulled towards the class's mean, so that the class's covariance stays what it
        is. The new level and spread are within the range of the class's lesions, unless the lesion's own are not.

        Args:
            lesion: the real lesion.
            lung: (c,) level of the normal lung around the new place, or None.
            rng: draws.
            own: the style of what is no lesion of the class by itself (``style_of_part``); None for lesions of it.

        Returns:
            (c,) what is added to the level, and (c,) the factor of the spread; None if they stay.
        """
        own = own or self.real.get((lesion.case, lesion.component))
        if own is None or not self.changes:
            return None
        before = self._coordinates(own)
        after = self._drawn(before, rng) if self._draws else before
        shift = 0.0 if lung is None or own.lung is None else self.slope * (lung - own.lung)
        channels = len(own.level)
        level = own.level + shift + (after - before)[:channels]
        level = _within(level, self._levels, own.level)
        spread = _within(after[channels:], self._pool[:, channels:], before[channels:])
        return level - own.level, np.exp(spread - before[channels:])

    def _coordinates(self, style: Style) -> np.ndarray:
        """(2c,) the level as it would be in the class's mean lung, and the logarithm of the spread (0: constant)."""
        lung = self._lung if style.lung is None else style.lung
        spread = np.log(np.where(style.spread > 0, style.spread, 1))
        return np.concatenate([style.level - self.slope * (lung - self._lung), spread])

    def _drawn(self, own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        covariance = np.atleast_2d(np.cov(self._pool, rowvar=False))
        noise = rng.multivariate_normal(np.zeros(len(own)), covariance, method="eigh")
        centre = self._pool.mean(0)
        return centre + (own - centre + self.width * noise) / np.sqrt(1 + self.width**2)


def style_of_part(part: Lesion, cache: SliceCache) -> Style:
    """The style of what surrounds a lesion, in its case."""
    values = np.asarray(cache.image(part.case)[(slice(None), *part.box)])[:, part.texture].astype(float)
    return Style(values.mean(1), lung_around_lesion(cache, part), values.std(1), int(part.texture.sum()), "")


def styles_of(
    lesions: Sequence[Lesion], cache: SliceCache, patients: dict[str, str], config: SamplingConfig
) -> ClassStyles:
    """The styles of a class's lesions.

    Args:
        lesions: of the fold's training cases.
        cache: the dataset's real cases.
        patients: case → patient.
        config: settings of painting.
    """
    styles = {}
    for lesion in lesions:
        values = np.asarray(cache.image(lesion.case)[(slice(None), *lesion.box)])[:, lesion.mask].astype(float)
        lung = lung_around_lesion(cache, lesion)
        style = Style(values.mean(1), lung, values.std(1), lesion.voxels, patients[lesion.case])
        styles[lesion.case, lesion.component] = style
    return ClassStyles(styles, config)


def _telling(styles: list[Style]) -> list[Style]:
    """Those large enough, with lung around them, and not constant where others of the class are not."""
    styles = [style for style in styles if style.voxels >= _FEWEST_VOXELS and style.lung is not None]
    if not styles:
        return []
    least = _CONSTANT * np.median([style.spread for style in styles], axis=0)
    return [style for style in styles if (style.spread >= least).all()]


def _lung(style: Style) -> np.ndarray:
    """The level of the lung around a lesion of ``_telling``, which has some."""
    assert style.lung is not None
    return style.lung


def _slope(styles: list[Style]) -> np.ndarray:
    """(c,) slope of level against lung in each channel, 0 to 1."""
    levels, lung = (np.array([of(style) for style in styles]) for of in (lambda style: style.level, _lung))
    lung, levels = lung - lung.mean(0), levels - levels.mean(0)
    if len(styles) < _FEWEST_LESIONS:
        return np.zeros(lung.shape[1])
    return np.clip((lung * levels).sum(0) / np.maximum((lung**2).sum(0), 1e-12), 0, 1)


def _within(values: np.ndarray, range_of: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Values in the range of (n, c) others, widened to ``own`` where that lies outside."""
    return np.clip(values, np.minimum(range_of.min(0), own), np.maximum(range_of.max(0), own))
