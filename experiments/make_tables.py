"""Fills the tables of README.md, docs/method.md, docs/results.md and its pages from the raw results in docs/results/.

python -m experiments.make_tables
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from experiments import summary_tables, tables
from experiments.goals import goals_table
from nnunet_difflung.runtime.files import read_json, write_bytes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "docs/results"


@dataclass(frozen=True)
class Place:
    """Where a table stands, and what it is made of.

    Attributes:
        page: the file, from the root of the repository.
        marker: the table stands between ``<!-- marker -->`` and ``<!-- end of marker -->``.
        files: names of JSON files in ``docs/results``, without ``.json``.
        table: makes the Markdown of the contents of ``files``.
        optional: nothing stands there until the files exist.
    """

    page: str
    marker: str
    files: tuple[str, ...]
    table: Callable[..., str]
    optional: bool = False


_PAINTED = {"phantom": "emphysema", "MedSeg": "consolidation"}
_SCORED = {
    "phantom, large dose": "emphysema",
    "phantom, paper's dose": "emphysema",
    "phantom with texture": "emphysema",
    "MedSeg": "consolidation",
    "MedSeg, 2 mm": "consolidation",
}
_REGIONS = {"lidc": "LIDC", "medseg_2mm": "MedSeg, 2 mm"}  # file → data
_BENCH = "bench_lidc"
_VOLUMES = {"lidc": "LIDC", "medseg": "MedSeg", "medseg_consolidation": "MedSeg"}  # file → data

PLACES = (
    Place("README.md", _BENCH, (_BENCH,), partial(summary_tables.bench_in_short, _BENCH), optional=True),
    Place("README.md", "demo", ("demo",), tables.demo_table),
    Place("docs/method.md", "intervals", ("intervals",), tables.interval_tables),
    Place("docs/results.md", _BENCH, (_BENCH,), partial(summary_tables.bench_summary, _BENCH), optional=True),
    Place(
        "docs/results.md",
        "table1",
        ("table1_phantom", "table1_medseg"),
        partial(summary_tables.table1_summary, _PAINTED),
    ),
    Place(
        "docs/results.md",
        "regions",
        tuple(f"regions_{name}" for name in _REGIONS),
        partial(summary_tables.regions_summary, tuple(_REGIONS.values())),
    ),
    Place("docs/results.md", "goals", (_BENCH, "regions_lidc", "masks"), goals_table),
    Place(
        f"{RESULTS}/bench.md",
        "edges",
        ("regions_lidc_tuning_edges",),
        partial(summary_tables.edges_summary, "**margin 2 (default)**"),
    ),
    Place(
        f"{RESULTS}/samplers.md",
        "steps",
        ("regions_lidc_tuning_steps",),
        partial(summary_tables.steps_summary, "**ddpm, 25 (default)**"),
    ),
    Place(
        "docs/volumes.md",
        "volumes",
        tuple(f"volumes_{name}" for name in _VOLUMES),
        partial(summary_tables.volumes_summary, tuple(_VOLUMES.values())),
        optional=True,
    ),
    Place(
        "docs/results.md",
        "table2",
        (
            "table2_phantom",
            "table2_phantom_quarter",
            "table2_phantom_texture",
            "table2_medseg",
            "table2_medseg_2mm",
        ),
        partial(summary_tables.table2_summary, _SCORED),
    ),
    *(
        Place(f"{RESULTS}/{page}.md", name, (name,), table)
        for page, name, table in (
            ("phantom", "table1_phantom", tables.table1),
            ("phantom", "table2_phantom", tables.table2),
            ("phantom_dose", "table2_phantom_quarter", tables.table2),
            ("phantom_texture", "table2_phantom_texture", tables.table2),
            ("medseg", "table1_medseg", tables.table1),
            ("medseg", "table2_medseg", tables.table2),
            ("medseg", "table2_medseg_2mm", tables.table2),
            ("medseg_one_fold", "medseg_main_chain", tables.chain_table),
            ("pilot", "pilot_table1_phantom", tables.table1),
            ("pilot", "pilot_table2_phantom", tables.table2),
            ("pilot", "pilot_ablations_phantom", tables.ablation_table),
            ("shortcut", "shortcut_probe_phantom", tables.probe_table),
            ("samplers", "samplers_phantom", tables.sampler_table),
            ("ablations", "ablations_phantom", tables.ablation_table),
            ("learning_rate", "learning_rate", tables.learning_rate_table),
            ("reverse_timesteps", "reverse_timesteps", tables.timesteps_table),
        )
    ),
)


def filled(text: str, marker: str, table: str) -> str:
    """A page's text with a table between ``<!-- marker -->`` and ``<!-- end of marker -->``; empty: nothing.

    Raises:
        ValueError: the text does not have these markers.
    """
    begin, end = f"<!-- {marker} -->", f"<!-- end of {marker} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{begin} … {end} is missing, between which the table belongs")
    return pattern.sub(lambda _: f"{begin}\n{table}\n{end}" if table else f"{begin}\n{end}", text)


def made(place: Place, root: Path = ROOT) -> str:
    """The table of a place; empty if it is optional and its raw results are not there.

    Raises:
        FileNotFoundError: raw results are missing.
    """
    files = [root / RESULTS / f"{name}.json" for name in place.files]
    if place.optional and not all(file.is_file() for file in files):
        return ""
    return place.table(*map(read_json, files))


def main() -> None:
    """Writes every table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for place in PLACES:
        path = ROOT / place.page
        try:
            text = filled(path.read_text(encoding="utf-8"), place.marker, made(place))
        except (ValueError, FileNotFoundError) as error:
            raise SystemExit(f"{place.page}: {error}") from error
        write_bytes(path, text.encode())


if __name__ == "__main__":
    main()
