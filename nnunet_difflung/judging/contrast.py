"""How far a lesion's intensities lie from normal lung, on a scale from 0 (normal lung) to 1 (the real class).

Two patients' images can differ by more than a class differs from normal lung, so the tolerance around the pooled
intensities of a class may reach normal lung. The normal lung of the same image shares the patient's level. Therefore a
linear discriminant is fitted to two features for each channel, the median of the region and its difference to that of
the normal lung in the image, between real lesions and pieces of normal lung ("blanks") of the training cases. Its
threshold comes from patients that the discriminant was not fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RIDGE = 0.05  # share added to each feature's variance
_NOISE = 0.005  # smallest standard deviation of a feature, as a share of the window's width
_LOST = 0.025  # share of the real lesions of unseen patients that may lie below the threshold
_STOPPED = 0.95  # share of the blanks that the threshold should stop
_MIN_REGIONS = 5  # minimum number of real lesions, and of blanks


@dataclass(frozen=True)
class Contrast:
    """A discriminant between normal lung and a class.

    Attributes:
        weights: (2c,) of the features.
        origin: (2c,) mean features of blanks.
        minimum: smallest accepted contrast.
        patients: contrast of each training patient's lesions (mean over slices), each from a fit without the patient.
    """

    weights: np.ndarray
    origin: np.ndarray
    minimum: float
    patients: tuple[float, ...]

    def of(self, region: np.ndarray, normal: np.ndarray) -> float:
        """Contrast of a region; 0 is the mean of normal lung, 1 the mean of real lesions.

        Args:
            region: (c,) median intensities of the region.
            normal: (c,) median intensities of normal lung in the same image.
        """
        return float((features(region, normal) - self.origin) @ self.weights)


def features(region: np.ndarray | Sequence[np.ndarray], normal: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """(…, 2c) features of regions with (…, c) medians."""
    return np.concatenate([np.asarray(region), np.asarray(region) - np.asarray(normal)], axis=-1)


def fit_contrast(
    real: np.ndarray, real_patients: np.ndarray, blank: np.ndarray, blank_patients: np.ndarray, widths: Sequence[float]
) -> Contrast | None:
    """Fits the discriminant; each patient has the same weight.

    The threshold is chosen so that 97.5 % of the real lesions of patients left out of the fit lie above it. If that
    stops more than 95 % of the blanks of patients left out, it is halfway to where 95 % are stopped.

    Args:
        real: (n, 2c) features of real lesions.
        real_patients: (n,) their patients.
        blank: (m, 2c) features of blanks.
        blank_patients: (m,) their patients.
        widths: (c,) of the intensity windows.

    Returns:
        None with fewer than five lesions or blanks, or if lesions and blanks have the same mean.
    """
    if min(len(real), len(blank)) < _MIN_REGIONS:
        return None
    noise = np.tile(np.asarray(widths, float) * _NOISE, 2)
    whole = _discriminant(real, real_patients, blank, blank_patients, noise)
    if whole is None:
        return None
    of_real, of_blank = np.empty(len(real)), np.empty(len(blank))
    for patient in np.union1d(real_patients, blank_patients):
        own, own_blank = real_patients == patient, blank_patients == patient
        fit = None
        if not (own.all() or own_blank.all()):
            fit = _discriminant(real[~own], real_patients[~own], blank[~own_blank], blank_patients[~own_blank], noise)
        weights, origin = fit or whole
        of_real[own], of_blank[own_blank] = (real[own] - origin) @ weights, (blank[own_blank] - origin) @ weights
    lowest = _quantile(of_real, _weights(real_patients), _LOST)
    highest = _quantile(of_blank, _weights(blank_patients), _STOPPED)
    patients = tuple(float(of_real[real_patients == patient].mean()) for patient in np.unique(real_patients))
    return Contrast(*whole, (lowest + highest) / 2 if lowest > highest else lowest, patients)


def _discriminant(
    real: np.ndarray, real_patients: np.ndarray, blank: np.ndarray, blank_patients: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights that map the blanks' mean to 0 and the lesions' to 1, and the blanks' mean."""
    means, covariance = [], np.diag(noise**2)
    for part, patients in ((real, real_patients), (blank, blank_patients)):
        weights = _weights(patients)
        means.append(np.average(part, axis=0, weights=weights))
        covariance += np.cov(part.T, aweights=weights, bias=True) / 2
    covariance += _RIDGE * np.diag(np.diag(covariance))
    gap = means[0] - means[1]
    weights = np.linalg.solve(covariance, gap)
    scale = float(gap @ weights)
    return (weights / scale, means[1]) if scale > 1e-12 else None


def _weights(patients: np.ndarray) -> np.ndarray:
    """Weights of regions so that every patient has the same weight."""
    _, index, counts = np.unique(patients, return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[index])


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(len(values) - 1, int(np.searchsorted(cumulative, share)))])
