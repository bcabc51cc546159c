"""Judges what the values of a CT image mean: HU, HU with an offset, upside down, scaled, or a picture of a window.

Physics. A CT number in Hounsfield units is 1000 · (µ − µ_water) / µ_water. Air is −1000, lung lies around −850, fat at
−100, soft tissue around 40, and little of a patient is above 500. Values that mean something else show the same two
hills, air or lung and soft tissue, in another place: at 24 and 1064 if the rescale intercept −1024 is missing, at 32768
and 32808 in DeepLesion's files, the other way round if the image is inverted.

Rule. A constant that fills most corners of the slices (padding, the value outside a masked lung) says nothing and is
left out, and so are usual padding values. Of the other values, those that no patient has in such numbers, below −1150
and above 500 HU, are counted: in 1802 real chests, crops around nodules and patches of lung they were at most 18 %.

1. Whole numbers in 0..255 and small fractions are a picture of a display window (``window_name``).
2. If at least 40 % of the values are impossible in that sense, the image is not in HU.
3. If at least 2 % are, it is not in HU if the histogram fits a chest (the density ``_DENSITY``) much better once an
   offset is taken away, the values are turned upside down, scaled or unwrapped: by 0.5 to 1.2 in the log-likelihood of
   a value, most for a fitted constant. The reading that fits best is what the values are said to mean.
4. Values scaled down leave nothing impossible: air at −100 and soft tissue at 4 is HU / 10.
5. Whole images above 0 with values beyond 255 have lost an intercept: without any air, fat and noise are below 0 too.

Where the label of normal lung is known, its median decides first: from −1050 to −400 the values are HU; above −200 they
are not, if nothing else tells or the image fits better upside down.

Limits. An image that shows only one kind of tissue, such as a crop of soft tissue, or lung without a vessel and without
a label, cannot be judged: it is ``UNCERTAIN``, which is no reason to refuse it. So is an image without a value above
−769 HU, such as a patch of emphysema alone, which might be a picture of 8 bits minus 1024. A crop around lungs that is
turned upside down about −500, so that air and tissue change places, may look like HU. Offsets below about 300 are not
seen, nor can intercepts of −1024 and −1000 be told apart with certainty. An image of which bone or metal fill more than
40 % would be refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

PADDING = (-2000, -2048, -3000, -3024, -3048, -3071, -3072, -4000, -10000, -32768)  # stored, or less an intercept
WINDOW_8BIT, WINDOWED = "lung_window_8bit", "windowed"
ROUNDING = 0.01  # largest deviation from whole numbers that is taken as rounding in slope and intercept
IMPOSSIBLE = (-1150.0, 500.0)  # HU; few voxels of a patient lie outside

_SAMPLE = 100_000  # values; more change no judgement
_SAMPLE_OF_SLICE = 10_000
_HOPELESS, _DOUBTFUL = 0.4, 0.02  # shares of impossible values
_BETTER = 0.5  # log-likelihood of a value by which another reading must be better
_FITS = -10.0  # lowest log-likelihood of a value at which a reading is named; real images in HU: −8.8 to −5.5
_EXPLAINED = 0.7  # share of the values that are air, lung or soft tissue in a reading that is named
_SHOWN = 0.02  # share of a tissue below which it is not taken as shown
_AIR, _TISSUE = (-1100.0, -300.0), (-200.0, 300.0)  # HU: air and lung, soft tissue
_OFFSETS = (1024, 1000, 32768, 31744, 2048, 8192, -1024, -2048)  # value − HU; 31744 = 32768 − 1024
_HANDICAP = 0.7
_CLIPPED, _NEXT = 0.003, 10  # share of the values at an end, compared with so many next to it
_SPREAD_OF_A_PICTURE = 200  # a slice of soft tissue alone spreads less; a picture with air and bone more
_SMALLEST_OFFSET = 300  # HU; less may be a small or ill lung
_NEAR = 250  # HU; a usual constant so near to the fitted one may be meant
_MIRRORS = (-1, 0, 1023, 2047, 3071, 4095, -2049, 64511, 63487, 65535, 255)  # value + HU of inverted stored values


class Meaning(StrEnum):
    """What values mean."""

    HU = "HU"
    UNCERTAIN = "uncertain"
    OFFSET = "HU with an offset"
    INVERTED = "inverted"
    SCALED = "scaled HU"
    WRAPPED = "HU with wrong bits"
    PICTURE = "display window"
    UNKNOWN = "not HU"


@dataclass(frozen=True)
class Judgement:
    """What the values of an image mean.

    Attributes:
        meaning: the judgement; ``UNCERTAIN`` where the image shows too little to tell.
        low, high: lowest and highest value that is no padding.
        air: median of the values that are taken for air or lung; None if there are hardly any.
        tissue: the same for soft tissue.
        slope, intercept: HU = slope · value + intercept, as far as it is known; (1, 0) for HU.
        exact: whether slope and intercept are usual ones and not only fitted to the histogram.
    """

    meaning: Meaning
    low: float
    high: float
    air: float | None = None
    tissue: float | None = None
    slope: float = 1.0
    intercept: float = 0.0
    exact: bool = True

    @classmethod
    def of(cls, entry: dict) -> Judgement:
        """A judgement from a JSON file; ``dataclasses.asdict`` is the inverse."""
        return cls(**{**entry, "meaning": Meaning(entry["meaning"])})

    @property
    def not_hu(self) -> bool:
        """Whether the values are certainly something else than HU."""
        return self.meaning not in (Meaning.HU, Meaning.UNCERTAIN)

    def found(self) -> str:
        """Where the tissues lie, such as ``air and lung around 150, soft tissue around 1064``."""
        places = [("air and lung", self.air), ("soft tissue", self.tissue)]
        shown = [f"{name} around {value:.4g}" for name, value in places if value is not None]
        values = f"values from {self.low:.5g} to {self.high:.5g}"
        return f"{values}, {' and '.join(shown)}" if shown and self.meaning is not Meaning.UNKNOWN else values

    def because(self) -> str:
        """What the values seem to be."""
        return {
            Meaning.HU: "HU",
            Meaning.UNCERTAIN: "too little is shown to tell whether they are HU",
            Meaning.OFFSET: f"which looks like HU {-self.intercept:+g}"
            + ("" if self.exact else " (about)")
            + (": a rescale intercept was lost" if self.intercept < 0 else ": an intercept was subtracted twice"),
            Meaning.INVERTED: "which looks like HU upside down",
            Meaning.SCALED: f"which looks like HU times {1 / self.slope:g}",
            Meaning.WRAPPED: "which looks like HU whose negative values were read without their sign",
            Meaning.PICTURE: "which looks like pictures of a display window",
            Meaning.UNKNOWN: "which no patient has in HU",
        }[self.meaning]


def judge(values: np.ndarray, lung: np.ndarray | None = None, sample: int = _SAMPLE) -> Judgement:
    """Judges what the values of an image mean; see the module's text for the rule and its limits.

    Args:
        values: (…, y, x), finite numbers.
        lung: (…, y, x) bool, normal lung as labelled; None if it is not known.
        sample: how many of the values are looked at.
    """
    shown = _without_fill(values, sample)
    low, high = float(shown.min()), float(shown.max())
    if low < high and (window_name(shown) is not None or window_name(values) is not None):
        return Judgement(Meaning.PICTURE, low, high)
    lowered = low >= -1024 and high <= 255 - 1024 and high - low > _SPREAD_OF_A_PICTURE  # a picture, or ill lung alone
    if len(shown) < 16 or _few(shown) or lowered:
        return Judgement(Meaning.UNCERTAIN, low, high)
    impossible = float(((shown < IMPOSSIBLE[0]) | (shown > IMPOSSIBLE[1])).mean())
    air_is_shown = _share(shown, _AIR) >= _SHOWN
    of_lung = _median(values, lung)
    lung_is_dense = of_lung is not None and of_lung > -200
    if lung_is_dense and of_lung == values.min():  # a window cut off lung and air
        return Judgement(Meaning.UNKNOWN, float(values.min()), float(values.max()))
    if impossible < _DOUBTFUL and air_is_shown and not lung_is_dense:
        return _described(Meaning.HU, shown)
    if of_lung is not None and -1050 <= of_lung <= -400:
        return _described(Meaning.HU, shown)
    as_hu = _fit(shown)
    readings = list(_readings(shown))
    reading, fit, handicap = max(readings, key=lambda candidate: candidate[1] - candidate[2])
    better = fit - handicap - as_hu >= _BETTER
    if impossible >= _HOPELESS or (impossible >= _DOUBTFUL and better):
        hu = reading.hu(shown)
        named = fit >= _FITS and _share(hu, _AIR) + _share(hu, _TISSUE) >= _EXPLAINED
        named = named and not _clipped_at_both_ends(values, sample)
        return reading.judged(shown) if named else Judgement(Meaning.UNKNOWN, low, high)
    if reading.meaning is Meaning.SCALED and better and low > -300:
        return reading.judged(shown)
    if air_is_shown:
        inverted = [candidate for candidate in readings if candidate[0].meaning is Meaning.INVERTED]
        mirrored, of_mirrored, _ = max(inverted, key=lambda candidate: candidate[1], default=(reading, as_hu, 0.0))
        upside_down = lung_is_dense and of_mirrored - as_hu >= _BETTER
        return mirrored.judged(shown) if upside_down else _described(Meaning.HU, shown)
    above = np.percentile(shown, 0.5) >= 0 and np.percentile(shown, 99.5) > 255
    if above or lung_is_dense:
        return reading.judged(shown) if fit > as_hu else Judgement(Meaning.UNKNOWN, low, high)
    return _described(Meaning.UNCERTAIN, shown)


def odd_slices(values: np.ndarray) -> list[tuple[int, Judgement]]:
    """Slices that are not in HU, of a volume (z, y, x) that is in HU as a whole, and what they are."""
    judged = [(z, judge(plane, sample=_SAMPLE_OF_SLICE)) for z, plane in enumerate(values)] if len(values) > 1 else []
    return [(z, judgement) for z, judgement in judged if judgement.not_hu and not _is_soft_tissue(judgement)]


def _is_soft_tissue(judgement: Judgement) -> bool:
    """Whether a slice may show soft tissue alone, as at the side of the body, whose HU are in the range of pictures."""
    return judgement.meaning is Meaning.PICTURE and judgement.high - judgement.low < _SPREAD_OF_A_PICTURE


def window_name(values: np.ndarray) -> str | None:
    """Channel name of values that are a display window and not HU; None for values that may be HU or stored values.

    HU of a patient range from air or fat (below −50) to bone. Values in 0..255, in −128..127 with many at an end, and
    values in −20..20 with fractions (scaled to 0..1, to −1..1, or by mean and standard deviation), are not HU.
    """
    low, high = float(values.min()), float(values.max())
    if low >= -ROUNDING and 1 < high <= 255 + ROUNDING:
        return WINDOW_8BIT if whole_numbers(values) else WINDOWED
    if (low >= -1 and high <= 1) or (low > -20 and high < 20 and not whole_numbers(values)):
        return WINDOWED
    if low >= -128 and high <= 127 and max((values == -128).mean(), (values == 127).mean()) > _CLIPPED:
        return WINDOWED
    return None


def whole_numbers(values: np.ndarray) -> bool:
    """Whether all values are whole numbers but for rounding."""
    if np.issubdtype(values.dtype, np.integer):
        return True
    return all(
        bool(np.abs(part - np.round(part)).max() <= ROUNDING)
        for part in np.array_split(values.ravel(), 64)
        if len(part)
    )


@dataclass(frozen=True)
class _Reading:
    """A way to read values as HU: unwrapped at ``wrap`` (0: not), then slope and intercept."""

    meaning: Meaning
    slope: float = 1.0
    intercept: float = 0.0
    exact: bool = True
    wrap: tuple[int, int] = (0, 0)

    def hu(self, values: np.ndarray) -> np.ndarray:
        period, first = self.wrap
        unwrapped = (values - first) % period + first if period else values
        return self.slope * unwrapped + self.intercept

    def judged(self, values: np.ndarray) -> Judgement:
        return _described(self.meaning, values, self)


def _described(meaning: Meaning, values: np.ndarray, reading: _Reading | None = None) -> Judgement:
    """A judgement, with the places of air and soft tissue in the values."""
    reading = reading or _Reading(meaning)
    hu = reading.hu(values)
    places = []
    for low, high in (_AIR, _TISSUE):
        inside = (hu >= low) & (hu < high)
        places.append(float(np.median(values[inside])) if inside.mean() >= _SHOWN else None)
    return Judgement(
        meaning,
        float(values.min()),
        float(values.max()),
        places[0],
        places[1],
        reading.slope,
        reading.intercept,
        reading.exact,
    )


def _readings(values: np.ndarray) -> Iterator[tuple[_Reading, float, float]]:
    """Readings of values that are not HU, with their fit (log-likelihood of a value) and their handicap.

    A reading with a fitted constant, or one that is seldom right, is named only where it fits better by its handicap.
    """
    for offset in _OFFSETS:
        reading = _Reading(Meaning.OFFSET, 1.0, -offset)
        yield reading, _fit(reading.hu(values)), 0.0
    for slope, meaning in ((1.0, Meaning.OFFSET), (-1.0, Meaning.INVERTED)):
        intercept = _best_intercept(slope * values)
        if intercept is None or (slope > 0 and abs(intercept) < _SMALLEST_OFFSET):
            continue
        fitted = _Reading(meaning, slope, intercept, exact=False)
        yield fitted, _fit(fitted.hu(values)), _HANDICAP
        for mirror in _MIRRORS if slope < 0 else ():
            reading = _Reading(meaning, slope, mirror)
            if abs(mirror - intercept) <= _NEAR:
                yield reading, _fit(reading.hu(values)), _HANDICAP / 2
    low, high = values.min(), values.max()
    for first, period, negative, intercept in ((0, 65536, -32768, 0), (0, 4096, -2048, 0), (-32768, 65536, 0, -32768)):
        if first <= low and high < first + period and high - low > period / 2:
            reading = _Reading(Meaning.WRAPPED, 1.0, intercept, True, (period, negative))
            yield reading, _fit(reading.hu(values)), _HANDICAP / 2
    for slope in (10.0, 0.1):
        reading = _Reading(Meaning.SCALED, slope)
        yield reading, _fit(reading.hu(values)) + float(np.log(slope)), _HANDICAP / 2


_BIN = 10.0  # HU
_CENTRES = np.arange(-2000.0, 4000.0, _BIN) + _BIN / 2


def _hill(mean: float, deviation: float) -> np.ndarray:
    return np.exp(-0.5 * ((_CENTRES - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))


def _flat(low: float, high: float) -> np.ndarray:
    middle, half = (low + high) / 2, (high - low) / 2
    return (np.abs(_CENTRES - middle) < half) / (high - low)


_DENSITY = (  # of the HU in a chest CT: sharp and noisy air, lung, edges and disease, fat, soft tissue, contrast, bone
    0.15 * _hill(-1000, 20)
    + 0.10 * _hill(-980, 60)
    + 0.25 * _hill(-860, 70)
    + 0.12 * _flat(-1050, -150)
    + 0.08 * _hill(-100, 30)
    + 0.20 * _hill(40, 40)
    + 0.05 * _hill(50, 120)
    + 0.03 * _flat(100, 500)
    + 0.015 * _flat(500, 1500)
    + 0.003 * _flat(-1150, 2500)
)
_FLOOR = float(np.log(1e-7))  # a single value more or less impossible makes no difference
_LOG_DENSITY = np.log(_DENSITY + 1e-7)


def _fit(hu: np.ndarray) -> float:
    """Mean log-likelihood of values as HU of a chest."""
    index = np.floor((hu - _CENTRES[0] + _BIN / 2) / _BIN)
    inside = (index >= 0) & (index < len(_LOG_DENSITY))
    return float(np.where(inside, _LOG_DENSITY[np.where(inside, index, 0).astype(int)], _FLOOR).mean())


def _best_intercept(values: np.ndarray) -> float | None:
    """The constant that makes values fit best if it is added to them, to 10 HU; None if they spread too widely."""
    first = np.floor(values.min() / _BIN)
    index = (np.floor(values / _BIN) - first).astype(np.int64)
    if index.max() > 20_000:
        return None
    histogram = np.bincount(index) / len(values)
    margin = np.zeros(len(_LOG_DENSITY))
    fits = np.correlate(np.concatenate([margin, histogram, margin]), _LOG_DENSITY - _FLOOR, "valid")
    start = (first + int(fits.argmax()) - len(_LOG_DENSITY)) * _BIN  # the value that would be the first of _CENTRES
    return float(_CENTRES[0] - _BIN / 2 - start)


def _without_fill(values: np.ndarray, size: int) -> np.ndarray:
    """A sample (n,) float64 of the values without padding; with it if there is hardly anything else."""
    flat = values.ravel()
    sample = flat[:: max(1, flat.size // size)].astype(np.float64)
    fills = [float(value) for value in PADDING]
    if values.ndim > 1:
        corners, counts = np.unique(values[..., [0, 0, -1, -1], [0, -1, 0, -1]], return_counts=True)
        if counts.max() > counts.sum() / 2:
            fills.append(float(corners[counts.argmax()]))
    fills = [value for value in fills if sample.min() <= value <= sample.max()]
    kept = sample[~np.isin(sample, fills)] if fills else sample
    return kept if len(kept) >= max(16, 0.02 * len(sample)) and not _few(kept) else sample


def _few(values: np.ndarray) -> bool:
    """Whether there are at most three different values."""
    return len(np.unique(values[:1000])) <= 3 and len(np.unique(values)) <= 3


def _median(values: np.ndarray, where: np.ndarray | None) -> float | None:
    """Median of some values; None if there are fewer than 50."""
    if where is None:
        return None
    step = max(1, values.size // _SAMPLE)
    inside = values.ravel()[::step][where.ravel()[::step]]
    inside = inside if inside.size >= 50 else values[where]
    return float(np.median(inside)) if inside.size >= 50 else None


def _clipped_at_both_ends(values: np.ndarray, size: int) -> bool:
    """Whether many values are the lowest, and many the highest one, as in a display window."""
    distinct, counts = np.unique(values.ravel()[:: max(1, values.size // size)], return_counts=True)
    return len(distinct) > 2 * _NEXT and all(
        ends[0] > max(_CLIPPED * counts.sum(), 3 * ends[1:].mean())
        for ends in (counts[:_NEXT], counts[: -_NEXT - 1 : -1])
    )


def _share(values: np.ndarray, limits: Sequence[float]) -> float:
    return float(((values >= limits[0]) & (values < limits[1])).mean())
