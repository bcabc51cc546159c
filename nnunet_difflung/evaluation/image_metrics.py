"""Figures of Table 1 for one patient: painted images compared with real ones.

PSNR and SSIM follow one convention: intensities are clipped to [−1000, 1000] HU (other images: the generators' window),
mapped to [0, 1], ``data_range`` 1, Gaussian window 11 pixels wide with σ 1.5, and the mean of scikit-image's full SSIM
map. Figures of another convention must not be compared with these.

``*_lung`` figures are computed over the lung alone. Figures of the whole isolated slice include the background, which
has the same value in the real and the painted image (the window's low end, as in written synthetic cases). This raises
the figures of all methods alike, most of all in slices with much background.

``psnr_lung_of_mean`` is the PSNR that the mean of infinitely many samples of a mask would have. The squared error of a
sample that has the right texture, but not this patient's noise, contains the texture's variance twice. The squared
error of a blurred image contains it once, so the blurred image scores up to 3 dB better although it is worse. The mean
of many samples can be compared fairly with a blurred image. With n samples the squared error of their mean still
contains 1 / n of the texture's variance; an unbiased estimate of it, the samples' variance / n, is subtracted. The PSNR
of identical samples, and of a single sample, whose variance is unknown, does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity

from nnunet_difflung.evaluation.real_slices import RealSlice, Window
from nnunet_difflung.evaluation.texture_distance import descriptors, texture_distance
from nnunet_difflung.judging.continuity import FIGURES, AlongZ
from nnunet_difflung.judging.gate import wasserstein
from nnunet_difflung.meaning.labels import LabelRoles

SCALARS = ("psnr", "ssim", "psnr_lung", "ssim_lung", "mae_lung", "psnr_lung_of_mean")
BY_CLASS = ("hu_bias", "wasserstein", "sd_ratio", "texture", "real_sd")
ALONG_Z = ("along_z", "real_along_z")
"""Figure (``continuity.FIGURES``) → class → value of painted and of real slices, where neighbours are painted."""
_BEST_PSNR = 100.0  # dB; stands for the infinite PSNR of equal images, so that means stay finite
_SSIM_EDGE = 11  # pixels
_MIN_VOXELS = 8  # minimum sample size of a class in a patient
_VOXELS_PER_SLICE = 20_000  # maximum number of voxels of a class in a slice for a patient's distribution
_TEXTURES_PER_SLICE = 200  # maximum number of texture descriptors of a class in a slice

Pool = dict[str, list[tuple[np.ndarray, np.ndarray]]]  # class → (voxels, texture descriptors) of each slice
Scales = dict[str, tuple[np.ndarray, np.ndarray]]  # class → mean and sd of real texture descriptors


def psnr(difference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of differences between images in [0, 1]; at most 100."""
    return _decibels(float(np.mean(np.square(difference, dtype=float))))


def psnr_of_mean(samples: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB, at most 100, that the mean of infinitely many samples would have.

    Args:
        samples: (n, voxels) in [0, 1]; with n = 1 the result is the PSNR of this sample.
        truth: (voxels,).
    """
    squared = np.mean((samples.mean(0) - truth) ** 2)
    return _decibels(float(squared - samples.var(0, ddof=1).mean() / len(samples) if len(samples) > 1 else squared))


def _decibels(squared_error: float) -> float:
    """PSNR of a mean squared error; 1e-10 or less, including an estimate below 0, gives 100 dB."""
    return float(-10 * np.log10(max(squared_error, 10 ** (-_BEST_PSNR / 10))))


def ssim_map(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(h, w) structural similarity of images in [0, 1]; edges shorter than the window's 11 pixels are padded with 0."""
    height, width = first.shape
    pad = [(0, max(0, _SSIM_EDGE - edge)) for edge in (height, width)]
    _, similarity = structural_similarity(
        *(np.pad(image.astype(float), pad) for image in (first, second)),
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return similarity[:height, :width]


def image_figures(
    real: np.ndarray, painted: np.ndarray, lung: np.ndarray, counted: np.ndarray, window: Window
) -> dict[str, float]:
    """Figures of a slice.

    Args:
        real: (h, w), clipped to the window.
        painted: (n, h, w) samples, clipped to the window.
        lung: (h, w) bool, normal lung and pathologies, not empty.
        counted: (h, w) bool, False where the label is ``ignore``; there the painted image is replaced by the real one.
        window: (low, high) intensities that become 0 and 1.

    Returns:
        ``SCALARS``: means over the samples (``psnr_lung_of_mean`` takes all of them together); MAE in the images' unit.
    """
    low, width = window[0], window[1] - window[0]
    truth = (real.astype(float) - low) / width
    samples = [np.where(counted, (image.astype(float) - low) / width, truth) for image in painted]
    rows = []
    for image in samples:
        similarity, difference = ssim_map(truth, image), image - truth
        rows.append(
            (
                psnr(difference[counted]),
                similarity[counted].mean(),
                psnr(difference[lung]),
                similarity[lung].mean(),
                width * np.abs(difference[lung]).mean(),
            )
        )
    figures = dict(zip(SCALARS, map(float, np.mean(rows, 0)), strict=False))
    return {**figures, "psnr_lung_of_mean": psnr_of_mean(np.stack(samples)[:, lung], truth[lung])}


def diversity(painted: np.ndarray, mask: np.ndarray) -> float:
    """Spread between the (n, h, w) samples of a mask, n ≥ 2: root of the mean variance of its voxels."""
    return float(np.sqrt(painted[:, mask].astype(float).var(0, ddof=1).mean()))


def pool_slice(
    image: np.ndarray, condition: np.ndarray, key: Sequence[int], roles: LabelRoles, window: Window
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Voxels and texture descriptors of each lung class in a slice; equal masks and keys choose the same positions."""
    pooled = {}
    for name in roles.lung:
        mask, rng = condition == roles.values[name], np.random.default_rng([*key, roles.values[name]])
        if mask.any():
            voxels = image[mask]
            chosen = (
                rng.permutation(len(voxels))[:_VOXELS_PER_SLICE] if len(voxels) > _VOXELS_PER_SLICE else slice(None)
            )
            pooled[name] = (
                voxels[chosen].astype(float),
                descriptors(image, mask, window[1] - window[0], rng, _TEXTURES_PER_SLICE),
            )
    return pooled


def add_to_pool(pool: Pool, pooled: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Adds a slice's voxels and descriptors."""
    for name, parts in pooled.items():
        pool.setdefault(name, []).append(parts)


def class_figures(real: Pool, painted: Pool, scales: Scales) -> dict[str, dict[str, float]]:
    """Compares the distributions of each class in two pools: ``BY_CLASS`` → class → figure, in the images' unit.

    ``hu_bias`` is the mean of the painted minus the mean of the real voxels, ``sd_ratio`` the ratio of their standard
    deviations, ``real_sd`` the standard deviation of the real voxels, ``wasserstein`` the 1-Wasserstein distance, and
    ``texture`` the ``texture_distance``. Classes with fewer than 8 voxels are left out, and so is the texture of
    classes that are too thin for its window.
    """
    figures: dict[str, dict[str, float]] = {name: {} for name in BY_CLASS}
    for name in [name for name in real if name in painted]:
        (real_voxels, real_textures), (painted_voxels, painted_textures) = (
            [np.concatenate(part) for part in zip(*pool[name], strict=True)] for pool in (real, painted)
        )
        if min(len(real_voxels), len(painted_voxels)) < _MIN_VOXELS:
            continue
        figures["hu_bias"][name] = float(painted_voxels.mean() - real_voxels.mean())
        figures["wasserstein"][name] = wasserstein(painted_voxels, real_voxels)
        figures["real_sd"][name] = float(real_voxels.std())
        if real_voxels.std() > 0:
            figures["sd_ratio"][name] = float(painted_voxels.std() / real_voxels.std())
        if name in scales and min(len(real_textures), len(painted_textures)) >= 2:
            rng = np.random.default_rng([len(real_textures), len(painted_textures)])
            figures["texture"][name] = texture_distance(real_textures, painted_textures, scales[name], rng)
    return figures


class PatientTally:
    """Collects the slices of a patient that a method painted, and makes the patient's row of the table."""

    def __init__(self, roles: LabelRoles, window: Window, scales: Scales):
        self.roles, self.window, self.scales = roles, window, scales
        self.images: list[dict[str, float]] = []
        self.spread: dict[str, list[float]] = {}
        self.seconds: list[float] = []
        self.real: Pool = {}
        self.painted: Pool = {}
        self.along_z: dict[str, tuple[AlongZ, AlongZ]] = {}  # class → painted, real
        self._below: tuple[RealSlice, np.ndarray] | None = None

    def add(
        self, true: RealSlice, painted: np.ndarray, seconds: float | None = None, condition: np.ndarray | None = None
    ) -> None:
        """Adds a slice.

        Args:
            true: the real slice.
            painted: (n, h, w) samples.
            seconds: painting time per image; None if no network painted it.
            condition: (h, w) condition map of ``painted``; None if it is the real slice's condition map.
        """
        lung = np.isin(true.condition, self.roles.lung_values())
        counted = np.ones_like(lung) if self.roles.ignore is None else true.condition != self.roles.ignore
        self.images.append(image_figures(true.image, painted, lung, counted, self.window))
        self.seconds += [] if seconds is None else [seconds]
        add_to_pool(self.real, pool_slice(true.image, true.condition, true.key, self.roles, self.window))
        for image in painted:
            where = true.condition if condition is None else condition
            add_to_pool(self.painted, pool_slice(image, where, true.key, self.roles, self.window))
        for name in self.roles.lung if len(painted) > 1 else ():
            mask = true.condition == self.roles.values[name]
            if mask.any():
                self.spread.setdefault(name, []).append(diversity(painted, mask))

        if seconds is not None:
            self._add_along_z(true, painted)

    def _add_along_z(self, true: RealSlice, painted: np.ndarray) -> None:
        """Compares a slice with the one below it, if that is the one that was added before, lesion by lesion.

        Two lesions of a class that differ in their level would else count as voxels that resemble those above them.
        """
        below, self._below = self._below, (true, painted)
        if below is None or (below[0].case, below[0].z + 1) != (true.case, true.z):
            return
        condition = np.stack([below[0].condition, true.condition])
        normal, real = self.roles.is_normal(condition), np.stack([below[0].image, true.image])
        images = np.stack([below[1], painted], axis=1)
        for name in self.roles.pathologies:
            parts, _ = ndimage.label(condition == self.roles.values[name])
            for number, (_, *window) in enumerate(ndimage.find_objects(parts), start=1):
                box = (slice(None), *window)  # both slices: a lesion may end between them
                of_painted, of_real = self.along_z.setdefault(name, (AlongZ(), AlongZ()))
                of_real.add(real[box], parts[box] == number, normal[box])
                for image in images:
                    of_painted.add(image[box], parts[box] == number, normal[box])

    def row(self) -> dict:
        """The patient's figures: means over slices, and distributions over all of the patient's voxels."""
        row: dict = {"slices": len(self.images)}
        for name in SCALARS:
            row[name] = float(np.mean([image[name] for image in self.images]))
        row |= class_figures(self.real, self.painted, self.scales)
        row["diversity"] = {name: float(np.mean(values)) for name, values in self.spread.items()}
        for what, tallies in zip(ALONG_Z, zip(*self.along_z.values(), strict=True), strict=False):
            rows = [tally.row() for tally in tallies]
            row[what] = {
                figure: {name: of[figure] for name, of in zip(self.along_z, rows, strict=True) if isfinite(of[figure])}
                for figure in FIGURES
            }
        row["seconds_per_image"] = float(np.median(self.seconds)) if self.seconds else None
        return row
