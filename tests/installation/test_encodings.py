"""Text files are read and written in an encoding that the code names, not in the locale's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = {"read_text", "write_text"}


def without_encoding(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each call that reads or writes text in the locale's encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in TEXT:
            yield node.lineno, node.func.attr
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        owner = node.func.value.id if isinstance(getattr(node.func, "value", None), ast.Name) else ""
        if (
            name in ("open", "fdopen", "NamedTemporaryFile")
            and owner not in ("Image", "blosc2", "gzip")
            and _is_text(node)
        ):
            if owner == "os" and name == "open":
                continue
            yield node.lineno, name
        if name in ("run", "Popen", "check_output") and any(
            word.arg in ("text", "universal_newlines") for word in node.keywords
        ):
            yield node.lineno, name


def _is_text(call: ast.Call) -> bool:
    of_path = isinstance(call.func, ast.Attribute) and call.func.attr == "open" and len(call.args) == 1
    modes = [word.value for word in call.keywords if word.arg == "mode"] or call.args[0 if of_path else 1 :][:1]
    return not (modes and isinstance(modes[0], ast.Constant) and set("b") <= set(str(modes[0].value)) <= set("rwaxb+"))


@pytest.mark.parametrize("folder", ["nnunet_difflung", "dataset_conversion", "trainers"])
def test_every_text_file_has_an_encoding(folder):
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, name in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert faults == []


def test_the_check_sees_what_it_looks_for():
    found = 'open("a")\nopen("a", "w")\nopen("a", mode="r")\npath.read_text()\npath.write_text("x")\npath.open()\n'
    assert len(list(without_encoding(found))) == 6
    right = 'open("a", "rb")\nopen("a", encoding="utf-8")\npath.read_text(encoding="utf-8")\nos.open(path, 0)\n'
    assert list(without_encoding(right)) == []
