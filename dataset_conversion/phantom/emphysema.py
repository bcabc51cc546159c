"""Emphysema as a texture of air: centrilobular holes between preserved lung, and subpleural rows of cysts.

The constants were fitted to summary figures of reader-labelled patches of real CT (``CIP_FIGURES`` in
``calibration.py``); no pixel of them is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.anatomy import Thorax
from nnunet_difflung.dataset_conversion.phantom.fields import PlaneField, sigmoid

FORMS = {"mild": 1, "moderate": 2, "severe": 3, "paraseptal": 4}  # 1 to 3: severity of centrilobular emphysema
AIR_HU = -1004.0
WALL_HU, DENSER_HU = -610.0, 28.0  # cyst walls, and what they press together between them
ACINUS_MM, CYST_MM = (5.0, 8.0), (6.5, 22.0)  # distance of neighbouring holes and cysts, from patient to patient
_SEVERITIES = (1.0, 2.0, 3.0)  # mild, moderate, severe: what the following are at these
_PRESENT = (0.45, 0.95, 1.0)  # share of the acini that have a hole
_RADIUS = (0.28, 0.475, 0.64)  # of a hole, as a share of the distance of neighbours
_DROP_HU = (-1.0, 11.0, 68.0)  # of the lung between the holes
_SEPTA_HU = (35.0, 65.0, 70.0)


class Lattice:
    """Points scattered evenly over a thorax, the centres of holes or of cysts.

    Args:
        thorax: shapes of the patient.
        spacing: mean distance of neighbouring points in mm.
        rng: moves the points off a regular grid and draws their size.
    """

    def __init__(self, thorax: Thorax, spacing: float, rng: np.random.Generator):
        self.spacing = spacing
        axes = [np.arange(-half, half, spacing) for half in (thorax.a + 10, thorax.b + 10)]
        axes.append(np.arange(-thorax.patient.height - spacing, spacing, spacing))
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        self.points = (grid + rng.uniform(0, spacing, grid.shape)).astype(np.float32)
        self.draws = rng.random((len(grid), 3), dtype=np.float32)

    def nearest(self, xy: np.ndarray, z: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances in mm to the nearest and the second nearest point, and the nearest point's draws.

        Args:
            xy: (n, 2) positions in mm in the plane at height ``z``.
            z: mm.
        """
        from scipy.spatial import cKDTree

        near = np.abs(self.points[:, 2] - z) < 1.5 * self.spacing
        distance, index = cKDTree(self.points[near]).query(np.column_stack([xy, np.full(len(xy), z)]), k=2)
        return distance[:, 0], distance[:, 1], self.draws[near][index[:, 0]]


@dataclass(frozen=True)
class Region:
    """Pixels of a slice that are to be painted.

    Attributes:
        xy: (n, 2) positions in mm.
        z: height of the slice in mm.
        depth: (n,) distance to the pleura in mm.
        severity: (n,) of centrilobular emphysema, 1 to 3.
    """

    xy: np.ndarray
    z: float
    depth: np.ndarray
    severity: np.ndarray


def centrilobular(hu: np.ndarray, region: Region, lattice: Lattice) -> np.ndarray:
    """HU of a region with holes around the centres of the acini, more, larger and confluent ones with severity.

    Args:
        hu: (n,) of the normal lung there.
        region: where.
        lattice: with ``ACINUS_MM``.
    """
    at = {
        name: np.interp(region.severity, _SEVERITIES, values)
        for name, values in (("present", _PRESENT), ("radius", _RADIUS), ("drop", _DROP_HU), ("septa", _SEPTA_HU))
    }
    first, second, draws = lattice.nearest(region.xy, region.z)
    radius = lattice.spacing * at["radius"] * (0.6 + 0.8 * draws[:, 1])
    hole = sigmoid((radius - first) / 0.35) * (draws[:, 0] < at["present"])
    septum = np.exp(-(((second - first) / 0.7) ** 2))
    lung = hu - at["drop"] + at["septa"] * septum
    return lung + (0.6 + 0.4 * draws[:, 2]) * hole * (AIR_HU - lung)


def paraseptal(hu: np.ndarray, region: Region, lattice: Lattice) -> np.ndarray:
    """HU of a region with a row of cysts under the pleura, with thin walls between them and towards the lung.

    Args:
        hu: (n,) of the normal lung there.
        region: where.
        lattice: with ``CYST_MM``.
    """
    first, second, draws = lattice.nearest(region.xy, region.z)
    reach = lattice.spacing * (0.65 + 0.75 * draws[:, 0])  # depth of each cyst, whose inner surface bulges
    inner = np.minimum(reach - region.depth - (first / lattice.spacing) ** 2 * 5, (second - first) * 0.8 - 0.5)
    cyst = sigmoid(inner / 0.2) * (draws[:, 2] < 0.93)
    wall = np.exp(-(((inner + 0.5) / 0.5) ** 2)) * (region.depth < reach + 1)
    painted = hu + DENSER_HU + wall * (WALL_HU - hu)
    return painted + cyst * (AIR_HU + 8 * draws[:, 1] - painted)


def wandering(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shifts (dx, dy) in mm that make the outlines of holes irregular, (len(y), len(x)) each."""
    dx, dy = (0.6 * PlaneField(rng, 2.2).at(y, x) for _ in range(2))
    return dx, dy
