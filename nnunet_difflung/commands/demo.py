"""``difflung_demo``: the whole chain on a chest phantom, small enough for a laptop."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.commands import options as shared
from nnunet_difflung.commands.options import positive
from nnunet_difflung.demonstration.folder import PREVIEW, REPORT, delete_demo
from nnunet_difflung.demonstration.run import run
from nnunet_difflung.demonstration.stages import Demo
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.messages import report, say

_DESCRIPTION = """
Shows the whole chain on a synthetic chest phantom, in 10 to 35 minutes on two CPU cores: makes the dataset, trains the
generator, adds synthetic cases, trains nnU-Net without and with them, and reports Dice on unseen patients. The command
can be interrupted at any time; run it again to resume.
"""
_EXAMPLE = "difflung_demo -o demo"


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    p = shared.command_parser("difflung_demo", _DESCRIPTION, _EXAMPLE)
    group = p.add_argument_group("run")
    group.add_argument(
        "-o",
        dest="folder",
        type=Path,
        default=Path("demo"),
        metavar="FOLDER",
        help="folder for everything that the demo writes (default: %(default)s)",
    )
    group.add_argument(
        "--length",
        default="5epochs",
        choices=("1epoch", "5epochs", "20epochs"),
        help="length of both nnU-Net trainings, with 250 iterations an epoch (default: %(default)s)",
    )
    group.add_argument(
        "--epochs",
        type=positive,
        default=60,
        metavar="N",
        help="epochs of the generator's training (default: %(default)s)",
    )
    group.add_argument(
        "--size",
        type=positive,
        default=288,
        metavar="PIXELS",
        help="edge of the phantom's slices of 360 mm (default: %(default)s, 1.25 mm pixels)",
    )
    group.add_argument("--overwrite", action="store_true", help="delete FOLDER first and start over")
    return p


def _table(summary: dict) -> str:
    lines = [
        "",
        "Dice on test patients that no network has seen",
        f"{'':<14}{'mean over cases':^26}{'all voxels':^26}",
        f"{'class':<14}" + f"{'reference':>13}{'difflung':>13}" * 2,
    ]
    for name in summary["reference"]:
        row = [summary[arm][name] for arm in ("reference", "difflung", "reference_pooled", "difflung_pooled")]
        lines.append(f"{name:<14}" + "".join(f"{value:>13.3f}" for value in row))
    lines.append("one training of each arm, which does not show how much trainings vary")
    return "\n".join([*lines, f"leaks: {summary['leaks']}   seconds: {summary['seconds']['total']:.0f}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parser().parse_args(arguments)
    folder = options.folder
    if options.overwrite:
        delete_demo(folder)
    summary = run(Demo(folder, options.length, options.epochs, options.size))
    report(folder=folder, summary=summary)
    say(_table(summary))
    say(f"{folder / 'summary.json'} holds the figures, {folder / PREVIEW} shows real and synthetic CT.")
    say(f"Open {folder / REPORT} in a browser: what difflung_augment did, with pictures.")
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
