"""Help, bad options and refused input are answered without the packages that take seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny import make_dataset

NETWORKS = ("torch", "accelerate", "diffusers", "monai")
IMAGES = ("nnunetv2", "batchgenerators", "acvl_utils", "SimpleITK", "nibabel", "skimage", "scipy", "matplotlib")
FORBIDDEN = {
    "remove": (*NETWORKS, *IMAGES),
    "audit": (*NETWORKS, *IMAGES),
    "augment": (*NETWORKS, *IMAGES),
    "compare": (*NETWORKS, *IMAGES),
    "evaluate": (*NETWORKS, *IMAGES),
    "export": (*NETWORKS, *IMAGES, "numpy"),
    "demo": (*NETWORKS, *IMAGES, "numpy"),
}
CODE = """
import contextlib, importlib, io, json, sys
module, words = json.loads(sys.argv[1])
entry = importlib.import_module(f"nnunet_difflung.commands.{module}").entry
said = io.StringIO()
try:
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        entry(words)
except SystemExit as stop:
    print(json.dumps([stop.code, said.getvalue(), [name for name in sys.modules if "." not in name]]))
"""


def answer(module: str, *words: str) -> tuple[int, str, list[str]]:
    """Exit code of a command in a fresh process, what it said, and the forbidden packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([module, words])], capture_output=True, text=True, check=True
    )
    code, said, imported = json.loads(done.stdout)
    return code, said, sorted(set(imported) & set(FORBIDDEN[module]))


@pytest.mark.parametrize("module", FORBIDDEN)
def test_help(module):
    code, said, imported = answer(module, "-h")
    assert code == 0
    assert imported == []
    assert f"example:\n  difflung_{module} " in said


def test_the_package_itself_imports_nothing():
    code = "import sys; before = set(sys.modules); import nnunet_difflung; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout.replace("'", '"'))) <= {"nnunet_difflung", "__future__"}


@pytest.mark.parametrize(
    ("module", "words", "expected"),
    [
        ("augment", ["-d", "801", "--epochs", "0"], "--epochs"),
        ("augment", ["-d", "802"], "Dataset801_Tiny"),
        ("augment", ["-d", "801", "--window", "5,1"], "LOW < HIGH"),
        ("augment", ["-d", "801", "--target-share", "ILD=2"], "between 0 and 1"),
        ("augment", ["-d", "801", "--normal-label", "nothing"], "--normal-label nothing"),
        ("evaluate", ["-d", "801", "--samples", "0"], "--samples"),
        ("evaluate", ["-d", "801", "-o", "table.md"], ".json"),
        ("evaluate", ["-d", "802"], "Dataset801_Tiny"),
        ("evaluate", ["-d", "801", "--structure-label", "heart"], "--structure-label heart"),
        ("compare", ["-d", "801", "-f", "0"], "train the arms of the dataset first"),
        ("compare", ["-d", "801", "-f", "first"], "-f first"),
        ("export", ["-d", "801", "-f", "0", "-o", "model"], "train the arms of the dataset first"),
        ("remove", ["-d", "802"], "Dataset801_Tiny"),
        ("audit", ["-d", "802"], "802"),
    ],
)
def test_refused_input(folders, module, words, expected):
    make_dataset(folders[0])
    code, said, imported = answer(module, *words)
    assert code == 2
    assert expected in said
    assert imported == []


@pytest.mark.parametrize("module", ["augment", "evaluate"])
@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_a_missing_path_variable(folders, monkeypatch, module, variable):
    make_dataset(folders[0])
    monkeypatch.delenv(variable)
    code, said, imported = answer(module, "-d", "801")
    assert code == 2
    assert f"variable {variable} is not set" in said
    assert imported == []


@pytest.mark.parametrize("module", ["remove", "audit"])
def test_a_dataset_is_audited_and_removed_from_without_them(raw_folder: Path, module):
    make_dataset(raw_folder)
    code, said, imported = answer(module, "-d", "801")
    assert code == 0, said
    assert imported == []
