"""Fills the tables in docs/performance.md and its pages in docs/results from the JSON files there.

python -m benchmarks.make_table
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from benchmarks.sizes import sizes_table
from nnunet_difflung.runtime.files import read_json, write_bytes

DOCS = Path(__file__).resolve().parent.parent / "docs"


def table(rows: list[dict]) -> str:
    """A line for each row, with the spread of the repeats."""
    lines = [
        "| what | device | ours (lowest to highest) | reference (lowest to highest) | unit | ratio | repeats | load |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = []
        for who in ("ours", "reference"):
            spread = row["meta"]["spread"][who]
            cells.append("–" if spread is None else f"{_number(row[who])} ({' to '.join(map(_number, spread))})")
        ratio = "–" if row["ratio"] is None else _number(row["ratio"])
        lines.append(
            f"| {row['name']} | {row['device']} | {cells[0]} | {cells[1]} | {row['unit']} | {ratio} | "
            f"{row['repeats']} | {row['meta']['load']} |"
        )
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def network_table(content: dict) -> str:
    """A line for each network of ``networks.py``: cost, and the images' worth with each of its seeds."""
    meta, lines = content["meta"], []
    for name, seeds in content["rows"].items():
        runs = list(seeds.values())
        rare = min(runs[0]["hu_bias"], key=lambda group: (group != "emphysema", group))

        def each(form: str, key: str, group: str | None = None, runs=runs) -> str:
            return ", ".join(format((run[key][group] if group else run[key])["mean"], form) for run in runs)

        lines.append(
            f"| {name} | {runs[0]['parameters'] / 1e6:.2f} M | {runs[0]['forward_gflop']:.2f} | "
            f"{', '.join(str(run['steps']) for run in runs)} | {each('.2f', 'psnr_lung')} | "
            f"{each('.2f', 'psnr_lung_of_mean')} | {each('+.1f', 'hu_bias', rare)} | "
            f"{each('.1f', 'wasserstein', rare)} | {each('.2f', 'texture', rare)} | {len(runs)} |"
        )
    return "\n".join(
        [
            *(f"`{command}`" for command in meta["commands"]),
            "",
            f"{meta['date']}, {meta['machine']}; a figure of each seed.",
            "",
            "| network | weights | GFLOP a pass | steps | PSNR lung | of the mean image | bias emphysema, "
            "HU | Wasserstein | texture distance | seeds |",
            "|---|" + "---|" * 9,
            *lines,
        ]
    )


def peer_table(content: dict) -> str:
    """The command, and a line for each painter of ``peer.py``."""
    from benchmarks.peer import markdown  # late: it needs the packages of both

    made = content["rows"]["difflung"]["meta"]
    return f"`{content['meta']['command']}`\n\n{made['date']}, {made['machine']}.\n\n{markdown(content)}"


TABLES = (  # page below docs, marker, file in docs/results, what makes the table
    ("performance.md", "speed", "speed", table),
    ("performance.md", "gpu speed", "gpu_speed", table),
    ("results/stages.md", "sizes", "stage_sizes", sizes_table),
    ("results/networks.md", "networks", "networks_64_cpu", network_table),
    ("results/networks.md", "equal steps", "networks_64_steps_cpu", network_table),
    ("results/peer.md", "peer", "peer_lidc", peer_table),
    ("results/peer.md", "peer medseg", "peer_medseg", peer_table),
)


def main() -> None:
    """Entry of the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for page, name, file, make in TABLES:
        text = (DOCS / page).read_text(encoding="utf-8")
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        filled = f"{marks[0]}\n{make(read_json(DOCS / 'results' / f'{file}.json'))}\n{marks[1]}"
        text, found = re.subn(f"{marks[0]}.*?{marks[1]}", lambda _, filled=filled: filled, text, flags=re.DOTALL)
        if found != 1:
            raise SystemExit(f"docs/{page} has {found} places for the table {name!r}; expected one")
        write_bytes(DOCS / page, text.encode())


if __name__ == "__main__":
    main()
