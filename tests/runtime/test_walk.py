"""One function lists the files of a folder: hidden ones, links and folders that cannot be read are treated alike."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.walk import walk


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_hidden_files_and_those_of_the_system_are_left_out(tmp_path):
    make(tmp_path, "p1/ct.nii.gz", "p1/._ct.nii.gz", ".DS_Store", "__MACOSX/p1/ct", "p1/@eaDir/ct", ".git/a", "b/.c/d")
    found = walk(tmp_path)
    assert found.files == ("p1/ct.nii.gz",)
    assert found.hidden == (".DS_Store", ".git", "__MACOSX", "b/.c", "p1/._ct.nii.gz", "p1/@eaDir")
    assert walk(tmp_path / "p1" / "@eaDir").files == ("ct",)  # the folder that was asked for is never hidden


def test_links_are_followed_once_and_broken_ones_are_named(tmp_path):
    make(tmp_path, "data/a/1", "data/a/2", "outside/o", "data/file")
    for name, target in {
        "data/a/parent": "..",
        "data/0_again": "a",
        "data/out": "../outside",
        "data/out_too": "../outside",
        "data/linked": "file",
        "data/gone": "nowhere",
        "data/round": "round",
    }.items():
        (tmp_path / name).symlink_to(target)
    found = walk(tmp_path / "data")
    assert found.files == ("a/1", "a/2", "file", "linked", "out/o")
    assert found.broken == ("gone", "round")
    assert found.repeated == ("0_again", "a/parent", "out_too")


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
    make(tmp_path, "archive/p1/ct", "neighbour/x")
    for name, target in (("up", tmp_path), ("p1/root", "/")):
        (tmp_path / "archive" / name).symlink_to(target)
    found = walk(tmp_path / "archive")
    assert found.files == ("p1/ct",)
    assert found.repeated == ("p1/root", "up")


def test_a_linked_folder_with_spaces_and_umlauts(tmp_path):
    make(tmp_path, "größe 1/Müller Jürgen/ct 1")
    (tmp_path / "mein Übungs link").symlink_to("größe 1")
    assert walk(tmp_path / "mein Übungs link").files == ("Müller Jürgen/ct 1",)


def test_what_is_no_file_is_passed_over(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert walk(tmp_path).files == ()


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    make(tmp_path, "p1/ct", "p2/ct")
    real = os.scandir

    def denied(path):
        if Path(path).name == "p2":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(BadInput, match=r"p2 cannot be listed \(Permission denied\); make the folder readable"):
        walk(tmp_path)


@pytest.mark.parametrize("name", [b"p\xff1", b"M\xfcller"])
def test_a_name_that_is_not_utf_8_is_refused(tmp_path, name):
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(BadInput, match=r"a name that is not valid UTF-8; .*: rename it") as caught:
        walk(tmp_path)
    str(caught.value).encode()
