"""What to paint, and where, as the real cases that have a class have it.

A real case with the class is the recipe: it says how many lesions there are, how large each is, and where it lies. Each
is replaced by a lesion of the class, often by itself, else by one of about the same size, place and contact to the
pleura; sizes and places vary a little. All of it comes from the training cases of one fold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunet_difflung.lesions.lung import Site
from nnunet_difflung.lesions.masks import Lesion, Transform

_OWN = 0.5  # probability that the outline is that of the recipe's own lesion
_OTHER_SIDE = 0.6  # probability that a recipe changes sides, as a multiple of the share on the side with fewer lesions
_ALIKE = {"size": 0.5, "front_back": 0.15, "sideways": 0.4, "contact": 0.1}  # spreads of what another lesion may differ
_SCALES = (0.75, 1.5)  # of another lesion that takes the size of the recipe's, as in ``masks.draw_transform``
_SIZE = 0.1  # spread of the logarithm of the scale
_PLACE = {"front_back": 0.04, "outward": 0.06, "height": 0.04}  # spreads of the place, in the lung's coordinates
_TURN = 7.0  # degrees, spread of the rotation of a lesion that touches the pleura
_TURNED, _DILATED = 0.9, 0.2  # probabilities of any rotation inside the lung, and of a dilation by a pixel


@dataclass(frozen=True)
class Wanted:
    """A lesion to paste: whose outline it has, how that is varied, and where it should lie."""

    lesion: Lesion
    transform: Transform
    site: Site


class Recipes:
    """The lesions of a class in a fold's training cases, at least one, as recipes for synthetic cases.

    Attributes:
        lesions: of the class.
        of_case: case id → indices of its lesions.
        sites: where they lie.
        on_rarer_side: share of the lesions in the lung that has fewer of them.
    """

    def __init__(self, lesions: Sequence[Lesion]):
        self.lesions = list(lesions)
        self.of_case: dict[str, list[int]] = {}
        for index, lesion in enumerate(self.lesions):
            self.of_case.setdefault(lesion.case, []).append(index)
        self.sites = [_site(lesion) for lesion in self.lesions]
        on_one = float(np.mean([site.side for site in self.sites]))
        self.on_rarer_side = min(on_one, 1 - on_one)
        self._figures = np.array([_figures(site) for site in self.sites]).reshape(-1, len(_ALIKE))

    def draw(self, host: str, rng: np.random.Generator) -> str | None:
        """A real case that has the class and is not the host; None if there is no other."""
        cases = [case for case in self.of_case if case != host]
        return cases[rng.integers(len(cases))] if cases else None

    def changes_sides(self, rng: np.random.Generator) -> bool:
        """Whether the lesions of a recipe are painted on the other side, mirrored."""
        return bool(rng.random() < _OTHER_SIDE * self.on_rarer_side)

    def wanted(self, index: int, other_side: bool, rng: np.random.Generator) -> Wanted:
        """The lesion that takes the place of a recipe's lesion.

        Args:
            index: of the recipe's lesion.
            other_side: whether the recipe changes sides.
            rng: draws the outline and its variation.
        """
        site = self.sites[index]
        own = rng.random() < _OWN or len(self.lesions) == 1
        chosen = index if own else self._another(index, rng)
        side = site.side ^ int(other_side)
        lesion, scale = self.lesions[chosen], math.exp(rng.normal(0, _SIZE))
        if chosen != index:
            dimensions = 3 if len(lesion.mask) > 1 else 2
            scale *= float(np.clip((site.size / self.sites[chosen].size) ** (1 / dimensions), *_SCALES))
        if site.contact:
            angle = float(rng.normal(0, _TURN))
        else:
            angle = float(rng.uniform(0, 360)) if rng.random() < _TURNED else 0.0
        transform = Transform(self.sites[chosen].side != side, angle, scale, int(rng.random() < _DILATED))
        moved = {
            name: float(np.clip(getattr(site, name) + rng.normal(0, spread), 0, 1)) for name, spread in _PLACE.items()
        }
        return Wanted(lesion, transform, replace(site, side=side, **moved))

    def as_large(self, index: int, rng: np.random.Generator) -> int:
        """A lesion of about the same size, wherever it lies."""
        sizes = self._figures[:, 0]
        return int(rng.choice(np.flatnonzero(np.abs(sizes - sizes[index]) <= _ALIKE["size"])))

    def _another(self, index: int, rng: np.random.Generator) -> int:
        """A lesion that resembles one in size, place and contact; the more alike, the more probable."""
        away = (((self._figures - self._figures[index]) / list(_ALIKE.values())) ** 2).sum(1)
        away[index] = np.inf
        chances = np.cumsum(np.exp(-0.5 * (away - away.min())))
        return int(chances.searchsorted(rng.random() * chances[-1], side="right"))


def _site(lesion: Lesion) -> Site:
    if lesion.site is None:
        raise ValueError(f"lesion {lesion.component} of {lesion.case} has no site; find it with collect_lesions")
    return lesion.site


def _figures(site: Site) -> list[float]:
    return [math.log(site.size), site.front_back, site.sideways, site.contact]
