"""The commands that ``difflung_augment`` prints at its end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.pipeline.report import audit_and_advise
from nnunet_difflung.runtime.files import write_json
from nnunet_difflung.telling.next_commands import next_commands, note_of_configuration
from tests.support.tiny import make_dataset, set_paths


@pytest.mark.parametrize("test_set", [False, True])
def test_only_folders_that_exist_are_named(tmp_path, monkeypatch, test_set):
    folder = make_dataset(set_paths(tmp_path, monkeypatch)[0], patients=2, slices=1, folds=2)
    if test_set:
        for part in ("imagesTs", "labelsTs"):
            (folder / part).mkdir()
    said = next_commands(open_raw_dataset(folder.name), "2d", "cbmat", [0], "cpu")
    images, labels = (folder / "imagesTs", folder / "labelsTs") if test_set else ("IMAGES", "LABELS")
    assert f"nnUNetv2_predict -i {images} -o PREDICTIONS" in said
    assert f"nnUNetv2_evaluate_folder {labels} PREDICTIONS" in said


@pytest.mark.parametrize(
    ("existing", "used"),
    [
        ((), "nnUNetPlans"),
        (("nnUNetResEncUNetMPlans",), "nnUNetResEncUNetMPlans"),
        (("nnUNetPlans", "nnUNetResEncUNetMPlans"), "nnUNetPlans"),
    ],
)
def test_the_plans_that_there_are_are_named(folders, existing, used):
    folder = make_dataset(folders[0], patients=2, slices=1, folds=2)
    raw = open_raw_dataset(folder.name)
    raw.preprocessed.mkdir()
    for name in existing:
        write_json(raw.preprocessed / f"{name}.json", {"plans_name": name, "configurations": {}})
    said = next_commands(raw, "2d", "cbmat", [0], "cuda").splitlines()
    usual = used == "nnUNetPlans"
    assert said[1].split() == (
        ["nnUNetv2_plan_and_preprocess", "-d", "801", "-c", "2d"]
        if usual
        else ["nnUNetv2_preprocess", "-d", "801", "-plans_name", used, "-c", "2d"]
    )
    for line in said[2:5]:  # two trainings, and a prediction
        assert ("-p" in line.split()) is not usual
        assert usual or line.endswith(f" -p {used}")
    assert said[5].endswith(f"-pfile {raw.preprocessed / used}.json")


@pytest.mark.parametrize(
    ("planned", "wanted", "used"),
    [
        (["2d", "3d_fullres"], "3d_lowres", "3d_fullres"),
        (["2d"], "3d_fullres", "2d"),
        (["3d_fullres", "2d"], "3d_fullres", "3d_fullres"),
        (["2d_demo"], "2d", "2d"),
        (None, "3d_lowres", "3d_lowres"),
    ],
)
def test_commands_name_a_configuration_that_the_plans_have(folders, planned, wanted, used):
    raw = open_raw_dataset(make_dataset(folders[0], patients=2, slices=1, folds=2).name)
    raw.preprocessed.mkdir()
    if planned is not None:
        content = {"plans_name": "nnUNetPlans", "configurations": {name: {} for name in planned}}
        write_json(raw.preprocessed / "nnUNetPlans.json", content)
    first, *commands = next_commands(raw, wanted, "cbmat", [0], "cuda").splitlines()
    other = used != wanted
    assert first == (f"Next (nnUNetPlans.json has no {wanted}, so with {used}):" if other else "Next:")
    assert all(used in line.split() for line in commands[:4])
    assert not other or not any(wanted in line for line in commands)
    said = note_of_configuration(raw, wanted)
    assert (said is None) == (planned is None or wanted in planned)
    if said:
        assert f"nnUNetPlans.json has no configuration {wanted}, only {', '.join(planned)}; " in said


@pytest.mark.parametrize("content", [b"", b"[]", b"{}"])
def test_plans_that_cannot_be_read_name_no_configuration(folders, content):
    folder = make_dataset(folders[0], patients=2, slices=1, folds=2)
    raw = open_raw_dataset(folder.name)
    raw.preprocessed.mkdir()
    (raw.preprocessed / "nnUNetPlans.json").write_bytes(content)
    assert note_of_configuration(raw, "3d_lowres") is None
    assert "nnUNetv2_train 801 3d_lowres 0" in next_commands(raw, "3d_lowres", "cbmat", [0], "cpu")


def test_a_dataset_whose_id_nnunet_refuses_is_named_and_so_is_the_other_one(folders, capsys):
    folder = make_dataset(folders[0], patients=2, slices=1, folds=2)
    raw, settings = open_raw_dataset(folder.name), SimpleNamespace(method="cbmat")
    request = SimpleNamespace(dry_run=True, configuration="2d", device="cpu", settings=settings)
    for others in ((), ("Dataset801_Old",)):
        for other in others:
            (folders[2] / other).mkdir()
        audit_and_advise(raw, [0], request)
        said, warned = capsys.readouterr()
        assert f"nnUNetv2_train {'Dataset801_Tiny' if others else 801} 2d 0" in said
        assert ("also means Dataset801_Old, in one of nnU-Net's three folders" in warned) == bool(others)
