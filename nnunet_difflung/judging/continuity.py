"""How a lesion goes on from slice to slice: figures of real and painted lesions of volumes.

Slices that are painted one by one can each look real and yet be a stack of unrelated pictures, which shows in coronal
and sagittal cuts alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.lesions.masks import MIN_VOXELS
from nnunet_difflung.preparing.application import AppliedCase
from nnunet_difflung.runtime.progress import Tell, nobody, telling

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

    Attributes:
        pairs: number of pairs of voxels one above the other.
    """

    def __init__(self) -> None:
        self._products, self._flicker, self._differences = np.zeros(2), np.zeros(2), np.zeros(2)
        self._ends = np.zeros(2)
        self.pairs = 0

    @property
    def ends(self) -> int:
        """Number of voxels at the ends of lesions."""
        return int(self._ends[1])

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
        self.pairs += below.size

    def join(self, other: AlongZ) -> None:
        """Adds the lesions of another tally."""
        self._products += other._products
        self._flicker += other._flicker
        self._differences += other._differences
        self._ends += other._ends
        self.pairs += other.pairs

    def row(self) -> dict[str, float]:
        """Figure → value; NaN where no lesion has two slices, or none has an end in normal lung."""
        sums = (self._products, self._flicker, self._differences, self._ends)
        return {
            name: float(total / weight) if weight else float("nan")
            for name, (total, weight) in zip(FIGURES, sums, strict=True)
        }


def add_lesions(
    tallies: Sequence[AlongZ],
    image: np.ndarray,
    lesions: np.ndarray,
    normal: np.ndarray,
    windows: Sequence[tuple[float, float]] = (),
) -> None:
    """Counts each connected lesion by itself, in every channel.

    Args:
        tallies: one for each channel.
        image: (c, z, y, x) intensities.
        lesions: (z, y, x) bool.
        normal: (z, y, x) bool, normal lung.
        windows: of the channels, to whose ends intensities are clipped; none: as they are.
    """
    parts, _ = ndimage.label(lesions)
    limits = windows or [(-np.inf, np.inf)] * len(image)
    for number, (z, y, x) in enumerate(ndimage.find_objects(parts), start=1):
        box = (slice(max(0, z.start - 1), z.stop + 1), y, x)
        lesion = parts[box] == number
        if lesion.sum() >= MIN_VOXELS:
            for tally, channel, window in zip(tallies, image, limits, strict=True):
                tally.add(np.clip(channel[box], *window), lesion, normal[box])


def measured(
    image: np.ndarray, lesions: np.ndarray, normal: np.ndarray, windows: Sequence[tuple[float, float]] = ()
) -> list[dict[str, float]] | None:
    """The figures of a class in a case, channel by channel; None where nothing lies in two slices.

    Beside the figures: ``pairs`` and ``ends``, the number of voxels that they are of.

    Args:
        image: (c, z, y, x) intensities.
        lesions: (z, y, x) bool.
        normal: (z, y, x) bool, normal lung.
        windows: as for ``add_lesions``.
    """
    tallies = [AlongZ() for _ in image]
    add_lesions(tallies, image, lesions, normal, windows)
    if not tallies[0].pairs:
        return None
    rows = [{name: value for name, value in tally.row().items() if np.isfinite(value)} for tally in tallies]
    return [row | {"pairs": tally.pairs, "ends": tally.ends} for row, tally in zip(rows, tallies, strict=True)]


def of_case(
    applied: AppliedCase, values: np.ndarray, cache: SliceCache, windows: Sequence[tuple[float, float]]
) -> dict[str, list[dict[str, float]]]:
    """Class → how its new lesions go on from slice to slice (``measured``), for those that lie in several slices.

    Args:
        applied: the planned case, with new lesions.
        values: (c, n, y, x) intensities of its n slices that change.
        cache: of the real cases.
        windows: of the channels; intensities count up to their ends, beyond which nothing can be painted.
    """
    roles, host, z = cache.roles, applied.planned.host, np.array(applied.planned.slices)
    first, last = max(0, int(z[0]) - 1), int(z[-1]) + 2
    box = ndimage.find_objects(applied.changed.any(0).astype(np.uint8))[0]
    image = np.array(cache.image(host)[(slice(None), slice(first, last), *box)], np.float32)
    condition = np.array(cache.condition(host)[(slice(first, last), *box)])
    changed = np.zeros(condition.shape, bool)
    image[:, z - first], condition[z - first] = values[(..., *box)], applied.condition[(slice(None), *box)]
    changed[z - first] = applied.changed[(slice(None), *box)]
    normal, found = roles.is_normal(condition), {}
    for name in roles.pathologies:
        rows = measured(image, changed & (condition == roles.values[name]), normal, windows)
        if rows:
            found[name] = rows
    return found


@dataclass(frozen=True)
class RealContinuity:
    """A class's real lesions in one channel.

    Attributes:
        all: figure → value over all training cases.
        patients: figure → value of each training patient who has it.
    """

    all: dict[str, float]
    patients: dict[str, tuple[float, ...]]


def continuity_reference(
    cache: SliceCache,
    identifiers: Sequence[str],
    patients: Mapping[str, str],
    windows: Sequence[tuple[float, float]],
    tell: Tell = nobody,
) -> dict[str, list[RealContinuity]]:
    """Class → the figures of its real lesions in each channel; empty for a dataset of slices.

    Args:
        cache: of the real cases.
        identifiers: the fold's training cases.
        patients: case id → patient.
        windows: of the channels, as for ``of_case``.
        tell: gets the share of the work that is done.
    """
    found: dict[str, dict[str, list[AlongZ]]] = defaultdict(dict)
    for identifier in telling(sorted(identifiers), tell):
        facts, roles = cache.facts[identifier], cache.roles
        if facts.shape[0] == 1:
            continue
        image, condition = cache.image(identifier), cache.condition(identifier)
        for name in roles.pathologies:
            holding = np.flatnonzero(facts.counts[name])
            if len(holding):
                part = slice(max(0, int(holding[0]) - 1), int(holding[-1]) + 2)
                values, label = np.asarray(image[:, part]), np.asarray(condition[part])
                tallies = found[name].setdefault(patients[identifier], [AlongZ() for _ in values])
                add_lesions(tallies, values, label == roles.values[name], roles.is_normal(label), windows)
    return {name: [_real(channel) for channel in zip(*found[name].values(), strict=True)] for name in found}


def _real(patients: Sequence[AlongZ]) -> RealContinuity:
    """The reference of a class in a channel, from the tallies of its patients."""
    together = AlongZ()
    for tally in patients:
        together.join(tally)
    rows = [tally.row() for tally in patients]
    return RealContinuity(
        {name: value for name, value in together.row().items() if np.isfinite(value)},
        {name: tuple(row[name] for row in rows if np.isfinite(row[name])) for name in FIGURES},
    )
