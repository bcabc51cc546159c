"""The names of the package: imported when used, documented, visible to type checkers."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_difflung as dl

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
HEAVY = {"torch", "nnunetv2", "numpy", "scipy", "SimpleITK", "matplotlib", "accelerate", "diffusers"}


def modules_after(code: str) -> set[str]:
    """The packages that a fresh process has imported after some code."""
    code += "; import json, sys; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout))


def test_importing_the_package_imports_nothing_heavy():
    assert not HEAVY & modules_after("import nnunet_difflung as dl; dl.__all__; dir(dl)")


def test_errors_and_datasets_come_without_torch():
    assert not {"torch", "nnunetv2"} & modules_after("import nnunet_difflung as dl; dl.BadInput; dl.load_dataset")


@pytest.mark.parametrize("name", dl.__all__)
def test_every_name_is_there_documented_and_on_the_page(name):
    value = getattr(dl, name)
    assert value.__module__.startswith("nnunet_difflung.")
    assert inspect.getdoc(value)
    assert name in dir(dl)
    assert re.search(rf"^\| `{name}(\(.*?\))?` \|", PAGE, re.MULTILINE), f"docs/api.md has no row for {name}"


@pytest.mark.parametrize("name", [name for name in dl.__all__ if inspect.isclass(getattr(dl, name))])
def test_what_a_class_offers_is_documented(name):
    value = getattr(dl, name)
    own = {k: v for k, v in vars(value).items() if not k.startswith("_") and (callable(v) or isinstance(v, property))}
    assert [k for k, v in own.items() if not inspect.getdoc(v)] == []


def test_a_wrong_name_is_no_name():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = dl.no_such_name


def test_type_checkers_see_the_same_names():
    """What stands below ``if TYPE_CHECKING`` is what is imported at the first use."""
    tree = ast.parse((ROOT / "nnunet_difflung" / "__init__.py").read_text(encoding="utf-8"))
    (branch,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(branch.test) == "TYPE_CHECKING"
    assert all(isinstance(node, ast.ImportFrom) for node in branch.body)
    seen = {alias.name: node.module for node in branch.body for alias in node.names}
    assert sorted(seen) == sorted(dl.__all__)
    for name, module in seen.items():
        assert getattr(dl, name) is getattr(sys.modules[module], name)


def test_errors_are_the_packages_own():
    assert issubclass(dl.BadInput, ValueError)
    assert issubclass(dl.Failed, RuntimeError)
