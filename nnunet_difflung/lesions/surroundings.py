"""What surrounds a lesion that lies within another pathology, and comes along where the lesion is pasted.

Consolidation of COVID-19 lies within ground glass. Pasted alone into clean lung it is a lesion that no reader has seen,
and a segmentation learns that consolidation lies there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from nnunet_difflung.lesions.masks import MIN_VOXELS, Lesion, Transform, WarpedLesion, box_of, lesion_of_case, warp
from nnunet_difflung.lesions.plan import Operation
from nnunet_difflung.meaning.labels import LabelRoles

REACH = 10.0  # mm around a lesion that come along
_WITHIN = 0.5  # share of a lesion's border that is other pathologies, from which it lies within them
_TOUCHING = ndimage.generate_binary_structure(3, 1)


def share_of_border(label: np.ndarray, lesion: Lesion, roles: LabelRoles) -> float:
    """Other pathologies as a share of the lung that a lesion borders on; 0 where it borders on none.

    Args:
        label: (z, y, x) label values of a case.
        lesion: of its first voxel and mask in that case.
        roles: of the labels.
    """
    window, inside = _window(lesion, label.shape, 0)
    beside = ndimage.binary_dilation(inside, _TOUCHING) & ~inside
    voxels = np.bincount(label[window][beside], minlength=roles.body_value)
    others = voxels[[roles.values[name] for name in roles.pathologies if name != lesion.pathology]].sum()
    return float(others / max(1, others + voxels[[roles.values[name] for name in roles.normal]].sum()))


def find_surroundings(label: np.ndarray, lesion: Lesion, roles: LabelRoles) -> tuple[Lesion, ...]:
    """The other pathologies around a lesion, for one that borders on them more than on normal lung; else nothing.

    Of each pathology it is what hangs together with the lesion within ``REACH``. The mask of the result holds the
    lesion too, so that no gap opens between the two when they are pasted; ``source`` has the pathology's own voxels.

    Args:
        label: (z, y, x) label values of the lesion's case.
        lesion: of that case, with its ``within``.
        roles: of the labels.
    """
    if lesion.within <= _WITHIN:
        return ()
    names = [name for name in roles.pathologies if name != lesion.pathology]
    window, inside = _window(lesion, label.shape, REACH)
    near = ndimage.distance_transform_edt(~inside, lesion.spacing) <= REACH
    found = []
    for name in names:
        parts, _ = ndimage.label(inside | (near & (label[window] == roles.values[name])))
        whole = parts == parts[inside][0]
        source = whole & ~inside
        if source.sum() >= MIN_VOXELS:
            box = box_of(whole)
            z, y, x = (part.start + cut.start for part, cut in zip(window, box, strict=True))
            part = Lesion(lesion.case, name, -lesion.component, whole[box], lesion.spacing, (z, y, x), flat=lesion.flat)
            found.append(part.of_source(source[box]))
    return tuple(found)


def _window(lesion: Lesion, shape: Sequence[int], reach: float) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box of a lesion with so many mm around it, at least a voxel, within its case; and the lesion in it."""
    window, pads = [], []
    for part, spacing, length in zip(lesion.box, lesion.spacing, shape, strict=True):
        more = max(1, int(np.ceil(reach / spacing)))
        start, stop = max(0, part.start - more), min(length, part.stop + more)
        window.append(slice(start, stop))
        pads.append((part.start - start, stop - part.stop))
    return tuple(window), np.pad(lesion.mask, pads)


def real_lesion(operation: Operation, lesions: Mapping[str, Sequence[Lesion]]) -> Lesion:
    """The real lesion whose outline an operation has, or what surrounds it.

    Args:
        operation: of a plan.
        lesions: pathology → lesions sorted by case and component.
    """
    lesion = lesion_of_case(lesions[operation.around or operation.pathology], operation.donor, operation.component)
    if not operation.around:
        return lesion
    return next(part for part in lesion.surroundings if part.pathology == operation.pathology)


def place_around(
    part: Lesion,
    lesion: Lesion,
    transform: Transform,
    ratio: np.ndarray,
    place: Sequence[int],
    spacing: Sequence[float] = (1, 1, 1),
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Where what surrounds a lesion comes to lie with it.

    Args:
        part: one of the lesion's ``surroundings``.
        lesion: the lesion.
        transform: of both.
        ratio: (z, y, x) spacing of the donor divided by that of the host.
        place: (z, y, x) of the first voxel of the transformed lesion in the host.
        spacing: (z, y, x) of the host in mm, as for ``masks.warp``.

    Returns:
        (z, y, x) bool, the transformed part, and its first voxel in the host, which may lie outside.
    """
    of_lesion, of_part = (warp(each.mask, transform, ratio, spacing) for each in (lesion, part))
    middle = _start(lesion, transform) + (np.array(lesion.mask.shape) - 1) / 2
    first = np.array(place) + _in_box(of_lesion, transform, middle - _start(lesion, transform))
    first = np.round(first - _in_box(of_part, transform, middle - _start(part, transform)) + 1e-6).astype(int)
    z, y, x = first.tolist()
    return of_part.mask, (z, y, x)


def _start(lesion: Lesion, transform: Transform) -> np.ndarray:
    """(z, y, x) of a lesion's box in its case, as mirrored as the lesion is."""
    z, y, x = lesion.start
    return np.array([z, y, 1 - x - lesion.mask.shape[2] if transform.mirror else x], float)


def _in_box(warped: WarpedLesion, transform: Transform, point: np.ndarray) -> np.ndarray:
    """A point of a lesion's box, in voxels, in the box of the transformed lesion."""
    grown = np.array([0, transform.dilation, transform.dilation])
    return np.linalg.solve(warped.matrix, point - warped.offset) + grown - [part.start for part in warped.box]
