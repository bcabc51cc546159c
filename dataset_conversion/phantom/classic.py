"""The classic phantom's slices: lungs whose emphysema is a level of HU, and the blur and noise of a scanner."""

from __future__ import annotations

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.anatomy import Thorax
from nnunet_difflung.dataset_conversion.phantom.body import Canvas, paint_body
from nnunet_difflung.dataset_conversion.phantom.fields import (
    FIELD_OF_VIEW_MM,
    PlaneField,
    VolumeField,
    coverage,
    pixel_centres,
    sigmoid,
)
from nnunet_difflung.dataset_conversion.phantom.ild import IldTexture
from nnunet_difflung.dataset_conversion.phantom.lesions import LABELS
from nnunet_difflung.dataset_conversion.phantom.vessels import (
    AIRWAY_WALL_HU,
    LUMEN_HU,
    VESSEL_HU,
    airways,
    draw_tubes,
    grow_vessels,
)


def _draw_cysts(thorax: Thorax, rng: np.random.Generator) -> list[list[float]]:
    """Positions (x, y, z) and radii in mm of the isolated cysts that about half of the patients have."""
    number = int(rng.integers(8, 26)) if rng.random() < 0.5 else 0
    low, high = [-thorax.a, -thorax.b, -thorax.patient.height, 3.5], [thorax.a, thorax.b, 0, 8.5]
    return rng.uniform(low, high, (number, 4)).tolist()


class ClassicPainter:
    """Paints the slices of a patient.

    Args:
        thorax: shapes of the patient.
        thickness: of a slice in mm.
    """

    def __init__(self, thorax: Thorax, thickness: float):
        self.thorax, self.thickness = thorax, thickness
        patient, rng = thorax.patient, thorax.patient.rng(3)
        self.vessels = grow_vessels(thorax)
        self.airways = airways(self.vessels)
        self.mottle = VolumeField(rng, 16.0, patient.height)
        self.trapping = VolumeField(rng, 12.0, patient.height)
        self.traps = rng.uniform(1.2, 1.8) if rng.random() < 0.65 else 9.0
        self.cysts = _draw_cysts(thorax, rng)
        self.emphysema_hu = rng.uniform(-952, -926)
        self.ild = IldTexture(rng.uniform(-640, -520), rng.uniform(0.2, 1.0))

    def slice(self, truth: np.ndarray, z: float, pixels: int, rng: np.random.Generator) -> np.ndarray:
        """A slice in HU, shape (pixels, pixels) int16.

        Args:
            truth: (n, n) labels of the tissue on the painting grid, n a multiple of ``pixels``.
            z: of the slice, mm.
            pixels: of the image along x and y.
            rng: of this slice; except for the noise, draws do not depend on the number of pixels.
        """
        from scipy import ndimage

        patient, n = self.thorax.patient, len(truth)
        canvas = Canvas(pixel_centres(n))
        paint_body(canvas, self.thorax, z, rng)
        lung_edge = coverage(self.thorax.lungs(canvas.x, canvas.y, z), canvas.pixel) * (
            ndimage.maximum_filter(truth, 3) > 0
        )
        canvas.blend(lung_edge, self.lung(canvas, truth, z, rng))
        image = ndimage.gaussian_filter(canvas.hu, patient.psf / canvas.pixel)
        factor = n // pixels
        image = image.reshape(pixels, factor, pixels, factor).mean(axis=(1, 3))
        return np.clip(np.round(image + self.noise(pixels, rng)), -1024, 3071).astype(np.int16)

    def noise(self, pixels: int, rng: np.random.Generator) -> np.ndarray:
        """Noise in HU with the grain of a reconstruction kernel and the standard deviation of the patient."""
        from scipy import ndimage

        pixel = FIELD_OF_VIEW_MM / pixels
        white = rng.standard_normal((pixels, pixels))
        sigma = self.thorax.patient.grain / pixel
        noise = ndimage.gaussian_filter(white, sigma) - 0.6 * ndimage.gaussian_filter(white, 2.5 * sigma + 0.3)
        return noise / noise.std() * self.thorax.patient.noise

    def lung(self, canvas: Canvas, truth: np.ndarray, z: float, rng: np.random.Generator) -> np.ndarray:
        """HU of parenchyma, lesions, vessels and airways; only meaningful inside the lungs."""
        from scipy import ndimage

        patient, centres, pixel = self.thorax.patient, canvas.centres, canvas.pixel
        emphysema = ndimage.gaussian_filter((truth == LABELS["emphysema"]).astype(np.float32), 2.0 / pixel)
        ild = ndimage.gaussian_filter((truth == LABELS["ILD"]).astype(np.float32), 2.5 / pixel)
        down = np.clip(canvas.y / (2 * self.thorax.b), -0.5, 0.5)
        fine = PlaneField(rng, 1.6).at(centres)
        hu = patient.normal_hu + patient.gravity * down + 13 * self.mottle.at(centres, z) + 16 * fine
        hu += self._air_trapping(centres, z)
        for x, y, height, radius in self.cysts:  # thin-walled cysts, which are not emphysema
            radius_in_slice = np.sqrt(max(0.0, radius**2 - (z - height) ** 2))
            if radius_in_slice > 1.5:
                distance = np.hypot(canvas.x - x, canvas.y - y) - radius_in_slice
                hu += coverage(distance - 1.2, pixel) * (-780 - hu)
                hu += coverage(distance, pixel) * (-985 - hu)
        hu += emphysema * (self._emphysema(centres, rng) - hu)
        depth = ndimage.distance_transform_edt(truth > 0).astype(np.float32) * pixel
        hu += ild * (self.ild.hu(centres, centres, depth, rng) - hu)
        vessels = draw_tubes(self.vessels, centres, z, self.thickness) * (1 - 0.75 * emphysema)
        hu += vessels * (VESSEL_HU + patient.contrast - hu)
        hu += draw_tubes(self.airways, centres, z, 1.0, 1.1) * (AIRWAY_WALL_HU - hu)
        hu += draw_tubes(self.airways, centres, z, 1.0) * (LUMEN_HU - hu)
        return hu

    def _air_trapping(self, centres: np.ndarray, z: float) -> np.ndarray:
        """Smooth lobules of normal lung that are darker by 52 HU, which readers do not take for emphysema."""
        return -52 * sigmoid((self.trapping.at(centres, z) - self.traps) * 9)

    def _emphysema(self, centres: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Centrilobular holes between remnants of tissue."""
        holes = PlaneField(rng, 3.6).at(centres)
        return self.emphysema_hu + 46 * sigmoid(3.5 * (holes - 0.6)) - 30 * sigmoid(4 * (-holes - 0.2)) + 8
