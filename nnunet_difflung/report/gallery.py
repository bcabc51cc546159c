"""Pictures of real and synthetic lesions, and their intensities, from the files of the dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnunet_difflung.dataset.reading import is_ct
from nnunet_difflung.pages import charts
from nnunet_difflung.pages.blocks import Block, Chart, Gallery, Picture, Text
from nnunet_difflung.report.injected import (
    InjectedCase,
    Scan,
    painted_channel,
    painted_window,
    read_injected,
    read_scan,
)
from nnunet_difflung.report.lesion_pictures import Looks, lesion_picture, nearest_in_area, shown_area, windows_of
from nnunet_difflung.report.records import Records
from nnunet_difflung.runtime.figures import BLUE, GREY, ORANGE
from nnunet_difflung.runtime.parallel import bar
from nnunet_difflung.runtime.wording import counted

_PICTURES = 96  # about as many on a page, so that it can be sent by mail
_FEWEST, _MOST = 2, 6  # synthetic ones of a class, and as many real ones, each of about the same area
_CLASSES = 12
_VALUES = 24  # single slices of a class whose intensities are counted, real and synthetic
_SAMPLE = 20_000  # voxels of a case
_BINS = 60
_COLOURS = {"real": (BLUE, "-"), "synthetic": (ORANGE, "-"), "normal lung": (GREY, ":")}


@dataclass
class _Class:
    """What is shown of a class."""

    real: list[Picture] = field(default_factory=list)
    synthetic: list[Picture] = field(default_factory=list)
    real_planes: list[Picture] = field(default_factory=list)
    synthetic_planes: list[Picture] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in _COLOURS})


def ranked(records: Records, name: str, number: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(id, word) of synthetic cases to show of a class: by the gate's distance the worst, the median and the best, then
    random ones; all are random if the gate has measured none.

    Args:
        records: of the method.
        name: of the class.
        number: of cases, at most.
        rng: chooses the random ones.
    """
    identifiers = records.with_host(name)
    distance = {}
    for identifier in identifiers:
        row = records.cases[identifier].get("quality", {}).get(name, {})
        if row.get("wasserstein") is not None:
            distance[identifier] = row["wasserstein"] / max(row.get("max_wasserstein") or 1.0, 1e-9)
    order = sorted(distance, key=lambda identifier: distance[identifier])
    shown: dict[str, str] = {}
    if len(order) >= 3:
        shown = {order[-1]: "worst", order[len(order) // 2]: "median", order[0]: "best"}
    others = [i for i in identifiers if i not in shown]
    for i in rng.permutation(len(others))[: max(0, number - len(shown))]:
        shown[others[i]] = "random"
    return list(shown.items())[:number]


def real_cases(records: Records, name: str, number: int, rng: np.random.Generator) -> list[str]:
    """Random training cases with a class, of as many patients as there are."""
    with_it = [i for i in records.training_cases if records.voxels[i][name]]
    order = [with_it[i] for i in rng.permutation(len(with_it))]
    seen: dict[str, int] = {}
    for identifier in order:
        patient = records.raw.patients[identifier]
        seen[identifier] = sum(records.raw.patients[other] == patient for other in seen)
    return sorted(seen, key=lambda identifier: seen[identifier])[:number]


def gallery(records: Records, progress: bool) -> list[Block]:
    """Pictures and histograms of every painted class.

    Args:
        records: of the method.
        progress: show a progress bar.
    """
    painted = [n for n in records.raw.roles.pathologies if records.with_host(n)]
    names = sorted(painted, key=lambda n: sum(counts[n] for counts in records.voxels.values()))[:_CLASSES]
    blocks: list[Block] = []
    if records.without_host:
        gone = counted(len(records.without_host), "synthetic case")
        blocks.append(Text(f"Not shown: {gone} whose host is no longer in the dataset."))
    if len(painted) > len(names):
        blocks.append(Text(f"The {len(names)} rarest of {len(painted)} painted classes are shown."))
    if not names:
        held = "whose host is there" if blocks else "of this method"
        return [*blocks, Text(f"The dataset holds no synthetic case {held}, so there is nothing to show.")]
    looks = _looks(records)
    number = min(_MOST, max(_FEWEST, _PICTURES // (2 * len(names))))
    for name in bar(names, visible=progress, total=len(names), desc="pictures for the report", unit="class", delay=2):
        blocks += _of_class(records, name, number, looks)
    return blocks


def _looks(records: Records) -> Looks:
    """The same windows for all classes, so that a view is one of the whole page."""
    run = records.runs[0]  # all folds of a dataset have the same channels
    channel = painted_channel(run)
    image = read_scan(records.raw, records.training_cases[0]).image[channel]
    windows = windows_of(channel in records.in_hu, image, painted_window(run, channel))
    return Looks(windows, records.raw.roles.values, channel)


def _of_class(records: Records, name: str, number: int, looks: Looks) -> Iterator[Block]:
    roles, shown = records.raw.roles, _Class()
    rng = np.random.default_rng([0, roles.values[name]])
    channel = looks.channel
    areas: list[float] = []
    for identifier in real_cases(records, name, max(number, _VALUES), rng):
        scan = read_scan(records.raw, identifier)
        voxels = scan.label == roles.values[name]
        _add_values(shown, "real", scan.image[channel][voxels], rng)
        _add_values(shown, "normal lung", scan.image[channel][roles.is_normal(scan.label)], rng)
        _add_picture(shown.real, shown.real_planes, scan, voxels, looks, records.called(identifier))
        areas.append(shown_area(voxels, scan.spacing))
        if len(scan.label) > 1 and len(shown.real) == number:
            break
    if not areas:
        return
    wanted: list[float] = []
    for place, (identifier, word) in enumerate(ranked(records, name, max(number, _VALUES), rng)):
        case = read_injected(records.raw, identifier, records.cases[identifier])
        voxels = case.new(roles.values[name])
        if not voxels.any():
            continue
        _add_values(shown, "synthetic", case.image[channel][voxels], rng)
        if len(shown.synthetic) < number:
            note = f"{word}, in {records.called(case.record['host'])}"
            planes = shown.synthetic_planes
            _add_picture(shown.synthetic, planes, case, voxels, looks, identifier, note, (name,))
            wanted.append(shown_area(voxels, case.spacing))
        if len(case.label) > 1 and place + 1 >= number:
            break
    alike = nearest_in_area(wanted, areas) if wanted else range(min(number, len(areas)))
    yield Gallery(name, [("real", [shown.real[i] for i in alike]), ("synthetic", shown.synthetic)])
    if shown.real_planes or shown.synthetic_planes:
        columns = [("real", shown.real_planes), ("synthetic", shown.synthetic_planes)]
        yield Gallery(f"{name}, coronal and sagittal", columns)
    yield _histogram(records, name, channel, shown)


def _add_values(shown: _Class, kind: str, values: np.ndarray, rng: np.random.Generator) -> None:
    """Keeps at most 20,000 of a case's voxels."""
    shown.values[kind].append(rng.choice(values, _SAMPLE, replace=False) if values.size > _SAMPLE else values)


def _add_picture(
    pictures: list[Picture],
    planes: list[Picture],
    scan: Scan,
    voxels: np.ndarray,
    looks: Looks,
    identifier: str,
    note: str = "",
    new: Sequence[str] = (),
) -> None:
    """Adds an axial picture of a case, and of the first volume the other two planes."""
    own = scan.identifier if isinstance(scan, InjectedCase) else ""
    pictures.append(lesion_picture(scan, voxels, looks, identifier, note, 0, new, own))
    if len(scan.label) > 1 and not planes:
        for axis, plane in ((1, "coronal"), (2, "sagittal")):
            planes.append(lesion_picture(scan, voxels, looks, f"{identifier}, {plane}", note, axis, new, own))


def _bins(low: float, high: float) -> np.ndarray:
    """Edges of at most 60 bins whose width is a round number."""
    least = max(high - low, 1e-3) / _BINS
    scale = 10.0 ** np.floor(np.log10(least))
    width = next(scale * step for step in (1, 2, 5, 10) if scale * step >= least)
    return np.arange(np.floor(low / width), np.ceil(high / width) + 2) * width


def _histogram(records: Records, name: str, channel: int, shown: _Class) -> Chart:
    values = {kind: np.concatenate([np.empty(0), *parts]) for kind, parts in shown.values.items()}
    everything = np.concatenate(list(values.values()))
    low, high = np.percentile(everything, [0.5, 99.5]) if everything.size else (0.0, 1.0)
    called = records.raw.channels[channel]
    unit = "HU" if channel in records.in_hu else "grey levels" if is_ct(called) else called
    bins = _bins(float(low), float(high))
    labelled = {
        ("normal lung of the same cases" if kind == "normal lung" else f"{kind} {name}"): (
            values[kind],
            *_COLOURS[kind],
        )
        for kind in _COLOURS
    }
    means = ", ".join(f"{k} {v.mean():.0f} ± {v.std():.0f}" for k, v in values.items() if v.size)
    return Chart(
        charts.histograms(labelled, bins, unit), f"{name}: intensities in {unit}, mean ± standard deviation: {means}"
    )
