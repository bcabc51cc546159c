"""Table 2 for readers: Markdown, and a plot of the paired differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.pages.markdown import table_lines
from nnunet_difflung.runtime.figures import LINE_COLOURS, RULE_COLOUR, as_text, drawing
from nnunet_difflung.runtime.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = {  # beside Dice: name → title and digits in the table
    "false_positive_voxels": ("false voxels, patients without the class", 1),
    "false_positive_patients": ("share of these patients with any", 2),
    "lesion_sensitivity": ("lesions detected, share", 3),
    "false_lesions": ("false lesions", 2),
    "hd95_mm": ("HD95, mm", 2),
    "nsd": ("NSD", 3),
}

_LEVEL = 0.05
_UP, _DOWN = 6, 7  # matplotlib's markers CARETUP and CARETDOWN, whose tips are at the point


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
        f"deviation over seeds × folds. Difference: per patient to `{meta['reference']}`, with a 95 % interval for new "
        "patients and new trainings where the trainings allow one; beside it what its variance was estimated from, "
        "with the degrees of freedom. p: sign-flip permutation test over patients, which asks whether these trainings "
        "are exchangeable and says nothing of other trainings; in brackets adjusted by Holm's method for all arms and "
        "classes. Pooled Dice: over all voxels of a fold. Figures without an upper limit, such as false voxels, are "
        "skewed; their intervals are on a logarithmic scale and need 30 patients.",
    ]
    for name in classes:
        first = arms[meta["reference"]][name]
        lines += [
            "",
            f"## {name} ({first['dice']['patients']} patients with it, "
            f"{first['false_positive_voxels']['patients']} without)",
            "",
        ]
        rows = {arm: rows[name] for arm, rows in arms.items()}
        lines += _dice_rows(rows, meta["reference"])
        lines += [line for note in notes(rows, meta["reference"]) for line in ("", note)]
        lines += _figure_rows(rows, meta["reference"])
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _dice_rows(arms: dict[str, dict], reference: str) -> list[str]:
    head = ["arm", "Dice", "difference [95 %]", "variance of", "p", "pooled Dice", "Dice per case"]
    rows = []
    for arm, row in arms.items():
        difference = row["diff_to_reference"]
        cells = [
            arm,
            _value(row["dice"], 3),
            *(["–"] * 3 if arm == reference else [shown(difference, 3), rests_on(difference), p_text(difference)]),
            _value(row["pooled"], 3),
            _value(row["per_case"], 3),
        ]
        rows.append(cells)
    return table_lines(head, rows)


def notes(arms: dict[str, dict], reference: str) -> list[str]:
    """Sentences about a class: why there is no interval, and which failures an interval allows for."""
    differences = [row["diff_to_reference"] for arm, row in arms.items() if arm != reference]
    reasons = dict.fromkeys(d["no_interval"] for d in differences if d["no_interval"])
    tests = [d["permutation"]["patients"] for d in differences]
    units = {test["units"]: test["smallest_p"] for test in tests if test and test["smallest_p"] > _LEVEL}
    unseen = max((d["unseen_failures"] for d in differences), default=0)
    lines = [f"No interval: {reason}." for reason in reasons]
    lines += [f"With {n} patients p cannot be below {p:.2g}." for n, p in units.items() if p < 1]
    if unseen:
        lines.append(
            f"Some trainings miss the class. An arm that misses it in none (or all) of its trainings could still do "
            f"so in up to {unseen:.0%} of them; the intervals allow for that."
        )
    return lines


def _figure_rows(arms: dict[str, dict], reference: str) -> list[str]:
    """A second table with the figures beside Dice that have a value."""
    rows = []
    for figure, (title, digits) in FIGURES.items():
        for arm, row in arms.items():
            if figure not in row or row[figure]["mean"] is None:
                continue
            cells = ["–"] * 4
            if arm != reference and "diff_to_reference" in row[figure]:
                difference = row[figure]["diff_to_reference"]
                logarithms = row[figure].get("log10_difference")
                scaled = shown(logarithms, 2) if logarithms and logarithms["ci95"] else "–"
                basis = logarithms if logarithms and logarithms["ci95"] else difference
                cells = [shown(difference, digits), scaled, rests_on(basis), p_text(difference)]
            rows.append([title, arm, _value(row[figure], digits), *cells])
    head = ["figure", "arm", "mean", "difference [95 %]", "difference of log10(1 + figure) [95 %]", "variance of", "p"]
    return ["", *table_lines(head, rows)] if rows else []


def _value(figure: dict, digits: int) -> str:
    if figure["mean"] is None:
        return "–"
    return f"{figure['mean']:.{digits}f}" + (f" ± {figure['sd']:.{digits}f}" if figure["sd"] is not None else "")


def shown(difference: dict, digits: int) -> str:
    """A difference with its interval, such as ``+0.120 [-0.030, +0.270]``."""
    if difference["mean"] is None:
        return "–"
    ends = difference["ci95"]
    numbers = [f"{number:+.{digits}f}" for number in (difference["mean"], *(ends or ()))]
    return numbers[0] + (f" [{', '.join(numbers[1:])}]" if ends else " (no interval)")


def rests_on(difference: dict) -> str:
    """What the interval's variance was estimated from, with the degrees of freedom, such as ``folds (4)``."""
    parts = difference["degrees_of_freedom"].items()
    return ", ".join(f"{name} ({freedom:.3g})" for name, freedom in parts) or "–"


def p_text(difference: dict) -> str:
    """p of the permutation test and, in brackets, adjusted by Holm's method."""
    test = difference.get("permutation", {}).get("patients")
    return f"{test['p']:.2g} ({test['p_holm']:.2g})" if test else "–"


def plot_differences(path: Path, table: dict, points: dict[str, dict[str, np.ndarray]]) -> None:
    """Draws, for each class, the patients' Dice in every arm, and their differences to the reference.

    Args:
        path: path of the PNG file.
        table: as ``compare`` returns it, without NaN.
        points: arm → class → differences of the patients (NaN: no score).
    """
    reference, classes = table["meta"]["reference"], list(table[table["meta"]["reference"]])
    arms = [arm for arm in points if arm != reference]
    width = 1.2 + len(classes) * (1.2 + 0.6 * max(1, len(points)))
    with drawing(path, width, 7.2, dpi=150) as figure:
        above, below = figure.subplots(2, len(classes), squeeze=False, sharey="row")
        for axes, name in zip(above, classes, strict=True):
            axes.set_title(f"{as_text(name)}\n{table[reference][name]['dice']['patients']} patients", fontsize=10)
            _plot_dice(axes, {arm: table[arm][name] for arm in points}, reference)
        for axes, name in zip(below, classes, strict=True):
            axes.axhline(0, color=RULE_COLOUR, linewidth=0.8)
            differences = {arm: table[arm][name]["diff_to_reference"] for arm in arms}
            for x, arm in enumerate(arms):
                _plot_arm(axes, x, points[arm][name], differences[arm])
            axes.set_xticks(range(len(arms)), arms, rotation=45, ha="right", fontsize=7)
            axes.set_xlim(-0.6, max(0.6, len(arms) - 0.4))
        above[0].set_ylim(-0.03, 1.03)
        above[0].set_ylabel("Dice of a patient\n(diamond: mean)", fontsize=8)
        low, high = below[0].get_ylim()
        below[0].set_ylim(max(low, -1.05), min(high, 1.05))  # intervals can exceed the range of Dice
        below[0].set_ylabel(f"Dice of a patient minus {reference}'s\n(diamond: mean)", fontsize=8)
        notes = ["bar: 95 % interval for new patients and trainings"]
        shown = [[table[arm][name]["diff_to_reference"] for arm in arms] for name in classes]
        marked = [_mark_ends(axes, row) for axes, row in zip(below, shown, strict=True)]
        if any(marked):
            notes.append("arrow: the interval goes on")
        if any(difference["ci95"] is None for row in shown for difference in row):
            notes.append("no bar: no interval")
        figure.supxlabel("; ".join(notes), fontsize=8)


def _plot_dice(axes: Axes, arms: dict[str, dict], reference: str) -> None:
    """Draws each arm's patients, with the colours that the arms have among the differences, and their mean."""
    colours = iter(range(len(arms)))
    for x, (arm, row) in enumerate(arms.items()):
        colour = RULE_COLOUR if arm == reference else LINE_COLOURS[next(colours) % len(LINE_COLOURS)]
        values = list(of_patients(row, "dice").values())
        axes.plot(x + _jitter(len(values)), values, "o", color=colour, alpha=0.4, markersize=4)
        if row["dice"]["mean"] is not None:
            axes.plot(x + 0.3, row["dice"]["mean"], "D", color=colour, markersize=6)
    axes.set_xticks(range(len(arms)), list(arms), rotation=45, ha="right", fontsize=7)
    axes.set_xlim(-0.6, max(0.6, len(arms) - 0.4))


def _jitter(number: int) -> np.ndarray:
    return np.linspace(-0.18, 0.18, number) if number > 1 else np.zeros(number)


def of_patients(row: dict, figure: str) -> dict[str, float]:
    """Patient → mean of a figure in ``rows`` over folds and repetitions."""
    values: dict[str, list[float]] = {}
    for entry in row["rows"]:
        if entry[figure] is not None:
            values.setdefault(entry["patient"], []).append(entry[figure])
    return {patient: float(np.mean(of)) for patient, of in values.items()}


def _mark_ends(axes: Axes, differences: list[dict]) -> bool:
    """Draws an arrow where an arm's interval leaves the axis; returns whether one does."""
    low, high = axes.get_ylim()
    ends = [(x, difference["ci95"]) for x, difference in enumerate(differences) if difference["ci95"] is not None]
    arrows = [(x, low, _DOWN) for x, ci in ends if ci[0] < low] + [(x, high, _UP) for x, ci in ends if ci[1] > high]
    for x, y, marker in arrows:
        axes.plot(x + 0.3, y, marker=marker, color=LINE_COLOURS[x % len(LINE_COLOURS)], markersize=8, clip_on=False)
    return bool(arrows)


def _plot_arm(axes: Axes, x: int, differences: np.ndarray, summary: dict) -> None:
    """Draws an arm's patients around ``x``, and to their right the mean and its interval."""
    colour = LINE_COLOURS[x % len(LINE_COLOURS)]
    values = differences[np.isfinite(differences)]
    axes.plot(x + _jitter(len(values)), values, "o", color=colour, alpha=0.4, markersize=4)
    if summary["ci95"] is not None:
        axes.plot([x + 0.3] * 2, summary["ci95"], color=colour, linewidth=2)
    if summary["mean"] is not None:
        axes.plot(x + 0.3, summary["mean"], "D", color=colour, markersize=6)
