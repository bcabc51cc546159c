"""``difflung_convert`` resumes after an interruption without mixing in other archives, commands or patients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.case import CaseRecord
from nnunet_difflung.dataset_conversion.convert import main
from nnunet_difflung.dataset_conversion.output.staged_dataset import note_patient, staged_dataset
from nnunet_difflung.dataset_conversion.pipeline import patient as patient_module
from nnunet_difflung.dataset_conversion.pipeline.archive import MANIFEST
from nnunet_difflung.errors import BadInput
from tests.support.archives import chest, like, structures, write_slices, write_volumes
from tests.support.tiny import LABELS, tree_hashes

pytestmark = pytest.mark.usefixtures("raw_folder", "unverified")

VALUES = 'labels:\n  normal_lung: ["label 1"]\n  emphysema: ["label 2"]\n  ILD: ["label 3"]\n'
NAMES = 'labels:\n  normal_lung: ["lungs?"]\n  emphysema: ["emph.*"]\n  ILD: ["ild"]\n'


def convert(raw_folder: Path, *options: str, mapping: str = VALUES, archive: str = "archive") -> Path:
    path = raw_folder.parent / "map.yaml"
    path.write_text(mapping)
    main(
        [
            "-i",
            str(raw_folder.parent / archive),
            "--mapping",
            str(path),
            "-d",
            "810",
            "--name",
            "Mine",
            "-np",
            "1",
            *options,
        ]
    )
    return raw_folder / "Dataset810_Mine"


def interrupt_in(monkeypatch, patient: str) -> None:
    """Presses Ctrl-C when the first case of a patient is written."""
    real = patient_module.convert_patient

    def stopped(patient_to_convert, mapping, options, folder):
        if patient_to_convert.name != patient:
            return real(patient_to_convert, mapping, options, folder)
        monkeypatch.setattr(patient_module, "write_case", _write_and_stop)
        return real(patient_to_convert, mapping, options, folder)

    monkeypatch.setattr(patient_module, "convert_patient", stopped)


def _write_and_stop(folder: Path, case, number_of_labels: int, test: bool = False) -> CaseRecord:
    from nnunet_difflung.dataset_conversion.output.writer import write_case

    write_case(folder, case, number_of_labels, test)
    raise KeyboardInterrupt


def interrupted(raw_folder: Path, monkeypatch, patient: str, *options: str, mapping: str = VALUES) -> None:
    with monkeypatch.context() as patch:
        interrupt_in(patch, patient)
        with pytest.raises(KeyboardInterrupt):
            convert(raw_folder, *options, mapping=mapping)
    assert not (raw_folder / "Dataset810_Mine").exists()
    assert (raw_folder / ".Dataset810_Mine.partial").is_dir()


def cases_of(folder: Path, part: str = "Tr") -> set[str]:
    return {path.name.removesuffix("_0000.nii.gz") for path in (folder / f"images{part}").glob("*.nii.gz")}


def test_cases_of_an_unfinished_patient_are_removed_when_it_becomes_a_test_patient(raw_folder, monkeypatch):
    write_volumes(raw_folder.parent / "archive", 4)
    interrupted(raw_folder, monkeypatch, "p3")
    assert "p3_s000" in cases_of(raw_folder / ".Dataset810_Mine.partial")
    folder = convert(raw_folder, "--test", "p3")
    assert {case[:2] for case in cases_of(folder)} == {"p1", "p2", "p4"}
    assert cases_of(folder, "Ts") == {f"p3_s{z:03d}" for z in range(4)}
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == len(cases_of(folder)) == 12


def test_cases_of_an_unfinished_patient_are_removed_when_it_left_the_archive(raw_folder, monkeypatch):
    write_volumes(raw_folder.parent / "archive", 4)
    interrupted(raw_folder, monkeypatch, "p3")
    for path in (raw_folder.parent / "archive").rglob("p3*"):
        path.unlink()
    assert {case[:2] for case in cases_of(convert(raw_folder))} == {"p1", "p2", "p4"}


def test_another_pixel_size_converts_all_patients_anew(raw_folder, monkeypatch):
    write_slices(raw_folder.parent / "archive", 3)
    interrupted(raw_folder, monkeypatch, "p3", "--pixel-spacing", "4")
    folder = convert(raw_folder, "--pixel-spacing", "3")
    for path in (folder / "imagesTr").iterdir():
        assert sitk.ReadImage(str(path)).GetSpacing()[0] == 3, path.name


@pytest.mark.parametrize(
    ("options", "mapping"), [(["--spacing", "8"], VALUES), ([], VALUES.replace("ILD", "fibrosis"))]
)
def test_cases_of_another_command_are_not_mixed_in(raw_folder, monkeypatch, options, mapping):
    write_volumes(raw_folder.parent / "archive", 3)
    expected = tree_hashes(convert(raw_folder, *options, mapping=mapping))
    (raw_folder / "Dataset810_Mine").rename(raw_folder.parent / "whole")
    interrupted(raw_folder, monkeypatch, "p3")
    assert tree_hashes(convert(raw_folder, *options, mapping=mapping)) == expected


def test_two_commands_do_not_write_one_dataset_at_a_time(raw_folder):
    with staged_dataset("Dataset810_Mine", key="a") as folder:
        note_patient(folder, "p1", {})
        for key in ("a", "b", None):
            with (
                pytest.raises(BadInput, match=r"another command .*Dataset810_Mine"),
                staged_dataset("Dataset810_Mine", key=key),
            ):
                pytest.fail("two at once")
        assert list(folder.glob(".progress/p1.json"))
    assert [path.name for path in raw_folder.rglob("*")] == ["Dataset810_Mine"]


def test_anonymous_conversions_name_nobody(raw_folder, capsys):
    for name, empty in (("Miller_Ann", ()), ("Smith_John", ("ILD",)), ("Young_Eve", ())):
        image, label = chest(1)
        for part, array in {"ct": image, **structures(label)}.items():
            path = raw_folder.parent / "archive" / name / f"{part}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(like(array * (part not in empty)), str(path))
    folder = convert(
        raw_folder,
        "--anonymous",
        "--allow-missing",
        "--test=Young_Eve",
        "--patient-pattern",
        "(Miller_Ann|Smith_John|Young_Eve)",
        mapping=NAMES,
    )
    notes = json.loads((folder / MANIFEST).read_text())["patients"]["p002"]["notes"]
    assert any("empty" in note for note in notes), "the note itself is kept"
    written = "".join(path.read_text() for path in folder.glob("*.json"))
    written += "".join(capsys.readouterr())
    assert not [name for name in ("Smith", "Miller", "Young") if name in written]
    assert {case[:4] for case in cases_of(folder, "Ts")} == {"p003"}


@pytest.mark.parametrize(
    "options",
    [
        ["-i", "Miller_Ann/Ann_ct", "--patient-p", "(Miller_Ann.*)", "--mapping=Ann/map.yaml"],
        ["-iMiller_Ann/Ann_ct", "--patient-pattern=(Miller_Ann.*)", "--mapping", "Ann/map.yaml"],
    ],
)
def test_anonymous_conversions_keep_no_path_and_no_expression(raw_folder, monkeypatch, capsys, options):
    """In all spellings that argparse accepts, and for paths relative to the working directory."""
    for name in ("Miller_Ann_1", "Miller_Ann_2"):
        image, label = chest(1)
        for part, array in {"ct": image, **structures(label)}.items():
            path = raw_folder.parent / "Miller_Ann" / "Ann_ct" / name / f"{part}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(like(array), str(path))
    (raw_folder.parent / "Ann").mkdir()
    (raw_folder.parent / "Ann" / "map.yaml").write_text(NAMES)
    monkeypatch.chdir(raw_folder.parent)
    main([*options, "-d", "810", "--name", "Mine", "-np", "1", "--anonymous"])
    written = "".join(path.read_text() for path in (raw_folder / "Dataset810_Mine").glob("*.json"))
    written += "".join(capsys.readouterr())
    assert "Ann" not in written
    assert "p002" in written
    assert "difflung_convert" in written


def test_the_manifest_keeps_the_words_of_the_command(raw_folder):
    made = write_volumes(raw_folder.parent / "archive", 2)
    for number, name in enumerate(made, start=1):  # patients called 1 and 2, as numbers of the command are
        for path in (raw_folder.parent / "archive").rglob(f"{name}.nii.gz"):
            path.rename(path.with_name(f"{number}.nii.gz"))
    folder = convert(raw_folder, "--anonymous", "--test", "2", "--seed", "2")
    command = json.loads((folder / MANIFEST).read_text())["command"]
    assert "-np 1" in command
    assert command.endswith("--test p002 --seed 2")


def test_a_sagittal_volume_keeps_to_the_slices_that_were_drawn_on(raw_folder):
    mapping = 'labels:\n  emphysema: ["emph.*"]\n  ILD: ["ild"]\nignore_structures: ["lungs"]\nlung: threshold\n'
    expected = {}
    for number in (1, 2):
        image, label = chest(number, depth=8)
        expected[f"p{number}"] = {int(z) for z in np.flatnonzero((label > 1).any(axis=(1, 2)))}
        assert 0 < len(expected[f"p{number}"]) < 8
        for part, array in {"ct": image, **structures(label)}.items():
            path = raw_folder.parent / "archive" / f"p{number}" / f"{part}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.PermuteAxes(like(array), (1, 2, 0)), str(path))
    folder = convert(raw_folder, mapping=mapping)
    slices_of = {name: {int(case[-3:]) for case in cases_of(folder) if case.startswith(name)} for name in expected}
    assert slices_of == expected
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / f"p1_s{min(expected['p1']):03d}.nii.gz")))
    assert (label[0] == 3).sum() == (chest(1, 8)[1][min(expected["p1"])] == LABELS["ILD"]).sum()


def test_slices_of_a_second_scan_have_ids_of_their_own():
    from nnunet_difflung.dataset_conversion.pipeline.patients import Patient

    patient = Patient("p1", "p1", (None, None))
    assert len({patient.case_id(scan, z) for scan in (0, 1) for z in range(3000)}) == 6000


def test_a_label_description_that_was_corrected_converts_the_patients_anew(raw_folder, monkeypatch):
    """Swapped names leave all label maps and the set of names as they were."""
    archive = raw_folder.parent / "archive"
    write_volumes(archive, 3)
    description = '{0:5d}   255    0    0        1  1  1    "{1}"\n'.format

    def describe(*names: str) -> None:
        lines = "".join(description(value, name) for value, name in enumerate(names, 1))
        (archive / "label" / "labels.txt").write_text(lines)

    describe("Lungs", "ILD", "Emphysema")
    interrupted(raw_folder, monkeypatch, "p3", mapping=NAMES)
    describe("Lungs", "Emphysema", "ILD")
    corrected = tree_hashes(convert(raw_folder, mapping=NAMES) / "labelsTr")
    (raw_folder / "Dataset810_Mine").rename(raw_folder.parent / "resumed")
    assert tree_hashes(convert(raw_folder, mapping=NAMES) / "labelsTr") == corrected


def test_voxels_beside_a_header_that_changed_convert_the_patient_anew(raw_folder, monkeypatch):
    archive = raw_folder.parent / "archive"
    _, label = write_volumes(archive, 3, ending=".mhd")["p1"]
    sitk.WriteImage(like(label.astype(np.uint8)), str(archive / "label" / "p1.mhd"))
    interrupted(raw_folder, monkeypatch, "p3")
    (archive / "label" / "p1.raw").write_bytes(label[:, ::-1].astype(np.uint8).tobytes())
    corrected = tree_hashes(convert(raw_folder) / "labelsTr")
    (raw_folder / "Dataset810_Mine").rename(raw_folder.parent / "resumed")
    assert tree_hashes(convert(raw_folder) / "labelsTr") == corrected
