"""``difflung_remove``: removes all synthetic cases from a dataset and restores its files byte for byte."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_difflung.commands import options as shared
from nnunet_difflung.comparison.trainings import fold_numbers
from nnunet_difflung.dataset.logs import keep_log
from nnunet_difflung.injection.removal import remove
from nnunet_difflung.injection.selection import Selection
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import dataset_name
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.messages import report, say

_DESCRIPTION = """
Removes every synthetic case from a dataset and restores its files (dataset.json, splits, preprocessed folder) byte for
byte. If they have been edited since, the edits are kept. nnU-Net's plans and preprocessed real cases stay, and so do
trained generators, so that difflung_augment can paint again without training, unless --generators is given. With -f or
--method only those cases are removed; the files are restored once the last synthetic case is removed.
"""
_EXAMPLE = """
difflung_remove -d 801 --dry-run
difflung_remove -d 801
difflung_remove -d 801 -f 0 2 --method copy_paste
"""


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    p = shared.command_parser("difflung_remove", _DESCRIPTION, _EXAMPLE)
    group = p.add_argument_group("run")
    shared.add_dataset(group)
    shared.add_folds(group, ", whose cases (and, with --generators, generators) are removed (default: every fold)")
    group.add_argument(
        "--method",
        choices=METHODS,
        metavar="METHOD",
        help=f"method whose cases (and, with --generators, generators) are removed: {', '.join(METHODS)} "
        f"(default: every method)",
    )
    group.add_argument("--dry-run", action="store_true", help="list what would be removed, and change nothing")
    group.add_argument(
        "--generators",
        action="store_true",
        help="also delete the trained generators and, without -f and --method, the cached cases in $nnUNet_results "
        "(default: keep them)",
    )
    group.add_argument(
        "--force",
        action="store_true",
        help="restore the originals of dataset.json and the splits even if they were edited after the synthetic cases "
        "were added, and delete synthetic files that were changed (default: keep the edits, refuse changed files)",
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parser().parse_args(arguments)
    selection = Selection(fold_numbers(options.folds), options.method)
    lines = remove(options.dataset, options.dry_run, options.force, options.generators, selection)
    report(dry_run=options.dry_run, actions=lines)
    if not options.dry_run:
        keep_log(dataset_name(options.dataset))
    say("\n- ".join(["Would be done:" if options.dry_run else "Done:", *lines]))
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
