"""What a user sees while a command starts and works: bars in a log file, and no long silence before them."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from nnunet_difflung.runtime import progress

CODE = """
from nnunet_difflung.runtime.parallel import bar
for _ in bar(range(5000), visible={visible}, desc="working"):
    pass
with bar(total=5000, visible={visible}, desc="training") as shown:
    for _ in range(5000):
        shown.update()
        shown.set_postfix_str("loss", refresh=False)
"""


def lines(visible: bool) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(visible=visible)], capture_output=True, text=True, check=True
    )
    return [line for line in done.stderr.replace("\r", "\n").splitlines() if line]


def test_without_a_terminal_a_bar_takes_a_few_lines_and_ends_complete():
    shown = lines(True)
    assert len(shown) <= 4
    assert "training: 100%" in shown[-1]
    assert any("working: 100%" in line for line in shown)
    assert lines(False) == []


def test_commands_start_without_the_packages_that_only_networks_need():
    code = (
        "import sys, nnunet_difflung.commands.augment; "
        "print({'diffusers', 'nnunetv2', 'scipy.stats'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_a_bar_of_shares_ends_complete_and_never_goes_back(monkeypatch):
    moves, shown = [], {}

    @contextmanager
    def recorded(**options):
        shown.update(options)
        yield SimpleNamespace(update=moves.append)

    monkeypatch.setattr(progress, "bar", recorded)
    with progress.told("planning", visible=False) as tell:
        for done in (0.25, 0.125, 1.5, 1.0):
            tell(done)
    assert moves == [25, 75]
    assert (shown["desc"], shown["visible"], shown["total"], shown["delay"]) == ("planning", False, 100, 2)


def test_parts_take_their_shares_of_the_whole():
    seen = []
    for tell in progress.parts(seen.append, 1, 0, 3):
        tell(0.5)
        tell(1)
    assert seen == pytest.approx([0.125, 0.25, 0.25, 0.25, 0.625, 1])


def test_items_tell_how_many_of_them_are_done():
    seen = []
    assert list(progress.telling("abcd", seen.append)) == list("abcd")
    assert seen == [0.25, 0.5, 0.75, 1]
    assert list(progress.telling("", seen.append)) == []
    assert seen[4:] == [1]
