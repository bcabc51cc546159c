"""Cuts windows at random places out of cases that show a lesion in their middle."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset_conversion.case import Case
from nnunet_difflung.dataset_conversion.imaging.resampling import moved

AROUND = 1.2  # times the longer side of the largest lesion: the smallest window of a scan
SHARE = 0.6  # of the scan's shorter side: the largest window, unless AROUND asks for more; a wider one could hardly be
# moved, and a lesion in the middle of the scan would stay near the middle of the window


def window_side(volume: Case, side: float, lesions: Collection[int]) -> float:
    """The side in mm of the windows of a scan: the same for all its slices, so that it says nothing about a slice.

    Args:
        volume: the scan.
        side: the wanted side in mm; it becomes smaller in a small scan (``SHARE``) and larger for a large lesion.
        lesions: label values of lesions.
    """
    inside = np.isin(volume.label, list(lesions))
    pixel = volume.spacing[1::-1]
    boxes = [box for plane in inside for box in ndimage.find_objects(ndimage.label(plane, np.ones((3, 3)))[0])]
    longest = max((_length(box[axis]) * pixel[axis] for box in boxes for axis in (0, 1)), default=0.0)
    shortest = min(number * step for number, step in zip(volume.label.shape[1:], pixel, strict=True))
    return min(shortest, max(AROUND * longest, min(side, SHARE * shortest)))


def random_window(case: Case, side: float, lesions: Collection[int]) -> Case:
    """A square window of a case at a place that depends on nothing but the id of the case.

    Of the places in which a lesion lies wholly inside the window, all are equally likely, so that neither its place nor
    its distance from the edge tells anything about it. Of several lesions one is drawn, and the others may be cut.
    Without lesions, all places are equally likely.

    Args:
        case: a slice or a volume; a volume is cut along x and y alone.
        side: of the window in mm, from ``window_side``.
        lesions: label values of lesions.

    Returns:
        The case, whose voxels keep their position in the patient.
    """
    digest = hashlib.sha256(case.case_id.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    extent = _lesion(np.asarray(np.isin(case.label, list(lesions)).any(axis=0)), rng)
    pixel = case.spacing[1::-1]
    window = []
    for axis, size in enumerate(case.label.shape[1:]):
        number = max(1, round(side / pixel[axis]), _length(extent[axis]) if extent else 0)
        number = min(size, number)  # a lesion that runs across a volume may be wider than in any of its slices
        low, high = 0, size - number
        if extent is not None:
            low, high = max(low, extent[axis].stop - number), min(high, extent[axis].start)
        first = int(rng.integers(low, high + 1))
        window.append(slice(first, first + number))
    rows, columns = window
    offset = np.array([columns.start * pixel[1], rows.start * pixel[0], 0.0])
    cut = (slice(None), rows, columns)
    return replace(case, image=case.image[cut], label=case.label[cut], origin=moved(case, offset))


def _lesion(inside: np.ndarray, rng: np.random.Generator) -> tuple[slice, ...] | None:
    """The extent (y, x) of one of the lesions in a mask; None if there is none."""
    boxes = ndimage.find_objects(ndimage.label(inside, np.ones((3, 3)))[0])
    return boxes[int(rng.integers(len(boxes)))] if boxes else None


def _length(side: slice) -> int:
    return int(side.stop - side.start)
