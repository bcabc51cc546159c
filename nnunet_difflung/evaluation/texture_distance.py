"""Distance between painted and real texture, without any pretrained network.

A voxel's texture is described by nine numbers, computed from the voxels of its own class in the 7 × 7 window around it,
so that borders between classes have no influence:

* the standard deviation in the window;
* the root mean square difference of voxels 1, 2 and 3 pixels apart along rows and along columns, and of diagonal
  neighbours in both directions (an empirical variogram: fine and coarse grain, and its direction).

None of them depends on the mean intensity, which bias and Wasserstein distance measure. They are used as
log(1 + s / s₀) with s₀ = 10 HU (1/200 of the window's width), so that equal ratios count equally, and are standardised
with the real training voxels of the fold and class, so that every method is measured on the same scale.

Two sets of descriptors are compared by the energy distance 2·E‖X − Y‖ − E‖X − X′‖ − E‖Y − Y′‖ (Székely and Rizzo 2013),
estimated without bias. Like KID it is a squared MMD, with the kernel −‖x − y‖ (Sejdinovic et al. 2013): it is zero only
for equal distributions, whereas KID's cubic kernel compares three moments; it has no bandwidth to choose, and outliers
enter linearly, not with the sixth power. A distance of 1 is roughly a shift of all descriptors by one real standard
deviation. Patients differ and neighbouring windows overlap, so real texture does not reach 0 either:
``real_other_patients`` is the value of real slices of other patients.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist

_EDGE = 7  # pixels of the window
_OFFSETS = ((0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0), (1, 1), (1, -1))
_MIN_PAIRS = 6  # minimum sample size: pairs of voxels of the class in a window
_MAX_DESCRIPTORS = 1000  # maximum number of descriptors of a set for a distance
_SOFTENING = 1 / 200  # s₀ as a share of the window's width


def descriptors(image: np.ndarray, mask: np.ndarray, width: float, rng: np.random.Generator, limit: int) -> np.ndarray:
    """Texture around voxels of one class in one slice.

    Args:
        image: (h, w) intensities.
        mask: (h, w) bool, the class.
        width: width of the window that PSNR and SSIM use, in the image's unit.
        rng: chooses the voxels; the same mask and generator state choose the same voxels.
        limit: maximum number of described voxels.

    Returns:
        (n, 9), n ≤ limit; empty for regions that are too small or thin for differences over 3 pixels.
    """
    if not mask.any():
        return np.zeros((0, len(_OFFSETS) + 1))
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    centred = np.where(mask, image - image[mask].mean(dtype=float), 0.0)[box]
    centred, mask = np.pad(centred, _EDGE), np.pad(mask[box], _EDGE)
    mean, count = _window_mean(centred, mask)
    maps = [np.maximum(_window_mean(centred**2, mask)[0] - mean**2, 0)]
    usable = mask & (count >= _MIN_PAIRS)
    for offset in _OFFSETS:
        moved, moved_mask = (np.roll(part, np.negative(offset), (0, 1)) for part in (centred, mask))
        squared, pairs = _window_mean((moved - centred) ** 2, mask & moved_mask)
        usable &= pairs >= _MIN_PAIRS
        maps.append(np.maximum(squared, 0))
    chosen = np.argwhere(usable)
    chosen = chosen[np.sort(rng.permutation(len(chosen))[:limit])]
    roots = np.sqrt(np.stack([squares[tuple(chosen.T)] for squares in maps], 1))
    return np.log1p(roots / (width * _SOFTENING))


def _window_mean(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the masked pixels of the window around each pixel, and their number."""
    count = np.rint(_window_sum(mask.astype(float)))
    return _window_sum(np.where(mask, values, 0.0)) / np.maximum(count, 1), count


def _window_sum(values: np.ndarray) -> np.ndarray:
    return ndimage.uniform_filter(values, _EDGE, mode="constant") * _EDGE**2


def standardisation(real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of real descriptors (n, 9); a standard deviation below 0.05 counts as 0.05."""
    return real.mean(0), np.maximum(real.std(0), 0.05)


def texture_distance(
    first: np.ndarray, second: np.ndarray, scale: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> float:
    """Unbiased energy distance of two sets of descriptors (n, 9) and (m, 9); at most 1000 of each are used.

    Raises:
        ValueError: a set has fewer than two descriptors.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"{len(first)} and {len(second)} descriptors; expected at least 2 of each")
    x, y = (_standardised(rng.permutation(part)[:_MAX_DESCRIPTORS], scale) for part in (first, second))
    return float(2 * cdist(x, y).mean() - _within(x) - _within(y))


def _standardised(values: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Each descriptor in units of its real spread, divided by √9, so that 1 is one spread in all of them."""
    return (values - scale[0]) / scale[1] / np.sqrt(values.shape[1])


def _within(x: np.ndarray) -> float:
    return float(cdist(x, x).sum() / (len(x) * (len(x) - 1)))
