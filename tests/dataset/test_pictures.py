"""Pictures (PNG, BMP, TIFF) of every mode are read as nnU-Net does and copied in their mode, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image

from nnunet_difflung.dataset.cache import check_cases
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset.writing import write_changed_copy
from nnunet_difflung.errors import BadInput
from tests.support.tiny import make_dataset

MODES = {
    ".png": ("1", "L", "RGB", "RGBA", "I;16", "P"),
    ".bmp": ("1", "L", "RGB"),
    ".tif": ("1", "L", "RGB", "RGBA", "I;16", "F"),
}
CHANNELS = {"RGB": 3, "RGBA": 4, "P": 3}


def picture(grey: np.ndarray, mode: str) -> Image.Image:
    """A picture of a (y, x) uint8 image; ``P`` has a grey palette."""
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 100)
    if mode == "P":
        paletted = Image.fromarray(grey).convert("P")
        paletted.putpalette([value for grey in range(256) for value in (grey, grey, grey)])
        return paletted
    if mode == "1":
        return Image.fromarray(grey > 100)
    return Image.fromarray(grey).convert(mode)


def as_pictures(folder: Path, mode: str) -> None:
    for path in (folder / "imagesTr").iterdir():
        values = np.array(Image.open(path)).astype(float)
        picture((values * 255 / max(1, values.max())).astype(np.uint8), mode).save(path)


def pictures(raw_folder: Path, ending: str, mode: str) -> Path:
    channels = CHANNELS.get(mode, 1)
    names = {str(number): f"colour{number}" for number in range(channels)}
    options = {"file_ending": ending, "dtype": "int16" if ending == ".tif" else "uint8", "channel_names": names}
    folder = make_dataset(raw_folder, patients=2, slices=1, size=(20, 24), **options)
    if ending == ".tif":
        for path in (folder / "imagesTr").iterdir():
            Image.fromarray((np.array(Image.open(path)) + 1024).clip(0, 4080).astype(np.uint16)).save(path)
    as_pictures(folder, mode)
    return folder


@pytest.mark.parametrize(("ending", "mode"), [(ending, mode) for ending, modes in MODES.items() for mode in modes])
def test_a_copy_has_the_mode_of_its_source_and_reads_alike(raw_folder, tmp_path, ending, mode):
    pictures(raw_folder, ending, mode)
    raw = open_raw_dataset("801")
    facts = check_cases(raw, progress=False)
    case = next(iter(raw.cases.values()))
    image, _ = raw.read_image(case.identifier)
    assert len(image) == facts[case.identifier].channels == CHANNELS.get(mode, 1)
    where = np.zeros(image.shape[1:], bool)
    where[0, 3:7, 5:11] = True
    values = np.where(np.arange(24) % 2, image.max(), image.min()) * np.ones_like(image)
    target = str(tmp_path / f"copy{ending}")
    write_changed_copy(case.images, [target], values, where, raw.reader)
    after, _ = raw.reader().read_images([target])
    assert np.array_equal(after, np.where(where, values, image))
    assert Image.open(target).mode == ("RGB" if mode == "P" else mode), "nnU-Net reads the colours of a palette"


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_a_new_label_that_one_bit_cannot_hold_is_not_lost(raw_folder, tmp_path, ending):
    folder = make_dataset(raw_folder, patients=2, slices=1, size=(20, 24), file_ending=ending, dtype="uint8")
    path = next((folder / "labelsTr").iterdir())
    Image.fromarray(np.array(Image.open(path)) > 0).save(path)
    raw = open_raw_dataset("801")
    identifier = path.name[: -len(ending)]
    label, _ = raw.read_label(identifier)
    assert sorted(np.unique(label)) == [0, 1]
    for value in (1, 2):
        where = np.zeros(label.shape, bool)
        where[0, 3:7, 5:11] = True
        target = str(tmp_path / f"label{ending}")
        write_changed_copy([str(path)], [target], np.full((1, *label.shape), value), where, raw.reader)
        after = np.asarray(raw.reader().read_seg(target)[0][0])
        assert np.array_equal(after, np.where(where, value, label))
        assert Image.open(target).mode == ("1" if value == 1 else "L")


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "P"])
def test_labels_of_every_mode_that_says_one_value_are_read(raw_folder, mode):
    folder = make_dataset(raw_folder, patients=2, slices=1, file_ending=".png")
    before = {path.name: np.array(Image.open(path)) for path in (folder / "labelsTr").iterdir()}
    for path in (folder / "labelsTr").iterdir():
        label = np.array(Image.open(path))
        Image.fromarray(label.astype(np.uint16)).save(path) if mode == "I;16" else picture(label, mode).save(path)
    raw = open_raw_dataset("801")
    for identifier in raw.cases:
        assert np.array_equal(raw.read_label(identifier)[0][0], before[f"{identifier}.png"])


def test_coloured_labels_are_refused_by_name(raw_folder):
    folder = make_dataset(raw_folder, patients=2, slices=1, file_ending=".png")
    path = sorted((folder / "labelsTr").iterdir())[0]
    coloured = Image.fromarray(np.array(Image.open(path))).convert("P")
    coloured.putpalette([0, 0, 0, 0, 255, 0, 255, 0, 0, 0, 0, 255] + [0] * 756)
    coloured.save(path)
    with pytest.raises(BadInput, match=rf"{path} has 3 channels that differ.*save the values themselves as a grey"):
        check_cases(open_raw_dataset("801"), progress=False)


def test_colours_without_channel_names_and_grey_with_alpha_are_refused_with_what_helps(raw_folder):
    folder = pictures(raw_folder, ".png", "RGB")
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "channel_names": {"0": "grey"}}))
    with pytest.raises(BadInput, match="3 channels found, 1 expected .*name all 3 channels of the picture"):
        check_cases(open_raw_dataset("801"), progress=False)
    as_pictures(folder, "LA")
    with pytest.raises(BadInput, match=r"cannot be read .*RGB or RGBA.*\(20, 24, 2\).*convert the files"):
        open_raw_dataset("801")


def test_a_stack_of_one_bit_pages_keeps_new_labels(tmp_path):
    label = np.zeros((3, 8, 9), bool)
    label[:, 2:5, 3:6] = True
    source, where = str(tmp_path / "label.tif"), np.zeros(label.shape, bool)
    tifffile.imwrite(source, label)
    where[1, 3] = True
    for value in (1, 2):
        target = str(tmp_path / f"copy{value}.tif")
        write_changed_copy([source], [target], np.full((1, *label.shape), value), where, Tiff3DIO)
        assert np.array_equal(tifffile.imread(target), np.where(where, value, label))
