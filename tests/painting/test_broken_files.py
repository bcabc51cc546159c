"""Files of painted cases that a power failure may have broken off, before the cases are injected."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.painting import attempt
from nnunet_difflung.painting.attempt import Attempt
from nnunet_difflung.painting.cases import SynthesisResult
from nnunet_difflung.pipeline.fold import prepare_fold, synthesize_fold
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.runtime.files import read_json, sha256, write_json
from tests.support.commands import prepared
from tests.support.tiny import make_dataset

OPTIONS = ["-d", "801", "-f", "0", "--method", "copy_paste", "--gate", "report", "-device", "cpu"]
OPTIONS += ["--max-synthetic", "3"]


@pytest.fixture
def fold(tmp_path, monkeypatch) -> Fold:
    folders = prepared(tmp_path, monkeypatch)
    make_dataset(folders[0], patients=4, emphysema_every=2)
    raw = open_raw_dataset("801")
    return prepare_fold(raw, 0, settings_from(parse(OPTIONS)), build_cache(raw, tmp_path / "cache", progress=False))


def _hashes(result: SynthesisResult) -> dict[Path, str]:
    return {path: sha256(path) for case in result.staged for path in (*case.images, case.label)}


BREAKS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "shorter": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.usefixtures("no_fsync")
@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_case_whose_file_broke_off_is_written_again(fold, capsys, broken, part):
    before = _hashes(synthesize_fold(fold, "cpu", progress=False)[1])
    assert len(before) > 2
    BREAKS[broken](next(path for path in before if path.parent.name == part))
    capsys.readouterr()
    assert _hashes(synthesize_fold(fold, "cpu", progress=False)[1]) == before
    assert "files of 1 painted case broke off; they are written again" in "".join(capsys.readouterr())
    assert _hashes(synthesize_fold(fold, "cpu", progress=False)[1]) == before
    assert "broke off" not in "".join(capsys.readouterr())


@pytest.mark.usefixtures("no_fsync")
def test_records_of_earlier_versions_do_not_know_the_sizes_and_are_used(fold):
    before = _hashes(synthesize_fold(fold, "cpu", progress=False)[1])
    for record in fold.work.glob("cases/*/*.json"):
        content = read_json(record)
        assert content.pop("files")
        write_json(record, content)
    times = {path: path.stat().st_mtime_ns for path in before}
    result = synthesize_fold(fold, "cpu", progress=False)[1]
    assert {path: path.stat().st_mtime_ns for path in _hashes(result)} == times
    assert not any("files" in case.record for case in result.staged), "they are in the work folder"


def test_a_case_counts_once_its_files_are_on_the_disk(fold, monkeypatch):
    flushed: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.add(os.fstat(handle).st_ino))
    real, counted = attempt.write_json, []

    def write(path: Path, content: dict) -> None:
        files = [fold.work / name for name in content["files"]]
        assert {place.stat().st_ino for file in files for place in (file, file.parent)} <= flushed
        counted.append(len(files))
        real(path, content)

    monkeypatch.setattr(attempt, "write_json", write)
    synthesize_fold(fold, "cpu", progress=False)
    assert counted == [2] * len(fold.plan.cases)


@pytest.mark.usefixtures("no_fsync")
def test_a_chosen_candidate_whose_file_broke_off_is_written_again(fold):
    synthesis, result = synthesize_fold(fold, "cpu", progress=False)
    files, planned = Attempt(synthesis, 0), fold.plan.cases[0]
    files.write(planned)
    attempt.discard_broken(fold)
    assert files.is_written(planned)
    result.staged[0].label.write_bytes(b"")
    attempt.discard_broken(fold)
    assert not files.is_written(planned)
