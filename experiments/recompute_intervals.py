"""Computes the differences, intervals and tests of docs/results/table2_*.json again from the patients' voxel counts.

    python -m experiments.recompute_intervals && python -m experiments.make_tables

The files hold true positive, false positive and false negative voxels of each patient in each training ("rows"), from
which all figures follow but the mean over cases, which is kept. The tables and plots beside the files are made again.
With ``--pictures`` only the plots are, from the figures that the files have.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

from nnunet_difflung.comparison.compare import INTERVAL, tabulate, without_nan
from nnunet_difflung.comparison.scores import Scores
from nnunet_difflung.comparison.statistics import paired_differences
from nnunet_difflung.comparison.table2 import plot_differences, write_markdown
from nnunet_difflung.runtime.files import read_json, write_json

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
_DIGITS = 1e-6  # the files are rounded to 6 digits


def scores_of(table: dict) -> Scores:
    """The voxel counts in a table, without those of single cases."""
    arms = {name: classes for name, classes in table.items() if name != "meta"}
    classes = tuple(next(iter(arms.values())))
    rows = next(iter(arms.values()))[classes[0]]["rows"]
    patients = tuple(sorted({row["patient"] for row in rows}))
    seeds, folds = (tuple(dict.fromkeys(row[key] for row in rows)) for key in ("seed", "fold"))
    shape = (len(classes), len(seeds), len(folds))
    counts = {arm: np.full((*shape, len(patients), 3), np.nan) for arm in arms}
    for arm, of_class in arms.items():
        for c, name in enumerate(classes):
            for row in of_class[name]["rows"]:
                place = seeds.index(row["seed"]), folds.index(row["fold"]), patients.index(row["patient"])
                counts[arm][(c, *place)] = [row[key] for key in ("tp", "fp", "fn")]
    per_case = {arm: np.full(shape, np.nan) for arm in arms}
    return Scores(classes, seeds, folds, patients, {}, counts, per_case)


def recomputed(table: dict, scores: Scores) -> dict:
    """The table with new differences, also to the opponents that it has differences to."""
    reference, opponents = table["meta"]["reference"], [name for name in table if name != "meta"]
    new = {arm: tabulate(scores, arm, {}) for arm in opponents}
    for arm, classes in new[reference].items():
        for name, row in classes.items():
            old = table[arm][name]
            for key in ("dice", "diff_to_reference"):
                assert abs(row[key]["mean"] - old[key]["mean"]) < 2 * _DIGITS, (arm, name, key)
            row["per_case"] = old["per_case"]
            for opponent in opponents:
                if f"diff_to_{opponent}" in old:
                    row[f"diff_to_{opponent}"] = new[opponent][arm][name]["diff_to_reference"]
    return {"meta": {**table["meta"], "interval": INTERVAL}, **without_nan(new[reference])}


def draw(path: Path, table: dict, scores: Scores) -> None:
    """Draws the plot of a table again where there is one."""
    if not path.is_file():
        return
    reference = table["meta"]["reference"]
    points = {
        arm: {
            name: paired_differences(scores.dice(arm)[c], scores.dice(reference)[c])
            for c, name in enumerate(scores.classes)
        }
        for arm in scores.counts
    }
    plot_differences(path, table, points)


def main() -> None:
    """Writes every table again."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", action="store_true", help="only draw the plots again (default: all files)")
    o = p.parse_args()
    for path in sorted(RESULTS.glob("*table2_*.json")):
        table = read_json(path)
        scores = scores_of(table)
        if o.pictures:
            draw(path.with_suffix(".png"), table, scores)
            continue
        new = recomputed(table, scores)
        write_json(path, new)
        markdown = path.with_suffix(".md")
        if not markdown.is_file():
            continue
        command = re.search(r"`(difflung_compare .*?)`", markdown.read_text())
        shown = {**new["meta"], "seeds": list(scores.seeds), "command": command[1] if command else ""}
        write_markdown(markdown, {**new, "meta": shown})
        draw(path.with_suffix(".png"), new, scores)


if __name__ == "__main__":
    main()
