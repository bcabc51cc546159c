"""The tables on the pages are those of the raw results, and each stands in the place that the list gives it."""

from __future__ import annotations

import re

import pytest

from experiments.make_tables import PLACES, RESULTS, ROOT, filled, made
from experiments.summary_tables import table2_summary
from nnunet_difflung.runtime.files import read_json


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.page}-{place.marker}")
def test_a_page_has_the_table_that_its_raw_results_give(place):
    text = (ROOT / place.page).read_text(encoding="utf-8")
    assert filled(text, place.marker, made(place)) == text, "run python -m experiments.make_tables"


def test_every_marker_on_the_pages_belongs_to_a_place():
    pages = {"README.md", "docs/method.md", "docs/results.md"}
    pages |= {f"{RESULTS}/{path.name}" for path in (ROOT / RESULTS).glob("*.md")}
    found = [
        (page, marker)
        for page in pages
        for marker in re.findall(r"<!-- (?!end of)(\S+) -->", (ROOT / page).read_text(encoding="utf-8"))
    ]
    assert sorted(found) == sorted((place.page, place.marker) for place in PLACES)


def test_a_table_replaces_the_one_between_its_markers_and_nothing_else():
    text = "a\n<!-- t -->\nold\n<!-- end of t -->\n<!-- u -->\nb\n<!-- end of u -->\n"
    once = filled(text, "t", r"new \1")
    assert once == text.replace("old", r"new \1")
    assert filled(once, "t", r"new \1") == once
    with pytest.raises(ValueError, match="<!-- v -->"):
        filled(text, "v", "new")


def test_raw_results_that_are_not_there_are_missed(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"demo\.json"):
        made(next(place for place in PLACES if place.marker == "demo"), tmp_path)


@pytest.mark.parametrize("marker", ["table1", "table2"])
def test_the_page_of_results_has_a_row_for_each_method_with_the_figures_of_its_experiments_page(marker):
    place = next(place for place in PLACES if place.marker == marker)
    head, _, *lines = made(place).splitlines()
    for name in place.files:
        page = (ROOT / next(other.page for other in PLACES if other.files == (name,))).read_text(encoding="utf-8")
        for method in read_json(ROOT / RESULTS / f"{name}.json").keys() - {"meta", "neighbour"}:
            cells = [cell.strip() for cell in lines.pop(0).strip("|").split(" | ")]
            assert len(cells) == head.count("|") - 1
            assert f"`{method}`" in page
            assert [cell for cell in cells[1:] if cell not in page] == []
    assert lines == []


def test_the_reference_is_not_compared_with_itself_and_other_arms_with_it_in_all_classes():
    def rows(dice: float, false: float, differences: dict[str, float]) -> dict:
        return {
            name: {
                "dice": {"mean": dice, "sd": None},
                "false_positive_voxels": {"mean": false, "sd": None},
                "diff_to_reference": {"mean": difference, "ci95": [difference - 0.5, difference + 0.5]},
            }
            for name, difference in differences.items()
        }

    content = {
        "meta": {"reference": "plain"},
        "plain": rows(0.1, 0.7, {"normal_lung": 0, "rare": 0, "other": 0}),
        "mat": rows(0.3, 9.0, {"normal_lung": -0.1, "rare": 0.2, "other": 0.3}),
    }
    *_, reference, arm = table2_summary({"data": "rare"}, content).splitlines()
    assert reference == "| data | `plain` | 0.100 | – | 0.7 | – | – |"
    shown = "+0.200 [-0.300, +0.700] | 9.0 | -0.100 [-0.600, +0.400] | +0.300 [-0.200, +0.800]"
    assert arm == f"| data | `mat` | 0.300 | {shown} |"
