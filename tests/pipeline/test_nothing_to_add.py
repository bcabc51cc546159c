"""A fold whose targets are met already gets a run without cases, which its trainers, the audit and the removal know."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from nnunet_difflung.audit.audit import audit_dataset
from nnunet_difflung.commands.augment import entry, main
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.runtime.files import read_json, write_json
from tests.support.tiny import make_dataset, tree_hashes

pytestmark = pytest.mark.usefixtures("fingerprint", "no_fsync")
COPY = ["-d", "801", "--method", "copy_paste", "--gate", "report", "-device", "cpu", "-np", "1", "--max-synthetic", "2"]
MET, ONE_MET = ["emphysema=0.001", "ILD=0.001"], ["emphysema=0.02", "ILD=0.001"]


def _dataset(folders, **options):
    return make_dataset(folders[0], patients=4, slices=1, size=32, folds=2, **options)


def _runs(folder) -> dict[int, int]:
    return {run["fold"]: run["summary"]["injected"] for run in read_manifest(folder)["runs"]}


def test_a_fold_whose_targets_are_met_is_recorded_beside_one_that_gets_cases(folders, capsys):
    folder = _dataset(folders, emphysema_every=2)  # lung_001 and lung_003 have emphysema
    splits = [
        {"train": ["lung_001_s00", "lung_003_s00"], "val": ["lung_002_s00", "lung_004_s00"]},
        {"train": ["lung_001_s00", "lung_002_s00", "lung_004_s00"], "val": ["lung_003_s00"]},
    ]
    write_json(folder / "splits_final.json", splits)
    before = tree_hashes(folder)
    main([*COPY, "--target-share", *ONE_MET, "--dry-run"])
    said = capsys.readouterr().out
    assert "fold 0: nothing to add, every pathology has its target share of lung: emphysema" in said
    assert re.search(
        r"emphysema \d+\.\d% \(target \d+\.\d%\).*; ask for more with, say, --target-share \w+=0\.\d+", said
    )
    main([*COPY, "--target-share", *ONE_MET])
    said = capsys.readouterr().out
    assert "fold 0: nothing to add" in said
    assert "nnUNetv2_train 801 2d" in said
    runs = _runs(folder)
    assert runs[0] == 0
    assert runs[1] > 0
    assert {case["fold"] for case in read_manifest(folder)["cases"].values()} == {1}
    assert audit_dataset(folder.name, deep=True) == []
    main([*COPY, "--target-share", *ONE_MET])
    assert "nothing to do" in capsys.readouterr().out
    remove(["-d", "801"])
    assert tree_hashes(folder) == before


@pytest.mark.parametrize("splits", [True, False])
def test_all_folds_met(folders, capsys, splits):
    folder = _dataset(folders, splits=splits)
    before = tree_hashes(folder)
    main([*COPY, "--target-share", *MET])
    assert "nnUNetv2_train 801 2d 0" in capsys.readouterr().out
    assert set(_runs(folder).values()) == {0}
    assert read_manifest(folder)["cases"] == {}
    assert audit_dataset(folder.name, deep=True) == []
    changed = {name for name, digest in tree_hashes(folder).items() if before.get(name) != digest}
    new = {folder / "difflung_manifest.json"} | (set() if splits else {folder / "splits_final.json"})
    assert {name for name in changed if "/.difflung" not in name} == {str(path) for path in new}
    if not splits:
        assert len(read_json(folder / "splits_final.json")) == 4, "grouped by patient, for the reference too"
    remove(["-d", "801"])
    assert tree_hashes(folder) == before


def test_other_targets_replace_a_run_without_cases(folders, capsys):
    """No removal is needed, which would take the good cases of other folds and methods too."""
    folder = _dataset(folders)
    main([*COPY, "--target-share", *MET, "-f", "0"])
    main([*COPY, "--target-share", "emphysema=0.3", "ILD=0.3", "-f", "0"])
    assert _runs(folder)[0] > 0
    assert len(read_manifest(folder)["runs"]) == 1
    assert "made with other settings" not in capsys.readouterr().err
    assert audit_dataset(folder.name, deep=True) == []


def test_the_dataset_is_restored_once_no_case_is_left_whatever_other_runs_are_on_record(folders, capsys):
    folder = _dataset(folders)
    before = tree_hashes(folder)
    main([*COPY, "-f", "0"])
    main([*COPY, "-f", "1", "--target-share", *MET])
    assert _runs(folder)[1] == 0
    capsys.readouterr()
    remove(["-d", "801", "-f", "0"])
    assert "that nothing was added to copy_paste fold 1 is no longer on record either" in capsys.readouterr().out
    assert tree_hashes(folder) == before


def test_a_case_that_is_added_where_nothing_was_painted_is_said_so(folders):
    folder = _dataset(folders)
    main([*COPY, "--target-share", *MET])
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        shutil.copy(folder / part / f"lung_001_s00{ending}", folder / part / f"lung_009_s00{ending}")
    with pytest.raises(BadInput, match="added after difflung_augment had found nothing to add"):
        main([*COPY, "--target-share", *MET])


def test_a_run_without_cases_is_recorded_with_the_present_roles(folders, capsys):
    """Otherwise every repetition does all the work again."""
    folder = _dataset(folders)
    options = [*COPY[:-1], "0", "-f", "1"]
    main(options)
    options += ["--structure-label", "ILD"]
    main(options)
    assert "ILD" not in read_manifest(folder)["runs"][0]["summary"]["voxels_before"]
    capsys.readouterr()
    main(options)
    assert "nothing to do" in capsys.readouterr().out


def test_a_fold_of_which_the_gate_dropped_everything_stays_a_failure(folders, monkeypatch):
    from nnunet_difflung.pipeline import augment as augment_module

    folder = _dataset(folders)
    real = augment_module.synthesize_fold

    def all_dropped(*arguments, **options):
        synthesis, result = real(*arguments, **options)
        result.staged.clear()
        return synthesis, result

    monkeypatch.setattr(augment_module, "synthesize_fold", all_dropped)
    with pytest.raises(Failed):
        main([*COPY, "-f", "0", "--target-share", "emphysema=0.3", "ILD=0.3"])
    assert read_manifest(folder) is None


@pytest.mark.parametrize("met", [True, False], ids=["targets met", "cases there"])
def test_a_dry_run_with_nothing_to_do_writes_nothing_and_has_the_keys_of_any_other(folders, capsys, met):
    _dataset(folders)
    more = ["-f", "0", *(["--target-share", *MET] if met else [])]
    main([*COPY, *more])
    if met:
        remove(["-d", "801"])
    shutil.rmtree(folders[2] / "Dataset801_Tiny" / "DiffLung__cache")
    for path in (folders[0] / "Dataset801_Tiny").glob("*Tr/lung_*"):
        os.utime(path, (1e9, 1e9))  # hashes of files that may be changing are not kept
    before = tree_hashes(*folders)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        entry([*COPY, *more, "--dry-run", "--json"])
    found, said = (json.loads(part) if part.startswith("{") else part for part in capsys.readouterr())
    assert stop.value.code == 0
    assert "Dry run: nothing was written." in said
    assert tree_hashes(*folders) == before
    assert found["dry_run"] is True
    assert [row["fold"] for row in found["folds"]] == ([0] if met else [])
    estimate = found["estimate"]
    assert (estimate["device"], estimate["training_seconds"], estimate["painting_seconds"]) == ("cpu", 0, 0)
    assert (estimate["bytes"] > 0) == (estimate["cache_bytes"] > 0) == met
