"""The phantom's scanners: two reconstruction kernels and three doses, as blur, enhanced edges and correlated noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOISE_HU = {"high": 11.0, "standard": 15.0, "low": 21.0}  # of the soft kernel at 0.7 mm pixels


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel.

    Attributes:
        blur: sigma of the point spread function in mm.
        edge: weight of the edges that the kernel adds to the image.
        grain: sigma of the noise's grain in mm.
        blue: share of the coarse noise that the kernel suppresses, 0..1.
        noise: factor on the dose's noise.
    """

    blur: float
    edge: float
    grain: float
    blue: float
    noise: float


KERNELS = {"soft": Kernel(0.55, 0.0, 0.55, 0.3, 1.0), "sharp": Kernel(0.42, 0.35, 0.46, 0.5, 1.5)}
STREAKS, STREAK_MM = 0.6, 1.6  # noise drawn out across the body, where rays pass through most tissue
EDGE_MM = 0.9  # sigma of the blur that edge enhancement subtracts


@dataclass(frozen=True)
class Scanner:
    """A kernel of ``KERNELS`` and a dose of ``NOISE_HU``."""

    kernel: str
    dose: str

    @property
    def noise_hu(self) -> float:
        """Standard deviation of the noise at 0.7 mm pixels, HU."""
        return NOISE_HU[self.dose] * KERNELS[self.kernel].noise

    def scanned(self, hu: np.ndarray, pixel: float, rng: np.random.Generator) -> np.ndarray:
        """An image as the scanner reconstructs it, on the same grid.

        Args:
            hu: (n, n) of the tissue.
            pixel: of the grid in mm, at most about 0.7 so that the grain of the noise is resolved.
            rng: draws the noise.
        """
        from scipy import ndimage

        kernel = KERNELS[self.kernel]
        image = ndimage.gaussian_filter(hu, kernel.blur / pixel, truncate=3)
        if kernel.edge:
            image = image + kernel.edge * (image - ndimage.gaussian_filter(image, EDGE_MM / pixel, truncate=3))
        white = rng.standard_normal(hu.shape, dtype=np.float32)
        noise = ndimage.gaussian_filter(white, kernel.grain / pixel, truncate=3)
        noise -= kernel.blue * ndimage.gaussian_filter(noise, 2 * kernel.grain / pixel, truncate=3)
        streaks = ndimage.gaussian_filter1d(noise, STREAK_MM / pixel, axis=1, truncate=3)
        noise = noise + streaks * (STREAKS * noise.std() / streaks.std())
        return image + noise * (self.noise_hu / noise.std())


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """One of the six scanners."""
    return Scanner(str(rng.choice(list(KERNELS))), str(rng.choice(list(NOISE_HU))))
