"""HU of everything around the lungs: chest wall, bones, mediastinum, abdomen and table."""

from __future__ import annotations

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.anatomy import Thorax, ellipse, smooth_union, turned
from nnunet_difflung.dataset_conversion.phantom.fields import PlaneField, coverage

AIR, FAT, MUSCLE, BLOOD, MARROW, CORTEX = -1000.0, -100.0, 52.0, 42.0, 190.0, 780.0
RIB_DISTANCE_MM = 27.0


class Canvas:
    """An image that shapes are painted on, with soft edges.

    Args:
        centres: (n,) centres of the pixels in mm along x and along y.
    """

    def __init__(self, centres: np.ndarray):
        self.centres, self.pixel = centres, float(centres[1] - centres[0])
        self.x, self.y = centres[None] + 0 * centres[:, None], centres[:, None] + 0 * centres[None]
        self.hu = np.full(self.x.shape, AIR, dtype=np.float32)

    def lay(self, signed_distance: np.ndarray, hu) -> None:
        """Fills a shape with an intensity (a number or an image)."""
        self.blend(coverage(signed_distance, self.pixel), hu)

    def blend(self, share: np.ndarray, hu) -> None:
        """Blends in an intensity with a share of 0..1."""
        self.hu += share * (hu - self.hu)

    def bone(
        self, signed_distance: np.ndarray, cortex_mm: float, cortex: float = CORTEX, marrow: float = MARROW
    ) -> None:
        """Paints a bone: a cortex filled with marrow."""
        self.lay(signed_distance, cortex)
        self.lay(signed_distance + cortex_mm, marrow)


def paint_body(canvas: Canvas, thorax: Thorax, z: float, rng: np.random.Generator) -> None:
    """Paints the thorax without the lungs, whose place is filled with mediastinum or muscle.

    Args:
        canvas: empty, air everywhere.
        thorax: shapes of the patient.
        z: of the slice, mm.
        rng: for the fat strands and the muscle texture of this slice.
    """
    patient = thorax.patient
    t = -z / patient.height
    x, y = thorax.deform(canvas.x, canvas.y, z)
    strands = PlaneField(rng, 5.0).at(canvas.centres)
    body, cavity = thorax.body(x, y, t), thorax.cavity(x, y, t)
    _table(canvas, thorax)
    canvas.lay(body, 35)
    canvas.lay(body + 2, FAT + 8 * strands)
    back = np.clip((y - 0.35 * thorax.b) / 60, 0, 1) * np.clip(1 - np.abs(x) / 75, 0, 1)
    muscle = np.maximum(body + patient.fat * (1 - 0.5 * back), -(cavity + 1))
    canvas.lay(muscle, MUSCLE)
    planes = (
        np.exp(-((PlaneField(rng, 13.0).at(canvas.centres) / 0.16) ** 2)) * (cavity > 9) * (body < -patient.fat - 3)
    )
    canvas.blend(0.75 * planes, FAT)
    _shoulder(canvas, thorax, x, y, t)
    canvas.lay(cavity + 1, MUSCLE)
    _mediastinum(canvas, thorax, x, y, t, strands)
    _abdomen(canvas, thorax, x, y, t, strands)
    _ribs(canvas, thorax, x, y, z, cavity)
    _spine(canvas, thorax, x, y, z, body)


def _table(canvas: Canvas, thorax: Thorax) -> None:
    """The patient table: two thin curved shells under the back."""
    top = thorax.b + thorax.wall + 14 + float(thorax.patient.waves[0, 4]) * 3
    sag = (canvas.x / 180) ** 2 * -26
    for depth, hu in ((0.0, -250.0), (26.0, -450.0)):
        canvas.lay(np.abs(canvas.y - top - depth - sag) - 1.6, hu)


def _shoulder(canvas: Canvas, thorax: Thorax, x, y, t: float) -> None:
    """Scapulae, from the apex to about the middle of the lungs."""
    if t > 0.52:
        return
    for side in (-1, 1):
        u, v = turned(x - side * (thorax.a + 4) * 0.80, y - (thorax.b + 10) * 0.76, side * (-38))
        length = 34 * max(1 - t / 0.55, 0.05) ** 0.5
        canvas.bone(ellipse(u, v - 0.004 * u**2, length, 4.6, True), 2.2, 560, 170)
    if t < 0.1:
        for side in (-1, 1):
            u, v = turned(x - side * 58, y + 0.62 * thorax.b, side * 24)
            canvas.bone(ellipse(u, v, 36, 6), 2.4)


def _mediastinum(canvas: Canvas, thorax: Thorax, x, y, t: float, strands: np.ndarray) -> None:
    """Fat that contains the heart, the great vessels, the oesophagus and the trachea."""
    patient = thorax.patient
    blood = BLOOD + patient.contrast
    inside = np.maximum(thorax.mediastinum(x, y, t), thorax.cavity(x, y, t) + 2)
    canvas.lay(inside, FAT + 30 + 25 * strands)
    for dx, dy, a, b, hu in (
        (-15, -0.26, 10, 9, blood),
        (3, -0.36, 9, 8, blood),
        (14, -0.16, 8, 8, blood),
        (-3, 0.42, 8, 6, 35),
    ):
        fade = max(0.0, t - 0.55) * 300 if dy < 0 else 0.0
        canvas.lay(ellipse(x - dx, y - dy * thorax.b, a, b) + fade, hu)
    trunk = ellipse(*turned(x - 12, y + 0.12 * thorax.b, -25), 34, 13) + abs(t - 0.47) * 260
    heart = thorax.heart(x, y, t)
    canvas.lay(trunk, blood)
    canvas.lay(heart, FAT + 15)
    canvas.lay(heart + 4, BLOOD + 0.45 * patient.contrast + 5 * strands)
    u, v = turned(x - 20, y + 0.28 * thorax.b, 32)
    for cx, cy, a, b in ((-20, -3, 17, 21), (14, 4, 24, 17)):
        canvas.lay(np.maximum(ellipse(u - cx, v - cy, a, b), heart + 9), blood + 4)
    canvas.lay(thorax.aorta(x, y, t), blood)
    canvas.lay(np.abs(thorax.aorta(x, y, t)) - 0.5, BLOOD + 20)
    if t < 0.45:
        tube = ellipse(x, y - 0.16 * thorax.b, 9.5, 8.5)
        canvas.lay(tube - 1.5, 30)
        canvas.lay(tube, AIR + 10)
    elif t < 0.57:
        for side in (-1, 1):
            tube = ellipse(x - side * (9 + 200 * (t - 0.45)), y - 0.12 * thorax.b, 8, 6.5)
            canvas.lay(tube - 1.5, 30)
            canvas.lay(tube, AIR + 10)


def _abdomen(canvas: Canvas, thorax: Thorax, x, y, t: float, strands: np.ndarray) -> None:
    """Liver, spleen and stomach under the diaphragm."""
    patient = thorax.patient
    below = np.maximum(thorax.diaphragm(x, y, t), thorax.cavity(x, y, t) + 1)
    below = np.maximum(below, -ellipse(x, y - 0.86 * thorax.b, 27, 27))
    canvas.lay(below, FAT + 12 * strands)
    organs = below + 2.5
    canvas.lay(np.maximum(organs, x - 32), 58 + 0.25 * patient.contrast + 4 * strands)
    canvas.lay(np.maximum(organs, ellipse(x - 84, y - 34, 40, 42)), 50 + 0.4 * patient.contrast)
    stomach = np.maximum(organs + 2, ellipse(x - 62, y + 26, 36, 30))
    canvas.lay(stomach, 45)
    canvas.lay(stomach + 4, 15)
    if patient.waves[1, 4] > 0.9:  # gas at the front of the stomach in about half of the patients
        canvas.lay(np.maximum(stomach + 5, y + 32), AIR + 20)


def _ribs(canvas: Canvas, thorax: Thorax, x, y, z: float, cavity: np.ndarray) -> None:
    """Sternum and ribs; ribs slant downwards from back to front, so that a slice shows an arc of each of them."""
    angle = np.arctan2(np.abs(x), y)  # 0 at the spine, pi at the sternum
    height = z + 62 * angle / np.pi * np.minimum(1, 1.6 - 0.6 * angle / np.pi)
    phase = np.mod(height + 40 * float(thorax.patient.waves[2, 4]) + (x > 0) * 3, RIB_DISTANCE_MM) - RIB_DISTANCE_MM / 2
    slant = 0.55
    along = (np.abs(phase) - 6.0) / slant
    across = np.abs(cavity - 7.5) - 3.8
    rib = np.maximum(np.maximum(across, along), 14 - np.abs(x))
    front = angle > 0.80 * np.pi
    canvas.bone(np.where(front, 50.0, rib), 1.7)
    canvas.lay(np.where(front, rib, 50.0), 110)  # costal cartilage
    t = -z / thorax.patient.height
    if 0.08 < t < 0.78:
        canvas.bone(ellipse(x, y + thorax.b + 6, 18, 6.5, True), 1.8, 520, 120)


def _spine(canvas: Canvas, thorax: Thorax, x, y, z: float, skin: np.ndarray) -> None:
    """Vertebral body or, every 26 mm, an intervertebral disc, with canal, arch and processes behind it."""
    back = 0.80 * thorax.b
    disc = min(max(1 - abs(z % 26.0 - 13) / 3.0, 0.0), 1.0)
    body = thorax.vertebra(x, y)
    canvas.lay(body - 2, MUSCLE)
    canvas.bone(body, 1.8, CORTEX * (1 - 0.8 * disc) + 90 * disc, MARROW * (1 - disc) + 85 * disc)
    arch = ellipse(x, y - back - 22, 15, 13)
    for side in (-1, 1):
        u, v = turned(x - side * 27, y - back - 21, side * 18)
        arch = smooth_union(arch, ellipse(u, v, 16, 4.8, True), 3)
    arch = smooth_union(arch, ellipse(x, y - back - 41, 3.6, 15), 4)
    canvas.bone(np.maximum(np.maximum(arch, -(body + 1)), skin + 5), 2.2, 620, 260)
    canvas.lay(ellipse(x, y - back - 22, 10, 8.5), 15)
    canvas.lay(ellipse(x, y - back - 22, 5.5, 4.5), 38)
