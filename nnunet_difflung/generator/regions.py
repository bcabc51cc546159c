"""Training batches for a network that fills regions of real slices given their surroundings.

A region is a lesion with a margin of normal lung, or a piece of normal lung in the shape of another lesion: what is
painted later are lesions at new places, and normal lung under its own label (placebo cases).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy import ndimage

from nnunet_difflung.generator.ablation import ablate
from nnunet_difflung.generator.along_z import correlation
from nnunet_difflung.generator.batches import BatchSource, Drawn
from nnunet_difflung.generator.encoding import grow, normalise
from nnunet_difflung.generator.style import style_channels, style_of, write_style
from nnunet_difflung.lesions.masks import MIN_VOXELS, draw_transform, warp
from nnunet_difflung.meaning.labels import LabelRoles

_MOST_MARGIN = 5  # pixels of normal lung around a region's lesion; painting uses 3 by default
_CUT = 0.3  # share of lesions of which only a part is the region, as where a new lesion touches an old one
_FURTHER = 0.5  # probability of a second region in a crop, and then of a third
_MOST_REGIONS = 3
_UNTOLD = 0.1  # share of examples without style, so that the network also works without
_BEYOND = 0.15  # share of a volume's examples one slice off, which may lie beyond the end of a lesion
_OPEN = 0.7  # probability that a piece of normal lung goes on in a neighbouring slice
_PLANE = ndimage.generate_binary_structure(2, 1)[None]

Shape = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Region:
    """A region to fill in an example's slice and, in volumes, in the slices beside it.

    Attributes:
        mask: (s, y, x) bool, all of its voxels.
        inside: (s, y, x) bool, its lesion or piece of normal lung without the margin, which its style describes.
    """

    mask: np.ndarray
    inside: np.ndarray


def lesion_region(
    condition: np.ndarray, value: int, roles: LabelRoles, shape: Shape, rng: np.random.Generator
) -> Region | None:
    """A random connected component of a class, or the part of it in a random shape, with a margin; None without any.

    Args:
        condition: (s, y, x) condition map; the middle one of the s slices is the example's own.
        value: label value of the class.
        roles: of the labels.
        shape: draws a (y, x) bool outline.
        rng: draws the component, the part and the margin.
    """
    components, number = ndimage.label(condition == value)
    own = np.unique(components[len(components) // 2]) if len(components) > 1 else np.arange(number + 1)
    found = own[own > 0] if (own > 0).any() else np.arange(1, number + 1)  # of a neighbour, if the slice has none
    if not len(found):
        return None
    inside = components == found[rng.integers(len(found))]
    if rng.random() < _CUT:
        part = inside & _placed(shape(rng), rng.choice(np.argwhere(inside)), condition.shape)
        inside = part if part.sum() >= MIN_VOXELS else inside
    return _and_margin(inside, condition, roles, rng)


def normal_region(condition: np.ndarray, roles: LabelRoles, shape: Shape, rng: np.random.Generator) -> Region | None:
    """The normal lung in a random shape around a random voxel of it, with a margin; None without normal lung.

    See ``lesion_region``. In volumes it may end with the example's slice, or go on in the slices beside it.
    """
    normal, middle = roles.is_normal(condition), len(condition) // 2
    if not normal[middle].any():
        return None
    outline = shape(rng)
    centre = np.array([middle, *rng.choice(np.argwhere(normal[middle]))])
    inside = normal & _placed(outline, centre, condition.shape)
    for n in range(len(inside)):
        if n != middle and rng.random() >= _OPEN:
            inside[n] = False
    return _and_margin(inside, condition, roles, rng) if inside.any() else None


def _placed(shape: np.ndarray, centre: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(s, y, x) bool of ``size`` with the same shape at ``centre`` in all slices, cut at the edges."""
    placed = np.zeros(size, bool)
    first = np.asarray(centre)[1:] - np.array(shape.shape) // 2
    low, high = np.maximum(first, 0), np.minimum(first + shape.shape, size[1:])
    (top, left), (bottom, right) = low, high
    part = shape[tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))]
    placed[:, top:bottom, left:right] = part
    return placed


def _and_margin(
    inside: np.ndarray, condition: np.ndarray, roles: LabelRoles, rng: np.random.Generator
) -> Region | None:
    """The region with a margin of normal lung; None if nothing of it lies in the example's slice."""
    margin = int(rng.integers(0, _MOST_MARGIN + 1))
    around = ndimage.binary_dilation(inside, _PLANE, margin) if margin else inside
    if len(inside) > 1 and rng.random() < 0.5:  # also above and below
        around = ndimage.binary_dilation(around, np.ones((3, 1, 1), bool))
    mask = inside | (around & roles.is_normal(condition))
    return Region(mask, inside) if mask[len(mask) // 2].any() else None


class RegionSource(BatchSource):
    """Makes batches with regions to fill.

    In ``Batch.condition`` the masks stand between the region (1 channel) and its style (``style_channels``), and
    ``Batch.weight`` is 0 outside the region. Slots that are reserved for a pathology have a region with a lesion of it,
    the others a region of normal lung; without such slots half of the regions hold a lesion where there is one.

    In volumes (``GeneratorConfig.neighbours``) image, region and masks are those of the slice, of the one before and of
    the one after it, one behind the other, and a last channel of ``Batch.condition`` holds how much of their noise
    neighbouring slices share. Beyond the ends of a volume there is air.
    """

    reads_spacing = True

    def _draw_crop(self, condition: np.ndarray, wanted: str | None, rng: np.random.Generator) -> tuple[slice, slice]:
        """As ``BatchSource``, but around a voxel of the lung, since crops without lung have no region."""
        if wanted is None:
            roles = self.cache.roles
            condition = np.where(roles.is_normal(condition) | np.isin(condition, self.pathologies), condition, 0)
        return super()._draw_crop(condition, wanted, rng)

    def _shifted(self, case: str, z: int, rng: np.random.Generator) -> int:
        """Sometimes the next slice, so that the margin above and below a lesion is learned too."""
        if not self.config.neighbours or rng.random() >= _BEYOND:
            return z
        return int(np.clip(z + rng.choice((-1, 1)), 0, self.cache.facts[case].shape[0] - 1))

    def _parts(self, drawn: Drawn, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, masks, counts = super()._parts(drawn, rng)
        shape = (self.config.patch_size, self.config.patch_size)
        images, conditions = self._slices(drawn)
        middle, values = len(images) // 2, np.stack([normalise(part, self.config.windows) for part in images], 1)
        style = np.zeros((style_channels(len(image)), *drawn.condition.shape), np.float32)
        untold, filled = rng.random() < _UNTOLD, np.zeros(conditions.shape, bool)
        for region in self._regions(drawn, conditions, rng):
            mask = region.mask & ~filled
            filled |= mask
            if not untold and region.inside.sum() >= MIN_VOXELS:
                write_style(style, mask[middle], style_of(values[:, region.inside]))
        told = grow(filled, shape).astype(np.float32)
        weight = counts * told[middle : middle + 1]
        if not self.config.neighbours:
            return image, np.concatenate([told, masks, grow(style, shape)]), weight
        order = [middle, *(n for n in range(len(images)) if n != middle)]
        image = np.concatenate([image, *(self.encoding.image(images[n], conditions[n], shape) for n in order[1:])])
        hidden = [ablate(conditions[n], drawn.ablated, self.ablatable) for n in order[1:]]
        masks = np.concatenate([masks, *(self.encoding.masks(part, shape) for part in hidden)])
        length, spacing = self.config.correlation_mm or 0.0, self.cache.facts[drawn.case].spacing[0]
        shared = np.full((1, *shape), correlation(spacing, length), np.float32)
        return image, np.concatenate([told[order], masks, grow(style, shape), shared]), weight

    def _slices(self, drawn: Drawn) -> tuple[list[np.ndarray], np.ndarray]:
        """Images (c, y, x) and condition maps (s, y, x) of an example's slice and those beside it; air beyond the ends.

        Without neighbours those of the slice alone.
        """
        if not self.config.neighbours:
            return [drawn.image], drawn.condition[None]
        image, condition = self.cache.image(drawn.case), self.cache.condition(drawn.case)
        images, conditions = [], []
        for z in (drawn.z - 1, drawn.z, drawn.z + 1):
            there = 0 <= z < len(condition)
            images.append(np.asarray(image[(slice(None), z, *drawn.crop)]) if there else np.zeros_like(drawn.image))
            conditions.append(np.asarray(condition[(z, *drawn.crop)]) if there else np.zeros_like(drawn.condition))
        return images, np.stack(conditions)

    def _regions(self, drawn: Drawn, conditions: np.ndarray, rng: np.random.Generator) -> list[Region]:
        """One to three regions, the first of the wanted class."""
        roles = self.cache.roles
        spacing = self.cache.facts[drawn.case].spacing
        present = [value for value in self.pathologies if (conditions == value).any()]
        wanted = roles.values[drawn.wanted] if drawn.wanted else None
        regions: list[Region] = []
        for number in range(_MOST_REGIONS):
            if number and rng.random() >= _FURTHER:
                break
            value = wanted if number == 0 else None
            if value is None and present and (wanted is not None or not self.share) and rng.random() < 0.5:
                value = int(rng.choice(present))
            region = self._region(conditions, value, lambda rng: self._shape(spacing, rng), rng)
            regions += [region] if region else []
        return regions

    def _region(
        self, conditions: np.ndarray, value: int | None, shape: Shape, rng: np.random.Generator
    ) -> Region | None:
        """A region with a lesion of a class, or of normal lung; of what there is if there is only one of both."""
        roles = self.cache.roles
        region = normal_region(conditions, roles, shape, rng) if value is None else None
        for candidate in (*(() if value is None else (value,)), *self.pathologies):
            region = region or lesion_region(conditions, candidate, roles, shape, rng)
        return region

    def _shape(self, spacing: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
        """(y, x) bool: the varied outline of a random lesion of the training slices, in pixels of this spacing."""
        if not self.present:
            return np.ones((self.config.patch_size, self.config.patch_size), bool)
        name = self.present[int(rng.integers(len(self.present)))]
        number = int(rng.choice(self.index.holding[name]))
        outlines = self._outlines(name, number)
        donor = self.cache.facts[self.index.cases[number]].spacing
        mask = outlines[int(rng.integers(len(outlines)))]
        ratio = (1.0, *(np.array(donor[1:]) / spacing[1:]))
        warped = warp(mask[None], draw_transform(rng), ratio, spacing).mask
        return warped[0] if warped.any() else mask

    @cached_property
    def _outlines(self) -> Callable[[str, int], list[np.ndarray]]:
        """(pathology, number of a slice) → masks of its lesions; the last ones asked for are kept."""
        return lru_cache(4096)(self._find_outlines)

    def _find_outlines(self, name: str, number: int) -> list[np.ndarray]:
        slices = self.cache.condition(self.index.cases[number])
        components, _ = ndimage.label(np.asarray(slices[self.index.z[number]]) == self.cache.roles.values[name])
        masks = [components[box] == i for i, box in enumerate(ndimage.find_objects(components), 1)]
        return [mask for mask in masks if mask.sum() >= MIN_VOXELS] or masks
