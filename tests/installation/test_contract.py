"""Rooms and their one-way doors: the contract in pyproject.toml holds, and it can be broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT = Path(sys.executable).parent / "lint-imports"


def lint(folder: Path) -> subprocess.CompletedProcess:
    """Checks the contract on the package that lies in ``folder``."""
    return subprocess.run(
        [LINT, "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of what the contract is about."""
    for name in ("nnunet_difflung", "trainers", "dataset_conversion"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contract_holds():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "content", "broken"),
    [
        ("nnunet_difflung/helpers.py", "", "Rooms of the package"),
        ("nnunet_difflung/room/__init__.py", "", "Rooms of the package"),
        ("nnunet_difflung/commands/new.py", "import nnunet_difflung.api.plan", "Rooms of the package"),
        ("dataset_conversion/Dataset999_New.py", "", "Rooms of the converters"),
        ("nnunet_difflung/runtime/new.py", "import nnunet_difflung.meaning.labels", "Rooms of the package"),
        ("dataset_conversion/imaging/new.py", "import nnunet_difflung.config", "Converters have settings"),
        ("dataset_conversion/archive/new.py", "import nnunet_difflung.lesions.masks", "Converters use"),
        ("nnunet_difflung/lesions/new.py", "import torch", "What undoes and proves"),
    ],
)
def test_a_file_without_a_room_and_an_import_upwards_break_it(checkout, file, content, broken):
    path = checkout / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    done = lint(checkout)
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(broken in line and "BROKEN" in line for line in done.stdout.splitlines()), done.stdout


def test_a_circle_breaks_it(checkout):
    for name, other in (("one", "two"), ("two", "one")):
        (checkout / f"nnunet_difflung/runtime/{name}.py").write_text(f"import nnunet_difflung.runtime.{other}")
    done = lint(checkout)
    assert "No circles anywhere BROKEN" in done.stdout, done.stdout
