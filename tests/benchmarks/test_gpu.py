"""``make gpu`` on a machine without a card: every step's options are known, and a rehearsed step runs to its end."""

from __future__ import annotations

import argparse
import ast
import importlib
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from benchmarks import gpu
from nnunet_difflung.runtime.files import read_json

OURS = {"benchmarks", "experiments", "nnunet_difflung", "tests"}


class Parsed(Exception):
    """The options were accepted."""


def options(tmp_path, rehearse: bool) -> argparse.Namespace:
    return argparse.Namespace(rehearse=rehearse, output=tmp_path, dataset="801", fold="0", pathology="emphysema")


@pytest.mark.parametrize("rehearse", [True, False])
def test_every_step_is_called_with_options_that_it_has(rehearse, tmp_path, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def accepted(self, *words):
        parse(self, *words)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", accepted)
    called = []
    for step in gpu.steps(options(tmp_path, rehearse)):
        _, module, *words = step.command
        if module != "pytest":
            monkeypatch.setattr(sys, "argv", [module, *words])
            with pytest.raises(Parsed):
                importlib.import_module(module).main()
            called.append(module)
    assert {"benchmarks.painting", "benchmarks.training", "benchmarks.whole", "benchmarks.peer", gpu.AUGMENT} < set(
        called
    )


def statements(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that are made when a module is imported."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def packages(*modules: str) -> set[str]:
    """What has to be installed, so that modules of this repository can be imported."""
    found, seen, todo = set(), set(), list(modules)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        top, _, rest = name.partition(".")
        if top not in OURS:
            found.add(top)
            continue
        path = gpu.ROOT / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if rest:
            todo.append(name.rpartition(".")[0])
        for node in statements(ast.parse(path.read_text()).body if path.is_file() else []):
            if isinstance(node, ast.Import):
                todo += [alias.name for alias in node.names]
            else:
                todo += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found - sys.stdlib_module_names


def test_a_step_names_every_package_that_it_imports(tmp_path):
    steps = {step.name: step for step in gpu.steps(options(tmp_path, False))}
    for step in steps.values():
        module = step.command[1]
        modules = ("tests.conftest", "tests.runtime.test_cuda") if module == "pytest" else (module,)
        assert packages(*modules) <= set(step.needs), step.name
    assert not any("nnunetv2" in steps[name].needs for name in ("painting", "painting in 8 steps"))


def test_a_step_without_its_packages_is_skipped_by_name(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "nnunetv2" else find(name))
    assert gpu.main(["--rehearse", "-o", str(tmp_path), "--only", "networks"]) == 0
    assert read_json(tmp_path / "gpu_run.json")["steps"]["networks"] == {"ended": "skipped, nnunetv2 not installed"}


def test_the_row_of_the_goal_and_the_default_method_come_before_what_is_long(tmp_path):
    o = options(tmp_path, False)
    o.dataset = None
    first = [step.name for step in gpu.steps(o)][:4]
    assert first == ["tests", "painting", "training paper against fp32", "new painter"]


def test_a_rehearsal_of_the_peer_leaves_time_for_the_other_steps(tmp_path):
    (peer,) = (step for step in gpu.steps(options(tmp_path, True)) if step.name == "peer")
    seconds = float(peer.command[peer.command.index("--seconds") + 1])  # of each code
    assert 2 * seconds < peer.least < peer.most


def test_a_step_gets_its_share_while_others_wait_and_one_that_was_stopped_comes_last(tmp_path, monkeypatch):
    given: list[tuple[str, float]] = []

    def run(step, seconds, log):
        given.append((step.name, seconds))
        return {"ended": "stopped after 30 s" if seconds == 30 else "done", "tail": []}

    made = [gpu.Step(name, ["-c", ""], most=30) for name in ("a", "b", "c")]
    monkeypatch.setattr(gpu, "steps", lambda _: made)
    monkeypatch.setattr(gpu, "run", run)
    words = ["--rehearse", "-o", str(tmp_path)]
    gpu.main(words)
    assert [name for name, _ in given] == ["a", "b", "c"]
    assert [seconds == 30 for _, seconds in given] == [True, True, False]
    given.clear()
    made.append(gpu.Step("d", ["-c", ""], most=30))
    gpu.main(words)
    assert [name for name, _ in given] == ["d", "a", "b"]
    given.clear()
    gpu.main([*words, "--only", "a"])
    assert given[0][1] > 30


def test_what_a_stopped_step_has_started_ends_with_it(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    lock, ready = tmp_path / "lock", tmp_path / "ready"
    inner = (
        "import fcntl, pathlib, time; "
        f"held = open({str(lock)!r}, 'w'); fcntl.flock(held, fcntl.LOCK_EX); "
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"
    )
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    wait = subprocess.Popen.wait

    def until_it_runs(self, timeout=None):
        if timeout is None:
            return wait(self)
        while not ready.is_file():
            time.sleep(0.05)
        raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", until_it_runs)
    found = gpu.run(gpu.Step("long", ["-c", code]), 7, tmp_path / "log")
    assert found["ended"] == "stopped after 7 s"
    with lock.open("w") as file:
        for _ in range(600):
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
    pytest.fail("it still holds its lock")


def test_a_rehearsed_step_writes_its_row(tmp_path, capsys):
    assert gpu.main(["--rehearse", "-o", str(tmp_path), "--only", "training fast against fp32"]) == 0
    assert "training fast against fp32: done" in capsys.readouterr().out
    (row,) = read_json(tmp_path / "gpu_speed.json")
    assert row["name"] == "training, difflung, preset fast bf16, 32²"
    assert row["device"] == "cpu"
    assert row["ratio"] > 0
    assert read_json(tmp_path / "gpu_run.json")["steps"]["training fast against fp32"]["ended"] == "done"


def test_the_new_painters_pictures_are_kept(tmp_path):
    assert gpu.main(["--rehearse", "-o", str(tmp_path), "--only", "new painter"]) == 0
    (row,) = read_json(tmp_path / "gpu_speed.json")
    assert row["name"] == "whole difflung_augment, difflung, preset fast, 10 slices of 64²"
    assert row["quality"]["injected"] > 0
    assert row["quality"]["painted"]
    kept = {path.name for path in tmp_path.glob("gpu_painter_*.png")}
    assert kept == {f"gpu_painter_{kind}.png" for kind in ("preview", "progress", "samples")}


def test_without_a_card_it_says_how_to_rehearse(tmp_path, capsys):
    if gpu.torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(SystemExit):
        gpu.main(["-o", str(tmp_path)])
    assert "--rehearse" in capsys.readouterr().err
