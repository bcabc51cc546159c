"""Commands that are printed can be typed, and paths with any bytes give no traceback."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_difflung.comparison.trainings import Trainings, _remedy
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.inject import inject
from nnunet_difflung.injection.leaks import start_over
from nnunet_difflung.paths import PATH_VARIABLES, nnunet_folder
from nnunet_difflung.runtime.wording import quoted
from nnunet_difflung.runtime.writable import check_folders
from nnunet_difflung.telling.next_commands import next_commands
from tests.dataset_conversion.test_convert import MAPPINGS
from tests.support.archives import write_volumes
from tests.support.staging import stage_cases
from tests.support.tiny import make_dataset, set_paths

ROOT = Path(__file__).resolve().parents[2]
ODD = ["a b", "it's", 'say "x"', "$HOME", "a;b&c", "*", "-x", "Größe"]


@pytest.mark.parametrize("name", ODD)
def test_the_next_commands_can_be_typed(tmp_path, monkeypatch, name):
    folder = make_dataset(set_paths(tmp_path / name, monkeypatch)[0], patients=2, slices=1, folds=2, size=16)
    for part in ("imagesTs", "labelsTs"):
        (folder / part).mkdir()
    raw = open_raw_dataset("801")
    words = shlex.split(next_commands(raw, "2d", "cbmat", [0], "cpu"))
    expected = (
        folder / "imagesTs",
        folder / "labelsTs",
        folder / "dataset.json",
        raw.preprocessed / "nnUNetPlans.json",
    )
    assert {str(path) for path in expected} <= set(words)


@pytest.mark.parametrize("name", ODD)
def test_remedies_can_be_typed(tmp_path, monkeypatch, name):
    missing = tmp_path / name
    monkeypatch.setenv("nnUNet_raw", str(missing))
    with pytest.raises(BadInput, match="mkdir") as refused:
        nnunet_folder("nnUNet_raw")
    command = re.search(r"\((mkdir -p .*)\)", str(refused.value)).group(1)
    subprocess.run(command, shell=True, check=True)
    assert missing.is_dir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BadInput, match="chmod") as refused:
        check_folders([missing])
    assert str(missing) in shlex.split(re.search(r"\((chmod .*), or ask", str(refused.value)).group(1))


def test_names_of_datasets_are_quoted_too(tmp_path):
    said = start_over("Dataset801_My Lung").replace(",", "")
    assert shlex.split(said).count("Dataset801_My Lung") == 2
    trainings = Trainings(
        dataset="Dataset801_My Lung",
        results={"1": tmp_path / "a b"},
        folds=(0,),
        configuration="2d",
        arms=("reference",),
        plans="my plans",
        length="",
        predictions="test set",
    )
    words = shlex.split(_remedy(trainings, "reference", 0))
    assert "my plans" in words
    assert "$nnUNet_raw/Dataset801_My Lung/imagesTs" in words
    assert any(word.startswith(str(tmp_path / "a b")) for word in words)


_COMMAND = re.compile(
    r"(difflung_(augment|remove|audit|evaluate|compare|convert)|nnUNetv2_\w+|\b(mkdir -p|chmod u\+w|rm|cp)) [^{}]*$"
)
# what a command may hold without quotes: numbers, words of this package, and what is quoted already
_SAFE = {"dataset_id", "quoted", "shlex.quote", "dataset", "number", "again", "images", "labels", "target", "files"}
_SAFE |= {"fold", "trainer", "args.dataset_id", "options.dataset_id", "name", "method", "where", "configuration"}
_SAFE |= {"folds", "numbers"}  # of the page of difflung_evaluate, of a fold trained again
_SAFE |= {"in_shell", "plans", "new", "weights", "lent", "_LENT"}  # of cards, quoted where they are made


def test_every_printed_command_quotes_what_it_is_given():
    """In a message, whatever stands in a command after a word such as ``-d`` or ``-i`` is quoted or a number."""
    faults = []
    for path in sorted(
        p for part in ("nnunet_difflung", "dataset_conversion", "trainers") for p in (ROOT / part).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            text = ""
            for part in node.values:
                if isinstance(part, ast.Constant):
                    text = (text + str(part.value))[-200:]
                elif isinstance(part, ast.FormattedValue):
                    value = part.value.func if isinstance(part.value, ast.Call) else part.value
                    if _COMMAND.search(text) and re.search(r"( -[a-z_]+|mkdir -p|u\+w|rm|cp) $", text):
                        source = ast.unparse(value)
                        if source not in _SAFE:
                            faults.append(f"{path.relative_to(ROOT)}:{part.lineno}: {ast.unparse(part.value)}")
                    text += "VALUE"
    assert faults == []


def _run(module: str, *arguments: str, locale: str = "C.UTF-8", **variables: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    environment |= {
        "LC_ALL": locale,
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-m", f"nnunet_difflung.{module}", *arguments],
        env=environment,
        capture_output=True,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize("name", [os.fsdecode(b"K\xf6ln"), "two\nlines", "tab\there"], ids=["bytes", "newline", "tab"])
def test_paths_with_any_bytes_give_no_traceback(tmp_path, monkeypatch, name):
    plain = set_paths(tmp_path / "plain", monkeypatch)
    make_dataset(plain[0], patients=4, slices=1, size=16, folds=2)
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    try:
        shutil.move(tmp_path / "plain", tmp_path / name)
    except OSError:
        pytest.skip("this file system has no such names")
    variables = {variable: str(tmp_path / name / variable) for variable in PATH_VARIABLES}
    for arguments in (("audit", "-d", "801"), ("remove", "-d", "801", "--dry-run"), ("remove", "-d", "801")):
        done = _run(f"commands.{arguments[0]}", *arguments[1:], **variables)
        assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
        assert done.returncode in (0, 2)
        if name.startswith("K"):
            assert b"K\xf6ln" not in done.stdout + done.stderr
    assert not list((tmp_path / name).rglob("difflung*"))


DRY_RUN = ("commands.augment", "-d", "801", "--dry-run", "-device", "cpu", "-f", "0", "--preset", "fast")


@pytest.mark.parametrize("root", ["plain", "Größe"])
def test_names_are_shown_in_a_terminal_without_their_letters(tmp_path, monkeypatch, root):
    mine = make_dataset(set_paths(tmp_path / root, monkeypatch)[0], patients=4, slices=1, size=16, folds=2)
    content = json.loads((mine / "dataset.json").read_text())
    content["labels"]["Überblähung"] = 4
    (mine / "dataset.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    done = _run(*DRY_RUN, locale="C")
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    if root == "plain":
        assert b"\\xdcberbl\\xe4hung" in done.stdout
        assert done.returncode == 0
    else:  # SimpleITK would end the process
        assert done.returncode == 2
        assert b"not UTF-8, which nnU-Net's readers cannot open; use a locale with UTF-8 (export LC_ALL=" in done.stderr
        assert _run(*DRY_RUN, locale="C.UTF-8").returncode == 0


@pytest.mark.parametrize("where", ["archive", "raw"])
def test_an_archive_with_a_name_that_is_not_utf_8_is_read_and_a_dataset_is_refused(tmp_path, monkeypatch, where):
    odd = tmp_path / os.fsdecode(b"K\xf6ln")
    folders = set_paths(odd if where == "raw" else tmp_path, monkeypatch)
    write_volumes(tmp_path / "archive", patients=1)
    archive = tmp_path / "archive"
    if where == "archive":
        odd.mkdir()
        archive = Path(shutil.move(archive, odd / "archive"))
    (tmp_path / "mapping.yaml").write_text(MAPPINGS["values"])
    options = (
        "-i",
        str(archive),
        "--mapping",
        str(tmp_path / "mapping.yaml"),
        "-d",
        "810",
        "--name",
        "Mine",
        "-np",
        "1",
    )
    done = _run("dataset_conversion.convert", *options)
    if where == "archive":  # volumes are read through a link with another name
        assert done.returncode == 0, done.stderr
        assert (folders[0] / "Dataset810_Mine" / "dataset.json").is_file()
        return
    assert done.returncode == 2, done.stderr
    assert b"K\\udcf6ln" in done.stderr
    assert done.stderr.count(b"Error: ") == 1
    assert list(folders[0].iterdir()) == []


def test_quoting():
    assert quoted("a b", Path("c")) == "'a b' c"
