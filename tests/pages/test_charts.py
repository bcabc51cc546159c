"""Charts say what their numbers say, in the colour of the page's text, with no name of a user's class lost."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from nnunet_difflung.pages import charts

ODD = "a <b> & $c$"


def texts(svg: str) -> list[str]:
    return [
        "".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter() if "text" in element.tag
    ]


@pytest.fixture
def bars() -> str:
    return charts.share_bars({"normal": 0.997, ODD: 0.003}, {"normal": 0.95, ODD: 0.05}, {ODD: 0.06})


def test_shares_are_written_beside_their_bars(bars: str) -> None:
    assert {"99.70%", "0.30%", "95.00%", "5.00%", ODD} <= set(texts(bars))


def test_charts_have_the_colour_of_the_page(bars: str) -> None:
    assert "currentColor" in bars
    assert charts._INK not in bars
    assert "#000000" not in bars


def test_charts_do_not_share_ids_and_name_nothing_outside(bars: str) -> None:
    root = ElementTree.fromstring(bars)
    assert not [e for e in root.iter() if e.get("id", "").startswith(("figure", "axes", "patch"))]
    sources = [value for e in root.iter() for name, value in e.attrib.items() if name.endswith("href")]
    assert all(source.startswith("#") for source in sources)


def test_empty_shares_can_be_drawn() -> None:
    assert "0.00%" in texts(charts.share_bars({"a": 0.0}, {"a": 0.0}, {}))


def test_histograms_name_their_voxels() -> None:
    curves = {"real": (np.full(2000, -900.0), "#0072B2", "-"), "painted": (np.empty(0), "#D55E00", "--")}
    found = texts(charts.histograms(curves, np.arange(-1000.0, 0, 50), "HU"))
    assert {"real (2,000 voxels)", "painted (0 voxels)", "HU"} <= set(found)


def test_patients_without_a_value_are_left_out() -> None:
    svg = charts.paired_dots(
        ["reference", "difflung"], {"p1": [0.2, 0.4], "p2": [None, 0.3]}, "Dice", {"reference": 0.2, "difflung": 0.35}
    )
    assert {"reference", "difflung", "Dice"} <= set(texts(svg))


def test_differences_without_intervals_can_be_drawn() -> None:
    assert "a" in texts(charts.intervals([("a", 0.1, None, None), ("b", 0.2, 0.1, 0.3)], "difference"))


def test_shares_end_at_100_percent_and_letters_without_a_glyph_give_no_warning(recwarn) -> None:
    svg = charts.shares(
        {"normal": 0.9995, ODD: 0.0005, "肺": 0.0}, {"normal": "#000001", ODD: "#000002", "肺": "#000003"}
    )
    found = texts(svg)
    assert {"99.950%", "0.050%", "0.000%", ODD, "肺"} <= set(found)
    assert "100" in found
    assert "1000" not in found
    assert list(recwarn) == []


def test_counts_are_drawn_as_the_values_they_count() -> None:
    bins = np.arange(-1000.0, 0, 50)
    values = np.random.default_rng(0).normal(-800, 100, 500)
    counts = np.histogram(np.clip(values, bins[0], bins[-1]), bins)[0]
    of_values = charts.histograms({"real": (values, "#0072B2", "-")}, bins, "HU")
    assert charts.histograms_of_counts({"real": (counts, "#0072B2", "-")}, bins, "HU") == of_values
