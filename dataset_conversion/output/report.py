"""Writes ``conversion_report.json``, ``.png`` and ``.html`` to the dataset's folder, to check the conversion by eye.

All figures are measured on the written files, one patient at a time, so that the report shows what nnU-Net will read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_difflung.dataset_conversion.case import CaseRecord
from nnunet_difflung.dataset_conversion.notes import DOUBT, Note, counted
from nnunet_difflung.dataset_conversion.output.page import LeftOut, conversion_page
from nnunet_difflung.dataset_conversion.output.sheet import Tile, write_sheet
from nnunet_difflung.pages.render import write_page
from nnunet_difflung.runtime.files import write_json
from nnunet_difflung.runtime.parallel import in_parallel

if TYPE_CHECKING:
    import SimpleITK as sitk

BINS = 60
CT_RANGE = (-1050.0, 750.0)  # HU; range of the histograms, in bins of 30
PERCENTILES = (5, 50, 95)
MOST_TILES = 48


@dataclass(frozen=True)
class _Patient:
    """The figures of a patient, and the slice to show."""

    figures: dict
    histograms: dict[str, np.ndarray]
    tile: Tile | None


def report_of_dataset(
    folder: Path,
    records: Sequence[CaseRecord],
    labels: Mapping[str, int],
    channel: str,
    processes: int = 1,
    derived: Sequence[str] = (),
    notes: Mapping[str, Sequence[Note]] | None = None,
    left_out: LeftOut = (),
) -> dict:
    """Measures a converted dataset and writes its report.

    Args:
        folder: of the dataset, with its cases.
        records: of all cases.
        labels: name → value, background first.
        channel: name of the channel; the intensities of ``CT`` are HU.
        processes: number of patients read at a time.
        derived: labels that were not drawn by a reader.
        notes: patient → notes.
        left_out: patients that were left out and why, without folders of the archive.

    Returns:
        The content of ``conversion_report.json``: ``labels``, ``channel``, ``derived``, ``classes`` (voxels, share,
        cases, patients; mean and percentiles of intensities), ``changes`` (see ``counted``) and
        ``patients`` (figures, ``notes``, and ``doubts`` about a derived lung mask).
    """
    groups: dict[str, list[CaseRecord]] = {}
    for record in records:
        groups.setdefault(record.patient, []).append(record)
    totals = np.sum([record.voxels for record in records], axis=0)
    rarity = [v for v in np.argsort(totals, kind="stable") if v and totals[v]]  # rarest first
    shown = _shown(sorted(groups), notes or {}, MOST_TILES)
    bins = np.linspace(*_range(channel, folder, records), BINS + 1)
    work = partial(_measure, folder, dict(labels), rarity, bins, frozenset(shown))
    patients = dict(zip(groups, in_parallel(work, list(groups.values()), processes, "reports"), strict=True))
    histograms = {name: np.sum([p.histograms[name] for p in patients.values()], axis=0) for name in labels}
    report: dict[str, Any] = {
        "channel": channel,
        "labels": dict(labels),
        "derived": list(derived),
        "classes": {name: _class(name, value, records, histograms[name], bins) for name, value in labels.items()},
        "changes": counted(notes or {}),
        "patients": {
            name: {
                **p.figures,
                "notes": [note.text for note in (notes or {}).get(name, ())],
                "doubts": [note.text for note in (notes or {}).get(name, ()) if note.what.startswith(DOUBT)],
            }
            for name, p in patients.items()
        },
    }
    write_json(folder / "conversion_report.json", report)
    tiles = [
        replace(tile, doubtful=bool(report["patients"][name]["doubts"]))
        for name in shown
        if (tile := patients[name].tile) is not None
    ]
    write_sheet(folder / "conversion_report.png", report, tiles, histograms, bins, len(patients))
    name = folder.name.removeprefix(".").removesuffix(".partial")  # of the dataset that the staged folder becomes
    page = conversion_page(name, report, tiles, histograms, bins, left_out)
    write_page(page, folder / "conversion_report.html")
    return report


def _shown(names: list[str], notes: Mapping[str, Sequence[Note]], most: int) -> list[str]:
    """At most ``most`` of the patients: first those whose derived lung mask is in doubt, then others, spread evenly."""
    doubted = [name for name in names if any(note.what.startswith(DOUBT) for note in notes.get(name, ()))]
    doubted = _evenly(doubted, most)
    return doubted + _evenly([name for name in names if name not in doubted], most - len(doubted))


def _evenly(names: list[str], most: int) -> list[str]:
    """At most ``most`` of the names, spread evenly."""
    if len(names) <= most:
        return names
    return [names[i] for i in np.linspace(0, len(names) - 1, most).round().astype(int)]


def _range(channel: str, folder: Path, records: Sequence[CaseRecord]) -> tuple[float, float]:
    import SimpleITK as sitk

    if channel == "CT":
        return CT_RANGE
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(_files(folder, records[0])[0])))
    low, high = float(values.min()), float(values.max())
    return (0.0, 255.0) if low >= 0 and 1 < high <= 255 else (low, high if high > low else low + 1)


def _files(folder: Path, record: CaseRecord) -> tuple[Path, Path]:
    part = "Ts" if record.test else "Tr"
    return (
        folder / f"images{part}" / f"{record.case_id}_0000.nii.gz",
        folder / f"labels{part}" / f"{record.case_id}.nii.gz",
    )


def _measure(
    folder: Path,
    labels: dict[str, int],
    rarity: list[int],
    bins: np.ndarray,
    shown: frozenset,
    records: list[CaseRecord],
) -> _Patient:
    """The figures of a patient and, if the patient is shown, the slice with most of its rarest class."""
    import SimpleITK as sitk

    histograms = {name: np.zeros(BINS, np.int64) for name in labels}
    low, high, slices = np.inf, -np.inf, 0
    rarest = next((value for value in rarity if any(record.voxels[value] for record in records)), 0)
    best = max(records, key=lambda record: record.voxels[rarest])
    tile, grids = None, []
    for record in records:
        image, label = (sitk.ReadImage(str(f)) for f in _files(folder, record))
        grids.append((list(image.GetSize()), [round(size, 4) for size in image.GetSpacing()]))
        values, classes = sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(label)
        low, high, slices = min(low, float(values.min())), max(high, float(values.max())), slices + len(values)
        for name, value in labels.items():
            inside = np.clip(values[classes == value], bins[0], bins[-1])
            histograms[name] += np.histogram(inside, bins)[0]
        if record is best and record.patient in shown:
            tile = _tile(record, image, label, rarest)
    voxels = np.sum([r.voxels for r in records], axis=0)
    figures = {
        "test": records[0].test,
        "cases": len(records),
        "slices": slices,
        "size": grids[0][0],
        "spacing_mm": grids[0][1],
        "intensity": [round(low, 2), round(high, 2)],
        "voxels": {name: int(voxels[value]) for name, value in labels.items()},
    }
    return _Patient(figures, histograms, tile)


def _tile(record: CaseRecord, image: sitk.Image, label: sitk.Image, value: int) -> Tile:
    """The slice with most voxels of a class in radiological orientation: seen from the feet, right is left."""
    import SimpleITK as sitk

    turned, classes = sitk.DICOMOrient(image, "LPS"), sitk.GetArrayFromImage(sitk.DICOMOrient(label, "LPS"))
    z = int((classes == value).sum(axis=(1, 2)).argmax())
    x, y, _ = turned.GetSpacing()
    return Tile(
        record.case_id if len(classes) == 1 else f"{record.case_id}, slice {z}",
        record.test,
        sitk.GetArrayViewFromImage(turned)[z].astype(np.float32),
        classes[z],
        (y, x),
    )


def _class(name: str, value: int, records: Sequence[CaseRecord], histogram: np.ndarray, bins: np.ndarray) -> dict:
    counts = np.array([record.voxels[value] for record in records])
    total = sum(sum(record.voxels) for record in records)
    middles = (bins[:-1] + bins[1:]) / 2
    row: dict[str, Any] = {
        "value": value,
        "voxels": int(counts.sum()),
        "share": round(float(counts.sum() / total), 6),
        "cases": int((counts > 0).sum()),
        "patients": len({r.patient for r, n in zip(records, counts, strict=True) if n}),
    }
    if histogram.sum():
        level = np.cumsum(histogram) / histogram.sum()
        row["mean"] = round(float((middles * histogram).sum() / histogram.sum()), 1)
        row["percentiles"] = {str(p): round(float(middles[np.searchsorted(level, p / 100)]), 1) for p in PERCENTILES}
    return row
