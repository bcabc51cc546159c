"""``difflung_audit``: proves from the files themselves that no synthetic case has seen a validation patient."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.audit import audit_table
from nnunet_difflung.paths import dataset_folder
from nnunet_difflung.runtime.console import command


def print_table(table: dict) -> None:
    """Prints an audit's table for people."""
    print(f"{'fold':>5} {'real training':>22} {'synthetic':<32} {'validation':>10} {'leaks':>6}")
    for row in table["folds"]:
        real = f"{row['training_cases']} of {row['training_patients']} patients"
        synthetic = ", ".join(f"{method} {n}" for method, n in sorted(row["synthetic"].items())) or "none"
        print(f"{row['fold']:>5} {real:>22} {synthetic:<32} {row['validation_cases']:>10} {row['leaks']:>6}")


def _dataset_name(dataset: str) -> str:
    """Name from an id or a name, where the raw dataset may be missing."""
    if os.environ.get("nnUNet_raw") or not os.environ.get("nnUNet_preprocessed"):
        try:
            return dataset_folder(dataset).name
        except BadInput:
            if not os.environ.get("nnUNet_preprocessed"):
                raise
    wanted = f"Dataset{int(dataset):03d}_*" if dataset.isdigit() else dataset
    found = sorted(p.name for p in Path(os.environ["nnUNet_preprocessed"]).glob(wanted) if p.is_dir())
    if len(found) != 1:
        raise BadInput(
            f"dataset {dataset} is neither in nnUNet_raw nor (once) in nnUNet_preprocessed="
            f"{os.environ['nnUNet_preprocessed']}; give an id or a name such as 801 or Dataset801_NAME"
        )
    return found[0]


def main(argv: list[str] | None = None) -> int:
    """``difflung_audit``."""
    parser = argparse.ArgumentParser(
        prog="difflung_audit",
        description="Proves from the files themselves that no "
        "synthetic case has seen a validation patient of its fold.",
    )
    parser.add_argument("-d", dest="dataset", required=True, help="dataset id or name")
    parser.add_argument("--fast", action="store_true", help="don't compare the hashes of the synthetic files")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    args = parser.parse_args(argv)
    table = audit_table(_dataset_name(args.dataset), deep=not args.fast)
    if args.json:
        print(json.dumps(table, indent=1))
    else:
        print_table(table)
        for line in table["problems"]:
            print(f"- {line}")
        print(f"{table['dataset']}: {table['leaks']} leaks, {len(table['problems'])} problems")
    return 1 if table["problems"] else 0


entry = command(main)

if __name__ == "__main__":
    entry()
