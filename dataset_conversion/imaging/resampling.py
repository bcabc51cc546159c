"""Resamples cases in plane and crops them, keeping their position in the patient and their small lesions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnunet_difflung.dataset_conversion.case import Case


def axis_weights(old: int, new: int, step: float, kernel: str = "linear") -> np.ndarray:
    """Weights (new, old) of interpolation along one axis, with a wider kernel if pixels become larger.

    Args:
        old, new: number of pixels before and after.
        step: size of a new pixel in old pixels. Both grids begin at the same outer edge.
        kernel: ``linear``, whose weights are never negative; or ``cubic`` (Keys, IEEE Trans. ASSP 1981, a = -1/2),
            which blurs less: between two pixels, white noise keeps 0.8 of its standard deviation instead of 0.7.
    """
    centres = (np.arange(new) + 0.5) * step - 0.5
    if kernel == "cubic":
        return _cubic_weights(centres, old, max(1.0, step))
    weights = np.maximum(0, 1 - np.abs(np.clip(centres, 0, old - 1)[:, None] - np.arange(old)) / max(1.0, step))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic_weights(centres: np.ndarray, old: int, width: float) -> np.ndarray:
    """Weights (new, old) of a cubic kernel that is ``width`` old pixels wide for each unit; the edge is continued."""
    beyond = int(np.ceil(2 * width))
    positions = np.arange(-beyond, old + beyond)
    x = np.abs(centres[:, None] - positions) / width
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    onto = np.clip(positions, 0, old - 1)[:, None] == np.arange(old)
    return ((weights / weights.sum(axis=1, keepdims=True)) @ onto).astype(np.float32)


def resample_label(
    label: np.ndarray, wy: np.ndarray, wx: np.ndarray, lesions: Collection[int] | None = None
) -> np.ndarray:
    """Resamples a slice of a label map: each pixel gets the class with the largest share by ``axis_weights``.

    A lesion (connected component of a lesion label) that is too small to win a pixel keeps the pixel in which its share
    is largest, unless that pixel belongs to another lesion.

    Args:
        label: (y, x) uint8.
        wy, wx: weights along both axes.
        lesions: label values of lesions; None: all values above 1 (0 is background, 1 is normal tissue).

    Returns:
        (new y, new x) uint8.
    """
    values = np.unique(label)
    shares = {int(v): wy @ (label == v).astype(np.float32) @ wx.T for v in values}
    stack = np.stack(list(shares.values()))
    # if shares are equal, the higher label wins, which is the rarer class by convention
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


def resample_in_plane(
    case: Case, spacing: float, lesions: Collection[int] | None = None, kernel: str = "linear"
) -> Case:
    """The case with square pixels of ``spacing`` mm; slices and the outer corner keep their position.

    Intensities are interpolated with a kernel as wide as the new pixels (see ``axis_weights``), and keep their dtype
    and their range. For ``lesions`` see ``resample_label``.
    """
    old = np.array(case.spacing[:2])
    ny, nx = case.image.shape[1:]
    new_size = [max(1, round(pixels * size / spacing)) for pixels, size in zip((nx, ny), old, strict=True)]
    wx, wy = (axis_weights(n, m, spacing / size) for n, m, size in zip((nx, ny), new_size, old, strict=True))
    by, bx = (
        axis_weights(n, m, spacing / size, kernel)
        for n, m, size in zip((ny, nx), new_size[::-1], old[::-1], strict=True)
    )
    image = by @ case.image.astype(np.float32) @ bx.T
    if kernel == "cubic":  # which overshoots at edges
        image = np.clip(image, case.image.min(), case.image.max())
    if np.issubdtype(case.image.dtype, np.integer):
        limits = np.iinfo(case.image.dtype)
        image = np.clip(np.round(image), limits.min, limits.max)
    label = np.stack([resample_label(plane, wy, wx, lesions) for plane in case.label])
    offset = np.array([*(spacing - old) / 2, 0.0])
    return replace(
        case,
        image=image.astype(case.image.dtype),
        label=label,
        origin=moved(case, offset),
        spacing=(float(spacing), float(spacing), case.spacing[2]),
    )


def resized(
    case: Case,
    spacing: float | None,
    size: int | None,
    lesions: Collection[int] | None = None,
    kernel: str = "linear",
) -> Case:
    """The case with square pixels of ``spacing`` mm, or with ``size`` pixels along its longer side.

    Without both, the case is returned unchanged. For ``lesions`` see ``resample_label``, for ``kernel``
    ``axis_weights``.
    """
    if size is not None:
        spacing = max(n * step for n, step in zip(case.image.shape[1:], case.spacing[1::-1], strict=True)) / size
    return case if spacing is None else resample_in_plane(case, spacing, lesions, kernel)


def crop(case: Case, margin: float, z_too: bool = True, ignore: int | None = None) -> Case:
    """The case cropped to the bounding box of its labels plus a margin; voxels keep their position in the patient.

    Args:
        case: to crop.
        margin: mm on each side.
        z_too: whether slices outside the box are removed as well.
        ignore: label value that does not count.
    """
    labelled = case.label.astype(bool) if ignore is None else (case.label > 0) & (case.label != ignore)
    step = case.spacing[::-1]
    box = []
    for axis in range(3):
        positions = np.flatnonzero(labelled.any(axis=tuple(a for a in range(3) if a != axis)))
        n = case.label.shape[axis]
        if not len(positions) or (axis == 0 and not z_too):
            box.append(slice(0, n))
            continue
        extra = int(np.ceil(margin / step[axis] - 1e-6))
        box.append(slice(max(0, int(positions[0]) - extra), min(n, int(positions[-1]) + 1 + extra)))
    offset = np.array([side.start * size for side, size in zip(box, step, strict=True)][::-1])
    return replace(case, image=case.image[tuple(box)], label=case.label[tuple(box)], origin=moved(case, offset))


def slices(case: Case) -> list[Case]:
    """A case for each slice that has a label; its id ends with ``_s`` and the number of the slice."""
    return [one_slice(case, f"{case.patient}_s{z:03d}", z) for z in range(len(case.label)) if case.label[z].any()]


def spread(case: Case, kept: npt.ArrayLike, lesions: Collection[int], apart: float | None) -> list[int]:
    """Those of the slices ``kept`` that lie about ``apart`` mm from each other; all of them if it is None.

    They are counted from the slice with most of the lesions, so that this slice is among them.
    """
    if apart is None:
        return [int(z) for z in np.asarray(kept)]
    step = max(1, round(apart / case.spacing[2]))
    areas = np.isin(case.label, list(lesions)).sum(axis=(1, 2))
    middle = int(areas.argmax()) if areas.any() else len(areas) // 2
    return [int(z) for z in np.asarray(kept) if (int(z) - middle) % step == 0]


def one_slice(case: Case, case_id: str, z: int) -> Case:
    """Slice ``z`` of a case as a case of its own, at its position in the patient."""
    return replace(
        case,
        case_id=case_id,
        image=case.image[z : z + 1],
        label=case.label[z : z + 1],
        origin=moved(case, np.array([0, 0, z * case.spacing[2]])),
    )


def moved(case: Case, offset: np.ndarray) -> tuple[float, float, float]:
    """Origin of a case after a shift by ``offset`` mm along the axes x, y, z of the image."""
    x, y, z = np.array(case.origin) + np.array(case.direction).reshape(3, 3) @ offset
    return float(x), float(y), float(z)
