"""Commands that run at the same time: who waits for whom, and nobody deletes or misreads what another one needs."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from nnunet_difflung.audit.audit import audit_dataset
from nnunet_difflung.commands.augment import main
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.commit import COMMIT, read_steadily
from nnunet_difflung.injection.dataset_lock import is_bare, locked
from nnunet_difflung.injection.removal import remove
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.pipeline.preflight import begun_here
from nnunet_difflung.runtime.locks import using, working_alone
from nnunet_difflung.runtime.share import Share
from tests.support.tiny import make_dataset


def until(holds, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("hold", "told"),
    [
        (lambda folder: locked(folder), "changing Dataset801_Tiny"),
        (lambda folder: working_alone([folder / "fold_0"], Share()), "working on"),
    ],
)
def test_who_waits_says_for_what(tmp_path, capfd, hold, told):
    folder, done, said = tmp_path / "Dataset801_Tiny", [], []
    folder.mkdir()

    def second() -> None:
        with hold(folder):
            done.append(time.monotonic())

    with hold(folder):
        thread = threading.Thread(target=second)
        thread.start()
        until(lambda: said.append(capfd.readouterr().err) or "waiting for it" in "".join(said))
        assert not done
        assert told in "".join(said)
        released = time.monotonic()
    thread.join()
    assert done[0] >= released


def test_the_other_processes_wait_for_this_start_not_for_an_earlier_one(tmp_path):
    """A cluster may give each start the same address and port, so those don't tell one from another."""
    folder, entered = tmp_path / "fold_0", []
    with working_alone([folder], Share(0, 2, "earlier")):
        pass

    def second() -> None:
        with working_alone([folder], Share(1, 2, "now")):
            entered.append(1)

    thread = threading.Thread(target=second)
    thread.start()
    time.sleep(0.3)
    assert not entered
    with working_alone([folder], Share(0, 2, "now")):
        until(lambda: entered)
    thread.join()


def test_a_generator_deleted_while_another_command_waits_for_it_is_begun_anew(tmp_path, capfd):
    folders, entered, said = [tmp_path / "fold_0", tmp_path / "fold_1"], [], []

    def second() -> None:
        with working_alone(folders, Share()):
            entered.append([(folder / ".lock").is_file() for folder in folders])

    with ExitStack() as first:
        first.enter_context(working_alone(folders, Share()))
        thread = threading.Thread(target=second)
        thread.start()
        until(lambda: said.append(capfd.readouterr().err) or "waiting for it" in "".join(said))
        for folder in folders:
            (folder / ".lock").unlink()
            folder.rmdir()
    thread.join()
    assert entered == [[True, True]]


def test_a_cache_goes_only_with_the_last_that_uses_it(tmp_path):
    cache = tmp_path / "Dataset801_Tiny" / "DiffLung__cache"
    with begun_here(cache) as delete:
        (cache / "a.json").touch()
        with begun_here(cache) as other:
            other()
            assert (cache / "a.json").is_file(), "it did not begin it"
            delete()
            assert (cache / "a.json").is_file(), "another command uses it"
    with using(cache), ExitStack() as stack:
        delete = stack.enter_context(begun_here(cache))
        delete()
        assert (cache / "a.json").is_file()
    with using(cache) as delete_if_alone:
        assert delete_if_alone()
        assert not cache.exists()
        assert not delete_if_alone()
    with begun_here(cache) as delete:
        (cache / "a.json").touch()
        delete()
        assert not cache.exists()
        assert cache.parent.exists(), "the parent was there before"


def test_the_results_folder_stays_while_it_holds_something(tmp_path):
    cache = tmp_path / "Dataset801_Tiny" / "DiffLung__cache"
    with begun_here(cache) as delete:
        (cache.parent / "nnUNetTrainer__nnUNetPlans__2d").mkdir()
        delete()
    assert [path.name for path in cache.parent.iterdir()] == ["nnUNetTrainer__nnUNetPlans__2d"]


def test_half_written_files_go_unless_another_command_may_be_writing_them(tmp_path):
    left = tmp_path / "cache" / ".writing_x_a.image.npy"
    with using(left.parent):
        left.touch()
        with using(left.parent):
            assert left.exists()
    with using(left.parent):
        assert left.exists(), "where each machine grants its own locks, another one may be writing it"
    os.utime(left, (time.time() - 7200,) * 2)
    with using(left.parent):
        assert not left.exists()


def test_a_cache_that_may_only_be_read_is_read(tmp_path, monkeypatch):
    (tmp_path / "a.json").touch()
    real = os.open

    def refused(path, *rest, **options):
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", refused)
    with using(tmp_path) as delete_if_alone:
        assert not delete_if_alone()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_command_that_fails_leaves_the_cache_to_one_that_works(raw_folder, monkeypatch):
    """Both begin without a cache; the one that fails ends while the other one works."""
    from nnunet_difflung.pipeline import augment

    make_dataset(raw_folder)
    cache = cache_folder("Dataset801_Tiny")
    with ExitStack() as other:

        def fail(*_) -> None:
            other.enter_context(using(cache))
            raise BadInput("no room")

        monkeypatch.setattr(augment, "check_disk", fail)
        with pytest.raises(BadInput, match="no room"):
            main(["-d", "801", "--preset", "fast", "-device", "cpu", "-f", "0"])
        assert len(list(cache.glob("[!.]*.json"))) == 10


def test_generators_in_use_are_not_removed(folders):
    make_dataset(folders[0])
    results = folders[2] / "Dataset801_Tiny"
    for path in ("DiffLung__cbmat/fold_0", "DiffLung__cbmat/fold_1", "DiffLung__pix2pix/fold_0", "DiffLung__cache"):
        (results / path).mkdir(parents=True)
        (results / path / ("a.image.npy" if path.endswith("cache") else "generator.json")).touch()
    with working_alone([results / "DiffLung__cbmat" / "fold_1"], Share()), using(results / "DiffLung__cache"):
        said = "\n".join(remove("801", generators=True))
    assert sorted(str(path.relative_to(results)) for path in results.rglob("*.*") if path.suffix) == [
        "DiffLung__cache/a.image.npy",
        "DiffLung__cbmat/fold_1/generator.json",
    ]
    assert said.count("another command is using it") == 2
    assert "removed from " + str(results / "DiffLung__pix2pix") in said
    remove("801", generators=True)
    assert list(results.iterdir()) == []


def test_a_generator_begun_while_the_others_are_removed_stays(folders, monkeypatch):
    from nnunet_difflung.injection import results as module

    make_dataset(folders[0])
    method, real = folders[2] / "Dataset801_Tiny" / "DiffLung__cbmat", module.delete_unused
    for path in (method / "fold_0" / "generator.json", method / "fold_1" / "generator.json", method / "preview.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def delete_unused(path: Path, *empty) -> bool:
        if path.name == "fold_1":
            (method / "fold_0").mkdir()
            (method / "fold_0" / "new").touch()
        return real(path, *empty)

    monkeypatch.setattr(module, "delete_unused", delete_unused)
    remove("801", generators=True)
    assert [str(path.relative_to(method)) for path in method.rglob("*")] == ["fold_0", "fold_0/new"]


def test_what_a_cache_links_to_and_names_like_folds_do_no_harm(folders, tmp_path):
    make_dataset(folders[0])
    results, elsewhere = folders[2] / "Dataset801_Tiny", tmp_path / "elsewhere"
    for path in (
        results / "DiffLung__cache" / "fold_1_s001.image.npy",
        results / "DiffLung__cbmat" / "fold_0" / "generator.json",
        elsewhere / "sample.png",
    ):
        path.parent.mkdir(parents=True)
        path.touch()
    (results / "DiffLung__cbmat" / "fold_0" / "samples").symlink_to(elsewhere)
    remove("801", generators=True)
    assert list(results.iterdir()) == []
    assert (elsewhere / "sample.png").is_file()


def test_a_lock_file_that_another_machine_has_deleted_is_made_anew(tmp_path, monkeypatch):
    real, stale = os.fstat, []

    def fstat(handle: int):
        if not stale:
            stale.append(handle)
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(handle)

    monkeypatch.setattr(os, "fstat", fstat)
    with using(tmp_path / "cache"):
        assert stale
        assert (tmp_path / "cache" / ".lock").is_file()


def test_a_flock_on_a_stale_handle_is_no_missing_lock(tmp_path, monkeypatch):
    fcntl, calls = pytest.importorskip("fcntl"), []
    real = fcntl.flock

    def flock(handle: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / "fold_0" / ".lock").unlink()
            raise OSError(errno.ESTALE, "Stale file handle")
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with working_alone([tmp_path / "fold_0"], Share()):
        assert len(calls) == 2
        assert (tmp_path / "fold_0" / ".lock").is_file()


def test_who_waited_for_a_command_of_other_settings_is_told(raw_folder, monkeypatch, capsys):
    from nnunet_difflung.pipeline import augment

    make_dataset(raw_folder)
    options = ["-d", "801", "--preset", "fast", "-device", "cpu", "-f", "0", "--method", "copy_paste", "--gate", "off"]
    real = augment.working_alone

    def after(*more: str):
        def working_alone(*arguments):
            monkeypatch.setattr(augment, "working_alone", real)
            assert main([*options, *more]) == 0  # the command that was waited for
            capsys.readouterr()
            return real(*arguments)

        return working_alone

    monkeypatch.setattr(augment, "working_alone", after("--max-synthetic", "2"))
    with pytest.raises(BadInput, match="other settings.*max_synthetic was 2, is now 1"):
        main([*options, "--max-synthetic", "1"])
    remove("801")
    monkeypatch.setattr(augment, "working_alone", after("--max-synthetic", "1"))
    assert main([*options, "--max-synthetic", "1"]) == 0
    said = capsys.readouterr().out
    assert "Another command has added these synthetic cases" in said
    assert "Audit: " in said, "audited, as always"


def test_folds_of_other_settings_are_named(raw_folder, capsys):
    make_dataset(raw_folder)
    options = ["-d", "801", "--preset", "fast", "-device", "cpu", "--method", "copy_paste", "--gate", "off"]
    main([*options, "-f", "0", "--max-synthetic", "2"])
    main([*options, "-f", "1", "--max-synthetic", "2"])
    assert "other settings" not in capsys.readouterr().err
    main([*options, "-f", "2", "--max-synthetic", "1"])
    said = capsys.readouterr().err
    assert said.count("Warning: fold ") == 2
    assert "other settings; max_synthetic was 2, is now 1; folds" in said


def _one_case_less(folder: Path) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    temporary = folder / "new.json"
    temporary.write_text(json.dumps({**content, "numTraining": content["numTraining"] - 1}))
    os.replace(temporary, folder / "dataset.json")


def test_a_dataset_is_read_again_where_it_changed_meanwhile(raw_folder):
    folder, calls = make_dataset(raw_folder), []

    def read():
        calls.append(1)
        if len(calls) == 1:
            _one_case_less(folder)  # as between the steps of another command's change
        try:
            return open_raw_dataset("801")
        finally:
            if len(calls) == 1:
                content = json.loads((folder / "dataset.json").read_text())
                (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": 10}))

    assert len(read_steadily(folder, read).cases) == 10
    assert len(calls) == 2
    calls.clear()

    def unsteady():
        calls.append(1)
        if len(calls) < 3:
            (folder / "splits_final.json").touch()
            os.utime(folder / "splits_final.json", ns=(len(calls), len(calls)))
        return len(calls)

    assert read_steadily(folder, unsteady) == 3, "also what was read without a fault may be of two states"


def test_a_file_that_goes_while_it_is_read_is_looked_for_again(raw_folder):
    folder, calls = make_dataset(raw_folder), []

    def read() -> int:
        calls.append(1)
        if len(calls) == 1:
            _one_case_less(folder)
            raise FileNotFoundError("imagesTr/difflung_1.nii.gz")
        return len(calls)

    assert read_steadily(folder, read) == 2

    def missing() -> None:
        raise FileNotFoundError("imagesTr/a.nii.gz")

    with pytest.raises(FileNotFoundError):
        read_steadily(folder, missing)


def test_a_hidden_folder_that_another_command_tidies_is_not_bare(tmp_path):
    assert not is_bare(tmp_path / ".difflung")


def test_a_fault_of_the_dataset_itself_is_told_at_once(raw_folder):
    folder, calls = make_dataset(raw_folder), []
    _one_case_less(folder)
    with pytest.raises(BadInput, match="numTraining 9"):
        read_steadily(folder, lambda: calls.append(1) or open_raw_dataset("801"))
    assert len(calls) == 1


def test_a_dry_run_says_that_a_change_is_under_way(raw_folder):
    folder = make_dataset(raw_folder)
    _one_case_less(folder)
    (folder / COMMIT).mkdir(parents=True)
    (folder / COMMIT / "journal.json").write_text("{}")
    with pytest.raises(BadInput, match="being changed by another command.*difflung_audit"):
        read_steadily(folder, lambda: open_raw_dataset("801"), untouched=True)


def test_an_audit_waits_for_a_change(raw_folder, monkeypatch):
    from nnunet_difflung.audit import audit

    folder, calls, real = make_dataset(raw_folder), [], audit.find_manifest

    def found(name):
        calls.append(1)
        if len(calls) == 1:
            _one_case_less(folder)
        return real(name)

    monkeypatch.setattr(audit, "find_manifest", found)
    assert audit_dataset("Dataset801_Tiny") == []
    assert len(calls) == 2
