"""Files of a training: who may read them, and what happens if they cannot be read."""

from __future__ import annotations

import errno
import os
import signal
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator import checkpoint, store
from nnunet_difflung.generator.checkpoint import (
    NEWEST,
    PREVIOUS,
    TrainingState,
    check_readable,
    load_checkpoint,
    save_checkpoint,
)
from nnunet_difflung.generator.diffusion import forward_process
from nnunet_difflung.generator.families import trained_family_of
from nnunet_difflung.methods import METHODS
from nnunet_difflung.pipeline.fold import check_folds, prepare_fold
from nnunet_difflung.runtime.files import clear_half_written, sync
from tests.support.generators import CBMAT, TINY
from tests.support.modes import mode, umask
from tests.support.tiny import make_dataset

pytestmark = pytest.mark.usefixtures("no_fsync")
CONFIG = replace(TINY, windows=((-1000.0, 1000.0),))


def _state(method: str = "cbmat", step: int = 0) -> TrainingState:
    state = trained_family_of(METHODS[method]).new_state(CONFIG, 1, 4, torch.device("cpu"))
    state.step = step
    return state


def _cannot_open(path: Path, *_: object) -> None:
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
@pytest.mark.parametrize("method", ["cbmat", "pix2pix"])
def test_a_group_that_may_read_a_generators_folder_can_read_all_of_it(tmp_path, method):
    family = trained_family_of(METHODS[method])
    with umask(0o007):
        for step in (1, 2):
            save_checkpoint(_state(method, step), tmp_path, "these")
        family.save(tmp_path, _state(method).network, CONFIG)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {tmp_path / NEWEST, tmp_path / PREVIOUS, family.weights(tmp_path)} <= set(files)
    assert {mode(path) for path in files} == {0o660}


def test_a_generator_is_saved_as_diffusers_saves_it(tmp_path):
    network = _state().network
    trained_family_of(CBMAT).save(tmp_path / "ours", network, CONFIG)
    network.save_pretrained(tmp_path / "theirs" / "unet")
    forward_process(CONFIG).save_pretrained(tmp_path / "theirs" / "scheduler")
    ours, theirs = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).glob("*/*")}
        for name in ("ours", "theirs")
    )
    assert ours == theirs


def test_a_checkpoint_that_cannot_be_read_ends_the_training_and_stays(tmp_path, monkeypatch):
    save_checkpoint(_state(step=5), tmp_path, "these")
    before = (tmp_path / NEWEST).read_bytes()
    check_readable(tmp_path)
    monkeypatch.setattr(checkpoint, "open", _cannot_open, raising=False)
    for refused in (lambda: load_checkpoint(_state(), tmp_path, "these"), lambda: check_readable(tmp_path)):
        with pytest.raises(BadInput, match=r"safetensors cannot be read \(Permission denied\).*make it readable"):
            refused()
    assert (tmp_path / NEWEST).read_bytes() == before


def test_a_checkpoint_that_cannot_be_read_is_refused_before_other_folds_are_trained(folders, tmp_path, monkeypatch):
    make_dataset(folders[0], patients=4, slices=1, folds=2)
    settings = settings_from(parse(["-d", "801", "--preset", "fast", "--method", "cbmat"]))
    raw = open_raw_dataset("801")
    fold = prepare_fold(raw, 1, settings, build_cache(raw, tmp_path / "cache", progress=False))
    save_checkpoint(_state(step=5), fold.folder, "these")
    check_folds([fold])
    monkeypatch.setattr(checkpoint, "open", _cannot_open, raising=False)
    with pytest.raises(BadInput, match=r"fold_1.checkpoint.safetensors cannot be read"):
        check_folds([fold])


def test_a_checkpoint_that_can_no_longer_be_read_becomes_the_previous_one(tmp_path, monkeypatch):
    save_checkpoint(_state(step=5), tmp_path, "these")
    before = (tmp_path / NEWEST).read_bytes()
    monkeypatch.setattr(checkpoint, "safe_open", _cannot_open)
    save_checkpoint(_state(step=6), tmp_path, "these")
    assert (tmp_path / PREVIOUS).read_bytes() == before


@pytest.mark.parametrize("damaged", [(NEWEST,), (NEWEST, PREVIOUS)])
def test_a_damaged_checkpoint_is_named_with_what_follows(tmp_path, damaged):
    for step in (1, 2):
        save_checkpoint(_state(step=step), tmp_path, "these")
    for name in damaged:
        (tmp_path / name).write_bytes(b"damaged")
    state = _state()
    said = load_checkpoint(state, tmp_path, "these")
    assert said.startswith(f"{tmp_path / NEWEST} is damaged (")
    assert said.endswith("training begins anew" if len(damaged) == 2 else "resuming from the checkpoint before it")
    assert state.step == 2 - len(damaged)


def test_the_name_under_which_safetensors_writes_is_known(tmp_path):
    """Newer versions write into a file of their own, which a kill leaves behind; older ones into the file itself."""
    resource = pytest.importorskip("resource")
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # SIGXFSZ kills it in the middle of the file
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        save_file({"a": torch.zeros(10_000)}, tmp_path / "checkpoint.safetensors")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGXFSZ
    clear_half_written(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"checkpoint.safetensors"}


@pytest.mark.parametrize("method", ["cbmat", "pix2pix"])
def test_a_generator_is_finished_once_its_weights_are_on_the_disk(tmp_path, monkeypatch, method):
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    network = _state(method).network
    monkeypatch.setattr(store, "write_card", lambda *_: _all_in(tmp_path, flushed))
    store.save_generator(tmp_path, network, {}, METHODS[method], CONFIG)
    assert flushed[-1] == tmp_path.stat().st_ino, "the checkpoints are deleted next"


def _all_in(folder: Path, flushed: list[int]) -> None:
    made = [folder, *folder.rglob("*")]
    assert any(path.name.endswith(".safetensors") for path in made)
    assert {path.stat().st_ino for path in made} <= set(flushed)
    flushed.clear()


def test_a_file_system_that_cannot_flush_folders_keeps_a_finished_training(tmp_path, monkeypatch):
    def flush(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", flush)
    store.save_generator(tmp_path, _state().network, {}, CBMAT, CONFIG)
    assert store.is_finished(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: _full())
    with pytest.raises(OSError, match="No space left"):
        sync(tmp_path)


def _full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
