"""Fills hosts with as many lesions, as large and in such places, as real cases of the fold have them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import numpy as np

from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.lesions.hosts import Model
from nnunet_difflung.lesions.lung import Lung
from nnunet_difflung.lesions.masks import (
    MIN_VOXELS,
    Lesion,
    Transform,
    cannot_fit,
    inside_image,
    paste,
    spacing_ratio,
    warp,
    window_at,
)
from nnunet_difflung.lesions.plan import Operation, Pasted
from nnunet_difflung.lesions.real_places import FAR, most_alike
from nnunet_difflung.lesions.recipes import Recipes, Wanted
from nnunet_difflung.lesions.surroundings import place_around
from nnunet_difflung.meaning.labels import LabelRoles

_TRIES = 4  # for each lesion of a recipe
_SHRINK = 0.85  # scale factor in the last try
_BOTH_SIDES = 0.1  # share of the lesions on either side from which a class belongs on both
_CUT = 0.93  # share of a lesion; one of which less is left is made larger
_AMOUNT = 0.15  # spread of the logarithm of the area of a recipe
_OVER = 1.15  # how far the area of a recipe may be exceeded in a host that has lesions of its own


@dataclass
class Filling:
    """A host while it is filled.

    Attributes:
        host: facts of the host.
        label: (z, y, x) label values, changed in place.
        lung: of the host.
        free: (z, y, x) bool, its normal lung.
        slices: number of slices that may be changed.
        counts: class → voxels of the training cases, the planned cases and this host.
        allowed: pathologies that may be painted, of which alone surroundings come along.
        touched: slices that are changed.
        operations: the lesions so far.
        pasted: the voxels that each of them changes.
        full: whether a lesion was left out because it lies in more slices than may be changed.
        left_out: whether any lesion was left out, for that reason or because it has no place.
    """

    host: CaseFacts
    label: np.ndarray
    lung: Lung
    free: np.ndarray
    slices: int
    counts: dict[str, int]
    allowed: Collection[str] = ()
    touched: set[int] = field(default_factory=set)
    operations: list[Operation] = field(default_factory=list)
    pasted: list[Pasted] = field(default_factory=list)
    full: bool = False
    left_out: bool = False

    def open_slices(self) -> np.ndarray:
        """(z,) bool, the slices in which a lesion may lie: all, or those that are changed once no other may be."""
        if len(self.touched) < self.slices:
            return np.ones(len(self.label), bool)
        return np.isin(np.arange(len(self.label)), sorted(self.touched))

    def take(self, name: str, lesion: Lesion, fitting: Fitting, roles: LabelRoles) -> bool:
        """Pastes a lesion and what surrounds it; returns whether their slices are within the bound."""
        parts = [part for part in lesion.surroundings if part.pathology in self.allowed]
        together = [(name, fitting), *((part.pathology, self._around(part, lesion, fitting)) for part in parts)]
        after = self.touched.union(*(found.slices() for _, found in together))
        if len(after) > self.slices:
            self.full = True
            return False
        self.touched = after
        for other, found in together:
            within = name if found is not fitting else ""
            mask, place = inside_image(found.mask, found.place, self.label.shape)
            if not mask.any():  # one thick slice may show a lesion of thin slices, and what surrounds it only elsewhere
                continue
            voxels = paste(self.label, found.mask, found.place, roles.values[other], roles)
            self.free[window_at(place, mask.shape)] &= ~mask
            source = (lesion.case, lesion.component, found.transform, found.place, voxels)
            self.operations.append(Operation(other, *source, around=within))
            self.counts[other] += voxels
            self.counts[roles.normal[0]] -= voxels  # of whichever: shares depend on the sum alone
        self.pasted.append(Pasted(name, fitting.changed, fitting.place))
        return True

    def _around(self, part: Lesion, lesion: Lesion, fitting: Fitting) -> Fitting:
        """What surrounds a lesion, where that is to be pasted; it may reach beyond the image."""
        ratio = spacing_ratio(lesion, self.host.spacing, len(self.label))
        mask, place = place_around(part, lesion, fitting.transform, ratio, fitting.place, self.host.spacing)
        within, first = inside_image(mask, place, self.label.shape)
        changed = np.zeros_like(mask)
        window = tuple(slice(f - p, f - p + n) for f, p, n in zip(first, place, within.shape, strict=True))
        changed[window] = within & self.free[window_at(first, within.shape)]
        return Fitting(fitting.transform, mask, place, changed)


class Follower:
    """Fills hosts as the training cases of a fold have lesions.

    Attributes:
        recipes: pathology → its lesions.
        crowding: whether a host that has lesions of a class gets all lesions of a recipe in addition, not only those
            that it lacks.
    """

    def __init__(self, lesions: dict[str, list[Lesion]], roles: LabelRoles):
        self.roles = roles
        self.recipes = {name: Recipes(of_class) for name, of_class in lesions.items() if of_class}
        self.crowding = False

    def takes(self, host: str, model: Model) -> bool:
        """Whether a host has fewer lesions of the model's pathology than the model, so that it can get some of them."""
        of_case = self.recipes[model.pathology].of_case
        return self.crowding or len(of_case.get(host, [])) < len(of_case[model.case])

    def fill(
        self,
        filling: Filling,
        order: Callable[[dict[str, int]], list[str]],
        rng: np.random.Generator,
        model: Model | None = None,
    ) -> None:
        """Pastes lesions as a real case has them, of the classes that still lie below their targets.

        Args:
            filling: of the host; its label values and lists change.
            order: voxels of the classes → the classes below their targets, the one furthest below first.
            rng: draws the recipe and how it is varied.
            model: the real case that is the recipe, for which the host was chosen; its pathology comes first. None
                draws a recipe.
        """
        missing = order(filling.counts)
        if not missing:
            return
        if model is not None:
            missing = sorted(missing, key=lambda name: name != model.pathology)
        case = model.case if model is not None else self.recipes[missing[0]].draw(filling.host.identifier, rng)
        other_side = self.recipes[missing[0]].changes_sides(rng)
        for name in missing:
            for index in self._chosen(name, case, filling, rng):
                if name not in order(filling.counts) or (filling.full and filling.operations):
                    break  # small lesions alone in the last slices would not be what the recipe says
                self._paste(name, index, other_side, filling, rng)

    def _chosen(self, name: str, case: str | None, filling: Filling, rng: np.random.Generator) -> list[int]:
        """The lesions of a recipe, by index, that are to be painted beside those that the host has; largest first."""
        recipes = self.recipes[name]
        indices = recipes.of_case.get(case, []) if case is not None else []
        present = 0 if self.crowding else len(recipes.of_case.get(filling.host.identifier, []))
        if present:
            sizes = [recipes.sites[index].size for index in indices]
            left = sum(sizes) * math.exp(rng.normal(0, _AMOUNT))
            left -= filling.host.voxels(name) * filling.lung.voxel
            kept: list[int] = []
            for index in rng.permutation(len(indices)).tolist():
                if len(kept) + present < len(indices) and sizes[index] <= _OVER * left:
                    kept.append(indices[index])
                    left -= sizes[index]
            indices = kept
        return sorted(indices, key=lambda index: -recipes.sites[index].size)

    def _paste(self, name: str, index: int, other_side: bool, filling: Filling, rng: np.random.Generator) -> None:
        """Pastes a lesion of a class in the place of a recipe's lesion, if there is a place like that."""
        recipes = self.recipes[name]
        for attempt in range(_TRIES):  # its place, that on the other side, places of other lesions
            place = index if attempt < 2 else recipes.as_large(index, rng)
            changed = attempt % 2 == 1 and recipes.on_rarer_side > _BOTH_SIDES
            wanted = recipes.wanted(place, other_side ^ changed, rng)
            fitting = _fitting(wanted, _SHRINK if attempt == _TRIES - 1 else 1.0, filling)
            if fitting is None:
                continue
            share = fitting.changed.sum() / fitting.mask.sum()
            if share < _CUT:  # the pleura takes a part of it, which its donor did not lose
                dimensions = 3 if len(wanted.lesion.mask) > 1 else 2
                factor = fitting.transform.scale / wanted.transform.scale * share ** (-1 / dimensions)
                fitting = _fitting(wanted, factor, filling) or fitting
            if filling.take(name, wanted.lesion, fitting, self.roles):
                return
        filling.left_out = True


@dataclass(frozen=True)
class Fitting:
    """A varied lesion at a place of the host: (z, y, x) mask, first voxel, and which voxels it changes."""

    transform: Transform
    mask: np.ndarray
    place: tuple[int, int, int]
    changed: np.ndarray

    def slices(self) -> set[int]:
        """z of the slices that it changes."""
        return {self.place[0] + int(z) for z in np.flatnonzero(self.changed.any((1, 2)))}


def _fitting(wanted: Wanted, factor: float, filling: Filling) -> Fitting | None:
    """A lesion, scaled by a further factor, at the place that is most like the wanted one; None if none is.

    Where only the other lung lies at that height, the lesion is mirrored to suit it.
    """
    site, varied = wanted.site, wanted.transform
    mirror = varied.mirror ^ (filling.lung.side_at(site.height, site.side) != site.side)
    transform = replace(varied, mirror=mirror, scale=varied.scale * factor)
    spacing = filling.host.spacing
    ratio = spacing_ratio(wanted.lesion, spacing, len(filling.label))
    if cannot_fit(wanted.lesion.mask, transform, ratio, filling.label.shape, spacing):
        return None
    mask = warp(wanted.lesion.mask, transform, ratio, spacing).mask
    found = most_alike(mask, wanted.site, filling.lung, filling.free, filling.open_slices())
    if found is None or found.cost > FAR:
        return None
    changed = mask & filling.free[window_at(found.place, mask.shape)]
    return Fitting(transform, mask, found.place, changed) if changed.sum() >= MIN_VOXELS else None
