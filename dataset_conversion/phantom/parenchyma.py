"""Slices with lungs painted at about 0.7 mm, so that emphysema is a texture that coarser pixels average."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.anatomy import Thorax
from nnunet_difflung.dataset_conversion.phantom.body import Canvas, paint_body
from nnunet_difflung.dataset_conversion.phantom.emphysema import (
    ACINUS_MM,
    CYST_MM,
    FORMS,
    Lattice,
    Region,
    centrilobular,
    paraseptal,
    wandering,
)
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

FINE_GRID = 512  # pixels of 0.7 mm over the field of view
SLICE_MM = 1.25  # thickness
NORMAL_HU = -896.0  # half-way between front and back
LEVEL_SPREAD_HU = 30.0  # a patient's level differs from it by at most as much
SMALL_VESSELS_HU = 150.0  # contrast of vessels too small to be drawn
VESSEL_DENSITY, VESSEL_RADIUS_MM = 3, 0.4
SEVERITY_SPREAD = 0.55  # within a patient; one degree of severity is 1


@dataclass(frozen=True)
class Window:
    """The part of the fine grid around the lungs.

    Attributes:
        rows, columns: of the fine grid.
        y, x: centres of their pixels in mm.
        pixel: of the fine grid in mm.
    """

    rows: slice
    columns: slice
    y: np.ndarray
    x: np.ndarray
    pixel: float


class Painter:
    """Paints the slices of a patient with a scanner.

    Args:
        thorax: shapes of a patient who lies in a scanner.

    Raises:
        ValueError: the patient is one of the classic phantom and has no scanner.
    """

    def __init__(self, thorax: Thorax):
        if thorax.patient.scanner is None:
            raise ValueError("a patient of the classic phantom has no scanner; use ClassicPainter")
        self.thorax, self.scanner = thorax, thorax.patient.scanner
        patient, rng = thorax.patient, thorax.patient.rng(3)
        self.vessels = grow_vessels(thorax, VESSEL_DENSITY, VESSEL_RADIUS_MM)
        self.airways = airways(self.vessels)
        self.mottle = VolumeField(rng, 16.0, patient.height)
        self.trapping = VolumeField(rng, 12.0, patient.height)
        self.traps = rng.uniform(1.2, 1.8) if rng.random() < 0.65 else 9.0
        self.ild = IldTexture(rng.uniform(-640, -520), rng.uniform(0.2, 1.0))
        self.level = rng.uniform(-LEVEL_SPREAD_HU, LEVEL_SPREAD_HU)
        self.gravity = rng.uniform(20, 50)
        self.severity = FORMS.get(patient.form, 0) if patient.form != "paraseptal" else 1.5
        self.severities = VolumeField(rng, 18.0, patient.height)
        if patient.emphysema:
            self.acini, self.cysts = (
                Lattice(thorax, rng.uniform(*ACINUS_MM), rng),
                Lattice(thorax, rng.uniform(*CYST_MM), rng),
            )

    def slice(
        self, truth: np.ndarray, rows: np.ndarray | None, z: float, pixels: int, rng: np.random.Generator
    ) -> np.ndarray:
        """A slice in HU, shape (pixels, pixels) int16.

        Args:
            truth: (n, n) labels of the tissue on the painting grid, n a multiple of ``pixels``.
            rows: (n, n) mask of the emphysema that is paraseptal; None for nowhere.
            z: of the slice, mm.
            pixels: of the image along x and y.
            rng: of this slice.
        """
        n = len(truth)
        factor = max(1, -(-FINE_GRID // n))
        canvas = Canvas(pixel_centres(n))
        paint_body(canvas, self.thorax, z, rng)
        hu = enlarged(canvas.hu, factor)
        if truth.any():
            self._lay_lungs(hu, canvas, truth, rows, z, rng)
        image = self.scanner.scanned(hu, FIELD_OF_VIEW_MM / len(hu), rng)
        k = len(hu) // pixels
        image = image.reshape(pixels, k, pixels, k).mean(axis=(1, 3))
        return np.clip(np.round(image), -1024, 3071).astype(np.int16)

    def _lay_lungs(self, hu: np.ndarray, canvas: Canvas, truth: np.ndarray, cysts, z: float, rng) -> None:
        """Paints the lungs into the enlarged image of the body."""
        from scipy import ndimage

        factor = len(hu) // len(truth)
        found = ndimage.find_objects((truth > 0).astype(np.uint8))[0]
        above, beside = (slice(max(0, s.start - 2), min(len(truth), s.stop + 2)) for s in found)
        box = (above, beside)
        rows, columns = (slice(s.start * factor, s.stop * factor) for s in box)
        centres = pixel_centres(len(hu))
        window = Window(rows, columns, centres[rows], centres[columns], float(centres[1] - centres[0]))
        edge = enlarged(self.thorax.lungs(canvas.x[box], canvas.y[box], z).astype(np.float32), factor)
        inside = np.kron(ndimage.maximum_filter(truth[box], 3) > 0, np.ones((factor, factor), bool))
        share = coverage(edge, window.pixel) * inside
        lung = self.lung(window, truth[box], None if cysts is None else cysts[box], z, rng)
        hu[rows, columns] += share * (lung - hu[rows, columns])

    def lung(self, window: Window, truth: np.ndarray, rows: np.ndarray | None, z: float, rng) -> np.ndarray:
        """HU of parenchyma, lesions, vessels and airways in a window; only meaningful inside the lungs."""
        from scipy import ndimage

        patient, y, x = self.thorax.patient, window.y, window.x
        factor, pixel = len(y) // len(truth), window.pixel
        depth = ndimage.distance_transform_edt(truth > 0).astype(np.float32) * (pixel * factor)
        hu = self._normal(window, z, rng)
        emphysema = truth == LABELS["emphysema"]
        whole, inside = pixel_centres(round(FIELD_OF_VIEW_MM / pixel)), (window.rows, window.columns)
        vessels = draw_tubes(self.vessels, whole, z, SLICE_MM)[inside]
        if emphysema.any():
            soft = enlarged(ndimage.gaussian_filter(emphysema.astype(np.float32), 1.5 / (pixel * factor)), factor)
            self._emphysema(hu, soft, enlarged(depth, factor), rows, window, z, rng)
            vessels = vessels * (1 - 0.3 * soft)
        ild = truth == LABELS["ILD"]
        if ild.any():
            soft = enlarged(ndimage.gaussian_filter(ild.astype(np.float32), 2.5 / (pixel * factor)), factor)
            hu += soft * (self.ild.hu(y, x, enlarged(depth, factor), rng) - hu)
        hu += vessels * (VESSEL_HU + patient.contrast - hu)
        for grow, value in ((1.1, AIRWAY_WALL_HU), (0.0, LUMEN_HU)):
            hu += draw_tubes(self.airways, whole, z, 1.0, grow)[inside] * (value - hu)
        return hu

    def _normal(self, window: Window, z: float, rng: np.random.Generator) -> np.ndarray:
        """Normal lung: level, gravity, mottle, the smallest vessels, and lobules that trap air."""
        y, x = window.y, window.x
        down = np.clip(y / (2 * self.thorax.b), -0.5, 0.5)[:, None]
        small = PlaneField(rng, 0.8).at(y, x)
        hu = NORMAL_HU + self.level + self.gravity * down + 9 * self.mottle.at(y, z, x)
        hu = hu + 9 * PlaneField(rng, 1.6).at(y, x) + SMALL_VESSELS_HU * np.maximum(small - 1.1, 0)
        return hu - 38 * sigmoid((self.trapping.at(y, z, x) - self.traps) * 9)

    def _emphysema(self, hu, soft, depth, rows, window: Window, z: float, rng) -> None:
        """Paints emphysema where ``soft`` > 0, in place."""
        dx, dy = wandering(rng, window.y, window.x)
        severity = np.clip(self.severity + SEVERITY_SPREAD * self.severities.at(window.y, z, window.x), 0.6, 3.4)
        where = soft > 0.02
        factor = len(soft) // len(rows) if rows is not None else 1
        row = np.zeros_like(where) if rows is None else np.kron(rows, np.ones((factor, factor), bool))
        x, y = window.x[None] + dx, window.y[:, None] + dy
        for mask, paint, lattice in ((where & ~row, centrilobular, self.acini), (where & row, paraseptal, self.cysts)):
            if mask.any():
                region = Region(np.column_stack([x[mask], y[mask]]), z, depth[mask], severity[mask])
                hu[mask] += soft[mask] * (paint(hu[mask], region, lattice) - hu[mask])


def enlarged(values: np.ndarray, factor: int) -> np.ndarray:
    """Values on a grid ``factor`` times finer, interpolated linearly; the same field of view."""
    for axis in (0, 1):
        n = values.shape[axis]
        at = np.clip((np.arange(n * factor) + 0.5) / factor - 0.5, 0, n - 1)
        low = np.minimum(at.astype(np.intp), max(0, n - 2))
        share = (at - low).astype(np.float32)
        share = share[:, None] if axis == 0 else share[None]
        high = np.minimum(low + 1, n - 1)
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values
