"""Table 2 for readers: Markdown, and a plot of the paired differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.runtime.figures import LINE_COLOURS, RULE_COLOUR, drawing
from nnunet_difflung.runtime.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_markdown(path: Path, table: dict) -> None:
    """Writes a section for each class with a row for each arm.

    Args:
        path: path of the file.
        table: as ``compare`` returns it, without NaN.
    """
    meta, arms = table["meta"], {arm: rows for arm, rows in table.items() if arm != "meta"}
    classes = list(next(iter(arms.values())))
    lines = [
        f"# {meta['dataset']}: {meta['scored']}",
        "",
        f"Folds {', '.join(map(str, meta['folds']))}; {len(meta['seeds'])} repetition(s) "
        f"({', '.join(meta['seeds'])}); configuration {meta['configuration']}"
        + (f"; {meta['iterations']} iterations" if meta.get("iterations") else "")
        + f". `{meta['command']}`",
        "",
        "Dice: over all voxels of a patient, then the mean over the patients who have the class ± the standard "
        f"deviation over seeds × folds. Difference: per patient to `{meta['reference']}`, with a 95 % t-interval that "
        + (
            "covers the spread between patients and between the repetitions of each fold. "
            if len(meta["seeds"]) > 1
            else "covers the spread between patients; a single repetition does not show the spread between trainings. "
        )
        + "Pooled Dice: over all voxels of a fold. False voxels: predicted in a patient without the class.",
    ]
    for name in classes:
        first = arms[meta["reference"]][name]
        lines += [
            "",
            f"## {name} ({first['dice']['patients']} patients with it, "
            f"{first['false_positive_voxels']['patients']} without)",
            "",
        ]
        lines += _rows({arm: rows[name] for arm, rows in arms.items()})
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _rows(arms: dict[str, dict]) -> list[str]:
    surface = [key for key in ("hd95_mm", "nsd") if key in next(iter(arms.values()))]
    head = [
        "arm",
        "Dice",
        "difference [95 %]",
        "pooled Dice",
        "Dice per case",
        "false voxels",
        *({"hd95_mm": "HD95, mm", "nsd": "NSD"}[key] for key in surface),
    ]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for arm, row in arms.items():
        cells = [
            arm,
            _value(row["dice"], 3),
            _difference(row["diff_to_reference"]),
            _value(row["pooled"], 3),
            _value(row["per_case"], 3),
            _value(row["false_positive_voxels"], 1),
            *(_value(row[key], 2 if key == "hd95_mm" else 3) for key in surface),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _value(figure: dict, digits: int) -> str:
    if figure["mean"] is None:
        return "–"
    return f"{figure['mean']:.{digits}f}" + (f" ± {figure['sd']:.{digits}f}" if figure["sd"] is not None else "")


def _difference(figure: dict) -> str:
    if figure["mean"] is None:
        return "–"
    low, high = figure["ci95"]
    return f"{figure['mean']:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if low is not None else " (one patient)")


def plot_differences(path: Path, table: dict, points: dict[str, dict[str, np.ndarray]]) -> None:
    """Draws, for each class, the patients' differences to the reference, their mean, and its interval.

    Args:
        path: path of the PNG file.
        table: as ``compare`` returns it, without NaN.
        points: arm → class → differences of the patients (NaN: no score).
    """
    reference, classes = table["meta"]["reference"], list(table[table["meta"]["reference"]])
    arms = [arm for arm in points if arm != reference]
    with drawing(path, 1.2 + len(classes) * (1.2 + 0.6 * max(1, len(arms))), 4, dpi=150) as figure:
        for axes, name in zip(figure.subplots(1, len(classes), squeeze=False, sharey=True)[0], classes, strict=True):
            axes.axhline(0, color=RULE_COLOUR, linewidth=0.8)
            axes.set_title(f"{name}\n{table[reference][name]['dice']['patients']} patients", fontsize=10)
            for x, arm in enumerate(arms):
                _plot_arm(axes, x, points[arm][name], table[arm][name]["diff_to_reference"])
            axes.set_xticks(range(len(arms)), arms, rotation=45, ha="right", fontsize=8)
            axes.set_xlim(-0.6, max(0.6, len(arms) - 0.4))
        low, high = figure.axes[0].get_ylim()
        figure.axes[0].set_ylim(max(low, -1.05), min(high, 1.05))  # intervals can exceed the range of Dice
        figure.axes[0].set_ylabel(
            f"Dice of a patient minus {reference}'s\n(diamond: mean, bar: 95 % interval)", fontsize=8
        )


def _plot_arm(axes: Axes, x: int, differences: np.ndarray, summary: dict) -> None:
    """Draws an arm's patients around ``x``, and to their right the mean and its interval."""
    colour = LINE_COLOURS[x % len(LINE_COLOURS)]
    values = differences[np.isfinite(differences)]
    jitter = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(len(values))
    axes.plot(x + jitter, values, "o", color=colour, alpha=0.4, markersize=4)
    if summary["ci95"][0] is not None:
        axes.plot([x + 0.3] * 2, summary["ci95"], color=colour, linewidth=2)
    if summary["mean"] is not None:
        axes.plot(x + 0.3, summary["mean"], "D", color=colour, markersize=6)
