"""Fills the table in docs/performance.md from docs/results/speed.json.

    python benchmarks/make_table.py
"""
from __future__ import annotations

import argparse
import re
from pathlib import Path

from nnunet_difflung.files import read_json, write_bytes

DOCS = Path(__file__).resolve().parent.parent / "docs"


def table(rows: list[dict]) -> str:
    """A line for each row, with the spread of the repeats."""
    lines = ["| what | device | ours (lowest to highest) | reference (lowest to highest) | unit | ratio | repeats | "
             "load |",
             "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = []
        for who in ("ours", "reference"):
            spread = row["meta"]["spread"][who]
            cells.append("–" if spread is None else f"{row[who]:.3g} ({spread[0]:.3g} to {spread[1]:.3g})")
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.3g}"
        lines.append(f"| {row['name']} | {row['device']} | {cells[0]} | {cells[1]} | {row['unit']} | {ratio} | "
                     f"{row['repeats']} | {row['meta']['load']} |")
    return "\n".join(lines)


def main() -> None:
    """Entry of the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    path, marks = DOCS / "performance.md", ("<!-- speed -->", "<!-- end of speed -->")
    filled = f"{marks[0]}\n{table(read_json(DOCS / 'results' / 'speed.json'))}\n{marks[1]}"
    text = re.sub(f"{marks[0]}.*?{marks[1]}", lambda _: filled, path.read_text(), flags=re.DOTALL)
    write_bytes(path, text.encode())


if __name__ == "__main__":
    main()
