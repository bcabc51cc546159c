"""What the page of Table 1 shows of the slices: a few of them as pictures, and the intensities of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnunet_difflung.config import CT_WINDOW
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.evaluation.real_slices import RealSlice, Window
from nnunet_difflung.meaning.labels import LabelRoles

MOST_PICTURES = 80
PER_CLASS, SAMPLES = 3, 2  # slices of a pathology, of different patients; samples of a mask
REAL = "real"
BINS = 60
_LUNG = (-1050.0, 150.0)  # HU; what is interesting of CT's window

Place = tuple[str, int]


@dataclass
class Shown:
    """A slice that is shown.

    Attributes:
        names: the pathologies that it is shown for.
        real: (h, w) intensities.
        condition: (h, w) condition map.
        painted: method → (n, h, w) samples.
    """

    names: tuple[str, ...]
    real: np.ndarray | None = None
    condition: np.ndarray | None = None
    painted: dict[str, np.ndarray] = field(default_factory=dict)


def gathered_slices(
    cache: SliceCache, places: Sequence[Place], patients: Mapping[str, str], methods: int
) -> dict[Place, Shown]:
    """The slices to show: of each pathology those with most voxels, of different patients.

    Args:
        cache: of the real cases.
        places: (case, z) of all slices that are painted.
        patients: case id → patient.
        methods: number of methods, each of which has pictures of its own.
    """
    names = cache.roles.pathologies or cache.roles.lung
    budget = max(1, MOST_PICTURES // (1 + SAMPLES * methods))
    per_class = max(1, min(PER_CLASS, budget // max(1, len(names))))
    chosen: dict[Place, list[str]] = {}
    for name in names:
        counts = {place: cache.facts[place[0]].counts[name][place[1]] for place in places}
        seen: set[str] = set()
        for place in sorted(places, key=lambda place: (-counts[place], place)):
            patient = patients[place[0]]
            if not counts[place] or len(seen) == per_class:
                break
            if patient not in seen and (place in chosen or len(chosen) < budget):
                seen.add(patient)
                chosen.setdefault(place, []).append(name)
    return {place: Shown(tuple(of)) for place, of in chosen.items()}


class Gathered:
    """Collects pictures and histograms while the methods are evaluated."""

    def __init__(self, roles: LabelRoles, window: Window, shown: dict[Place, Shown]):
        """Args: roles of the labels; the metrics' intensities (of CT, histograms show lung's part); shown slices."""
        self.roles, self.shown = roles, shown
        low, high = _LUNG if window == CT_WINDOW else window
        self.bins = np.linspace(low, high, BINS + 1)
        self.counts: dict[str, dict[str, np.ndarray]] = {name: {} for name in roles.lung}
        self._seen: set[Place] = set()

    def offer(self, true: RealSlice, method: str, painted: np.ndarray) -> None:
        """Adds a slice of which a method painted (n, h, w) samples."""
        place = (true.case, true.z)
        images = {method: painted} if place in self._seen else {REAL: true.image[None], method: painted}
        self._seen.add(place)
        for name in self.roles.lung:
            mask = true.condition == self.roles.values[name]
            if mask.any():
                for source, values in images.items():
                    inside = np.clip(values[:, mask], self.bins[0], self.bins[-1])
                    counts = np.histogram(inside, self.bins)[0]
                    self.counts[name][source] = self.counts[name].get(source, 0) + counts
        if place in self.shown:
            shown = self.shown[place]
            shown.real, shown.condition = true.image.copy(), true.condition.copy()
            shown.painted[method] = painted[:SAMPLES].copy()
