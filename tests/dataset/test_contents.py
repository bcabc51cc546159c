"""What files hold decides, not their names, sizes and times: hashes, cache, fingerprint, folds with twins."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset import cache as cache_module
from nnunet_difflung.dataset import contents as contents_module
from nnunet_difflung.dataset.cache import build_cache, check_cases
from nnunet_difflung.dataset.contents import (
    MEMO,
    FileHashes,
    check_same_content,
    contents_of,
    digest_of,
    present_cases,
    stat_key,
)
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.reading import with_class_counts
from nnunet_difflung.injection.fingerprint import staged_fingerprint
from nnunet_difflung.runtime.files import read_json, sha256, write_json
from tests.support.tiny import make_dataset

CASE = "lung_002_s00"


@pytest.fixture
def raw(folders) -> RawDataset:
    """Uncompressed files, so that other voxels do not change the size."""
    make_dataset(folders[0], patients=3, slices=2, size=16, folds=3, file_ending=".nii")
    return open_raw_dataset("801")


def replace_quietly(path: Path, value: int = 7) -> None:
    """Another file of the same name, size and modification time."""
    status = path.stat()
    content = sitk.ReadImage(str(path))
    content[3, 3, 0] = value if content[3, 3, 0] != value else value - 1
    other = path.with_name("other.nii")
    sitk.WriteImage(content, str(other))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@pytest.mark.parametrize("part", ["image", "label"])
def test_a_file_replaced_by_another_of_the_same_size_and_time_is_read_anew(raw, tmp_path, part, monkeypatch):
    monkeypatch.setattr(contents_module, "_SETTLED", -1)
    monkeypatch.setattr(contents_module, "_WORTH_FILES", 0)
    before = build_cache(raw, tmp_path / "cache", progress=False)
    content, image = before.facts[CASE].content, np.array(before.image(CASE))
    case = raw.cases[CASE]
    replace_quietly(Path(case.images[0] if part == "image" else case.label), 1)
    after = build_cache(raw, tmp_path / "cache", progress=False)
    assert after.facts[CASE].content != content
    assert after.facts[CASE].files != before.facts[CASE].files
    assert (np.array(after.image(CASE)) != image).any() == (part == "image")


def test_a_file_that_holds_the_same_is_not_read_again(raw, tmp_path, monkeypatch):
    before = build_cache(raw, tmp_path / "cache", progress=False)
    for file in raw.cases[CASE].images:
        content = Path(file).read_bytes()
        Path(file).unlink()
        Path(file).write_bytes(content)
    monkeypatch.setattr(cache_module, "read_case", lambda *_: pytest.fail("it has been read"))
    after = build_cache(raw, tmp_path / "cache", progress=False)
    assert after.facts == before.facts


def test_entries_of_earlier_versions_are_used_as_they_were(raw, tmp_path, monkeypatch):
    build_cache(raw, tmp_path / "cache", progress=False)
    for path in (tmp_path / "cache").glob("lung_*.json"):
        entry = read_json(path)
        del entry["files"]
        write_json(path, entry)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "read_case", lambda *_: pytest.fail("it has been read"))
        facts = build_cache(raw, tmp_path / "cache", progress=False).facts
    assert {i: f.files for i, f in facts.items()} == contents_of(raw)
    os.utime(raw.cases[CASE].label, (0, 0))
    build_cache(raw, tmp_path / "cache", progress=False)
    assert [p.stem for p in (tmp_path / "cache").glob("lung_*.json") if "files" in read_json(p)] == [CASE]


def test_a_case_that_is_changed_while_it_is_read_is_refused(raw, tmp_path, monkeypatch):
    original = cache_module.read_case

    def read(dataset, case):
        result = original(dataset, case)
        replace_quietly(Path(case.label), 1)
        return result

    monkeypatch.setattr(cache_module, "read_case", read)
    with pytest.raises(ValueError, match="were changed while they were read"):
        check_cases(raw, progress=False)


def test_a_staged_fingerprint_belongs_to_what_the_files_hold(raw):
    before = staged_fingerprint(raw)
    os.utime(raw.cases[CASE].label, (0, 0))
    assert staged_fingerprint(raw) == before
    replace_quietly(Path(raw.cases[CASE].label), 1)
    assert staged_fingerprint(raw) != before


# ---- hashes that are remembered ----


@pytest.fixture
def settled(monkeypatch) -> None:
    """Every file counts as old, and every hash is worth remembering."""
    monkeypatch.setattr(contents_module, "_SETTLED", -1)
    monkeypatch.setattr(contents_module, "_WORTH_FILES", 0)


def counted(monkeypatch) -> list[str]:
    read: list[str] = []
    monkeypatch.setattr(contents_module, "sha256", lambda path: read.append(str(path)) or sha256(path))
    return read


@pytest.mark.usefixtures("settled")
def test_a_hash_is_remembered_until_the_stat_differs(tmp_path, monkeypatch):
    file, memo = tmp_path / "file", tmp_path / MEMO
    file.write_bytes(b"one")
    first = FileHashes(memo)
    assert first.of(file) == sha256(file)
    first.save()
    read = counted(monkeypatch)
    assert FileHashes(memo).of(file) == sha256(file)
    assert read == []
    assert FileHashes(memo, anew=True).of(file) == sha256(file)
    assert read == [str(file)]
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert stat_key(file)[:2] == [status.st_size, status.st_mtime_ns]
    assert FileHashes(memo).of(file) == sha256(file)


def test_a_file_that_was_changed_just_now_is_not_remembered(tmp_path, monkeypatch):
    """Its time could stay the same with the next change."""
    monkeypatch.setattr(contents_module, "_WORTH_FILES", -1)
    (tmp_path / "file").write_bytes(b"one")
    hashes = FileHashes(tmp_path / MEMO)
    hashes.of(tmp_path / "file")
    hashes.save()
    assert read_json(tmp_path / MEMO)["files"] == {}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 9, "files": {}}', '{"format": 1, "files": {"x": [1]}}'])
def test_a_damaged_memo_is_as_none(tmp_path, damage):
    (tmp_path / "file").write_bytes(b"one")
    (tmp_path / MEMO).write_text(damage)
    hashes = FileHashes(tmp_path / MEMO)
    assert hashes.of(tmp_path / "file") == sha256(tmp_path / "file")
    hashes.save()
    assert len(read_json(tmp_path / MEMO)["files"]) == 1


@pytest.mark.usefixtures("settled")
def test_two_processes_that_save_at_a_time_leave_a_memo(tmp_path):
    hashes = []
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode())
        hashes.append(FileHashes(tmp_path / MEMO))
        hashes[-1].of(tmp_path / name)
    for each in hashes:
        each.save()
    assert {Path(name).name for name in read_json(tmp_path / MEMO)["files"]} == {"one", "two"}


def test_few_small_files_are_not_worth_a_memo(raw, tmp_path):
    build_cache(raw, tmp_path / "cache", progress=False)
    assert not (tmp_path / "cache" / MEMO).exists()


def test_a_digest_knows_cases_by_what_they_hold(raw):
    contents = contents_of(raw)
    renamed = {("other" if i == CASE else i): files for i, files in contents.items()}
    names = [CASE, "lung_001_s00"]
    assert (
        digest_of(contents, names)
        == digest_of(contents, reversed(names))
        == digest_of(renamed, ["lung_001_s00", "other"])
    )
    assert digest_of(contents, names) != digest_of(contents, names[:1])
    assert digest_of(contents, [*names, "unknown"]) is None


def test_what_is_there_is_listed_however_incomplete(raw):
    Path(raw.cases[CASE].label).unlink()
    shutil.copy(raw.cases[CASE].images[0], raw.folder / "labelsTr" / "alone.nii")
    shutil.copy(raw.cases[CASE].images[0], raw.folder / "imagesTr" / "difflung_x_0000.nii")
    cases = present_cases(raw.folder, raw.dataset_json)
    assert sorted(cases) == sorted([*raw.cases, "alone"])
    assert cases[CASE].label == ""
    assert cases["alone"].images == ()
    assert all(cases[i] == raw.cases[i] for i in raw.cases if i != CASE)


# ---- the same image in training and validation ----


def test_folds_with_the_same_image_on_both_sides_are_refused(raw, tmp_path):
    def hashed() -> RawDataset:
        return with_class_counts(raw, build_cache(raw, tmp_path / "cache", progress=False).facts)

    check_same_content(hashed(), [0, 1, 2, "all"])
    shutil.copy(raw.cases["lung_001_s00"].images[0], raw.cases[CASE].images[0])
    with pytest.raises(ValueError, match=f"fold 0 of .* trains on {CASE} and validates on lung_001_s00"):
        check_same_content(hashed(), [0])
    check_same_content(hashed(), [2, "all"])  # both train
    same_side = [{"train": ["lung_003_s00"], "val": [CASE, "lung_001_s00"]}]
    check_same_content(replace(hashed(), listed_splits=same_side), [0])
