"""Colours, windows and figures that all pictures share."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from skimage.color import rgb2lab

import nnunet_difflung
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.runtime.figures import (
    CLASS_COLOURS,
    LINE_COLOURS,
    SPECIAL_COLOURS,
    bare,
    class_colours,
    coloured,
    display_window,
    drawing,
    legend,
    outline_classes,
    show_grey,
    zoom,
)

ROOT = Path(nnunet_difflung.__file__).resolve().parents[1]
COLOUR_BLIND = {  # Machado et al. 2009, severity 1: what is left of linear RGB
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen(colour: str, eye: str) -> np.ndarray:
    """CIELAB of a colour as a colour-blind eye sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(COLOUR_BLIND[eye]) @ linear, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("eye", COLOUR_BLIND)
@pytest.mark.parametrize(
    "palette", [(*CLASS_COLOURS, *SPECIAL_COLOURS.values()), LINE_COLOURS], ids=["classes", "lines"]
)
def test_colours_are_told_apart_by_colour_blind_people(palette, eye):
    distances = {pair: np.linalg.norm(np.subtract(*(seen(c, eye) for c in pair))) for pair in combinations(palette, 2)}
    assert min(distances.values()) > 10, min(distances, key=distances.get)


def test_a_class_has_one_colour_whatever_the_order_of_the_labels():
    labels = {"background": 0, "lung": 1, "airway": 2, "emphysema": 3, "ignore": 4}
    assert class_colours(labels) == class_colours(dict(reversed(labels.items())))
    roles = LabelRoles(("lung",), ("emphysema",), ("airway",), {"lung": 1, "airway": 2, "emphysema": 3}, 4)
    for values in (roles.values, roles.condition_classes):
        colours = class_colours(values)
        assert {name: colours[name] for name in roles.values} == {n: class_colours(labels)[n] for n in roles.values}
    assert class_colours(labels)["ignore"] == SPECIAL_COLOURS["ignore"]
    assert class_colours(roles.condition_classes)["derived_body"] not in CLASS_COLOURS


def test_a_label_map_is_painted_in_these_colours_and_black_elsewhere():
    label = np.array([[0, 1], [3, 7]])
    picture = np.rint(255 * coloured(label, {"background": 0, "lung": 1, "emphysema": 3}))
    assert picture[0, 1].tolist() == [0x56, 0xB4, 0xE9]
    assert picture[1, 0].tolist() == [0xE6, 0x9F, 0x00]
    assert not picture[0, 0].any()
    assert not picture[1, 1].any()


def test_ct_is_shown_up_to_300_hu_and_other_windows_in_full():
    assert display_window((-1000.0, 1000.0)) == (-1000.0, 300.0)
    assert display_window((-1000.0, 600.0)) == (-1000.0, 600.0)
    assert display_window((0.0, 255.0)) == (0.0, 255.0)


def test_zoom_leaves_a_margin_inside_the_slice():
    label = np.zeros((40, 64), int)
    label[10:12, 2:50] = 1
    assert zoom(label) == (slice(6, 16), slice(0, 54))
    assert zoom(np.zeros((4, 4))) == (slice(None), slice(None))


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "picture.png"
    with pytest.raises(ValueError, match="three rows"), drawing(path, 2, 1):
        raise ValueError("three rows")
    assert not path.parent.exists()
    with drawing(path, 2, 1, dpi=50) as figure:
        axes = figure.subplots()
        show_grey(axes, np.eye(8), (0, 1), aspect=2.0)
        outline_classes(axes, np.eye(8, dtype=int), {"background": 0, "lung": 1, "emphysema": 2})
        legend(figure, {"lung": 1})
    assert figure.axes == []  # nothing is kept
    content = path.read_bytes()
    assert content[:4] == b"\x89PNG"
    assert [path] == list(path.parent.iterdir())
    with pytest.raises(ValueError, match="again"), drawing(path, 2, 1):
        raise ValueError("again")
    assert path.read_bytes() == content


def test_matplotlib_is_imported_only_to_draw_and_pyplot_never(tmp_path):
    code = (
        "import sys; from pathlib import Path; from nnunet_difflung.runtime.figures import drawing\n"
        "assert 'matplotlib' not in sys.modules\n"
        "with drawing(Path(sys.argv[1]), 1, 1): pass\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True)


def test_no_other_file_chooses_colours_or_saves_figures():
    own = re.compile(r"savefig|cmap|imshow|matplotlib\.(?!axes|figure)|[\"']#[0-9A-Fa-f]{6}[\"']|Figure\(")
    files = [f for part in ("nnunet_difflung", "dataset_conversion") for f in sorted((ROOT / part).rglob("*.py"))]
    assert len(files) > 50
    assert {f.name for f in files if own.search(f.read_text())} == {"figures.py", "charts.py"}, "PNG and SVG"


def test_names_are_drawn_as_they_are_whatever_letters_they_have(tmp_path, recwarn):
    values = {"a $x^$ b": 1, "one $": 2, "_hidden": 3, "肺": 4}
    with drawing(tmp_path / "names.png", 3, 3) as figure:
        axes = figure.subplots(1, 1)
        bare(axes, "a $x^$ b")
        legend(figure, values)
    assert (tmp_path / "names.png").is_file()
    assert not recwarn.list
