"""Optional packages: what is missing, what for, and how to get it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_difflung
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.environment import commit, require, versions

ROOT = Path(nnunet_difflung.__file__).resolve().parents[1]


def test_an_installed_package_is_imported():
    assert require("json.decoder", extra="gan", why="a test") is importlib.import_module("json.decoder")


def test_a_missing_package_is_named_with_its_purpose_and_the_command():
    with pytest.raises(BadInput) as refusal:
        require("no_such_package.part", extra="gan", why="--method spade")
    assert str(refusal.value) == (
        "no_such_package is needed for --method spade, but it is not installed; run: pip install 'nnunet_difflung[gan]'"
    )
    with pytest.raises(BadInput, match=r"\[lungmask\]', or set lung: threshold$"):
        require("no_such_package", extra="lungmask", why="a lung mask", otherwise="set lung: threshold")


def test_a_package_that_is_too_old_or_broken_is_told_from_a_missing_one(monkeypatch):
    with pytest.raises(BadInput) as refusal:
        require("scipy.not_written_yet", extra="gan", why="--method spade")
    version = importlib.import_module("scipy").__version__
    assert f"scipy is needed for --method spade, but the installed version {version} " in str(refusal.value)
    assert "(No module named 'scipy.not_written_yet'); run: pip install" in str(refusal.value)

    class Broken:
        def find_spec(self, name, *_):
            if name == "scipy.broken":
                raise ImportError("libsomething.so is missing\nand more")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(BadInput, match=r"libsomething.so is missing\); run: pip") as refusal:
        require("scipy.broken", extra="gan", why="--method spade")
    assert "\n" not in str(refusal.value)


def test_no_other_file_words_its_own_advice_to_install():
    files = [f for part in ("nnunet_difflung", "dataset_conversion") for f in sorted((ROOT / part).rglob("*.py"))]
    raised = re.compile(r"except ImportError as \w+:\s+raise", re.MULTILINE)
    assert {f.name for f in files if raised.search(f.read_text())} == set()


def test_results_say_from_which_commit_they_are(tmp_path):
    assert commit(tmp_path) == "", "an installed package has none"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first"], ["tag", "v1"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    commit.cache_clear()
    assert commit(tmp_path) == head[:8]
    (tmp_path / "file").write_text("2")
    commit.cache_clear()
    assert commit(tmp_path) == f"{head[:8]}.dirty"
    own = versions()["nnunet_difflung"]
    assert own.endswith(f"+g{commit()}") if commit() else "+" not in own
