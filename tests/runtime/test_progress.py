"""What a user sees while a command starts and works: bars in a log file, and no long silence before them."""

from __future__ import annotations

import subprocess
import sys

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
