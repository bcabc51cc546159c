"""The one line of a command that could not write: it names the place at fault."""

from __future__ import annotations

import errno
import os
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
