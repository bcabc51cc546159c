"""Patients that cannot be converted are listed together; ``--exclude`` and ``--skip-faulty`` go on without them."""

from __future__ import annotations

import json
import shlex
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.convert import entry
from nnunet_difflung.dataset_conversion.pipeline.leaving_out import refusal
from nnunet_difflung.runtime.files import read_json
from tests.support.archives import chest, like, write_slices, write_volumes
from tests.support.tiny import tree_hashes

OF_THE_COMMAND = ("difflung_conversion.json", ".log")  # files that have the command line

pytestmark = pytest.mark.usefixtures("raw_folder", "unverified")

NAMES = 'labels:\n  normal_lung: ["lungs"]\n  emphysema: ["emphysema"]\n  ILD: ["ild"]\n'
VALUES = 'labels:\n  normal_lung: ["label 1"]\n  emphysema: ["label 2"]\n  ILD: ["label 3"]\n'


class Command:
    """difflung_convert on ``tmp_path/archive``: its exit code, output and dataset."""

    def __init__(self, tmp_path: Path, capsys):
        self.archive, self.capsys, self.mapping = tmp_path / "archive", capsys, tmp_path / "map.yaml"
        self.folder = tmp_path / "nnUNet_raw" / "Dataset810_Mine"
        self.partial = tmp_path / "nnUNet_raw" / ".Dataset810_Mine.partial"

    def __call__(self, *options: str, mapping: str = VALUES) -> tuple[int, str, str]:
        self.mapping.write_text(mapping)
        words = ["-i", str(self.archive), "--mapping", str(self.mapping), "-d", "810", "--name", "Mine", "-np", "1"]
        words += ["--as", "volumes"]
        with pytest.raises(SystemExit) as stop:
            entry([*words, *options])
        printed = self.capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    def refused(self, *options: str, mapping: str = VALUES) -> str:
        code, _, err = self(*options, mapping=mapping)
        assert code == 2
        assert not self.folder.exists()
        return err[err.index("Error: ") :]

    def cases(self) -> set[str]:
        return {path.name.partition(".")[0].partition("_s0")[0] for path in (self.folder / "labelsTr").iterdir()}

    def report(self) -> dict:
        return read_json(self.folder / "conversion_report.json")

    def manifest(self) -> dict:
        return read_json(self.folder / "difflung_conversion.json")


@pytest.fixture
def command(tmp_path, capsys) -> Command:
    return Command(tmp_path, capsys)


def uneven(folder: Path) -> None:
    """Three DICOM patients: p1 has even slices, p2 lacks one, p3 has two blocks of slices."""
    pytest.importorskip("highdicom")
    from tests.support.archives import structures
    from tests.support.dicom_files import numbers, outlines, write_ct, write_rtstruct

    for number, steps in ((1, range(8)), (2, (0, 1, 2, 3, 5, 6, 7, 8)), (3, (0, 1, 2, 3, 4.6, 6.2, 7.8, 9.4))):
        image, label = chest(number, 8)

        def moved(z, data, steps=steps):
            data.ImagePositionPatient = numbers([*data.ImagePositionPatient[:2], -300 + 3 * steps[z]])

        place = folder / f"p{number}"
        written = write_ct(place / "ct", like(image.astype(np.float32)), str(number), change=moved)
        contours = {name: outlines(like(mask)) for name, mask in structures(label).items()}
        for drawn in contours.values():
            for k, (z, points) in enumerate(drawn):
                drawn[k] = (z, np.column_stack([points[:, :2], np.full(len(points), -300 + 3 * steps[z])]))
        write_rtstruct(place / "rs", written, contours)


def broken_inside(path: Path) -> None:
    """Makes values that only loading notices: a scan whose values are not HU."""
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image + 1024, str(path))


def test_all_uneven_patients_are_listed_and_the_remedies_work_as_typed(command):
    uneven(command.archive)
    first, *lines = command.refused(mapping=NAMES).splitlines()
    assert "2 of 3 patients cannot be converted" in first
    assert lines[0].startswith("  p2: ")
    assert "1 of 9 slices are missing" in lines[0]
    assert lines[1].startswith("  p3: ")
    assert "3.00 to 4.80 mm apart" in lines[1]
    assert len(lines) == 2
    exclude = shlex.split(first[first.index("--exclude") :].partition(" or with")[0])
    code, out, _ = command(*exclude, mapping=NAMES)
    assert (code, command.cases()) == (0, {"p1"})
    assert out.endswith("2 of 3 patients were left out.\n")
    code, out, _ = command("--skip-faulty", "--overwrite", mapping=NAMES)
    assert (code, command.cases()) == (0, {"p1"})
    assert "\n  p2: " in out
    assert "1 of 9 slices are missing" in out
    assert out.endswith("2 of 3 patients were left out.\n")
    row = command.report()["changes"]["dropped"]["patients that cannot be converted, left out"]
    assert row == {"count": 2, "patients": 2}
    assert [entry["name"] for entry in command.manifest()["left_out"]] == ["p2", "p3"]


def test_a_single_fault_is_one_line_with_both_remedies(command):
    uneven(command.archive)
    line = command.refused("--exclude", "p2", mapping=NAMES).splitlines()
    assert len(line) == 1
    assert "--exclude p3" in line[0]
    assert "--skip-faulty" in line[0]


def test_the_list_shows_the_faults_of_each_patient(command):
    uneven(command.archive)
    command.mapping.unlink(missing_ok=True)
    with pytest.raises(SystemExit) as stop:
        entry(["-i", str(command.archive), "--list", "--mapping", str(command.mapping), "-np", "1", "--exclude", "p1"])
    out = command.capsys.readouterr().out
    assert stop.value.code in (0, None)
    assert out.count("    problem: ") == 2
    assert "2 of 2 patients cannot be converted as they are" in out


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        (["p2"], {"p1", "p3"}),
        (["p[23]"], {"p1"}),
        (["*2", "p1"], {"p3"}),
        (["p2", "p2"], {"p1", "p3"}),
    ],
)
def test_patients_are_excluded_by_name_or_with_a_star(command, pattern, left):
    write_volumes(command.archive)
    assert command("--exclude", *pattern)[0] == 0
    assert command.cases() == left


def test_names_match_however_their_accents_are_stored(command):
    write_volumes(command.archive)
    for part in ("ct", "label"):
        path = command.archive / part / "p2.nii.gz"
        path.rename(path.with_name(unicodedata.normalize("NFD", "Jürg2.nii.gz")))
    assert command("--exclude", unicodedata.normalize("NFC", "Jürg2"), "--patient-pattern", "(.+)")[0] == 0
    assert command.cases() == {"p1", "p3"}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--exclude", "P2"], "has no such patient; expected a name that --list shows, such as p"),
        (["--exclude", "p1", "q"], "--exclude q: "),
        (["--exclude", "p*"], "leaves out all 3 patients"),
        (["--exclude", "p2", "--test", "p2"], "--exclude leaves this patient out"),
    ],
)
def test_a_wrong_exclusion_is_refused(command, options, part):
    write_volumes(command.archive)
    message = command.refused(*options)
    assert part in message
    assert len(message.splitlines()) == 1


def test_faults_that_only_loading_shows_are_listed_together_and_nothing_is_done_twice(command, monkeypatch):
    from nnunet_difflung.dataset_conversion.pipeline import patient as patient_module

    write_volumes(command.archive, 4)
    for name in ("p1", "p3"):
        broken_inside(command.archive / "ct" / f"{name}.nii.gz")
    first, *lines = command.refused().splitlines()
    assert "2 of 4 patients cannot be converted" in first
    assert [line.split(":")[0].strip() for line in lines] == ["p1", "p3"]
    assert all("--rescale 1,-1024" in line for line in lines)
    tried = []
    real = patient_module.convert_patient
    monkeypatch.setattr(patient_module, "convert_patient", lambda p, *rest: tried.append(p.name) or real(p, *rest))
    code, out, _ = command("--skip-faulty")
    assert (code, command.cases(), tried) == (0, {"p2", "p4"}, ["p1", "p3"])
    assert out.endswith("2 of 4 patients were left out.\n")
    assert {path.name for path in (command.folder / "imagesTr").iterdir()} == {
        "p2_0000.nii.gz",
        "p4_0000.nii.gz",
    }


def test_cases_of_a_patient_whose_second_scan_is_faulty_do_not_stay(command):
    write_volumes(command.archive, 4)
    broken_inside(command.archive / "ct" / "p3.nii.gz")
    (command.archive / "patients.csv").write_text("case,patient\np1,a\np2,b\np3,b\np4,c\n")
    options = ("--patients", str(command.archive / "patients.csv"), "--skip-faulty")
    assert command(*options)[0] == 0
    assert command.cases() == {"a", "c"}
    assert len(list((command.folder / "imagesTr").iterdir())) == 2
    assert set(read_json(command.folder / "patients.json").values()) == {"a", "c"}
    assert command.manifest()["left_out"][0]["name"] == "b"


def test_a_dataset_without_patients_is_refused(command):
    write_volumes(command.archive)
    for number in (1, 2, 3):
        broken_inside(command.archive / "ct" / f"p{number}.nii.gz")
    assert "none of the 3 patients can be converted" in command.refused("--skip-faulty")
    for number in (1, 2, 3):
        path = command.archive / "ct" / f"p{number}.nii.gz"
        path.write_bytes(path.read_bytes()[:90])
    message = command.refused("--skip-faulty")
    assert "cannot be read" in message
    assert "none of the 3 patients can be converted" in message


def test_training_patients_must_be_left(command):
    write_volumes(command.archive, 2)
    broken_inside(command.archive / "ct" / "p1.nii.gz")
    assert "p1" in command.refused("--skip-faulty", "--test", "p2")
    code, out, _ = command("--skip-faulty", "--test", "p1")
    assert code == 0, "a test patient may be left out"
    assert out.endswith("1 of 2 patients were left out.\n")


def test_slices_and_their_patients(command):
    write_slices(command.archive)
    (command.archive / "images" / "p2_s00.png").write_bytes(b"no picture")
    pixels = ("--pixel-spacing", "4", "--as", "slices")
    message = command.refused(*pixels, mapping=VALUES)
    assert "p2_s00.png" in message
    assert "form no volume" in command.refused(*pixels[:3], "volumes", "--skip-faulty")
    assert command(*pixels, "--skip-faulty")[0] == 0
    assert {case.partition("_")[0] for case in command.cases()} == {"p1", "p3"}


@pytest.mark.parametrize("options", [["--skip-faulty"], ["--exclude", "p2"], []])
def test_an_interrupted_conversion_is_resumed_with_and_without_the_options(command, monkeypatch, options):
    from nnunet_difflung.dataset_conversion.pipeline import patient as patient_module

    write_volumes(command.archive, 4)
    uninterrupted = ["--exclude", "p2"] if options else []
    assert command(*uninterrupted)[0] == 0
    expected = {k: v for k, v in tree_hashes(command.folder).items() if not k.endswith(OF_THE_COMMAND)}
    command.folder.rename(command.folder.parent.parent / "whole")
    real = patient_module.convert_patient

    def stopped(patient, *rest):
        if patient.name == "p4":
            raise KeyboardInterrupt
        return real(patient, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(patient_module, "convert_patient", stopped)
        assert command()[0] == 130
    if options == ["--skip-faulty"]:
        path = command.archive / "ct" / "p2.nii.gz"
        path.write_bytes(path.read_bytes()[:90])
    assert command(*options)[0] == 0
    assert command.cases() == ({"p1", "p3", "p4"} if options else {"p1", "p2", "p3", "p4"})
    same = {k: v for k, v in tree_hashes(command.folder).items() if not k.endswith(OF_THE_COMMAND)}
    if options != ["--skip-faulty"]:  # its report gives another reason
        assert same == expected


def test_anonymous_conversions_name_nobody(command):
    write_volumes(command.archive)
    for part in ("ct", "label"):
        (command.archive / part / "p2.nii.gz").rename(command.archive / part / "smith2.nii.gz")
    broken_inside(command.archive / "ct" / "smith2.nii.gz")
    code, out, _ = command("--anonymous", "--skip-faulty", "--patient-pattern", "(.+)", "--exclude", "p1")
    assert code == 0
    assert out.endswith("2 of 3 patients were left out.\n")
    written = [path for path in command.folder.glob("*.json") if path.name != "patients.json"]
    for text in (out, *(path.read_text() for path in written)):
        assert "smith" not in text
    assert command.manifest()["left_out"] == [{"reason": "--exclude"}, {"reason": "cannot be converted"}]


def test_a_public_set(tmp_path, capsys):
    import importlib

    from tests.support import public_layouts

    public_layouts.covid_20_cases(tmp_path / "set")
    broken = tmp_path / "set" / "COVID-19-CT-Seg_20cases" / "coronacases_002.nii.gz"
    broken.write_bytes(broken.read_bytes()[:60])
    converter = importlib.import_module("nnunet_difflung.dataset_conversion.Dataset803_COVID19CTSeg")
    for options, code in (([], 2), (["--skip-faulty"], 0), (["--exclude", "coronacases_002", "--overwrite"], 0)):
        with pytest.raises(SystemExit) as stop:
            converter.main(["-i", str(tmp_path / "set"), "-np", "1", *options])
        assert stop.value.code == code
    assert capsys.readouterr().out.endswith("1 of 2 patients were left out.\n")


def test_a_long_list_of_faults_is_cut():
    error = refusal({f"p{k}": "damaged" for k in range(33)}, 40)
    assert len(error.details) == 21
    assert error.details[-1] == "and 13 more"
    assert "33 of 40 patients" in str(error)
    assert "--exclude PATIENT …" in str(error)
    assert json.dumps(str(error)).count("p12") == 0
