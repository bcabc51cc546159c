"""The page of a comparison: verdicts that follow from the numbers, pictures of what is on disk, and no path."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_difflung.commands.compare import main
from nnunet_difflung.comparison.methods_text import explained, methods_paragraph
from nnunet_difflung.comparison.page import comparison_page
from nnunet_difflung.comparison.table2 import of_patients
from nnunet_difflung.comparison.trainings import ARMS
from nnunet_difflung.comparison.verdicts import rare_classes, shares, verdicts
from nnunet_difflung.comparison.worst_patients import (
    LEAST,
    PREDICTION,
    TRUTH,
    WIDEST,
    Worst,
    WorstPatients,
    pictures_of,
)
from nnunet_difflung.dataset.orientation import AxialView
from nnunet_difflung.pages.blocks import Gallery, Picture
from nnunet_difflung.pages.render import as_html
from nnunet_difflung.runtime.figures import LUNG_WINDOW
from tests.comparison.test_progress import log
from tests.pipeline.test_values import change, window
from tests.support.browser import in_browser
from tests.support.fake_trainings import write_trainings
from tests.support.modes import mode, set_modes
from tests.support.tiny import LABELS, make_dataset

ODD = 'ground "glass" <b>&amp; 肺 $x$'
ARM_SETTINGS = {"reference": (0.2, 0.01), "difflung": (0.7, 0.03), "copy_paste": (0.5, 0.02)}
NOTES = {"num_epochs": 5, "num_iterations_per_epoch": 250, "device": "cpu"}


@pytest.fixture
def dataset(folders) -> Path:
    """Three arms on two folds of 8 patients, three of whom have emphysema, which is named oddly."""
    raw, _, results = folders
    folder = make_dataset(raw, patients=8, slices=2, size=48, folds=2, emphysema_every=3)
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"] = {ODD if name == "emphysema" else name: value for name, value in LABELS.items()}
    (folder / "dataset.json").write_text(json.dumps(content))
    write_trainings(results, folder, ARM_SETTINGS, [0, 1], notes=NOTES)
    return folder


def compared(*more: str, folds: tuple[str, ...] = ("0", "1")) -> Path:
    assert main(["-d", "801", "-f", *folds, *more]) == 0
    return Path(os.environ["nnUNet_results"]) / "Dataset801_Tiny" / "DiffLung__compare" / "table2.html"


def table_beside(page: Path) -> dict:
    return json.loads(page.with_suffix(".json").read_text())


def lights(table: dict) -> dict[str, tuple[str, str]]:
    return {light.title: (light.state, light.text) for light in verdicts(table).lights}


# ---- the whole page ----


def test_page_opens_with_charts_tables_and_pictures(dataset):
    page = compared("--lesions")
    script = """
    const count = (selector) => document.querySelectorAll(selector).length;
    return [count('.light'), count('.chart svg'), count('.tile'), count('table'), document.body.innerText];"""
    (lit, charts, tiles, tables, text), said = in_browser(page, script)
    assert said == []
    assert lit == 6
    assert charts == 6  # two for each class
    assert tiles == 3 * len(ARM_SETTINGS)  # three patients have it
    assert tables == 3 * 3 + 2
    assert ODD in text
    assert "lesions detected" in text
    assert page.stat().st_size < 2e6


def test_numbers_of_the_page_are_those_of_the_json(dataset):
    page = compared()
    row = table_beside(page)["difflung"][ODD]
    html = page.read_text()
    mean, difference = row["dice"]["mean"], row["diff_to_reference"]["mean"]
    assert f'data-value="{mean}">{mean:.3f}</td>' in html
    assert f'data-value="{difference}">{difference:+.3f}</td>' in html
    for patient, value in of_patients(row, "dice").items():
        assert re.search(rf"<td>{patient}</td>.*>{value:.3f}</td>", html)


def test_learning_curves_are_shown_where_there_are_logs(dataset):
    without = compared().read_text()
    assert "Learning curves" not in without
    for folder in Path(os.environ["nnUNet_results"]).glob("Dataset801_Tiny/nnUNetTrainer*/fold_*"):
        log(folder, "10_00_00", {epoch: ["0.5"] * (len(LABELS) - 1) for epoch in range(5)})
        with open(next(folder.glob("training_log*")), "a", encoding="utf-8") as file:
            file.write("\nTraining done.")
    page = compared().read_text()
    assert len(set(re.findall(r"Learning curves of (.+?): ", page))) == 3
    assert page.count("<svg") == without.count("<svg") + 3


def test_nothing_names_a_folder_of_this_machine(dataset, tmp_path):
    html = compared("--results", os.environ["nnUNet_results"], "-o", str(tmp_path / "mine.json"))
    html = (tmp_path / "mine.html").read_text()
    assert "mine.json" in html
    for path in (str(tmp_path), str(Path.home()), "/somewhere", "nnUNet_raw"):
        assert path not in html


def test_page_is_no_more_readable_than_the_dataset(dataset):
    set_modes(dataset, 0o600, 0o700)
    assert mode(compared()) == 0o600


def test_same_trainings_make_the_same_page_but_for_the_time(dataset):
    first, second = (re.sub(r"20\d\d-\d\d-\d\dT[\d:+]+", "", compared().read_text()) for _ in range(2))
    assert first == second


# ---- what is missing ----


def test_missing_predictions_and_images_are_told(dataset):
    model = Path(os.environ["nnUNet_results"]) / dataset.name / f"{ARMS['difflung']}__nnUNetPlans__2d"
    for file in (model / "fold_0" / "validation").glob("*.nii.gz"):
        file.unlink()
    html = compared().read_text()
    assert "Predictions of difflung in fold 0 are missing or cannot be read." in html
    assert 'aria-label="copy_paste: Dice' in html
    shutil.rmtree(dataset / "imagesTr")
    html = compared().read_text()
    assert "Images of the scored cases are not in the raw dataset" in html
    assert 'class="tile"' not in html
    assert 'class="tools' not in html


def test_trainings_that_are_not_compared_are_named(dataset, folders):
    write_trainings(folders[2], dataset, {"cbmat": (0.3, 0.01)}, [0], notes=NOTES)
    html = compared("--arms", "reference", "difflung", folds=("0",)).read_text()
    assert "Not compared: copy_paste, of which 1 of 1 trainings are finished and scored." in html
    assert "Not compared: cbmat, of which 1 of 1" in html
    assert "Not compared: fold_1, which reference was trained on too." in html
    shutil.rmtree(folders[2] / dataset.name / f"{ARMS['cbmat']}__nnUNetPlans__2d")
    assert "Not compared" not in compared().read_text()


def test_the_reference_alone_has_nothing_to_be_compared_with(dataset):
    page = compared("--arms", "reference")
    assert "nothing to compare" in lights(table_beside(page))["Difference"][1]
    assert 'aria-label="Mean difference' not in page.read_text()


# ---- verdicts ----


def test_rare_classes_are_those_with_few_voxels(dataset):
    table = table_beside(compared())
    labels = dataset / "labelsTr"
    import SimpleITK as sitk

    voxels = np.concatenate([sitk.GetArrayFromImage(sitk.ReadImage(str(f))).ravel() for f in labels.iterdir()])
    assert shares(table)[ODD] == pytest.approx((voxels == 2).sum() / (voxels > 0).sum())
    assert rare_classes(table)[0] == ODD
    assert "normal_lung" not in rare_classes(table)


def changed(table: dict, arm: str, name: str, figure: str, **values) -> dict:
    copy = json.loads(json.dumps(table))
    copy[arm][name][figure] |= values
    return copy


def test_lights_follow_the_intervals(dataset):
    table = table_beside(compared())
    title = f"Dice of {ODD}"
    for ends, state in (([0.1, 0.2], "good"), ([-0.2, -0.1], "bad"), ([-0.1, 0.1], "look"), (None, "unknown")):
        of = changed(table, "difflung", ODD, "diff_to_reference", ci95=ends)
        of = changed(of, "copy_paste", ODD, "diff_to_reference", ci95=[-1, 1] if ends else None)
        assert lights(of)[title][0] == state
    assert (
        "above 0: interval of difflung"
        in lights(changed(table, "difflung", ODD, "diff_to_reference", ci95=[0.1, 0.2]))[title][1]
    )


def test_harm_to_other_classes_is_a_problem_only_where_it_is_proven(dataset):
    table = table_beside(compared())
    for values, state in (
        ({"mean": -0.1, "ci95": [-0.2, -0.05]}, "bad"),
        ({"mean": -0.1, "ci95": [-0.2, 0.05]}, "look"),
        ({"mean": -0.001, "ci95": [-0.2, 0.05]}, "look"),  # which does not rule out a large loss
        ({"mean": -0.001, "ci95": None}, "unknown"),
        ({"mean": -0.1, "ci95": None}, "look"),
        ({"mean": -0.001, "ci95": [-0.01, 0.05]}, "good"),
    ):
        of = changed(table, "difflung", "normal_lung", "diff_to_reference", **values)
        of = changed(of, "copy_paste", "normal_lung", "diff_to_reference", mean=0.0, ci95=[-0.01, 0.01])
        assert lights(of)["Dice of the other classes"][0] == state


def test_more_false_voxels_are_pointed_out_and_missed_trainings_counted(dataset):
    table = table_beside(compared())
    state, text = lights(table)[f"False voxels of {ODD}"]
    assert state in ("look", "bad")
    assert "5 patients without" in text
    rows = [{**row, "dice": row["dice"] and 0.01} for row in table["difflung"][ODD]["rows"]]
    table["difflung"][ODD]["rows"] = rows
    assert lights(table)[f"Trainings that miss {ODD}"] == (
        "bad",
        "difflung 2 of 2 (mean Dice at most 0.05); all other arms none",
    )
    assert "p cannot be below 0.25" in lights(table)["Patients and trainings"][1]


# ---- texts ----


def test_methods_say_arms_folds_lengths_and_statistics(dataset):
    table = table_beside(compared("--lesions"))
    text = methods_paragraph(table)
    for part in (
        "nnUNetTrainerDiffLungCopyPaste: real cases, and synthetic ones by real lesion texture pasted",
        "once on folds 0, 1",
        "1,250 iterations",
        "8 patients, 16 cases, all real",
        "sign-flip permutation tests",
        "at least 10% of its voxels are predicted",
    ):
        assert part in text
    assert "NSD" not in text


def test_every_arm_is_explained():
    assert all(explained(arm) for arm in ARMS)
    assert explained("difflung_poly").endswith("nnU-Net's own optimizer and schedule")


# ---- pictures ----


def test_pictures_are_of_what_is_wrong_and_its_surroundings():
    image = np.zeros((400, 500))
    truth, prediction = np.zeros((400, 500), bool), np.zeros((400, 500), bool)
    truth[100:110, 200:220], prediction[104:110, 200:220] = True, True
    worst = Worst("a", "p1", 0, "p1_s0", {"reference": 0.75, "difflung": 0.0})
    view = AxialView((False, False), ("R", "L"), 0.5, 1.0)
    masks = {"reference": prediction, "difflung": np.zeros_like(truth)}
    first, second = pictures_of(worst, image, truth, masks, 3, 9, view, (-1000.0, 0.0))
    assert (first.height, first.width) == (LEAST, LEAST)
    assert [outline.name for outline in first.outlines] == [TRUTH, PREDICTION]
    assert [outline.dashed for outline in first.outlines] == [False, True]
    assert [outline.name for outline in second.outlines] == [TRUTH]
    assert (first.note, second.note) == ("slice 3, 80 wrong voxels", "slice 3, 200 wrong voxels")
    assert first.millimetres == 0.5
    masks = {"reference": np.ones_like(truth)}
    (whole,) = pictures_of(worst, image, truth, masks, 0, 1, view, (-1000.0, 0.0))
    assert max(whole.width, whole.height) <= WIDEST
    assert whole.millimetres == 1.0
    assert whole.note == f"{400 * 500 - 200} wrong voxels"


@pytest.mark.parametrize(("grey_levels", "shown"), [(False, LUNG_WINDOW), (True, None)])
def test_the_lung_window_is_that_of_hu_alone(dataset, grey_levels, shown):
    if grey_levels:
        change(dataset, window)
    trainings = SimpleNamespace(dataset=dataset.name, predictions=None, results={"a": None}, arms=())
    description = json.loads((dataset / "dataset.json").read_text())
    image, _, of_values = WorstPatients(trainings, None, description, {})._image("lung_001_s00")
    assert of_values == (shown or tuple(np.percentile(image, (0.5, 99.5))))


# ---- size ----


def test_page_of_a_thousand_patients_stays_small(dataset):
    table = table_beside(compared())
    rng = np.random.default_rng(0)
    arms = {f"{arm}": table["difflung"] for arm in list(ARMS)[:10]}
    rows = [
        {
            "patient": f"patient_{n:04d}",
            "fold": n % 5,
            "seed": table["meta"]["seeds"][0],
            "dice": d,
            "tp": 5,
            "fp": 3,
            "fn": 2,
        }
        for n, d in enumerate(rng.random(1000).round(6))
    ]
    classes = [f"class_{n}" for n in range(30)]
    large = {"meta": table["meta"]}
    for arm, of_arm in arms.items():
        large[arm] = {name: {**of_arm[ODD], "rows": rows} for name in classes}
    tile = Picture("a", {"w": "data:image/png;base64," + "A" * 75_000}, 256, 256)
    galleries = {classes[0]: Gallery("g", [("p", [tile] * 80)])}
    html = as_html(comparison_page(large, galleries))
    assert len(html) < 15e6
    assert "Without a section here, but in the JSON file: class_20" in html
    assert "more patients, with higher Dice or without the class, are in the JSON file" in html
