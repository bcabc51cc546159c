"""Several processes: the same training, the same painted files, one exit code, and nothing lost to a signal."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from safetensors.numpy import load_file

from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.launcher import run_in_processes
from nnunet_difflung.runtime.parallel import in_threads
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.runtime.signals import Interruption, terminate
from nnunet_difflung.runtime.workers import in_processes
from tests.support.commands import prepared, run_command
from tests.support.tiny import make_dataset, tree_hashes
from tests.support.watched import written

COMMON = [
    "-d",
    "801",
    "--method",
    "cbmat",
    "--preset",
    "fast",
    "--batch-size",
    "4",
    "--gate",
    "report",
    "-device",
    "cpu",
    "-f",
    "0",
    "--max-synthetic",
    "10",
    "--target-share",
    "emphysema=0.4",
    "ILD=0.4",
]  # two batches to paint
OPTIONS = [*COMMON, "--epochs", "2", "--steps", "2"]
TWO = ["-num_gpus", "2"]


def generator(results: Path) -> Path:
    return results / "Dataset801_Tiny" / "DiffLung__cbmat" / "fold_0"


def losses(results: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (generator(results) / "training_log.jsonl").read_text().splitlines()]


def painted(folder: Path) -> dict[str, str]:
    found = {k: v for k, v in tree_hashes(folder).items() if "/difflung_cbmat" in k}
    assert len(found) == 2 * len(read_manifest(folder)["cases"]) >= 4
    return found


TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node", "1", "--nnodes", "2", "--master_addr", "127.0.0.1")
ACCELERATE = (
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
)  # without a GPU it starts two processes on the CPU
WATCHED = ("-m", "tests.support.watched")


def on_two_machines(options: list[str]) -> list[int]:
    """Exit codes of torchrun on two nodes, which are both this one: a fixed port and no id of the start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with ThreadPoolExecutor(2) as pool:
        return list(
            pool.map(
                lambda node: run_command(
                    options, program=[*TORCHRUN, "--master_port", port, "--node_rank", node, *WATCHED]
                ),
                ("0", "1"),
            )
        )


def with_accelerate(options: list[str]) -> list[int]:
    """Exit code of accelerate's launcher on one machine."""
    return [run_command(options, program=[*ACCELERATE, *WATCHED])]


def written_by_both(root: Path, notes: Path) -> tuple[list[Path], list[Path]]:
    """What each of two processes changed in nnU-Net's folders; no file was changed by both."""
    first, second = (written(notes, rank, root) for rank in (0, 1))
    assert {path for path in first if path.suffix} & {path for path in second if path.suffix} == set()
    return first, second


def is_shared_out(path: Path) -> bool:
    """Whether any process may write a file: a painted slice, a staged case, a cached case."""
    work = [part for part in path.parts if part.startswith("synthesis_")]  # and the note that it was read
    return bool(work) or "DiffLung__cache" in path.parts


def without_keys(files: Iterable[str]) -> set[str]:
    """Names of synthetic files without the key, which depends on every bit of the generator's weights."""
    return {re.sub(r"_[0-9a-f]{8}(?=_[0-9]{4})", "", file) for file in files}


def test_two_processes_do_what_one_does(tmp_path, monkeypatch):
    """Started by torchrun on two machines, and by accelerate; -num_gpus is below."""
    raw, _, results = prepared(tmp_path / "a", monkeypatch)
    folder = make_dataset(raw)
    assert run_command(OPTIONS) == 0
    expected, alone = painted(folder), load_file(generator(results) / "unet" / "diffusion_pytorch_model.safetensors")
    loss = losses(results)

    remove(["-d", "801"])  # the generator stays: only the painting is shared now
    for number, launched in enumerate((on_two_machines, with_accelerate)):
        notes = tmp_path / f"notes{number}"
        notes.mkdir()
        monkeypatch.setenv("DIFFLUNG_WATCHED", str(notes))
        assert set(launched(OPTIONS)) == {0}
        first, second = written_by_both(tmp_path / "a", notes)
        assert any(path.parent.name == "try0" and path.suffix == ".npy" for path in second), "it paints its share"
        assert [path for path in second if not is_shared_out(path)] == [], "the rest is the first one's"
        assert any(path.name == "difflung_manifest.json" for path in first)
        if number == 0:
            assert painted(folder) == expected, "case by case the same bytes"
            remove(["-d", "801"])
            shutil.rmtree(results / "Dataset801_Tiny")
    assert losses(results) == pytest.approx(loss, abs=1e-5)
    shared = load_file(generator(results) / "unet" / "diffusion_pytorch_model.safetensors")
    assert max(np.abs(alone[k] - shared[k]).max() for k in alone) < 1e-3  # gradients are summed in another order
    assert without_keys(painted(folder)) == without_keys(expected)


def test_a_gan_in_two_processes_learns_what_one_learns(tmp_path, monkeypatch):
    pytest.importorskip("monai")
    found = []
    options = [*COMMON, "--method", "pix2pix", "--epochs", "1"]
    for number, more in enumerate(([], TWO)):
        raw, _, results = prepared(tmp_path / str(number), monkeypatch)
        folder = make_dataset(raw)
        assert run_command([*options, *more]) == 0
        place = results / "Dataset801_Tiny" / "DiffLung__pix2pix" / "fold_0"
        rows = [json.loads(line)["loss"] for line in (place / "training_log.jsonl").read_text().splitlines()]
        weights = [load_file(path) for path in sorted(place.rglob("*.safetensors"))]
        found.append((rows, weights, without_keys(read_manifest(folder)["cases"])))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    assert len(found[0][0]) == 2
    assert found[0][1]
    assert all(
        np.abs(one[k] - two[k]).max() < 1e-3 for one, two in zip(found[0][1], found[1][1], strict=True) for k in one
    )
    assert found[0][2] == found[1][2] != set()


def test_sigterm_to_the_launcher_saves_and_the_same_command_goes_on(tmp_path, monkeypatch):
    raw, _, results = prepared(tmp_path, monkeypatch)
    folder = make_dataset(raw)
    before = tree_hashes(folder)
    options = [*OPTIONS, "--epochs", "30", "--save-every", "3600", *TWO]  # longer than a signal takes on a busy machine
    begun = generator(results) / "training_log.jsonl"
    assert run_command(options, begun.is_file, signal.SIGTERM) == 143
    assert (generator(results) / "checkpoint.safetensors").is_file()
    assert tree_hashes(folder) == before
    before = begun.read_text().splitlines()
    assert run_command(options) == 0
    rows = begun.read_text().splitlines()
    assert len(rows) == 60 > len(before) > 0
    assert read_manifest(folder)["cases"]
    assert rows[: len(before)] == before, "with their times: the steps before the signal were not done anew"


def test_bad_input_is_told_once_and_has_its_own_exit_code(tmp_path, monkeypatch, capfd):
    from nnunet_difflung.commands.augment import entry

    raw, _, results = prepared(tmp_path, monkeypatch)
    folder = make_dataset(raw)
    (folder / "labelsTr" / "lung_001_s00.nii.gz").write_bytes(b"no image")
    before = tree_hashes(folder)
    with pytest.raises(SystemExit) as stop:
        entry([*OPTIONS, *TWO])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "torch's launcher would leave its own"
    said = capfd.readouterr().err
    assert stop.value.code == 2
    assert tree_hashes(folder) == before
    assert said.count("Error: ") == 1
    assert "lung_001_s00" in said
    assert "Traceback" not in said
    assert not list(results.iterdir()), "the cache that was begun is gone, after both processes have ended"


def test_a_batch_that_cannot_be_shared_is_told_before_any_process_starts(tmp_path, monkeypatch, capfd):
    from nnunet_difflung.commands.augment import entry

    raw, _, results = prepared(tmp_path, monkeypatch)
    make_dataset(raw)
    with pytest.raises(SystemExit) as stop:
        entry([*OPTIONS, *TWO, "--batch-size", "5"])
    said = capfd.readouterr().err
    assert stop.value.code == 2
    assert said.count("Error: ") == 1
    assert "--batch-size 5" in said
    assert not list(results.iterdir())


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(BadInput, match=r"-num_gpus 4: torch sees 1 GPU\(s\)"):
        run_in_processes(4, [], "cuda")
    with pytest.raises(BadInput, match="not mps"):
        run_in_processes(2, [], "mps")


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_keep_the_order_and_stop_where_they_are_left(threads):
    begun, gate = [], threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        gate.wait(0.01)
        return number * number

    with in_threads(work, range(50), threads) as results:
        assert list(results) == [k * k for k in range(50)]
    begun.clear()
    with pytest.raises(KeyboardInterrupt), in_threads(work, range(50), threads) as results:  # noqa: PT012
        next(results)
        raise KeyboardInterrupt
    assert 1 <= len(begun) <= 10


def test_a_worker_that_is_killed_is_told_and_not_waited_for():
    with pytest.raises(Failed, match="with a smaller -np"), in_processes(_killed, range(3), 2) as results:
        list(results)


def _killed(item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_keep_the_order_and_stop_where_they_are_left(tmp_path):
    with in_processes(partial(_noted, tmp_path), range(40), 2, at_a_time=3) as results:
        assert list(results) == list(range(40))
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(KeyboardInterrupt), in_processes(partial(_noted, tmp_path), range(400), 2) as results:  # noqa: PT012
        assert next(results) == 0
        raise KeyboardInterrupt
    assert len(list(tmp_path.iterdir())) < 100


def test_processes_go_on_while_nobody_waits_for_them(tmp_path):
    with in_processes(partial(_noted, tmp_path), range(20), 2) as results:
        for _ in range(600):
            if len(list(tmp_path.iterdir())) == 20:
                break
            time.sleep(0.1)
        assert len(list(tmp_path.iterdir())) == 20
        assert list(results) == list(range(20))


def test_a_fault_in_a_worker_is_raised_after_the_results_before_it(tmp_path):
    with in_processes(partial(_noted, tmp_path / "none"), range(20), 2) as results, pytest.raises(FileNotFoundError):
        next(results)


def test_a_worker_of_another_pool_does_the_work_itself():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_squares, [4]) == [[0, 1, 4, 9]]


def _squares(number: int) -> list[int]:
    with in_processes(_square, range(number), 2) as results:
        return list(results)


def _square(number: int) -> int:
    return number * number


def _noted(folder: Path, item: int) -> int:
    (folder / str(item)).touch()
    time.sleep(0.02)
    return item


def test_workers_end_when_their_parent_is_killed():
    begin = "from tests.runtime.test_processes import begin_workers; begin_workers()"
    with subprocess.Popen([sys.executable, "-c", begin], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    for worker in workers:
        for _ in range(600):
            if not _lives(worker):
                break
            time.sleep(0.1)
        assert not _lives(worker)


def begin_workers() -> None:
    """Prints the process ids of two workers, which then wait for work."""
    with in_processes(_own_id, range(2), 2) as results:
        ids = list(results)
        print(*{*ids}, flush=True)
        time.sleep(60)


def _own_id(item: int) -> int:
    time.sleep(1)
    return os.getpid()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())


def test_shares_cover_everything_once_and_wait_for_each_other(tmp_path):
    shares = [Share(i, 3) for i in range(3)]
    assert [sum(share.mine(k) for share in shares) for k in range(10)] == [1] * 10
    assert [share.main for share in shares] == [True, False, False]
    (tmp_path / "a").touch()
    shares[1].wait_for([tmp_path / "a"])
    Share().wait_for([tmp_path / "missing"])  # alone there is nobody to wait for


def test_a_fault_in_each_process_ends_each(raw_folder, tmp_path, monkeypatch):
    """Nobody waits for a case that another process can't cache before its own are done: a thread could not be ended."""
    folder, waited = make_dataset(raw_folder), []
    raw = open_raw_dataset("801")
    for case in list(raw.cases)[:2]:
        (folder / "labelsTr" / f"{case}.nii.gz").write_bytes(b"none")
    monkeypatch.setattr(Share, "wait_until", lambda share, done: waited.append(share.index))
    for index in (0, 1):
        with pytest.raises(BadInput, match=list(raw.cases)[index]):
            build_cache(raw, tmp_path / "cache", 2, progress=False, share=Share(index, 2))
    assert waited == []


def test_a_cache_of_two_processes_is_that_of_one(raw_folder, tmp_path):
    make_dataset(raw_folder)
    raw = open_raw_dataset("801")
    with ThreadPoolExecutor(2) as pool:
        two = list(pool.map(lambda index: build_cache(raw, tmp_path / "cache", 2, False, Share(index, 2)), (0, 1)))
    one = build_cache(raw, tmp_path / "other", progress=False)
    assert [list(cache.facts.items()) for cache in two] == [list(one.facts.items())] * 2


def test_what_was_painted_is_deleted_when_every_process_has_read_it(tmp_path, monkeypatch):
    from nnunet_difflung.pipeline import augment

    work, deleted = SimpleNamespace(work=tmp_path / "synthesis", own_folder=tmp_path, number=0), threading.Event()
    request = SimpleNamespace(device="cpu", save_every=1, processes=1, settings=None)
    request.settings = SimpleNamespace(method="cbmat", sampling=SimpleNamespace(exclude=()))
    for name in (
        "train_fold",
        "leave",
        "describe_result",
        "report_result",
        "refuse_undertrained",
        "results_folder",
        "write_preview",
        "ensure_real_fingerprint",
        "record_training_files",
        "run_entry",
        "record_painted",
        "inject",
        "conclude",
    ):
        monkeypatch.setattr(augment, name, MagicMock())
    monkeypatch.setattr(
        augment,
        "synthesize_fold",
        lambda *_, **__: (SimpleNamespace(selection=None), SimpleNamespace(staged=[], dropped={})),
    )
    monkeypatch.setattr(augment, "discard_works", lambda _: deleted.set())

    def run(index: int) -> None:
        augment._run(SimpleNamespace(name="a"), [work], [], request, Share(index, 3, "now"), {})

    first = threading.Thread(target=run, args=[0], daemon=True)
    first.start()
    run(2)
    assert not deleted.wait(0.3)
    run(1)
    first.join(30)
    assert deleted.is_set()


def test_systems_without_some_signals_import_it():
    code = "import signal; del signal.SIGHUP, signal.SIGQUIT; import nnunet_difflung.commands.audit"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def _ended_by_sigterm() -> int:
    """The signal that ended a forked process which got a SIGTERM; 0 if it ended by a handler of its own."""
    child = os.fork()
    if not child:
        try:
            time.sleep(60)
        finally:
            os._exit(1)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_workers_have_no_handler_of_ours():
    """One that waits for a lock of its pool may never come to a handler."""
    before, found = signal.getsignal(signal.SIGTERM), []

    def main() -> None:
        found.append(_ended_by_sigterm())
        with Interruption():
            found.append(_ended_by_sigterm())
        assert signal.getsignal(signal.SIGTERM) is terminate, "this process keeps its own"

    with pytest.raises(SystemExit, match="0"):
        command(main)()
    assert found == [signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_workers_keep_handlers_of_others():
    before = signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
    try:
        assert _ended_by_sigterm() == 0
    finally:
        signal.signal(signal.SIGTERM, before)
