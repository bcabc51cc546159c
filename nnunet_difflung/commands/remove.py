"""``difflung_remove``: takes every synthetic case out of a dataset again and restores its files byte for byte."""

from __future__ import annotations

import argparse

from nnunet_difflung.injection.removal import remove
from nnunet_difflung.runtime.console import command


def main(argv: list[str] | None = None) -> int:
    """``difflung_remove``."""
    parser = argparse.ArgumentParser(
        prog="difflung_remove",
        description="Takes every synthetic case out of a dataset and restores its files byte for byte.",
    )
    parser.add_argument("-d", dest="dataset", required=True, help="dataset id or name")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and touch nothing")
    parser.add_argument("--force", action="store_true", help="restore files although they were changed since")
    parser.add_argument("--generators", action="store_true", help="delete the trained generators too")
    args = parser.parse_args(argv)
    lines = remove(args.dataset, args.dry_run, args.force, args.generators)
    print("Would be done:" if args.dry_run else "Done:")
    for line in lines:
        print(f"- {line}")
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
