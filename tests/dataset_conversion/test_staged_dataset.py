"""A converted dataset is published atomically: when killed at any step, over an old dataset, and with two commands."""

from __future__ import annotations

import os
import shutil
import threading
import time
import traceback
from pathlib import Path

import pytest

from nnunet_difflung.dataset_conversion.output.staged_dataset import (
    CHANGING,
    check_name,
    finished_patients,
    note_patient,
    staged_dataset,
)
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.dataset_lock import HIDDEN, locked
from tests.support.killing import in_child
from tests.support.tiny import tree_hashes

pytestmark = pytest.mark.usefixtures("no_fsync")

NAME = "Dataset810_Mine"


def write(raw: Path, content: str, key: str | None = "key") -> None:
    """A conversion of two patients."""
    with staged_dataset(NAME, overwrite=True, key=key) as folder:
        (folder / "imagesTr").mkdir(exist_ok=True)
        for patient in ("p1", "p2"):
            if patient not in finished_patients(folder):
                (folder / "imagesTr" / f"{patient}_0000.nii.gz").write_text(content)
                note_patient(folder, patient, {"records": []})
        (folder / "dataset.json").write_text(content)


def contents(raw: Path) -> dict[str, str]:
    """Every file and folder below nnUNet_raw."""
    return {name.removeprefix(str(raw)): value for name, value in tree_hashes(raw).items()}


@pytest.mark.parametrize("key", ["key", None], ids=["resumable", "not resumable"])
def test_killed_at_any_step_the_old_dataset_or_the_new_one_is_there(raw_folder, key):
    write(raw_folder, "new", key)
    new = contents(raw_folder)
    assert {name.split("/")[1] for name in new} == {NAME}
    write(raw_folder, "old", key)
    old = contents(raw_folder)
    code, steps = in_child(lambda: write(raw_folder, "new", key))
    assert code == 0
    assert steps > 20
    assert contents(raw_folder) == new
    outcomes = set()
    for step in range(steps):
        write(raw_folder, "old", key)
        assert contents(raw_folder) == old
        assert in_child(lambda: write(raw_folder, "new", key), step)[0] == 9
        check_name(NAME, overwrite=True)  # the next call
        left = contents(raw_folder)
        dataset = {name: value for name, value in left.items() if name.split("/")[1] == NAME}
        assert dataset in (old, new)
        outcomes.add(dataset == new)
        beside = {name.split("/")[1] for name in left} - {NAME}
        assert beside <= {f".{NAME}.partial"}, "only what can be resumed may stay"
        write(raw_folder, "new", key)
        assert contents(raw_folder) == new
    assert outcomes == {True, False}


def test_killed_at_any_step_a_first_conversion_leaves_nothing_or_all_of_it(raw_folder):
    code, steps = in_child(lambda: write(raw_folder, "new"))
    assert code == 0
    new = contents(raw_folder)
    outcomes = set()
    for step in range(steps):
        for path in (raw_folder / NAME).rglob("*"):
            if path.is_file():
                path.unlink()
        os.rename(raw_folder / NAME, raw_folder.parent / f"gone{step}")
        assert in_child(lambda: write(raw_folder, "new"), step)[0] == 9
        check_name(NAME, overwrite=True)
        outcomes.add((raw_folder / NAME).exists())
        if (raw_folder / NAME).exists():
            assert contents(raw_folder) == new
        write(raw_folder, "new")
        assert contents(raw_folder) == new
    assert outcomes == {True, False}


def test_an_interrupted_replacement_is_finished_before_the_dataset_is_refused(raw_folder, capsys):
    write(raw_folder, "old")
    step = 0
    while (raw_folder / NAME).exists():  # until one is killed between the two renames
        write(raw_folder, "old")
        assert in_child(lambda step=step: write(raw_folder, "new"), step)[0] == 9
        step += 1
    assert (raw_folder / f".{NAME}.old").exists()
    with pytest.raises(BadInput, match="already exists; give --overwrite"), staged_dataset(NAME):
        pytest.fail("it is there")
    assert "an interrupted command had converted all patients" in capsys.readouterr().err
    assert (raw_folder / NAME / "dataset.json").read_text() == "new"
    assert [path.name for path in raw_folder.iterdir()] == [NAME]


@pytest.mark.parametrize("key", ["key", None], ids=["resumable", "not resumable"])
def test_a_replacement_that_fails_half_way_is_finished_by_the_next_call(raw_folder, monkeypatch, key):
    write(raw_folder, "new", key)
    new = contents(raw_folder)
    write(raw_folder, "old", key)
    replace = os.replace

    def failing(source, target):
        if Path(source).name == f".{NAME}.partial":
            raise OSError("the disk is gone")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="the disk is gone"):
            write(raw_folder, "new", key)
    check_name(NAME, overwrite=True)
    assert contents(raw_folder) == new


def test_the_old_dataset_comes_back_where_somebody_deletes_the_new_one_of_an_interrupted_replacement(
    raw_folder, capsys
):
    write(raw_folder, "old")
    old, step = contents(raw_folder), 0
    while (raw_folder / NAME).exists():  # until a call is killed between the two renames
        write(raw_folder, "old")
        assert in_child(lambda step=step: write(raw_folder, "new"), step)[0] == 9
        step += 1
    shutil.rmtree(raw_folder / f".{NAME}.partial")
    check_name(NAME, overwrite=True)
    assert contents(raw_folder) == old
    assert "the earlier dataset is back" in capsys.readouterr().err


def test_what_the_first_versions_left_between_their_renames_comes_back(raw_folder):
    write(raw_folder, "old")
    (raw_folder / NAME).rename(raw_folder / f".{NAME}.old")
    (raw_folder / f".{NAME}.partial").mkdir()
    with pytest.raises(BadInput, match="already exists"):
        check_name(NAME, overwrite=False)
    assert (raw_folder / NAME / "dataset.json").read_text() == "old"
    (raw_folder / f".{NAME}.old").mkdir()  # or after them
    check_name(NAME, overwrite=True)
    assert not (raw_folder / f".{NAME}.old").exists()
    assert (raw_folder / NAME / "dataset.json").read_text() == "old"


def test_a_dry_run_leaves_an_interrupted_replacement_as_it_is(raw_folder):
    write(raw_folder, "old")
    (raw_folder / f".{NAME}.old").mkdir()
    before = contents(raw_folder)
    check_name(NAME, overwrite=True, untouched=True)
    assert contents(raw_folder) == before


def test_what_a_killed_call_was_still_writing_is_not_published(raw_folder):
    def killed() -> None:
        with staged_dataset(NAME, key="key") as folder:
            note_patient(folder, "p1", {"records": []})
            (folder / ".writing_x_dataset.json").write_text("half")
            os._exit(9)

    assert in_child(killed)[0] == 9
    with staged_dataset(NAME, key="key") as folder:
        assert finished_patients(folder) == {"p1": {"records": []}}
        (folder / "dataset.json").write_text("whole")
    assert [path.name for path in (raw_folder / NAME).iterdir()] == ["dataset.json"]


def test_a_second_command_is_refused_in_one_line(raw_folder):
    write(raw_folder, "old")
    with staged_dataset(NAME, overwrite=True, key="a") as folder:
        (folder / "mine").touch()
        for key in ("a", "b", None):
            with pytest.raises(BadInput, match=f"another command is writing {NAME}") as refused:
                write(raw_folder, "new", key)
            assert "\n" not in str(refused.value)
        assert (folder / "mine").is_file()
    assert [path.name for path in raw_folder.rglob("*")] == [NAME, "mine"]


def test_many_at_a_time_leave_one_whole_dataset(raw_folder):
    children = []
    for number in range(6):
        child = os.fork()
        if child == 0:
            for _ in range(10):
                try:
                    write(raw_folder, str(number), None)
                except BadInput:
                    continue
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    assert [path.name for path in raw_folder.iterdir()] == [NAME]
    files = [path for path in (raw_folder / NAME).rglob("*") if path.is_file()]
    assert len(files) == 3
    assert len({path.read_text() for path in files}) == 1


def test_a_dataset_is_not_replaced_while_another_command_changes_it(raw_folder, capsys):
    assert Path(CHANGING).parent.name == HIDDEN
    write(raw_folder, "old")
    with locked(raw_folder / NAME):
        replacing = threading.Thread(target=write, args=(raw_folder, "new"))
        replacing.start()
        printed = ""
        while "waiting for it" not in printed:
            assert replacing.is_alive()
            time.sleep(0.1)  # what is written while capsys is being read is lost
            printed += capsys.readouterr().err
        assert (raw_folder / NAME / "dataset.json").read_text() == "old"
    replacing.join()
    assert (raw_folder / NAME / "dataset.json").read_text() == "new"
    assert [path.name for path in raw_folder.iterdir()] == [NAME]
