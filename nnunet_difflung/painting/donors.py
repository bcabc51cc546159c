"""The real voxels that give each painted region its level and spread (``generator.style``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.generator.encoding import normalise
from nnunet_difflung.generator.style import style_channels, style_of, write_style
from nnunet_difflung.lesions.masks import MIN_VOXELS, Lesion, warp
from nnunet_difflung.lesions.pasting import lesion_of
from nnunet_difflung.lesions.plan import PlannedCase


def find_donors(
    planned: PlannedCase, lesions: dict[str, list[Lesion]], cache: SliceCache, outlined: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Whose level and spread each voxel is to have.

    A lesion has those of the real lesion whose outline it has, slice by slice; a placebo region its own in the host.

    Args:
        planned: the case.
        lesions: pathology → lesions of the fold's training cases.
        cache: the dataset's real cases.
        outlined: (n, y, x) bool, the voxels of the lesions, or in the outlines of a placebo case, in the slices that
            change.

    Returns:
        (n, y, x) int32, 0 or i + 1 for the i-th donor; and for each donor its (c, m) voxels in the dataset's
        intensities.
    """
    owner = np.zeros(outlined.shape, np.int32)
    donors: list[np.ndarray] = []
    spacing, positions = cache.facts[planned.host].spacing, {z: n for n, z in enumerate(planned.slices)}
    for operation in planned.operations:
        lesion = lesion_of(operation, lesions)
        mask = warp(lesion.mask, operation.transform, np.array(lesion.spacing) / spacing).mask
        image = cache.image(planned.host if planned.placebo else operation.donor)
        top, left = operation.place[1:]
        window = (slice(top, top + mask.shape[1]), slice(left, left + mask.shape[2]))
        for layer, outline in enumerate(mask):
            z = operation.place[0] + layer
            if z not in positions:
                continue
            own = outline & outlined[positions[z]][window] & (owner[positions[z]][window] == 0)
            if not own.any():
                continue
            if planned.placebo:
                voxels = np.asarray(image[(slice(None), z, *window)])[:, own]
            else:
                voxels = _of_layer(image, lesion, (layer + 0.5) / len(mask))
            donors.append(voxels)
            owner[positions[z]][window][own] = len(donors)
    return owner, tuple(donors)


def _of_layer(image: np.ndarray, lesion: Lesion, height: float) -> np.ndarray:
    """(c, m) voxels of a lesion's slice at a share of its height; of the whole lesion if the slice has hardly any."""
    layer = min(int(height * len(lesion.mask)), len(lesion.mask) - 1)
    part = lesion.mask[layer]
    inside = np.asarray(image[(slice(None), *lesion.box)])
    return inside[:, layer, part] if part.sum() >= MIN_VOXELS else inside[:, lesion.mask]


def style_maps(
    owner: np.ndarray, region: np.ndarray, donors: Sequence[np.ndarray], windows: Sequence[Sequence[float]]
) -> np.ndarray:
    """What the network is told of a slice; a margin has the style of the nearest lesion.

    Args:
        owner: (y, x), see ``find_donors``.
        region: (y, x) bool, the voxels to paint.
        donors: see ``find_donors``.
        windows: for each channel the intensities that are mapped to −1 and 1.

    Returns:
        (2c + 1, y, x) float32.
    """
    maps = np.zeros((style_channels(len(windows)), *owner.shape), np.float32)
    if not owner.any():
        return maps
    nearest = ndimage.distance_transform_edt(owner == 0, return_distances=False, return_indices=True)
    owner = owner[tuple(nearest)]
    for number in np.unique(owner[region]):
        write_style(maps, region & (owner == number), style_of(normalise(donors[number - 1], windows)))
    return maps
