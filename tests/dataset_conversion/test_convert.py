"""``difflung_convert``: all kinds of archives keep HU, positions and patients, and interruptions do no harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset_conversion.convert import main
from nnunet_difflung.dataset_conversion.output.writer import what_next
from nnunet_difflung.dataset_conversion.pipeline.archive import MANIFEST
from tests.support.archives import SPACING, chest, like, structures, write_dicom, write_slices, write_volumes
from tests.support.tiny import LABELS, set_paths, tree_hashes

pytestmark = pytest.mark.usefixtures("raw_folder", "unverified")

DATA = Path(os.environ.get("DIFFLUNG_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
OBLIQUE = Rotation.from_euler("xyz", [10, -8, 15], degrees=True).as_matrix()
MAPPINGS = {
    "values": 'labels:\n  normal_lung: ["label 1"]\n  emphysema: ["label 2"]\n  ILD: ["label 3"]\n',
    "names": 'labels:\n  normal_lung: ["lungs?"]\n  emphysema: ["emph.*"]\n  ILD: ["ild"]\n',
    "derived": 'labels:\n  emphysema: ["emph.*"]\n  ILD: ["ild"]\nignore_structures: ["lungs"]\nlung: threshold\n',
}


def mapping(folder: Path, name: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(MAPPINGS[name])
    return str(path)


def converted(tmp_path: Path, name: str, *options: str) -> Path:
    main(
        [
            "-i",
            str(tmp_path / "archive"),
            "--mapping",
            mapping(tmp_path, name),
            "-d",
            "810",
            "--name",
            "Mine",
            "-np",
            "1",
            *options,
        ]
    )
    return tmp_path / "nnUNet_raw" / "Dataset810_Mine"


def read(folder: Path, case: str, part: str = "Tr") -> tuple[sitk.Image, np.ndarray]:
    return (
        sitk.ReadImage(str(folder / f"images{part}" / f"{case}_0000.nii.gz")),
        sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"labels{part}" / f"{case}.nii.gz"))),
    )


def check_slices(folder: Path, made: dict, boundary: float = 1.0) -> None:
    """Every slice of every patient: same HU, same labels, same place."""
    for patient, (image, label) in made.items():
        reference = like(image)
        for z in range(len(image)):
            image_file, classes = read(folder, f"{patient}_s{z:03d}")
            assert np.abs(sitk.GetArrayFromImage(image_file)[0] - image[z]).max() <= 0.5
            assert np.allclose(image_file.GetOrigin(), reference.TransformIndexToPhysicalPoint((0, 0, z)), atol=1e-3)
            assert np.allclose(image_file.GetSpacing()[:2], SPACING[:2])
            for value in (1, 2, 3):
                a, b = classes[0] == value, label[z] == value
                assert 2 * (a & b).sum() >= boundary * (a.sum() + b.sum()), (patient, z, value)


@pytest.mark.parametrize(("binary", "ending"), [(False, ".nii.gz"), (True, ".nrrd"), (True, ".mha")])
def test_volumes_with_one_label_map_or_one_file_for_each_structure(tmp_path, binary, ending):
    made = write_volumes(tmp_path / "archive", binary=binary, ending=ending)
    folder = converted(tmp_path, "names" if binary else "values")
    check_slices(folder, made)
    described = json.loads((folder / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "CT"}
    assert described["labels"] == LABELS
    assert described["numTraining"] == 12
    splits = json.loads((folder / "splits_final.json").read_text())
    cases = sorted(splits[0]["train"] + splits[0]["val"])
    patient_of = json.loads((folder / "patients.json").read_text())
    assert patient_of == {case: case[:2] for case in cases}
    for fold in splits:
        assert not {patient_of[c] for c in fold["train"]} & {patient_of[c] for c in fold["val"]}
    assert open_raw_dataset("810").roles.normal == ("normal_lung",)


def test_a_rare_class_is_in_every_training_part_and_augmenting_would_make_the_same_folds(tmp_path):
    made = write_volumes(tmp_path / "archive", 10, depth=2, emphysema_every=6)
    folder = converted(tmp_path, "values", "--allow-missing")
    holding = {f"{patient}_s000" for patient, (_, label) in made.items() if (label[0] == LABELS["emphysema"]).any()}
    assert len(holding) == 2
    splits = json.loads((folder / "splits_final.json").read_text())
    assert len(splits) == 5
    assert all(holding & set(fold["train"]) for fold in splits)
    (folder / "splits_final.json").unlink()
    assert open_raw_dataset("810").splits == splits


@pytest.mark.parametrize("kind", ["RTSTRUCT", "SEG"])
def test_dicom_with_contours_or_segments(tmp_path, kind):
    pytest.importorskip("highdicom")
    made = write_dicom(tmp_path / "archive", kind=kind)
    check_slices(converted(tmp_path, "names"), made, 0.99)


def test_an_oblique_volume_keeps_its_place(tmp_path):
    pytest.importorskip("highdicom")
    made = write_dicom(tmp_path / "archive", 2, direction=OBLIQUE)
    folder = converted(tmp_path, "names", "--as", "volumes")
    for patient, (image, label) in made.items():
        volume, classes = read(folder, patient)
        expected = like(image, direction=OBLIQUE)
        assert np.abs(sitk.GetArrayFromImage(volume) - image).max() <= 0.5
        for index in ((0, 0, 0), (63, 0, 0), (0, 63, 3)):
            assert np.allclose(
                volume.TransformIndexToPhysicalPoint(index), expected.TransformIndexToPhysicalPoint(index), atol=1e-3
            )
        for value in (1, 2, 3):
            a, b = classes == value, label == value
            assert 2 * (a & b).sum() >= 0.99 * (a.sum() + b.sum())


def test_slices_of_pictures_are_not_hu(tmp_path):
    write_slices(tmp_path / "archive")
    folder = converted(tmp_path, "values", "--pixel-spacing", "4")
    described = json.loads((folder / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "lung_window_8bit"}
    assert described["numTraining"] == 6
    image, label = read(folder, "p1_s000")
    expected = chest(1, 2)[1]
    assert (label[0] == expected[0]).all()
    assert sitk.GetArrayFromImage(image).max() <= 255


def test_lung_that_was_not_drawn_is_found_and_marked_as_derived(tmp_path):
    made = write_volumes(tmp_path / "archive", binary=True)
    folder = converted(tmp_path, "derived", "--all-slices")
    for patient, (_, label) in made.items():
        classes = np.concatenate([read(folder, f"{patient}_s{z:03d}")[1] for z in range(4)])
        value = {"normal_lung": 1, "emphysema": 2, "ILD": 3}
        for name, number in value.items():
            a, b = classes == number, label == LABELS[name]
            assert 2 * (a & b).sum() > (0.9 if number == 1 else 0.999) * (a.sum() + b.sum()), (patient, name)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["derived"] == ["normal_lung"] == manifest["patients"]["p1"]["derived"]
    assert json.loads((folder / "conversion_report.json").read_text())["derived"] == ["normal_lung"]


def test_only_slices_with_drawn_structures_become_cases(tmp_path):
    made = write_volumes(tmp_path / "archive", 2, binary=True, depth=8)
    folder = converted(tmp_path, "derived")
    for patient, (_, label) in made.items():
        drawn = np.flatnonzero((label > 1).any(axis=(1, 2)))
        cases = sorted(p.name for p in (folder / "labelsTr").glob(f"{patient}_*"))
        assert cases == [f"{patient}_s{z:03d}.nii.gz" for z in drawn]
        assert 0 < len(drawn) < 8


def test_crop_and_resampling_keep_the_place_and_small_lesions(tmp_path):
    image, label = chest(1, 2)
    label[label > 1] = 1
    spot = np.argwhere(label[0] == 1)[150]
    label[0][tuple(spot)] = 2
    label[1, 30, 15] = 2
    for part, array in (("ct", image), ("label", label)):
        for name in ("p1", "p2"):
            (tmp_path / "archive" / part).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(like(array), str(tmp_path / "archive" / part / f"{name}.nii.gz"))
    (tmp_path / "two.yaml").write_text('labels:\n  emphysema: ["label 2"]\n  normal_lung: ["label 1"]\n')
    MAPPINGS["two"] = (tmp_path / "two.yaml").read_text()  # normal lung is label 2 here: no label is special by value
    folder = converted(tmp_path, "two", "--crop-lungs", "12", "--spacing", "11")
    for z, (y, x) in ((0, spot), (1, (30, 15))):
        image_file, classes = read(folder, f"p1_s{z:03d}")
        assert image_file.GetSpacing()[0] == 11
        assert image_file.GetSize()[0] < 64 * 4 / 11
        spot_pixels = np.argwhere(classes[0] == 1)
        assert len(spot_pixels) == 1
        place = image_file.TransformIndexToPhysicalPoint((int(spot_pixels[0][1]), int(spot_pixels[0][0]), 0))
        true = like(image).TransformIndexToPhysicalPoint((int(x), int(y), z))
        assert np.abs(np.subtract(place, true)[:2]).max() <= 11 / 2 + 2
        assert abs(place[2] - true[2]) < 1e-3


def test_a_mask_on_another_grid_comes_through_physical_space(tmp_path):
    made = write_volumes(tmp_path / "archive", 2)
    for path in (tmp_path / "archive" / "label").iterdir():
        mask = sitk.ReadImage(str(path))
        sitk.WriteImage(sitk.Flip(mask, (True, False, True)), str(path))  # other array order, same place
    check_slices(converted(tmp_path, "values"), made)


def test_priorities_decide_overlaps_and_the_ignore_label_is_written(tmp_path):
    made = write_volumes(tmp_path / "archive", 2, binary=True)
    MAPPINGS["overlap"] = (
        'labels:\n  normal_lung: ["lungs"]\n'
        '  emphysema: {structures: ["emphysema"], priority: 0.5}\n'
        'ignore_label: {structures: ["ild"], priority: 9}\n'
    )
    folder = converted(tmp_path, "overlap")
    _, classes = read(folder, "p1_s001")
    label = made["p1"][1][1]
    assert (classes[0] == np.where(label == 3, 3, np.where(label > 0, 1, 0))).all()
    assert json.loads((folder / "dataset.json").read_text())["labels"]["ignore"] == 3


def test_test_patients_and_anonymous_names(tmp_path):
    write_volumes(tmp_path / "archive", 4)
    folder = converted(tmp_path, "values", "--test", "p2", "--anonymous")
    assert {p.name[:4] for p in (folder / "imagesTs").iterdir()} == {"p002"}
    assert {p.name[:4] for p in (folder / "imagesTr").iterdir()} == {"p001", "p003", "p004"}
    written = (folder / MANIFEST).read_text() + (folder / "conversion_report.json").read_text()
    assert "p002" in written
    assert "p2" not in written, "neither names nor files"
    folder = converted(tmp_path, "values", "--test-share", "0.5", "--overwrite")
    assert "ct/p2.nii.gz" in (folder / MANIFEST).read_text()
    assert len({p.name[:2] for p in (folder / "imagesTs").iterdir()}) == 2


def test_processes_and_repetition_change_no_byte_and_nnunet_agrees(tmp_path, monkeypatch):
    monkeypatch.undo()
    set_paths(tmp_path, monkeypatch)
    write_volumes(tmp_path / "archive", 3)
    folder = converted(tmp_path, "values")
    first = tree_hashes(folder)
    assert any("conversion_report.png" in name for name in first)
    again = converted(tmp_path, "values", "--overwrite", "-np", "2")
    assert {k: v for k, v in tree_hashes(again).items() if MANIFEST not in k} == {
        k: v for k, v in first.items() if MANIFEST not in k
    }


def test_a_killed_conversion_resumes_with_the_same_result(tmp_path):
    write_volumes(tmp_path / "archive", 6, depth=6)
    expected = tree_hashes(converted(tmp_path, "values"))
    folder = tmp_path / "nnUNet_raw" / "Dataset810_Mine"
    folder.rename(tmp_path / "whole")
    partial = tmp_path / "nnUNet_raw" / ".Dataset810_Mine.partial"
    command = [
        sys.executable,
        "-m",
        "nnunet_difflung.dataset_conversion.convert",
        "-i",
        str(tmp_path / "archive"),
        "--mapping",
        str(tmp_path / "values.yaml"),
        "-d",
        "810",
        "--name",
        "Mine",
        "-np",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(partial.glob(".progress/p*.json"))) < 2:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    assert partial.is_dir()
    (partial / ".writing_x_conversion_report.png").touch()
    (partial / ".progress" / ".writing_x_p5.json").touch()  # as if killed while a note was being written
    done = {p.name: p.stat().st_mtime_ns for p in partial.glob("imagesTr/p1_*")}
    (tmp_path / "archive" / "ct" / "p2.nii.gz").touch()  # changed meanwhile: converted anew
    kept = {p.name: p.stat().st_mtime_ns for p in partial.glob("imagesTr/p2_*")}
    assert tree_hashes(converted(tmp_path, "values")) == expected
    assert not partial.exists()
    assert done
    assert all((folder / "imagesTr" / name).stat().st_mtime_ns == when for name, when in done.items())
    assert kept
    assert all((folder / "imagesTr" / name).stat().st_mtime_ns != when for name, when in kept.items())


def test_listing_writes_a_first_mapping_that_converts(tmp_path, capsys):
    write_volumes(tmp_path / "archive", 2, binary=True)
    path = tmp_path / "first.yaml"
    main(["-i", str(tmp_path / "archive"), "--list", "--mapping", str(path)])
    printed = capsys.readouterr().out
    assert "2 patients, volumes" in printed
    assert "64×64×4" in printed
    assert "Emphysema (2), ILD (2), Lungs (2)" in printed
    MAPPINGS["first"] = path.read_text()
    folder = converted(tmp_path, "first")
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "normal_lung": 1,
        "emphysema": 2,
        "ild": 3,
    }
    path.write_text(MAPPINGS["names"])
    main(["-i", str(tmp_path / "archive"), "--list", "--mapping", str(path)])
    assert "already exists and was not changed" in capsys.readouterr().out
    assert path.read_text() == MAPPINGS["names"]


def test_a_conversion_ends_with_the_command_that_comes_next(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    assert what_next("Dataset810_MyCT", 810).startswith("Next: difflung_augment -d 810 --dry-run; ")
    (tmp_path / "Dataset810_MyCT").mkdir()
    assert what_next("Dataset810_MyCT", 810).startswith("Note: "), "what was preprocessed before has to go first"


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    write_volumes(tmp_path / "archive", 2)
    converted(tmp_path, "values", "--dry-run")
    assert "p1 → p1" in capsys.readouterr().out
    assert not list((tmp_path / "nnUNet_raw").iterdir())


def test_stored_values_become_hu_by_rescale_and_window_clips(tmp_path):
    image, label = chest(1)
    for name in ("p1", "p2"):
        for part, array in (("ct", (image + 1024).astype(np.uint16)), ("label", label)):
            (tmp_path / "archive" / part).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(like(array), str(tmp_path / "archive" / part / f"{name}.nii.gz"))
    folder = converted(tmp_path, "values", "--rescale", "1,-1024", "--window=-900,0")
    values = sitk.GetArrayFromImage(read(folder, "p1_s000")[0])[0]
    assert np.array_equal(values, np.clip(image[0], -900, 0))


@pytest.mark.skipif(
    not (DATA / "plethora").is_dir(), reason="the real CT is not available; set DIFFLUNG_TEST_DATA to its folder"
)
def test_real_volumes_in_hu(tmp_path):
    MAPPINGS["plethora"] = 'labels:\n  normal_lung: ["label 1"]\n  pleural_effusion: ["label 2"]\n'
    main(
        [
            "-i",
            str(DATA / "plethora"),
            "--mapping",
            mapping(tmp_path, "plethora"),
            "-d",
            "811",
            "--name",
            "Plethora",
            "-np",
            "1",
            "--spacing",
            "6",
            "--patient-pattern",
            "(.+)",
        ]
    )
    report = json.loads((tmp_path / "nnUNet_raw" / "Dataset811_Plethora" / "conversion_report.json").read_text())
    assert report["channel"] == "CT"
    assert len(report["patients"]) == 4
    assert -900 < report["classes"]["normal_lung"]["mean"] < -600
    assert -100 < report["classes"]["pleural_effusion"]["mean"] < 60


def test_structures_named_alike_are_one_label(tmp_path):
    image, label = chest(1)
    for name in ("p1", "p2"):
        drawn = structures(label)
        left = drawn["Lungs"].copy()
        left[:, :, 32:] = 0
        files = {"ct": image, "lung_left": left, "lung_right": drawn["Lungs"] - left, "ILD": drawn["ILD"]}
        for part, array in files.items():
            (tmp_path / "archive" / name).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(like(array), str(tmp_path / "archive" / name / f"{part}.nii.gz"))
    MAPPINGS["sides"] = 'labels:\n  normal_lung: ["lung_.*"]\n  ILD: ["ILD"]\n'
    _, classes = read(converted(tmp_path, "sides"), "p1_s000")
    assert (classes[0] == np.where(label[0] == 3, 2, label[0] > 0)).all()
