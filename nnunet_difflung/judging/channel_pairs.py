"""The gate's comparison of channels with each other: do painted channels belong together as they do in real lesions?

Each channel by itself can look real while the channels do not fit each other, which marks every synthetic lesion: real
grey pictures have three equal channels, painted ones would be coloured. Two channels that are related in real lesions
are compared by how far one lies from the line that predicts it from the other; two that are not, by their correlation,
since a network may paint the same texture into both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

_RELATED = 0.5  # correlation, over all training voxels of the class, of channels that are related
_SLACK = 1.25  # factor on the 95th percentile of real slices, as for single channels
_LEAST_DISTANCE = 0.005  # smallest tolerance of the distance, as a share of the second channel's window
_LEAST_CORRELATION = 0.75  # smallest tolerance of the correlation, as Fisher's z
_CONSTANT = 0.001  # standard deviation, as a share of the window, below which a channel is constant in a class


@dataclass(frozen=True)
class Moments:
    """Of the voxels of one class in an image: their number, (c,) means and (c, c) covariances."""

    number: int
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, voxels: np.ndarray) -> Moments:
        """Moments of (c, n) intensities."""
        return cls(voxels.shape[1], voxels.mean(1), np.atleast_2d(np.cov(voxels, bias=True)))


@dataclass(frozen=True)
class PairReference:
    """Two channels in real lesions of one class.

    Attributes:
        channels: their numbers.
        line: (offset, slope) that predict the second channel from the first; None if they are not related.
        centre: mean correlation of real slices, as Fisher's z; 0 for related channels.
        tolerance: largest accepted distance from the line (root mean square, in the second channel's unit), or
            largest accepted difference to ``centre``.
    """

    channels: tuple[int, int]
    line: tuple[float, float] | None
    centre: float
    tolerance: float

    def compare(self, painted: Moments) -> dict:
        """Compares a painted region; twice the standard error is added to the tolerance.

        Returns:
            channels, figure (``distance`` or ``correlation``), value, low and high (of what is accepted), passes.
        """
        first, second = self.channels
        if self.line is None:
            chance = 2 / np.sqrt(max(painted.number - 3, 1))
            value = _z(painted, first, second)
            low, high = self.centre - self.tolerance - chance, self.centre + self.tolerance + chance
            figures = {"value": np.tanh(value), "low": np.tanh(low), "high": np.tanh(high)}
        else:
            value, low = _distance(painted, first, second, self.line), 0.0
            high = self.tolerance * (1 + 2 / np.sqrt(2 * painted.number))
            figures = {"value": value, "low": low, "high": high}
        return {
            "channels": [first, second],
            "figure": "correlation" if self.line is None else "distance",
            **{name: float(f"{figure:.3g}") for name, figure in figures.items()},
            "passes": bool(low <= value <= high),
        }


def pair_references(
    regions: Sequence[Moments], patients: np.ndarray, widths: Sequence[float], channels: Sequence[int]
) -> tuple[PairReference, ...]:
    """Each pair of channels in which the class is not constant.

    Args:
        regions: moments of the class in real slices.
        patients: (n,) their patients, who have the same weight.
        widths: (c,) of the intensity windows.
        channels: numbers of the channels to look at.
    """
    _, index, counts = np.unique(patients, return_inverse=True, return_counts=True)
    weights = 1 / counts[index]
    means = np.array([region.mean for region in regions])
    mean = np.average(means, axis=0, weights=weights)
    within = np.average([region.covariance for region in regions], axis=0, weights=weights)
    away = means - mean
    whole = Moments(len(regions), mean, within + np.einsum("i,ij,ik->jk", weights / weights.sum(), away, away))
    varying = [c for c in channels if whole.covariance[c, c] > (_CONSTANT * widths[c]) ** 2]
    return tuple(_pair(regions, weights, whole, pair, widths[pair[1]]) for pair in combinations(varying, 2))


def _pair(
    regions: Sequence[Moments], weights: np.ndarray, whole: Moments, pair: tuple[int, int], width: float
) -> PairReference:
    first, second = pair
    if abs(np.tanh(_z(whole, first, second))) >= _RELATED:
        slope = float(whole.covariance[first, second] / whole.covariance[first, first])
        line = float(whole.mean[second] - slope * whole.mean[first]), slope
        distances = np.array([_distance(region, first, second, line) for region in regions])
        return PairReference(pair, line, 0.0, _SLACK * max(percentile95(distances, weights), _LEAST_DISTANCE * width))
    z = np.array([_z(region, first, second) for region in regions])
    centre = float(np.average(z, weights=weights))
    return PairReference(
        pair, None, centre, max(_SLACK * percentile95(np.abs(z - centre), weights), _LEAST_CORRELATION)
    )


def _distance(region: Moments, first: int, second: int, line: tuple[float, float]) -> float:
    """Root mean square distance of the second channel from the line."""
    (offset, slope), covariance = line, region.covariance
    spread = covariance[second, second] - 2 * slope * covariance[first, second] + slope**2 * covariance[first, first]
    return float(np.sqrt(max(spread, 0.0) + (region.mean[second] - offset - slope * region.mean[first]) ** 2))


def _z(region: Moments, first: int, second: int) -> float:
    """Fisher's z of the correlation; 0 if a channel is constant in the region."""
    product = region.covariance[first, first] * region.covariance[second, second]
    if product <= 0:
        return 0.0
    return float(np.arctanh(np.clip(region.covariance[first, second] / np.sqrt(product), -0.999, 0.999)))


def percentile95(values: np.ndarray, weights: np.ndarray) -> float:
    """Weighted 95th percentile, interpolated; numpy's with equal weights."""
    order = np.argsort(values, kind="stable")
    sorted_weights = weights[order]
    position = (np.cumsum(sorted_weights) - sorted_weights) / max(sorted_weights[:-1].sum(), 1e-12)
    return float(np.interp(0.95, position, values[order]))
