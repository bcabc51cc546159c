"""The table of goals says yes only where the measurement, interval included, is one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from experiments.goals import goals_table
from nnunet_difflung.runtime.files import read_json

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
BENCH, REGIONS, MASKS = (read_json(RESULTS / f"{name}.json") for name in ("bench_lidc", "regions_lidc", "masks"))


def verdicts(bench: dict = BENCH, regions: dict = REGIONS, masks: dict = MASKS) -> dict[str, str]:
    rows = [line.strip("| ").split(" | ") for line in goals_table(bench, regions, masks).splitlines()[2:]]
    return {goal: reached for goal, _, reached in rows}


def verdict(words: str, **changed: dict) -> str:
    (found,) = [reached for goal, reached in verdicts(**changed).items() if words in goal]
    return found


@pytest.mark.parametrize(
    ("mean", "interval", "said"),
    [
        (0.031, [0.001, 0.061], "yes"),
        (0.031, [-0.001, 0.063], "in the mean only"),
        (0.031, None, "in the mean only"),
        (0.029, [0.001, 0.057], "no"),
    ],
)
def test_a_lead_counts_with_its_size_and_its_interval(mean: float, interval: list[float] | None, said: str) -> None:
    bench = copy.deepcopy(BENCH)
    bench["numbers"]["4"]["difflung"]["differences"]["copy_paste"]["ground_glass"]["dice"]["diff"] |= {
        "mean": mean,
        "ci95": interval,
    }
    assert verdict("above `copy_paste`", bench=bench).split(" / ")[0] == said
    assert verdict("above `oversampling`", bench=bench) == verdict("above `oversampling`")


def test_a_loss_is_allowed_up_to_the_limit_with_its_interval() -> None:
    bench = copy.deepcopy(BENCH)
    row = bench["numbers"]["4"]["difflung"]["differences"]["reference"]["solid_nodule"]["dice"]["diff"]
    for mean, interval, said in (
        (-0.004, [-0.005, -0.003], "yes"),
        (-0.004, [-0.006, -0.002], "in the mean only"),
        (-0.006, [-0.007, -0.005], "no"),
    ):
        row |= {"mean": mean, "ci95": interval}
        assert verdict("solid nodule at most", bench=bench).split(" / ")[0] == said


def test_false_voxels_and_borders_are_judged_by_their_limits() -> None:
    bench, regions = copy.deepcopy(BENCH), copy.deepcopy(REGIONS)
    assert verdict("false voxels") == "no / no"
    for of in bench["numbers"].values():
        of["difflung"]["differences"]["reference"]["ground_glass"]["false_voxels"]["ratio"] = 1.1
    assert verdict("false voxels", bench=bench) == "yes / yes"
    painted = regions["methods"]["difflung"]
    painted["auc"], painted["seam_host"]["mean"] = 0.55, 1.1
    painted["correlation_edge"]["to_real"] = {"mean": 0.0, "ci95": [-0.06, 0.06], "patients": 59}
    assert verdict("looks for the borders", regions=regions) == "yes"
    assert verdict("the host's own", regions=regions) == "yes"
    assert verdict("correlation across", regions=regions) == "in the mean only"
    painted["above"]["to_real"]["mean"] = 1.0
    assert verdict("autocorrelation", regions=regions) == "no"


def test_a_mask_figure_that_tells_planned_from_real_is_named() -> None:
    masks = copy.deepcopy(MASKS)
    for row in masks["Dataset801_MedSegCOVID19"]["summary"]:
        if (row["class"], row["figure"], row["arm"]) == ("ground_glass", "count", "alike"):
            row["auc"] = 0.38
    assert verdict("MedSeg, slices", masks=masks) == "no"
    assert "11 of 12; count of ground glass 0.38" in goals_table(BENCH, REGIONS, masks)
