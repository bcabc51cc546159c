"""Lesions painted back: the donor's texture in another outline, and differences paired by patient."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from experiments.painted_back import REAL, about, settings_of
from experiments.region_painting import transplant
from experiments.region_tally import FIGURES
from experiments.regions import border_patches, markdown, painters_of, scale, summarised
from experiments.summary_tables import regions_summary
from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.reading import judged_channels
from nnunet_difflung.errors import BadInput
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.meaning.labels import label_roles


def test_a_method_paints_with_the_sampler_that_difflung_augment_takes():
    for method, options in (("difflung", ["--preset", "fast"]), ("cbmat", [])):
        usual = settings_from(parse(["-d", "801", "-device", "cpu", "--method", method, *options])).sampling
        assert settings_of(method, "fast" if options else "default").sampling == usual
    assert settings_of("difflung", "fast", "--level donor --styles real").sampling.level == "donor"


@pytest.mark.parametrize("edge", [6, 14])
def test_a_donors_texture_fills_a_smaller_and_a_larger_outline_and_nothing_far_from_it(edge):
    rng = np.random.default_rng(0)
    donor_image = rng.uniform(-600, -400, (1, 1, 30, 30)).astype(np.float32)
    mask = np.ones((1, 9, 9), bool)
    donor = Lesion("d", "x", 1, mask, (1.0, 0.7, 0.7), (0, 10, 10))
    outline = np.zeros((1, 40, 40), bool)
    outline[0, 20 : 20 + edge, 22 : 22 + edge] = True
    wall = np.zeros_like(outline)
    wall[0, :, 22 + edge :] = True
    image = np.full((1, 1, 40, 40), -850, np.float32)
    image[:, wall] = 50
    before = image.copy()
    cache = SimpleNamespace(image=lambda case: donor_image)
    transplant(image, outline, ~wall, donor, cache, (1.0, 0.7, 0.7), np.random.default_rng(1))
    assert -600 <= image[:, outline].min() <= image[:, outline].max() <= -400
    assert image[:, outline].std() > 20, "texture, and no constant"
    far = ~ndimage.binary_dilation(outline, np.ones((1, 3, 3)))
    assert np.array_equal(image[:, far], before[:, far])
    assert np.array_equal(image[:, wall], before[:, wall])


def test_patches_of_painted_and_real_lie_at_the_same_places_on_both_borders():
    lesion = np.zeros((40, 40), bool)
    lesion[15:25, 15:25] = True
    region = np.zeros_like(lesion)
    region[13:27, 13:27] = True
    real = np.arange(1600, dtype=float).reshape(40, 40)
    painted = SimpleNamespace(lesion=lesion, region=region, normal=~lesion, patient="p")
    pair = [border_patches(painted, image, 0, np.random.default_rng(3)) for image in (real, real + 7)]
    assert len(pair[0].pixels) == 4
    assert np.array_equal(pair[0].pixels + 7, pair[1].pixels)
    assert set(pair[0].patient) == {"p"}
    places = np.concatenate(
        [border_patches(painted, real, 0, np.random.default_rng(seed)).pixels[:, 0, 6, 6] for seed in range(20)]
    )
    on_region = [not lesion[divmod(int(place), 40)] for place in places]
    assert 20 < sum(on_region) < 60, "on the outline of the lesion, and on the edge of what was painted"


def test_methods_are_compared_with_the_real_lesions_patient_by_patient():
    def row(value: float) -> dict:
        return {"lesions": 2, **dict.fromkeys(FIGURES, value)}

    patients = [(fold, f"p{fold}{i}") for fold in (0, 1) for i in range(3)]
    rows = {
        REAL: {key: row(float(i)) for i, key in enumerate(patients)},
        "cbmat": {key: row(i + 0.5 + 0.01 * (-1) ** i) for i, key in enumerate(patients)},
    }
    rows[REAL][patients[0]]["psnr"] = np.inf
    table = summarised(rows, {"cbmat": 0.5})
    assert table["cbmat"]["sd_ratio"]["mean"] == pytest.approx(3)
    difference = table["cbmat"]["sd_ratio"]["to_real"]
    assert difference["mean"] == pytest.approx(0.5)
    low, high = difference["ci95"]
    assert 0.48 < low < 0.5 < high < 0.52, "what differs between patients cancels"
    assert table["cbmat"]["psnr"]["to_real"]["patients"] == 5
    assert table[REAL]["sd_ratio"]["to_real"] is None
    meta = {"dataset": "D", "class": "x", "folds": [0, 1], "date": "2026-11-28", "command": "c"}
    text = markdown({"meta": meta, "methods": table})
    assert "| bias, HU |" in text
    assert "| bias, grey levels |" in markdown({"meta": meta | {"unit": "grey levels"}, "methods": table})
    assert "| sd / real | 2.50 | 3.00 (+0.50 [" in text
    assert "12 slices of lesions of 6 validation patients" in text


def test_each_row_is_compared_with_the_real_lesions_in_its_own_region():
    def row(value: float) -> dict:
        return {"lesions": 1, **dict.fromkeys(FIGURES, value)}

    patients = [(0, f"p{i}") for i in range(3)]
    rows = {REAL: dict.fromkeys(patients, row(1.0)), "wide": dict.fromkeys(patients, row(3.0))}
    table = summarised(rows, {}, {"wide": dict.fromkeys(patients, row(2.5))})
    assert table["wide"]["seam_edge"]["to_real"]["mean"] == pytest.approx(0.5)
    assert summarised(rows, {})["wide"]["seam_edge"]["to_real"]["mean"] == pytest.approx(2)


def test_further_rows_are_a_method_with_other_options():
    o = SimpleNamespace(methods=["difflung"], augment="--epochs 3", also=["wide=cbmat --margin 4"])
    assert painters_of(o) == {"difflung": ("difflung", "--epochs 3"), "wide": ("cbmat", "--epochs 3 --margin 4")}
    for wrong in ("wide", "wide=nothing --margin 4", "difflung=cbmat", "real=cbmat"):
        o.also = [wrong]
        with pytest.raises(BadInput, match="expected a new name"):
            painters_of(o)


def test_the_short_table_has_the_real_lesions_first_and_differences_with_intervals():
    figures = {name: {"mean": 2.0, "to_real": None} for name in FIGURES}
    painted = figures | {"bias": {"mean": -20.0, "to_real": {"mean": -20.0, "ci95": [-57.6, 17.2], "patients": 3}}}
    methods = {"difflung": {"patients": 3, "auc": 0.581, **painted}, REAL: {"patients": 3, "auc": None, **figures}}
    table = regions_summary(["LIDC"], {"meta": {"class": "ground_glass"}, "methods": methods}).splitlines()
    assert table[2].startswith("| LIDC, ground glass (3 patients) | `real` |")
    assert table[2].endswith("| – |")
    assert table[3].startswith("| LIDC, ground glass (3 patients) | `difflung` | 2.00 |")
    assert "| -20 [-58, +17] |" in table[3]
    assert table[3].endswith("| 0.58 |")


def test_the_command_on_record_has_no_folder_of_this_machine(tmp_path):
    target = tmp_path / "regions.json"
    words = ["-d", "807", "--augment", "--preset fast", "-o", str(target)]
    options = SimpleNamespace(pathology="ground_glass", f=[5], seed=3)
    meta = about("regions", SimpleNamespace(name="D", folder=tmp_path), options, words, {str(target): target.name})
    assert meta["command"] == "python -m experiments.regions -d 807 --augment '--preset fast' -o regions.json"
    assert (meta["dataset"], meta["class"], meta["folds"], meta["seed"]) == ("D", "ground_glass", [5], 3)


@pytest.mark.parametrize(("channel", "unit", "width"), [("CT", "HU", 2000.0), ("window", "grey levels", 255.0)])
def test_psnr_and_titles_have_the_scale_of_the_data(channel, unit, width):
    image = np.full((1, 2, 32, 32), -1000.0 if channel == "CT" else 0.0)
    image[:, :, 8:24, 8:24] = 40 if channel == "CT" else 255
    image[:, :, 12:20, 12:20] = -850 if channel == "CT" else 60
    label = np.zeros(image.shape[1:], np.uint8)
    label[:, 12:20, 12:20] = 1
    roles = label_roles({"labels": {"background": 0, "normal_lung": 1, "x": 2}}, "x")
    facts = {"a": SimpleNamespace(judged=judged_channels([channel], roles, image, label))}
    assert scale(SimpleNamespace(facts=facts, image=lambda _: image)) == (unit, width)
