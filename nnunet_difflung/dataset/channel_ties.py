"""Channels that follow from another one, such as windows of the same CT: what occurs together in training cases."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache

_INTERVALS = 256, 4096  # minimum and maximum number of intervals of a leader that does not have whole numbers
_PER_INTERVAL = 16  # voxels of the lung for each such interval, on average
_MANY = 4  # voxels of the lung in an interval from which on its range says something
_EVIDENCE = 100  # voxels of the lung in such intervals
_NARROW = 0.2  # of the follower's standard deviation in the lung: a range that leaves no choice
_DETERMINED = 0.99  # share of these voxels whose range is narrow
_HOPELESS = 0.5  # with a smaller share after a case, the pair is given up


@dataclass(frozen=True)
class Tie:
    """The values of a channel that occur together with each value of another.

    Attributes:
        leader: the other channel.
        whole: whether the leader has whole numbers only.
        origin: the leader's value in the first interval.
        step: width of the leader's intervals.
        low: (intervals,) smallest value of the channel.
        high: (intervals,) largest value.
    """

    leader: int
    whole: bool
    origin: float
    step: float
    low: np.ndarray
    high: np.ndarray

    def bound(self, own: np.ndarray, leader: np.ndarray) -> np.ndarray:
        """The values that are nearest to ``own`` and occur together with the leader's."""
        index = np.clip(np.rint((leader - self.origin) / self.step), 0, len(self.low) - 1).astype(int)
        return np.clip(own, self.low[index], self.high[index])

    def digest(self) -> str:
        """Hash of the values that occur together."""
        content = self.low.astype("<f4").tobytes() + self.high.astype("<f4").tobytes()
        return hashlib.sha256(content + np.array([self.origin, self.step], "<f8").tobytes()).hexdigest()


class _Table:
    """Collects a pair's values; ``index`` are intervals of the leader."""

    def __init__(self, intervals: int):
        self.low, self.high = np.full(intervals, np.inf, np.float32), np.full(intervals, -np.inf, np.float32)
        self.lung = np.zeros(intervals)
        self.number, self.sum, self.squares = 0, 0.0, 0.0

    def add(self, index: np.ndarray, follower: np.ndarray, lung: np.ndarray) -> None:
        np.minimum.at(self.low, index, follower)
        np.maximum.at(self.high, index, follower)
        self.lung += np.bincount(index[lung], minlength=len(self.lung))
        of_lung = follower[lung].astype(float)
        self.number += len(of_lung)
        self.sum += float(of_lung.sum())
        self.squares += float((of_lung**2).sum())

    def enough(self) -> bool:
        """Whether enough of the leader's values occur several times."""
        return float(self.lung[self.lung >= _MANY].sum()) >= _EVIDENCE

    def determined(self) -> tuple[float, float]:
        """Share of the lung's voxels whose range is narrow, and their mean range in standard deviations.

        The share is 1 as long as there is too little evidence against it; see ``enough``.
        """
        if not self.enough():
            return 1.0, 0.0
        variance = max(self.squares / self.number - (self.sum / self.number) ** 2, 0.0)
        spread = max(variance**0.5, 1e-9 * max(1.0, abs(self.sum / self.number)))
        many = self.lung >= _MANY
        width = np.subtract(self.high, self.low, where=many, out=np.zeros_like(self.low)) / spread
        narrow = many & (width <= _NARROW)
        share = float(self.lung[narrow].sum() / self.lung[many].sum())
        return share, float(np.average(width[narrow], weights=self.lung[narrow])) if narrow.any() else 0.0


def find_ties(cache: SliceCache, identifiers: Sequence[str], channels: Sequence[int]) -> dict[int, Tie]:
    """Channel → the other channel that it follows from, if it does so in nearly all of the lung.

    Args:
        cache: of the real cases.
        identifiers: training cases of a fold.
        channels: the channels to look at.
    """
    scales = _scales(cache, identifiers, channels)
    tables = {pair: _Table(scales[pair[0]][2]) for pair in permutations(channels, 2)}
    values = cache.roles.lung_values()
    for identifier in identifiers:
        if not tables:
            return {}
        condition = np.asarray(cache.condition(identifier))
        shown = condition > 0
        lung = np.isin(condition[shown], values)
        image = cache.image(identifier)
        parts = {number: np.asarray(image[number])[shown] for number in channels}
        for leader in dict.fromkeys(leader for leader, _ in tables):
            origin, step, _ = scales[leader]
            index = np.rint((parts[leader].astype(float) - origin) / step).astype(np.int32)
            for follower in (follower for first, follower in tables if first == leader):
                tables[leader, follower].add(index, parts[follower].astype(np.float32), lung)
        tables = {pair: table for pair, table in tables.items() if table.determined()[0] >= _HOPELESS}
    return _chosen(tables, scales)


def _scales(
    cache: SliceCache, identifiers: Sequence[str], channels: Sequence[int]
) -> dict[int, tuple[float, float, int]]:
    """Channel → first value, width and number of its intervals: one for each whole number if there are no others."""
    lung = 0
    low, high, whole = dict.fromkeys(channels, np.inf), dict.fromkeys(channels, -np.inf), dict.fromkeys(channels, True)
    for identifier in identifiers:
        image = cache.image(identifier)
        lung += int(np.isin(cache.condition(identifier), cache.roles.lung_values()).sum())
        for number in channels:
            values = np.asarray(image[number])
            low[number], high[number] = min(low[number], values.min()), max(high[number], values.max())
            whole[number] = whole[number] and (values.dtype.kind in "iu" or bool((values == np.rint(values)).all()))
    intervals = int(np.clip(lung // _PER_INTERVAL, *_INTERVALS))
    scales = {}
    for number in channels:
        origin, extent = float(low[number]), float(high[number]) - float(low[number])
        if whole[number] and extent < 2**16:
            scales[number] = origin, 1.0, int(extent) + 1
        else:
            scales[number] = origin, max(extent, 1e-12) / (intervals - 1), intervals
    return scales


def _chosen(tables: dict[tuple[int, int], _Table], scales: dict[int, tuple[float, float, int]]) -> dict[int, Tie]:
    """For each follower the leader that leaves the smallest choice, an earlier one rather than a later one."""
    candidates = []
    for (leader, follower), table in tables.items():
        share, width = table.determined()
        if table.enough() and share >= _DETERMINED:
            candidates.append((round(width, 6), leader, follower))
    ties: dict[int, Tie] = {}
    for _, leader, follower in sorted(candidates):
        if follower in ties or _follows(leader, follower, ties):
            continue
        origin, step, _ = scales[leader]
        table = tables[leader, follower]
        ties[follower] = Tie(leader, step == 1.0, origin, step, *_complete(table.low, table.high))
    return ties


def _follows(channel: int, leader: int, ties: dict[int, Tie]) -> bool:
    """Whether a channel follows, over others, from ``leader``."""
    while channel in ties:
        channel = ties[channel].leader
        if channel == leader:
            return True
    return False


def _complete(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gives intervals without voxels the values of the nearest one."""
    seen = np.flatnonzero(low <= high)
    places = np.arange(len(low))
    right = np.clip(np.searchsorted(seen, places), 0, len(seen) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(seen[left] - places) <= np.abs(seen[right] - places), seen[left], seen[right])
    return low[nearest], high[nearest]
