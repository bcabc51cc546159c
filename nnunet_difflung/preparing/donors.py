"""The real voxels that give each painted region its level and spread (``generator.style``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.generator.encoding import normalise
from nnunet_difflung.generator.style import style_channels, style_of, write_style
from nnunet_difflung.lesions.masks import MIN_VOXELS, Lesion, inside_image, spacing_ratio, warp
from nnunet_difflung.lesions.pasting import lesion_of
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.preparing.lung_level import lung_around
from nnunet_difflung.preparing.styles import ClassStyles, style_of_part


@dataclass(frozen=True)
class Donors:
    """What gives each voxel its level and spread.

    Attributes:
        owner: (n, y, x) int32, 0 or i + 1 for the i-th donor.
        held: (n, y, x) int32, 0 or the number of a part whose mean and spread are held to what its voxels are told: a
            slice of a lesion, or a lesion whose slices are painted together.
        voxels: for each donor (c, m) in the dataset's intensities.
    """

    owner: np.ndarray
    held: np.ndarray
    voxels: tuple[np.ndarray, ...]

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return sum(array.nbytes for array in (self.owner, self.held, *self.voxels))


def find_donors(
    planned: PlannedCase,
    lesions: dict[str, list[Lesion]],
    cache: SliceCache,
    outlined: np.ndarray,
    styles: dict[str, ClassStyles],
    together: bool = False,
) -> Donors:
    """Whose level and spread each voxel is to have.

    A lesion has those of the real lesion whose outline it has, slice by slice, all changed alike (``styles``).
    A placebo region has its own in the host. Where slices are painted together, a slice has those of three slices of
    the real lesion, which is what the network was told in training, and the lesion as a whole is held to them.

    Args:
        planned: the case.
        lesions: pathology → lesions of the fold's training cases.
        cache: the dataset's real cases.
        outlined: (n, y, x) bool, the voxels of the lesions, or in the outlines of a placebo case, in the slices that
            change.
        styles: pathology → styles of the fold's lesions.
        together: whether the slices are painted together.
    """
    owner, held = np.zeros(outlined.shape, np.int32), np.zeros(outlined.shape, np.int32)
    donors: list[np.ndarray] = []
    image = cache.image(planned.host)
    spacing, positions = cache.facts[planned.host].spacing, {z: n for n, z in enumerate(planned.slices)}
    lung = cache.roles.is_normal(cache.condition(planned.host)[list(planned.slices)]) & ~outlined
    for number, operation in enumerate(planned.operations):
        lesion = lesion_of(operation, lesions)
        ratio = spacing_ratio(lesion, spacing, cache.facts[planned.host].shape[0])
        mask = warp(lesion.mask, operation.transform, ratio, spacing).mask
        depth = len(mask)
        mask, (bottom, top, left) = inside_image(mask, operation.place, cache.facts[planned.host].shape)
        cut = bottom - operation.place[0]  # layers below the image
        window = (slice(top, top + mask.shape[1]), slice(left, left + mask.shape[2]))
        layers = [layer for layer in range(len(mask)) if bottom + layer in positions]
        if not layers:
            continue
        numbers = [positions[bottom + layer] for layer in layers]
        own = np.zeros_like(outlined[numbers])
        own[(slice(None), *window)] = mask[layers]
        own &= outlined[numbers] & (owner[numbers] == 0)
        if not planned.placebo:
            around = lung_around(image[:, [planned.slices[n] for n in numbers]], lung[numbers], own, spacing)
            rng = np.random.default_rng([planned.seed, number])
            of_class = styles[operation.pathology]
            part = style_of_part(lesion, cache) if operation.around and of_class.changes else None
            change = of_class.change(lesion, around, rng, part)
        reach = 1 if together else 0
        for number_of_layer, (layer, n, outline) in enumerate(zip(layers, numbers, own, strict=True)):
            if not outline.any():
                continue
            if planned.placebo:
                near = slice(max(0, number_of_layer - reach), number_of_layer + reach + 1)
                voxels = np.asarray(image[:, [planned.slices[m] for m in numbers[near]]])[:, own[near]]
            else:
                voxels = restyled(of_layer(cache, lesion, (layer + cut + 0.5) / depth, reach), change)
            donors.append(voxels)
            owner[n][outline] = len(donors)
            held[n][outline] = number + 1 if together else len(donors)
    return Donors(owner, held, tuple(donors))


def of_layer(cache: SliceCache, lesion: Lesion, height: float, reach: int = 0) -> np.ndarray:
    """(c, m) voxels of a lesion's slice at a share of its height; of the whole lesion if the slice has hardly any.

    Args:
        cache: the dataset's real cases.
        lesion: of one of them.
        height: 0 to 1.
        reach: number of slices above and below it that are taken too.
    """
    layer = min(int(height * len(lesion.mask)), len(lesion.mask) - 1)
    near = slice(max(0, layer - reach), layer + reach + 1)
    inside = np.asarray(cache.image(lesion.case)[(slice(None), *lesion.box)])
    own = lesion.texture
    return inside[:, near][:, own[near]] if own[layer].sum() >= MIN_VOXELS else inside[:, own]


def restyled(voxels: np.ndarray, change: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """(c, m) voxels with another mean and spread; ``change`` is that of ``ClassStyles.change``."""
    if change is None:
        return voxels
    added, factor = (part[:, None] for part in change)
    mean = voxels.mean(1, keepdims=True)
    return mean + added + (voxels - mean) * factor


def style_maps(
    owner: np.ndarray,
    region: np.ndarray,
    donors: Sequence[np.ndarray],
    windows: Sequence[Sequence[float]],
    spacing: Sequence[float] | None = None,
) -> np.ndarray:
    """What the network is told of a slice or a stack of slices; a margin has the style of the nearest lesion.

    Args:
        owner: (y, x) or (s, y, x), see ``Donors``.
        region: of the same shape, bool, the voxels to paint.
        donors: voxels of the donors.
        windows: for each channel the intensities that are mapped to −1 and 1.
        spacing: of the axes in mm, which says what is nearest; None: it is the same along all of them.

    Returns:
        (2c + 1, y, x) or (2c + 1, s, y, x) float32.
    """
    maps = np.zeros((style_channels(len(windows)), *owner.shape), np.float32)
    if not owner.any():
        return maps
    nearest = ndimage.distance_transform_edt(owner == 0, sampling=spacing, return_distances=False, return_indices=True)
    owner = owner[tuple(nearest)]
    for number in np.unique(owner[region]):
        write_style(maps, region & (owner == number), style_of(normalise(donors[number - 1], windows)))
    return maps
