"""Converters of public datasets, on small files in the published folders and with the published names."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset_conversion.public.hug_rois import read_rois
from nnunet_difflung.errors import BadInput
from tests.support import public_layouts

pytestmark = pytest.mark.usefixtures("raw_folder", "unverified")

IGNORED = 8


def converted(tmp_path: Path, module: str, *options: str) -> tuple[Path, dict, dict]:
    """The dataset's folder, its dataset.json and its report."""
    converter = importlib.import_module(f"nnunet_difflung.dataset_conversion.{module}")
    with pytest.raises(SystemExit) as stop:
        converter.main(["-i", str(tmp_path / "set"), "-np", "1", *options])
    assert stop.value.code == 0
    folder = next((tmp_path / "nnUNet_raw").iterdir())
    splits = json.loads((folder / "splits_final.json").read_text())
    manifest = json.loads((folder / "difflung_conversion.json").read_text())
    patient_of = {case: name for name, patient in manifest["patients"].items() for case in patient["cases"]}
    if (folder / "patients.json").exists():
        assert json.loads((folder / "patients.json").read_text()) == patient_of
    for fold in splits:
        assert not {patient_of[c] for c in fold["train"]} & {patient_of[c] for c in fold["val"]}
    open_raw_dataset(folder.name[7:10])
    return folder, *(json.loads((folder / name).read_text()) for name in ("dataset.json", "conversion_report.json"))


def label(folder: Path, case: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / f"{case}.nii.gz")))[0]


def image(folder: Path, case: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "imagesTr" / f"{case}_0000.nii.gz")))[0]


def test_medseg_slices(tmp_path, capsys):
    pixels, mask = public_layouts.medseg_slices(tmp_path / "set")
    folder, described, report = converted(tmp_path, "Dataset802_MedSegCOVID19Slices")
    assert described["channel_names"] == {"0": "windowed"}
    assert described["numTraining"] == 12
    assert set(report["patients"]) == {"g01", "g02", "g03"}
    assert not (folder / "patients.json").exists(), "groups are not patients"
    warning = "Warning: a patient may be in two neighbouring groups"
    printed = capsys.readouterr().out
    assert printed.count(warning) == 2, "before and after the conversion"
    assert "3 scans of 3 groups (patients: not published" in printed
    assert "12 cases of 3 groups" in printed
    assert warning in json.loads((folder / "difflung_conversion.json").read_text())["content"]
    assert report["patients"]["g03"]["slices"] == 2
    for case, z in (("g01_s004", 4), ("g02_s000", 5), ("g03_s001", 11)):
        assert np.allclose(image(folder, case), pixels[z] + 0.3, atol=0.01)
        classes = label(folder, case)
        assert np.array_equal(classes == 2, mask[z] == 1)
        assert np.array_equal(classes == 3, mask[z] == 2)


def test_covid_20_cases(tmp_path):
    made = public_layouts.covid_20_cases(tmp_path / "set")
    folder, described, report = converted(tmp_path, "Dataset803_COVID19CTSeg")
    assert described["channel_names"] == {"0": "CT"}
    assert len(report["patients"]) == 2
    pixels, mask = made["coronacases_002"]
    assert np.array_equal(image(folder, "coronacases_002_s001"), pixels[1])
    assert np.array_equal(label(folder, "coronacases_002_s001"), np.where(mask[1] == 3, 2, mask[1] > 0))


def test_covid_20_cases_in_windows_are_of_two_patients(tmp_path):
    public_layouts.covid_20_cases(tmp_path / "set")
    _, described, report = converted(tmp_path, "Dataset803_COVID19CTSeg", "--part", "radiopaedia")
    assert described["channel_names"] == {"0": "lung_window_8bit"}
    assert set(report["patients"]) == {"radiopaedia_10", "radiopaedia_29"}
    assert report["patients"]["radiopaedia_29"]["slices"] == 8


def test_mosmed_has_derived_lungs(tmp_path):
    made = public_layouts.mosmed(tmp_path / "set")
    folder, described, report = converted(tmp_path, "Dataset804_MosMedData")
    assert described["labels"] == {"background": 0, "normal_lung": 1, "infection": 2}
    assert report["derived"] == ["normal_lung"]
    assert len(report["patients"]) == 2
    for study, (_, mask) in made.items():
        case = next(p.name for p in (folder / "labelsTr").glob("*_s001.nii.gz") if study[-2:] in p.name)
        classes = label(folder, case.removesuffix(".nii.gz"))
        assert np.array_equal(classes == 2, mask[1] > 0)
        assert (classes == 1).sum() > 300


@pytest.mark.parametrize("lungs", [True, False], ids=["lung masks", "no lung masks"])
def test_hug_keeps_what_was_outlined_and_ignores_the_rest_of_the_lung(tmp_path, lungs):
    pytest.importorskip("highdicom")
    made = public_layouts.hug(tmp_path / "set", lungs)
    folder, described, report = converted(tmp_path, "Dataset805_HUGILD")
    assert described["labels"]["ignore"] == IGNORED
    assert described["channel_names"] == {"0": "CT"}
    assert set(report["patients"]) == {"53", "pilot_200"}
    assert described["numTraining"] == 4, "two slices have contours"
    pixels, truth = made["53/CT-INSPIRIUM-7605"]
    values = described["labels"]
    for z in (1, 2):
        classes = label(folder, f"53_s{z:03d}")
        assert np.abs(image(folder, f"53_s{z:03d}") - pixels[z]).max() <= 0.5
        for name, value in (("emphysema", 2), ("fibrosis", 3)):
            a, b = classes == values[name], truth[z] == value
            assert 2 * (a & b).sum() >= 0.9 * (a.sum() + b.sum()), (z, name)
        not_outlined = (truth[z] == 1) & (classes != values["normal_lung"])
        assert (classes[not_outlined] == IGNORED).mean() > (0.97 if lungs else 0.8)
    y, x = public_layouts.healthy_place(truth)
    assert (label(folder, "53_s002")[y : y + 4, x : x + 4] == values["normal_lung"]).all(), (
        "healthy tissue is outlined as well"
    )
    assert (label(folder, "53_s001")[11:13, 11:13] == IGNORED).all(), "tissues of few patients"
    notes = report["patients"]["53"]["notes"]
    assert any("lungs found by thresholds, not drawn" in note for note in notes) != lungs


@pytest.mark.parametrize("mirrored", [False, True])
def test_plethora_masks_lie_on_the_lungs_whatever_their_headers_say(tmp_path, mirrored):
    pytest.importorskip("highdicom")
    made = public_layouts.plethora(tmp_path / "set", mirrored)
    folder, _, report = converted(tmp_path, "Dataset806_PleThora")
    assert set(report["patients"]) == set(made)
    assert report["patients"]["LUNG1-003"]["voxels"]["pleural_effusion"] == 0
    for name, (pixels, truth) in made.items():
        assert np.array_equal(label(folder, f"{name}_s002"), truth[2])
        assert np.abs(image(folder, f"{name}_s002") - pixels[2]).max() <= 0.5
        assert any("mirrored along z" in note for note in report["patients"][name]["notes"]) == mirrored


@pytest.mark.parametrize(
    ("module", "make", "remove", "message"),
    [
        ("Dataset802_MedSegCOVID19Slices", "medseg_slices", "tr_lungmasks_updated.nii.gz", "tr_lungmasks_updated"),
        (
            "Dataset803_COVID19CTSeg",
            "covid_20_cases",
            "COVID-19-CT-Seg_20cases/coronacases_001.nii.gz",
            "coronacases_001",
        ),
        ("Dataset804_MosMedData", "mosmed", "COVID19_1110/studies/CT-1/study_0255.nii.gz", "study_0255"),
        ("Dataset805_HUGILD", "hug", "ILD_DB_txtROIs/HRCT_pilot/200/CT-7606-0002.dcm", "HRCT_pilot"),
        (
            "Dataset806_PleThora",
            "plethora",
            "Thoracic_Cavities/LUNG1-002/LUNG1-002_thor_cav_primary_reviewer.nii.gz",
            "LUNG1-002_thor_cav",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path, capsys, module, make, remove, message):
    pytest.importorskip("highdicom")
    getattr(public_layouts, make)(tmp_path / "set")
    (tmp_path / "set" / remove).unlink()
    converter = importlib.import_module(f"nnunet_difflung.dataset_conversion.{module}")
    for folder in (tmp_path / "set", tmp_path / "nnUNet_raw"):  # the second folder is empty
        with pytest.raises(SystemExit) as stop:
            converter.main(["-i", str(folder), "-np", "1"])
        printed = capsys.readouterr().err
        errors = [line for line in printed.splitlines() if line.startswith("Error: ")]
        assert stop.value.code == 2, printed
        assert len(errors) == 1, printed
        assert message in errors[0] or folder.name == "nnUNet_raw", printed
    assert not list((tmp_path / "nnUNet_raw").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("SpacingX", "Spacing"), "SpacingX"),
        (lambda t: t[:-40], "two numbers"),
        (lambda t: t.replace("label: emphysema\n", ""), "no label or slice_number"),
    ],
)
def test_damaged_contours_are_refused(tmp_path, change, message):
    text = public_layouts.roi_text([("emphysema", 2, np.array([[1, 1], [1, 9], [9, 9], [9, 1]]))], 0.7)
    path = tmp_path / "CT-INSPIRIUM-1.txt"
    path.write_text(text)
    assert len(read_rois(path)[1]) == 1
    path.write_text(change(text))
    with pytest.raises(BadInput, match=message):
        read_rois(path)
