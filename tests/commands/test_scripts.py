"""The commands on a dataset, as a script calls them: one JSON object each, and logs that are in nobody's way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nnunet_difflung.commands.audit import entry as audit
from nnunet_difflung.commands.augment import entry as augment
from nnunet_difflung.commands.remove import entry as remove
from nnunet_difflung.errors import Failed
from nnunet_difflung.injection import inject as inject_module
from nnunet_difflung.injection.manifest import MANIFEST
from nnunet_difflung.paths import logs_folder, our_folders, results_folder
from nnunet_difflung.pipeline import augment as augment_module
from nnunet_difflung.runtime import progress
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.parallel import bar
from tests.support.commands import prepared
from tests.support.snapshot import changed, snapshot
from tests.support.tiny import make_dataset

NAME = "Dataset801_Tiny"
AUGMENT = [
    "-d",
    "801",
    "-f",
    "0",
    "--method",
    "copy_paste",
    "--preset",
    "fast",
    "-device",
    "cpu",
    "--gate",
    "report",
    "--max-synthetic",
    "3",
]


STAGES = [
    "checking cases",
    "planning",
    "comparing images",
    "training",
    "painting",
    "adding cases",
    "auditing",
    "writing the report",
]


def logged_seconds(content: dict) -> dict[str, float]:
    """Stage → seconds in the log of a command; each stage has one line."""
    lines = re.findall(r"  stage   (.+): (\d+\.\d) s$", Path(content["log"]).read_text(), re.MULTILINE)
    assert len(lines) == len(dict(lines))
    return {name: float(took) for name, took in lines}


def recorded_seconds() -> dict[str, float]:
    """Stage → seconds in the record of the command."""
    (row,) = read_json(results_folder(NAME, "copy_paste") / "augment_report.json")["folds"]
    return row["seconds_of_all_folds_together"]


def called(entry, capsys, *words: str) -> dict:
    """The object of a command that is quiet, so that stderr has warnings alone."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        entry([*words, "--json", "--quiet"])
    said = capsys.readouterr()
    content = json.loads(said.out)
    assert content["exit_code"] == ended.value.code
    assert all(line.startswith(("Warning: ", "Error: ", "Failed: ", "  ")) for line in said.err.splitlines()), said.err
    return content


def test_from_the_dry_run_to_the_removal(tmp_path, monkeypatch, capsys):
    folders = prepared(tmp_path, monkeypatch)
    mine = make_dataset(folders[0])
    before = snapshot(*folders, folder_times=True)

    dry = called(augment, capsys, *AUGMENT, "--dry-run")
    assert changed(before, snapshot(*folders, folder_times=True)) == []
    (fold,) = dry["folds"]
    assert fold["planned"] == 3
    assert fold["classes"]["emphysema"]["share"] < fold["classes"]["emphysema"]["target"]
    assert dry["estimate"]["bytes"] > dry["estimate"]["cache_bytes"] > 0
    assert dry["log"] is None
    assert list(dry["seconds"]) == ["checking cases", "planning", "comparing images", "timing"]
    assert all(value >= 0 for value in dry["seconds"].values())

    done = called(augment, capsys, *AUGMENT)
    (fold,) = done["folds"]
    assert fold["injected"] == len(list(mine.glob("labelsTr/difflung_*"))) == fold["painted"] - len(fold["dropped"])
    assert set(fold["verdicts"]) == {"emphysema", "ILD"}
    assert (done["leaks"], done["problems"]) == (0, [])
    assert any(line.startswith("nnUNetv2_train 801 2d 0") for line in done["next"])
    log = Path(done["log"])
    assert log.parent == logs_folder(NAME)
    assert log.parent not in our_folders(NAME), "no folder of a method"
    text = log.read_text()
    assert list(done["seconds"]) == STAGES
    assert logged_seconds(done) == done["seconds"] == {**done["seconds"], **recorded_seconds()}
    assert list(recorded_seconds()) == STAGES[:-2], "the rest comes after it"
    assert "seconds" not in (mine / MANIFEST).read_text()
    assert "begin   fold 0: painting" in text
    assert all(warning in text for warning in done["warnings"])

    proven = called(audit, capsys, "-d", "801")
    assert (proven["status"], proven["folds"][0]["synthetic"]) == ("done", {"copy_paste": fold["injected"]})
    synthetic = next(mine.glob("labelsTr/difflung_*"))
    content = synthetic.read_bytes()
    synthetic.write_bytes(b"changed")
    faulty = called(audit, capsys, "-d", "801")
    assert (faulty["status"], faulty["exit_code"]) == ("problems", 1)
    assert any(synthetic.name.partition(".")[0] in line for line in faulty["problems"])
    synthetic.write_bytes(content)

    logs = set(logs_folder(NAME).iterdir())
    assert called(remove, capsys, "-d", "801", "--dry-run")["dry_run"]
    assert set(logs_folder(NAME).iterdir()) == logs
    removed = called(remove, capsys, "-d", "801", "--generators")
    assert any("3 synthetic cases" in line for line in removed["actions"])
    assert {Path(removed["log"]), *logs} == set(logs_folder(NAME).iterdir())
    raw = str(folders[0])
    now = snapshot(*folders, folder_times=True)
    assert [path for path in changed(before, now) if path.startswith(raw) and Path(path).is_file()] == []


def test_a_refused_command_leaves_no_log(tmp_path, monkeypatch, capsys):
    folders = prepared(tmp_path, monkeypatch)
    make_dataset(folders[0])
    before = snapshot(*folders)
    refused = called(augment, capsys, *AUGMENT, "--target-share", "nothing=0.1")
    assert (refused["status"], refused["log"]) == ("refused", None)
    assert "nothing" in refused["error"]
    assert changed(before, snapshot(*folders)) == []


@pytest.mark.parametrize(
    ("failing", "stages", "on_record"),
    [
        ("refuse_undertrained", [*STAGES[:5], STAGES[-1]], STAGES[:5]),
        ("inject", [*STAGES[:6], STAGES[-1]], STAGES[:5]),
    ],
)
def test_a_command_that_fails_says_what_its_stages_took(tmp_path, monkeypatch, capsys, failing, stages, on_record):
    def fail(*_, **__):
        raise Failed("it went wrong")

    folders = prepared(tmp_path, monkeypatch)
    make_dataset(folders[0])
    monkeypatch.setattr(augment_module, failing, fail)
    content = called(augment, capsys, *AUGMENT)
    assert (content["status"], content["error"]) == ("failed", "it went wrong")
    assert list(content["seconds"]) == stages
    assert logged_seconds(content) == content["seconds"] == {**content["seconds"], **recorded_seconds()}
    assert list(recorded_seconds()) == on_record


def test_stages_without_a_count_show_progress_after_two_seconds(tmp_path, monkeypatch):
    bars, moved = [], {}

    def recorded(items=None, visible=True, desc="", delay=0, **options):
        bars.append((desc, visible, delay))
        shown = bar(items, visible=visible, desc=desc, delay=delay, **options)
        monkeypatch.setattr(shown, "update", moved.setdefault(desc, []).append)
        return shown

    folders = prepared(tmp_path, monkeypatch)
    make_dataset(folders[0])
    for module in (progress, inject_module):
        monkeypatch.setattr(module, "bar", recorded)
    with pytest.raises(SystemExit):
        augment(AUGMENT)
    measuring = "fold 0: measuring real lesions"
    assert bars == [("planning", True, 2), (measuring, True, 2), ("adding cases", True, 2)]
    for name in ("planning", measuring):
        assert len(moved[name]) > 3
        assert all(move > 0 for move in moved[name])
        assert sum(moved[name]) == pytest.approx(100)


def test_every_stage_is_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "scripting.md").read_text(encoding="utf-8")
    assert [name for name in (*STAGES, "timing", "segmenter", "scoring") if f"`{name}`" not in text] == []
