"""``difflung_audit``: proves from a dataset's files that no synthetic case has seen a validation patient."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from nnunet_difflung.commands import options as shared
from nnunet_difflung.injection.audit import audit_table
from nnunet_difflung.paths import dataset_name
from nnunet_difflung.runtime.console import command

_DESCRIPTION = """
Checks from the files of a dataset that no synthetic case and no generator of a fold has seen one of that fold's
validation patients. Prints a table of the folds, a line for each problem, and a line for each thing that could not be
checked. Exit code 0: no problem was found; 1: there are problems. An interrupted change of the dataset is completed
first. docs/audit.md says what is proven and what is not.
"""
_EXAMPLE = "difflung_audit -d 801"


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    p = shared.command_parser("difflung_audit", _DESCRIPTION, _EXAMPLE)
    group = p.add_argument_group("run")
    shared.add_dataset(group, "dataset in $nnUNet_raw or $nnUNet_preprocessed")
    group.add_argument(
        "--fast",
        action="store_true",
        help="compare neither the SHA-256 hashes of the synthetic files nor the preprocessed arrays (default: compare "
        "them)",
    )
    group.add_argument(
        "--deep",
        action="store_true",
        help="read every real case again to compare its SHA-256 (default: only files whose size or times have changed "
        "since they were last read)",
    )
    group.add_argument("--json", action="store_true", help="print everything as JSON (default: as a table)")
    return p


def print_table(table: dict) -> None:
    """Prints an audit's table for people."""
    print(f"{'fold':>5} {'real training':>22} {'synthetic':<32} {'validation':>10} {'leaks':>6}")
    for row in table["folds"]:
        real = f"{row['training_cases']} of {row['training_patients']} patients"
        synthetic = ", ".join(f"{method} {n}" for method, n in sorted(row["synthetic"].items())) or "none"
        print(f"{row['fold']:>5} {real:>22} {synthetic:<32} {row['validation_cases']:>10} {row['leaks']:>6}")
    for line in table["problems"]:
        print(f"- {line}")
    for line in table["notes"]:
        print(f"note: {line}")
    print(f"{table['dataset']}: {table['leaks']} leaks, {len(table['problems'])} problems")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parser().parse_args(arguments)
    table = audit_table(dataset_name(options.dataset), deep=not options.fast, anew=options.deep)
    if options.json:
        print(json.dumps(table, indent=1))
    else:
        print_table(table)
    return 1 if table["problems"] else 0


entry = command(main)

if __name__ == "__main__":
    entry()
