"""The quality gate: does painted emphysema have the intensities of real emphysema in the fold's training cases?

A class that the generator has not learned is painted as normal lung under a pathology's label, which harms the training
of the segmentation. So every synthetic case is compared with real lesions of the training cases, in the dataset's unit
(HU for CT), and with the normal lung of its own image (``contrast``). The unpainted host is judged in the same way: a
gate that lets it through proves nothing about the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.judging.channel_pairs import Moments, PairReference, pair_references, percentile95
from nnunet_difflung.judging.contrast import Contrast, features, fit_contrast
from nnunet_difflung.judging.normal_pieces import normal_pieces
from nnunet_difflung.runtime.progress import Tell, nobody, parts, telling

PER_SLICE = 400  # maximum number of voxels kept of a class in a slice
MIN_VOXELS = 8  # minimum sample size
SLACK = 1.25  # factor on the 95th percentile of the real slices of other patients
_POOL = 20_000  # maximum number of voxels kept of a class
_FEW = 5  # minimum number of real slices from which their spread is estimated
_CONSTANT = 0.002  # share of the window's width; a class that varies less is constant in the channel
_OF_CONSTANT = 0.25  # tolerance in such a channel, as a share of the window's width
_BLANKS = 200  # number of pieces of normal lung, over all patients


@dataclass(frozen=True)
class Region:
    """The voxels of one class in an image, and what they are compared with.

    Attributes:
        voxels: (c, n) intensities, clipped to the windows.
        median: (c,) of ``voxels``.
        spread: (c,) standard deviation within a slice.
        grain: (c,) root mean square difference of neighbours in a slice; NaN with fewer than eight pairs.
        normal: (c,) median of normal lung in the same image; NaN with fewer than eight voxels.
        moments: of several channels together; None with one.
    """

    voxels: np.ndarray
    median: np.ndarray
    spread: np.ndarray
    grain: np.ndarray
    normal: np.ndarray
    moments: Moments | None = None


@dataclass(frozen=True)
class ChannelReference:
    """Real intensities of one class in one channel.

    Attributes:
        values: pooled sample of voxels of the fold's training slices.
        max_bias: largest accepted difference of means (see ``reference``).
        max_distance: largest accepted 1-Wasserstein distance.
        constant: whether all but a few voxels of the class have the same intensity.
        spread: mean standard deviation within a slice, divided by that of ``values``.
        grain: root mean square difference of neighbouring voxels over all training slices; NaN if unknown.
        bias_of_patients: difference of each patient's mean to the mean of ``values``.
        spread_of_patients: the same as ``spread`` for each patient.
        grain_of_patients: each patient's ``grain``, divided by that of all.
    """

    values: np.ndarray
    max_bias: float
    max_distance: float
    constant: bool
    spread: float
    grain: float
    bias_of_patients: tuple[float, ...]
    spread_of_patients: tuple[float, ...]
    grain_of_patients: tuple[float, ...]


@dataclass(frozen=True)
class ClassReference:
    """What real lesions of one class look like in a fold's training cases.

    Attributes:
        channels: a reference for each channel.
        contrast: discriminant between the class and normal lung; None if there are too few slices for it.
        pairs: a reference for each two judged channels in which the class is not constant.
        judged: numbers of the channels that are judged.
    """

    channels: list[ChannelReference]
    contrast: Contrast | None
    pairs: tuple[PairReference, ...] = ()
    judged: tuple[int, ...] = (0,)


def reference(
    cache: SliceCache,
    identifiers: Sequence[str],
    patients: Mapping[str, str],
    windows: Sequence[Sequence[float]],
    seed: int,
    judged: Sequence[int] | None = None,
    tell: Tell = nobody,
) -> dict[str, ClassReference]:
    """Class → its reference, from training cases; intensities are clipped to the generator's windows.

    The tolerance of bias and distance is 1.25 times the 95th percentile of the same figure between a real slice and the
    pooled voxels of the *other* patients, each patient having the same weight; at least 1.25 times a tenth of the
    class's standard deviation (half of it with fewer than five slices). In a channel in which the class is constant,
    such as a mask of the lungs, there is no spread to compare with, so that only errors beyond a quarter of the window
    count. (Where all voxels of the class have the same value, it is set, not painted: ``dataset.channels``.)

    Args:
        cache: of the real cases.
        identifiers: the fold's training cases.
        patients: case id → patient.
        windows: the generator's.
        seed: of the voxels that are kept and of the pieces of normal lung.
        judged: numbers of the channels that are painted, not set; None for all.
        tell: gets the share of the work that is done.
    """
    regions: dict[str, list[Region]] = {name: [] for name in cache.roles.pathologies}
    of_patients: dict[str, list[str]] = {name: [] for name in regions}
    rng = np.random.default_rng(seed)
    of_slices, of_pieces, of_classes = parts(tell, 10, 2, 1)  # what they may take, of the whole
    for identifier in telling(sorted(identifiers), of_slices):
        image, condition = cache.image(identifier), cache.condition(identifier)
        for z in range(len(condition)):
            present = [name for name in regions if cache.facts[identifier].counts[name][z] >= MIN_VOXELS]
            if present:
                plane, label = np.asarray(image[:, z : z + 1]), np.asarray(condition[z : z + 1])
                for name in present:
                    regions[name].append(_real_region(plane, label, cache, name, windows, rng))
                    of_patients[name].append(patients[identifier])
    counts = [cache.facts[identifier].counts[name] for identifier in sorted(identifiers) for name in regions]
    sizes = [int(voxels) for of_case in counts for voxels in of_case if voxels >= MIN_VOXELS]
    blank, blank_patients = _blanks(cache, identifiers, patients, windows, sizes, rng, of_pieces)
    widths = [high - low for low, high in windows]
    channels = tuple(range(len(widths)) if judged is None else sorted(judged))
    return {
        name: class_reference(part, np.array(of_patients[name]), blank, blank_patients, widths, rng, channels)
        for name, part in telling([(name, part) for name, part in regions.items() if part], of_classes)
    }


def region_of(values: np.ndarray, region: np.ndarray, normal: np.ndarray, windows: Sequence[Sequence[float]]) -> Region:
    """The voxels of a class in an image.

    Args:
        values: (c, n, y, x) intensities.
        region: (n, y, x) bool, voxels of the class, at least one.
        normal: (n, y, x) bool, normal lung.
        windows: the generator's.
    """
    voxels, lung = _clipped(values[:, region], windows), values[:, normal]
    missing = np.full(len(voxels), np.nan)
    return Region(
        voxels,
        np.median(voxels, axis=1),
        _spread(values, region, windows),
        _grain(values, region, windows),
        np.median(_clipped(lung, windows), axis=1) if lung.shape[1] >= MIN_VOXELS else missing,
        Moments.of(voxels) if len(voxels) > 1 else None,
    )


def _spread(values: np.ndarray, region: np.ndarray, windows: Sequence[Sequence[float]]) -> np.ndarray:
    """(c,) standard deviation within a slice: mean of the slices with enough voxels, else of all voxels together."""
    held = np.flatnonzero(region.sum((1, 2)) >= MIN_VOXELS)
    parts = [values[:, n, region[n]] for n in held] or [values[:, region]]
    return np.mean([_clipped(part, windows).std(axis=1) for part in parts], axis=0)


def _grain(values: np.ndarray, region: np.ndarray, windows: Sequence[Sequence[float]]) -> np.ndarray:
    differences = []
    for axis in (-2, -1):
        first = [slice(None)] * 3
        second = [slice(None)] * 3
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        both = region[tuple(first)] & region[tuple(second)]
        left, right = (values[(slice(None), *part)][:, both] for part in (first, second))
        differences.append(_clipped(right, windows) - _clipped(left, windows))
    pairs = np.concatenate(differences, axis=1)
    return np.sqrt((pairs**2).mean(1)) if pairs.shape[1] >= MIN_VOXELS else np.full(len(pairs), np.nan)


def _clipped(voxels: np.ndarray, windows: Sequence[Sequence[float]]) -> np.ndarray:
    low, high = np.asarray(windows, float).T[..., None]
    return np.clip(voxels.astype(float), low, high)


def _real_region(
    image: np.ndarray,
    label: np.ndarray,
    cache: SliceCache,
    name: str,
    windows: Sequence[Sequence[float]],
    rng: np.random.Generator,
) -> Region:
    """A class in a real slice, with at most 400 of its voxels."""
    values = cache.roles.values
    whole = region_of(image, label == values[name], cache.roles.is_normal(label), windows)
    kept = rng.permuted(whole.voxels, axis=1)[:, :PER_SLICE].copy()  # a view would keep all of them in memory
    return replace(whole, voxels=kept)


def _blanks(
    cache: SliceCache,
    identifiers: Sequence[str],
    patients: Mapping[str, str],
    windows: Sequence[Sequence[float]],
    sizes: Sequence[int],
    rng: np.random.Generator,
    tell: Tell,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of round pieces of normal lung, as large as lesions, and their patients; the same number of each."""
    rows, of_patients = [], []
    for piece in normal_pieces(cache, identifiers, patients, sizes, _BLANKS, rng, tell) if sizes else ():
        image = np.asarray(cache.image(piece.case)[:, piece.z])
        lung, others = (_clipped(image[(slice(None), *part.T)], windows) for part in (piece.inside, piece.others))
        rows.append(features(np.median(lung, 1), np.median(others, 1)))
        of_patients.append(piece.patient)
    return np.array(rows).reshape(len(rows), 2 * len(windows)), np.array(of_patients)


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 distance between two samples of intensities, in their unit."""
    from scipy.stats import wasserstein_distance  # importing it takes a second, which commands that end early save

    return float(wasserstein_distance(a, b))


def class_reference(
    regions: list[Region],
    patients: np.ndarray,
    blank: np.ndarray,
    blank_patients: np.ndarray,
    widths: Sequence[float],
    rng: np.random.Generator,
    judged: tuple[int, ...],
) -> ClassReference:
    """The reference of a class from its regions in real slices.

    Args:
        regions: at least one.
        patients: (n,) their patients.
        blank: (m, 2c) features of pieces of normal lung; with fewer than five there is no contrast.
        blank_patients: (m,) their patients.
        widths: (c,) of the intensity windows.
        rng: chooses the voxels that are kept.
        judged: numbers of the channels that count.
    """
    channels = [_channel_reference(regions, patients, channel, width, rng) for channel, width in enumerate(widths)]
    rows = features([region.median for region in regions], [region.normal for region in regions])
    usable = np.isfinite(rows).all(1)
    contrast = None
    if len(judged) == len(widths):
        contrast = fit_contrast(rows[usable], patients[usable], blank, blank_patients, widths)
    elif judged:
        kept = [*judged, *(len(widths) + channel for channel in judged)]  # features of the judged channels
        of_judged = [widths[channel] for channel in judged]
        contrast = fit_contrast(rows[usable][:, kept], patients[usable], blank[:, kept], blank_patients, of_judged)
    moments = [region.moments for region in regions if region.moments is not None]
    pairs = pair_references(moments, patients, widths, judged) if moments else ()
    return ClassReference(channels, contrast, pairs, judged)


def _channel_reference(
    regions: list[Region], patients: np.ndarray, channel: int, width: float, rng: np.random.Generator
) -> ChannelReference:
    slices = [region.voxels[channel] for region in regions]
    spread, grain = (np.array([getattr(region, what)[channel] for region in regions]) for what in ("spread", "grain"))
    pool = rng.permutation(np.concatenate(slices))[:_POOL]
    sd = max(float(pool.std()), 1e-9)
    constant = bool(np.subtract(*np.percentile(pool, (95, 5))) < _CONSTANT * width)
    floor = (0.1 if len(slices) >= _FEW else 0.5) * float(pool.std())
    floor = max(floor, _OF_CONSTANT * width / SLACK) if constant else floor
    bias, distance = (SLACK * max(floor, figure) for figure in _to_other_patients(slices, patients, pool, rng))
    grains = {patient: _root_mean_square(grain[patients == patient]) for patient in np.unique(patients)}
    root = _root_mean_square(grain)
    return ChannelReference(
        values=pool,
        max_bias=bias,
        max_distance=distance,
        constant=constant,
        spread=float(spread.mean()) / sd,
        grain=root,
        bias_of_patients=tuple(
            float(np.concatenate([slices[i] for i in np.flatnonzero(patients == patient)]).mean() - pool.mean())
            for patient in grains
        ),
        spread_of_patients=tuple(float(spread[patients == patient].mean()) / sd for patient in grains),
        grain_of_patients=tuple(own / max(root, 1e-9) for own in grains.values() if np.isfinite(own)),
    )


def _to_other_patients(
    slices: list[np.ndarray], patients: np.ndarray, pool: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """95th percentiles of bias and distance between each slice and the other patients' voxels.

    With a single patient the slices are compared with ``pool``.
    """
    bias, distance, weights = np.empty(len(slices)), np.empty(len(slices)), np.empty(len(slices))
    for patient in np.unique(patients):
        own, others = patients == patient, pool
        if not own.all():
            others = rng.permutation(np.concatenate([slices[i] for i in np.flatnonzero(~own)]))[:_POOL]
        for i in np.flatnonzero(own):
            bias[i], distance[i] = abs(slices[i].mean() - others.mean()), wasserstein(slices[i], others)
        weights[own] = 1 / own.sum()
    return percentile95(bias, weights), percentile95(distance, weights)


def _root_mean_square(values: np.ndarray) -> float:
    """Of the values that are not NaN; NaN if there are none."""
    usable = values[np.isfinite(values)]
    return float(np.sqrt((usable**2).mean())) if len(usable) else float("nan")


def measure(painted: Mapping[str, Region], references: Mapping[str, ClassReference]) -> dict[str, dict]:
    """Compares painted lesions with the real ones.

    Args:
        painted: class → its voxels in a synthetic case.
        references: references of the fold's training cases.

    Returns:
        class → {voxels, bias, wasserstein, max_bias, max_wasserstein, sd_ratio and texture (painted / real), contrast,
        min_contrast, passes}, for the channel with the largest ratio of distance to tolerance among those in which the
        class is not constant (sd_ratio and texture are None where it is); ``channels`` has all channels if there are
        several, ``unjudged`` the numbers of those that do not count, and ``pairs`` how channels fit each other
        (``PairReference.compare``). Classes with fewer than 8 voxels are not measured.
    """
    quality = {}
    for name, region in painted.items():
        if region.voxels.shape[1] < MIN_VOXELS or name not in references:
            continue
        real = references[name]
        channels = [_compare(region, channel, of_class) for channel, of_class in enumerate(real.channels)]
        judged = [channels[channel] for channel in real.judged]
        varying = [channels[channel] for channel in real.judged if not real.channels[channel].constant]
        row = dict(max(varying or judged or channels, key=lambda part: part["wasserstein"] / part["max_wasserstein"]))
        own = list(real.judged)
        contrast = real.contrast.of(region.median[own], region.normal[own]) if real.contrast else np.nan
        row["contrast"] = round(contrast, 3) if np.isfinite(contrast) else None
        row["min_contrast"] = round(real.contrast.minimum, 3) if real.contrast else None
        pairs = [pair.compare(region.moments) for pair in real.pairs if region.moments is not None]
        row["passes"] = all(part["passes"] for part in (*judged, *pairs)) and not (
            real.contrast is not None and contrast < real.contrast.minimum
        )
        unjudged = [number for number in range(len(channels)) if number not in real.judged]
        several = {"channels": channels, "pairs": pairs, **({"unjudged": unjudged} if unjudged else {})}
        quality[name] = row | (several if len(channels) > 1 else {})
    return quality


def _compare(region: Region, channel: int, real: ChannelReference) -> dict:
    """Compares one channel; twice the standard error is added to both tolerances, as small samples differ by chance."""
    values = region.voxels[channel]
    bias = float(values.mean() - real.values.mean())
    distance = wasserstein(values, real.values)
    chance = 2 * float(real.values.std()) / np.sqrt(len(values))
    ratios = (region.spread[channel] / max(real.values.std(), 1e-9), region.grain[channel] / max(real.grain, 1e-9))
    sd_ratio, texture = (
        None if real.constant or not np.isfinite(ratio) else round(float(ratio), 3) for ratio in ratios
    )
    return {
        "voxels": len(values),
        "bias": rounded(bias),
        "wasserstein": rounded(distance),
        "max_bias": rounded(real.max_bias + chance),
        "max_wasserstein": rounded(real.max_distance + chance),
        "sd_ratio": sd_ratio,
        "texture": texture,
        "passes": bool(abs(bias) <= real.max_bias + chance and distance <= real.max_distance + chance),
    }


def rounded(value: float) -> float:
    """Two decimals, or three significant digits of numbers below 1: a channel's window may be 0 to 1."""
    return round(value, 2) if abs(value) >= 1 else float(f"{value:.3g}")


def passes(quality: dict[str, dict]) -> bool:
    """Whether every measured class of a case passes."""
    return all(row["passes"] for row in quality.values())


def with_unpainted(quality: dict[str, dict], unpainted: dict[str, dict]) -> dict[str, dict]:
    """Adds to each class whether the host's own intensities in the same voxels would pass (``unpainted_passes``)."""
    return {
        name: row | ({"unpainted_passes": unpainted[name]["passes"]} if name in unpainted else {})
        for name, row in quality.items()
    }


def pooled(rows: Sequence[dict[str, dict]]) -> dict[str, dict]:
    """Mean bias, distance and standard deviation of each class over several cases, each of which counts once.

    With several channels these are of one, the ``channel`` in which the class differs most from the real one.
    """
    summary = {}
    for name in sorted({name for row in rows for name in row}):
        cases = [row[name] for row in rows if name in row]
        number = _most_different(cases)
        shown = cases if number is None else [row["channels"][number] for row in cases]
        ratios = [row["sd_ratio"] for row in shown]
        summary[name] = {
            "cases": len(cases),
            "bias": rounded(float(np.mean([r["bias"] for r in shown]))),
            "wasserstein": rounded(float(np.mean([r["wasserstein"] for r in shown]))),
            "sd_ratio": None if None in ratios else round(float(np.mean(ratios)), 3),
            "passing": sum(r["passes"] for r in cases),
            **({} if number is None else {"channel": number}),
        }
    return summary


def _most_different(cases: Sequence[dict]) -> int | None:
    """The judged channel whose mean ratio of distance to tolerance is the largest; None where there is only one."""
    if not all("channels" in row for row in cases):
        return None
    unjudged = {number for row in cases for number in row.get("unjudged", ())}
    numbers = [n for n in range(len(cases[0]["channels"])) if n not in unjudged] or [0]
    parts = {n: [row["channels"][n] for row in cases] for n in numbers}
    varying = {n: of for n, of in parts.items() if all(part["sd_ratio"] is not None for part in of)}
    parts = varying or parts
    return max(
        parts, key=lambda n: float(np.mean([part["wasserstein"] / part["max_wasserstein"] for part in parts[n]]))
    )
