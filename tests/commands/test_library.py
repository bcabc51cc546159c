"""Parsing and printing are the commands'; the rooms below them are a library."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "nnunet_difflung"
ROOMS = ("api", "dataset", "lesions", "generator", "preparing", "judging", "painting", "injection")
ROOMS += ("telling", "evaluation", "comparison")


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_parses_arguments_or_prints(room):
    """What a library says on its own, such as that it waits for a lock, goes to stderr."""
    files = sorted((PACKAGE / room).glob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "argparse" not in ast.unparse(node), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                assert "file=sys.stderr" in ast.unparse(node), f"{path}:{node.lineno}"
