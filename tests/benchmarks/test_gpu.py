"""``make gpu`` on a machine without a card: every step's options are known, and a rehearsed step runs to its end."""

from __future__ import annotations

import argparse
import importlib
import sys

import pytest

from benchmarks import gpu
from nnunet_difflung.runtime.files import read_json


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


def test_a_rehearsed_step_writes_its_row(tmp_path, capsys):
    assert gpu.main(["--rehearse", "-o", str(tmp_path), "--only", "training fast against fp32"]) == 0
    assert "training fast against fp32: done" in capsys.readouterr().out
    (row,) = read_json(tmp_path / "gpu_speed.json")
    assert row["device"] == "cpu"
    assert row["ratio"] > 0
    assert read_json(tmp_path / "gpu_run.json")["steps"]["training fast against fp32"]["ended"] == "done"


def test_without_a_card_it_says_how_to_rehearse(tmp_path, capsys):
    if gpu.torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(SystemExit):
        gpu.main(["-o", str(tmp_path)])
    assert "--rehearse" in capsys.readouterr().err
