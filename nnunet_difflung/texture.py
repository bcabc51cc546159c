"""Real lesion texture, moved as its mask is moved and pasted into a host: the arm without any network."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from nnunet_difflung.balance import HostFacts, Operation
from nnunet_difflung.labels import LabelRoles
from nnunet_difflung.masks import Transform, box_of, paste, resample_geometry, transformed

EDGE = 1.0  # pixels on each side of a lesion's outline over which it fades into its host


def fill_outside(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Continues a lesion's texture beyond its outline by reflecting it at the nearest voxel of the lesion.

    So that interpolation, dilation and soft edges never take in tissue that is not the lesion's.

    Args:
        image: (c, z, y, x).
        mask: (z, y, x) bool, not empty; only its voxels are read.
    """
    in_plane_first = (1e3, 1.0, 1.0)  # a neighbouring slice's voxel only where a slice has none of its own
    nearest = ndimage.distance_transform_edt(~mask, in_plane_first, return_distances=False, return_indices=True)
    here = np.indices(mask.shape)
    mirrored = np.clip(2 * nearest - here, 0, np.array(mask.shape).reshape(3, 1, 1, 1) - 1)
    source = np.where(mask[tuple(mirrored)], mirrored, nearest)
    return image[(slice(None), *source)]


def moved_texture(image: np.ndarray, mask: np.ndarray, transform: Transform, ratio: Sequence[float],
                  room: int) -> np.ndarray:
    """A lesion's texture turned, scaled and grown exactly as ``masks.transformed`` does with its mask.

    Args:
        image: (c, z, y, x) the donor within the lesion's bounding box.
        mask: (z, y, x) bool lesion in the same box.
        transform: of the lesion.
        ratio: (z, y, x) spacing of the donor over that of the host.
        room: pixels of continued texture on each side of the transformed mask's box, along y and x.

    Returns:
        (c, z, y + 2·room, x + 2·room) float32.
    """
    matrix, offset, shape, grow = resample_geometry(mask, transform, ratio)
    reach = room + transform.dilation + 2
    pad = int(np.ceil(reach / min(1.0, *(r * transform.scale for r in ratio[1:])))) + 2
    padded = np.pad(mask[..., ::-1] if transform.mirror else mask, [(0, 0), (pad, pad), (pad, pad)])
    values = image[..., ::-1] if transform.mirror else image
    values = fill_outside(np.pad(values.astype(np.float32), [(0, 0), (0, 0), (pad, pad), (pad, pad)]), padded)
    large = (shape[0], shape[1] + 2 * reach, shape[2] + 2 * reach)
    start = offset + matrix @ np.array([0, -reach, -reach]) + np.array([0, pad, pad])
    moved = np.stack([ndimage.affine_transform(channel, matrix, start, output_shape=large, order=3, mode="nearest")
                      for channel in values])
    moved = np.clip(moved, values.min(), values.max())  # splines overshoot
    box = box_of(grow(mask))
    z, (y, x) = box[0], (slice(part.start + reach - transform.dilation - room,
                               part.stop + reach - transform.dilation + room) for part in box[1:])
    return moved[:, z, y, x]


def paste_textures(image: np.ndarray, label: np.ndarray, operations: Sequence[Operation], host: HostFacts,
                   facts: dict[str, HostFacts], roles: LabelRoles,
                   read: Callable[[str], tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Pastes each operation's real lesion texture into a copy of the host's image.

    A lesion fades into its host over ``EDGE`` pixels on each side of its outline, about the blur of a CT edge; outside
    normal lung and the lesion itself the host is not touched.

    Args:
        image: (c, z, y, x) the host's intensities.
        label: (z, y, x) the host's labels before any operation.
        operations: of the plan, in their order.
        host: the host's facts.
        facts: of the donors.
        roles: of the labels.
        read: case id → its image (c, z, y, x) and label map (z, y, x).
    """
    result, current = image.astype(np.float32), label.copy()
    normal, room = roles.values[roles.normal], int(np.ceil(EDGE)) + 1
    for op in operations:
        donor, donor_label = read(op.donor)
        components, _ = ndimage.label(donor_label == roles.values[op.pathology])
        box = ndimage.find_objects(components)[op.component - 1]
        mask = components[box] == op.component
        ratio = np.array(facts[op.donor].spacing) / host.spacing
        moved = transformed(mask, op.transform, ratio)
        texture = moved_texture(np.asarray(donor[(slice(None), *box)]), mask, op.transform, ratio, room)
        before = current.copy()
        paste(current, moved, op.place, roles.values[op.pathology], normal)
        weight = np.where((before == normal) | (current != before), _soft(current != before), 0)
        here, there = _windows(op.place, moved.shape, label.shape, room)
        weight = weight[here]
        result[(slice(None), *here)] += weight * (texture[(slice(None), *there)] - result[(slice(None), *here)])
    return result


def _soft(mask: np.ndarray) -> np.ndarray:
    """In each slice a ramp from 0 to 1 across the mask's outline, one half on it."""
    weight = np.zeros(mask.shape, np.float32)
    for z in np.flatnonzero(mask.any((1, 2))):
        inside = ndimage.distance_transform_edt(np.pad(mask[z], 1))[1:-1, 1:-1] - 0.5
        outside = ndimage.distance_transform_edt(~mask[z]) - 0.5
        weight[z] = np.clip(0.5 + np.where(mask[z], inside, -outside) / (2 * EDGE), 0, 1)
    return weight


def _windows(place: Sequence[int], size: Sequence[int], shape: Sequence[int],
             room: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a texture with ``room`` lies in the host, and the part of it that is inside the host."""
    start = np.array(place) - (0, room, room)
    stop = np.array(place) + size + (0, room, room)
    low, high = np.maximum(start, 0), np.minimum(stop, shape)
    return (tuple(slice(a, b) for a, b in zip(low, high, strict=True)),
            tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True)))
