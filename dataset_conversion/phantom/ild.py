"""HU of interstitial lung disease: ground glass crossed by fine lines, with honeycombing under the pleura."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.fields import PlaneField, sigmoid


@dataclass(frozen=True)
class IldTexture:
    """What differs between patients.

    Attributes:
        glass_hu: of ground glass.
        honeycomb: amount of honeycombing, 0..1.
    """

    glass_hu: float
    honeycomb: float

    def hu(self, y: np.ndarray, x: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """HU at the pixels of a grid, shape (y, x).

        Args:
            y, x: centres of the pixels in mm.
            depth: (y, x) distance to the pleura in mm.
            rng: of this slice.
        """
        glass = self.glass_hu + 70 * PlaneField(rng, 7.0).at(y, x) + 28 * PlaneField(rng, 2.0).at(y, x)
        lines = np.exp(-((PlaneField(rng, 4.2).at(y, x) / 0.17) ** 2))
        lined = sigmoid(2.5 * (PlaneField(rng, 15.0).at(y, x) + 0.2))
        hu = glass + lines * lined * (-180 - glass) * 0.75
        cysts = PlaneField(rng, 2.5).at(y, x)
        comb = sigmoid(14 * (cysts - 0.75)) * sigmoid((9 - depth) / 2) * self.honeycomb
        wall = np.exp(-(((cysts - 0.35) / 0.3) ** 2)) * sigmoid((9 - depth) / 2) * self.honeycomb
        hu = hu + 0.6 * wall * (-250 - hu)
        return hu + comb * (-905 - hu)
