"""The picture of Table 2: arms as labels, and a mark where an interval leaves the axis."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from matplotlib.figure import Figure

from nnunet_difflung.comparison import table2

INTERVALS = {"inside": [-0.2, 0.9], "above": [-0.1, 1.2], "both": [-1.3, 1.7], "none": None}


@pytest.fixture
def drawn(monkeypatch, tmp_path) -> Figure:
    """The figure of a class and four arms."""
    figure = Figure()

    @contextmanager
    def drawing(path, width, height, dpi):
        yield figure

    monkeypatch.setattr(table2, "drawing", drawing)
    rows = [{"patient": patient, "dice": dice} for patient, dice in (("a", 0.4), ("b", 0.6))]
    row = {"dice": {"mean": 0.5, "patients": 2}, "rows": rows}
    table: dict = {"meta": {"reference": "reference"}}
    for arm, interval in {"reference": [0.0, 0.0], **INTERVALS}.items():
        table[arm] = {"lesion": {**row, "diff_to_reference": {"mean": 0.3, "ci95": interval}}}
    points = {arm: {"lesion": np.array([0.2, 0.4])} for arm in ("reference", *INTERVALS)}
    table2.plot_differences(tmp_path / "x.png", table, points)
    return figure


def test_labels_are_the_arms_and_the_caption_says_what_bars_are(drawn):
    above, below = drawn.axes
    assert [text.get_text() for text in above.get_xticklabels()] == ["reference", *INTERVALS]
    assert [text.get_text() for text in below.get_xticklabels()] == list(INTERVALS)
    caption = drawn.get_supxlabel()
    assert caption == (
        "bar: 95 % interval for new patients and trainings; arrow: the interval goes on; no bar: no interval"
    )


def test_an_arrow_stands_where_an_interval_leaves_the_axis(drawn):
    below = drawn.axes[1]
    low, high = below.get_ylim()
    assert (low, high) == (-1.05, 1.05)
    arrows = {
        (round(float(line.get_xdata()[0])), line.get_marker(), float(line.get_ydata()[0]))
        for line in below.lines
        if line.get_marker() in (table2._UP, table2._DOWN)
    }
    names = list(INTERVALS)
    assert arrows == {
        (names.index("above"), table2._UP, high),
        (names.index("both"), table2._UP, high),
        (names.index("both"), table2._DOWN, low),
    }
