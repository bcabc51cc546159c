"""Random fields defined in millimetres, so that they look the same at every number of pixels."""

from __future__ import annotations

import numpy as np

FIELD_OF_VIEW_MM = 360.0


def pixel_centres(pixels: int, field_of_view: float = FIELD_OF_VIEW_MM) -> np.ndarray:
    """Centres of the pixels along one axis in mm, symmetric about 0, shape (pixels,) float32."""
    return ((np.arange(pixels) + 0.5) * field_of_view / pixels - field_of_view / 2).astype(np.float32)


def _weights(points: np.ndarray, nodes: np.ndarray, scale: float) -> np.ndarray:
    """Gaussian weights (points, nodes); rows have unit norm, so that a field of white noise has variance 1."""
    w = np.exp(-0.5 * ((points[:, None] - nodes[None]) / scale) ** 2)
    w[w < 1e-4] = 0  # avoids denormal numbers, which are slow
    return w / np.sqrt((w**2).sum(axis=1, keepdims=True))


def _nodes(low: float, high: float, scale: float) -> np.ndarray:
    return np.arange(low - 3 * scale, high + 3 * scale + 1e-6, scale).astype(np.float32)


class PlaneField:
    """A smooth Gaussian random field with zero mean and unit variance in a plane.

    Args:
        rng: draws the white noise, which does not depend on the number of pixels.
        scale_mm: sigma of the smoothing kernel in mm.
    """

    def __init__(self, rng: np.random.Generator, scale_mm: float):
        half = FIELD_OF_VIEW_MM / 2
        self.scale, self.nodes = scale_mm, _nodes(-half, half, scale_mm)
        self.white = rng.standard_normal((len(self.nodes), len(self.nodes)), dtype=np.float32)

    def at(self, centres: np.ndarray, across: np.ndarray | None = None) -> np.ndarray:
        """Values at the pixels of a grid, shape (y, x).

        Args:
            centres: of the pixels along y in mm.
            across: the same along x, if it differs.
        """
        w = _weights(centres, self.nodes, self.scale)
        return w @ self.white @ (w if across is None else _weights(across, self.nodes, self.scale)).T


class VolumeField:
    """Like ``PlaneField``, in three dimensions, with z in [-``height_mm``, 0]."""

    def __init__(self, rng: np.random.Generator, scale_mm: float, height_mm: float):
        half = FIELD_OF_VIEW_MM / 2
        self.scale, self.nodes = scale_mm, _nodes(-half, half, scale_mm)
        self.z_nodes = _nodes(-height_mm, 0, scale_mm)
        shape = (len(self.z_nodes), len(self.nodes), len(self.nodes))
        self.white = rng.standard_normal(shape, dtype=np.float32)

    def at(self, centres: np.ndarray, z: float, across: np.ndarray | None = None) -> np.ndarray:
        """Values in the plane at height ``z`` (mm), shape (y, x); see ``PlaneField.at``."""
        w = _weights(centres, self.nodes, self.scale)
        w_z = _weights(np.array([z], dtype=np.float32), self.z_nodes, self.scale)[0]
        across_w = w if across is None else _weights(across, self.nodes, self.scale)
        return w @ np.tensordot(w_z, self.white, axes=1) @ across_w.T


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Logistic function that does not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * values))


def coverage(signed_distance: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Share of a pixel inside a shape, from its signed distance in mm (negative inside), range 0..1."""
    return np.clip(0.5 - signed_distance / pixel_mm, 0, 1)
