"""The audit: clean datasets pass, and every planted leak is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_difflung.audit.audit import audit, audit_dataset, audit_table
from nnunet_difflung.commands.audit import entry
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.injection.inject import inject
from nnunet_difflung.injection.leaks import split_problems
from nnunet_difflung.injection.manifest import MANIFEST, find_manifest, new_manifest
from nnunet_difflung.injection.removal import remove
from nnunet_difflung.runtime.files import read_json, write_json
from tests.support.staging import plan_like_nnunet, stage_cases
from tests.support.tiny import make_dataset

FIRST, SECOND, ALL = "difflung_cbmat_f0_0000", "difflung_cbmat_f1_0000", "difflung_cbmat_fall_0000"


@pytest.fixture
def raw(folders, no_fsync) -> RawDataset:
    """Two cases in fold 0, one in fold 1, one for the fold ``all``, planned by nnU-Net, with generators' records."""
    make_dataset(folders[0], patients=5, slices=2, size=16)
    dataset = open_raw_dataset("801")
    plan_like_nnunet(dataset)
    for fold, count in ((0, 2), (1, 1), ("all", 1)):
        cases, run = stage_cases(dataset, fold=fold, count=count)
        inject(dataset, cases, run)
        path = folders[2] / dataset.name / "DiffLung__cbmat" / f"fold_{fold}" / "generator.json"
        write_json(path, {"training_cases": run["generator"]["training_cases"]})
    return dataset


def _in_splits(change: Callable[[list], None], preprocessed: bool = True, of_raw: bool = True):
    def mutate(raw: RawDataset) -> None:
        folders = ([raw.folder] if of_raw else []) + ([raw.preprocessed] if preprocessed else [])
        for folder in folders:
            splits = read_json(folder / "splits_final.json")
            change(splits)
            write_json(folder / "splits_final.json", splits)

    return mutate


def _in_manifest(change: Callable[[dict], None], copies: bool = True):
    def mutate(raw: RawDataset) -> None:
        for folder in [raw.folder, raw.preprocessed] if copies else [raw.folder]:
            manifest = read_json(folder / MANIFEST)
            change(manifest)
            write_json(folder / MANIFEST, manifest)

    return mutate


def _source_in_validation(manifest: dict) -> None:
    manifest["cases"][FIRST]["sources"].append("lung_001_s01")


def _source_of_validation_patient(manifest: dict) -> None:
    manifest["patients"]["lung_002_s00"] = "lung_001"
    manifest["cases"][FIRST]["sources"] = ["lung_002_s00"]


def _generator_saw_validation(manifest: dict) -> None:
    manifest["runs"][0]["generator"]["training_cases"].append("lung_001_s00")


def _swap_generator(manifest: dict) -> None:
    manifest["cases"][FIRST]["generator"] = "b" * 64


def _forget(manifest: dict) -> None:
    del manifest["cases"][SECOND]


def _generator_json(raw: RawDataset) -> None:
    path = raw.folder.parent.parent / "nnUNet_results" / raw.name / "DiffLung__cbmat" / "fold_1" / "generator.json"
    write_json(path, {"training_cases": sorted(raw.cases)})


def _delete_label(raw: RawDataset) -> None:
    (raw.folder / "labelsTr" / f"{FIRST}.nii.gz").unlink()


def _change_image(raw: RawDataset) -> None:
    shutil.copy(raw.folder / "imagesTr" / "lung_001_s00_0000.nii.gz", raw.folder / "imagesTr" / f"{FIRST}_0000.nii.gz")


def _stray_file(raw: RawDataset) -> None:
    shutil.copy(raw.folder / "labelsTr" / "lung_001_s00.nii.gz", raw.folder / "labelsTr" / "difflung_stray.nii.gz")


def _delete_manifests(raw: RawDataset) -> None:
    for folder in (raw.folder, raw.preprocessed):
        (folder / MANIFEST).unlink()


def _delete_splits(raw: RawDataset) -> None:
    for folder in (raw.folder, raw.preprocessed):
        (folder / "splits_final.json").unlink()


MUTATIONS = [
    ("synthetic in validation", _in_splits(lambda s: s[2]["val"].append(FIRST)), "validates on the synthetic", True),
    ("other fold", _in_splits(lambda s: s[1]["train"].append(FIRST)), "made for fold 0", True),
    ("fold all in a list", _in_splits(lambda s: s[3]["train"].append(ALL)), "made for fold all", True),
    ("unknown id", _in_splits(lambda s: s[0]["train"].append("difflung_x")), "which is not in the manifest", True),
    ("source in validation", _in_manifest(_source_in_validation), "was made from lung_001_s01", True),
    ("source's patient", _in_manifest(_source_of_validation_patient), "was made from lung_002_s00", True),
    ("host in validation", _in_manifest(lambda m: m["cases"][FIRST].update(host="lung_001_s00")), "made from", True),
    ("no source", _in_manifest(lambda m: m["cases"][FIRST].update(sources=[])), "names no source of", True),
    (
        "unknown source",
        _in_manifest(lambda m: m["cases"][FIRST].update(sources=[SECOND])),
        "that are not real cases",
        True,
    ),
    ("generator", _in_manifest(_generator_saw_validation), "generator of cbmat was trained on lung_001_s00", True),
    ("other generator", _in_manifest(_swap_generator), "was made by the generator bbbb", True),
    ("no run", _in_manifest(lambda m: m["runs"].pop(0)), "has no run cbmat fold 0", True),
    ("generator.json", _generator_json, "other training cases of the generator", True),
    ("patient on both sides", _in_splits(lambda s: s[4]["train"].append("lung_005_s00")), "same patients in tr", True),
    ("left out of its fold", _in_splits(lambda s: s[1]["train"].remove(SECOND)), "lacks its synthetic training", False),
    ("fold gone", _in_splits(lambda s: s.__delitem__(slice(1, None))), "were made for another fold", False),
    ("raw differs", _in_splits(lambda s: s[2]["train"].pop(0), of_raw=False), "differs from the raw", False),
    ("forgotten case", _in_manifest(_forget), "which is not in the manifest", True),
    ("manifests differ", _in_manifest(lambda m: m["cases"][FIRST].update(seed=1), copies=False), "manifests in", False),
    ("file gone", _delete_label, f"{FIRST}.nii.gz is missing", False),
    ("file changed", _change_image, "was changed after it was injected", False),
    ("stray file", _stray_file, "difflung_stray.nii.gz is not in the manifest", False),
    ("no manifest", _delete_manifests, "but there is no manifest", True),
    ("no splits", _delete_splits, "nnU-Net would", True),
    ("no preprocessed splits", lambda raw: (raw.preprocessed / "splits_final.json").unlink(), "draw folds over", True),
    ("broken splits", lambda raw: (raw.folder / "splits_final.json").write_text("{"), "is not a split file", False),
    ("broken manifest", lambda raw: (raw.folder / MANIFEST).write_text("{"), "cannot be read as JSON", False),
]


@pytest.mark.parametrize(("mutate", "message", "leak"), [m[1:] for m in MUTATIONS], ids=[m[0] for m in MUTATIONS])
def test_every_planted_fault_is_named(raw, mutate, message, leak):
    assert audit_dataset(raw.name, deep=True) == []
    mutate(raw)
    table = audit_table(raw.name, deep=True)
    assert any(message in line for line in table["problems"]), table["problems"]
    assert (table["leaks"] > 0) == leak


def test_the_command_prints_a_table_and_exits_by_the_result(raw, capsys):
    with pytest.raises(SystemExit) as exit_code:
        entry(["-d", "801"])
    printed = capsys.readouterr().out
    assert exit_code.value.code == 0
    assert "0 leaks, 0 problems" in printed
    assert "cbmat 2" in printed
    _change_image(raw)
    assert audit_dataset(raw.name) == []  # hashes only when asked
    with pytest.raises(SystemExit) as exit_code:
        entry(["-d", raw.name, "--json"])
    table = json.loads(capsys.readouterr().out)
    assert exit_code.value.code == 1
    assert len(table["problems"]) == 1
    rows = {row["fold"]: row for row in table["folds"]}
    assert rows[0] == {
        "fold": 0,
        "training_cases": 8,
        "training_patients": 4,
        "synthetic": {"cbmat": 2},
        "validation_cases": 2,
        "leaks": 0,
    }
    assert rows["all"]["training_cases"] == 10
    assert rows["all"]["synthetic"] == {"cbmat": 1}


def test_a_training_machine_without_the_raw_dataset(raw, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    assert find_manifest(raw.name)["dataset"] == raw.name
    assert audit_dataset(raw.name) == []
    _in_splits(lambda s: s[2]["val"].append(FIRST), of_raw=False)(raw)
    assert any("validates on" in line for line in audit_dataset(raw.name))


def test_a_dataset_without_synthetic_cases_is_clean(raw_folder):
    folder = make_dataset(raw_folder, patients=2, slices=1, size=16)
    assert audit_dataset(folder.name) == []
    assert find_manifest(folder.name) is None
    assert not (folder / ".difflung").exists()
    with pytest.raises(SystemExit) as exit_code:
        entry(["-d", "802"])
    assert exit_code.value.code == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_random_leak_is_found_and_a_fold_locked_set_passes(data):
    patients = {f"p{p}_s{s}": f"p{p}" for p in range(data.draw(st.integers(2, 5))) for s in range(2)}
    names = sorted(set(patients.values()))
    splits = [
        {"train": [i for i, p in patients.items() if p != name], "val": [i for i, p in patients.items() if p == name]}
        for name in names
    ]
    manifest = new_manifest("Dataset001_X", patients)
    for index in range(data.draw(st.integers(1, 4))):
        fold = data.draw(st.integers(0, len(names) - 1))
        sources = data.draw(st.lists(st.sampled_from(splits[fold]["train"][:2]), min_size=1, max_size=3))
        identifier = f"difflung_{index}"
        manifest["cases"][identifier] = {"method": "m", "fold": fold, "sources": sources, "files": []}
        splits[fold]["train"].append(identifier)
    assert split_problems(manifest, splits, "x") == []
    case = manifest["cases"][data.draw(st.sampled_from(sorted(manifest["cases"])))]
    case["sources"].append(data.draw(st.sampled_from(splits[case["fold"]]["val"])))
    assert [p.fold for p in split_problems(manifest, splits, "x") if p.leak] == [case["fold"]]


def test_patients_are_counted_and_not_cut_without_synthetic_cases_too(folders):
    folder = make_dataset(folders[0], patients=4, slices=2, size=16, folds=4)
    result = audit(folder.name)
    assert result.problems == ()
    assert [(fold.training_cases, fold.training_patients) for fold in result.folds] == [(6, 3)] * 4
    splits = json.loads((folder / "splits_final.json").read_text())
    moved = splits[1]["val"][0]
    splits[1] = {"train": [*splits[1]["train"], moved], "val": splits[1]["val"][1:]}
    (folder / "splits_final.json").write_text(json.dumps(splits))
    assert audit(folder.name).problems == (), "a trainer of another fold need not care"
    (problem,) = audit(folder.name, sides=True).problems
    assert (problem.fold, problem.leak) == (1, True)
    assert "the same patients in training and validation: lung_002 (fold 1)" in problem.text


def test_a_note_says_that_patients_are_not_known(folders):
    folder = make_dataset(folders[0], patients=4, slices=1, size=16, folds=4)
    for path in [*folder.glob("*Tr/*"), folder / "splits_final.json"]:
        if path.suffix == ".json":
            path.write_text(path.read_text().replace("lung_00", "smith_000").replace("_s00", ""))
        else:
            path.rename(path.with_name(path.name.replace("lung_00", "smith_000").replace("_s00", "")))
    result = audit(folder.name)
    assert result.problems == ()
    assert "it is not known who the patients are" in result.notes[0]
    assert len(result.notes) == 1
    splits = [{"train": ["rp1_s01", "rp2_s01"], "val": ["rp1_s02", "rp2_s02"]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    assert "may both be of patient rp1" in audit(folder.name).notes[1]


def test_a_note_says_that_there_are_no_folds(folders):
    folder = make_dataset(folders[0], patients=2, slices=1, size=16, splits=False)
    result = audit(folder.name)
    assert result.problems == ()
    assert result.notes == ("there is no splits_final.json, so no fold was checked; difflung_augment makes the folds",)


def test_paths_of_synthetic_cases_in_dataset_json_have_to_exist(folders, no_fsync):
    make_dataset(folders[0], patients=4, slices=1, size=16, folds=2, dataset_key=True)
    inject(raw := open_raw_dataset("801"), *stage_cases(raw, fold=0))
    assert audit_dataset(raw.name, deep=True) == []
    content = read_json(raw.folder / "dataset.json")
    content["dataset"][FIRST]["label"] = str(folders[0].parent / "elsewhere" / f"{FIRST}.nii.gz")
    write_json(raw.folder / "dataset.json", content)
    found = audit(raw.name)
    assert f"lists {folders[0].parent}/elsewhere/{FIRST}.nii.gz for {FIRST}, which does" in found.problems[0].text
    assert (len(found.problems), found.leaks) == (1, 0)
    remove("801")
    assert audit_dataset(raw.name) == []
