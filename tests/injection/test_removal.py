"""What a removal leaves behind where the dataset was planned, edited, or copied without its hidden folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.inject import inject
from nnunet_difflung.injection.manifest import MANIFEST
from nnunet_difflung.injection.removal import remove
from nnunet_difflung.runtime.files import read_json, sha256, write_json
from tests.support.staging import plan_like_nnunet, stage_cases
from tests.support.tiny import make_dataset, tree_hashes

pytestmark = pytest.mark.usefixtures("no_fsync")


def _open(folders, **options) -> RawDataset:
    make_dataset(folders[0], **{"patients": 4, "slices": 1, "size": 16, "folds": 2, **options})
    return open_raw_dataset("801")


def _augment(raw: RawDataset, fingerprint: bool = False) -> None:
    """Synthetic cases of fold 0; with ``fingerprint`` that of the real cases comes with them."""
    cases, run = stage_cases(raw, fold=0)
    if fingerprint:
        from nnunet_difflung.injection.fingerprint import staged_fingerprint

        write_json(staged_fingerprint(raw), {"spacings": [[5.0, 0.8, 0.8]] * len(raw.cases)})
    inject(raw, cases, run)


FORMATS: dict[str, Callable[[object], str]] = {
    "nnU-Net's": lambda content: json.dumps(content, indent=4),
    "sorted": lambda content: json.dumps(content, indent=4, sort_keys=True),
    "one line": lambda content: json.dumps(content),
    "compact": lambda content: json.dumps(content, separators=(",", ":")),
    "with an end of line": lambda content: json.dumps(content, indent=2) + "\n",
}


@pytest.mark.parametrize("written", FORMATS)
@pytest.mark.parametrize("options", [{}, {"splits": False}, {"dataset_key": True}], ids=["splits", "no splits", "key"])
def test_a_dataset_copied_without_its_hidden_folder_is_restored_byte_for_byte(folders, written, options):
    raw = _open(folders, **options)
    for path in raw.folder.glob("*.json"):
        path.write_text(FORMATS[written](read_json(path)))
    before = tree_hashes(folders[0])
    _augment(open_raw_dataset("801"))
    shutil.rmtree(raw.folder / ".difflung")
    assert any("byte for byte" in line for line in remove("801", dry_run=True))
    lines = remove("801")
    assert tree_hashes(folders[0]) == before
    assert not any("formatting" in line for line in lines)


def test_an_original_of_a_rare_format_is_restored_in_content_and_said_so(folders):
    raw = _open(folders)
    original = read_json(raw.folder / "dataset.json")
    (raw.folder / "dataset.json").write_text(json.dumps({**original, "numTraining": 4.0}))
    before = tree_hashes(folders[0])
    _augment(open_raw_dataset("801"))
    shutil.rmtree(raw.folder / ".difflung")
    lines = remove("801")
    assert any("dataset.json: its content is that of the original, its formatting may differ" in line for line in lines)
    assert read_json(raw.folder / "dataset.json") == original
    after = tree_hashes(folders[0])
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert changed == {str(raw.folder / "dataset.json")}


def test_what_is_not_ours_stays_where_the_hidden_folder_is_lost(folders):
    raw = _open(folders)
    _augment(raw)
    shutil.rmtree(raw.folder / ".difflung")
    mine = raw.folder / "imagesTr" / "difflung_mine_0000.nii.gz"
    mine.write_bytes(b"mine")
    for path in (raw.folder / "splits_final.json", raw.folder / "dataset.json"):
        assert "difflung" in path.read_text() or path.name == "dataset.json"
    remove("801")
    assert [path.name for path in raw.folder.rglob("*difflung*")] == [mine.name]
    assert not any(is_synthetic(i) for split in read_json(raw.folder / "splits_final.json") for i in split["train"])


def test_a_changed_synthetic_file_is_deleted_only_with_force(folders):
    raw = _open(folders)
    before = tree_hashes(*folders)
    _augment(raw)
    changed = raw.folder / "labelsTr" / "difflung_cbmat_f0_0001.nii.gz"
    changed.write_bytes(b"mine")
    augmented = tree_hashes(*folders)
    for dry_run in (True, False):
        with pytest.raises(BadInput, match=r"difflung_cbmat_f0_0001.nii.gz.*move it.*--force"):
            remove("801", dry_run=dry_run)
    assert tree_hashes(*folders) == augmented
    shutil.move(changed, folders[0].parent / "kept.nii.gz")
    remove("801")
    assert tree_hashes(*folders) == before


def _add_case(raw: RawDataset) -> None:
    for part, end in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        shutil.copy(raw.folder / part / f"lung_001_s00{end}", raw.folder / part / f"lung_009_s00{end}")
    for folder in (raw.folder, raw.preprocessed):
        splits = read_json(folder / "splits_final.json")
        splits[0]["train"].append("lung_009_s00")
        splits[1]["train"].append("lung_009_s00")
        (folder / "splits_final.json").write_text(json.dumps(splits, indent=1))
    content = read_json(raw.folder / "dataset.json")
    (raw.folder / "dataset.json").write_text(json.dumps({**content, "numTraining": content["numTraining"] + 1}))


@pytest.mark.parametrize("hidden_folder", [True, False], ids=["originals there", "originals lost"])
def test_a_case_added_after_augmenting_stays_and_the_dataset_can_be_augmented_again(folders, hidden_folder):
    raw = _open(folders)
    plan_like_nnunet(raw)
    before = read_json(raw.folder / "splits_final.json")
    _augment(raw)
    _add_case(raw)
    if not hidden_folder:
        shutil.rmtree(raw.folder / ".difflung")
    lines = remove("801")
    assert sum("your change is kept" in line for line in lines) == 3  # dataset.json and both split files
    grown = open_raw_dataset("801")
    assert sorted(grown.cases) == [*sorted(raw.cases), "lung_009_s00"]
    assert grown.dataset_json["numTraining"] == 5
    for folder in (raw.folder, raw.preprocessed):
        splits = read_json(folder / "splits_final.json")
        assert [split["train"] for split in splits] == [[*split["train"], "lung_009_s00"] for split in before]
    _augment(grown)


def test_an_edit_that_cannot_be_read_is_refused_and_force_brings_the_original_back(folders):
    raw = _open(folders)
    before = tree_hashes(*folders)
    _augment(raw)
    (raw.folder / "splits_final.json").write_text("[{")
    with pytest.raises(BadInput, match=r"splits_final.json was changed.*--force"):
        remove("801")
    remove("801", force=True)
    assert tree_hashes(*folders) == before


def test_only_the_formatting_was_changed_then_the_original_comes_back(folders):
    raw = _open(folders)
    before = tree_hashes(*folders)
    _augment(raw)
    path = raw.folder / "dataset.json"
    path.write_text(json.dumps(read_json(path)))
    remove("801")
    assert tree_hashes(*folders) == before


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "not planned"])
def test_the_fingerprint_of_the_real_cases_stays_where_plans_need_it(folders, planned):
    raw = _open(folders)
    before = tree_hashes(*folders)
    _augment(raw, fingerprint=True)
    fingerprint = raw.preprocessed / "dataset_fingerprint.json"
    if planned:
        plan_like_nnunet(raw)
    ours = sha256(fingerprint)
    lines = remove("801")
    if not planned:
        assert tree_hashes(*folders) == before
        return
    assert sha256(fingerprint) == ours
    assert any("dataset_fingerprint.json is kept: it is that of the real cases" in line for line in lines)
    assert any("matter only for the batch size of very small datasets" in line for line in lines)
    assert tree_hashes(folders[0]) == {k: v for k, v in before.items() if k.startswith(str(folders[0]))}
    left = [path.name for path in raw.preprocessed.rglob("*") if path.is_file()]
    assert not [name for name in left if "difflung" in name]
    assert {"nnUNetPlans.json", "splits_final.json", "lung_001_s00.b2nd", "lung_001_s00.nii.gz"} <= set(left)
    assert sha256(raw.preprocessed / "dataset.json") == sha256(raw.folder / "dataset.json")
    assert sha256(raw.preprocessed / "splits_final.json") == sha256(raw.folder / "splits_final.json")


def test_a_fingerprint_that_is_missing_beside_plans_is_named_with_the_command_that_makes_it(folders):
    raw = _open(folders)
    _augment(raw, fingerprint=True)
    plan_like_nnunet(raw)
    (raw.preprocessed / "dataset_fingerprint.json").unlink()
    assert any("nnUNetv2_plan_and_preprocess -d 801 --clean" in line for line in remove("801"))


def test_a_manifest_left_in_the_preprocessed_folder_alone_is_enough(folders):
    raw = _open(folders)
    plan_like_nnunet(raw)
    before = tree_hashes(*folders)
    _augment(raw)
    (raw.folder / MANIFEST).unlink()
    remove("801")
    assert tree_hashes(*folders) == before


def test_links_come_back_as_links(folders):
    raw = _open(folders)
    real = raw.folder.parent / "elsewhere.json"
    shutil.move(raw.folder / "dataset.json", real)
    (raw.folder / "dataset.json").symlink_to(os.path.join("..", "elsewhere.json"))
    raw = open_raw_dataset("801")
    _augment(raw)
    plan_like_nnunet(raw)
    remove("801")
    assert os.readlink(raw.folder / "dataset.json") == os.path.join("..", "elsewhere.json")
    assert (raw.preprocessed / "dataset.json").read_bytes() == real.read_bytes()


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_removed(folders, monkeypatch):
    raw = _open(folders)
    _augment(raw)
    before = tree_hashes(*folders)
    locked: Path = raw.folder / "labelsTr"
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and access(path, mode))
    for dry_run in (True, False):
        with pytest.raises(BadInput, match=f"{locked} is not writable"):
            remove("801", dry_run=dry_run)
    assert tree_hashes(*folders) == before


@pytest.mark.parametrize("faulty", ["[{", "\xff", ""])
@pytest.mark.parametrize("where", ["raw splits", "preprocessed splits", "both splits", "preprocessed dataset"])
def test_force_brings_the_originals_back_whatever_the_files_hold_now(folders, where, faulty):
    raw = _open(folders)
    before = tree_hashes(folders[0])
    _augment(raw)
    plan_like_nnunet(raw)
    parts = [raw.folder, raw.preprocessed] if "both" in where else [raw.preprocessed if "pre" in where else raw.folder]
    for part in parts:
        path = part / ("dataset.json" if "dataset" in where else "splits_final.json")
        path.write_bytes(faulty.encode("latin-1"))
    lines = remove("801", force=True)
    assert tree_hashes(folders[0]) == before
    kept = f"{raw.preprocessed / 'dataset.json'} cannot be read and is kept"
    assert any(line.startswith(kept) for line in lines) == ("dataset" in where)
