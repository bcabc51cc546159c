"""Dice against the number of iterations, on the tuning fold: where the reference has reached its plateau."""

from __future__ import annotations

import argparse
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path

from experiments.bench.arms import ARMS, SETS
from experiments.bench.compared import PRECISION, summary
from experiments.bench.rows import TUNING_FOLD, Store
from experiments.bench.table import RESULTS, check_alike
from nnunet_difflung.pages.markdown import table_lines
from nnunet_difflung.runtime.files import write_bytes, write_json


def write(o: argparse.Namespace) -> list[Path]:
    """Writes the tuning rows of all lengths, as JSON and as a table, prints the table, and returns the files.

    Raises:
        BadInput: rows of an arm and a length were made with different settings.
    """
    kind, target = SETS[o.set], o.out or RESULTS / f"bench_{o.set}_curve.json"
    rows = Store(o.o, True).read()
    for length in sorted({row["row"]["iterations"] for row in rows}):
        check_alike([row for row in rows if row["row"]["iterations"] == length])
    table = lines(rows, kind.rare)
    print("\n".join(table))
    content = {
        "meta": {
            "command": _command(o.set, rows),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "dataset": kind.dataset,
            "rare": kind.rare,
            "machines": sorted({row["machine"] for row in rows}),
            "versions": rows[-1]["versions"] if rows else {},
        },
        "rows": [
            {**row["row"], "date": row["date"], "cpu_seconds": sum(row["cpu_seconds"].values())}
            | {name: figure["mean"] for name, figure in summary({(0, 0): row}, kind.rare).items()}
            for row in rows
        ],
    }
    write_json(target, content)
    text = [
        f"# {kind.title}: Dice of {kind.rare} by iterations (fold {TUNING_FOLD}, for tuning)",
        "",
        f"`{content['meta']['command']}`. Mean over patients and trainings; in brackets the average precision over all "
        "voxels and the false voxels in a patient without the class.",
        "",
        *table,
        "",
    ]
    write_bytes(target.with_suffix(".md"), "\n".join(text).encode())
    return [target, target.with_suffix(".md")]


def _command(kind: str, rows: list[dict]) -> str:
    """The command that makes all of these rows, with WORK for the folder of the bench."""
    words = ["python", "-m", "experiments.bench", "curve", "--set", kind, "-o", "WORK"]
    for option, key in (("--arms", "arm"), ("-n", "number"), ("--seeds", "seed"), ("--iterations", "iterations")):
        words += [option, *map(str, dict.fromkeys(row["row"][key] for row in rows))]
    return " ".join(words)


def lines(rows: list[dict], rare: str) -> list[str]:
    """A line for each number of source patients and arm, a column for each number of iterations.

    A cell has Dice of the class and, in brackets, the average precision (where it is known) and the false voxels.

    Arms that another version made, and this one does not know, come last.
    """
    cells: dict[tuple[str, str], dict[int, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        key = row["row"]
        cells[key["number"], key["arm"]][key["iterations"]].append(row)
    lengths = sorted({row["row"]["iterations"] for row in rows})
    head = ["source patients", "arm", *map(str, lengths)]
    table = []
    order = {arm: position for position, arm in enumerate([*ARMS, *sorted({arm for _, arm in cells} - set(ARMS))])}
    for number, arm in sorted(cells, key=lambda key: (key[0] == "all", len(key[0]), key[0], order[key[1]])):
        table.append([number, arm, *(_cell(cells[number, arm][length], rare) for length in lengths)])
    return table_lines(head, table)


def _cell(rows: list[dict], rare: str) -> str:
    if not rows:
        return "–"
    figures = summary(dict(enumerate(rows)), rare)
    dice, precision, false = (figures[name]["mean"] for name in ("dice", PRECISION, "false_voxels"))
    shown = (("–" if value is None else f"{value:.{n}f}") for value, n in ((dice, 3), (precision, 3), (false, 0)))
    return "{} ({}; {})".format(*shown)
