"""In-plane resampling and cropping of cases that keeps their place in the patient and their small lesions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset_conversion.case import Case


def axis_weights(old: int, new: int, step: float) -> np.ndarray:
    """Weights (new, old) of linear interpolation along one axis, widened where pixels become larger.

    Args:
        old, new: pixels before and after.
        step: size of a new pixel in old pixels. Both grids begin at the same outer edge.
    """
    centres = (np.arange(new) + 0.5) * step - 0.5
    weights = np.maximum(0, 1 - np.abs(np.clip(centres, 0, old - 1)[:, None] - np.arange(old)) / max(1.0, step))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def resample_label(
    label: np.ndarray, wy: np.ndarray, wx: np.ndarray, lesions: Collection[int] | None = None
) -> np.ndarray:
    """Resamples one label slice: each class's share of a pixel by ``axis_weights``, then the largest share.

    A lesion (component of a lesion's label) too small to win any pixel keeps the pixel where its share is largest,
    unless that pixel belongs to another lesion.

    Args:
        label: (y, x) uint8.
        wy, wx: weights of both axes.
        lesions: their label values; None takes 0 for background, 1 for normal tissue, lesions above.

    Returns:
        (new y, new x) uint8.
    """
    values = np.unique(label)
    shares = {int(v): wy @ (label == v).astype(np.float32) @ wx.T for v in values}
    stack = np.stack(list(shares.values()))
    # among equal shares the rarer-by-convention, higher label wins
    result = values[len(values) - 1 - stack[::-1].argmax(axis=0)].astype(np.uint8)
    small = {v for v in shares if v > 1} if lesions is None else set(lesions)
    for value in sorted(small & set(shares)):
        components, number = ndimage.label(label == value, structure=np.ones((3, 3)))
        for k, box in enumerate(ndimage.find_objects(components), start=1):
            rows, columns = (np.flatnonzero(w[:, b].any(axis=1)) for w, b in zip((wy, wx), box, strict=True))
            window = result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            share = (
                wy[rows[0] : rows[-1] + 1, box[0]] @ (components[box] == k) @ wx[columns[0] : columns[-1] + 1, box[1]].T
            )
            best = np.unravel_index(share.argmax(), share.shape)
            if not (window[share > 0] == value).any() and window[best] not in small:
                window[best] = value
    return result


def resample_in_plane(case: Case, spacing: float, lesions: Collection[int] | None = None) -> Case:
    """The case with square pixels of ``spacing`` mm; its z axis stays, its outer corner stays in place.

    Intensities are interpolated linearly with a kernel as wide as the new pixels, and keep their dtype; ``lesions`` as
    of ``resample_label``.
    """
    old = np.array(case.spacing[:2])
    ny, nx = case.image.shape[1:]
    size = [max(1, round(n * s / spacing)) for n, s in zip((nx, ny), old, strict=True)]
    wx, wy = (axis_weights(n, m, spacing / s) for n, m, s in zip((nx, ny), size, old, strict=True))
    image = wy @ case.image.astype(np.float32) @ wx.T
    if np.issubdtype(case.image.dtype, np.integer):
        limits = np.iinfo(case.image.dtype)
        image = np.clip(np.round(image), limits.min, limits.max)
    label = np.stack([resample_label(one, wy, wx, lesions) for one in case.label])
    offset = np.array([*(spacing - old) / 2, 0.0])
    return replace(
        case,
        image=image.astype(case.image.dtype),
        label=label,
        origin=_moved(case, offset),
        spacing=(float(spacing), float(spacing), case.spacing[2]),
    )


def resized(case: Case, spacing: float | None, size: int | None, lesions: Collection[int] | None = None) -> Case:
    """The case with square pixels of ``spacing`` mm, or ``size`` of them along its longer side; as it is without both.

    ``lesions`` as of ``resample_label``.
    """
    if size is not None:
        spacing = max(n * s for n, s in zip(case.image.shape[1:], case.spacing[1::-1], strict=True)) / size
    return case if spacing is None else resample_in_plane(case, spacing, lesions)


def crop(case: Case, margin: float, z_too: bool = True, ignore: int | None = None) -> Case:
    """The case cut to the box of its labels plus ``margin`` mm; every voxel keeps its place in the patient.

    The label ``ignore`` does not count.
    """
    labelled = case.label.astype(bool) if ignore is None else (case.label > 0) & (case.label != ignore)
    step = case.spacing[::-1]
    box = []
    for axis in range(3):
        there = np.flatnonzero(labelled.any(axis=tuple(a for a in range(3) if a != axis)))
        n = case.label.shape[axis]
        if not len(there) or (axis == 0 and not z_too):
            box.append(slice(0, n))
            continue
        extra = int(np.ceil(margin / step[axis] - 1e-6))
        box.append(slice(max(0, int(there[0]) - extra), min(n, int(there[-1]) + 1 + extra)))
    offset = np.array([b.start * s for b, s in zip(box, step, strict=True)][::-1])
    return replace(case, image=case.image[tuple(box)], label=case.label[tuple(box)], origin=_moved(case, offset))


def slices(case: Case) -> list[Case]:
    """One case per slice that has a label; ids end with ``_s`` and its number."""
    return [one_slice(case, f"{case.patient}_s{z:03d}", z) for z in range(len(case.label)) if case.label[z].any()]


def one_slice(case: Case, case_id: str, z: int) -> Case:
    """Slice ``z`` of a case as a case of its own, placed where it lies."""
    return replace(
        case,
        case_id=case_id,
        image=case.image[z : z + 1],
        label=case.label[z : z + 1],
        origin=_moved(case, np.array([0, 0, z * case.spacing[2]])),
    )


def _moved(case: Case, offset: np.ndarray) -> tuple[float, float, float]:
    """Origin after a shift of ``offset`` mm along the image's own axes x, y, z."""
    x, y, z = np.array(case.origin) + np.array(case.direction).reshape(3, 3) @ offset
    return float(x), float(y), float(z)
