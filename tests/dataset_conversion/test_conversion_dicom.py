"""DICOM archives: voxels and structures keep their values and positions; errors are one clear line."""

from __future__ import annotations

import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from nnunet_difflung.dataset_conversion.dicom import headers  # noqa: E402
from nnunet_difflung.dataset_conversion.dicom.source import DicomSource, find_sources  # noqa: E402
from nnunet_difflung.dataset_conversion.imaging.geometry import is_orthogonal, on_grid, to_index  # noqa: E402
from nnunet_difflung.dataset_conversion.notes import Kind  # noqa: E402
from nnunet_difflung.errors import BadInput  # noqa: E402
from tests.support.dicom_files import SECRET, blank, numbers, outlines, write_ct, write_rtstruct, write_seg  # noqa: E402

DATA = Path(os.environ.get("DIFFLUNG_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
REAL = DATA / "dicom_rtstruct"
SIZE, SPACING, ORIGIN = (48, 40, 8), (0.8, 1.1, 2.5), (-10.0, 20.0, 300.0)
OBLIQUE = Rotation.from_euler("xyz", [20, -12, 8], degrees=True).as_matrix()
STRAIGHT = np.eye(3)


def like(array: np.ndarray, spacing=SPACING, origin=ORIGIN, direction=STRAIGHT) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(np.ravel(direction).tolist())
    return image


def ct(direction=STRAIGHT, dtype=np.float32, seed: int = 0) -> sitk.Image:
    values = np.random.default_rng(seed).uniform(-1024, 1500, SIZE[::-1])
    return like(np.rint(values).astype(dtype) if dtype == np.int16 else values.astype(dtype), direction=direction)


def shapes() -> dict[str, np.ndarray]:
    """A ring and a blob over several slices with a slice between them."""
    y, x = np.ogrid[: SIZE[1], : SIZE[0]]
    ring, blob = np.zeros((2, *SIZE[::-1]), np.uint8)
    distance = np.hypot(y - 20, x - 22)
    ring[2:6] = (distance < 14) & (distance > 6)
    for z, radius in ((1, 4.2), (4, 5.7), (7, 3.0)):
        blob[z] = np.hypot(y - 19, x - 23) < radius
    return {"ring": ring, "blob": blob}


def box(z: int, x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    """Contour (mm) of a rectangle given in pixels of the straight image."""
    corners = np.array([[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z]])
    return corners * SPACING + ORIGIN


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def only_source(folder: Path) -> DicomSource:
    sources = find_sources(folder)
    assert len(sources) == 1
    return sources[0]


def refused(source: DicomSource) -> str:
    """The message with which a patient is refused; it does not reveal who the patient is."""
    with pytest.raises(BadInput) as caught:
        source.load()
    line = str(caught.value)
    assert "\n" not in line
    assert str(source.folder) in line
    assert SECRET not in line
    assert "1.2.826" not in line
    return line


def arrays(scan) -> dict[str, np.ndarray]:
    return {name: sitk.GetArrayFromImage(mask) for name, mask in scan.structures.items()}


@pytest.mark.parametrize("kind", ["RTSTRUCT", "BINARY", "FRACTIONAL"])
@pytest.mark.parametrize("direction", [STRAIGHT, OBLIQUE], ids=["axial", "oblique"])
def test_what_goes_to_dicom_comes_back_at_the_same_place(tmp_path, kind, direction):
    image = ct(direction)
    slices = write_ct(tmp_path / "pat", image, slopes=(0.25, 0.5, 1.0))
    masks = shapes()
    if kind == "RTSTRUCT":
        write_rtstruct(
            tmp_path / "pat" / "rs",
            slices,
            {f" {n} ": outlines(like(m, direction=direction)) for n, m in masks.items()},
        )
    else:
        write_seg(tmp_path / "pat" / "seg", slices, {f" {n} ": m for n, m in masks.items()}, kind, seed=3)
    source = only_source(tmp_path)
    listing, scan = source.listing(), source.load()
    assert (source.patient, listing.size, listing.modality, listing.problems) == ("pat", SIZE, "CT", ())
    assert listing.structures == ("blob", "ring")
    assert np.allclose(listing.spacing, SPACING)
    assert scan.modality == "CT"
    assert scan.windowed is False
    assert scan.annotated is None
    assert np.abs(sitk.GetArrayFromImage(scan.image) - sitk.GetArrayFromImage(image)).max() <= 0.5
    corners = [(0, 0, 0), (47, 0, 0), (0, 39, 0), (0, 0, 7), (47, 39, 7)]
    for corner in corners:
        assert np.allclose(
            scan.image.TransformIndexToPhysicalPoint(corner), image.TransformIndexToPhysicalPoint(corner), atol=1e-4
        )
    for name, mask in masks.items():
        assert dice(on_grid(scan.structures[name], image), mask) >= 0.99


def test_whole_numbers_stay_whole_and_padding_becomes_air(tmp_path):
    image = ct(dtype=np.int16)

    def padded(z, data):
        stored = data.pixel_array.copy()
        stored[:2] = 60000
        data.PixelData, data.PixelPaddingValue = stored.tobytes(), 60000

    write_ct(tmp_path / "a", image, change=padded)
    scan = only_source(tmp_path).load()
    pixels = sitk.GetArrayFromImage(scan.image)
    assert pixels.dtype == np.int16
    assert (pixels[:, :2] == -1024).all()
    assert [note.kind for note in scan.notes if "PixelPaddingValue" in note.text] == [Kind.REINTERPRETED]
    assert np.array_equal(pixels[:, 2:], sitk.GetArrayFromImage(image)[:, 2:])


@pytest.mark.parametrize("how", ["secondary capture", "RLE", "signed"])
def test_rescaling_and_compression_of_other_writers(tmp_path, how):
    image = ct(dtype=np.int16)

    def changed(z, data):
        if how == "secondary capture":
            data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        elif how == "RLE":
            data.compress(pydicom.uid.RLELossless)
        else:
            stored = data.pixel_array.astype(np.int32) - 1024 - z
            data.PixelRepresentation, data.RescaleIntercept = 1, str(z)
            data.PixelData = stored.astype("<i2").tobytes()

    write_ct(tmp_path / "a", image, change=changed)
    assert np.array_equal(sitk.GetArrayFromImage(only_source(tmp_path).load().image), sitk.GetArrayFromImage(image))


def test_a_tilted_gantry_is_straightened_with_its_structures(tmp_path):
    tilt = np.radians(18)
    sheared = np.array([[1, 0, 0], [0, np.cos(tilt), 0], [0, -np.sin(tilt), 1]])  # rows tilt, the table moves along z
    image = like(np.zeros(SIZE[::-1], np.float32), direction=sheared)

    def places(grid: sitk.Image) -> np.ndarray:
        index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.GetSize()[::-1]], indexing="ij"), -1)[..., ::-1]
        return index @ (np.array(grid.GetDirection()).reshape(3, 3) * grid.GetSpacing()).T + grid.GetOrigin()

    def hu(points: np.ndarray) -> np.ndarray:  # linear, so that interpolation is exact
        return 3 * points[..., 0] - 7 * points[..., 1] + 5 * points[..., 2] - 1400

    def ball(points: np.ndarray) -> np.ndarray:
        return (np.linalg.norm(points - places(image)[4, 20, 24], axis=-1) < 8).astype(np.uint8)

    filled = like(hu(places(image)).astype(np.float32), direction=sheared)
    slices = write_ct(tmp_path / "a", filled, slopes=(0.1,))
    write_rtstruct(tmp_path / "a" / "rs", slices, {"ball": outlines(like(ball(places(image)), direction=sheared))})
    scan = only_source(tmp_path).load()
    assert any("tilted gantry (18.0 degrees)" in note.text for note in scan.notes)
    assert is_orthogonal(scan.image)
    assert not is_orthogonal(image)
    pixels, index = sitk.GetArrayFromImage(scan.image), to_index(image, places(scan.image).reshape(-1, 3))
    inside = ((index >= 0.01) & (index <= np.array(SIZE) - 1.01)).all(axis=1).reshape(pixels.shape)
    assert inside.sum() > 0.7 * np.prod(SIZE)
    assert np.abs(pixels - hu(places(scan.image)))[inside].max() < 0.5
    assert dice(on_grid(scan.structures["ball"], scan.image), ball(places(scan.image))) > 0.95


def test_files_are_found_by_content_and_grouped_by_patient(tmp_path):
    for name in "ba":
        slices = write_ct(tmp_path / "set" / name / "study" / "ct", ct(seed=ord(name)), name)
        write_seg(tmp_path / "set" / name / "other.nii.gz", slices, {"x": shapes()["blob"]})
    (tmp_path / "set" / "a" / "readme.dcm").write_text("no DICOM " * 40)
    (tmp_path / "set" / "a" / "empty").touch()
    directory = blank(headers.DICOMDIR, "CT", "1.2", "a")
    directory.save_as(tmp_path / "set" / "DICOMDIR", enforce_file_format=True)
    sources = find_sources(tmp_path)
    assert [source.patient for source in sources] == ["a", "b"]
    for source in sources:
        again = pickle.loads(pickle.dumps(source))
        expected = sitk.GetArrayFromImage(ct(seed=ord(source.patient)))
        assert np.abs(sitk.GetArrayFromImage(again.load().image) - expected).max() <= 0.501
        for shown in (source, source.headers, source.listing(), source.load().notes):
            text = re.sub(r"[\d.]{20,}", "UID", repr(shown))  # random digits hold a year now and then
            assert SECRET not in text
            assert "1977" not in text
    assert find_sources(tmp_path / "set" / "a")[0].patient == "study"


def test_patients_in_one_folder_get_numbers_and_anonymous_ones_their_folders(tmp_path):
    for name in "ab":
        write_ct(
            tmp_path / "one",
            ct(seed=ord(name)),
            name,
            seed=ord(name),
            change=lambda z, data, name=name: bool(data.save_as(tmp_path / "one" / f"{name}{z}")),
        )
        write_ct(tmp_path / "two" / f"case {name}", ct(), "ANON", seed=ord(name))
    sources = find_sources(tmp_path / "one")
    assert [source.patient for source in sources] == ["p001", "p002"]
    assert any("p001" in note.text for note in sources[0].load().notes)
    anonymous = find_sources(tmp_path / "two")
    assert [source.patient for source in anonymous] == ["case a", "case b"]
    assert any("the same PatientID" in note.text for note in anonymous[0].load().notes)


def test_localizers_other_modalities_and_copies_are_left_out_with_a_note(tmp_path):
    def scout(z, data):
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        return z == 0

    def report(z, data):
        del data.ImagePositionPatient
        return z < 2

    write_ct(tmp_path / "a" / "ct", ct())
    write_ct(tmp_path / "a" / "scout", ct(), change=scout)
    write_ct(tmp_path / "a" / "dose", ct(), change=report)
    write_ct(tmp_path / "a" / "mr", ct(), change=lambda z, data: setattr(data, "Modality", "MR"))
    (tmp_path / "a" / "ct" / "copy").write_bytes((tmp_path / "a" / "ct" / "00x").read_bytes())
    scan = only_source(tmp_path).load()
    assert scan.image.GetSize() == SIZE
    assert {note.text for note in scan.notes} == {
        "left out 1 file of a localizer (scout)",
        "left out 8 files of modality MR",
        "left out 1 file identical to another file",
        "left out 2 files of CT without a position in the patient or without a pixel spacing",
    }


def _fourth(**values):
    """Gives the fourth slice other values."""

    def change(z, data):
        for name, value in values.items() if z == 3 else ():
            setattr(data, name, value)

    return change


def _one_column_less(z, data):
    if z == 3:
        data.PixelData = np.ascontiguousarray(data.pixel_array[:, 1:]).tobytes()
        data.Columns = SIZE[0] - 1


def _compressed_and_cut(z, data):
    data.compress(pydicom.uid.RLELossless)
    if z == 3:
        data.PixelData = data.PixelData[:200]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda z, data: z not in (3, 4), ["2 of 8 slices are missing", "7.50 mm apart, 2.50 mm elsewhere"]),
        (
            _fourth(ImagePositionPatient=numbers([*ORIGIN[:2], ORIGIN[2] + 5.0])),
            ["1 of 8 slices lie at the position of another slice"],
        ),
        (
            _fourth(ImagePositionPatient=numbers([*ORIGIN[:2], ORIGIN[2] + 8.4])),
            ["1.60 to 3.40 mm apart", "even steps"],
        ),
        (
            _fourth(ImagePositionPatient=numbers([0, 20, ORIGIN[2] + 7.5])),
            ["shifted by 10.00 mm against the line"],
        ),
        (_fourth(PixelSpacing=numbers([1.1, 0.9])), ["spacing", "0.9x1.1"]),
        (_fourth(ImageOrientationPatient=numbers([0, 1, 0, 1, 0, 0])), ["orientation", "in the same series"]),
        (
            lambda z, data: setattr(data, "ImageOrientationPatient", numbers([1, 0, 0, 0.6, 0.8, 0])),
            ["not perpendicular"],
        ),
        (_one_column_less, ["size", "47x40", "48x40"]),
        (_fourth(PixelData=b"\0" * 1000), ["is truncated", "need 3840"]),
        (_compressed_and_cut, ["cannot be decoded"]),
        (lambda z, data: setattr(data, "Modality", "PT"), ["no CT series", "8 files of modality PT"]),
    ],
    ids=[
        "gap",
        "duplicate",
        "uneven",
        "beside",
        "spacing",
        "orientation",
        "skew",
        "size",
        "truncated",
        "compressed",
        "modality",
    ],
)
def test_bad_series_are_refused_with_one_line(tmp_path, change, parts):
    write_ct(tmp_path / "pat", ct(), change=change)
    source = only_source(tmp_path)
    line = refused(source)
    assert all(part in line for part in parts), line
    assert "pat" in line
    if parts != ["cannot be decoded"]:  # the listing reads three slices only
        assert source.listing().problems == (line,)


def test_a_damaged_file_is_named(tmp_path):
    slices = write_ct(tmp_path / "pat", ct())
    write_rtstruct(tmp_path / "pat" / "rs", slices, {"x": outlines(like(shapes()["blob"]))})
    contours = (tmp_path / "pat" / "rs").read_bytes()
    for damaged in (contours[:140], contours[: len(contours) // 2]):
        (tmp_path / "pat" / "rs").write_bytes(damaged)
        source = only_source(tmp_path)
        assert str(tmp_path / "pat" / "rs") in refused(source)
        assert str(tmp_path / "pat" / "rs") in source.listing().problems[0]


def test_two_series_need_a_choice_or_a_reference(tmp_path):
    thin = ct(OBLIQUE)
    thick = write_ct(tmp_path / "pat" / "thick", ct(OBLIQUE, seed=2)[:, :, :5])
    write_ct(tmp_path / "pat" / "thin", thin)
    source = only_source(tmp_path)
    line = refused(source)
    assert "pat/thick (5 slices" in line
    assert "pat/thin (8 slices" in line
    assert "--series" in line
    for series, depth in (("thick", 5), ("pat/thin", 8), ("pat/thin/", 8), ("8", 8)):
        assert replace(source, series=(series,)).load().image.GetSize()[2] == depth
    assert "none matches 'medium'" in refused(replace(source, series=("medium",)))
    write_seg(tmp_path / "pat" / "seg", thick, {"x": shapes()["blob"][:5]})
    source = only_source(tmp_path)
    assert source.load().image.GetSize()[2] == 5
    assert source.listing().size[2] == 5
    scan = replace(source, series=("thin",)).load()
    assert scan.structures == {}
    assert any("another series" in note.text for note in scan.notes)


def contoured(tmp_path: Path, contours, **options) -> DicomSource:
    """A patient with one structure ``x`` of contours on a straight image."""
    slices = write_ct(tmp_path / "pat", ct())
    write_rtstruct(tmp_path / "pat" / "rs", slices, {"x": contours}, **options)
    return only_source(tmp_path)


def test_holes_keyholes_and_pixels_by_area(tmp_path):
    outer, inner = box(2, 9.5, 29.5, 9.5, 29.5), box(2, 14.5, 24.5, 14.5, 24.5)
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]]) + [0, 0, SPACING[2]]
    covered = box(5, 9.5, 12.2, 9.5, 12.8)  # 70 % of a column more than two, 30 % of a row more than three
    speck = box(6, 20.6, 20.7, 20.6, 20.7)  # between the pixels' centres
    source = contoured(tmp_path, [(2, outer), (2, inner), (None, keyhole), (5, covered), (None, speck)])
    mask = arrays(source.load())["x"]
    expected = np.zeros(SIZE[1::-1], np.uint8)
    expected[10:30, 10:30] = 1
    expected[15:25, 15:25] = 0
    assert np.array_equal(mask[2], expected)
    assert np.array_equal(mask[3], expected)
    assert mask[5, 10:13, 10:13].all()
    assert mask[5].sum() == 9
    assert mask[6].sum() == 1
    assert mask[6, 21, 21]
    assert not mask[[0, 1, 4, 7]].any()


@pytest.mark.parametrize(
    ("x", "y", "pixels"),
    [
        (-0.45, 20.55, [(21, 0)]),  # between the centre of an outer pixel and the edge of the image
        (47.45, 20.55, [(21, 47)]),
        (20.55, -0.45, [(0, 21)]),
        (20.55, 39.45, [(39, 21)]),
        (-0.45, -0.45, [(0, 0)]),
        (47.45, 39.45, [(39, 47)]),
        (-0.6, 20.55, []),  # outside: no pixel, least of all one at the opposite edge
        (-1.4, 20.55, []),
        (-5.5, 20.55, []),
        (53.5, 20.55, []),
        (47.6, 20.55, []),
        (20.55, -0.6, []),
        (20.55, 39.6, []),
        (-0.6, -0.6, []),
    ],
)
def test_a_contour_smaller_than_a_pixel_at_the_edge_of_the_image(tmp_path, x, y, pixels):
    size = 0.01
    speck = box(6, x - size, x + size, y - size, y + size)
    mask = arrays(contoured(tmp_path, [(None, box(2, 10, 20, 10, 20)), (None, speck)]).load())["x"]
    assert [tuple(pixel) for pixel in np.argwhere(mask[6]).tolist()] == pixels
    assert mask[2].any()
    assert not mask[[0, 1, 3, 4, 5, 7]].any()


def test_contours_that_do_not_fit_the_slices_are_counted(tmp_path):
    def square(z):
        return None, box(z, 10, 20, 10, 20)

    repeated = square(6)
    scan = contoured(
        tmp_path,
        [
            square(1.3),
            (None, box(1.0, 30, 40, 10, 20)),
            square(4.4),
            repeated,
            repeated,
            square(-1),
            square(8.2),
            (None, box(7, -5, 4, 10, 20)),
        ],
    ).load()
    mask = arrays(scan)["x"]
    assert list(np.flatnonzero(mask.any(axis=(1, 2)))) == [1, 4, 6, 7]
    assert mask[1, 15, 35]
    assert not mask[1, 15, 15]
    assert mask[6, 15, 15]
    assert {note.text for note in scan.notes} == {
        "x: 2 contours above or below the image",
        "x: 1 contour repeated in the file, used once",
        "x: 2 contours between two slices, moved to the nearer slice",
        "x: 1 contour partly outside the image",
        "x: 1 contour ignored, since a contour nearer to the same slice exists",
        "x: 3 slices have no contour between the first and the last one",
    }


def test_points_and_open_contours_are_not_structures(tmp_path):
    source = contoured(tmp_path, [(2, box(2, 10, 20, 10, 20))] * 2, kind="OPEN_PLANAR")
    scan = source.load()
    assert scan.structures == {}
    assert source.listing().structures == ()
    assert "x: 2 contours of type OPEN_PLANAR ignored" in [note.text for note in scan.notes]


def _other_frame(data):
    data.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3.4"


@pytest.mark.parametrize(
    ("contours", "options", "message"),
    [
        ([(2, box(2, 10, 20, 10, 20))], {"change": _other_frame}, "another frame of reference"),
        ([(None, box(20, 10, 20, 10, 20))], {}, "none of the 1 contours of 'x' lies in the CT volume"),
        (
            [(2, box(2, 10, 20, 10, 20) + np.array([[0, 0, 0], [0, 0, 5], [0, 0, 5], [0, 0, 0]]))],
            {},
            "spans 2.0 slices",
        ),
    ],
    ids=["frame", "elsewhere", "across"],
)
def test_contours_of_something_else_are_refused(tmp_path, contours, options, message):
    line = refused(contoured(tmp_path, contours, **options))
    assert message in line
    assert str(tmp_path / "pat" / "rs") in line


def test_contours_and_segments_on_missing_slices_are_refused(tmp_path):
    slices = write_ct(tmp_path / "pat", ct())
    masks = shapes()
    write_rtstruct(tmp_path / "pat" / "drawn", slices, {"blob": outlines(like(masks["blob"]))})
    lost = next(
        p for p in (tmp_path / "pat").glob("*x") if pydicom.dcmread(p).SOPInstanceUID == slices[7].SOPInstanceUID
    )
    lost.unlink()
    assert "1 of the 3 slices with contours are missing" in refused(only_source(tmp_path))
    (tmp_path / "pat" / "drawn").unlink()
    write_seg(tmp_path / "pat" / "drawn", slices, masks)
    assert "1 slice of 'blob' lies above or below the CT series" in refused(only_source(tmp_path))


def test_structures_of_one_name_in_two_files_are_refused_and_in_one_file_joined(tmp_path):
    slices = write_ct(tmp_path / "pat", ct())
    masks = shapes()
    write_seg(tmp_path / "pat" / "seg", slices, {"x": masks["ring"], "x ": masks["blob"]})
    assert np.array_equal(arrays(only_source(tmp_path).load())["x"], masks["ring"] | masks["blob"])
    write_rtstruct(tmp_path / "pat" / "rs", slices, {"x": outlines(like(masks["blob"]))})
    assert "structure 'x' is also in" in refused(only_source(tmp_path))


def test_fractional_segments_count_from_one_half_and_may_lie_on_a_grid_of_their_own(tmp_path):
    image = ct(OBLIQUE)
    slices = write_ct(tmp_path / "pat", image)
    share = shapes()["ring"] * np.float32(0.4)
    share[:, 18:22] *= 2
    write_seg(tmp_path / "pat" / "seg", slices, {"x": share}, "FRACTIONAL")
    assert np.array_equal(arrays(only_source(tmp_path).load())["x"], share > 0.5)

    def coarser(z, data):
        data.Rows, data.Columns = 20, 24
        data.PixelSpacing = numbers([2.2, 1.6])
        data.ImagePositionPatient = numbers(image.TransformContinuousIndexToPhysicalPoint((0.5, 0.5, float(z))))
        data.PixelData = b"\0" * 960

    coarse_slices = write_ct(tmp_path / "unused", image, frame=slices[0].FrameOfReferenceUID, change=coarser)
    small = shapes()["ring"][:, ::2, ::2]
    write_seg(tmp_path / "pat" / "seg", coarse_slices, {"x": small})
    expected = small.repeat(2, axis=1).repeat(2, axis=2)
    mask = on_grid(find_sources(tmp_path / "pat")[0].load().structures["x"], image)
    assert dice(mask, expected) > 0.93
    assert not mask[[0, 1, 6, 7]].any()


def test_without_pydicom_the_remedy_is_named(tmp_path, monkeypatch):
    import sys

    assert find_sources(tmp_path) == []
    write_ct(tmp_path, ct())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BadInput, match=r"pip install 'nnunet_difflung\[convert\]'"):
        find_sources(tmp_path)


def test_on_grid_is_exact_on_the_same_grid_and_blind_to_array_order():
    mask = like(np.random.default_rng(0).integers(0, 2, SIZE[::-1]).astype(np.uint8), direction=OBLIQUE)
    assert np.array_equal(on_grid(mask, mask), sitk.GetArrayFromImage(mask))
    turned = sitk.Flip(sitk.PermuteAxes(mask, [2, 0, 1]), [True, False, True])
    assert np.array_equal(on_grid(turned, mask), sitk.GetArrayFromImage(mask))
    part = mask[5:30, 4:20, 2:6]
    array = on_grid(part, mask)
    assert np.array_equal(array[2:6, 4:20, 5:30], sitk.GetArrayFromImage(part))
    array[2:6, 4:20, 5:30] = 0
    assert not array.any()


def test_on_grid_keeps_volumes_specks_and_plates_on_a_coarser_grid():
    fine = np.zeros((60, 60, 60), np.uint8)
    z, y, x = np.ogrid[:60, :60, :60]
    ball = (z - 30) ** 2 + (y - 30) ** 2 + (x - 25) ** 2 < 15**2
    fine[ball] = 1
    fine[10, 50, 50] = 1  # a speck
    fine[4, 10:22, 30:48] = 1  # a plate, a quarter as thick as the new voxels
    coarse = like(np.zeros((15, 20, 20), np.uint8), (3, 3, 4), (1.0, 1.0, 1.5))
    result = on_grid(like(fine, (1, 1, 1), (0, 0, 0)), coarse)
    assert abs(result[4:12].sum() * 36 / ball.sum() - 1) < 0.03
    assert result[2, 16, 16]
    assert result[:, 15:18, 15:18].sum() == 1
    assert result[1, 3:7, 10:16].sum() >= 20
    assert not result[0].any()
    assert not on_grid(like(fine, (1, 1, 1), (500, 0, 0)), coarse).any()


def _polygon_ml(path: Path, thickness: float) -> float:
    data, area = pydicom.dcmread(path), 0.0
    for contour in data.ROIContourSequence[0].ContourSequence:
        x, y = np.array(contour.ContourData, float).reshape(-1, 3).T[:2]
        area += abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    return area * thickness / 1000


@pytest.mark.skipif(
    not REAL.is_dir(), reason="the real DICOM series are not available; set DIFFLUNG_TEST_DATA to their folder"
)
def test_real_tumours_lie_in_tissue_on_the_slices_of_their_contours():
    sources = find_sources(REAL)
    assert [source.patient for source in sources] == ["pat_2", "pat_3"]
    for source in sources:
        listing, scan = source.listing(), source.load()
        assert listing.problems == ()
        assert listing.structures == ("GTV-1",)
        assert scan.windowed is False
        assert np.allclose(scan.image.GetSpacing(), (0.977, 0.977, 3.0), atol=1e-4)
        pixels, mask = sitk.GetArrayFromImage(scan.image), arrays(scan)["GTV-1"].astype(bool)
        assert pixels.min() == -1000
        path = next((REAL / source.patient).glob("*RS*"))
        ml = mask.sum() * np.prod(scan.image.GetSpacing()) / 1000
        assert ml == pytest.approx(_polygon_ml(path, 3.0), rel=0.015)
        heights = {
            round(float(c.ContourData[2]), 2) for c in pydicom.dcmread(path).ROIContourSequence[0].ContourSequence
        }
        assert heights == {
            round(scan.image.TransformIndexToPhysicalPoint((0, 0, int(z)))[2], 2)
            for z in np.flatnonzero(mask.any(axis=(1, 2)))
        }
        assert (pixels[mask] > -500).mean() > 0.75  # tissue; the tumour of pat_2 has a cavity
        around = np.roll(mask, (12, 12), axis=(1, 2)) & ~mask
        assert pixels[mask].mean() > pixels[around].mean() + 100
