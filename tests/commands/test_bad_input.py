"""Faulty datasets and command lines: exit code 2, one line that names file and remedy, every file left as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.commands.augment import entry
from tests.support.tiny import make_dataset, tree_hashes

CASE = "lung_001_s00"


def edit_json(name: str, **changes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text())
        for key, value in changes.items():
            if value is None:
                content.pop(key)
            else:
                content[key] = value
        path.write_text(json.dumps(content))

    return edit


def edit_splits(edit: Callable[[list], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "splits_final.json").read_text())
        edit(content)
        (folder / "splits_final.json").write_text(json.dumps(content))

    return apply


def edit_image(part: str, change: Callable[[sitk.Image], sitk.Image], suffix: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = str(folder / part / f"{CASE}{suffix}.nii.gz")
        sitk.WriteImage(change(sitk.ReadImage(path)), path)

    return edit


def label(change) -> Callable[[Path], None]:
    return edit_image("labelsTr", change, "")


def with_spacing(image: sitk.Image) -> sitk.Image:
    image.SetSpacing((1.0, 1.0, 9.0))
    return image


def with_origin(image: sitk.Image) -> sitk.Image:
    image.SetOrigin((50.0, 7.25, 100.0))
    return image


def with_label_9(image: sitk.Image) -> sitk.Image:
    image[3, 3, 0] = 9
    return image


def swap_labels(source: int, target: int) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for path in sorted((folder / "labelsTr").glob("*.nii.gz")):
            image = sitk.ReadImage(str(path))
            array = sitk.GetArrayFromImage(image)
            array[array == source] = target
            changed = sitk.GetImageFromArray(array)
            changed.CopyInformation(image)
            sitk.WriteImage(changed, str(path))

    return edit


def nan_image(folder: Path) -> None:
    """nrrd, since ITK's NIfTI reader turns NaN into 0."""
    for part in ("imagesTr", "labelsTr"):
        for path in (folder / part).glob("*.nii.gz"):
            image = sitk.ReadImage(str(path), sitk.sitkFloat32 if part == "imagesTr" else sitk.sitkUInt8)
            if path.name.startswith(CASE) and part == "imagesTr":
                array = sitk.GetArrayFromImage(image)
                array[0, 5, 5] = np.nan
                changed = sitk.GetImageFromArray(array)
                changed.CopyInformation(image)
                image = changed
            sitk.WriteImage(image, str(path).replace(".nii.gz", ".nrrd"))
            path.unlink()
    edit_json("dataset.json", file_ending=".nrrd")(folder)


def nothing(folder: Path) -> None:
    pass


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:60])


FAULTS = [  # name, mutation of a good dataset, further options, parts of the message
    ("no dataset.json", drop("dataset.json"), [], ["dataset.json is missing"]),
    ("broken dataset.json", truncate("dataset.json"), [], ["dataset.json", "not valid JSON"]),
    ("key missing", edit_json("dataset.json", file_ending=None), [], ["lacks the key 'file_ending'"]),
    ("numTraining", edit_json("dataset.json", numTraining=7), [], ["numTraining 7", "10"]),
    (
        "id that leaves the folder",
        edit_json(
            "dataset.json",
            dataset={"../../out": {"images": [f"imagesTr/{CASE}_0000.nii.gz"], "label": f"labelsTr/{CASE}.nii.gz"}},
            numTraining=1,
        ),
        [],
        ["dataset.json", "'../../out'", "no slash"],
    ),
    ("label file missing", drop(f"labelsTr/{CASE}.nii.gz"), [], [f"{CASE}.nii.gz is missing"]),
    ("image file missing", drop(f"imagesTr/{CASE}_0000.nii.gz"), [], [CASE, "has no image"]),
    (
        "file without channel",
        lambda f: (f / "imagesTr" / f"{CASE}_0000.nii.gz").rename(f / "imagesTr" / "x.nii.gz"),
        [],
        ["x.nii.gz", "_XXXX"],
    ),
    ("unreadable image", truncate(f"imagesTr/{CASE}_0000.nii.gz"), [], [f"{CASE}_0000.nii.gz"]),
    ("unreadable label", truncate(f"labelsTr/{CASE}.nii.gz"), [], [f"{CASE}.nii.gz", "cannot be read"]),
    ("label of other shape", label(lambda i: i[:20, :, :]), [], [f"{CASE}.nii.gz", "shape", "resample"]),
    ("label of other spacing", label(with_spacing), [], [f"{CASE}.nii.gz", "spacing", "resample"]),
    ("label of other origin", label(with_origin), [], [f"{CASE}.nii.gz", "origin", "resample"]),
    ("unknown label", label(with_label_9), [], [f"{CASE}.nii.gz", "label 9", "[0, 1, 2, 3]"]),
    ("NaN", nan_image, [], [f"{CASE}_0000.nrrd", "NaN"]),
    (
        "channels",
        edit_json("dataset.json", channel_names={"0": "CT", "1": "PET"}),
        [],
        ["1 channels found, 2 expected"],
    ),
    (
        "regions",
        edit_json("dataset.json", labels={"background": 0, "lung": [1, 2, 3], "ILD": 3}),
        [],
        ["region-based", "plain integers"],
    ),
    (
        "no normal lung",
        edit_json("dataset.json", labels={"background": 0, "a": 1, "b": 2, "c": 3}),
        [],
        ["--normal-label"],
    ),
    ("no pathology", edit_json("dataset.json", labels={"background": 0, "normal_lung": 1}), [], ["no pathology"]),
    ("no pathology in any case", lambda f: (swap_labels(2, 1)(f), swap_labels(3, 1)(f)), [], ["hold no pathology"]),
    ("no normal lung in any case", swap_labels(1, 0), [], ["hold no normal lung"]),
    ("splits broken", truncate("splits_final.json"), [], ["splits_final.json", "not a split file"]),
    ("splits with unknown case", edit_splits(lambda s: s[0]["val"].append("nobody")), [], ["'nobody'", "fold 0"]),
    (
        "patient on both sides",
        edit_splits(lambda s: s[1]["train"].append(s[1]["val"][0])),
        [],
        ["fold 1", "patient", "--patient-pattern"],
    ),
    ("empty training list", edit_splits(lambda s: s[2].update(train=[])), [], ["fold 2", "no training case"]),
    ("fold", nothing, ["-f", "5"], ["fold 5", "folds 0 to 4"]),
    ("fold name", nothing, ["-f", "first"], ["fold first"]),
    ("normal label option", nothing, ["--normal-label", "lung"], ["--normal-label lung", "normal_lung"]),
    ("structure option", nothing, ["--structure-label", "heart"], ["heart", "emphysema"]),
    ("pattern", nothing, ["--patient-pattern", "x.*"], ["--patient-pattern", "does not match"]),
    ("pattern syntax", nothing, ["--patient-pattern", "("], ["regular expression"]),
    ("one patient", drop("splits_final.json"), ["--patient-pattern", "(lung).*"], ["one patient"]),
    ("target of unknown class", nothing, ["--target-share", "fibrosis=0.1"], ["'fibrosis'", "emphysema, ILD"]),
    ("target too large", nothing, ["--target-share", "ILD=2"], ["ILD=2", "between 0 and 1"]),
    ("target without class", nothing, ["--target-share", "0.1"], ["CLASS=SHARE"]),
    ("window", nothing, ["--window", "5,1"], ["--window", "LOW < HIGH"]),
    ("windows for other channels", nothing, ["--window=0,1", "--window=2,3"], ["--window", "1 channel(s)"]),
    ("device", nothing, ["-device", "mps"], ["-device mps", "-device cpu"]),
    ("steps", nothing, ["--steps", "2000"], ["--steps 2000", "1000"]),
    ("empty dataset.json", lambda f: (f / "dataset.json").write_text(""), [], ["dataset.json", "not valid JSON"]),
    ("dataset.json is a list", lambda f: (f / "dataset.json").write_text("[]"), [], ["dataset.json"]),
    (
        "no background",
        edit_json("dataset.json", labels={"normal_lung": 1, "emphysema": 2, "ILD": 3}),
        [],
        ["background"],
    ),
    (
        "label value is text",
        edit_json("dataset.json", labels={"background": 0, "normal_lung": "one", "ILD": 3}),
        [],
        ["dataset.json", "normal_lung"],
    ),
    (
        "one value for two labels",
        edit_json("dataset.json", labels={"background": 0, "normal_lung": 1, "a": 2, "b": 2}),
        [],
        ["dataset.json"],
    ),
    ("unknown file ending", edit_json("dataset.json", file_ending=".xyz"), [], ["numTraining 10, but 0"]),
    ("no images", lambda f: [p.unlink() for p in (f / "imagesTr").iterdir()], [], ["imagesTr"]),
    ("no labels", lambda f: [p.unlink() for p in (f / "labelsTr").iterdir()], [], ["labelsTr"]),
    ("splits are no list", lambda f: (f / "splits_final.json").write_text("{}"), [], ["splits_final.json"]),
    ("fold without val", edit_splits(lambda s: s[0].pop("val")), [], ["splits_final.json", "not a split file"]),
    ("empty splits", edit_splits(lambda s: s.clear()), [], ["splits_final.json"]),
    ("case on both sides", edit_splits(lambda s: s[0]["train"].append(s[0]["val"][0])), [], ["fold 0"]),
    ("strength without harmonise", nothing, ["--strength", "0.3"], ["--strength", "harmonise"]),
    ("strength of nothing", nothing, ["--method", "harmonise", "--strength", "0"], ["--strength 0", "copy_paste"]),
    ("sampler of harmonise", nothing, ["--method", "harmonise", "--sampler", "ddpm"], ["--sampler ddpm"]),
    ("copies of whole slices", nothing, ["--method", "copy_paste", "--paint", "full"], ["--paint composite"]),
    ("normal lung is a structure", nothing, ["--structure-label", "normal_lung"], ["normal_lung"]),
    ("all are structures", nothing, ["--structure-label", "emphysema", "ILD"], ["no pathology"]),
    ("target is no number", nothing, ["--target-share", "ILD=much"], ["ILD=much"]),
    ("window is no pair", nothing, ["--window", "7"], ["--window", "LOW,HIGH"]),
    (
        "hidden file of another system",
        lambda f: (f / "imagesTr" / f"._{CASE}_0000.nii.gz").touch(),
        [],
        [f"._{CASE}_0000.nii.gz", "begins with a dot", "delete it"],
    ),
    (
        "case renamed",
        lambda f: [
            p.rename(p.with_name(f"difflung_x_{p.name}"))
            for part in ("imagesTr", "labelsTr")
            for p in (f / part).iterdir()
            if CASE in p.name
        ],
        [],
        ["begin with 'difflung_'", "imagesTr/difflung_x_lung_001_s00_0000.nii.gz", "rename the cases"],
    ),
]
WORDS = [
    ["--epochs", "0"],
    ["--batch-size", "-1"],
    ["--balanced-share", "2"],
    ["-c", "4d"],
    ["--preset", "best"],
    ["--method", "magic"],
    ["-np", "0"],
    ["-num_gpus", "0"],
    ["--seed", "-3"],
    ["--margin", "x"],
    ["--nonsense"],
]


def stopped(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        entry(arguments)
    return stop.value.code


def one_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    ours = [line for line in lines if line.startswith("Error: ")]
    assert len(ours) == 1
    assert lines[-1] == ours[0]
    assert not any("Traceback" in line for line in lines)
    return ours[0]


@pytest.mark.parametrize("dry", [True, False], ids=["dry-run", "run"])
@pytest.mark.parametrize(("mutate", "options", "parts"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_fault(folders, capsys, mutate, options, parts, dry):
    mutate(make_dataset(folders[0]))
    before = tree_hashes(*folders)
    code = stopped(["-d", "801", "--preset", "fast", "-device", "cpu", *options, *["--dry-run"] * dry])
    message = one_line(capsys)
    assert code == 2, message
    assert all(part in message for part in parts), message
    assert tree_hashes(*folders) == before


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_words_that_argparse_refuses(raw_folder, tmp_path, capsys, words):
    make_dataset(raw_folder)
    before = tree_hashes(tmp_path)
    assert stopped(["-d", "801", *words]) == 2
    said = capsys.readouterr().err
    usage, message = said.splitlines()
    assert usage == "usage: difflung_augment -d DATASET [options]; difflung_augment -h lists them"
    assert words[0] in message
    assert tree_hashes(tmp_path) == before


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
@pytest.mark.parametrize("value", [None, "/nowhere/at/all"])
def test_path_variables(raw_folder, monkeypatch, capsys, variable, value):
    make_dataset(raw_folder)
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    assert stopped(["-d", "801"]) == 2
    assert variable in one_line(capsys)


@pytest.mark.parametrize("name", ["802", "Dataset801_Other", "tiny"])
def test_unknown_dataset_lists_those_there(raw_folder, capsys, name):
    make_dataset(raw_folder)
    assert stopped(["-d", name]) == 2
    assert "Dataset801_Tiny" in one_line(capsys)


def test_a_hidden_file_among_the_labels_is_no_case(raw_folder):
    (make_dataset(raw_folder) / "labelsTr" / f"._{CASE}.nii.gz").touch()
    assert stopped(["-d", "801", "--dry-run", "--preset", "fast", "-device", "cpu", "-f", "0"]) == 0


def test_two_datasets_of_one_id(folders, capsys):
    raw, _, _ = folders
    make_dataset(raw)
    make_dataset(raw, name="Twin")
    assert stopped(["-d", "801"]) == 2
    assert "Dataset801_Tiny" in (line := one_line(capsys))
    assert "Dataset801_Twin" in line


def test_a_class_absent_from_a_fold_is_warned_of_and_left_out(raw_folder, capsys):
    swap_labels(2, 1)(make_dataset(raw_folder))
    assert stopped(["-d", "801", "--dry-run", "--target-share", "ILD=0.3", "-device", "cpu", "--preset", "fast"]) == 0
    assert "emphysema: the training cases of fold" in capsys.readouterr().out


def test_a_disk_too_small_is_seen_before_training(raw_folder, monkeypatch, capsys):
    make_dataset(raw_folder)
    before = tree_hashes(raw_folder)

    class Usage:
        free = 10

    monkeypatch.setattr("nnunet_difflung.pipeline.estimates.shutil.disk_usage", lambda _: Usage)
    assert stopped(["-d", "801", "-device", "cpu", "--preset", "fast"]) == 2
    assert "10 B free" in one_line(capsys)
    assert tree_hashes(raw_folder) == before


def test_other_settings_on_an_augmented_dataset(folders, capsys):
    make_dataset(folders[0])
    (folders[1] / "Dataset801_Tiny").mkdir()
    (folders[1] / "Dataset801_Tiny" / "dataset_fingerprint.json").write_text("{}")
    options = [
        "-d",
        "801",
        "-f",
        "0",
        "--preset",
        "fast",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--steps",
        "2",
        "--gate",
        "report",
        "-device",
        "cpu",
        "--max-synthetic",
    ]
    assert stopped([*options, "2"]) == 0
    before = tree_hashes(*folders)
    capsys.readouterr()
    assert stopped([*options, "3"]) == 2
    assert "difflung_remove" in one_line(capsys)
    assert tree_hashes(*folders) == before
