"""Raw datasets: what is read, and what is refused with which words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.commands.augment import entry as augment
from nnunet_difflung.dataset.cache import check_cases
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset.reading import with_class_counts
from nnunet_difflung.dataset.splits import make_splits
from nnunet_difflung.errors import BadInput
from tests.support.tiny import LABELS, make_dataset


def _json(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def mutate(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return mutate


FAULTS = [
    ("no dataset.json", lambda f: (f / "dataset.json").unlink(), "dataset.json is missing"),
    ("no JSON", lambda f: (f / "dataset.json").write_text("{"), "is not valid JSON"),
    ("a list", lambda f: (f / "dataset.json").write_text("[]"), "lacks the key 'labels'"),
    ("key missing", _json("dataset.json", lambda c: c.pop("file_ending")), "lacks the key 'file_ending'"),
    ("count", _json("dataset.json", lambda c: c.update(numTraining=7)), "says numTraining 7, but 8 training cases"),
    ("regions", _json("dataset.json", lambda c: c["labels"].update(ILD=[2, 3])), "region-based labels"),
    ("no pathology", _json("dataset.json", lambda c: c.update(labels={"background": 0, "lung": 1})), "no pathology"),
    (
        "no normal lung",
        _json("dataset.json", lambda c: c.update(labels={"background": 0, "a": 1, "b": 2})),
        "no label that is clearly normal lung",
    ),
    ("two normal lungs", _json("dataset.json", lambda c: c["labels"].update(normal_lung_left=4)), "--normal-label"),
    ("image missing", lambda f: (f / "imagesTr" / "lung_001_s00_0000.nii.gz").unlink(), "has no image lung_001_s00"),
    ("label missing", lambda f: (f / "labelsTr" / "lung_001_s00.nii.gz").unlink(), "lung_001_s00.nii.gz is missing"),
    ("no folder", lambda f: (f / "imagesTr").rename(f / "images"), "imagesTr is missing"),
    (
        "channel suffix",
        lambda f: (f / "imagesTr" / "lung_001_s00_0000.nii.gz").rename(f / "imagesTr" / "a.nii.gz"),
        "does not end in _XXXX.nii.gz",
    ),
    ("unreadable", lambda f: [p.write_bytes(b"no") for p in (f / "imagesTr").iterdir()], "cannot be read by any of"),
    ("splits no JSON", lambda f: (f / "splits_final.json").write_text("{"), "is not a split file"),
    ("splits empty", lambda f: (f / "splits_final.json").write_text("[]"), "is not a split file"),
    ("unknown case", _json("splits_final.json", lambda c: c[1]["val"].append("x")), "fold 1 lists the val case 'x'"),
    ("empty fold", _json("splits_final.json", lambda c: c[2].update(train=[])), "fold 2 has no training case"),
    (
        "patient on both sides",
        _json("splits_final.json", lambda c: c[0]["train"].append(c[0]["val"][0])),
        "patient 'lung_001' in training and in validation",
    ),
]


@pytest.mark.parametrize(("mutate", "message"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_faulty_datasets_are_refused_in_one_line(raw_folder, mutate, message):
    folder = make_dataset(raw_folder, patients=4, slices=2, size=16)
    open_raw_dataset("801")
    mutate(folder)
    with pytest.raises(BadInput) as error:
        open_raw_dataset("801")
    assert message in str(error.value)
    assert "\n" not in str(error.value).strip()


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed"])
def test_missing_path_variables_are_named(raw_folder, monkeypatch, variable):
    make_dataset(raw_folder, patients=2, size=16)
    monkeypatch.setenv(variable, str(raw_folder / "nowhere"))
    with pytest.raises(BadInput, match=f"{variable}=.*is not a folder"):
        open_raw_dataset("801")
    monkeypatch.delenv(variable)
    with pytest.raises(BadInput, match=f"{variable} is not set"):
        open_raw_dataset("801")


def test_datasets_are_found_by_id_and_name(raw_folder):
    folder = make_dataset(raw_folder, dataset_id=7, name="A", patients=2, size=16)
    assert open_raw_dataset("7").folder == open_raw_dataset("007").folder == open_raw_dataset("Dataset007_A").folder
    with pytest.raises(BadInput, match="dataset 8 is not in nnUNet_raw.*Dataset007_A"):
        open_raw_dataset("8")
    folder.with_name("Dataset007_B").mkdir()
    with pytest.raises(BadInput, match="several datasets.*Dataset007_A, Dataset007_B"):
        open_raw_dataset("7")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"channels": 2, "volumes": True},
        {"file_ending": ".nrrd"},
        {"file_ending": ".png"},
        {"file_ending": ".tif", "volumes": True},
        {"dataset_key": True, "ignore": True},
    ],
)
def test_cases_are_c_z_y_x_and_labels_fit(raw_folder, options):
    make_dataset(raw_folder, patients=3, slices=2, size=(16, 20), depth=5, **options)
    raw = open_raw_dataset("801")
    volumes = options.get("volumes", False)
    assert len(raw.cases) == (3 if volumes else 6)
    assert len(raw.splits) == 3
    for identifier in raw.cases:
        image, properties = raw.read_image(identifier)
        label, _ = raw.read_label(identifier)
        assert image.shape == (options.get("channels", 1), 5 if volumes else 1, 16, 20)
        assert image.dtype == np.float32
        assert label.shape == image.shape[1:]
        assert label.dtype == np.int16
        assert len(properties["spacing"]) == 3
        assert set(np.unique(label)) <= {*LABELS.values(), *[4] * options.get("ignore", False)}
    assert raw.roles.normal == ("normal_lung",)
    assert raw.roles.pathologies == ("emphysema", "ILD")


def test_folds_by_name_and_new_patient_grouped_folds(raw_folder):
    make_dataset(raw_folder, patients=6, slices=2, size=16, splits=False)
    raw = open_raw_dataset("801")
    assert raw.splits_are_new
    assert raw.folds() == [0, 1, 2, 3, 4]
    assert raw.folds(["all", "2", "2"]) == ["all", 2]
    for split in raw.splits:
        assert not {raw.patients[i] for i in split["train"]} & {raw.patients[i] for i in split["val"]}
    assert sorted(i for split in raw.splits for i in split["val"]) == sorted(raw.cases)
    for wrong in ("5", "-1", "x", "²"):
        with pytest.raises(BadInput, match=f"fold {wrong} is not in the split"):
            raw.folds([wrong])


def test_new_folds_are_those_of_the_converters_whether_labels_or_facts_are_counted(raw_folder):
    make_dataset(raw_folder, patients=10, slices=1, size=16, splits=False, emphysema_every=6)
    raw = open_raw_dataset("801")
    holding = [i for i in raw.cases if (raw.read_label(i)[0] == LABELS["emphysema"]).any()]
    assert len(holding) == 2
    assert all(set(holding) & set(split["train"]) for split in raw.splits)
    counted = with_class_counts(raw, check_cases(raw, progress=False))
    assert counted.voxels is not None
    assert counted.splits == raw.splits == make_splits(raw.patients, counted.voxels)
    assert counted.splits_are_new


def test_folds_of_a_generator_of_the_first_versions_are_kept(folders):
    make_dataset(folders[0], patients=10, slices=1, size=16, splits=False)
    raw = open_raw_dataset("801")
    before = {"lung_002", "lung_004"}  # fold 1 of commit b369f62
    trained = sorted(i for i in raw.cases if raw.patients[i].removesuffix("_s00") not in before)
    assert trained != raw.training_cases(1)
    card = folders[2] / raw.name / "DiffLung__cbmat" / "fold_1" / "generator.json"
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"fold": 1, "training_cases": trained, "finished": False}))
    assert open_raw_dataset("801").training_cases(1) == trained


@pytest.mark.parametrize("splits", [True, False])
def test_a_damaged_card_of_a_generator_is_named_in_one_line(folders, capsys, splits):
    make_dataset(folders[0], patients=3, slices=1, size=16, splits=splits)
    card = folders[2] / "Dataset801_Tiny" / "DiffLung__cbmat" / "fold_1" / "generator.json"
    card.parent.mkdir(parents=True)
    card.write_text('{"fold": 1, ')
    with pytest.raises(SystemExit) as ended:
        augment(["-d", "801", "-f", "1", "--method", "cbmat", "--preset", "fast", "-device", "cpu"])
    assert ended.value.code == 2
    (told,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("Error"))
    assert f"{card} is damaged" in told
    assert f"delete the folder {card.parent}" in told


@pytest.mark.parametrize(
    ("file", "part"), [("lung_001_s00_0000.nii.gz", "imagesTr"), ("lung_001_s00.nii.gz", "labelsTr")]
)
def test_an_unreadable_case_is_named(raw_folder, file, part):
    folder = make_dataset(raw_folder, patients=2, size=16)
    raw = open_raw_dataset("801")
    (folder / part / file).write_bytes(b"no image")
    with pytest.raises(BadInput, match=f"{file} cannot be read"):
        (raw.read_image if part == "imagesTr" else raw.read_label)("lung_001_s00")
