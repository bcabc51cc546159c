"""The part of its host that a synthetic case is written as (``--box``), and its entry in the case's record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnunet_difflung.dataset.writing import Box
from nnunet_difflung.preparing.application import AppliedCase


def box_of_case(applied: AppliedCase, around: float | None) -> Box | None:
    """(z, y, x) of the host that a synthetic case is written as; None for the whole host.

    Args:
        applied: the planned case.
        around: mm of the host on each side of what is painted; None for the whole host.
    """
    if around is None or applied.shape[0] == 1:
        return None
    z, y, x = (np.flatnonzero(applied.region.any(axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    box = []
    places = (np.array(applied.planned.slices)[z], y, x)
    for at, spacing, length in zip(places, applied.spacing, applied.shape, strict=True):
        more = int(np.ceil(around / spacing))
        box.append(slice(max(0, int(at[0]) - more), min(length, int(at[-1]) + 1 + more)))
    return box[0], box[1], box[2]


def box_record(box: Box | None) -> dict:
    """What the manifest says of a box: first voxel and end along z, y and x, in the host."""
    return {} if box is None else {"box": [[part.start, part.stop] for part in box]}


def box_from(record: Mapping[str, Any]) -> Box:
    """The box of a case's record; the whole host without one."""
    z, y, x = (slice(*ends) for ends in record.get("box", [[None, None]] * 3))
    return z, y, x
