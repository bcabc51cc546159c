"""What files of scanners and archives look like: transfer syntaxes, positions of patients, names, character sets."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from nnunet_difflung.dataset_conversion.dicom.source import DicomSource, find_sources  # noqa: E402
from nnunet_difflung.dataset_conversion.imaging.geometry import on_grid  # noqa: E402
from nnunet_difflung.dataset_conversion.notes import Kind  # noqa: E402
from tests.support.dicom_files import outlines, write_ct, write_rtstruct, write_seg  # noqa: E402

SIZE, SPACING, ORIGIN = (24, 20, 6), (2.0, 1.5, 2.5), (-10.0, 20.0, 300.0)
POSITIONS = {  # directions of rows and columns; the order of the slices follows from them
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "HFDR": (0, 1, 0, -1, 0, 0),
    "HFDL": (0, -1, 0, 1, 0, 0),
    "FFDR": (0, 1, 0, 1, 0, 0),
    "FFDL": (0, -1, 0, -1, 0, 0),
}


def placed(array: np.ndarray, rows_and_columns=POSITIONS["HFS"]) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    rows, columns = np.reshape(rows_and_columns, (2, 3)).astype(float)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(np.column_stack([rows, columns, np.cross(rows, columns)]).ravel().tolist())
    return image


def scan(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, SIZE[::-1]).astype(np.int16)


def blob() -> np.ndarray:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[1:4, 5:12, 3:9] = 1
    return mask


def only(folder: Path) -> DicomSource:
    (source,) = find_sources(folder)
    return source


def by_pydicom(syntax: str, **options) -> Callable:
    return lambda z, data: data.compress(syntax, **options)


def stored(syntax: str, implicit: bool, little: bool = True) -> Callable:
    def change(z, data):
        if not little:
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data.file_meta.TransferSyntaxUID = syntax
        data._read_implicit, data._read_little = implicit, little

    return change


def by_itk(syntax: str, compressor: str, folder: Path) -> Callable:
    """Compresses with GDCM, which writes a file of its own, whose pixels are taken over."""

    def change(z, data):
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.SetFileName(str(folder / "made.dcm"))
        writer.Execute(sitk.GetImageFromArray(data.pixel_array[None]))
        data.PixelData = pydicom.dcmread(folder / "made.dcm").PixelData
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = syntax

    return change


def lossy(z, data):
    from PIL import Image

    picture = Image.fromarray(np.clip(data.pixel_array // 8, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    content = file.getvalue()
    data.PixelData = encapsulate([content + b"\0" * (len(content) % 2)])
    data["PixelData"].is_undefined_length = True
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.RescaleSlope, data.LossyImageCompression = 7, "8", "01"
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit


SYNTAXES = {
    "implicit": lambda _: stored(ImplicitVRLittleEndian, True),
    "explicit": lambda _: stored(ExplicitVRLittleEndian, False),
    "deflated": lambda _: stored(DeflatedExplicitVRLittleEndian, False),
    "RLE": lambda _: by_pydicom(RLELossless),
    "JPEG-LS": lambda _: by_pydicom(JPEGLSLossless),
    "JPEG-LS near lossless": lambda _: by_pydicom(JPEGLSNearLossless, jls_error=2),
    "JPEG 2000 lossless": lambda folder: by_itk(JPEG2000Lossless, "JPEG2000", folder),
    "JPEG 2000": lambda folder: by_itk("1.2.840.10008.1.2.4.91", "JPEG2000", folder),
    "JPEG lossless": lambda folder: by_itk(JPEGLossless, "JPEG", folder),
    "JPEG lossless, first order": lambda folder: by_itk(JPEGLosslessSV1, "JPEG", folder),
    "JPEG baseline": lambda _: lossy,
}


@pytest.mark.parametrize("name", SYNTAXES)
def test_transfer_syntaxes(tmp_path, name):
    write_ct(tmp_path / "a", placed(scan()), change=SYNTAXES[name](tmp_path))
    for path in (tmp_path / "a").iterdir():
        expected = {
            "implicit": ".10008.1.2",
            "deflated": ".99",
            "RLE": "2.5",
            "JPEG-LS": ".80",
            "JPEG 2000": ".91",
        }.get(name, "")
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.endswith(expected)
    loaded = only(tmp_path / "a").load()
    error = np.abs(sitk.GetArrayFromImage(loaded.image) - scan()).max()
    assert error <= {"JPEG-LS near lossless": 2, "JPEG baseline": 120}.get(name, 0)
    if name == "JPEG baseline":
        (note,) = loaded.notes
        assert (note.kind, note.count) == (Kind.GUESSED, SIZE[2])
        assert note.text.startswith("6 of 6 slices were compressed with loss")


def test_big_endian(tmp_path):
    written = write_ct(tmp_path / "unused", placed(scan()))
    (tmp_path / "a").mkdir()
    for number, data in enumerate(written):
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        pydicom.dcmwrite(
            tmp_path / "a" / str(number), data, implicit_vr=False, little_endian=False, enforce_file_format=True
        )
    assert np.array_equal(sitk.GetArrayFromImage(only(tmp_path / "a").load().image), scan())


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", ["RTSTRUCT", "SEG"])
def test_positions_of_the_patient(tmp_path, position, kind):
    image, mask = placed(scan(), POSITIONS[position]), placed(blob(), POSITIONS[position])
    slices = write_ct(tmp_path / "a", image, change=lambda z, data: setattr(data, "PatientPosition", position))
    if kind == "RTSTRUCT":
        write_rtstruct(tmp_path / "a" / "drawn", slices, {"x": outlines(mask)})
    else:
        write_seg(tmp_path / "a" / "drawn", slices, {"x": blob()})
    loaded = only(tmp_path).load()
    for corner in ((0, 0, 0), (23, 0, 0), (0, 19, 0), (0, 0, 5)):
        place = image.TransformIndexToPhysicalPoint(corner)
        assert loaded.image[loaded.image.TransformPhysicalPointToIndex(place)] == image[corner]
    assert np.array_equal(on_grid(loaded.structures["x"], image), blob())


@pytest.mark.parametrize("kind", ["RTSTRUCT", "SEG"])
@pytest.mark.parametrize("thickness", ["5", None])
def test_a_single_slice(tmp_path, kind, thickness):
    image = placed(scan()[:1])

    def thick(z, data):
        data.SliceThickness = thickness

    mask = blob()[1:2]
    slices = write_ct(tmp_path / "a", image, change=thick)
    if kind == "RTSTRUCT":
        write_rtstruct(tmp_path / "a" / "drawn", slices, {"x": outlines(placed(mask))})
    else:
        for data in slices:
            data.SliceThickness = "5"  # highdicom needs one
        write_seg(tmp_path / "a" / "drawn", slices, {"x": mask})
    loaded = only(tmp_path).load()
    assert loaded.image.GetSpacing()[2] == float(thickness or 1)
    assert np.array_equal(on_grid(loaded.structures["x"], loaded.image), mask)
    assert [note.kind for note in loaded.notes] == ([] if thickness else [Kind.GUESSED])


@pytest.mark.parametrize("degrees", [-25, -3, 3, 25])
def test_a_gantry_tilted_either_way(tmp_path, degrees):
    tilt = np.radians(degrees)
    image = placed(np.zeros(SIZE[::-1], np.float32))
    image.SetDirection([1, 0, 0, 0, float(np.cos(tilt)), 0, 0, float(-np.sin(tilt)), 1])
    z, y, x = np.meshgrid(*[np.arange(n) for n in SIZE[::-1]], indexing="ij")
    points = np.stack([x, y, z], -1) @ (np.array(image.GetDirection()).reshape(3, 3) * SPACING).T + ORIGIN
    values = (4 * points[..., 0] - 6 * points[..., 1] + 9 * points[..., 2] - 2600).astype(np.float32)
    tilted = sitk.GetImageFromArray(values)
    tilted.CopyInformation(image)
    write_ct(tmp_path / "a", tilted, slopes=(0.1,))
    loaded = only(tmp_path).load()
    pixels = sitk.GetArrayFromImage(loaded.image)
    inside = np.argwhere(pixels > -1024)
    inside = inside[(inside[:, 0] > 0) & (inside[:, 0] < len(pixels) - 1)]
    assert len(inside) > 0.4 * pixels.size
    places = np.array([loaded.image.TransformIndexToPhysicalPoint([int(i) for i in p[::-1]]) for p in inside])
    expected = 4 * places[:, 0] - 6 * places[:, 1] + 9 * places[:, 2] - 2600
    assert (np.abs(pixels[tuple(inside.T)] - expected) < 1).mean() > 0.85  # not where a ray leaves the slices
    assert any(f"tilted gantry ({abs(degrees):.1f} degrees)" in note.text for note in loaded.notes)


NAMES = [  # character set, and a name in it
    ("ISO_IR 100", "Müller^Jürgen^^Dr."),
    ("ISO_IR 192", "Łódź^Ёлка^世界"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("ISO_IR 999", "Unknown^Set"),
    (None, "A^B^C^D^E"),
]


@pytest.mark.parametrize(("charset", "name"), NAMES)
def test_names_and_character_sets_neither_matter_nor_appear(tmp_path, charset, name):
    def named(z, data):
        if charset != "ISO_IR 999":
            data.SpecificCharacterSet = charset
        data.PatientName, data.PatientID = name, "Ü1" if charset == "ISO_IR 100" else "u1"
        return True

    write_ct(tmp_path / "a", placed(scan()), change=named)
    if charset == "ISO_IR 999":
        for path in (tmp_path / "a").iterdir():
            data = pydicom.dcmread(path)
            data.add_new(0x00080005, "CS", "ISO_IR 999")
            content = io.BytesIO()
            data.save_as(content)
            path.write_bytes(content.getvalue())
    source = only(tmp_path)
    assert source.listing().problems == ()
    assert name.split("^")[0] not in repr((source, source.listing(), source.load().notes))


@pytest.mark.parametrize("layout", ["same folder", "folders below"])
def test_files_without_a_patient_id_belong_to_the_patient_of_their_folder(tmp_path, layout):
    """Half of the files have lost their PatientID: every second slice, or the structures in a folder of their own."""
    for name in ("a", "b"):
        parts = ("", "") if layout == "same folder" else ("CT", "RS")

        def lost(z, data):
            if layout == "same folder" and z % 2:
                data.PatientID = ""

        slices = write_ct(tmp_path / name / parts[0], placed(scan(ord(name))), name, change=lost)
        (tmp_path / name / parts[1]).mkdir(exist_ok=True)
        structures = {"x": outlines(placed(blob()))}

        def anonymous(data):
            data.PatientID = "" if layout != "same folder" else data.PatientID

        write_rtstruct(tmp_path / name / parts[1] / "drawn", slices, structures, change=anonymous)
    sources = find_sources(tmp_path)
    assert [source.patient for source in sources] == ["a", "b"]
    for source in sources:
        loaded = source.load()
        assert np.array_equal(sitk.GetArrayFromImage(loaded.image), scan(ord(source.patient)))
        assert np.array_equal(sitk.GetArrayFromImage(loaded.structures["x"]), blob())
        assert any("files without a PatientID" in note.text for note in loaded.notes)


@pytest.mark.parametrize(
    ("first", "second"),
    [("Pat1", "PAT1"), (unicodedata.normalize("NFC", "Jürgen"), unicodedata.normalize("NFD", "Jürgen"))],
    ids=["case", "Unicode"],
)
def test_ids_that_differ_in_spelling_only_are_one_patient_with_a_note(tmp_path, first, second):
    for number, patient_id in enumerate((first, second)):

        def named(z, data, patient_id=patient_id):
            data.SpecificCharacterSet, data.PatientID = "ISO_IR 192", patient_id

        slices = write_ct(tmp_path / "x" / str(number), placed(scan(number)), change=named)
        write_seg(tmp_path / "x" / str(number) / "seg", slices, {"x": blob()})
    write_ct(tmp_path / "y", placed(scan(5)), "other")
    sources = find_sources(tmp_path)
    assert [source.patient for source in sources] == ["x", "x", "y"]
    assert any(note.kind == Kind.MERGED and "PatientIDs that differ only" in note.text for note in sources[0].notes)


@pytest.mark.parametrize(
    ("tag", "value"),
    [(0x00281053, b"1e400 "), (0x00281052, b"NaN "), (0x00280030, b"inf\\2"), (0x00200032, b"NaN\\0\\0")],
)
def test_numbers_that_are_not_finite_are_refused(tmp_path, tag, value):
    def broken(z, data):
        if z == 5:
            vr = data[tag].VR
            data._dict[tag] = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(tag), vr, len(value), value, 0, False, True
            )

    write_ct(tmp_path / "a", placed(scan()), change=broken)
    (problem,) = only(tmp_path).listing().problems
    assert "damaged DICOM header" in problem or "a slice of the CT series without" in problem
