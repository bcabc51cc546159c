"""-h of every script describes it and does nothing else."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from nnunet_difflung.runtime import files

ROOT = Path(__file__).resolve().parents[2]


def scripts() -> list[str]:
    """Modules of ``experiments`` and ``benchmarks`` that are run with ``python -m``."""
    paths = [path for folder in ("experiments", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in paths
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    ]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", scripts())
def test_help_describes_a_script_and_does_nothing_else(name, monkeypatch, capsys):
    def replacing(path, flushed=True):
        raise AssertionError(f"-h writes {path}")

    monkeypatch.setattr(files, "replacing", replacing)
    monkeypatch.setattr(sys, "argv", [name, "-h"])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    assert ended.value.code in (0, None)
    said = " ".join(capsys.readouterr().out.split())
    path = ROOT.joinpath(*name.split("."))
    source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    first = source.split('"""')[1].strip().split("\n")[0]
    assert said.startswith("usage: ")
    assert "python experiments/" not in source, "scripts are modules, also in the command that they record"
    assert "python benchmarks/" not in source
    assert " ".join(first.split()) in said, "the first line of the docstring says what a script is for"
