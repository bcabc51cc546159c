"""The part of its host that a synthetic case is written as (``--box``), and its entry in the case's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_difflung.dataset.writing import Box
from nnunet_difflung.lesions.masks import spacing_ratio, warp
from nnunet_difflung.lesions.pasting import lesion_of
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.preparing.application import AppliedCase
from nnunet_difflung.preparing.fold import Fold


def box_of_case(applied: AppliedCase, around: float | None) -> Box | None:
    """(z, y, x) of the host that a synthetic case is written as; None for the whole host.

    Args:
        applied: the planned case.
        around: mm of the host on each side of what is painted; None for the whole host.
    """
    if around is None or applied.shape[0] == 1:
        return None
    z, y, x = (np.flatnonzero(applied.region.any(axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    places = (np.array(applied.planned.slices)[z], y, x)
    ends = [(int(at[0]), int(at[-1]) + 1) for at in places]
    return _widened(ends, around, applied.spacing, applied.shape)


def largest_box(fold: Fold, planned: PlannedCase, around: float | None) -> Box:
    """A box of the host that holds the case's (``box_of_case``), from the plan alone: no label is read.

    It is the window of the transformed lesions with the margin that is painted around them, of which those parts that
    hold no normal lung are not painted.

    Args:
        fold: fold that the plan is for.
        planned: the case.
        around: mm of the host on each side of what is painted; None for the whole host.
    """
    host, sampling = fold.facts[planned.host], fold.settings.sampling
    z, y, x = host.shape
    if around is None or z == 1:
        return slice(0, z), slice(0, y), slice(0, x)
    ends = [(planned.slices[0], planned.slices[-1] + 1), (0, y), (0, x)]
    if sampling.paint == "composite":
        windows = []
        for operation in planned.operations:
            lesion = lesion_of(operation, fold.lesions)
            warped = warp(lesion.mask, operation.transform, spacing_ratio(lesion, host.spacing, z), host.spacing)
            windows.append([(at, at + n) for at, n in zip(operation.place, warped.mask.shape, strict=True)])
        pixel = float(np.sqrt(host.spacing[1] * host.spacing[2]))
        for axis in (1, 2):
            margin = int(np.ceil(sampling.margin * max(1.0, 1.001 * pixel / host.spacing[axis])))  # in pixels or in mm
            first, end = (pick(window[axis][i] for window in windows) for i, pick in enumerate((min, max)))
            ends[axis] = (max(0, first - margin), min(host.shape[axis], end + margin))
    return _widened(ends, around, host.spacing, host.shape)


def _widened(ends: Sequence[tuple[int, int]], around: float, spacing: Sequence[float], shape: Sequence[int]) -> Box:
    """A box of first voxels and ends along z, y and x, with so many mm of the host on each side."""
    box = []
    for (first, end), mm, length in zip(ends, spacing, shape, strict=True):
        more = int(np.ceil(around / mm))
        box.append(slice(max(0, first - more), min(length, end + more)))
    return box[0], box[1], box[2]


def box_record(box: Box | None) -> dict:
    """What the manifest says of a box: first voxel and end along z, y and x, in the host."""
    return {} if box is None else {"box": [[part.start, part.stop] for part in box]}


def box_from(record: Mapping[str, Any]) -> Box:
    """The box of a case's record; the whole host without one."""
    z, y, x = (slice(*ends) for ends in record.get("box", [[None, None]] * 3))
    return z, y, x
