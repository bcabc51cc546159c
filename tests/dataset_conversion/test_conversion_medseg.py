"""The MedSeg converter: labels, positions, small lesions and bad input, also on the real data if it is available."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion import Dataset801_MedSegCOVID19 as medseg
from nnunet_difflung.dataset_conversion.case import Case
from nnunet_difflung.dataset_conversion.imaging.resampling import (
    axis_weights,
    crop,
    resample_in_plane,
    resample_label,
    slices,
)
from nnunet_difflung.dataset_conversion.pipeline import archive
from nnunet_difflung.dataset_conversion.pipeline.mapping import parse_mapping
from nnunet_difflung.dataset_conversion.pipeline.options import ConvertOptions
from nnunet_difflung.dataset_conversion.pipeline.patient import cases, label_scan
from nnunet_difflung.dataset_conversion.pipeline.patients import Patient
from nnunet_difflung.dataset_conversion.public.medseg import FOLDERS, find

DATA = Path(os.environ.get("DIFFLUNG_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
REAL = DATA / "medseg_rp"
SPACING, ORIGIN = (1.5, 1.5, 6.0), (-30.0, -20.0, 100.0)


def write(path: Path, array: np.ndarray, spacing=SPACING, origin=ORIGIN) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


def volumes(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, lesions and lung of a made-up patient: 6 slices of 40 x 48, lung on slices 1 to 4."""
    rng = np.random.default_rng(seed)
    lung = np.zeros((6, 40, 48), np.uint8)
    lung[1:5, 10:30, 12:40] = 1
    lesion = np.zeros_like(lung)
    lesion[2, 14:20, 14:22] = 1
    lesion[3, 20:23, 20:23] = 2
    lesion[2, 8, 15] = 1  # outside the lung mask
    image = np.where(lung, 60, 200).astype(np.uint8) + rng.integers(0, 20, lung.shape, dtype=np.uint8)
    return image, lesion, lung


@pytest.fixture
def source(tmp_path) -> Path:
    for patient in (1, 2, 10):
        for part, array in zip(FOLDERS, volumes(patient), strict=True):
            write(tmp_path / "source" / part / f"{patient}.nii.gz", array)
    return tmp_path / "source"


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    (tmp_path / "raw").mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return tmp_path / "raw"


def converted(source: Path, raw: Path, *options: str, name: str = "MedSegCOVID19", dataset_id: int = 801) -> Path:
    """The dataset's folder."""
    with pytest.raises(SystemExit) as stop:
        medseg.main(["-i", str(source), "--name", name, "--dataset-id", str(dataset_id), *options])
    assert stop.value.code == 0
    return raw / f"Dataset{dataset_id}_{name}"


def cases_of(folder: Path, part: str = "Tr") -> list[str]:
    return sorted(path.name.removesuffix(".nii.gz") for path in (folder / f"labels{part}").iterdir())


def said_without_bars(text: str) -> list[str]:
    return [line for line in text.replace("\r", "\n").splitlines() if line and not line.startswith("patients:")]


def case(image: np.ndarray, label: np.ndarray, direction=None) -> Case:
    return Case("m_p001", "m_p001", image, label, SPACING, ORIGIN, direction or (1, 0, 0, 0, 1, 0, 0, 0, 1))


def test_labels_intensities_and_splits_of_slices(source, raw):
    folder = converted(source, raw, "-np", "1", "--test-patients", "10")
    assert cases_of(folder) == [f"medseg_p{p:03d}_s{z:03d}" for p in (1, 2) for z in (1, 2, 3, 4)]
    assert cases_of(folder, "Ts") == [f"medseg_p010_s{z:03d}" for z in (1, 2, 3, 4)]
    report = json.loads((folder / "conversion_report.json").read_text())
    for patient in ("medseg_p001", "medseg_p002", "medseg_p010"):
        assert report["patients"][patient]["notes"] == [
            "1 of 58 lesion voxels lie outside the lung mask; they are kept as lesions",
            "voxels drawn as normal_lung and as ground_glass, which become ground_glass: 48",
            "voxels drawn as normal_lung and as consolidation, which become consolidation: 9",
            "slices without a label left out: 2",
        ]
    image, lesion, lung = volumes(1)
    for z in (1, 2, 3, 4):
        image_file = sitk.ReadImage(str(folder / "imagesTr" / f"medseg_p001_s{z:03d}_0000.nii.gz"))
        assert image_file.GetPixelID() == sitk.sitkUInt8
        assert (sitk.GetArrayFromImage(image_file)[0] == image[z]).all()
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / f"medseg_p001_s{z:03d}.nii.gz")))[0]
        assert ((label == 2) == (lesion[z] == 1)).all()
        assert ((label == 3) == (lesion[z] == 2)).all()
        assert ((label == 1) == ((lung[z] == 1) & (lesion[z] == 0))).all()
        assert image_file.GetOrigin() == pytest.approx((-30.0, -20.0, 100.0 + 6.0 * z))
    splits = json.loads((folder / "splits_final.json").read_text())
    assert [{c[:11] for c in fold["val"]} for fold in splits] in (
        [{"medseg_p001"}, {"medseg_p002"}],
        [{"medseg_p002"}, {"medseg_p001"}],
    )
    described = json.loads((folder / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "lung_window_8bit"}
    assert described["labels"] == {"background": 0, "normal_lung": 1, "ground_glass": 2, "consolidation": 3}
    assert described["licence"] == "see MedSeg's terms"


@pytest.mark.usefixtures("unverified")
def test_same_bytes_whatever_the_processes(source, raw):
    for k in (1, 2):
        converted(source, raw, "--spacing", "2", "--crop-lungs", "5", "-np", str(k), name="A", dataset_id=800 + k)
    first, second = (
        {p.relative_to(raw / name): p.read_bytes() for p in (raw / name).rglob("*.nii.gz")}
        for name in ("Dataset801_A", "Dataset802_A")
    )
    assert len(first) == 24
    assert first == second
    # lung on slices 1 to 4 and 5 mm of margin: one slice of 6 mm below
    assert sorted({path.name[11:16] for path in first}) == ["_s001", "_s002", "_s003", "_s004"]


@pytest.mark.usefixtures("unverified")
def test_cropped_slices_are_numbered_from_the_cropped_box(source, raw):
    for patient in (1, 2, 10):  # lung on slices 3 and 4 only
        image, lesion, lung = volumes(patient)
        lesion[:3] = lung[:3] = 0
        for part, array in zip(FOLDERS, (image, lesion, lung), strict=True):
            write(source / part / f"{patient}.nii.gz", array)
    folder = converted(source, raw, "--crop-lungs", "0", "-np", "1")
    assert cases_of(folder) == [f"medseg_p{p:03d}_s{z:03d}" for p in (1, 2, 10) for z in (0, 1)]
    label = sitk.ReadImage(str(folder / "labelsTr" / "medseg_p001_s000.nii.gz"))
    assert (sitk.GetArrayFromImage(label) == 3).sum() == 9, "the consolidation of slice 3"
    assert label.GetOrigin()[2] == pytest.approx(100.0 + 6.0 * 3)


def test_crop_keeps_every_voxel_where_it_is():
    image, _lesion, lung = volumes(0)
    # a patient lying obliquely: the axes of the image are no longer those of the scanner
    cosine, sine = np.cos(0.4), np.sin(0.4)
    volume = case(image, lung, (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))
    cropped = crop(volume, margin=4.0)
    assert cropped.image.shape == (4 + 2, 20 + 6, 28 + 6)  # 4 mm are 1 slice and 3 pixels

    def itk(case_: Case) -> sitk.Image:
        made = sitk.GetImageFromArray(case_.image)
        made.SetSpacing(case_.spacing)
        made.SetOrigin(case_.origin)
        made.SetDirection(case_.direction)
        return made

    big, small = itk(volume), itk(cropped)
    for index in ((0, 0, 0), (5, 7, 3), (33, 25, 5)):
        place = big.TransformPhysicalPointToIndex(small.TransformIndexToPhysicalPoint(index))
        assert big[place] == small[index]
        assert big.TransformIndexToPhysicalPoint(place) == pytest.approx(small.TransformIndexToPhysicalPoint(index))


def test_slices_lie_where_the_volume_has_them():
    image, _lesion, lung = volumes(0)
    cut = slices(case(image, lung))
    assert [c.case_id for c in cut] == [f"m_p001_s{z:03d}" for z in (1, 2, 3, 4)]
    assert [c.origin[2] for c in cut] == [106.0, 112.0, 118.0, 124.0]


def test_resampling_keeps_the_outer_corner_and_the_place_of_things():
    image = np.zeros((1, 40, 60), np.uint8)
    image[0, 10:20, 30:40] = 200
    volume = case(image, (image > 0).astype(np.uint8))
    for spacing in (1.0, 1.5, 2.9, 4.5):
        new = resample_in_plane(volume, spacing)
        assert new.spacing == (spacing, spacing, 6.0)
        assert new.image.dtype == np.uint8
        assert np.array(new.origin[:2]) - spacing / 2 == pytest.approx(np.array(ORIGIN[:2]) - 0.75)
        for array, tolerance in ((new.image, 0.1), (new.label, 0.5 * spacing)):
            y, x = (np.average(np.indices(array[0].shape)[k], weights=array[0]) for k in (0, 1))
            assert (new.origin[0] + x * spacing, new.origin[1] + y * spacing) == pytest.approx(
                (ORIGIN[0] + 34.5 * 1.5, ORIGIN[1] + 14.5 * 1.5), abs=tolerance
            )
    same = resample_in_plane(volume, 1.5)
    assert (same.image == image).all()
    assert (same.label == volume.label).all()


def test_images_are_averaged_not_sampled_when_pixels_grow():
    noise = np.random.default_rng(0).normal(100, 20, (1, 80, 80)).astype(np.float32)
    new = resample_in_plane(case(noise, np.zeros((1, 80, 80), np.uint8)), 6.0)
    assert new.image.std() < 6
    assert new.image.mean() == pytest.approx(100, abs=1)


def test_small_lesions_survive_where_nearest_neighbour_loses_them():
    label = np.ones((64, 64), np.uint8)
    seeds = [(y, x) for y in range(5, 60, 9) for x in range(6, 60, 9)]
    for y, x in seeds:
        label[y, x : x + 2] = 3
    w = axis_weights(64, 16, 4.0)
    new = resample_label(label, w, w)
    for y, x in seeds:
        assert (new[max(0, y // 4 - 1) : y // 4 + 2, max(0, x // 4 - 1) : x // 4 + 2] == 3).any()
    assert (label[2::4, 2::4] == 3).sum() < len(seeds) / 2  # what plain nearest would have left
    assert (new == 3).sum() == len(seeds)  # one pixel each, no more


def test_large_lesions_keep_their_area_and_no_label_is_invented():
    y, x = np.mgrid[:120, :120]
    label = np.where(np.hypot(y - 60, x - 60) < 50, 1, 0).astype(np.uint8)
    label[np.hypot(y - 60, x - 40) < 14] = 3
    w = axis_weights(120, 51, 120 / 51)
    new = resample_label(label, w, w)
    assert set(np.unique(new)) == {0, 1, 3}
    for value in (1, 3):
        assert (new == value).sum() * (120 / 51) ** 2 == pytest.approx((label == value).sum(), rel=0.06)


@pytest.mark.usefixtures("unverified")
def test_volumes_and_size(source, raw):
    folder = converted(source, raw, "--as", "volumes", "--size", "24", "-np", "1")
    assert cases_of(folder) == ["medseg_p001", "medseg_p002", "medseg_p010"]
    image = sitk.ReadImage(str(folder / "imagesTr" / "medseg_p010_0000.nii.gz"))
    assert image.GetSize() == (24, 20, 6)
    assert image.GetSpacing() == pytest.approx((3.0, 3.0, 6.0))


def spoil_missing(source: Path) -> str:
    (source / "rp_msk" / "2.nii.gz").unlink()
    return "rp_msk/2.nii.gz"


def spoil_folder(source: Path) -> str:
    for file in (source / "rp_lung_msk").iterdir():
        file.unlink()
    (source / "rp_lung_msk").rmdir()
    return "rp_lung_msk"


def spoil_geometry(source: Path) -> str:
    write(source / "rp_lung_msk" / "10.nii.gz", volumes(10)[2], origin=(0.0, 0.0, 0.0))
    return "rp_lung_msk/10.nii.gz: origin"


def spoil_shape(source: Path) -> str:
    write(source / "rp_msk" / "10.nii.gz", volumes(10)[1][:, :30])
    return "rp_msk/10.nii.gz: size"


def spoil_label(source: Path) -> str:
    lesion = volumes(1)[1]
    lesion[2, 15, 15] = 7
    write(source / "rp_msk" / "1.nii.gz", lesion)
    return "rp_msk/1.nii.gz: unknown label 7"


def spoil_hu(source: Path) -> str:
    write(source / "rp_im" / "1.nii.gz", volumes(1)[0].astype(np.int16) - 1000)
    return "rp_im/1.nii.gz: intensities"


def spoil_file(source: Path) -> str:
    (source / "rp_im" / "2.nii.gz").write_bytes(b"no image")
    return "rp_im/2.nii.gz cannot be read"


def spoil_name(source: Path) -> str:
    for folder in source.iterdir():
        (folder / "2.nii.gz").rename(folder / "².nii.gz")  # a digit of which int() makes nothing
    return "².nii.gz: expected the number of a patient"


@pytest.mark.parametrize(
    "spoil", [spoil_missing, spoil_folder, spoil_geometry, spoil_shape, spoil_label, spoil_hu, spoil_file, spoil_name]
)
def test_bad_input_is_one_line_and_nothing_is_written(source, raw, capsys, spoil):
    message = spoil(source)
    with pytest.raises(SystemExit) as stop:
        medseg.main(["-i", str(source), "-np", "1"])
    error = said_without_bars(capsys.readouterr().err)
    assert stop.value.code == 2
    assert len(error) == 1
    assert message in error[0]
    assert not list(raw.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ["--test-patients", "3"],
        ["--test-patients", "1", "2", "10"],
        ["--spacing", "2", "--size", "64"],
        ["--spacing", "0"],
        ["--crop-lungs", "-3"],
    ],
)
def test_bad_options_are_refused(source, raw, capsys, options):
    with pytest.raises(SystemExit) as stop:
        medseg.main(["-i", str(source), "-np", "1", *options])
    assert stop.value.code == 2
    (error,) = said_without_bars(capsys.readouterr().err)
    assert error.startswith("Error: --")
    assert not list(raw.iterdir())


def test_a_failure_between_cases_leaves_no_dataset(source, raw, monkeypatch, capsys):
    def stopped(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "finish_dataset", stopped)
    with pytest.raises(SystemExit) as stop:
        medseg.main(["-i", str(source), "-np", "1"])
    assert stop.value.code == 1
    assert [path.name for path in raw.iterdir()] == [".Dataset801_MedSegCOVID19.partial"], "finished patients are kept"
    monkeypatch.undo()
    monkeypatch.setenv("nnUNet_raw", str(raw))
    converted(source, raw, "-np", "1")
    assert [path.name for path in raw.iterdir()] == ["Dataset801_MedSegCOVID19"]


@pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no real data at {REAL}; set DIFFLUNG_TEST_DATA to the folder that holds medseg_rp"
)
def test_real_patient_keeps_its_lesions_through_crop_and_resampling():
    sources = find(REAL)
    assert [source.patient for source in sources] == [f"medseg_p{n:03d}" for n in (1, 2, 4, 5, 6, 7, 8, 9)]
    scan, mapping = sources[1].load(), parse_mapping(medseg.MAPPING)
    assert scan.notes == (), "no lesion lies outside the lung mask"
    patient = Patient("medseg_p002", "medseg_p002", (sources[1],))
    labelled = label_scan(scan, mapping, ConvertOptions(), "here")
    assert (labelled.label > 1).sum() == 11258
    uncropped = cases(labelled, patient, 0, mapping, ConvertOptions())
    assert len(uncropped) == 33
    resampled = cases(labelled, patient, 0, mapping, ConvertOptions(spacing=2.8, crop_lungs=10.0))
    area = 2.8**2 * sum((c.label > 1).sum() for c in resampled)
    assert area == pytest.approx(11258 * uncropped[0].spacing[0] ** 2, rel=0.10)
    with_lesions = [{c.case_id for c in several if (c.label > 1).any()} for several in (resampled, uncropped)]
    assert with_lesions[0] == with_lesions[1]
