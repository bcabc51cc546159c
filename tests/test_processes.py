"""Several processes: the same training, the same painted files, one exit code, and nothing lost to a signal."""
from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.manifest import read_manifest
from nnunet_difflung.processes import Share, run_in_processes
from nnunet_difflung.remove import main as remove
from tests.test_augment import prepared, run_command
from tests.tiny import make_dataset, tree_hashes

OPTIONS = ["-d", "801", "--preset", "fast", "--epochs", "2", "--batch-size", "4", "--steps", "2", "--gate", "report",
           "-device", "cpu", "--max-synthetic", "4", "--target-share", "emphysema=0.3", "-f", "0"]
TWO = ["-num_gpus", "2"]


def generator(results: Path) -> Path:
    return results / "Dataset801_Tiny" / "DiffLung__cbmat" / "fold_0"


def losses(results: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (generator(results) / "training_log.jsonl").read_text().splitlines()]


def painted(folder: Path) -> dict[str, str]:
    found = {k: v for k, v in tree_hashes(folder).items() if "/difflung_cbmat" in k}
    assert len(found) == 2 * len(read_manifest(folder)["cases"]) >= 4
    return found


def test_two_processes_do_what_one_does(tmp_path, monkeypatch):
    raw, _, results = prepared(tmp_path / "a", monkeypatch)
    folder = make_dataset(raw)
    assert run_command(OPTIONS) == 0
    expected, alone = painted(folder), load_file(generator(results) / "unet" / "diffusion_pytorch_model.safetensors")
    loss = losses(results)

    remove(["-d", "801"])  # the generator stays: only the painting is shared now
    assert run_command([*OPTIONS, *TWO]) == 0
    assert painted(folder) == expected, "case by case the same bytes"

    remove(["-d", "801"])
    shutil.rmtree(results / "Dataset801_Tiny")
    assert run_command([*OPTIONS, *TWO]) == 0
    assert losses(results) == pytest.approx(loss, abs=1e-5)
    shared = load_file(generator(results) / "unet" / "diffusion_pytorch_model.safetensors")
    assert max(np.abs(alone[k] - shared[k]).max() for k in alone) < 1e-3  # gradients are summed in another order
    assert set(painted(folder)) == set(expected)


def test_sigterm_to_the_launcher_saves_and_the_same_command_goes_on(tmp_path, monkeypatch):
    raw, _, results = prepared(tmp_path, monkeypatch)
    folder = make_dataset(raw)
    before = tree_hashes(folder)
    options = [*OPTIONS, "--epochs", "10", "--save-every", "3600", *TWO]
    begun = generator(results) / "training_log.jsonl"
    assert run_command(options, begun.is_file, signal.SIGTERM) == 143
    assert (generator(results) / "checkpoint.safetensors").is_file() and tree_hashes(folder) == before
    steps = len(losses(results))
    assert run_command(options) == 0
    assert len(losses(results)) == 20 > steps > 0 and read_manifest(folder)["cases"]


def test_bad_input_is_told_once_and_has_its_own_exit_code(tmp_path, monkeypatch, capfd):
    from nnunet_difflung.augment import entry
    raw, _, results = prepared(tmp_path, monkeypatch)
    folder = make_dataset(raw)
    (folder / "labelsTr" / "lung_001_s00.nii.gz").write_bytes(b"no image")
    before = tree_hashes(folder)
    with pytest.raises(SystemExit) as stop:
        entry([*OPTIONS, *TWO])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "torch's launcher would leave its own"
    said = capfd.readouterr().err
    assert stop.value.code == 2 and tree_hashes(folder) == before
    assert said.count("Error: ") == 1 and "lung_001_s00" in said and "Traceback" not in said
    assert not list(results.iterdir()), "the cache that was begun is gone, after both processes have ended"


def test_a_batch_that_cannot_be_shared_is_told_before_any_process_starts(tmp_path, monkeypatch, capfd):
    from nnunet_difflung.augment import entry
    raw, _, results = prepared(tmp_path, monkeypatch)
    make_dataset(raw)
    with pytest.raises(SystemExit) as stop:
        entry([*OPTIONS, *TWO, "--batch-size", "5"])
    said = capfd.readouterr().err
    assert stop.value.code == 2 and said.count("Error: ") == 1 and "--batch-size 5" in said
    assert not list(results.iterdir())


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(BadInput, match=r"-num_gpus 4: torch sees 1 GPU\(s\)"):
        run_in_processes(4, [], "cuda")
    with pytest.raises(BadInput, match="not mps"):
        run_in_processes(2, [], "mps")


def test_shares_cover_everything_once_and_wait_for_each_other(tmp_path):
    shares = [Share(i, 3) for i in range(3)]
    assert [sum(share.mine(k) for share in shares) for k in range(10)] == [1] * 10
    assert [share.main for share in shares] == [True, False, False]
    (tmp_path / "a").touch()
    shares[1].wait_for([tmp_path / "a"])
    Share().wait_for([tmp_path / "missing"])  # alone there is nobody to wait for
