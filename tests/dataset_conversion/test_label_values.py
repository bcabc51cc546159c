"""Values of label maps that are no labels are named with their file; nothing is taken for what it is not in silence."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnunet_difflung.dataset_conversion.accept import Accept
from nnunet_difflung.dataset_conversion.archive import slices, volumes
from nnunet_difflung.dataset_conversion.archive.find import find_patients
from nnunet_difflung.dataset_conversion.archive.labelled import Orphan
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.errors import BadInput
from tests.support.archives import chest, like

HU = chest(1)[0]
LESION = np.zeros(HU.shape, np.uint8)
LESION[1:3, 28:34, 18:24] = 1
ROUND = ArchiveOptions(accept=frozenset({Accept.ROUNDED_LABELS}))


def write(folder: Path, label: np.ndarray, patients=("p1",), parts=("images", "label")) -> Path:
    for patient in patients:
        for part, array in zip(parts, (HU, label), strict=True):
            (folder / part).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(like(array), str(folder / part / f"{patient}.nii.gz"))
    return folder


def structures(source) -> dict[str, np.ndarray]:
    scan = source.load()
    return {name: sitk.GetArrayFromImage(scan.structures[name]) for name in scan.structures}


@pytest.mark.parametrize(
    ("label", "name"),
    [
        (LESION.astype(np.uint16) * 300, "label"),
        (LESION * 255, "label"),
        (LESION.astype(np.int8), "label"),
        (LESION.astype(np.float32) * 0.9999, "label"),
        (LESION.astype(np.float64), "label"),
    ],
)
def test_values_that_are_labels(tmp_path, label, name):
    ((source,), _) = volumes.find_sources(write(tmp_path, label), ArchiveOptions())
    found = structures(source)
    assert list(found) == [name]
    assert (found[name] == LESION).all()


def test_nearly_whole_numbers_are_rounded_if_accepted(tmp_path):
    write(tmp_path, (LESION * 0.998).astype(np.float32))
    ((source,), _) = volumes.find_sources(tmp_path, ArchiveOptions())
    with pytest.raises(BadInput, match=r"label/p1.nii.gz: the value 0.998 is not a whole .*--accept rounded-labels"):
        source.load()
    ((source,), _) = volumes.find_sources(tmp_path, ROUND)
    assert (structures(source)["label"] == LESION).all()
    assert [(note.kind, note.count) for note in source.load().notes] == [("reinterpreted", 1)]


@pytest.mark.parametrize("options", [ArchiveOptions(), ROUND])
def test_interpolated_labels_and_probabilities_are_refused_all_the_same(tmp_path, options):
    noise = np.random.default_rng(0).uniform(0, 0.05, HU.shape)
    ((source,), _) = volumes.find_sources(write(tmp_path / "a", (LESION * 0.8 + noise).astype(np.float32)), options)
    with pytest.raises(BadInput, match=r"label/p1.nii.gz: values between 0 and 1, .*probabilities.*threshold"):
        source.load()
    between = (LESION * 3).astype(np.float32)
    between[1:3, 27] = 1.5
    ((source,), _) = volumes.find_sources(write(tmp_path / "b", between), options)
    with pytest.raises(BadInput, match=r"label/p1.nii.gz: values between whole numbers, .* nearest neighbour"):
        source.load()


def test_negative_values_are_named(tmp_path):
    label = np.where(np.arange(len(HU))[:, None, None] < 3, LESION.astype(np.int16), -1).astype(np.int16)
    ((source,), _) = volumes.find_sources(write(tmp_path, label), ArchiveOptions())
    found = structures(source)
    assert sorted(found) == ["label", "value -1"]
    assert (found["label"] == (label == 1)).all()
    assert (found["value -1"] == (label == -1)).all()


def test_a_label_map_filled_with_intensities_outside_is_named_too(tmp_path):
    label = LESION.astype(np.int16)
    label[:, :2] = -1024
    ((source,), _) = volumes.find_sources(write(tmp_path, label), ArchiveOptions())
    assert source.listing().structures == ("label", "value -1024")


@pytest.mark.parametrize("parts", [("images", "label"), ("ct", "seg"), ("a", "b")])
def test_an_empty_label_map_is_no_image(tmp_path, parts):
    (first, second), _ = volumes.find_sources(write(tmp_path, LESION * 0, ("p1", "p2"), parts), ArchiveOptions())
    for source in (first, second):
        with pytest.raises(BadInput, match="an empty mask"):
            source.load()


def test_a_damaged_file_is_named_in_numbered_folders_of_patients(tmp_path):
    for patient in ("p1", "p2", "p3"):
        for name, array in (("1", HU), ("2", LESION), ("3", LESION)):
            (tmp_path / patient).mkdir(exist_ok=True)
            sitk.WriteImage(like(array), str(tmp_path / patient / f"{name}.nii.gz"))
    (tmp_path / "p1" / "1.nii.gz").write_bytes(b"damaged")
    sources, _ = volumes.find_sources(tmp_path, ArchiveOptions())
    assert [source.patient for source in sources] == ["p1", "p2", "p3"]
    assert "p1/1.nii.gz cannot be read" in sources[0].listing().problems[0]


def test_a_label_map_without_an_image_is_listed_with_all_others(tmp_path):
    write(tmp_path, LESION, ("p1", "p2"))
    for lost in ("p1_2", "p7"):
        sitk.WriteImage(like(LESION), str(tmp_path / "label" / f"{lost}.nii.gz"))
    _, sources, grouping = find_patients(tmp_path, ArchiveOptions())
    assert grouping.patients == ("p1", "p2")
    orphans = [source for source in sources if isinstance(source, Orphan)]
    assert [source.path for source in orphans] == ["label/p1_2.nii.gz", "label/p7.nii.gz"]
    for source in orphans:
        (problem,) = source.listing().problems
        assert f"{source.path}: no image belongs to this label map" in problem
        (tmp_path / source.path).unlink()  # the remedy
    assert all(not source.listing().problems for source in find_patients(tmp_path, ArchiveOptions())[1])


def test_names_in_both_spellings_of_unicode_are_one_patient(tmp_path):
    write(tmp_path, LESION, ("Jörg",))
    (tmp_path / "label" / "Jörg.nii.gz").rename(tmp_path / "label" / unicodedata.normalize("NFD", "Jörg.nii.gz"))
    sitk.WriteImage(like(HU), str(tmp_path / "images" / unicodedata.normalize("NFD", "Müller.nii.gz")))
    sitk.WriteImage(like(LESION), str(tmp_path / "label" / "Müller.nii.gz"))
    (tmp_path / "patients.csv").write_text(
        "case,patient\n" + unicodedata.normalize("NFD", "Müller,Müller\nJörg.nii.gz,Jörg\n"), encoding="utf-8"
    )
    options = ArchiveOptions(patients=tmp_path / "patients.csv")
    for sources, grouping in (volumes.find_sources(tmp_path, o) for o in (options, ArchiveOptions())):
        assert set(grouping.patients) == {"Jörg", "Müller"}
        for source in sources:
            assert (structures(source)["label"] == LESION).all()


def test_two_files_of_the_same_name_in_two_spellings_are_refused(tmp_path):
    write(tmp_path, LESION, ("Jörg", unicodedata.normalize("NFD", "Jörg")))
    with pytest.raises(BadInput, match="two files have this name"):
        volumes.find_sources(tmp_path, ArchiveOptions())


def test_a_name_in_a_legacy_encoding_is_refused(tmp_path):
    write(tmp_path, LESION, ("p1",))
    for part in ("images", "label"):
        (tmp_path / part / "p1.nii.gz").rename(tmp_path / part / b"J\xf6rg.nii.gz".decode("utf-8", "surrogateescape"))
    with pytest.raises(BadInput, match="not valid UTF-8.*rename it"):
        volumes.find_sources(tmp_path, ArchiveOptions())


# ---- pictures ----

GREY = np.random.default_rng(0).normal(120, 40, (96, 128)).clip(0, 255).astype(np.uint8)
LABEL = np.zeros((96, 128), np.uint8)
LABEL[20:48, 24:56], LABEL[56:72, 80:104] = 1, 2
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
BY_NUMBER = {"label 1": LABEL == 1, "label 2": LABEL == 2}
BY_COLOUR = {"#ff0000": LABEL == 1, "#00ff00": LABEL == 2}


def picture(array, mode=None) -> bytes:
    content = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(content, "PNG")
    return content.getvalue()


def tiff(array, **options) -> bytes:
    content = io.BytesIO()
    tifffile.imwrite(content, array, **options)
    return content.getvalue()


def with_palette(indices, *colours) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8)).convert("L")
    result = Image.frombytes("P", image.size, image.tobytes())
    result.putpalette([part for colour in colours for part in colour])
    return result


def jpeg(array) -> np.ndarray:
    content = io.BytesIO()
    Image.fromarray(array).save(content, "JPEG", quality=60)
    return np.array(Image.open(content))


def pictures(folder: Path, image: bytes, mask: bytes, ends=(".png", ".png"), parts=("images", "masks")):
    for part, content, end in zip(parts, (image, mask), ends, strict=True):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for z in range(2):
            (folder / part / f"p1_s{z}{end}").write_bytes(content)
    (source,) = slices.find_sources(folder, ArchiveOptions(pixel_spacing=1.0))[0]
    return source


IMAGES = {
    "grey": (picture(GREY), GREY),
    "RGB": (picture(GREY, "RGB"), GREY),
    "RGBA": (picture(GREY, "RGBA"), GREY),
    "grey and alpha": (picture(GREY, "LA"), GREY),
    "palette of greys": (picture(GREY, "P"), GREY),
    "16 bits": (picture(GREY.astype(np.uint16) * 200), GREY * 200.0),
}
TIFFS = {
    "8 bits": (tiff(GREY), GREY),
    "16 bits, big-endian": (tiff(GREY.astype(np.uint16) * 200, byteorder=">"), GREY * 200.0),
    "signed": (tiff(GREY.astype(np.int16) - 1000), GREY - 1000.0),
    "floats": (tiff(GREY.astype(np.float32) / 2), GREY / 2),
    "0 is white": (tiff(255 - GREY, photometric="miniswhite"), GREY),
}


@pytest.mark.parametrize(
    ("end", "content", "expected"),
    [(".png", *row) for row in IMAGES.values()] + [(".tif", *row) for row in TIFFS.values()],
    ids=[*IMAGES, *(f"TIFF, {name}" for name in TIFFS)],
)
def test_pictures(tmp_path, end, content, expected):
    source = pictures(tmp_path, content, picture(LABEL), (end, ".png"))
    scan = source.load()
    assert np.allclose(sitk.GetArrayFromImage(scan.image), np.stack([expected] * 2))
    assert [note.kind for note in scan.notes] == (["reinterpreted"] if content is TIFFS["0 is white"][0] else [])


MASKS = {
    "numbers": (picture(LABEL), BY_NUMBER),
    "16 bits": (picture(LABEL.astype(np.uint16)), BY_NUMBER),
    "1 bit": (picture(LABEL > 0), {"masks": LABEL > 0}),
    "255": (picture((LABEL > 0).astype(np.uint8) * 255), {"masks": LABEL > 0}),
    "colours": (picture(COLOURS[LABEL]), BY_COLOUR),
    "colours and alpha": (picture(np.dstack([COLOURS[LABEL], np.full_like(LABEL, 255)])), BY_COLOUR),
    "palette": (picture(with_palette(LABEL, *COLOURS)), BY_NUMBER),
    "palette whose background is not 0": (
        picture(with_palette(np.array([1, 0, 2])[LABEL], COLOURS[1], COLOURS[0], COLOURS[2])),
        BY_COLOUR,
    ),
    "palette of one colour": (picture(with_palette(LABEL, *[(0, 0, 0)] * 3)), BY_NUMBER),
    "white, where it is not transparent": (
        picture(np.dstack([*[np.full_like(LABEL, 255)] * 3, (LABEL > 0).astype(np.uint8) * 255])),
        {"masks": LABEL > 0},
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(tmp_path, name):
    found = structures(pictures(tmp_path, picture(GREY), MASKS[name][0]))
    assert found.keys() == MASKS[name][1].keys()
    for structure, drawn in MASKS[name][1].items():
        assert (found[structure] == drawn).all()


def test_palettes_that_differ_are_told_by_their_colours(tmp_path):
    pictures(tmp_path, picture(GREY), picture(with_palette(LABEL, *COLOURS)))
    other = with_palette(np.array([0, 2, 1])[LABEL], COLOURS[0], COLOURS[2], COLOURS[1])
    (tmp_path / "masks" / "p1_s1.png").write_bytes(picture(other))
    (source,) = slices.find_sources(tmp_path, ArchiveOptions(pixel_spacing=1.0))[0]
    found = structures(source)
    for structure, drawn in BY_COLOUR.items():
        assert (found[structure] == drawn).all()


FAULTY = {  # image, mask, endings, message
    "JPEG mask saved as PNG": (picture(GREY), picture(jpeg((LABEL > 0) * np.uint8(255))), ".png", "JPEG compression"),
    "interpolated": (
        picture(GREY),
        tiff((LABEL * 0.5).astype(np.float32)),
        ".tif",
        "masks/p1_s0.tif: values between whole",
    ),
    "probabilities": (picture(GREY), tiff((GREY / 255).astype(np.float32)), ".tif", "probabilities"),
    "nearly whole": (picture(GREY), tiff((LABEL * 0.998).astype(np.float32)), ".tif", "--accept rounded-labels"),
    "0 bytes": (picture(GREY), b"", ".png", r"masks/p1_s0.png is empty \(0 bytes\)"),
    "other size": (picture(GREY), picture(LABEL[:90]), ".png", "128 x 90 pixels, but images/p1_s0.png has 128 x 96"),
    "partly transparent": (
        picture(GREY),
        picture(np.dstack([COLOURS[LABEL], np.arange(128, dtype=np.uint8)[None].repeat(96, 0)])),
        ".png",
        "partly transparent",
    ),
    "colour image": (picture(COLOURS[LABEL][::-1]), picture(LABEL), ".png", "images/p1_s0.png: a colour image"),
    "truncated image": (picture(GREY)[:500], picture(LABEL), ".png", "images/p1_s0.png cannot be read"),
    "JPEG masks": (picture(GREY), picture(LABEL), ".jpg", "no mask belongs .* JPEG changes labels"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_pictures(tmp_path, name):
    image, mask, end, message = FAULTY[name]
    with pytest.raises(BadInput, match=message):
        pictures(tmp_path, image, mask, (".png", end)).load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(np.stack([GREY] * 5), photometric="minisblack"), "5 pages"),
        (tiff(np.stack([GREY] * 4, -1), photometric="separated"), "SEPARATED"),
        (tiff(GREY, extratags=[(274, "H", 1, 3, True)]), "Orientation 3"),
        (tiff(GREY)[:300], "cannot be read"),
    ],
)
def test_faulty_tiffs(tmp_path, content, message):
    with pytest.raises(BadInput, match=message):
        pictures(tmp_path, content, picture(LABEL), (".tif", ".png")).load()


def nearly_black() -> np.ndarray:
    pixels = np.zeros_like(GREY)
    pixels[10:14, 20:40] = 7
    return pixels


@pytest.mark.parametrize("first", [np.zeros_like(GREY), np.full_like(GREY, 255), nearly_black()])
@pytest.mark.parametrize("parts", [("ct", "covid"), ("images", "masks")])
def test_a_blank_picture_is_an_image_among_images(tmp_path, first, parts):
    for part, array in zip(parts, (GREY, LABEL), strict=True):
        (tmp_path / part).mkdir()
        for z in range(6):
            (tmp_path / part / f"p1_s{z}.png").write_bytes(picture(array))
    (tmp_path / parts[0] / "p1_s0.png").write_bytes(picture(first))
    (tmp_path / parts[1] / "p1_s0.png").write_bytes(picture(LABEL * 0))
    (source,), _ = slices.find_sources(tmp_path, ArchiveOptions(pixel_spacing=1.0))
    scan = source.load()
    assert (sitk.GetArrayFromImage(scan.image) == np.stack([first, *[GREY] * 5])).all()
    assert not sitk.GetArrayFromImage(scan.structures["label 1"])[0].any()
    if parts == ("ct", "covid"):  # the names say nothing
        assert [(note.kind, note.count) for note in scan.notes] == [("guessed", 1)]
