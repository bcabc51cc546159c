"""Cuts windows at random places out of cases that show a lesion in their middle."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset_conversion.case import Case
from nnunet_difflung.dataset_conversion.imaging.resampling import moved

AROUND = 1.4  # times the longer side of a lesion: the smallest window around it


def random_window(case: Case, side: float, lesions: Collection[int]) -> Case:
    """A square window of a case at a place that depends on nothing but the id of the case.

    Of the places in which a lesion lies wholly inside the window, all are equally likely, so that neither its place nor
    its distance from the edge tells anything about it. Of several lesions one is drawn, and the others may be cut.
    Without lesions, all places are equally likely.

    Args:
        case: a slice or a volume; a volume is cut along x and y alone.
        side: of the window in mm; larger for large lesions (``AROUND``), smaller where the case is.
        lesions: label values of lesions.

    Returns:
        The case, whose voxels keep their position in the patient.
    """
    digest = hashlib.sha256(case.case_id.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    extent = _lesion(np.isin(case.label, list(lesions)).any(axis=0), rng)
    size, pixel = case.label.shape[1:], case.spacing[1::-1]
    longest = max((side.stop - side.start) * step for side, step in zip(extent, pixel, strict=True)) if extent else 0
    wanted = max(side, AROUND * longest)
    window = []
    for axis in (0, 1):
        number = min(size[axis], round(wanted / pixel[axis]))
        low, high = 0, size[axis] - number
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
