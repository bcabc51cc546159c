"""Applies the operations of a planned case to its host: to the label map and, for some methods, to the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nnunet_difflung.lesions.masks import Lesion, WarpedLesion, paste, spacing_ratio, warp
from nnunet_difflung.lesions.placebo import lung_piece
from nnunet_difflung.lesions.plan import Operation
from nnunet_difflung.lesions.surroundings import real_lesion
from nnunet_difflung.lesions.texture import ROOM, moved_texture, paste_texture, window_with_room
from nnunet_difflung.meaning.labels import LabelRoles


def apply_operations(
    operations: Sequence[Operation],
    label: np.ndarray,
    spacing: Sequence[float],
    lesions: dict[str, list[Lesion]],
    roles: LabelRoles,
    image: np.ndarray | None = None,
    read_image: Callable[[str], np.ndarray] | None = None,
    read_label: Callable[[str], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pastes lesions into a copy of a host's label map and, if ``image`` is given, their texture into a copy of it.

    Each lesion is warped once. Its texture includes its partial volume and fades into the host over ``texture.EDGE``
    pixels outside its outline; the image is only changed in the lesion and in normal lung. An operation of a placebo
    does the same with normal lung in the lesion's outline: the new labels tell where, and are not for the case itself.

    Args:
        operations: of the planned case, in their order.
        label: (z, y, x) label values of the host.
        spacing: (z, y, x) of the host in mm.
        lesions: pathology → lesions sorted by case and component, including those of the operations.
        roles: of the labels.
        image: (c, z, y, x) intensities of the host; None to paste no texture.
        read_image: case id → image (c, z, y, x); if it is a memory map, only the box of the lesion is read.
        read_label: case id → (z, y, x) label values; needed for the texture of placebos.

    Returns:
        The new label values (z, y, x), and the image (c, z, y, x) float32 with the texture of the lesions, or None
        without ``image``.
    """
    new_label, pasted = label.copy(), None if image is None else image.astype(np.float32)
    for operation in operations:
        lesion = lesion_of(operation, lesions)
        ratio = spacing_ratio(lesion, spacing, len(label))
        warped = warp(lesion.mask, operation.transform, ratio, spacing)
        value = roles.values[operation.pathology]
        if pasted is None or read_image is None:
            paste(new_label, warped.mask, operation.place, value, roles)
            continue
        inside = lesion.texture
        if operation.lung is not None and read_label is not None:  # whatever else lies in the outline is not pasted
            inside = inside & roles.is_normal(read_label(lesion.case)[lesion.box])
        texture = _texture(operation, lesion, inside, warped, ratio, spacing, read_image)
        window, part = window_with_room(operation.place, warped.mask.shape, label.shape)
        free = roles.is_normal(new_label[window])
        paste(new_label, warped.mask, operation.place, value, roles)
        changed = free & ~roles.is_normal(new_label[window])
        paste_texture(pasted[(slice(None), *window)], texture[(slice(None), *part)], free, changed)
    return new_label, pasted


def _texture(
    operation: Operation,
    lesion: Lesion,
    inside: np.ndarray,
    warped: WarpedLesion,
    ratio: np.ndarray,
    spacing: Sequence[float],
    read_image: Callable[[str], np.ndarray],
) -> np.ndarray:
    """The texture of an operation's lesion, from the voxels ``inside`` its box, transformed like its mask."""
    donor = np.asarray(read_image(lesion.case)[(slice(None), *lesion.box)])
    return moved_texture(donor, inside, operation.transform, ratio, warped, ROOM, spacing)


def lesion_of(operation: Operation, lesions: dict[str, list[Lesion]]) -> Lesion:
    """The lesion that an operation pastes; of a placebo, the normal lung in the lesion's outline."""
    lesion = real_lesion(operation, lesions)
    return lesion if operation.lung is None else lung_piece(lesion, operation.lung)
