"""Chests as they lie in a scanner: on mats and tables, with arms, clothes, gas and disease; and their true lungs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

SHAPE, SPACING = (20, 136, 160), (4.0, 2.5, 2.5)  # voxels and mm along z, y, x
BACK = 96  # row of the patient's back


class Chest:
    """A patient in the scanner.

    Attributes:
        hu: (z, y, x) float.
        lung: (z, y, x) bool, the true lungs.
        trunk: (z, y, x) bool, everything inside the skin.
    """

    def __init__(self, seed: int = 0, level: float = -850.0, noise: float = 15.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.z, self.y, self.x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
        self.noise = noise
        self.hu = np.full(SHAPE, -1000.0)
        self.trunk = self.ball((10, 54, 80), (1e6, 42, 62))
        self.hu[self.trunk] = -90  # fat
        self.hu[self.ball((10, 54, 80), (1e6, 38, 58))] = 45
        right, left = self.ball((9, 54, 50), (12, 30, 22)), self.ball((9, 54, 110), (12, 30, 22))
        left &= ~self.ball((6, 45, 88), (12, 18, 18))  # the heart
        self.sides = right, left
        self.lung = right | left
        self.hu[self.lung] = level
        for cy, cx in self.rng.uniform((36, 34), (70, 64), (14, 2)):
            for column in (cx, SHAPE[2] - cx):
                self.hu[(np.hypot(self.y - cy, self.x - column) < 1.3) & self.lung] = 30  # vessels along z
        self.hu[:, np.hypot(self.y - 40, self.x - 80)[0] < 3.5] = -1000  # trachea
        self.hu[:, np.hypot(self.y - 82, self.x - 80)[0] < 6] = 400  # spine

    def ball(self, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        """(z, y, x) bool: an ellipsoid in voxels."""
        return sum(((a - c) / r) ** 2 for a, c, r in zip((self.z, self.y, self.x), centre, radii, strict=True)) <= 1

    def outside(self, mask: np.ndarray, level: float) -> None:
        """Puts something of a given HU outside the patient."""
        self.hu[np.broadcast_to(mask, SHAPE) & ~self.trunk] = level

    def image(self) -> np.ndarray:
        """(z, y, x) HU with the blur and the noise of a scanner."""
        blurred = ndimage.gaussian_filter(self.hu, (0, 0.6, 0.6))
        return np.clip(blurred + self.rng.normal(0, self.noise, self.hu.shape), -1024, None)


def table(c: Chest) -> None:
    """A thin shell of carbon fibre below the patient."""
    c.outside((c.y > 122) & (c.y < 126), -700)
    c.outside((c.y == 122) | (c.y == 126), 100)


def hard_table(c: Chest) -> None:
    """The back on a hard table, with room air between the shoulder blades."""
    c.hu[c.trunk & (c.y > BACK - 5)] = -1000
    c.trunk = c.trunk & (c.y <= BACK - 5)
    groove = c.ball((10, BACK - 4, 80), (9, 5, 28))
    c.hu[groove & c.trunk] = -985
    c.trunk &= ~groove
    c.outside((c.y > BACK - 5) & (c.y < BACK - 2), 60)


def mat(c: Chest, level: float = -450.0, bottom: int = 122) -> None:
    """A foam mat into which the patient sinks, with pockets of air below the back and in the mat."""
    c.outside((c.y > 80) & (c.y < bottom) & (c.x > 20) & (c.x < 140), level)
    c.outside(c.ball((10, BACK, 62), (1e6, 4, 20)), -950)
    c.outside(c.ball((10, BACK, 100), (1e6, 4, 18)), -990)
    c.outside(c.ball((10, 110, 80), (1e6, 4, 30)), -950)


def soft_mat(c: Chest) -> None:
    """The lightest foam, on a table."""
    mat(c, -700.0)
    table(c)


def firm_mat(c: Chest) -> None:
    """The firmest foam, on a table."""
    mat(c, -260.0)
    table(c)


def mat_at_the_edge(c: Chest) -> None:
    """A mat that the lower edge of the image cuts."""
    mat(c, -650.0, SHAPE[1])


def thin_mat_at_the_edge(c: Chest) -> None:
    """A flat back on a mat of which the image shows a strip."""
    c.hu[c.trunk & (c.y > BACK - 5)] = -1000
    c.trunk = c.trunk & (c.y <= BACK - 5)
    c.outside((c.y > BACK - 5) & (c.x > 50) & (c.x < 110), -650)
    c.hu, c.trunk, c.lung = c.hu[:, : BACK + 1], c.trunk[:, : BACK + 1], c.lung[:, : BACK + 1]


def mat_in_a_round_view(c: Chest, padding: float = -1024.0) -> None:
    """A mat that the round field of view cuts."""
    mat(c, -650.0, SHAPE[1])
    c.hu[np.broadcast_to(np.hypot(c.y - 60, c.x - 80) > 62, SHAPE)] = padding


def vacuum_bag(c: Chest) -> None:
    """A bag of beads around the back and the sides, with a thin skin and air between."""
    bag = ndimage.binary_dilation(c.trunk, iterations=14) & (c.y > 60)
    inner = ndimage.binary_dilation(c.trunk, iterations=3)
    c.outside(bag & ~inner, -920)
    c.outside(bag & ~ndimage.binary_erosion(bag, iterations=1), 0)
    c.outside(ndimage.binary_dilation(inner) & ~inner & bag, 0)


def arms(c: Chest) -> None:
    """Arms beside the body that touch it in front and behind, with air between."""
    for column, sign in ((12, 1), (148, -1)):
        arm = c.ball((10, 56, column), (1e6, 22, 9))
        c.outside(arm, 30)
        c.outside(
            c.ball((10, 38, column + 7 * sign), (1e6, 5, 9)) | c.ball((10, 74, column + 7 * sign), (1e6, 5, 9)), 30
        )


def blanket(c: Chest) -> None:
    """A blanket over the patient, with air below."""
    ring = ndimage.binary_dilation(c.trunk, iterations=6)
    c.outside(ring & ~ndimage.binary_dilation(c.trunk, iterations=4) & (c.y < 90), -350)


def breasts(c: Chest) -> None:
    """Breasts whose folds hold air."""
    for column in (50, 110):
        c.outside(c.ball((10, 16, column), (6, 10, 18)), -80)
        c.outside(c.ball((10, 22, column - 20), (3, 2, 4)), -1000)


def bowel(c: Chest) -> None:
    """Gas below the diaphragm: the stomach's bubble and the colon."""
    below = c.trunk & (c.z > 16)
    c.hu[below & ~c.lung] = 40
    c.hu[c.ball((18, 45, 108), (3, 12, 16)) & ~c.lung] = -1000
    c.hu[c.ball((18, 30, 62), (3, 7, 12)) & ~c.lung] = -1000


def oesophagus(c: Chest) -> None:
    """Air in the oesophagus."""
    c.hu[np.broadcast_to(np.hypot(c.y - 62, c.x - 84) < 3, SHAPE)] = -1000


def opacified(c: Chest) -> None:
    """One lung without air."""
    c.hu[c.sides[1]] = 20
    c.lung = c.sides[0]


def pneumothorax(c: Chest) -> None:
    """Free air in front of one lung, which counts as its cavity here."""
    c.hu[c.sides[0] & (c.y < 36)] = -1000


def under_the_skin(c: Chest) -> None:
    """Streaks of air in the chest wall."""
    for row in (30, 44, 58):
        c.hu[c.ball((10, row, 21 + abs(54 - row) * 0.1), (4, 3, 2))] = -950


def cropped(c: Chest) -> None:
    """An image whose edges cut both lungs; see ``crop_of``."""


PLACES: tuple[Callable[[Chest], None], ...] = (
    table,
    hard_table,
    mat,
    soft_mat,
    firm_mat,
    mat_at_the_edge,
    thin_mat_at_the_edge,
    mat_in_a_round_view,
    vacuum_bag,
    arms,
    blanket,
    breasts,
    bowel,
    oesophagus,
    opacified,
    pneumothorax,
    under_the_skin,
)
