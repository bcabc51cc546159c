"""A converted case, and the record that is kept of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORE = "ignore"  # nnU-Net's label of voxels that were not annotated; it has the highest value
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Case:
    """A case in memory.

    Attributes:
        case_id: ``<patient>_s012`` for a slice, ``<patient>`` for a volume.
        patient: safe name of the patient, whose cases the splits keep together.
        image: (z, y, x); a slice has z = 1.
        label: (z, y, x) uint8.
        spacing: mm along x, y, z; for a slice, z is its thickness.
        origin: centre of the first voxel in mm along x, y, z (LPS).
        direction: nine direction cosines, row by row.
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
    """What is recorded of a written case: its patient, its part, and the number of voxels of each label value."""

    case_id: str
    patient: str
    test: bool
    voxels: tuple[int, ...]
