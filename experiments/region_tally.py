"""Figures of lesions that were painted back into their real surroundings: added up over a patient's lesions."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from scipy.stats import wasserstein_distance

from experiments.region_borders import correlation, moments_across, vessels
from experiments.region_textures import LAGS, deviations, moments_at, similarity
from nnunet_difflung.judging.seam import border_of, steps, steps_within

FIGURES = {  # name → digits in a table
    "seam_outline": 2,
    "seam_edge": 2,
    "seam_host": 2,
    "correlation_outline": 3,
    "correlation_edge": 3,
    **{f"autocorrelation_{lag}": 3 for lag in LAGS},
    "sd_ratio": 2,
    "bias": 1,
    "wasserstein": 1,
    "sharpness": 2,
    "vessels_go_on": 2,
    "below": 3,
    "above": 3,
    "psnr": 2,
    "ssim": 3,
}


class RegionTally:
    """Adds up the painted lesions of one patient and method.

    Args:
        width: width of the window of intensities that PSNR and SSIM use.
        thresholds: intensities below and above which voxels are counted, such as the 5th and 95th percentile of the
            training lesions.
    """

    def __init__(self, width: float, thresholds: tuple[float, float]) -> None:
        self.width, self.thresholds, self.lesions = width, thresholds, 0
        self._sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(()))
        self._painted: list[np.ndarray] = []
        self._real: list[np.ndarray] = []

    def add(
        self, painted: np.ndarray, real: np.ndarray, lesion: np.ndarray, region: np.ndarray, normal: np.ndarray
    ) -> None:
        """Adds a lesion's slice.

        Args:
            painted: (h, w) intensities.
            real: (h, w) intensities of the same slice with its own lesion.
            lesion: (h, w) bool, its outline.
            region: (h, w) bool, all that was painted: the lesion and a margin of normal lung.
            normal: (h, w) bool, normal lung.
        """
        self.lesions += 1
        self._painted.append(painted[lesion].astype(float))
        self._real.append(real[lesion].astype(float))
        for name, inside in (("outline", lesion), ("edge", region | lesion)):
            border = border_of(inside, normal)
            self._add(f"steps_{name}", _sum_and_count(steps(painted, border)))
            self._add(f"real_steps_{name}", _sum_and_count(steps(real, border)))
            self._add(f"across_{name}", moments_across(painted, border))
        for lag in LAGS:
            self._add(f"at_{lag}", moments_at(painted, lesion, lag))
        untouched = normal & ~region & ~lesion
        self._add("host_steps", _sum_and_count(steps_within(real, untouched)))
        self._add("host_energy", _sum_and_count(steps_within(real, untouched) ** 2))
        self._add("energy", _sum_and_count(steps_within(painted, lesion) ** 2))
        self._add("deviations", np.array([deviations(painted, lesion), deviations(real, lesion)]))
        self._add("vessels", np.array(vessels(painted, region | lesion, normal), float))
        self._add("similarity", _sum_and_count(similarity(painted, real, lesion, self.width)))

    def _add(self, name: str, values: np.ndarray) -> None:
        self._sums[name] = self._sums[name] + values

    def row(self) -> dict[str, float]:
        """The patient's figures, NaN where there is nothing to take them from.

        ``seam_…``: mean absolute step across the border, divided by that of the real slice along the same border
        (``outline`` of the lesion, ``edge`` of the painted region), or (``host``) by that between any neighbours of
        the host's normal lung, at the edge. ``correlation_…``: of the two sides. ``sharpness``: mean squared step in
        the lesion divided by the host's. ``psnr`` is infinite for the lesion itself.
        """
        painted, real, sums = np.concatenate(self._painted), np.concatenate(self._real), self._sums
        low, high = self.thresholds
        error = float(((painted - real) ** 2).mean())
        reaching, going_on = sums["vessels"]
        return {
            **{f"seam_{n}": _ratio(_mean(sums[f"steps_{n}"]), _mean(sums[f"real_steps_{n}"])) for n in _BORDERS},
            "seam_host": _ratio(_mean(sums["steps_edge"]), _mean(sums["host_steps"])),
            **{f"correlation_{n}": correlation(sums[f"across_{n}"]) for n in _BORDERS},
            **{f"autocorrelation_{lag}": correlation(sums[f"at_{lag}"]) for lag in LAGS},
            "sd_ratio": float(np.sqrt(_ratio(*sums["deviations"]))),
            "bias": float(painted.mean() - real.mean()),
            "wasserstein": float(wasserstein_distance(painted, real)),
            "sharpness": _ratio(_mean(sums["energy"]), _mean(sums["host_energy"])),
            "vessels_go_on": _ratio(going_on, reaching),
            "below": float((painted < low).mean()),
            "above": float((painted > high).mean()),
            "psnr": float(10 * np.log10(self.width**2 / error)) if error else np.inf,
            "ssim": _mean(sums["similarity"]),
        }


_BORDERS = ("outline", "edge")


def _sum_and_count(values: np.ndarray) -> np.ndarray:
    return np.array([values.sum(), len(values)])


def _mean(sum_and_count: np.ndarray) -> float:
    return _ratio(*sum_and_count)


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else np.nan
