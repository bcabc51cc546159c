"""What happens on clusters: kills, full and read-only disks, files that vanish, two jobs at once, wrong clocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from nnunet_difflung.audit.audit import audit_dataset
from nnunet_difflung.commands.augment import entry, main
from nnunet_difflung.injection.manifest import read_manifest
from tests.faults.campaign import campaign, faults
from tests.support.commands import OPTIONS, prepared, results_of
from tests.support.tiny import make_dataset, tree_hashes

ONE_FOLD = [*OPTIONS, "-f", "0"]


def test_a_sample_of_the_campaign():
    """``make faults`` runs all of it."""
    stages = ("training", "painting", "committing", "removing")
    rows = campaign(len(stages), seed=0, minutes=30, shown=False, stages=stages)
    assert [row["stage"] for row in rows] == list(stages)
    assert faults(rows) == []


@contextmanager
def mounted(folder: Path, options: str):
    """A small file system of its own in ``folder``; skips where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def command(arguments: list[str]) -> tuple[int, str]:
    """Exit code and stderr of the real command."""
    done = subprocess.run(
        [sys.executable, "-m", "nnunet_difflung.commands.augment", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(("variable", "room"), [("nnUNet_results", 60_000), ("nnUNet_raw", 12_000)])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, variable, room):
    """The check before the start is passed by, as by another user who fills the disk meanwhile."""
    place = tmp_path / "a" / variable
    with mounted(place, "size=900k"):
        raw, _, results = prepared(tmp_path / "a", monkeypatch)
        folder = make_dataset(raw)
        before = tree_hashes(folder)
        filler = place / "filler"
        filler.write_bytes(b"0" * max(0, os.statvfs(place).f_bavail * os.statvfs(place).f_frsize - room))
        monkeypatch.setattr("nnunet_difflung.pipeline.augment.check_disk", lambda *_: None)
        with pytest.raises(OSError, match="No space left"):
            main(ONE_FOLD)
        visible = {k: v for k, v in tree_hashes(folder).items() if ".difflung" not in k}
        assert visible == before
        assert audit_dataset("801") == []
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        main(ONE_FOLD)
        assert read_manifest(folder)["cases"]
        assert audit_dataset("801", deep=True) == []


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    place = tmp_path / "a" / "nnUNet_results"
    with mounted(place, "size=200k"):
        raw, *_ = prepared(tmp_path / "a", monkeypatch)
        make_dataset(raw)
        code, stderr = command(ONE_FOLD)
        last = stderr.strip().splitlines()[-1]
        assert code in (1, 2)
        assert "Traceback" not in stderr
        assert "No space left" in last or "free some space" in last
        assert str(place) in last


def test_a_read_only_dataset_is_told_in_one_line(tmp_path, monkeypatch):
    raw, *_ = prepared(tmp_path / "a", monkeypatch)
    folder = make_dataset(raw)
    before = tree_hashes(folder)
    with mounted(tmp_path / "empty", "size=8m"):
        subprocess.run(["cp", "-a", str(folder), str(tmp_path / "empty")], check=True)
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / "empty"))
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "empty")], check=True)
        code, stderr = command(ONE_FOLD)
        assert code in (1, 2)
        assert "Traceback" not in stderr
        assert "writable" in stderr.strip().splitlines()[-1]
    assert tree_hashes(folder) == before


@pytest.mark.parametrize("stage", ["train_fold", "synthesize_fold"])
def test_a_source_case_that_vanishes_between_stages_is_named(tmp_path, monkeypatch, capsys, stage):
    raw, _, results = prepared(tmp_path, monkeypatch)
    folder = make_dataset(raw)
    import nnunet_difflung.pipeline.augment as module

    real = getattr(module, stage)
    gone = folder / "imagesTr" / "lung_002_s00_0000.nii.gz"

    def then_gone(*arguments, **options):
        result = real(*arguments, **options)
        gone.unlink()
        return result

    monkeypatch.setattr(module, stage, then_gone)
    before = {k: v for k, v in tree_hashes(folder).items() if str(gone) not in k}
    with pytest.raises(SystemExit) as stop:
        entry(ONE_FOLD)
    stderr = capsys.readouterr().err
    assert stop.value.code == 2
    assert "Traceback" not in stderr
    assert stderr.count("Error: ") == 1
    assert str(gone) in stderr.strip().splitlines()[-1]
    assert {k: v for k, v in tree_hashes(folder).items() if ".difflung" not in k} == before


def test_two_commands_for_one_fold_at_once(tmp_path, monkeypatch):
    raw, _, results = prepared(tmp_path / "a", monkeypatch)
    folder = make_dataset(raw)
    assert command(ONE_FOLD)[0] == 0  # one thread, as the others: sums depend on their number
    expected = results_of(folder, results)
    (tmp_path / "a").rename(tmp_path / "one")
    raw, _, results = prepared(tmp_path / "a", monkeypatch)
    folder = make_dataset(raw)
    jobs = [
        subprocess.Popen(
            [sys.executable, "-m", "nnunet_difflung.commands.augment", *ONE_FOLD],
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    outputs = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    results_of_both = results_of(folder, results)
    assert results_of_both["files"] == expected["files"]
    assert json.dumps(results_of_both["manifest"]["cases"]) == json.dumps(expected["manifest"]["cases"])


def test_files_from_the_future_change_nothing(tmp_path, monkeypatch):
    """As if the clock had been set back between two commands."""
    raw, _, results = prepared(tmp_path / "a", monkeypatch)
    folder = make_dataset(raw)
    main(ONE_FOLD)
    expected = results_of(folder, results)
    (tmp_path / "a").rename(tmp_path / "one")
    raw, preprocessed, results = prepared(tmp_path / "a", monkeypatch)
    folder = make_dataset(raw)
    import nnunet_difflung.pipeline.augment as module

    monkeypatch.setattr(module, "synthesize_fold", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(ONE_FOLD)
    monkeypatch.undo()
    for variable, path in zip(
        ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), (raw, preprocessed, results), strict=True
    ):
        monkeypatch.setenv(variable, str(path))
        for file in path.rglob("*"):
            os.utime(file, (4e9, 4e9))
    main(ONE_FOLD)
    assert results_of(folder, results)["files"] == expected["files"]
