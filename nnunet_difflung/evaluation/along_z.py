"""How a lesion goes on from slice to slice: figures of real and painted lesions of volumes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_FEWEST = 4  # voxels of a pair of slices

FIGURES: Mapping[str, int] = {"correlation": 3, "flicker": 2, "difference": 2, "end_step": 2}
"""Figure → digits.

``correlation``: of voxels one above the other, whose slices' means are subtracted; ``flicker``: mean difference of the
means of neighbouring slices; ``difference``: mean difference of voxels one above the other; ``end_step``: the same at
the ends of a lesion, between its voxels and the normal lung above or below them. All but the first in the image's unit.
"""


class AlongZ:
    """The figures of the lesions of a patient, or of a class.

    Pairs of voxels count alike, whichever lesion they belong to; the flicker's pairs of slices count as much as they
    have such pairs.
    """

    def __init__(self) -> None:
        self._products, self._flicker, self._differences = np.zeros(2), np.zeros(2), np.zeros(2)
        self._ends = np.zeros(2)

    def add(self, image: np.ndarray, lesion: np.ndarray, normal: np.ndarray) -> None:
        """Counts a lesion.

        Args:
            image: (z, y, x) intensities of one channel.
            lesion: (z, y, x) bool.
            normal: (z, y, x) bool, normal lung.
        """
        image = image.astype(np.float64)
        for z in range(len(image) - 1):
            both = lesion[z] & lesion[z + 1]
            if both.sum() >= _FEWEST:
                self._add_pair(image[z][both], image[z + 1][both])
            for here, there in ((z, z + 1), (z + 1, z)):
                end = lesion[here] & normal[there]
                step = np.abs(image[here][end] - image[there][end])
                self._ends += [step.sum(), step.size]

    def _add_pair(self, below: np.ndarray, above: np.ndarray) -> None:
        a, b = below - below.mean(), above - above.mean()
        self._products += [(a * b).sum(), np.sqrt((a**2).sum() * (b**2).sum())]
        self._flicker += [abs(below.mean() - above.mean()) * below.size, below.size]
        self._differences += [np.abs(below - above).sum(), below.size]

    def row(self) -> dict[str, float]:
        """Figure → value; NaN where no lesion has two slices, or none has an end in normal lung."""
        sums = (self._products, self._flicker, self._differences, self._ends)
        return {
            name: float(total / weight) if weight else float("nan")
            for name, (total, weight) in zip(FIGURES, sums, strict=True)
        }
