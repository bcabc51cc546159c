"""The one line of a command that could not write: it names the place at fault."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_difflung.runtime.console import command


@pytest.mark.parametrize("locked", ["to", "from"])
def test_of_a_file_that_cannot_be_renamed_the_folder_that_is_not_writable_is_named(
    tmp_path, monkeypatch, capsys, locked
):
    source, target = tmp_path / "from" / "file", tmp_path / "to" / "file"
    for path in (source, target):
        path.parent.mkdir()
        path.touch()
    access = os.access
    not_writable = tmp_path / locked
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != not_writable and access(path, mode))

    def replace() -> None:
        raise OSError(errno.EACCES, "Permission denied", str(source), None, str(target))

    with pytest.raises(SystemExit) as stop:
        command(replace)()
    assert stop.value.code == 1
    assert f"Permission denied: {tmp_path / locked};" in capsys.readouterr().err


def test_of_a_file_that_cannot_be_made_the_folder_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)

    def make() -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "new" / ".writing_x"))

    with pytest.raises(SystemExit):
        command(make)()
    assert f"Read-only file system: {tmp_path};" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["file", "folder", "in a folder"])
def test_what_may_not_be_read_is_refused_like_any_other_input(tmp_path, monkeypatch, capsys, what):
    closed = tmp_path / "closed"
    closed.touch() if what == "file" else closed.mkdir()
    name = closed / "a.json" if what == "in a folder" else closed
    access, is_dir, lexists = os.access, Path.is_dir, os.path.lexists

    def refused(path: Path) -> bool:
        if closed in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and access(path, mode))
    monkeypatch.setattr(os.path, "lexists", lambda path: closed not in Path(path).parents and lexists(path))
    monkeypatch.setattr(Path, "is_dir", refused)

    def read() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(name))

    with pytest.raises(SystemExit) as stop:
        command(read)()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith(f"Error: {closed} cannot be read (Permission denied); make it readable for you")
    assert len(said.splitlines()) == 1


PRINTS = """
import sys
from nnunet_difflung.runtime.console import command

def main():
    for _ in range({lines}):
        print("Lunge \\udcfc \u2713 " + "x" * 1000, flush={flush})
    {end}

command(main)()
"""


@pytest.mark.parametrize("end", ["return 0", "sys.exit(0)"])
@pytest.mark.parametrize(("lines", "flush"), [(1, False), (500, False), (500, True)])
def test_a_reader_of_the_output_that_leaves_early_ends_a_command_quietly(lines, flush, end):
    reading, writing = os.pipe()
    os.close(reading)
    code = PRINTS.format(lines=lines, flush=flush, end=end)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""


def test_names_that_the_terminal_cannot_show_are_printed_with_escapes():
    code = PRINTS.format(lines=1, flush=False, end="return 0")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Lunge \\udcfc \\u2713 x")
