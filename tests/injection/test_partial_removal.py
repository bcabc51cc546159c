"""Removing the cases of one fold or method leaves the dataset as it was before they were added."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_difflung.audit.audit import audit_dataset
from nnunet_difflung.commands.remove import main
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.commit import recover
from nnunet_difflung.injection.inject import inject
from nnunet_difflung.injection.manifest import MANIFEST, read_manifest
from nnunet_difflung.injection.removal import remove
from nnunet_difflung.injection.selection import Selection
from nnunet_difflung.paths import cache_folder, fold_folder
from nnunet_difflung.runtime.files import read_json
from tests.support.killing import in_child
from tests.support.staging import plan_like_nnunet, stage_cases
from tests.support.tiny import make_dataset, tree_hashes

pytestmark = pytest.mark.usefixtures("no_fsync")

SECOND = {"method": "copy_paste", "fold": 1, "count": 1}


def _open(folders: tuple[Path, ...], **options) -> RawDataset:
    make_dataset(folders[0], **{"patients": 4, "slices": 1, "size": 16, "folds": 2, **options})
    return open_raw_dataset("801")


def _inject(**options) -> None:
    inject(raw := open_raw_dataset("801"), *stage_cases(raw, **options))


def _visible(folders: tuple[Path, ...]) -> dict[str, str]:
    """All files but the backups, whose set grows with every file that was ever changed."""
    return {name: found for name, found in tree_hashes(*folders).items() if "/.difflung/" not in name}


@pytest.mark.parametrize("options", [{}, {"splits": False}, {"dataset_key": True}], ids=["splits", "no splits", "key"])
@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("selection", [Selection((1,)), Selection(method="copy_paste")], ids=str)
def test_what_was_added_last_is_taken_out_byte_for_byte_and_then_the_rest(folders, options, planned, selection):
    raw = _open(folders, **options)
    if planned:
        plan_like_nnunet(raw)
    clean = tree_hashes(*folders)
    _inject(fold=0)
    first = _visible(folders)
    _inject(**SECOND)
    both = _visible(folders)
    assert remove("801", dry_run=True, selection=selection)[-1].endswith("kept: 2 synthetic cases (cbmat fold 0)")
    assert _visible(folders) == both
    remove("801", selection=selection)
    assert _visible(folders) == first
    assert audit_dataset(raw.name, deep=True) == []
    _inject(**SECOND)
    assert _visible(folders) == both
    remove("801", selection=Selection((0,), "cbmat"))
    assert list(read_json(raw.folder / MANIFEST)["cases"]) == ["difflung_copy_paste_f1_0000"]
    remove("801", selection=Selection((1,)))
    assert tree_hashes(*folders) == clean


def test_cases_of_one_method_go_where_another_has_the_same_fold(folders):
    raw = _open(folders)
    _inject(fold=0)
    _inject(method="mat", fold=0, count=1)
    remove("801", selection=Selection((0,), "mat"))
    assert [i for i in read_json(raw.folder / "splits_final.json")[0]["train"] if is_synthetic(i)] == [
        "difflung_cbmat_f0_0000",
        "difflung_cbmat_f0_0001",
    ]


def test_what_preprocessing_made_of_them_goes_too_and_that_of_the_others_stays(folders):
    raw = _open(folders)
    _inject(fold=0)
    _inject(**SECOND)
    plan_like_nnunet(raw)
    remove("801", selection=Selection((1,)))
    assert (raw.preprocessed / "dataset.json").read_bytes() == (raw.folder / "dataset.json").read_bytes()
    left = {path.name.split(".")[0] for path in raw.preprocessed.glob("*/difflung_*")}
    assert {name for name in left if name.startswith("difflung_cbmat_f0")}
    assert not {name for name in left if name.startswith("difflung_copy_paste")}
    assert audit_dataset(raw.name, deep=True) == []


def test_an_edit_stays_through_both_removals(folders):
    raw = _open(folders)
    _inject(fold=0)
    _inject(**SECOND)
    path = raw.folder / "dataset.json"
    path.write_text(json.dumps({**read_json(path), "reference": "a study"}))
    for selection in (Selection((1,)), Selection((0,))):
        remove("801", selection=selection)
        assert read_json(path)["reference"] == "a study"
    assert read_json(path)["numTraining"] == len(raw.cases)


def test_a_changed_synthetic_file_and_an_unreadable_list_are_refused(folders):
    raw = _open(folders)
    _inject(fold=0)
    _inject(**SECOND)
    changed = raw.folder / "labelsTr" / "difflung_copy_paste_f1_0000.nii.gz"
    content = changed.read_bytes()
    changed.write_bytes(b"mine")
    before = tree_hashes(*folders)
    with pytest.raises(BadInput, match=r"difflung_copy_paste_f1_0000.nii.gz.*--force"):
        remove("801", selection=Selection((1,)))
    remove("801", dry_run=True, selection=Selection((0,)))  # it is none of theirs
    changed.write_bytes(content)
    (raw.folder / "splits_final.json").write_text("[")
    with pytest.raises(BadInput, match=r"splits_final.json was changed .*restore it"):
        remove("801", selection=Selection((1,)))
    (raw.folder / "splits_final.json").unlink()
    assert {name for name in before if not Path(name).exists()} == {str(raw.folder / "splits_final.json")}


@pytest.mark.parametrize("words", [["-f", "1"], ["--method", "mat"], ["-f", "1", "0", "--method", "mat"]])
def test_a_selection_of_which_nothing_is_there_is_refused_with_what_is(folders, words):
    _open(folders)
    _inject(fold=0)
    before = tree_hashes(*folders)
    with pytest.raises(BadInput, match=r"Dataset801_\w+ has no synthetic cases of .*method cbmat, fold 0"):
        main(["-d", "801", *words])
    for wrong in ("first", "²"):  # isdigit() holds for the second, of which int() makes nothing
        with pytest.raises(BadInput, match=f"-f {wrong} is not a fold"):
            main(["-d", "801", "-f", wrong])
    assert tree_hashes(*folders) == before


def test_killed_at_any_step(folders):
    raw = _open(folders, patients=2, size=12)
    plan_like_nnunet(raw)
    _inject(fold=0, count=1)
    first = _visible(folders)
    _inject(**SECOND)
    both, outcomes, step, code = _visible(folders), set(), 0, 9
    while code == 9:
        code, steps = in_child(lambda: remove("801", selection=Selection((1,))), step)
        recover(raw.folder)
        found = _visible(folders)
        assert found in (first, both)
        outcomes.add(found == first)
        if found == first:
            _inject(**SECOND)
        step += 1
    assert code == 0
    assert step > 15
    assert outcomes == {True, False}


def test_generators_of_the_selection_go_when_asked_and_the_cache_stays(folders):
    _open(folders)
    _inject(fold=0)
    _inject(**SECOND)
    kept, gone = fold_folder("Dataset801_Tiny", "cbmat", 0), fold_folder("Dataset801_Tiny", "cbmat", 1)
    for folder in (kept, gone, cache_folder("Dataset801_Tiny")):
        folder.mkdir(parents=True)
        (folder / "generator.json").write_text("{}")
    selection = Selection((1,))
    assert f"generators are kept in {gone} (--generators deletes them)" in remove(
        "801", dry_run=True, selection=selection
    )
    lines = remove("801", generators=True, selection=selection)
    assert f"generators removed from {gone}" in lines
    assert not gone.exists()
    assert (kept / "generator.json").is_file()
    assert cache_folder("Dataset801_Tiny").is_dir()


def test_a_generator_of_a_fold_without_cases_can_go_where_other_folds_have_some(folders):
    _open(folders)
    _inject(fold=0)
    left = fold_folder("Dataset801_Tiny", "cbmat", 2)
    left.mkdir(parents=True)
    (left / "generator.json").write_text("{}")
    with pytest.raises(BadInput, match="has no synthetic cases of fold 2"):
        remove("801", selection=Selection((2,)))
    manifest = read_manifest(folders[0] / "Dataset801_Tiny")
    for dry_run in (True, False):
        assert left.is_dir()
        lines = remove("801", dry_run=dry_run, generators=True, selection=Selection((2,)))
        assert lines == ["Dataset801_Tiny has no synthetic cases of fold 2", f"generators removed from {left}"]
    assert not left.exists()
    assert read_manifest(folders[0] / "Dataset801_Tiny") == manifest
    with pytest.raises(BadInput, match="has no synthetic cases of fold 2"):
        remove("801", generators=True, selection=Selection((2,)))


@pytest.mark.parametrize("results", [None, "not_there"])
@pytest.mark.parametrize("words", [["-f", "1"], ["--method", "copy_paste"], ["-f", "1", "--generators"]])
def test_a_part_can_go_where_there_are_no_results(folders, tmp_path, monkeypatch, capsys, results, words):
    _open(folders)
    _inject(fold=0)
    first = _visible(folders)
    _inject(**SECOND)
    monkeypatch.delenv("nnUNet_results")
    if results:
        monkeypatch.setenv("nnUNet_results", str(tmp_path / results))
    assert main(["-d", "801", *words]) == 0
    assert _visible(folders) == first
    assert ("no generator of fold 1 is in $nnUNet_results" in capsys.readouterr().out) == ("--generators" in words)


def test_nothing_is_removed_where_the_generators_cannot_be_listed(folders, monkeypatch):
    _open(folders)
    _inject(fold=0)
    before = tree_hashes(*folders)

    def refused(*_: object) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nnunet_difflung.injection.results.our_folders", refused)
    for generators in (True, False):
        with pytest.raises(PermissionError):
            remove("801", generators=generators)
    assert tree_hashes(*folders) == before
