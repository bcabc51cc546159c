"""The learning curve: Dice of the rare class against the number of source patients, a line for each arm.

Numbers of an earlier version, whose rows are not there any more, have hollow marks and are joined by dotted lines.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from experiments.bench.arms import ARMS
from nnunet_difflung.runtime.figures import LINE_COLOURS, as_text, drawing

EARLIER = "earlier version"  # of numbers whose rows are not there any more
_STYLES = ("-", "--")  # with more arms than colours, the colours come again with another line


def learning_curve(path: Path, content: dict) -> None:
    """Draws the picture of a table's content.

    Args:
        path: of the PNG file.
        content: as ``table.write`` writes it.
    """
    numbers, meta = content["numbers"], content["meta"]
    rare = as_text(meta["rare"].replace("_", " "))
    kept = {number: content.get("made", {}).get(number, {}).get("rows_kept", True) for number in numbers}
    arms = [arm for arm in ARMS if any(arm in of for of in numbers.values())]
    with drawing(path, 7.5, 4.6, dpi=150) as figure:
        axes = figure.subplots()
        for i, arm in enumerate(arms):
            points = [
                (x + (i - (len(arms) - 1) / 2) * 0.04, of[arm]["figures"][meta["rare"]]["dice"], kept[number])
                for x, (number, of) in enumerate(numbers.items())
                if arm in of and of[arm]["figures"][meta["rare"]]["dice"]["mean"] is not None
            ]
            colour, style = LINE_COLOURS[i % len(LINE_COLOURS)], _STYLES[i // len(LINE_COLOURS) % len(_STYLES)]
            for (x, value, of_now), (next_x, next_value, next_of_now) in pairwise(points):
                ends = [x, next_x], [value["mean"], next_value["mean"]]
                axes.plot(*ends, color=colour, linestyle=style if of_now == next_of_now else ":")
            for x, value, of_now in points:
                axes.errorbar(
                    x,
                    value["mean"],
                    yerr=[[min(value["sd"] or 0, value["mean"])], [value["sd"] or 0]],
                    color=colour,
                    marker="o",
                    markersize=4,
                    markerfacecolor=colour if of_now else "white",
                    elinewidth=0.8,
                    capsize=2,
                )
            axes.plot([], [], color=colour, linestyle=style, marker="o", markersize=4, label=as_text(arm))
        axes.set_xlim(-0.5, len(numbers) - 0.5)
        axes.set_xticks(range(len(numbers)), [_tick(number, of, kept[number]) for number, of in numbers.items()])
        axes.set_xlabel(f"training patients with {rare}")
        axes.set_ylabel(f"Dice of {rare}\n(mean and standard deviation of trainings)", fontsize=9)
        axes.set_title(as_text(meta["title"]), fontsize=10)
        axes.grid(axis="y", alpha=0.3)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside right upper", fontsize=8)


def _tick(number: str, arms: dict, kept: bool) -> str:
    name = f"all ({next(iter(arms.values()))['sources']:.0f})" if number == "all" else number
    return name if kept else f"{name}\n({EARLIER})"
