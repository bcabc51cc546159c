"""Draws ``conversion_report.png``: a labelled slice of each patient, and shares and intensities of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset_conversion.output.changes import changes_lines
from nnunet_difflung.runtime.figures import (
    DOUBT_COLOUR,
    LUNG_WINDOW,
    class_colours,
    drawing,
    outline_classes,
    show_grey,
)

COLUMNS = 4
WIDTH = 15.0  # inches
HEAD, TILE, LINE = 3.6, 3.5, 0.17  # inches; heights of the diagrams, of a row of tiles, and of a line of text
BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
LONGEST = 190  # characters of a line of text that fit


@dataclass(frozen=True)
class Tile:
    """The slice that is shown of a patient.

    Attributes:
        title: case id and, for a volume, number of the slice.
        test: whether the patient is a test patient.
        image: (y, x) intensities.
        label: (y, x) label values.
        spacing: mm along y, x.
        doubtful: whether the derived lung mask of the patient may be wrong.
    """

    title: str
    test: bool
    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float]
    doubtful: bool = False


def write_sheet(
    path: Path, report: dict, tiles: Sequence[Tile], histograms: dict[str, np.ndarray], bins: np.ndarray, patients: int
) -> None:
    """Writes the PNG file.

    Args:
        path: of the PNG file.
        report: content of ``conversion_report.json``.
        tiles: slices to show.
        histograms: class → counts of intensities.
        bins: edges of the histograms' bins.
        patients: number of patients in the dataset; tiles may show a part of them.
    """
    rows = -(-len(tiles) // COLUMNS)
    lines = [line if len(line) <= LONGEST else f"{line[: LONGEST - 2]} …" for line in changes_lines(report)]
    text = LINE * (len(lines) + 1)
    colours = class_colours(report["labels"])
    with drawing(path, WIDTH, HEAD + text + TILE * rows, dpi=75) as figure:
        grid = figure.add_gridspec(2 + rows, 12, height_ratios=[HEAD, text, *[TILE] * rows])
        _shares(figure.add_subplot(grid[0, :4]), report, colours)
        _intensities(figure.add_subplot(grid[0, 4:8]), report, histograms, bins, colours)
        _figures(figure.add_subplot(grid[0, 8:]), report, colours)
        _changes(figure.add_subplot(grid[1, :]), lines)
        for i, tile in enumerate(tiles):
            axes = figure.add_subplot(grid[2 + i // COLUMNS, 3 * (i % COLUMNS) : 3 * (i % COLUMNS) + 3])
            _slice(axes, tile, report)
        part = "" if len(tiles) == patients else f", {len(tiles)} of them shown"
        figure.suptitle(
            f"{patients} patients{part}; channel {report['channel']}; each slice is the one with most of the "
            f"patient's rarest class (thick outline; dashed: derived, not drawn); seen from the feet, right is left",
            fontsize=10,
        )


def _shares(axes, report: dict, colours: dict[str, str]) -> None:
    total = sum(row["voxels"] for name, row in report["classes"].items() if name in colours) or 1
    shares = [100 * report["classes"][name]["voxels"] / total for name in colours]
    lowest = min([share for share in shares if share] or [1]) / 3
    axes.barh(range(len(colours)), shares, color=list(colours.values()))
    for i, share in enumerate(shares):
        # at the base of the bar, so that a share near 100 % has room for its text
        axes.text(lowest * 1.1, i, f"{share:.3g} %", va="center", fontsize=8, bbox=BOX)
    derived = report["derived"]
    axes.set(
        xscale="log",
        xlim=(lowest, 100),
        xlabel="% of labelled voxels",
        yticks=range(len(colours)),
    )
    axes.set_yticklabels([f"{name}\n(derived)" if name in derived else name for name in colours], fontsize=8)
    axes.invert_yaxis()


def _intensities(
    axes, report: dict, histograms: dict[str, np.ndarray], bins: np.ndarray, colours: dict[str, str]
) -> None:
    for name, colour in colours.items():
        if histograms[name].sum():
            axes.stairs(histograms[name] / histograms[name].sum(), bins, color=colour, label=name, linewidth=1.6)
    axes.set(xlabel="HU" if report["channel"] == "CT" else report["channel"], ylabel="share of the class's voxels")
    if colours:
        axes.legend(fontsize=7)


def _changes(axes, lines: Sequence[str]) -> None:
    """Writes what the conversion changed."""
    axes.axis("off")
    axes.text(
        0, 1, "\n".join(lines), family="monospace", fontsize=8, va="top", transform=axes.transAxes, parse_math=False
    )


def _figures(axes, report: dict, colours: dict[str, str]) -> None:
    """Draws a table of the cases, patients and intensities of each class."""
    axes.axis("off")
    cells = []
    for name in colours:
        row = report["classes"][name]
        spread = row.get("percentiles")
        cells.append(
            [
                name,
                str(row["value"]),
                str(row["cases"]),
                str(row["patients"]),
                f"{row['mean']:.0f} ({spread['5']:.0f} to {spread['95']:.0f})" if spread else "–",
            ]
        )
    if cells:
        table = axes.table(
            cells,
            colLabels=["class", "value", "cases", "patients", "mean (5–95 %)"],
            loc="center",
            colWidths=[0.32, 0.11, 0.12, 0.15, 0.3],
        )
        table.auto_set_font_size(False)
        table.set_fontsize(8)
        table.scale(1, 1.3)


def window_of(report: Mapping, image: np.ndarray) -> tuple[float, float]:
    """The intensities of a slice that are shown as black and white: the lung window, or nearly all of them."""
    if report["channel"] == "CT":
        return LUNG_WINDOW
    low, high = np.percentile(image, (0.5, 99.5))
    return float(low), float(high)


def _slice(axes, tile: Tile, report: dict) -> None:
    show_grey(axes, tile.image, window_of(report, tile.image), tile.spacing[0] / tile.spacing[1])
    outlined = {name: value for name, value in report["labels"].items() if name != "ignore"}
    present = [name for name, value in outlined.items() if value and (tile.label == value).any()]
    rarest = sorted(present, key=lambda name: report["classes"][name]["voxels"])[:1]
    outline_classes(axes, tile.label, outlined, report["derived"], rarest)
    marks = " (test)" * tile.test + " – lungs in doubt" * tile.doubtful
    axes.set_title(f"{tile.title[-38:]}{marks}", fontsize=7, color=DOUBT_COLOUR if tile.doubtful else "black")
    axes.axis("off")
