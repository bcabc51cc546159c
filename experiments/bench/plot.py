"""The learning curve: Dice of the rare class against the number of source patients, a line for each arm."""

from __future__ import annotations

from pathlib import Path

from experiments.bench.arms import ARMS
from nnunet_difflung.runtime.figures import LINE_COLOURS, as_text, drawing

_STYLES = ("-", "--")  # with more arms than colours, the colours come again with another line


def learning_curve(path: Path, content: dict) -> None:
    """Draws the picture of a table's content.

    Args:
        path: of the PNG file.
        content: as ``table.write`` writes it.
    """
    numbers, meta = content["numbers"], content["meta"]
    rare = as_text(meta["rare"].replace("_", " "))
    arms = [arm for arm in ARMS if any(arm in of for of in numbers.values())]
    with drawing(path, 7.5, 4.6, dpi=150) as figure:
        axes = figure.subplots()
        for i, arm in enumerate(arms):
            points = [
                (x + (i - (len(arms) - 1) / 2) * 0.04, of[arm]["figures"][meta["rare"]]["dice"])
                for x, of in enumerate(numbers.values())
                if arm in of and of[arm]["figures"][meta["rare"]]["dice"]["mean"] is not None
            ]
            axes.errorbar(
                [x for x, _ in points],
                [value["mean"] for _, value in points],
                yerr=[value["sd"] or 0 for _, value in points],
                color=LINE_COLOURS[i % len(LINE_COLOURS)],
                linestyle=_STYLES[i // len(LINE_COLOURS) % len(_STYLES)],
                marker="o",
                markersize=4,
                elinewidth=0.8,
                capsize=2,
                label=as_text(arm),
            )
        axes.set_xticks(range(len(numbers)), [_tick(number, of) for number, of in numbers.items()])
        axes.set_xlabel(f"training patients with {rare}")
        axes.set_ylabel(f"Dice of {rare}\n(mean and standard deviation of trainings)", fontsize=9)
        axes.set_title(as_text(meta["title"]), fontsize=10)
        axes.grid(axis="y", alpha=0.3)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside right upper", fontsize=8)


def _tick(number: str, arms: dict) -> str:
    return f"all ({next(iter(arms.values()))['sources']:.0f})" if number == "all" else number
