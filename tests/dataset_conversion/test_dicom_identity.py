"""The identity of a DICOM file is its content and position: UIDs may be lost, shared, or made anew for each file."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from pydicom.uid import generate_uid  # noqa: E402

from nnunet_difflung.dataset_conversion.dicom.source import DicomSource, find_sources  # noqa: E402
from nnunet_difflung.dataset_conversion.notes import Kind  # noqa: E402
from nnunet_difflung.errors import BadInput  # noqa: E402
from tests.support.dicom_files import numbers, outlines, write_ct, write_rtstruct, write_seg  # noqa: E402

SIZE, SPACING, ORIGIN = (24, 20, 8), (2.0, 2.0, 2.5), (-10.0, 20.0, 300.0)
UID, FRAME = generate_uid(), generate_uid()


def scan(seed: int = 0, depth: int = SIZE[2], step: float = SPACING[2], start: float = ORIGIN[2]) -> sitk.Image:
    values = np.random.default_rng(seed).integers(-1000, 1000, (depth, *SIZE[1::-1]))
    return placed(values.astype(np.int16), step, start)


def placed(array: np.ndarray, step: float = SPACING[2], start: float = ORIGIN[2]) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((*SPACING[:2], step))
    image.SetOrigin((*ORIGIN[:2], start))
    return image


def blob(depth: int = SIZE[2]) -> np.ndarray:
    mask = np.zeros((depth, *SIZE[1::-1]), np.uint8)
    mask[2:5, 6:12, 8:15] = 1
    return mask


def pixels(source: DicomSource) -> np.ndarray:
    return sitk.GetArrayFromImage(source.load().image)


def only(folder: Path, *series: str) -> DicomSource:
    (source,) = find_sources(folder, series)
    return source


def notes(source: DicomSource) -> set[str]:
    return {note.text for note in source.load().notes}


def setting(**tags: object) -> Callable:
    """Gives all slices these values; a value may be a function of the number of the slice."""

    def change(z, data):
        for name, value in tags.items():
            setattr(data, name, value(z) if callable(value) else value)
            if name == "SOPInstanceUID":
                data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID

    return change


@pytest.mark.parametrize("first", [0, 6], ids=["all slices", "the last two slices"])
@pytest.mark.parametrize("kind", ["RTSTRUCT", "SEG"])
def test_slices_that_share_a_uid_are_all_kept_with_their_structures(tmp_path, first, kind):
    image = scan()

    def shared(z, data):
        if z >= first:
            setting(SOPInstanceUID=UID)(z, data)

    slices = write_ct(tmp_path / "pat", image, change=shared)
    if kind == "RTSTRUCT":
        write_rtstruct(tmp_path / "pat" / "drawn", slices, {"x": outlines(placed(blob()))})
    else:
        write_seg(tmp_path / "pat" / "drawn", slices, {"x": blob()})
    source = only(tmp_path)
    assert source.listing().size == SIZE
    loaded = source.load()
    assert np.array_equal(sitk.GetArrayFromImage(loaded.image), sitk.GetArrayFromImage(image))
    assert np.array_equal(sitk.GetArrayFromImage(loaded.structures["x"]), blob())


@pytest.mark.parametrize(
    "tags",
    [
        {"InstanceNumber": 1},
        {"InstanceNumber": None},
        {"SliceLocation": "7.5"},
        {"SliceLocation": lambda z: str(-z)},
        {"InstanceNumber": lambda z: [3, 1, 4, 1, 5, 9, 2, 6][z]},
        {"AcquisitionNumber": lambda z: z // 3, "AcquisitionTime": lambda z: f"1011{z:02d}"},
        {"StudyInstanceUID": lambda z: generate_uid()},
    ],
)
def test_numbers_of_slices_do_not_matter(tmp_path, tags):
    write_ct(tmp_path / "pat", scan(), change=setting(**tags))
    assert np.array_equal(pixels(only(tmp_path)), sitk.GetArrayFromImage(scan()))


@pytest.mark.parametrize("how", ["same bytes", "new UID", "compressed"])
def test_a_copy_is_dropped_with_a_note_whatever_its_uid(tmp_path, how):
    slices = write_ct(tmp_path / "pat", scan(), series=UID)
    copy = slices[3]
    if how != "same bytes":
        copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    if how == "compressed":
        copy.compress(pydicom.uid.RLELossless)
    copy.save_as(tmp_path / "pat" / "zz copy", enforce_file_format=True)
    write_rtstruct(tmp_path / "pat" / "drawn", slices, {"x": outlines(placed(blob()))})
    source = only(tmp_path)
    assert np.array_equal(pixels(source), sitk.GetArrayFromImage(scan()))
    (note,) = [note for note in source.load().notes if "identical" in note.text]
    assert (note.kind, note.count) == (Kind.DROPPED, 1)


def test_a_copied_folder_is_dropped_with_its_structures(tmp_path):
    slices = write_ct(tmp_path / "pat" / "ct", scan())
    write_rtstruct(tmp_path / "pat" / "ct" / "drawn", slices, {"x": outlines(placed(blob()))})
    shutil.copytree(tmp_path / "pat" / "ct", tmp_path / "pat" / "ct - copy")
    source = only(tmp_path)
    assert np.array_equal(sitk.GetArrayFromImage(source.load().structures["x"]), blob())
    assert notes(source) == {
        "left out 8 files identical to another file",
        "left out 1 file with structures identical to another file",
    }


def test_two_images_at_one_position_are_refused_even_if_their_uid_is_the_same(tmp_path):
    slices = write_ct(tmp_path / "pat", scan())
    other = slices[3]
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(tmp_path / "pat" / "zz", enforce_file_format=True)
    (problem,) = only(tmp_path).listing().problems
    assert "1 of 9 slices lie at the position of another slice" in problem


def test_equal_pixels_at_two_positions_are_two_slices(tmp_path):
    array = sitk.GetArrayFromImage(scan())
    array[5] = array[4]
    write_ct(tmp_path / "pat", placed(array))
    source = only(tmp_path)
    assert np.array_equal(pixels(source), array)
    assert any("1 slice has the same pixels as another slice" in text for text in notes(source))


def test_blank_slices_are_not_remarkable(tmp_path):
    array = sitk.GetArrayFromImage(scan())
    array[5:] = -1024
    write_ct(tmp_path / "pat", placed(array))
    assert notes(only(tmp_path)) == set()


TWO = {  # how two series under one UID differ: the second image, and what its files say
    "thickness": (scan(1, 5, 5.0), {}),
    "positions between": (scan(1, 8, 2.5, ORIGIN[2] + 1.25), {}),
    "kernel, positions between": (scan(1, 8, 2.5, ORIGIN[2] + 1.25), {"ConvolutionKernel": "B70f"}),
    "kernel, same positions": (scan(1), {"ConvolutionKernel": "B70f"}),
    "phase, same positions": (scan(1), {"TemporalPositionIdentifier": 2}),
    "time, same positions": (scan(1), {"AcquisitionTime": "111213"}),
    "contrast and description": (scan(1), {"SeriesDescription": "SECRET venous"}),
    "frame of reference": (scan(1, 8, 2.5, ORIGIN[2] + 20.0), {"FrameOfReferenceUID": "1.2.3.4"}),
}


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("folders", [("one", "one"), ("one", "two")], ids=["one folder", "two folders"])
def test_two_series_under_one_uid_are_told_apart(tmp_path, name, folders):
    second, tags = TWO[name]
    first = write_ct(
        tmp_path / "pat" / folders[0],
        scan(),
        series=UID,
        frame=FRAME,
        change=setting(InstanceNumber=lambda z: z + 1),
    )

    def change(z, data):
        setting(**{"InstanceNumber": z + 1} | tags)(z, data)
        data.save_as(tmp_path / "pat" / folders[1] / f"second {z}", enforce_file_format=True)
        return False

    write_ct(tmp_path / "pat" / folders[1], second, series=UID, frame=FRAME, change=change)
    source = only(tmp_path)
    (problem,) = source.listing().problems
    assert "2 CT series" in problem
    assert "SECRET" not in problem
    choice = problem.split("--series ")[1].split(" (")[0].strip("'")
    assert pixels(only(tmp_path, choice)).shape[0] in (8, second.GetSize()[2])
    chosen = only(tmp_path, "pat=second 0")
    assert np.array_equal(pixels(chosen), sitk.GetArrayFromImage(second))
    assert "2 series under one SeriesInstanceUID were told apart by positions and other headers" in notes(chosen)
    write_rtstruct(tmp_path / "pat" / "drawn", first, {"x": outlines(placed(blob()))})
    drawn = only(tmp_path)
    assert np.array_equal(pixels(drawn), sitk.GetArrayFromImage(scan()))
    assert np.array_equal(sitk.GetArrayFromImage(drawn.load().structures["x"]), blob())


def test_ten_phases_in_one_series_are_ten_series(tmp_path):
    for phase in range(10):
        name = f"{phase}0 %"
        write_ct(
            tmp_path / "pat" / "4D",
            scan(phase, 4),
            series=UID,
            change=lambda z, data, phase=phase, name=name: (
                setting(SeriesDescription=f"Gated {name}", AcquisitionNumber=phase)(z, data),
                data.save_as(tmp_path / "pat" / "4D" / f"{name} {z}", enforce_file_format=True),
                False,
            )[2],
        )
    assert "10 CT series" in only(tmp_path).listing().problems[0]
    assert np.array_equal(pixels(only(tmp_path, "30 % 0")), sitk.GetArrayFromImage(scan(3, 4)))


def test_two_halves_with_other_acquisitions_are_one_series(tmp_path):
    halves = setting(
        AcquisitionNumber=lambda z: z // 4, ImageType=lambda z: ["ORIGINAL", "PRIMARY", "AXIAL", str(z // 4)]
    )
    write_ct(tmp_path / "pat", scan(), change=halves)
    assert np.array_equal(pixels(only(tmp_path)), sitk.GetArrayFromImage(scan()))


def test_a_series_spread_over_folders_is_one_series(tmp_path):
    def spread(z, data):
        folder = tmp_path / "pat" / f"{z // 3}"
        folder.mkdir(exist_ok=True)
        data.save_as(folder / f"{z}", enforce_file_format=True)
        return False

    write_ct(tmp_path / "pat", scan(), change=spread)
    assert np.array_equal(pixels(only(tmp_path)), sitk.GetArrayFromImage(scan()))


@pytest.mark.parametrize("tag", ["SeriesInstanceUID", "FrameOfReferenceUID"])
def test_a_uid_for_each_file_does_not_tear_a_series_apart(tmp_path, tag):
    write_ct(tmp_path / "pat", scan(), change=setting(**{tag: lambda z: generate_uid()}))
    source = only(tmp_path)
    assert np.array_equal(pixels(source), sitk.GetArrayFromImage(scan()))
    if tag == "SeriesInstanceUID":
        assert any("taken as one series" in text for text in notes(source))


def test_a_missing_uid_does_not_join_two_series(tmp_path):
    for number, name in enumerate(("thin", "thick")):
        write_ct(tmp_path / "pat" / name, scan(number), change=setting(SeriesInstanceUID=""))
    assert "2 CT series: pat/thick (8 slices" in only(tmp_path).listing().problems[0]
    assert np.array_equal(pixels(only(tmp_path, "thick")), sitk.GetArrayFromImage(scan(1)))


def test_a_uid_that_all_patients_share_does_not_join_them(tmp_path):
    for name in "ab":
        slices = write_ct(
            tmp_path / name, scan(ord(name)), name, series=UID, frame=FRAME, change=setting(SOPInstanceUID=UID)
        )
        write_seg(tmp_path / name / "seg", slices, {"x": blob()})
    for source in find_sources(tmp_path):
        assert np.array_equal(pixels(source), sitk.GetArrayFromImage(scan(ord(source.patient))))
        assert np.array_equal(sitk.GetArrayFromImage(source.load().structures["x"]), blob())


@pytest.mark.parametrize("orientation", [[0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]], ids=["sagittal", "coronal"])
def test_a_scout_in_the_series_that_no_tag_marks_is_left_out(tmp_path, orientation):
    def across(z, data):
        data.ImageOrientationPatient = numbers(orientation)
        data.Rows, data.Columns, data.PixelData = 10, 12, bytes(240)
        data.save_as(tmp_path / "pat" / "scout", enforce_file_format=True)
        return False

    write_ct(tmp_path / "pat", scan(1, 1), series=UID, frame=FRAME, change=across)
    write_ct(tmp_path / "pat", scan(), series=UID, frame=FRAME)
    source = only(tmp_path)
    assert np.array_equal(pixels(source), sitk.GetArrayFromImage(scan()))
    assert notes(source) == {"left out 1 file across the other slices of their series (a scout)"}


@pytest.mark.parametrize("z", [0, 3, 7])
@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows"])
def test_a_slice_that_lost_its_position_is_refused_and_not_left_out(tmp_path, z, tag):
    def lost(number, data):
        if number == z:
            delattr(data, tag)

    write_ct(tmp_path / "pat", scan(), change=lost)
    (problem,) = only(tmp_path).listing().problems
    assert "a slice of the CT series without a position" in problem


def test_multi_frame_ct_is_refused_with_a_way_out(tmp_path):
    write_ct(tmp_path / "pat", scan(), change=lambda z, data: setattr(data, "NumberOfFrames", 40) or z == 0)
    with pytest.raises(BadInput, match=r"no CT series \(left out 1 file of enhanced multi-frame CT: export it as one"):
        only(tmp_path).load()


def two_series(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        write_ct(folder / name, scan(number, 5 + number), folder.name, frame=FRAME)


@pytest.mark.parametrize(
    ("series", "depths"),
    [
        (["thin"], [5, 5, 8]),  # c has one series, of another name
        (["thick"], [6, 6, 8]),
        (["5"], [5, 5, 8]),
        (["a=thin", "b=thick"], [5, 6, 8]),
        (["thin", "b=6"], [5, 6, 8]),
        (["a=a/thick", "th*n"], [6, 5, 8]),
        (["nothing", "*/thick"], [6, 6, 8]),
        (["a=a/thin/00x", "b=b/thick/00x"], [5, 6, 8]),
        (["c=thin", "thick"], [6, 6, 8]),
    ],
)
def test_a_series_is_chosen_for_all_patients_or_for_one(tmp_path, series, depths):
    for patient in "ab":
        two_series(tmp_path / patient, "thin", "thick")
    write_ct(tmp_path / "c" / "CT 2020", scan(3), "c")
    assert [pixels(source).shape[0] for source in find_sources(tmp_path, series)] == depths


def test_each_patient_with_several_series_gets_a_choice_to_type(tmp_path):
    two_series(tmp_path / "Jürgen Ö", "thin", "thick")
    two_series(tmp_path / "b", "x=1", "x=2")
    sources = find_sources(tmp_path)
    words = []
    for source in sources:
        (problem,) = source.listing().problems
        words.append(shlex.split(problem.split("--series ")[1])[0])
    assert words == ["Jürgen Ö=thick", "b=x=2"]
    assert [pixels(source).shape[0] for source in find_sources(tmp_path, words)] == [6, 6]


def test_series_in_one_folder_are_chosen_by_a_file(tmp_path):
    for number in range(2):
        write_ct(
            tmp_path / "p" / "all",
            scan(number),
            frame=FRAME,
            change=lambda z, data, number=number: bool(data.save_as(tmp_path / "p" / "all" / f"{number}{z}")),
        )
    (problem,) = only(tmp_path).listing().problems
    (word,) = shlex.split(problem.split("--series ")[1])[:1]
    assert word == "p=p/all/00"
    assert np.array_equal(pixels(only(tmp_path, word)), sitk.GetArrayFromImage(scan()))


@pytest.mark.parametrize("word", ["q=thin", "=thin", "p1=", "a b=c=d"])
def test_a_choice_for_an_unknown_patient_is_refused(tmp_path, word):
    two_series(tmp_path / "p1", "thin", "thick")
    two_series(tmp_path / "p2", "thin", "thick")
    with pytest.raises(BadInput, match="expected PATIENT=SERIES with a patient such as p1"):
        find_sources(tmp_path, [word])


def test_other_series_of_a_patient_are_counted(tmp_path):
    two_series(tmp_path / "p", "thin", "thick")
    assert "left out 1 other CT series of the patient" in notes(only(tmp_path, "thin"))
