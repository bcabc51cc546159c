"""Relations that hold between the channels in all training cases of a fold, and painted values that keep them.

A network paints every channel with small errors of its own. Where real channels are copies of each other (a grey
picture stored as RGB), follow from each other (windows of the same CT), or have few values (a mask of the lungs), such
errors mark every synthetic lesion, and the segmentation learns the mark. So the relations are measured in the training
cases, and everything that is painted, by whatever method, is made to keep them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.channel_ties import Tie, find_ties
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.runtime.progress import Tell, nobody

FEW = 16  # maximum number of different values of a channel that has few
_MORE_OFTEN = 2.0, 0.05  # factor and summand by which a channel changes more often at lesions' borders than elsewhere


@dataclass(frozen=True)
class CaseChannels:
    """What holds in one case.

    Attributes:
        constant: whether a channel has the same value everywhere.
        equal: pairs of channels with the same values everywhere.
        values: all values of a channel; None if there are more than ``FEW``.
        of_class: for each channel, value of a class in the condition map → the channel's only value in it, None if it
            has several; empty with a single channel.
        sums: for each channel, value of a class → number of its voxels and sum of their values; None for a channel with
            values below 0 or, unless it has few, above 1.
        changes: for each channel, the number of neighbouring voxels of normal lung, how many of them have different
            values, and the same of normal lung and a pathology; None if the channel does not have few values.
    """

    constant: tuple[bool, ...]
    equal: frozenset[tuple[int, int]]
    values: tuple[frozenset[float] | None, ...]
    of_class: tuple[Mapping[int, float | None], ...]
    sums: tuple[Mapping[int, tuple[int, float]] | None, ...]
    changes: tuple[tuple[int, int, int, int] | None, ...]


def measure_case(image: np.ndarray, condition: np.ndarray, roles: LabelRoles) -> CaseChannels:
    """Finds what holds between the channels of a case.

    Args:
        image: (c, z, y, x) intensities.
        condition: (z, y, x) condition map.
        roles: of the labels.
    """
    channels = range(len(image))
    equal = set(combinations(channels, 2))
    values: list[set[float] | None] = [set() for _ in channels]
    of_class: list[dict[int, float | None]] = [{} for _ in channels]
    sums: list[dict[int, tuple[int, float]] | None] = [{} for _ in channels]
    changes: list[np.ndarray] = [np.zeros(4, int) for _ in channels]
    for z in range(len(condition)):
        plane = np.asarray(image[:, z])
        equal = {pair for pair in equal if np.array_equal(plane[pair[0]], plane[pair[1]])}
        values = [_more_values(plane[c], values[c]) for c in channels]
        if len(channels) == 1:
            if values[0] is None:
                break
            continue
        label = np.asarray(condition[z])
        pairs = None
        for c in channels:
            if values[c] is not None and len(values[c] or ()) > 1:
                pairs = _neighbours(label, roles) if pairs is None else pairs
                changes[c] += _changes(plane[c], pairs)
            if values[c] is None and not (plane[c].min() >= 0 and plane[c].max() <= 1):
                sums[c] = None
        for value in map(int, np.flatnonzero(np.bincount(label.ravel()))):
            voxels = None
            for c in channels:
                if of_class[c].get(value, 0) is None and sums[c] is None:
                    continue
                voxels = plane[:, label == value] if voxels is None else voxels
                _add_class(value, voxels[c], of_class[c], sums[c])
    kept = tuple(None if part is None else frozenset(part) for part in values)
    constant = tuple(part is not None and len(part) == 1 for part in kept)
    counted = tuple(
        None if part is None else (int(row[0]), int(row[1]), int(row[2]), int(row[3]))
        for part, row in zip(kept, changes, strict=True)
    )
    return CaseChannels(constant, frozenset(equal), kept, tuple(of_class), tuple(sums), counted)


_Pairs = list[tuple[tuple[slice, slice], tuple[slice, slice], np.ndarray, np.ndarray]]


def _neighbours(label: np.ndarray, roles: LabelRoles) -> _Pairs:
    """For each axis: where the two neighbours of a pair are, which pairs are normal lung, and which are a border."""
    normal, ill = roles.is_normal(label), np.isin(label, [roles.values[name] for name in roles.pathologies])
    pairs: _Pairs = []
    for first, second in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        border = (normal[first] & ill[second]) | (ill[first] & normal[second])
        pairs.append((first, second, normal[first] & normal[second], border))
    return pairs


def _changes(plane: np.ndarray, pairs: _Pairs) -> np.ndarray:
    counts = np.zeros(4, int)
    for first, second, inside, border in pairs:
        differ = plane[first] != plane[second]
        counts += inside.sum(), (inside & differ).sum(), border.sum(), (border & differ).sum()
    return counts


def _more_values(plane: np.ndarray, values: set[float] | None) -> set[float] | None:
    """``values`` and those of the plane; None if these are more than ``FEW``."""
    if values is None:
        return None
    new = plane[~np.isin(plane, list(values))] if values else plane
    union = values | set(map(float, np.unique(new)))
    return union if len(union) <= FEW else None


def _add_class(
    value: int, voxels: np.ndarray, of_class: dict[int, float | None], sums: dict[int, tuple[int, float]] | None
) -> None:
    low, high = float(voxels.min()), float(voxels.max())
    of_class[value] = low if low == high == of_class.get(value, low) else None
    if sums is not None:
        number, total = sums.get(value, (0, 0.0))
        sums[value] = number + len(voxels), total + float(voxels.sum(dtype=float))


def _both(first: CaseChannels, second: CaseChannels) -> CaseChannels:
    """What holds in both cases."""

    def values(a: frozenset[float] | None, b: frozenset[float] | None) -> frozenset[float] | None:
        return None if a is None or b is None or len(a | b) > FEW else a | b

    def classes(a: Mapping[int, float | None], b: Mapping[int, float | None]) -> dict[int, float | None]:
        return {k: a.get(k, b.get(k)) if a.get(k, b.get(k)) == b.get(k, a.get(k)) else None for k in {*a, *b}}

    def sums(
        a: Mapping[int, tuple[int, float]] | None, b: Mapping[int, tuple[int, float]] | None
    ) -> dict[int, tuple[int, float]] | None:
        if a is None or b is None:
            return None
        parts = {k: (a.get(k, (0, 0.0)), b.get(k, (0, 0.0))) for k in {*a, *b}}
        return {k: (p[0] + q[0], p[1] + q[1]) for k, (p, q) in parts.items()}

    return CaseChannels(
        tuple(a and b for a, b in zip(first.constant, second.constant, strict=True)),
        first.equal & second.equal,
        tuple(map(values, first.values, second.values)),
        tuple(map(classes, first.of_class, second.of_class)),
        tuple(map(sums, first.sums, second.sums)),
        tuple(
            None if a is None or b is None else (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3])
            for a, b in zip(first.changes, second.changes, strict=True)
        ),
    )


@dataclass(frozen=True)
class Relation:
    """How a channel's painted values are made.

    Attributes:
        kind: ``free``: as painted; ``constant``: the host's, since the channel has one value in each training case;
            ``copy``: those of channel ``source``; ``mask``: by the class, and the host's where the class has several
            values; ``kept``: the host's, since a channel of few values is no different where lesions begin (lobes);
            ``few``: the nearest of ``values``; ``tied``: within what occurs together with channel ``source``.
        source: a channel, for ``copy`` and ``tied``.
        values: all values of the channel in the training cases, for ``mask`` and ``few``.
        of_class: value of a class in the condition map → the channel's only value in it in all training cases.
        tie: what occurs together, for ``tied``.
    """

    kind: str = "free"
    source: int | None = None
    values: tuple[float, ...] = ()
    of_class: Mapping[int, float] = field(default_factory=dict)
    tie: Tie | None = None


@dataclass(frozen=True)
class Relations:
    """The relations between the channels in a fold's training cases.

    Attributes:
        channels: one for each channel; empty if nothing was measured, so that all channels are as painted.
        means: for each channel that has the values of a mask or a probability (0 to a highest value), name of a lung
            class → its mean as a share of that value.
    """

    channels: tuple[Relation, ...] = ()
    means: tuple[Mapping[str, float], ...] = ()

    def __bool__(self) -> bool:
        return any(channel.kind != "free" or channel.of_class for channel in self.channels)

    def as_record(self) -> list[dict]:
        """JSON content that is equal for the same relations; empty if there are none."""
        rows = []
        for number, channel in enumerate(self.channels if self else ()):
            row = {
                "channel": number,
                "kind": channel.kind,
                "source": channel.source,
                "values": list(channel.values),
                "of_class": {str(value): channel.of_class[value] for value in sorted(channel.of_class)},
                "tie": channel.tie and channel.tie.digest(),
            }
            rows.append({key: value for key, value in row.items() if value not in (None, [], {})})
        return rows

    def painted(self) -> list[int]:
        """The channels whose values a network decides, first those with more than a few values."""
        of_network = [n for n, channel in enumerate(self.channels) if channel.kind in ("free", "few", "tied")]
        return sorted(of_network, key=lambda n: self.channels[n].kind == "few")

    def apply(self, values: np.ndarray, host: np.ndarray, region: np.ndarray, condition: np.ndarray) -> None:
        """Makes painted values keep the relations, in place.

        Args:
            values: (c, n, y, x) float32 intensities with the painted region.
            host: (c, n, y, x) the host's intensities.
            region: (n, y, x) bool, the painted voxels.
            condition: (n, y, x) condition map with the new labels.
        """
        if not self:
            return
        painted, real, label = values[:, region], host[:, region], condition[region]
        for number in self._leaders_first():
            channel, own = self.channels[number], painted[number]
            if channel.kind in ("constant", "mask", "kept"):
                own[:] = real[number]
            elif channel.kind == "copy":
                own[:] = painted[channel.source]
            elif channel.kind == "few":
                own[:] = _nearest(own, np.array(channel.values))
            elif channel.tie is not None:
                own[:] = channel.tie.bound(own, painted[channel.source])
            for value, constant in channel.of_class.items():
                own[label == value] = constant
            if self._is_followed(number) and (host.dtype.kind in "iu" or self._is_whole(number)):
                own[:] = np.rint(own)  # as it will be in the file
        values[:, region] = painted

    def _is_followed(self, number: int) -> bool:
        return any(channel.source == number for channel in self.channels)

    def _is_whole(self, number: int) -> bool:
        return any(channel.tie.whole for channel in self.channels if channel.tie and channel.source == number)

    def _leaders_first(self) -> list[int]:
        order: list[int] = []
        while len(order) < len(self.channels):
            for number, channel in enumerate(self.channels):
                if number not in order and (channel.source is None or channel.source in order):
                    order.append(number)
        return order


def _nearest(own: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values[np.searchsorted((values[1:] + values[:-1]) / 2, own)]


def find_relations(
    cache: SliceCache,
    identifiers: Collection[str],
    measured: dict[str, CaseChannels] | None = None,
    tell: Tell = nobody,
) -> Relations:
    """Finds the relations that hold in all of the given cases.

    Args:
        cache: of the real cases.
        identifiers: the fold's training cases, and no others.
        measured: case id → what holds in it; filled here, so that several folds can share it.
        tell: gets the share of the cases that is done.
    """
    measured = {} if measured is None else measured
    common: CaseChannels | None = None
    for place, identifier in enumerate(sorted(identifiers)):
        tell(place / len(identifiers))
        if identifier not in measured:
            measured[identifier] = measure_case(cache.image(identifier), cache.condition(identifier), cache.roles)
        common = measured[identifier] if common is None else _both(common, measured[identifier])
        if len(common.values) == 1 and common.values[0] is None:
            return Relations()
    if common is None:
        return Relations()
    channels = [_relation(common, number, cache.roles) for number in range(len(common.values))]
    free = [number for number, channel in enumerate(channels) if channel.kind == "free"]
    for number, tie in find_ties(cache, sorted(identifiers), free).items() if len(free) > 1 else ():
        channels[number] = replace(channels[number], kind="tied", source=tie.leader, tie=tie)
    return Relations(tuple(channels), tuple(_means(common, number, cache.roles) for number in range(len(channels))))


def _relation(common: CaseChannels, number: int, roles: LabelRoles) -> Relation:
    values = common.values[number]
    of_class = {k: v for k, v in common.of_class[number].items() if v is not None}
    kept = tuple(sorted(values)) if values is not None else ()
    if common.constant[number]:
        return Relation("constant", values=kept)
    leaders = [a for a, b in common.equal if b == number]
    if leaders:
        return Relation("copy", source=min(leaders))
    lung = [k for k in map(int, roles.lung_values()) if k in common.of_class[number]]
    if values is None:
        return Relation(of_class={k: of_class[k] for k in lung if k in of_class})
    if lung and all(k in of_class for k in lung):
        return Relation("mask", values=kept, of_class=of_class)
    of_lung = {k: of_class[k] for k in lung if k in of_class}
    if len(common.values) == 1 or not _is_continuous(common.changes[number]):
        return Relation("few", values=kept, of_class=of_lung)
    # a map of places, such as lobes: that all lesions were in one of them does not move the others there
    return Relation("kept", values=kept, of_class=of_lung if len(kept) == 2 else {})


def _is_continuous(changes: tuple[int, int, int, int] | None) -> bool:
    """Whether neighbours differ at the lesions' borders about as often as in normal lung."""
    if changes is None or not (changes[0] and changes[2]):
        return False
    factor, summand = _MORE_OFTEN
    return changes[3] / changes[2] <= factor * changes[1] / changes[0] + summand


def _means(common: CaseChannels, number: int, roles: LabelRoles) -> dict[str, float]:
    sums, values = common.sums[number], common.values[number]
    highest = 1.0 if values is None else max(values, default=0.0)
    if len(common.values) == 1 or sums is None or highest <= 0 or (values and min(values) < 0):
        return {}
    of_lung = {name: sums.get(roles.values[name], (0, 0.0)) for name in roles.lung}
    return {name: total / number / highest for name, (number, total) in of_lung.items() if number}


def named(numbers: Sequence[int], names: Sequence[str]) -> str:
    """Channels in a message, such as ``channels 0 (R) and 1 (G)``."""
    shown = [f"{number} ({names[number]})" for number in numbers]
    listed = f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]
    return f"channel{'s' if len(shown) > 1 else ''} {listed}"
