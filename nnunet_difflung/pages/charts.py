"""Charts of a report as SVG, with text and axes in the colour of the page's text, so that they suit light and dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_difflung.runtime.figures import BLUE, GREY, LINE_COLOURS, ORANGE, as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#010203"  # stands for the colour of the page's text
_STYLE: Mapping[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "difflung",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_LINES = ("-", "--", ":")  # once the colours have been used
_NO_DATE = {"Date": None, "Creator": None, "Format": None, "Type": None}


class Drawing:
    """A figure, and its SVG once the block of ``drawing`` has ended."""

    def __init__(self, figure: Figure):
        self.figure, self.svg = figure, ""


@contextmanager
def drawing(width: float, height: float) -> Iterator[Drawing]:
    """An empty figure of a size in inches."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(dict(_STYLE)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser's fonts have it
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        result = Drawing(figure)
        yield result
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_DATE)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    result.svg = re.sub(r' id="[a-z]+[a-z.]*_\d+"', "", svg)  # of groups: nothing refers to them, and they repeat


def share_bars(before: Mapping[str, float], after: Mapping[str, float], targets: Mapping[str, float]) -> str:
    """Share of each class before and after augmentation as bars, and its target as a line.

    Args:
        before: class → share in [0, 1].
        after: the same classes.
        targets: the same for some classes.
    """
    names = list(before)
    with drawing(7.5, 0.9 + 0.5 * len(names)) as result:
        axes = result.figure.subplots()
        for number, name in enumerate(names):
            for shift, share, colour in ((-0.19, before[name], "#56B4E9"), (0.19, after[name], ORANGE)):
                axes.barh(number + shift, 100 * share, 0.36, color=colour)
                place = 100 * max(share, targets.get(name, 0.0))  # beyond the line of the target
                axes.annotate(f"{share:.2%}", (place, number + shift), (3, 0), textcoords="offset points", va="center")
            if name in targets:
                axes.plot([100 * targets[name]] * 2, [number - 0.42, number + 0.42], color=_INK, linewidth=1.5)
        axes.set_yticks(range(len(names)), [as_text(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 112 * max(*before.values(), *after.values(), *targets.values(), 1e-4))
        axes.set_xlabel("share of lung, % (blue: real cases; orange: with synthetic cases; line: target)")
    return result.svg


def shares(of_classes: Mapping[str, float], colours: Mapping[str, str]) -> str:
    """Share of each class as a bar; the axis is logarithmic and ends at 100 %.

    Args:
        of_classes: class → share in [0, 1].
        colours: class → colour.
    """
    lowest = min([share for share in of_classes.values() if share], default=0.01) / 3
    with drawing(7.5, 0.9 + 0.32 * len(of_classes)) as result:
        axes = result.figure.subplots()
        for number, (name, share) in enumerate(of_classes.items()):
            axes.barh(number, 100 * share, 0.6, color=colours[name])
            axes.annotate(
                f"{share:.3%}",
                (1, number),
                (4, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                va="center",
            )
        axes.set_xscale("log")
        axes.set_xlim(100 * lowest, 100)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_yticks(range(len(of_classes)), [as_text(name) for name in of_classes])
        axes.set_ylim(len(of_classes) - 0.5, -0.5)
        axes.set_xlabel("% of labelled voxels")
    return result.svg


def histograms(curves: Mapping[str, tuple[np.ndarray, str, str]], bins: np.ndarray, unit: str) -> str:
    """Distributions of intensities as curves.

    Args:
        curves: name → intensities, a colour, and a line style of matplotlib.
        bins: edges of the bins; what lies outside counts in the first or last one.
        unit: of the intensities.
    """
    counted = {
        name: (np.histogram(np.clip(values, bins[0], bins[-1]), bins)[0], colour, style)
        for name, (values, colour, style) in curves.items()
    }
    return histograms_of_counts(counted, bins, unit)


def histograms_of_counts(curves: Mapping[str, tuple[np.ndarray, str, str]], bins: np.ndarray, unit: str) -> str:
    """The same of numbers of voxels in each bin; bins of equal width."""
    with drawing(7.5, 2.6) as result:
        axes = result.figure.subplots()
        centres, width = (bins[1:] + bins[:-1]) / 2, float(bins[1] - bins[0])
        for name, (counts, colour, style) in curves.items():
            total = int(counts.sum())
            label = f"{as_text(name)} ({total:,} voxels)"
            axes.plot(centres, 100 * counts / max(1, total), style, color=colour, linewidth=1.6, label=label)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(unit)
        axes.set_ylabel(f"% of voxels per {width:g}")
        axes.legend(frameon=False)
    return result.svg


def paired_dots(
    arms: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
    label: str,
    means: Mapping[str, float],
    limits: tuple[float, float] | None = None,
) -> str:
    """A line for each patient through the arms, and the arms' means.

    Args:
        arms: in order, from left to right.
        values: patient → a value for each arm; None where there is none.
        label: what the values are.
        means: arm → mean over the patients.
        limits: of the axis of values; None fits them.
    """
    with drawing(max(4.0, 1.3 * len(arms) + 1), 3.2) as result:
        axes = result.figure.subplots()
        places = np.arange(len(arms))
        for row in values.values():
            heights = np.array([np.nan if value is None else value for value in row], dtype=float)
            axes.plot(places, heights, "o-", color=GREY, alpha=0.55, markersize=3.5, linewidth=0.8)
        for place, arm in zip(places, arms, strict=True):
            axes.plot([place - 0.25, place + 0.25], [means[arm]] * 2, color=ORANGE, linewidth=2.5)
        axes.set_xticks(places, [as_text(arm) for arm in arms], rotation=20 if len(arms) > 4 else 0)
        axes.set_xlim(-0.5, len(arms) - 0.5)
        if limits:
            axes.set_ylim(*limits)
        axes.set_ylabel(label)
    return result.svg


def intervals(rows: Sequence[tuple[str, float, float | None, float | None]], label: str) -> str:
    """Differences with their intervals, one below the other, and a line at no difference.

    Args:
        rows: name, difference, and the ends of its interval (None if there is none).
        label: what the differences are.
    """
    with drawing(7.5, 0.8 + 0.32 * len(rows)) as result:
        axes = result.figure.subplots()
        axes.axvline(0, color=_INK, linewidth=0.8)
        for number, (_, difference, low, high) in enumerate(rows):
            if low is not None and high is not None:
                axes.plot([low, high], [number] * 2, color=BLUE, linewidth=1.6)
            axes.plot([difference], [number], "o", color=BLUE)
        axes.set_yticks(range(len(rows)), [as_text(name) for name, *_ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(label)
    return result.svg


def lines(curves: Mapping[str, np.ndarray], across: str, label: str, limits: tuple[float, float] | None = None) -> str:
    """Values that follow each other, such as those of epochs, as a line for each name.

    Args:
        curves: name → (n,) values; at most 200 of them are drawn.
        across: what they follow along.
        label: what the values are.
        limits: of the axis of values; None fits them.
    """
    with drawing(7.5, 2.8) as result:
        axes = result.figure.subplots()
        for number, (name, values) in enumerate(curves.items()):
            places = np.unique(np.linspace(0, len(values) - 1, min(len(values), 200)).round().astype(int))
            colour, style = LINE_COLOURS[number % len(LINE_COLOURS)], _LINES[number // len(LINE_COLOURS) % len(_LINES)]
            axes.plot(places, values[places], style, color=colour, linewidth=1.6, label=as_text(name))
        if limits:
            axes.set_ylim(*limits)
        axes.set_xlabel(across)
        axes.set_ylabel(label)
        axes.legend(frameon=False, ncols=2)
    return result.svg
