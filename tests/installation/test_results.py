"""Every file of published figures says how it was made: command, date, versions, machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import about
from nnunet_difflung.runtime.files import read_json
from tests.faults.records import meta

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
NEEDED = {"command", "date", "versions", "machine"}
ALLOWED = {  # made before all four were recorded; their "lacks" says so, and no other file may have one
    "blind_reading_medseg": {"versions"},
    "faults": {"versions"},
    "gpu_checks": {"machine"},
    "learning_rate": {"command"},
    "mutations": {"versions"},
    "sweep": {"versions"},
}


def said(part: Any) -> set[str]:
    """Which of ``NEEDED`` a part of a file says by itself; of several commands or machines it has lists."""
    if not isinstance(part, dict):
        return set()
    own = {**part, **part.get("meta", {}), **part.get("about", {})}
    return {key for key in NEEDED if own.get(key) or own.get(f"{key}s")}


def missing(content: Any) -> set[str]:
    """What neither a file nor each of its rows says."""
    rows = content
    if isinstance(content, dict):
        rows = content.get("rows") or [part for key, part in content.items() if key != "meta"]
    rows = list(rows.values()) if isinstance(rows, dict) else rows
    in_each = set.intersection(*map(said, rows)) if rows else set()
    return NEEDED - said(content) - in_each


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_file_of_figures_says_how_it_was_made(path):
    content = read_json(path)
    lacks = set(content["meta"].get("lacks", ())) if isinstance(content, dict) and "meta" in content else set()
    assert missing(content) == lacks == ALLOWED.get(path.stem, set())


def test_what_a_file_does_not_say_is_noticed():
    whole = dict.fromkeys(NEEDED, "x")
    for key in NEEDED:
        part = {name: value for name, value in whole.items() if name != key}
        assert missing({"meta": part, "rows": [{"figure": 1}]}) == {key}
        assert missing({"meta": part, "rows": {"a": {key: "x"}, "b": {"meta": {key: "x"}}}}) == set()
        assert missing({"meta": part, "rows": [{key: "x"}, {}]}) == {key}
        assert missing([{"meta": whole}, {"meta": part}]) == {key}
    assert missing({"D1": {"meta": whole}, "D2": {"about": whole}}) == set()


def test_the_campaigns_and_the_run_on_a_gpu_record_all_of_it():
    assert said(meta("python -m tests.faults.sweep")) == said(about(["--rehearse"])) == NEEDED
    assert about(["--rehearse"])["command"] == "python -m benchmarks.gpu --rehearse"


def of_volumes(content: dict) -> str:
    """The difference of the volumes' Dice with its interval."""
    diff = content["numbers"]["16"]["difflung"]["differences"]["reference"]["ground_glass"]["dice"]["diff"]
    return "{:+.3f}, with an interval of {:+.3f} to {:+.3f}".format(diff["mean"], *diff["ci95"])


def from_slice_to_slice(content: dict) -> str:
    """The figures of faded edges."""
    row = content["methods"]["difflung"]
    words = (
        ("correlation", "correlation", 3),
        ("change of the mean", "flicker", 1),
        ("difference of neighbours", "difference", 1),
        ("step at the first and last slice", "end_step", 1),
    )
    parts = (f"{word} {row[k]['mean']:.{n}f} ({row[k]['mean'] / row[k]['real']:.2f})" for word, k, n in words)
    return ", ".join(parts)


def seconds_of_the_peer(content: dict) -> str:
    """The seconds that were given and used."""
    given, public, ours = content["settings"]["seconds"], *(row["training_seconds"] for row in content["rows"].values())
    return f"{given:.0f} s of training and used {public:.0f} (public code) and {ours:.0f} (ours)"


def finding(content: dict) -> str:
    """How many trainings with synthetic cases find emphysema: a mean Dice above 0.05."""
    of_trainings: dict[tuple[str, str], list[float]] = {}
    for arm in set(content) - {"meta", "reference", "reference_poly"}:
        for row in content[arm]["emphysema"]["rows"]:
            if row["dice"] is not None:
                of_trainings.setdefault((arm, row["seed"]), []).append(row["dice"])
    found = [sum(dices) / len(dices) > 0.05 for dices in of_trainings.values()]
    return f"{sum(found)} of {len(found)}"


@pytest.mark.parametrize(
    ("page", "file", "quoted"),
    [
        ("volumes", "bench_lidc_volumes", of_volumes),
        ("volumes", "volumes_lidc_tuning_steps_25", from_slice_to_slice),
        ("results/peer", "peer_lidc", seconds_of_the_peer),
        ("results/phantom", "table2_phantom", finding),
        ("results/phantom", "table2_phantom_quarter", finding),
    ],
)
def test_a_page_says_what_the_file_holds(page, file, quoted):
    text = " ".join((RESULTS.parent / f"{page}.md").read_text(encoding="utf-8").split()).replace("−", "-")
    assert quoted(read_json(RESULTS / f"{file}.json")) in text
