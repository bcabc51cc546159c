"""The conversion report gives the figures of the written files, and shows the right slice in the right orientation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.case import Case
from nnunet_difflung.dataset_conversion.notes import Note
from nnunet_difflung.dataset_conversion.output import report as conversion_report
from nnunet_difflung.dataset_conversion.output.report import report_of_dataset
from nnunet_difflung.dataset_conversion.output.writer import write_case
from tests.support.archives import chest
from tests.support.tiny import LABELS, tree_hashes


@pytest.fixture
def dataset(tmp_path):
    """Three patients with two slices each, the third of them a test patient; the records, and what was written."""
    written, records = {}, []
    for number in (1, 2, 3):
        image, label = chest(number, 2, emphysema=number != 2)
        written[f"p{number}"] = image, label
        for z in range(2):
            case = Case(
                f"p{number}_s{z:03d}", f"p{number}", image[z : z + 1], label[z : z + 1], (4.0, 4.0, 8.0), (0, 0, z)
            )
            records.append(write_case(tmp_path, case, len(LABELS), test=number == 3))
    return tmp_path, records, written


def test_figures_are_those_of_the_files(dataset):
    folder, records, written = dataset
    report = report_of_dataset(folder, records, LABELS, "CT", derived=["normal_lung"], notes={"p1": [Note("a note")]})
    assert report == json.loads((folder / "conversion_report.json").read_text())
    for name, value in LABELS.items():
        values = np.concatenate([image[label == value] for image, label in written.values()])
        row = report["classes"][name]
        assert row["voxels"] == len(values)
        assert row["patients"] == (2 if name == "emphysema" else 3)
        assert abs(row["mean"] - np.clip(values, -1050, 750).mean()) < 16, "half of a bin"
    assert sum(row["share"] for row in report["classes"].values()) == pytest.approx(1, abs=1e-4)
    patient = report["patients"]["p3"]
    assert patient["test"]
    assert patient["cases"] == 2
    assert patient["slices"] == 2
    assert patient["spacing_mm"] == [4.0, 4.0, 8.0]
    assert patient["intensity"] == [written["p3"][0].min(), written["p3"][0].max()]
    assert report["patients"]["p1"]["notes"] == ["a note"]
    assert not report["patients"]["p2"]["notes"]
    assert (folder / "conversion_report.png").read_bytes()[:4] == b"\x89PNG"


def test_the_slice_with_most_of_the_rarest_class_is_shown(dataset, monkeypatch):
    folder, records, written = dataset
    shown = []
    monkeypatch.setattr(conversion_report, "write_sheet", lambda path, report, tiles, *_: shown.extend(tiles))
    report_of_dataset(folder, records, LABELS, "CT")
    assert [tile.title[:2] for tile in shown] == ["p1", "p2", "p3"]
    assert [t.test for t in shown] == [False, False, True]
    for tile, (image, label) in zip(shown, written.values(), strict=True):
        rarest = 2 if (label == 2).any() else 3
        z = int((label == rarest).sum(axis=(1, 2)).argmax())
        assert np.array_equal(tile.label, label[z])
        assert np.array_equal(tile.image, image[z])


def test_volumes_in_any_orientation_are_shown_as_radiologists_look_at_them(tmp_path, monkeypatch):
    image, label = chest(1, 3)
    label[:] = 0
    label[1, 10, 20] = 2
    pixels, classes = sitk.GetImageFromArray(image), sitk.GetImageFromArray(label)
    for volume in (pixels, classes):
        volume.SetSpacing((2.0, 3.0, 5.0))
    records = []
    for patient, code in (("p1", "LPS"), ("p2", "RAI"), ("p3", "PIR")):
        turned = [sitk.DICOMOrient(volume, code) for volume in (pixels, classes)]
        case = Case(
            patient,
            patient,
            *(sitk.GetArrayFromImage(volume) for volume in turned),
            turned[0].GetSpacing(),
            turned[0].GetOrigin(),
            turned[0].GetDirection(),
        )
        records.append(write_case(tmp_path, case, len(LABELS)))
    shown = []
    monkeypatch.setattr(conversion_report, "write_sheet", lambda path, report, tiles, *_: shown.extend(tiles))
    report_of_dataset(tmp_path, records, LABELS, "CT")
    for tile in shown:
        assert tile.title.endswith("slice 1")
        assert tile.spacing == (3.0, 2.0)
        assert np.array_equal(tile.image, image[1])
        assert tile.label[10, 20] == 2


def test_many_patients_are_sampled_and_processes_change_nothing(dataset, monkeypatch):
    folder, records, _ = dataset
    monkeypatch.setattr(conversion_report, "MOST_TILES", 2)
    report_of_dataset(folder, records, LABELS, "CT")
    first = tree_hashes(folder)
    report_of_dataset(folder, records, LABELS, "CT", processes=2)
    assert tree_hashes(folder) == first
    assert conversion_report._evenly([str(i) for i in range(9)], 3) == ["0", "4", "8"]


def test_windows_and_missing_classes_do_not_stop_it(tmp_path):
    image, label = chest(1, 1)
    window = np.rint(255 * np.clip((image + 1350) / 1500.0, 0, 1)).astype(np.uint8)
    label[label == 2] = 0
    record = write_case(tmp_path, Case("p1_s000", "p1", window, label, (1, 1, 5), (0, 0, 0)), len(LABELS))
    report = report_of_dataset(tmp_path, [record], LABELS, "lung_window_8bit")
    assert report["classes"]["emphysema"] == {"value": 2, "voxels": 0, "share": 0.0, "cases": 0, "patients": 0}
    assert 0 < report["classes"]["normal_lung"]["mean"] < 255


def test_the_histograms_of_scaled_values_cover_the_range_of_the_first_image(tmp_path):
    """A view of an image that has been freed would hold arbitrary values."""
    image = np.random.default_rng(0).uniform(300, 400, (1, 64, 64)).astype(np.float32)
    label = np.ones((1, 64, 64), np.uint8)
    records = [write_case(tmp_path, Case("p1_s000", "p1", image, label, (1, 1, 5), (0, 0, 0)), len(LABELS))]
    for _ in range(20):
        low, high = conversion_report._range("windowed", tmp_path, records)
        assert (low, high) == (image.min(), image.max())
