"""Cut-outs of LIDC-IDRI become a dataset: made-up cut-outs under the published names, and a few real ones."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion import Dataset807_LIDCNodules as lidc
from nnunet_difflung.dataset_conversion.case import Case
from nnunet_difflung.dataset_conversion.imaging.cutout_lungs import cutout_lungs
from nnunet_difflung.dataset_conversion.imaging.resampling import axis_weights
from nnunet_difflung.dataset_conversion.imaging.windows import random_window, window_side
from nnunet_difflung.dataset_conversion.pipeline.options import ConvertOptions
from nnunet_difflung.patients.ids import read_ids

DATA = Path(os.environ.get("DIFFLUNG_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
REAL = DATA / "lidc_voi"
NAME = "Dataset807_LIDCNodules"
PIXEL, STEP, SIZE = 0.7, 2.5, 44
LUNG, VESSEL, NODULE, GLASS, WALL = -850, 20, 40, -550, 50

pytestmark = pytest.mark.usefixtures("raw_folder", "unverified")


def cut_out(number: int, glass: bool, slices: int = 4, wall: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """HU and nodule (z, y, x) of a cut-out: a round nodule in the middle slices, a thin vessel, a thick wall."""
    rng = np.random.default_rng(number)
    hu = LUNG + rng.normal(0, 25, (slices, SIZE, SIZE))
    y, x = np.mgrid[:SIZE, :SIZE]
    hu[:, 30:33] = VESSEL + rng.normal(0, 25, (slices, 3, SIZE))
    if wall:
        hu[:, :, :11] = WALL + rng.normal(0, 25, (slices, SIZE, 11))
    nodule = np.zeros(hu.shape, bool)
    nodule[1:-1] = np.hypot(y - SIZE / 2 + 0.5, x - SIZE / 2 + 0.5) < 4 + number % 2
    hu[nodule] = (GLASS if glass else NODULE) + rng.normal(0, 40, int(nodule.sum()))
    return np.rint(hu).astype(np.int16), nodule


def write(folder: Path, name: str, image: np.ndarray, nodule: np.ndarray, origin=(0.0, 0.0, 0.0)) -> None:
    for part, array in (("image", image), ("nodule_mask", nodule.astype(np.int16))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        written = sitk.GetImageFromArray(array)
        written.SetSpacing((PIXEL, PIXEL, STEP))
        written.SetOrigin(origin)
        sitk.WriteImage(written, str(folder / part / f"{name}.nii.gz"))


def write_table(folder: Path, textures: dict[str, object], name: str = "nodules.csv", header=None) -> None:
    rows = [[*nodule.split("_R_"), texture] for nodule, texture in textures.items()]
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([header or ["patient", "nodule", "texture"], *rows])


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """Twelve patients: every second one has ground glass, every fourth has two nodules."""
    folder, textures = tmp_path_factory.mktemp("lidc"), {}
    for number in range(1, 13):
        for nodule in range(1, 3 if number % 4 == 0 else 2):
            glass = number % 2 == 0 and nodule == 1
            name = f"LIDC-IDRI-{number:04d}_R_{nodule}"
            write(folder, name, *cut_out(number, glass), origin=(200.0 * nodule, 0.0, 0.0))
            textures[name] = (1 + number % 3) if glass else 5 - number % 2
    write_table(folder, textures)
    return folder


def run(folder: Path, *options: str) -> int | None:
    with pytest.raises(SystemExit) as stop:
        lidc.main(["-i", str(folder), "-np", "1", *options])
    return stop.value.code


def read(tmp_path: Path, part: str, case: str) -> np.ndarray:
    ending = "_0000" if part == "imagesTr" else ""
    path = tmp_path / "nnUNet_raw" / NAME / part / f"{case}{ending}.nii.gz"
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def cases(tmp_path: Path) -> list[str]:
    return sorted(p.name[:-7] for p in (tmp_path / "nnUNet_raw" / NAME / "labelsTr").glob("*.nii.gz"))


def described(tmp_path: Path, name: str):
    return json.loads((tmp_path / "nnUNet_raw" / NAME / name).read_text())


def test_values_labels_and_lung(tmp_path, published):
    assert run(published) == 0
    assert described(tmp_path, "dataset.json")["channel_names"] == {"0": "CT"}
    labels = {"background": 0, "normal_lung": 1, "solid_nodule": 2, "ground_glass": 3}
    assert described(tmp_path, "dataset.json")["labels"] == labels
    assert described(tmp_path, "conversion_report.json")["derived"] == ["normal_lung"]
    found = dict.fromkeys(labels.values(), 0)
    sizes: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    for case in cases(tmp_path):
        image, label = read(tmp_path, "imagesTr", case)[0], read(tmp_path, "labelsTr", case)[0]
        number, scan, z = int(case[10:14]), *divmod(int(case.split("_s")[1]), 10_000)
        sizes.setdefault((number, scan), set()).add(label.shape)
        hu, nodule = cut_out(number, number % 2 == 0 and scan == 0)
        places = [
            (top, left)
            for top in range(SIZE - label.shape[0] + 1)
            for left in range(SIZE - label.shape[1] + 1)
            if np.array_equal(hu[z, top : top + label.shape[0], left : left + label.shape[1]], image)
        ]
        assert len(places) == 1, f"{case}: the values of the window are those of the cut-out, at one place"
        window = tuple(slice(start, start + n) for start, n in zip(places[0], label.shape, strict=True))
        inside, wall = nodule[z][window], np.zeros((SIZE, SIZE), bool)
        wall[:, :11] = True
        value = 3 if number % 2 == 0 and scan == 0 else 2
        assert np.array_equal(label == value, inside)
        assert inside.sum() == nodule[z].sum(), "the nodule lies wholly inside"
        root = np.zeros_like(wall)
        root[30:33, 11:14] = True  # where the vessel comes out of the wall, either may be right
        wrong = (label == 1) != (~inside & ~wall[window])
        assert not (wrong & ~root[window]).any(), "lung has its vessels, and no wall"
        for found_value in np.unique(label):
            found[int(found_value)] += 1
    assert min(found.values()) > 0
    assert all(len(of_scan) == 1 for of_scan in sizes.values()), "the size of a window says nothing about its slice"
    assert found[1] > found[2] + found[3], "slices above and below the nodules are cases, too"


def test_the_patient_is_known_and_in_one_fold(tmp_path, published):
    assert run(published) == 0
    patients = read_ids(cases(tmp_path))
    assert patients == described(tmp_path, "patients.json")
    assert set(patients.values()) == {f"LIDC-IDRI-{n:04d}" for n in range(1, 13)}
    splits = described(tmp_path, "splits_final.json")
    assert len(splits) == 5
    glass = {p for p in patients.values() if int(p[-4:]) % 2 == 0}
    solid = {p for p in patients.values() if int(p[-4:]) % 2 or int(p[-4:]) % 4 == 0}
    for fold in splits:
        train, val = ({patients[case] for case in fold[side]} for side in ("train", "val"))
        assert not train & val
        assert 1 <= len(val & glass) <= 2, "six patients with ground glass in five folds"
        assert 1 <= len(val & solid) <= 3, "nine patients with solid nodules in five folds"


def test_windows_depend_on_the_case_alone(tmp_path, published):
    assert run(published) == 0
    before = {case: read(tmp_path, "imagesTr", case) for case in cases(tmp_path)}
    assert run(published, "--overwrite", "--seed", "7", "--exclude", "LIDC-IDRI-0003") == 0
    after = cases(tmp_path)
    assert set(before) - set(after) == {case for case in before if "-0003_" in case}
    assert all(np.array_equal(before[case], read(tmp_path, "imagesTr", case)) for case in after)


def test_nodules_lie_anywhere(tmp_path):
    folder, textures = tmp_path / "set", {}
    for number in range(1, 13):
        name = f"LIDC-IDRI-{number:04d}_R_1"
        write(folder, name, *cut_out(number, False, slices=14, wall=False))
        textures[name] = 5
    write_table(folder, textures)
    assert run(folder) == 0
    free = []
    for case in cases(tmp_path):
        drawn = read(tmp_path, "labelsTr", case)[0] == 2
        if drawn.any():
            for axis in (0, 1):
                where = np.flatnonzero(drawn.any(axis=1 - axis))
                free.append((where[0] + 0.5) / (drawn.shape[axis] - len(where) + 1))
    counts = np.histogram(free, 4, (0, 1))[0]
    assert len(free) == 2 * 12 * 12
    assert counts.min() >= 0.15 * len(free), counts
    assert counts.max() <= 0.35 * len(free), counts


def test_all_pixels_have_one_size_and_thin_slices_do_not_count_more(tmp_path):
    folder, textures = tmp_path / "set", {}
    for number, (pixel, step) in enumerate(((0.7, 2.5), (0.5, 1.25), (0.9, 0.625)), start=1):
        name = f"LIDC-IDRI-{number:04d}_R_1"
        hu, nodule = cut_out(number, False, slices=12)
        write(folder, name, hu, nodule)
        for part in ("image", "nodule_mask"):
            path = str(folder / part / f"{name}.nii.gz")
            image = sitk.ReadImage(path)
            image.SetSpacing((pixel, pixel, step))
            sitk.WriteImage(image, path)
        textures[name] = 5
    write_table(folder, textures)
    assert run(folder) == 0
    counts = [sum(f"-{number:04d}_" in case for case in cases(tmp_path)) for number in (1, 2, 3)]
    assert counts == [12, 6, 3]
    spacings = {tuple(p["spacing_mm"][:2]) for p in described(tmp_path, "conversion_report.json")["patients"].values()}
    assert spacings == {(0.7, 0.7)}
    assert run(folder, "--overwrite", "--apart", "0", "--spacing", "0.9") == 0
    assert len(cases(tmp_path)) == 36


def test_volumes(tmp_path, published):
    assert run(published, "--as", "volumes") == 0
    assert "LIDC-IDRI-0001" in cases(tmp_path)
    assert "LIDC-IDRI-0004_im02" in cases(tmp_path)
    label = read(tmp_path, "labelsTr", "LIDC-IDRI-0002")
    assert label.shape[0] == 4
    assert label.shape[1] < SIZE
    assert [int((plane == 3).any()) for plane in label] == [0, 1, 1, 0]


def test_a_nodule_that_runs_across_a_volume_lies_wholly_inside(tmp_path):
    folder = tmp_path / "set"
    for number in (1, 2):
        hu, nodule = cut_out(number, False, slices=8, wall=False)
        for z in range(8):
            hu[z], nodule[z] = np.roll(hu[z], 5 * (z - 4), axis=1), np.roll(nodule[z], 5 * (z - 4), axis=1)
        write(folder, f"LIDC-IDRI-{number:04d}_R_1", hu, nodule)
    write_table(folder, {"LIDC-IDRI-0001_R_1": 5, "LIDC-IDRI-0002_R_1": 5})
    assert run(folder, "--as", "volumes") == 0
    for number in (1, 2):
        _, nodule = cut_out(number, False, slices=8)
        assert (read(tmp_path, "labelsTr", f"LIDC-IDRI-{number:04d}") == 2).sum() == nodule.sum()


def test_a_large_nodule_lies_wholly_inside_and_has_surroundings():
    label = np.zeros((1, SIZE, SIZE), np.uint8)
    label[0, 7:37, 10:32] = 2
    for number in range(20):
        case = Case(f"p1_s{number:03d}", "p1", label.astype(np.int16), label, (PIXEL, PIXEL, STEP), (0.0, 0.0, 0.0))
        cut = random_window(case, window_side(case, 20.0, {2}), {2})
        assert (cut.label == 2).sum() == (label == 2).sum()
        assert cut.label.shape == (1, 36, 36), "1.2 times the longer side of the nodule"


def test_a_nodule_is_drawn_in_the_cut_out_of_another(tmp_path):
    folder = tmp_path / "set"
    hu, nodule = cut_out(1, False, wall=False)
    write(folder, "LIDC-IDRI-0001_R_1", hu, nodule)
    other = np.roll(nodule, 12, axis=1)
    shifted = np.roll(hu, 12, axis=1)
    write(folder, "LIDC-IDRI-0001_R_2", shifted, nodule, origin=(0.0, 12 * PIXEL, 0.0))
    write(folder, "LIDC-IDRI-0002_R_1", *cut_out(2, False))
    write_table(folder, {"LIDC-IDRI-0001_R_1": 5, "LIDC-IDRI-0001_R_2": 1, "LIDC-IDRI-0002_R_1": 5})
    assert run(folder, "--as", "volumes", "--window", "1000") == 0
    changes = described(tmp_path, "conversion_report.json")["changes"]
    assert any("other nodules of the patient" in what for what in changes["merged"])
    first = sitk.ReadImage(str(tmp_path / "nnUNet_raw" / NAME / "labelsTr" / "LIDC-IDRI-0001_im01.nii.gz"))
    place = [round(start / PIXEL) for start in first.GetOrigin()[:2]]
    label = sitk.GetArrayFromImage(first)
    cut = other[:, place[1] : place[1] + label.shape[1], place[0] : place[0] + label.shape[2]]
    assert cut.any()
    assert np.array_equal(label == 3, cut)


def test_the_table_of_the_repository_is_read(tmp_path, published):
    folder = tmp_path / "set"
    folder.mkdir()
    for part in ("image", "nodule_mask"):
        (folder / part).symlink_to(published / part)
    with (published / "nodules.csv").open() as file:
        textures = {f"{row['patient']}_R_{row['nodule']}": row["texture"] for row in csv.DictReader(file)}
    write_table(folder, textures, "MetadatabyNoduleMaxVoting.csv", ["patient_id", "nodule_id", "Texture_value"])
    assert run(folder, "--dry-run") == 0


def _no_table(folder: Path) -> str:
    (folder / "nodules.csv").unlink()
    return "nodules.csv is missing"


def _no_texture(folder: Path) -> str:
    write_table(folder, {}, header=["patient", "nodule", "size"])
    return "no column texture"


def _no_mask(folder: Path) -> str:
    (folder / "nodule_mask" / "LIDC-IDRI-0002_R_1.nii.gz").unlink()
    return "nodule_mask/LIDC-IDRI-0002_R_1.nii.gz is missing"


def _no_image(folder: Path) -> str:
    (folder / "image" / "LIDC-IDRI-0002_R_1.nii.gz").unlink()
    return "image/LIDC-IDRI-0002_R_1.nii.gz is missing"


def _no_row(folder: Path) -> str:
    write_table(folder, {"LIDC-IDRI-0001_R_1": 5, "LIDC-IDRI-0003_R_1": 5})
    return "has no row for LIDC-IDRI-0002_R_1"


def _no_such_texture(folder: Path) -> str:
    write_table(folder, {"LIDC-IDRI-0001_R_1": 5, "LIDC-IDRI-0002_R_1": 7, "LIDC-IDRI-0003_R_1": 5})
    return "texture '7'"


def _twice(folder: Path) -> str:
    with (folder / "nodules.csv").open("a") as file:
        file.write("LIDC-IDRI-0002,1,5\n")
    return "line 5: LIDC-IDRI-0002_R_1 is there twice"


def _other_name(folder: Path) -> str:
    (folder / "image" / "LIDC-IDRI-0002_R_1.nii.gz").rename(folder / "image" / "p2.nii.gz")
    return "p2.nii.gz: expected a name"


def _empty(folder: Path) -> str:
    hu, nodule = cut_out(2, True)
    write(folder, "LIDC-IDRI-0002_R_1", hu, np.zeros_like(nodule))
    return "the mask is empty"


def _misfit(folder: Path) -> str:
    hu, nodule = cut_out(2, True)
    mask = (folder / "image" / "LIDC-IDRI-0002_R_1.nii.gz").read_bytes()
    write(folder, "LIDC-IDRI-0002_R_1", hu[:, :40], nodule[:, :40])
    (folder / "image" / "LIDC-IDRI-0002_R_1.nii.gz").write_bytes(mask)
    return "expected a mask on the grid of the image"


OF_ONE_PATIENT = [_no_mask, _no_image, _no_row, _no_such_texture, _empty, _misfit]


@pytest.mark.parametrize("fault", [_no_table, _no_texture, _twice, _other_name, *OF_ONE_PATIENT])
def test_faults_are_refused_or_left_out(tmp_path, capsys, fault):
    folder = tmp_path / "set"
    for number in (1, 2, 3):
        write(folder, f"LIDC-IDRI-{number:04d}_R_1", *cut_out(number, number == 2))
    write_table(folder, {"LIDC-IDRI-0001_R_1": 5, "LIDC-IDRI-0002_R_1": 1, "LIDC-IDRI-0003_R_1": 5})
    message = fault(folder)
    assert run(folder) == 2
    assert message in capsys.readouterr().err
    if fault in OF_ONE_PATIENT:
        assert run(folder, "--skip-faulty") == 0
        assert set(described(tmp_path, "patients.json").values()) == {"LIDC-IDRI-0001", "LIDC-IDRI-0003"}


@pytest.mark.parametrize("option", ["--window=2", "--apart=-1", "--spacing=0"])
def test_values_out_of_range_are_refused(published, capsys, option):
    assert run(published, option) == 2
    assert option.split("=")[0] in capsys.readouterr().err


def test_a_corner_of_the_chest_wall_is_no_vessel():
    hu = np.full((1, SIZE, SIZE), LUNG)
    y, x = np.mgrid[:SIZE, :SIZE]
    wall = y + x < 8
    hu[0][wall] = WALL
    assert np.array_equal(cutout_lungs(hu, np.zeros(hu.shape, bool), (STEP, PIXEL, PIXEL))[0], ~wall)


def test_a_cut_out_without_lung_has_none():
    hu = np.full((1, SIZE, SIZE), WALL)
    hu[0, 5:8, 5:8] = LUNG
    assert not cutout_lungs(hu, np.zeros(hu.shape, bool), (STEP, PIXEL, PIXEL)).any()


def test_a_cubic_kernel_blurs_less_and_keeps_levels():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 30, (200, 1))
    spread = {}
    for kernel in ("linear", "cubic"):
        for step in (0.8, 1.0, 1.4):
            weights = axis_weights(200, round(200 / step), step, kernel)
            assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
            ramp = weights @ np.arange(200.0)
            assert np.allclose(ramp[5:-5], (np.arange(len(ramp)) + 0.5)[5:-5] * step - 0.5, atol=0.05)
            spread[kernel, step] = float((weights @ noise).std())
        assert spread[kernel, 1.0] == pytest.approx(noise.std(), rel=1e-4)
    assert spread["linear", 0.8] < 0.95 * spread["cubic", 0.8]


def test_options_that_earlier_versions_had_are_recorded_as_by_them():
    earlier = {"form", "all_slices", "spacing", "size", "crop_lungs", "window", "rescale"}
    assert set(ConvertOptions().as_dict()) == earlier, "so that their interrupted conversions can be resumed"
    assert set(ConvertOptions(apart=2.5, kernel="cubic").as_dict()) == earlier | {"apart", "kernel"}


@pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no real data at {REAL}; set DIFFLUNG_TEST_DATA to the folder that holds lidc_voi"
)
def test_real_cut_outs(tmp_path):
    folder = tmp_path / "set"
    with (REAL / "nodules.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = [r for r in rows if r["texture"] == "1"][:4] + [r for r in rows if r["texture"] == "5"][:8]
    for part in ("image", "nodule_mask"):
        (folder / part).mkdir(parents=True)
        for row in chosen:
            (folder / part / row["file"]).symlink_to(REAL / part / row["file"])
    write_table(folder, {row["file"][:-7]: row["texture"] for row in chosen})
    assert run(folder) == 0
    classes = described(tmp_path, "conversion_report.json")["classes"]
    assert -950 < classes["normal_lung"]["mean"] < -700
    assert -750 < classes["ground_glass"]["mean"] < -450
    assert classes["background"]["mean"] > -150
