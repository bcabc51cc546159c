"""What a command leaves that is ended between the injection and its report, and what the next one makes of it."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from nnunet_difflung.commands.augment import entry, main
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.commands.report import main as report
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection import commit
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.paths import fold_folder, results_folder
from nnunet_difflung.pipeline import augment as stages
from nnunet_difflung.pipeline import on_record
from nnunet_difflung.pipeline.on_record import add_rows, read_report
from nnunet_difflung.report.records import read_records
from nnunet_difflung.report.verdicts import verdicts
from nnunet_difflung.runtime.files import read_json, write_json
from tests.support.tiny import make_dataset

pytestmark = pytest.mark.usefixtures("fingerprint", "no_fsync")
NAME, METHOD = "Dataset801_Tiny", "copy_paste"
COPY = ["-d", "801", "-f", "0", "--method", METHOD, "--gate", "report", "-device", "cpu", "--max-synthetic"]


@pytest.fixture
def dataset(folders) -> Path:
    return make_dataset(folders[0], patients=4, folds=2)


def _results(name: str) -> Path:
    return results_folder(NAME, METHOD) / name


def _row() -> dict:
    (row,) = read_report(NAME, METHOD)["folds"]
    return row


def _ended_by_a_signal(monkeypatch, number: str) -> None:
    """Runs the command; a scheduler's SIGTERM comes while files are renamed."""
    real = commit._roll_forward

    def roll_forward(folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real(folder)

    with monkeypatch.context() as context:
        context.setattr(commit, "_roll_forward", roll_forward)
        with pytest.raises(SystemExit) as stop:
            entry([*COPY, number])
    assert stop.value.code == 128 + signal.SIGTERM


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _injected(folder: Path) -> int:
    return len(read_manifest(folder)["cases"])


def test_the_report_of_an_interrupted_command_is_completed_by_the_next(dataset, monkeypatch, capsys):
    _ended_by_a_signal(monkeypatch, "2")
    assert _injected(dataset) == 2
    assert (_row()["injected"], _row()["planned"]) == (0, 2)
    assert list(fold_folder(NAME, METHOD, 0).glob("synthesis_*"))
    assert main([*COPY, "2"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    row = _row()
    assert (row["injected"], "stopped" in row, row["repainted"]) == (2, False, 0)
    assert not list(fold_folder(NAME, METHOD, 0).glob("synthesis_*"))
    assert "2 synthetic cases in the dataset" in _results("report.html").read_text(encoding="utf-8")
    times = {path: path.stat().st_mtime_ns for path in (_results("report.html"), _results("augment_report.json"))}
    main([*COPY, "2"])
    assert {path: path.stat().st_mtime_ns for path in times} == times, "there is nothing left to finish"
    assert not list(results_folder(NAME, METHOD).glob("*.lock"))


def test_the_report_of_earlier_settings_is_replaced(dataset, monkeypatch):
    main([*COPY, "2"])
    remove(["-d", "801"])
    _ended_by_a_signal(monkeypatch, "1")
    main([*COPY, "1"])
    assert (_row()["planned"], _row()["injected"]) == (1, 1)
    assert read_report(NAME, METHOD)["settings"]["balance"]["max_synthetic"] == 1
    assert "1 synthetic case in the dataset" in _results("report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("left", ["nothing", "other settings"])
def test_a_report_that_lacks_what_is_in_the_dataset_gets_it_from_the_manifest(dataset, left, capsys):
    """As after an interruption of an earlier version, or where somebody has deleted the report."""
    main([*COPY, "1"])
    other = read_report(NAME, METHOD)
    remove(["-d", "801"])
    main([*COPY, "2"])
    whole = read_report(NAME, METHOD)
    if left == "nothing":
        shutil.rmtree(results_folder(NAME, METHOD))
    else:
        write_json(_results("augment_report.json"), other)
    if left != "nothing":
        report(["-d", "801", "-o", str(dataset.parent.parent / "page.html")])  # which changes no record
        assert _row() == other["folds"][0]
        assert "2 synthetic cases in the dataset" in (dataset.parent.parent / "page.html").read_text(encoding="utf-8")
    assert main([*COPY, "2"]) == 0
    row = _row()
    same = ("planned", "injected", "before", "after", "quality", "verdicts", "memorisation")
    assert {key: row[key] for key in same} == {key: whole["folds"][0][key] for key in same}
    assert row["notes"][0].startswith("from the record in the dataset")
    assert read_report(NAME, METHOD)["settings"] == whole["settings"]
    assert "2 synthetic cases in the dataset" in _results("report.html").read_text(encoding="utf-8")


def test_dropped_cases_of_the_manifest_are_listed_without_a_reason(dataset):
    main([*COPY, "2"])
    manifest = read_manifest(dataset)
    manifest["runs"][0]["summary"] |= {"dropped": ["difflung_copy_paste_f0_00000000_0007"], "injected": 2}
    write_json(dataset / "difflung_manifest.json", manifest)
    records = read_records(open_raw_dataset("801"), METHOD)
    assert list(records.rows[0]["dropped"]) == ["difflung_copy_paste_f0_00000000_0007"]
    report(["-d", "801"])
    assert "no reason on record" in _results("report.html").read_text(encoding="utf-8")


def test_a_command_that_is_ended_before_the_injection_does_not_say_that_it_is_finished(dataset, monkeypatch):
    with monkeypatch.context() as context:
        context.setattr(stages, "inject", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            main([*COPY, "2"])
    assert read_manifest(dataset) is None
    lights = {light.title: light for light in verdicts(read_records(open_raw_dataset("801"), METHOD))}
    assert lights["Run"].state == "bad"
    assert "run the same command again" in lights["Run"].text
    main([*COPY, "2"])
    assert (_row()["injected"], "stopped" in _row()) == (2, False)


def test_a_fold_without_cases_is_reported_after_an_interruption_too(dataset, monkeypatch):
    met = [*COPY, "2", "--target-share", "emphysema=0.001", "ILD=0.001"]
    with monkeypatch.context() as context:
        context.setattr(stages, "conclude", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            main(met)
    main(met)
    assert (_row()["planned"], _row()["injected"], "stopped" in _row()) == (0, 0, False)


def test_commands_for_several_folds_do_not_lose_each_others_rows(folders, monkeypatch):
    results_folder(NAME, METHOD).mkdir(parents=True)
    both, real = threading.Barrier(2), on_record.earlier_rows

    def earlier_rows(*arguments: str) -> list[dict]:
        rows = real(*arguments)
        with suppress(threading.BrokenBarrierError):  # without a lock both have read before one of them writes
            both.wait(timeout=0.5)
        return rows

    monkeypatch.setattr(on_record, "earlier_rows", earlier_rows)
    threads = [threading.Thread(target=add_rows, args=(NAME, METHOD, [{"fold": k}], {"a": 1})) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = read_report(NAME, METHOD)
    assert sorted(row["fold"] for row in content["folds"]) == [0, 1]
    assert content["a"] == 1


def test_a_user_who_cannot_write_the_results_is_not_stopped(dataset, monkeypatch):
    main([*COPY, "2"])
    _results("augment_report.json").unlink()
    monkeypatch.setattr(on_record, "is_writable", lambda _: False)
    monkeypatch.setattr(stages, "keep_log", lambda _: None)
    assert main([*COPY, "2"]) == 0
    assert not _results("augment_report.json").exists()


def test_a_damaged_report_is_named_and_can_be_deleted(dataset):
    main([*COPY, "2"])
    _results("augment_report.json").write_text("{")
    with pytest.raises(BadInput, match=r"augment_report.json is damaged .* delete it"):
        main([*COPY, "2"])
    _results("augment_report.json").unlink()
    main([*COPY, "2"])
    assert _row()["injected"] == 2
    assert read_json(_results("augment_report.json"))["patients"] == read_manifest(dataset)["reading"]
