"""What a script gets from a command: an exit code, one JSON object on stdout, and a log, whatever happens."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.runtime.arguments import CommandParser, asks_for
from nnunet_difflung.runtime.console import STATUS, Code, command
from nnunet_difflung.runtime.launcher import _objects_taken_over
from nnunet_difflung.runtime.messages import Run, note, open_log, quiet, report, running, say, spent, stage, warn
from nnunet_difflung.runtime.parallel import bar
from nnunet_difflung.runtime.strict_json import strict_json
from nnunet_difflung.runtime.wording import collapsed

ROOT = Path(__file__).resolve().parents[2]


def fail(error: BaseException):
    raise error


ENDS = {
    "done": (lambda: 0, 0, "done"),
    "nothing returned": (lambda: None, 0, "done"),
    "problems": (lambda: 1, 1, "problems"),
    "failed": (lambda: fail(Failed("the gate dropped all cases")), 1, "failed"),
    "full disk": (lambda: fail(OSError(errno.ENOSPC, "No space left on device", "somewhere")), 1, "failed"),
    "bug": (lambda: fail(ZeroDivisionError("division by zero")), 1, "failed"),
    "bad input": (lambda: fail(BadInput("no such dataset", ["801", "802"])), 2, "refused"),
    "bad option": (lambda: CommandParser(prog="difflung_x").parse_args(["--wrong"]), 2, "refused"),
    "suspicion": (lambda: 3, 3, "suspicion"),
    "Ctrl-C": (lambda: fail(KeyboardInterrupt()), 130, "interrupted"),
    "SIGTERM": (lambda: fail(SystemExit(143)), 143, "interrupted"),
}


def run(main, *words: str) -> int:
    """The exit code of a command whose ``main`` takes no arguments."""
    with pytest.raises((SystemExit, ZeroDivisionError)) as ended:
        command(lambda _: main())([*words])
    return ended.value.code if isinstance(ended.value, SystemExit) else 1


@pytest.mark.parametrize("end", ENDS)
def test_each_end_has_its_exit_code_and_one_json_object(end, capsys):
    main, code, status = ENDS[end]
    assert run(main, "--json") == code
    content = json.loads(capsys.readouterr().out)
    assert (content["exit_code"], content["status"]) == (code, status)
    assert ("error" in content) == (status in ("failed", "refused", "interrupted"))


@pytest.mark.parametrize("end", ENDS)
def test_without_json_the_exit_codes_are_the_same_and_stdout_has_no_object(end, capsys):
    main, code, _ = ENDS[end]
    assert run(main) == code
    assert capsys.readouterr().out == ""


def test_the_error_of_the_object_is_the_one_on_stderr(capsys):
    run(ENDS["bad input"][0], "--json")
    said = capsys.readouterr()
    content = json.loads(said.out)
    assert (content["error"], content["details"]) == ("no such dataset", ["801", "802"])
    assert said.err == "Error: no such dataset\n  801\n  802\n"


def test_every_exit_code_is_in_the_docs():
    text = (ROOT / "docs" / "scripting.md").read_text(encoding="utf-8")
    listed = {int(number): row for number, row in re.findall(r"^\| (\d+) \|(.*)$", text, re.MULTILINE)}
    assert set(listed) == {int(code) for code in Code}
    assert all(f"`{status}`" in listed[int(code)] for code, status in STATUS.items())


PRINTS = """
import os, subprocess, sys
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.messages import note, report, say, warn

def main():
    say("a table"); note("a note"); warn("a warning"); say("Warning: in a table")
    print("a library", flush=True)
    subprocess.run(["echo", "a child"])
    report(figure=1)

command(main)()
"""


def printed(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", PRINTS, *words], capture_output=True, text=True, timeout=300)


def test_with_json_libraries_and_children_print_on_stderr():
    done = printed("--json")
    content = json.loads(done.stdout)
    assert content["figure"] == 1
    assert content["warnings"] == ["a warning", "in a table"]
    assert content["notes"] == ["a note"]
    for text in ("a table", "Note: a note", "Warning: a warning", "a library", "a child"):
        assert text in done.stderr


def test_a_quiet_command_shows_warnings_alone():
    done = printed("--quiet")
    assert done.stdout == ""
    assert done.stderr == "Warning: a warning\nWarning: in a table\n"


def test_a_quiet_command_with_json_prints_the_object():
    done = printed("--quiet", "--json")
    assert json.loads(done.stdout)["notes"] == ["a note"]
    assert done.stderr == "Warning: a warning\nWarning: in a table\n"


def test_a_quiet_command_has_no_progress_bar(capsys):
    with running(Run("difflung_x", quiet=True)):
        assert quiet()
        assert list(bar([1, 2], desc="reading")) == [1, 2]
    assert capsys.readouterr().err == ""
    assert list(bar([1, 2], desc="reading")) == [1, 2]
    assert "reading" in capsys.readouterr().err


def test_a_flag_is_seen_before_the_command_line_is_parsed_also_if_it_is_abbreviated():
    assert asks_for("--json", ["-d", "801", "--js"])
    assert not asks_for("--json", ["-d", "json", "--", "-", "--jsonx"])


def test_json_has_no_tokens_that_are_not_json():
    content = {1: np.float32("nan"), "b": [np.inf, 0.5, np.int64(3)], "c": np.array([[1.0, np.nan]]), "d": {"y", "x"}}
    text = strict_json({**content, "path": Path("a/b"), "none": None, "name": "\udcfc"})

    def refuse(token: str):
        raise AssertionError(token)

    assert json.loads(text, parse_constant=refuse) == {
        "1": None,
        "b": [None, 0.5, 3],
        "c": [[1.0, None]],
        "d": ["x", "y"],
        "path": "a/b",
        "none": None,
        "name": "\udcfc",
    }


def test_of_several_processes_only_the_first_prints_the_object(monkeypatch, capsys):
    for rank, printing in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        run(lambda: 0, "--json")
        assert bool(capsys.readouterr().out) == printing


def test_a_command_takes_over_the_objects_of_its_processes(monkeypatch, capsys):
    def process(rank: int, main) -> None:
        monkeypatch.setenv("RANK", str(rank))
        run(main, "--json")
        monkeypatch.delenv("RANK")

    def first() -> int:
        report(folds=[0])
        warn("of the first process")
        raise SystemExit(143)  # the launcher ends it when the other one fails

    def main() -> int:
        with _objects_taken_over():
            process(0, first)
            process(1, ENDS["bad input"][0])
        return 2

    assert run(main, "--json") == 2
    content = json.loads(capsys.readouterr().out)
    assert content["folds"] == [0]
    assert content["error"] == "no such dataset"
    assert content["warnings"] == ["of the first process"]


def test_a_log_holds_the_command_line_stages_messages_and_the_end(tmp_path, capsys):
    def main() -> int:
        CommandParser(prog="difflung_x")
        with stage("reading", of="2 files"):
            open_log(tmp_path)
            warn("odd")
        note("known")
        say("a name", log=False)
        say("table\n  row")
        with stage("judging"):
            raise Failed("too few cases")

    assert run(main, "-i", "/home/someone/archive") == 1
    (log,) = tmp_path.iterdir()
    assert re.fullmatch(r"difflung_x_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.log", log.name)
    assert capsys.readouterr().err.endswith("Failed: too few cases\n"), "the error is the last line"
    lines = log.read_text().splitlines()
    stamped = [line[21:] for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line)]
    assert [line.split()[0] for line in stamped] == [
        *("command", "begin", "warning", "stage", "note", "result"),
        *("begin", "stage", "error", "end"),
    ]
    assert "difflung_x -i archive " in stamped[0]
    assert stamped[1].endswith("reading 2 files")
    assert re.fullmatch(r"stage +reading: \d+\.\d s", stamped[3])
    assert re.fullmatch(r"stage +judging: \d+\.\d s", stamped[7]), "also of a stage that fails"
    assert lines[-5].strip() == "row"
    assert stamped[-1].endswith("exit code 1")
    assert "a name" not in log.read_text()


@pytest.mark.parametrize("end", ENDS)
def test_the_object_has_the_seconds_of_stages_however_the_command_ends(end, capsys):
    def main() -> int:
        with stage("reading"):
            pass
        with stage("writing"):
            return ENDS[end][0]()

    run(main, "--json")
    seconds = json.loads(capsys.readouterr().out)["seconds"]
    assert list(seconds) == ["reading", "writing"]
    assert all(value >= 0 for value in seconds.values())


def test_all_records_of_a_stage_have_the_same_figure(tmp_path):
    seconds: dict[str, float] = {}
    with running(of := Run("difflung_x")):
        open_log(tmp_path)
        for took in (1.23, 4.56):
            spent("reading", took, seconds)
    assert seconds == of.found["seconds"] == {"reading": 5.8}
    (log,) = tmp_path.iterdir()
    assert re.findall(r"stage +(.*)", log.read_text()) == ["reading: 1.2 s", "reading: 4.6 s"]
    spent("reading", 1.0, seconds)
    assert seconds == {"reading": 6.8}, "outside of a command too"


def test_two_commands_of_the_same_second_have_two_logs(tmp_path):
    for _ in range(2):
        with running(Run("difflung_x")) as _:
            open_log(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_log_that_cannot_be_written_is_one_warning(tmp_path, capsys):
    def main() -> int:
        open_log(tmp_path / "missing")
        with stage("reading"):
            pass
        open_log(tmp_path / "missing" / "too")
        return 0

    assert run(main, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["log"] is None
    assert len(content["warnings"]) == 1
    assert str(tmp_path / "missing") in content["warnings"][0]


def test_a_log_whose_disk_fills_up_is_one_warning(tmp_path, capsys):
    def main() -> int:
        open_log(tmp_path)
        (log,) = tmp_path.iterdir()
        log.unlink()
        os.mkdir(log)  # nothing can be appended to it any more
        for name in ("reading", "writing"):
            with stage(name):
                pass
        return 0

    assert run(main) == 0
    assert capsys.readouterr().err.count("Warning: the log cannot be written") == 1


def test_many_lines_of_a_kind_become_the_first_ones_and_a_number():
    many = [f"lung_{i:03d}: {i} voxels of 'class {i}' were lost" for i in range(250)]
    lines = collapsed([*many[:100], "another line", *many[100:]])
    assert lines == [*many[:3], "… and 247 more like this", "another line"]
    assert collapsed(many[:4]) == many[:4], "a line that counts one is no shorter than the line"
    assert collapsed(["it is wrong", "it is right"] * 2) == ["it is wrong", "it is wrong", "it is right", "it is right"]
