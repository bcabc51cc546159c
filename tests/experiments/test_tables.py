"""The tables on the pages are those of the raw results, and each stands in the place that the list gives it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from benchmarks.make_table import TABLES
from experiments.make_tables import PLACES, RESULTS, ROOT, filled, made
from experiments.summary_tables import bench_in_short, bench_summary, table2_summary
from nnunet_difflung.runtime.files import read_json

BENCH = [place for place in PLACES if place.marker == "bench_lidc"]


def of_arm(dice: float, mean: float | None = None, interval: list[float] | None = None, ratio: float | None = None):
    """What the bench writes of an arm, as far as a table shows it; without ``mean`` it is the reference."""
    compared = {"dice": {"diff": {"mean": mean, "ci95": interval}}, "false_voxels": {"ratio": ratio}}
    return {
        "sources": 57.6,
        "figures": {"ground_glass": {"dice": {"mean": dice, "sd": 0.1, "trainings": 3}}},
        "differences": {"reference": {"ground_glass": compared}} if mean is not None else {},
    }


def curve() -> dict:
    """Results of the bench: 4 source patients and all of them, for which ``mat`` was not trained."""
    four = {
        "reference": of_arm(0.1),
        "difflung": of_arm(0.3, 0.2, [0.05, 0.35], 1.24),
        "mat": of_arm(0.2, 0.1),
    }
    every = {"reference": of_arm(0.5), "difflung": of_arm(0.6, 0.1, [-0.1, 0.3], 1.0)}
    meta = {"title": "T", "rare": "ground_glass", "rows": 15, "iterations": 4000, "folds": [0, 1]}
    made = {"4": {"seeds": [1, 2, 3]}, "all": {"seeds": [1]}}
    network = {"patch_size": [32, 32]}
    return {"numbers": {"4": four, "all": every}, "made": made, "meta": meta | {"network": network}}


def row_of(table: str, arm: str) -> list[str]:
    """The cells behind an arm's name."""
    (line,) = (line for line in table.splitlines() if line.startswith(f"| `{arm}`"))
    return [cell.strip() for cell in line.strip("|").split(" | ")][1:]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.page}-{place.marker}")
def test_a_page_has_the_table_that_its_raw_results_give(place):
    text = (ROOT / place.page).read_text(encoding="utf-8")
    assert filled(text, place.marker, made(place)) == text, "run python -m experiments.make_tables"


def test_every_marker_on_the_pages_belongs_to_a_place():
    pages = {"README.md", "docs/method.md", "docs/performance.md", "docs/results.md", "docs/volumes.md"}
    pages |= {f"{RESULTS}/{path.name}" for path in (ROOT / RESULTS).glob("*.md")}
    found = [
        (page, marker)
        for page in pages
        for marker in re.findall(r"<!-- (?!end of)([^\n]+?) -->", (ROOT / page).read_text(encoding="utf-8"))
    ]
    of_benchmarks = [(f"docs/{page}", marker) for page, marker, _, _ in TABLES]
    assert sorted(found) == sorted([*of_benchmarks, *((place.page, place.marker) for place in PLACES)])


@pytest.mark.parametrize(("page", "marker", "file", "make"), TABLES, ids=[table[1] for table in TABLES])
def test_a_table_of_the_benchmarks_is_what_its_raw_results_give(page, marker, file, make):
    table = make(read_json(ROOT / RESULTS / f"{file}.json"))
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert f"<!-- {marker} -->\n{table}\n<!-- end of {marker} -->" in text, "run python -m benchmarks.make_table"


def test_a_table_replaces_the_one_between_its_markers_and_nothing_else():
    text = "a\n<!-- t -->\nold\n<!-- end of t -->\n<!-- u -->\nb\n<!-- end of u -->\n"
    once = filled(text, "t", r"new \1")
    assert once == text.replace("old", r"new \1")
    assert filled(once, "t", r"new \1") == once
    assert filled(once, "t", "") == text.replace("old\n", "")
    assert filled(filled(once, "t", ""), "t", "old") == text
    with pytest.raises(ValueError, match="<!-- v -->"):
        filled(text, "v", "new")


def test_without_its_rows_the_learning_curve_leaves_no_text_and_other_tables_are_missed(tmp_path):
    assert {place.page for place in BENCH} == {"README.md", "docs/results.md"}
    assert [made(place, tmp_path) for place in BENCH] == ["", ""]
    with pytest.raises(FileNotFoundError, match=r"demo\.json"):
        made(next(place for place in PLACES if place.marker == "demo"), tmp_path)


@pytest.mark.parametrize("place", BENCH, ids=lambda place: place.page)
def test_with_its_rows_the_learning_curve_links_files_beside_them(place, tmp_path):
    results = tmp_path / RESULTS
    results.mkdir(parents=True)
    shutil.copy(ROOT / RESULTS / "bench_lidc_tuning.json", results / "bench_lidc.json")
    links = re.findall(r"\]\(([^)#]+\.(?:png|md))", made(place, tmp_path))
    targets = {str(Path(place.page).parent / link) for link in links}
    assert f"{RESULTS}/bench_lidc.png" in targets
    assert targets <= {f"{RESULTS}/bench_lidc.png", f"{RESULTS}/bench_lidc.md", "docs/results.md"}


def test_the_learning_curve_shows_dice_difference_with_interval_and_false_voxels_of_each_number():
    table = bench_summary("bench_lidc", curve())
    assert "| 4 | all (58) | false-positive voxels, relative to `reference` (4 / all) |" in table
    assert row_of(table, "reference") == ["0.100", "0.500", "–"]
    assert row_of(table, "difflung") == [
        "0.300, +0.200 [+0.050, +0.350]",
        "0.600, +0.100 [-0.100, +0.300]",
        "1.2 / 1.0",
    ]
    assert row_of(table, "mat") == ["0.200, +0.100 (no interval)", "–", "– / –"]
    assert "15 trainings of 4,000 iterations, 2 folds × 3 seeds (4 patients), 1 seed (all patients);" in table


def test_the_readme_shows_the_decisive_arms_with_what_they_cost_and_sends_to_the_page_for_the_rest():
    table = bench_in_short("bench_lidc", curve())
    assert row_of(table, "difflung") == row_of(bench_summary("bench_lidc", curve()), "difflung")
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == ["reference", "difflung"]
    assert "docs/results.md#the-learning-curve" in table


def test_an_arm_that_lacks_trainings_of_the_reference_says_so():
    content = curve()
    content["numbers"]["4"]["difflung"]["figures"]["ground_glass"]["dice"]["trainings"] = 2
    for table in (bench_summary("bench_lidc", content), bench_in_short("bench_lidc", content)):
        cells = row_of(table, "difflung")
        assert cells[0].endswith(" (2 of 3 trainings)")
        assert "trainings" not in cells[1]


def test_the_learning_curve_has_every_arm_of_the_rows_on_record():
    content = read_json(ROOT / RESULTS / "bench_lidc_tuning.json")
    shown = re.findall(r"^\| `(\w+)`", bench_summary("bench_lidc", content), re.MULTILINE)
    assert set(shown) == {arm for arms in content["numbers"].values() for arm in arms}
    assert len(shown) == len(set(shown))


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
