"""Shapes of the phantom's thorax as signed distances in mm (negative inside) at any point in space.

Coordinates in mm, LPS-like: x to the patient's left, y to the back, z up, z = 0 at the lung's apex. ``t`` = -z / height
runs from 0 (apex) to 1 (base).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.scanner import Scanner


@dataclass(frozen=True)
class Patient:
    """Everything that differs between patients; lengths in mm, intensities in HU.

    Attributes:
        key: seed of all later random draws for this patient.
        half_width, half_depth: half axes of the thoracic cavity before calibration.
        height: of the lungs from apex to base.
        fat, muscle: thickness of the chest wall's layers.
        heart: relative size of the heart.
        domes: height of the right and of the left dome of the diaphragm, as t.
        normal_hu: of normal lung half-way between front and back.
        gravity: increase in HU of normal lung from front to back.
        contrast: HU that contrast medium adds to blood.
        noise: standard deviation of the CT noise in HU.
        psf: sigma of the blurring kernel in mm.
        grain: size of the grain of the noise in mm.
        ild, emphysema: relative extent of each pathology, 0 for none.
        waves: (n, 5): wave vector (1/mm), phase and amplitude (mm) of a smooth deformation of all shapes.
        form: of the patient's emphysema, a key of ``emphysema.FORMS``, or "" for none.
        scanner: that the patient lies in; None in the classic phantom, whose emphysema is a level of HU and whose
            scanner follows from ``noise``, ``psf`` and ``grain``.
    """

    key: tuple[int, ...]
    half_width: float
    half_depth: float
    height: float
    fat: float
    muscle: float
    heart: float
    domes: tuple[float, float]
    normal_hu: float
    gravity: float
    contrast: float
    noise: float
    psf: float
    grain: float
    ild: float
    emphysema: float
    waves: np.ndarray
    form: str = ""
    scanner: Scanner | None = None

    def rng(self, *purpose: int) -> np.random.Generator:
        """A generator for one purpose, so that draws for one purpose do not depend on those for another."""
        return np.random.default_rng([*self.key, *purpose])


def draw_patient(key: tuple[int, ...], emphysema: bool) -> Patient:
    """Draws a patient; the cohort decides whether the patient has emphysema."""
    rng = np.random.default_rng([*key, 0])
    waves = np.concatenate(
        [rng.normal(0, [0.03, 0.03, 0.015], (7, 3)), rng.uniform(0, 2 * np.pi, (7, 1)), rng.uniform(0.4, 1.3, (7, 1))],
        axis=1,
    )
    return Patient(
        key=key,
        half_width=120 * rng.uniform(0.94, 1.05),
        half_depth=84 * rng.uniform(0.91, 1.09),
        height=rng.uniform(205, 265),
        fat=rng.uniform(5, 17),
        muscle=rng.uniform(9, 15),
        heart=rng.uniform(0.88, 1.15),
        domes=(rng.uniform(0.70, 0.78), rng.uniform(0.75, 0.83)),
        normal_hu=rng.uniform(-880, -805),
        gravity=rng.uniform(25, 65),
        contrast=float(rng.choice([0, 90, 140], p=[0.6, 0.2, 0.2])),
        noise=rng.uniform(9, 22),
        psf=rng.uniform(0.7, 1.5),
        grain=rng.uniform(0.7, 1.3),
        ild=float(rng.lognormal(0, 0.6)) if rng.random() < 0.75 else 0.0,
        emphysema=rng.uniform(0.6, 1.4) if emphysema else 0.0,
        waves=waves,
    )


def ellipse(x, y, a: float, b: float, squarer: bool = False) -> np.ndarray:
    """First-order signed distance to the ellipse |x/a|^p + |y/b|^p = 1, with p = 2, or 2.5 if ``squarer``."""
    u, v = np.abs(x) / a + 1e-6, np.abs(y) / b + 1e-6
    if not squarer:
        k = np.sqrt(u * u + v * v)
        u, v = u / (k * a), v / (k * b)
    else:
        k = (u * u * np.sqrt(u) + v * v * np.sqrt(v)) ** 0.4
        u, v = u / k, v / k
        u, v = u * np.sqrt(u) / a, v * np.sqrt(v) / b
    return (k - 1) / np.sqrt(u * u + v * v)


def turned(x, y, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in axes rotated by an angle."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return cosine * x + sine * y, cosine * y - sine * x


def smooth_union(a, b, radius: float) -> np.ndarray:
    """Union of two shapes, rounded by about ``radius`` mm where they meet."""
    h = np.clip(0.5 + 0.5 * (b - a) / radius, 0, 1)
    return b + (a - b) * h - radius * h * (1 - h)


class Thorax:
    """The shapes of one patient, with lungs scaled by the calibration of the cohort.

    Args:
        patient: from ``draw_patient``.
        lung_scale: factor on the half axes of the thoracic cavity that gives the cohort its share of lung.
    """

    def __init__(self, patient: Patient, lung_scale: float):
        self.patient = patient
        self.a = min(patient.half_width * lung_scale, 146.0)
        self.b = min(patient.half_depth * lung_scale, 112.0)
        self.wall = patient.fat + patient.muscle + 10

    def deform(self, x, y, z) -> tuple[np.ndarray, np.ndarray]:
        """The point of the undeformed thorax that is at (x, y, z) after deformation."""
        dx, dy = 0.0, 0.0
        for i, (kx, ky, kz, phase, amplitude) in enumerate(self.patient.waves.tolist()):
            wave = amplitude * np.sin(kx * x + ky * y + kz * z + phase)
            dx, dy = (dx + wave, dy) if i % 2 else (dx, dy + wave)
        return x + dx, y + dy

    def body(self, x, y, t: float) -> np.ndarray:
        """Skin."""
        shoulders = 1 + 0.03 * max(1 - t / 0.3, 0.0)
        return ellipse(x, y - 5, min((self.a + self.wall) * shoulders, 173), self.b + self.wall + 3, True)

    def cavity(self, x, y, t) -> np.ndarray:
        """Thoracic cavity inside the ribs, narrower towards the apex."""
        narrow = np.clip((0.46 - t) / 0.46, 0, 1) ** 2.2
        depth = 1 - 0.55 * narrow
        grow = 1 - 0.52 * narrow
        return (ellipse(x / grow, (y - 12 * narrow) / depth, self.a, self.b, True)) * np.minimum(grow, depth)

    def heart(self, x, y, t) -> np.ndarray:
        """Heart, an ellipsoid that points to the left and front."""
        size = self.patient.heart
        flat = np.sqrt(np.clip(1 - ((t - 0.74) / 0.27) ** 2, 1e-3, 1))
        u, v = turned(x - 20, y + 0.28 * self.b, 32)
        sd = ellipse(u / flat, v / flat, 57 * size, 42 * size) * flat
        return np.where(np.abs(t - 0.74) < 0.268, sd, 30 + 300 * (np.abs(t - 0.74) - 0.268))

    def aorta(self, x, y, t) -> np.ndarray:
        """Descending and ascending aorta, and the aortic arch at t of about 0.3."""
        descending = np.hypot(x - 23, y - 0.47 * self.b) - 12 + np.clip(0.3 - t, 0, 1) * 400
        u, v = turned(x - 10, y - 0.08 * self.b, 62)
        arch = ellipse(u, v, 38, 12) + np.abs(t - 0.31) * 260
        ascending = np.hypot(x + 14, y + 0.30 * self.b) - 15 + np.abs(t - 0.45) * 60
        return np.minimum(np.minimum(descending, arch), ascending)

    def vertebra(self, x, y) -> np.ndarray:
        """Vertebral body."""
        return ellipse(x, y - 0.80 * self.b, 19, 15, True)

    def mediastinum(self, x, y, t) -> np.ndarray:
        """Everything between the lungs."""
        width = 21 + 13 * np.clip((0.55 - t) / 0.3, 0, 1)
        sd = ellipse(x, y - 4, width, 0.98 * self.b)
        sd = smooth_union(sd, ellipse(x, y - 0.86 * self.b, 27, 27), 14)
        sd = smooth_union(sd, self.aorta(x, y, t) - 2, 8)
        sd = smooth_union(sd, self.heart(x, y, t) - 2, 10)
        for side in (-1, 1):
            hilum = np.sqrt((x - side * 36) ** 2 + (y - 4) ** 2 + ((t - 0.5) * self.patient.height) ** 2) - 15
            sd = smooth_union(sd, hilum, 12)
        return sd

    def diaphragm(self, x, y, t) -> np.ndarray:
        """Space below the domes of the diaphragm."""
        right, left = self.patient.domes
        bowl_r = ((x + 60) / 78) ** 2 + ((y + 20) / 78) ** 2
        bowl_l = ((x - 62) / 74) ** 2 + ((y + 22) / 74) ** 2
        dome = np.where(x < 0, right + 0.20 * bowl_r, left + 0.20 * bowl_l)
        return (dome - t) * self.patient.height * 0.6

    def lungs(self, x, y, z: float | np.ndarray) -> np.ndarray:
        """Both lungs."""
        t = -z / self.patient.height
        x, y = self.deform(x, y, z)
        sd = np.maximum(self.cavity(x, y, t), -self.mediastinum(x, y, t))
        return np.maximum(sd, -self.diaphragm(x, y, t))
