"""A converted case and what is recorded of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORE = "ignore"  # nnU-Net's name for voxels that nobody has annotated; its value is the highest
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Case:
    """One case in memory.

    Attributes:
        case_id: ``<prefix>_p003_s012`` for a slice, ``<prefix>_p003`` for a volume.
        patient: ``<prefix>_p003``, the group that splits keep together.
        image: (z, y, x); a slice has z = 1.
        label: (z, y, x) uint8.
        spacing: mm along x, y, z; for a slice the z entry is the slice's thickness.
        origin: mm of the first voxel's centre along x, y, z (LPS).
        direction: nine cosines, row by row.
    """

    case_id: str
    patient: str
    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...] = IDENTITY


@dataclass(frozen=True)
class CaseRecord:
    """What the dataset's bookkeeping needs to know of a written case: its group and voxels per label value."""

    case_id: str
    patient: str
    test: bool
    voxels: tuple[int, ...]
