from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.pages import charts
from nnunet_difflung.pages.blocks import (
    Chart,
    Code,
    Gallery,
    Light,
    Lights,
    Page,
    Picture,
    Section,
    Table,
    Text,
    Value,
)
from nnunet_difflung.pages.pictures import grey_png, outlines_of
from nnunet_difflung.pages.render import write_page

ODD = 'ground "glass" <script>alert(1)</script> & $x$'
VALUES = {"background": 0, "normal_lung": 1, ODD: 2}


def picture(number: int, identifier: str = "", height: int = 20, width: int = 30, aspect: float = 1.0) -> Picture:
    image = np.random.default_rng(number).normal(-800, 100, (height, width))
    label = np.zeros((height, width), int)
    label[5:12, 6 : 14 + number] = 2
    views = {"lung window": grey_png(image, (-1350, 150)), "mediastinal window": grey_png(image, (-160, 240))}
    return Picture(
        f"case {number}", views, width, height, aspect, outlines_of(label, VALUES), 0.7, ("R", "L"), identifier
    )


@pytest.fixture
def page() -> Page:
    """A page with every kind of block, and a class whose name is markup."""
    shares = charts.share_bars({"normal_lung": 0.997, ODD: 0.003}, {"normal_lung": 0.95, ODD: 0.05}, {ODD: 0.06})
    rows = [["case b", Value(0.2, "0.20")], ["case a", Value(None, "–")], ["case c", Value(0.15, "0.15")]]
    return Page(
        f"Report of {ODD}",
        "a subtitle",
        [
            Section("Verdicts", [Lights([Light("good", "Leaks", "none"), Light("bad", "Copies", ODD)])]),
            Section("Numbers", [Chart(shares, "Shares"), Table(["case", "Dice"], rows, "Scores"), Text(ODD)]),
            Section(
                "Pictures", [Gallery(ODD, [("real", [picture(0), picture(1)]), ("synthetic", [picture(2, "s2")])])]
            ),
            Section("Next", [Code("nnUNetv2_train 1 2d 0")]),
        ],
        "Tick cases and save the list.",
        {ODD: "#E69F00"},
    )


@pytest.fixture
def written(page: Page, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    write_page(page, path)
    return path
