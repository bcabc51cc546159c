"""Transforms the texture of real lesions like their masks and pastes it into hosts, without a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nnunet_difflung.lesions.masks import Transform, WarpedLesion, pixel_aspect

EDGE = 1.0  # pixels outside the outline of a lesion over which it fades into its host
ROOM = int(np.ceil(EDGE)) + 1  # pixels of texture that are needed around a lesion


def fill_outside(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Continues the texture of a lesion beyond its outline by reflection at the nearest voxel of the lesion.

    Interpolation, dilation and soft edges then never include tissue outside the lesion.

    Args:
        image: (c, z, y, x).
        mask: (z, y, x) bool, not empty; only voxels in the mask are read.
    """
    in_plane_first = (
        1e3,
        1.0,
        1.0,
    )  # voxels of neighbouring slices are used only in slices without voxels of the lesion
    nearest = ndimage.distance_transform_edt(~mask, in_plane_first, return_distances=False, return_indices=True)
    filled, last = np.empty_like(image), np.array(mask.shape).reshape(3, 1, 1) - 1
    position = np.concatenate([np.zeros((1, *mask.shape[1:]), int), np.indices(mask.shape[1:])])
    for z in range(len(mask)):  # slice by slice, since the indices of all voxels take far more memory than the image
        position[0] = z
        mirrored = np.clip(2 * nearest[:, z] - position, 0, last)
        source = np.where(mask[tuple(mirrored)], mirrored, nearest[:, z])
        filled[:, z] = image[(slice(None), *source)]
    return filled


def moved_texture(
    image: np.ndarray,
    mask: np.ndarray,
    transform: Transform,
    ratio: Sequence[float] | np.ndarray,
    warped: WarpedLesion,
    room: int,
    spacing: Sequence[float] = (1, 1, 1),
) -> np.ndarray:
    """The texture of a lesion, rotated, scaled and extended exactly like its mask in ``masks.warp``.

    Interpolation weakens fine grain; the remaining grain is amplified to its original strength.

    Args:
        image: (c, z, y, x) donor image in the bounding box of the lesion.
        mask: (z, y, x) bool, the lesion in the same box.
        transform: of the lesion.
        ratio: (z, y, x) spacing of the donor divided by the spacing of the host.
        warped: the transformed mask; not empty.
        room: pixels of continued texture on each side of the warped mask, along y and x.
        spacing: (z, y, x) of the host in mm, as for ``masks.warp``.

    Returns:
        (c, z, y + 2·room, x + 2·room) float32; each channel stays in its range of values in the lesion.
    """
    matrix, shape = warped.matrix, warped.shape
    reach, aspect = room + transform.dilation + 2, pixel_aspect(spacing)
    stretch = max(aspect, 1 / aspect) if transform.angle else 1.0  # the longer side of a pixel may lie across
    pad = int(np.ceil(reach * stretch / min(1.0, *(axis_ratio * transform.scale for axis_ratio in ratio[1:])))) + 2
    padded = np.pad(mask[..., ::-1] if transform.mirror else mask, [(0, 0), (pad, pad), (pad, pad)])
    values = image[..., ::-1] if transform.mirror else image
    values = fill_outside(np.pad(values.astype(np.float32), [(0, 0), (0, 0), (pad, pad), (pad, pad)]), padded)
    output_shape = (shape[0], shape[1] + 2 * reach, shape[2] + 2 * reach)
    start = warped.offset + matrix @ np.array([0, -reach, -reach]) + np.array([0, pad, pad])
    exact = all(np.allclose(part, np.round(part), atol=1e-6) for part in (matrix, start))
    first, *in_plane = warped.box
    y, x = (
        slice(part.start + reach - transform.dilation - room, part.stop + reach - transform.dilation + room)
        for part in in_plane
    )
    channels = []
    for channel in values:
        moved = ndimage.affine_transform(channel, matrix, start, output_shape=output_shape, order=3, mode="nearest")[
            first, y, x
        ]
        inside = channel[padded]
        moved = moved if exact else _grain_restored(moved, channel)
        channels.append(np.clip(moved, inside.min(), inside.max()))
    return np.stack(channels)


def _grain_restored(moved: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Amplifies fine grain, the difference from the local mean (σ of 1 pixel), to the variance of ``source``.

    Solves V = V_smooth + 2·g·C + g²·V_grain for the gain g, which is limited to 1..2.
    """
    smooth = ndimage.gaussian_filter(moved, (0, 1, 1))
    grain = moved - smooth
    covariance, variance = float(np.cov(smooth.ravel(), grain.ravel())[0, 1]), max(float(grain.var()), 1e-12)
    missing = max(0.0, covariance**2 + variance * float(source.var() - smooth.var()))
    return smooth + np.clip((missing**0.5 - covariance) / variance, 1, 2) * grain


def paste_texture(image: np.ndarray, texture: np.ndarray, free: np.ndarray, changed: np.ndarray) -> None:
    """Pastes the transformed texture of a lesion into a window of the image of a host, in place.

    Args:
        image: (c, z, y, x) float32, the window from ``window_with_room``.
        texture: (c, z, y, x), the part of the result of ``moved_texture`` inside the window.
        free: (z, y, x) bool, normal lung before the mask of the lesion was pasted.
        changed: (z, y, x) bool, the voxels that became lesion.
    """
    weight = np.where(free, _fading(changed), 0)
    image += weight * (texture - image)


def _fading(mask: np.ndarray) -> np.ndarray:
    """Weights (z, y, x): 1 in the mask, falling to 0 over ``EDGE`` pixels outside it in each slice."""
    weight = mask.astype(np.float32)
    for z in np.flatnonzero(mask.any((1, 2))):
        outside = ndimage.distance_transform_edt(~mask[z])
        weight[z] = np.clip(1 - outside / (EDGE + 1), 0, 1)
    return weight


def window_with_room(
    place: Sequence[int], size: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The window of a host for the texture of a lesion with ``ROOM`` around it, and the part of the texture inside it.

    Args:
        place: (z, y, x) of the lesion's first voxel in the host.
        size: (z, y, x) of the lesion.
        shape: (z, y, x) of the host.
    """
    start = np.array(place) - (0, ROOM, ROOM)
    stop = np.array(place) + size + (0, ROOM, ROOM)
    low, high = np.maximum(start, 0), np.minimum(stop, shape)
    return (
        tuple(slice(a, b) for a, b in zip(low, high, strict=True)),
        tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True)),
    )
