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
