"""What a conversion drops, merges, moves, guesses or reinterprets is counted on the terminal and in the report."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.text import Text

from nnunet_difflung.dataset_conversion.case import IDENTITY, Case, CaseRecord
from nnunet_difflung.dataset_conversion.imaging.resampling import crop, resized
from nnunet_difflung.dataset_conversion.notes import DOUBT, Kind, Note, counted
from nnunet_difflung.dataset_conversion.output import report as conversion_report
from nnunet_difflung.dataset_conversion.output import sheet
from nnunet_difflung.dataset_conversion.output.changes import MOST_ROWS, NOTHING, changes_lines
from nnunet_difflung.dataset_conversion.output.report import report_of_dataset
from nnunet_difflung.dataset_conversion.output.writer import summary, write_case
from nnunet_difflung.dataset_conversion.pipeline import patient as patient_module
from nnunet_difflung.dataset_conversion.pipeline.losses import lost_lesions
from nnunet_difflung.dataset_conversion.public.sets import FileSource, MaskOf
from tests.dataset_conversion.test_convert import MAPPINGS, converted
from tests.support.archives import chest, like, write_volumes
from tests.support.tiny import LABELS

pytestmark = pytest.mark.usefixtures("raw_folder", "unverified")


def changes(folder) -> dict:
    return json.loads((folder / "conversion_report.json").read_text())["changes"]


def report(notes: dict[str, list[Note]]) -> dict:
    patients = {
        name: {"doubts": [n.text for n in several if n.what.startswith(DOUBT)]} for name, several in notes.items()
    }
    return {"changes": counted(notes), "patients": patients}


def test_the_table_says_kind_number_and_patients_and_stays_short():
    notes = {
        "p1": [Note("two files", Kind.DROPPED, 2, "files left out"), Note("a remark")],
        "p2": [Note("one file", Kind.DROPPED, 1, "files left out"), Note("x", Kind.GUESSED, what=f"{DOUBT}holes")],
    }
    lines = changes_lines(report(notes))
    assert lines[1:] == [
        "  dropped  3  files left out (in 2 patients)",
        "  guessed  1  derived lungs in doubt: holes (in 1 patient)",
        "Warning: the derived lung mask may be wrong; look first at p2",
    ]
    many = {"p1": [Note("x", Kind.DROPPED, 1, f"structure {k}") for k in range(MOST_ROWS + 3)]}
    lines = changes_lines(report(many))
    assert len(lines) == MOST_ROWS + 2
    assert lines[-1].strip() == "and 3 more kinds of change, see conversion_report.json"
    assert changes_lines(report({"p1": [Note("a remark")]})) == [NOTHING]


def test_overlaps_structures_left_out_and_slices_without_labels_are_counted(tmp_path, capsys):
    made = write_volumes(tmp_path / "archive", 2, binary=True, depth=5)
    for patient, (_, label) in made.items():
        label[3:] = 0
        for name, mask in {"Lungs": label > 0, "Emphysema": label == 2, "ILD": label == 3, "Heart": label == 1}.items():
            sitk.WriteImage(like(mask.astype(np.uint8)), str(tmp_path / "archive" / patient / f"{name}.nii.gz"))
    MAPPINGS["heart"] = MAPPINGS["names"] + 'ignore_structures: ["heart"]\n'
    folder = converted(tmp_path, "heart", "--anonymous")
    lost = {value: sum(int((label == value).sum()) for _, label in made.values()) for value in (2, 3)}
    assert changes(folder) == {
        "dropped": {
            "structure Heart, left out as ignore_structures says": {"count": 2, "patients": 2},
            "slices without drawn structures left out": {"count": 4, "patients": 2},
        },
        "merged": {
            "voxels drawn as normal_lung and as emphysema, which become emphysema": {"count": lost[2], "patients": 2},
            "voxels drawn as normal_lung and as ILD, which become ILD": {"count": lost[3], "patients": 2},
        },
    }
    shown = capsys.readouterr().out
    assert "dropped" in shown
    assert "slices without drawn structures left out (in 2 patients)" in shown


def test_nothing_changed_is_said_too(tmp_path, capsys):
    write_volumes(tmp_path / "archive", 2)
    folder = converted(tmp_path, "values")
    assert changes(folder) == {}
    assert NOTHING in capsys.readouterr().out


def test_a_missing_structure_that_is_taken_as_absent_is_a_guess(tmp_path):
    write_volumes(tmp_path / "archive", 2, binary=True)
    (tmp_path / "archive" / "p2" / "ILD.nii.gz").unlink()
    folder = converted(tmp_path, "names", "--allow-missing")
    assert changes(folder)["guessed"] == {"no structure for ILD, taken as absent": {"count": 1, "patients": 1}}


def test_lesions_that_coarser_pixels_lose_are_counted():
    label = np.ones((2, 40, 40), np.uint8)
    label[0, 10, 10] = 2
    label[0, 10, 11] = 3  # both fall into one pixel of the coarse grid, which only one of them can keep
    label[1, 30, 30] = 2
    case = Case("p", "p", np.zeros_like(label, np.int16), label, (1.0, 1.0, 5.0), (3.0, 4.0, 5.0))
    coarse = resized(case, 8.0, None, (2, 3))
    (note,) = lost_lesions(case, coarse, (2, 3), {2: "emphysema", 3: "ILD"})
    assert (note.kind, note.count) == (Kind.DROPPED, 1)
    label[0, 10, 10] = 1
    assert not lost_lesions(case, resized(case, 8.0, None, (2, 3)), (2, 3), {2: "emphysema", 3: "ILD"})


@pytest.mark.parametrize("direction", [IDENTITY, (0, 1, 0, -1, 0, 0, 0, 0, -1)])
def test_lesions_that_are_cropped_away_are_counted(direction):
    label = np.zeros((6, 40, 40), np.uint8)
    label[2:5, 10:20, 10:20] = 1
    label[3, 12, 12] = label[0, 30, 30] = label[3, 35, 35] = 2
    case = Case("p", "p", np.zeros_like(label, np.int16), label, (1.0, 2.0, 5.0), (3.0, 4.0, 5.0), direction)
    kept = crop(case, 2.0)
    assert not lost_lesions(case, kept, (2,), {2: "emphysema"}), "the box holds all labels"
    box = crop(replace(case, label=np.where(label == 1, 1, 0).astype(np.uint8)), 2.0)
    cut = replace(box, label=crop(replace(case, label=(label == 1).astype(np.uint8)), 2.0).label)
    cut.label[2, 3, 4] = 2  # where slice 3, row 12, column 12 has gone
    (note,) = lost_lesions(case, cut, (2,), {2: "emphysema"})
    assert note.count == 2


def test_an_interrupted_conversion_keeps_its_counts(tmp_path, monkeypatch):
    write_volumes(tmp_path / "archive", 3, binary=True)
    expected = changes(converted(tmp_path, "names"))
    real, left = patient_module.convert_patient, [2]

    def stopped(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)

    monkeypatch.setattr(patient_module, "convert_patient", stopped)
    with pytest.raises(KeyboardInterrupt):
        converted(tmp_path, "names", "--overwrite")
    monkeypatch.setattr(patient_module, "convert_patient", real)
    assert changes(converted(tmp_path, "names", "--overwrite")) == expected
    assert expected["merged"]


def test_the_sheet_shows_the_doubtful_patients_first_and_the_changes(tmp_path, monkeypatch):
    records, notes = [], {}
    for number in range(1, 6):
        image, label = chest(number, 1)
        case = Case(f"p{number}", f"p{number}", image, label, (4.0, 4.0, 8.0), (0, 0, 0))
        records.append(write_case(tmp_path, case, len(LABELS)))
        notes[f"p{number}"] = [Note("cut", Kind.GUESSED, what=f"{DOUBT}cut")] if number == 4 else []
    shown = []
    monkeypatch.setattr(conversion_report, "MOST_TILES", 2)
    monkeypatch.setattr(conversion_report, "write_sheet", lambda path, report, tiles, *_: shown.extend(tiles))
    made = report_of_dataset(tmp_path, records, LABELS, "CT", derived=["normal_lung"], notes=notes)
    assert [tile.title for tile in shown] == ["p4", "p1"]
    assert made["patients"]["p4"]["doubts"] == ["cut"]
    assert not made["patients"]["p1"]["doubts"]


def test_the_text_of_the_sheet_fits(tmp_path, monkeypatch):
    """No text leaves the page, however long a name is and near 100 % a share; the axis ends at 100 %."""
    image, label = chest(1, 1)
    label = np.where(label == 0, 1, label).astype(np.uint8)
    names = {"background": 0, "normal_lung": 1, "emphysema": 2, "ILD": 3}
    records = [write_case(tmp_path, Case("p1", "p1", image, label, (4.0, 4.0, 8.0), (0, 0, 0)), 4)]
    figures = []
    real = sheet.drawing

    @contextmanager
    def kept(*arguments, **options):
        with real(*arguments, **options) as figure:
            yield figure
            figure.canvas.draw()
            renderer = figure.canvas.get_renderer()
            width, height = figure.bbox.width, figure.bbox.height
            ticks = [tick for axes in figure.axes for tick in (*axes.get_xticklabels(), *axes.get_yticklabels())]
            for text in set(figure.findobj(Text)) - set(ticks):
                if text.get_text().strip() and text.get_visible():
                    box = text.get_window_extent(renderer)
                    inside = min(box.x0, box.y0) >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
                    figures.append((text.get_text()[:40], inside))
            figures.append(("axis", figure.axes[0].get_xlim()[1] <= 100))

    monkeypatch.setattr(sheet, "drawing", kept)
    notes = {"p1": [Note("x", Kind.DROPPED, 10**6, f"structure {k} " + "long " * 50) for k in range(20)]}
    report_of_dataset(tmp_path, records, names, "CT", derived=["normal_lung"], notes=notes)
    assert len(figures) > 10
    assert [text for text, inside in figures if not inside] == []


def test_values_of_a_public_mask_that_nobody_documents_are_counted(tmp_path):
    image = np.zeros((2, 8, 8), np.int16)
    label = np.zeros((2, 8, 8), np.float32)
    label[0, 0, :3], label[1, 1, :2], label[1, 2, 0] = 1, 7, 2.2
    for name, array in (("image", image), ("mask", label)):
        sitk.WriteImage(like(array), str(tmp_path / f"{name}.nii.gz"))
    mask = tmp_path / "mask.nii.gz"
    masks = (MaskOf("lungs", mask, (1,)), MaskOf("infection", mask, (2,)))
    scan = FileSource("p1", tmp_path, tmp_path / "image.nii.gz", masks).load()
    assert [(note.kind, note.count) for note in scan.notes] == [(Kind.REINTERPRETED, 1), (Kind.DROPPED, 2)]
    assert sitk.GetArrayFromImage(scan.structures["lungs"]).sum() == 3
    assert sitk.GetArrayFromImage(scan.structures["infection"]).sum() == 1


def test_derived_lungs_are_guesses_with_their_size_and_their_doubts(tmp_path, capsys):
    made = write_volumes(tmp_path / "archive", 2, binary=True)
    for name in ("ct", "Lungs", "Emphysema", "ILD"):  # the second patient's image cuts the lungs
        path = tmp_path / "archive" / "p2" / f"{name}.nii.gz"
        sitk.WriteImage(sitk.ReadImage(str(path))[14:50, :, :], str(path))
    folder = converted(tmp_path, "derived")
    guessed = changes(folder)["guessed"]
    assert guessed["lungs found by thresholds, not drawn"] == {"count": 2, "patients": 2}
    assert guessed[f"{DOUBT}cut by the edge of the image"] == {"count": 1, "patients": 1}
    patients = json.loads((folder / "conversion_report.json").read_text())["patients"]
    assert not patients["p1"]["doubts"]
    assert [text.split(" (")[0] for text in patients["p2"]["doubts"]] == [f"{DOUBT}cut by the edge of the image"]
    assert len(made) == 2
    assert "Warning: the derived lung mask may be wrong; look first at p2" in capsys.readouterr().out


def test_notes_on_the_archive_belong_to_no_patient():
    note = Note("left out 2 broken links", Kind.DROPPED, 2, "broken links")
    assert changes_lines(report({"": [note]}))[1:] == ["  dropped  2  broken links"]


def test_a_label_that_no_training_case_has_is_a_warning():
    records = [CaseRecord("a", "a", False, (90, 10, 0)), CaseRecord("b", "b", True, (90, 5, 5))]
    assert "Warning: no training case has tumour" in summary(records, {"background": 0, "lung": 1, "tumour": 2})
    assert "Warning: no" not in summary(records[1:], {"background": 0, "lung": 1, "tumour": 2})
