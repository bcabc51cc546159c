"""Errors in an archive, a mapping or a command line: one line with the file and the remedy; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.convert import entry
from nnunet_difflung.dataset_conversion.pipeline.mapping import parse_mapping
from nnunet_difflung.errors import BadInput
from tests.support.archives import like, write_dicom, write_slices, write_volumes
from tests.support.tiny import tree_hashes

GOOD = 'labels:\n  normal_lung: ["label 1"]\n  emphysema: ["label 2"]\n  ILD: ["label 3"]\n'
NAMES = 'labels:\n  normal_lung: ["lungs"]\n  emphysema: ["emphysema"]\n  ILD: ["ild"]\n'
CT, LABEL = "ct/p1.nii.gz", "label/p1.nii.gz"


def edited(name: str, change: Callable[[sitk.Image], sitk.Image]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        image = change(sitk.ReadImage(str(folder / name)))
        sitk.WriteImage(image, str(folder / name))

    return edit


def truncated(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:90])


def copied(name: str, copy: str) -> Callable[[Path], None]:
    return lambda folder: (folder / copy).write_bytes((folder / name).read_bytes())


def removed(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names]


def moved(image: sitk.Image) -> sitk.Image:
    image.SetOrigin((300.0, 50.0, -300.0))
    return image


def cropped_and_moved(image: sitk.Image) -> sitk.Image:
    return moved(image[:, :, :3])


def without_structure(image: sitk.Image) -> sitk.Image:
    array = sitk.GetArrayFromImage(image)
    array[array == 2] = 1
    return like(array)


def empty(image: sitk.Image) -> sitk.Image:
    return like(sitk.GetArrayFromImage(image) * 0)


def stored(image: sitk.Image) -> sitk.Image:
    return like((sitk.GetArrayFromImage(image).astype(np.int32) + 1024).astype(np.uint16))


def windowed(image: sitk.Image) -> sitk.Image:
    return like((np.clip(sitk.GetArrayFromImage(image).astype(float) + 1350, 0, 1500) / 1500 * 255).astype(np.uint8))


def nothing(folder: Path) -> None:
    pass


def existing(folder: Path) -> None:
    (folder.parent / "nnUNet_raw" / "Dataset810_Mine").mkdir()


def same_id(folder: Path) -> None:
    (folder.parent / "nnUNet_raw" / "Dataset810_Other").mkdir()


FAULTS = [  # name, mutation of a good archive of volumes, mapping, further options, parts of the message
    ("image truncated", truncated(CT), GOOD, [], ["p1.nii.gz", "cannot be read", "copy it again"]),
    ("label truncated", truncated(LABEL), GOOD, [], ["p1.nii.gz", "cannot be read"]),
    ("label map displaced", edited(LABEL, moved), GOOD, [], ["p1", "displaced by up to", "header"]),
    ("label map outside the image", edited(LABEL, cropped_and_moved), GOOD, [], ["p1", "outside the image"]),
    ("label missing", removed(LABEL), GOOD, [], ["p1.nii.gz", "no label map"]),
    ("image missing", removed(CT), GOOD, [], ["label/p1.nii.gz", "no image"]),
    ("label of a missing image", copied(LABEL, "label/p1_2.nii.gz"), GOOD, [], ["label/p1_2.nii.gz", "no image"]),
    ("another label of one image", copied(LABEL, "label/p1_old.nii.gz"), GOOD, [], ["label/p1_old.nii.gz", "no image"]),
    ("empty mask", edited(LABEL, empty), GOOD, [], ["p1.nii.gz", "empty mask"]),
    ("structure missing", edited(LABEL, without_structure), GOOD, [], ["emphysema in p1", "--allow-missing"]),
    ("unknown structure", nothing, GOOD.replace('  ILD: ["label 3"]\n', ""), [], ["'label 3'", "ignore_structures"]),
    ("mapping of nothing", nothing, GOOD + '  fibrosis: ["fib.*"]\n', [], ["fibrosis", "matches no structure"]),
    ("structure in two labels", nothing, GOOD + '  other: ["label 3"]\n', [], ["'label 3'", "ILD and by other"]),
    ("label twice", nothing, GOOD + '  ILD: ["label 4"]\n', [], ["'ILD' is listed twice"]),
    ("mapping without labels", nothing, "lung: none\n", [], ["labels"]),
    ("mapping is not YAML", nothing, "labels: [", [], ["is not valid YAML"]),
    ("bad expression", nothing, 'labels:\n  a: ["("]\n', [], ["regular expression"]),
    ("unknown key", nothing, GOOD + "lungs: threshold\n", [], ["'lungs'", "lung"]),
    ("stored values", edited(CT, stored), GOOD, [], ["p1", "--rescale 1,-1024"]),
    ("HU and windows together", edited(CT, windowed), GOOD, [], ["lung_window_8bit", "CT", "p1", "p2"]),
    ("window in HU for other values", edited(CT, windowed), GOOD, ["--window", "0,100"], ["in HU", "remove --window"]),
    ("dataset exists", existing, GOOD, [], ["Dataset810_Mine already exists", "--overwrite"]),
    ("id taken", same_id, GOOD, [], ["Dataset810_Other"]),
    ("no archive", nothing, GOOD, ["-i", "/nowhere"], ["/nowhere", "not a folder"]),
    ("no such mapping", nothing, None, [], ["does not exist", "--list"]),
    ("unknown test patient", nothing, GOOD, ["--test", "p9"], ["--test p9", "p1, p2"]),
    ("all are test patients", nothing, GOOD, ["--test", "p1", "p2", "p3"], ["every patient"]),
    ("id", nothing, GOOD, ["-d", "1000"], ["1000", "1 to 999"]),
    ("spacing and size", nothing, GOOD, ["--spacing", "2", "--size", "64"], ["exclude each other"]),
    ("spacing", nothing, GOOD, ["--spacing", "0"], ["--spacing 0", "from 0.1 to 50"]),
    ("processes", nothing, GOOD, ["-np", "0"], ["-np 0"]),
    ("series of volumes", nothing, GOOD, ["--series", "a"], ["--series", "volumes"]),
    ("pattern", nothing, GOOD, ["--patient-pattern", "x(.*)"], ["--patient-pattern", "does not match"]),
    ("pattern syntax", nothing, GOOD, ["--patient-pattern", "("], ["regular expression"]),
    ("image expression", nothing, GOOD, ["--image", "scan"], ["--image 'scan' matches none"]),
    (
        "crop without lung",
        nothing,
        'labels:\n  a: ["label 2"]\n  b: ["label 3"]\nignore_structures: ["label 1"]\n',
        ["--crop-lungs"],
        ["--crop-lungs", "normal lung"],
    ),
    ("mixed archive", lambda f: write_slices(f / "more", 1), GOOD, [], ["volumes", "slices", "--kind"]),
    ("one value", edited(CT, lambda _: like(np.full((4, 64, 64), -5, np.int16))), GOOD, [], ["p1", "every value is"]),
]


def refused(capsys, folder: Path, mapping: str | None, options: list[str]) -> str:
    path = folder.parent / "map.yaml"
    if mapping is not None:
        path.write_text(mapping)
    before = tree_hashes(folder, folder.parent / "nnUNet_raw")
    with pytest.raises(SystemExit) as stop:
        entry(["-i", str(folder), "--mapping", str(path), "-d", "810", "--name", "Mine", "-np", "1", *options])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert stop.value.code == 2
    assert len(lines) == 1
    after = {k: v for k, v in tree_hashes(folder, folder.parent / "nnUNet_raw").items() if ".partial" not in k}
    assert after == before
    return lines[0]


@pytest.mark.parametrize(
    ("mutate", "mapping", "options", "parts"), [row[1:] for row in FAULTS], ids=[r[0] for r in FAULTS]
)
def test_fault(folders, tmp_path, capsys, mutate, mapping, options, parts):
    write_volumes(tmp_path / "archive")
    mutate(tmp_path / "archive")
    message = refused(capsys, tmp_path / "archive", mapping, options)
    assert all(part in message for part in parts), message


def no_ct(z: int, data) -> None:
    data.Modality = "MR"


def scout(z: int, data) -> None:
    data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


@pytest.mark.parametrize(("change", "parts"), [(no_ct, ["no CT series", "MR"]), (scout, ["no CT series", "localizer"])])
def test_dicom_that_is_not_ct(folders, tmp_path, capsys, change, parts):
    pytest.importorskip("highdicom")
    from tests.support.archives import chest
    from tests.support.dicom_files import write_ct

    write_dicom(tmp_path / "archive", 2)
    write_ct(tmp_path / "archive" / "p3", like(chest(3)[0].astype(np.float32)), "3", change=change)
    message = refused(capsys, tmp_path / "archive", NAMES, [])
    assert "p3" in message, message
    assert all(part in message for part in parts), message


def test_two_series_of_a_patient(folders, tmp_path, capsys):
    pytest.importorskip("highdicom")
    from tests.support.archives import chest
    from tests.support.dicom_files import write_ct

    write_dicom(tmp_path / "archive", 1)
    for name in ("thick", "thin"):
        write_ct(tmp_path / "archive" / "p2" / name, like(chest(3)[0].astype(np.float32)), "2")
    message = refused(capsys, tmp_path / "archive", NAMES, [])
    assert "thick" in message
    assert "thin" in message
    assert "--series" in message


def test_slices_without_a_pixel_size(folders, tmp_path, capsys):
    write_slices(tmp_path / "archive")
    assert "--pixel-spacing" in refused(capsys, tmp_path / "archive", GOOD, [])


@pytest.mark.parametrize("missing", ["--mapping", "-d", "--name"])
def test_missing_options_are_named(tmp_path, capsys, missing):
    options = {"--mapping": "m.yaml", "-d": "810", "--name": "A"}
    del options[missing]
    with pytest.raises(SystemExit) as stop:
        entry(["-i", str(tmp_path), *(word for pair in options.items() for word in pair)])
    assert stop.value.code == 2
    assert f"Error: {missing} is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": {}}, "'labels' is empty"),
        ({"labels": {"background": ["a"]}}, "is not background"),
        ({"labels": {"a": []}}, "no structures"),
        ({"labels": {"a": [1]}}, "regular expressions in quotes"),
        ({"labels": {"a": {"structures": ["x"], "priority": "high"}}}, "is not a number"),
        ({"labels": {"a": {"structures": ["x"], "pathology": 1}}}, "neither true nor false"),
        ({"labels": {"a": ["x"]}, "lung": "maybe"}, "'maybe' is unknown; expected none, threshold or lungmask"),
        ({"labels": {"a": {"structure": ["x"]}}}, "'structure'"),
    ],
)
def test_mappings(content, message):
    with pytest.raises(BadInput, match=message):
        parse_mapping(content)


def test_mapping_values_follow_the_order_and_derived_lung_comes_first():
    mapping = parse_mapping({"labels": {"b": ["x"], "a": "y"}, "lung": "threshold", "ignore_label": ["z"]})
    assert mapping.labels == {"background": 0, "normal_lung": 1, "b": 2, "a": 3, "ignore": 4}
    assert mapping.normal == 1
    assert mapping.ignore == 4
    assert mapping.rule_of("Y").label == "a"
    assert mapping.rule_of("z").priority == 0
