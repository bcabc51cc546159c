"""``difflung_audit``: proves from a dataset's files that no synthetic case has seen a validation patient."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_difflung.audit.audit import audit_table
from nnunet_difflung.commands import options as shared
from nnunet_difflung.dataset.logs import keep_log
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import dataset_name
from nnunet_difflung.runtime.console import Code, command
from nnunet_difflung.runtime.messages import report, say
from nnunet_difflung.runtime.wording import collapsed, counted

if TYPE_CHECKING:
    from nnunet_difflung.audit.image_audit import ImageAudit

_LINES = 20  # pairs of cases that are printed
_DESCRIPTION = """
Checks from the files of a dataset that no synthetic case and no generator of a fold has seen one of that fold's
validation patients. Prints a table of the folds, a line for each problem, and a line for each check that was not
possible. Exit code 0: no problem was found; 1: there are problems; 3: there are no problems, but --images lists
pictures in training and in validation that may show the same patient, which you have to decide by eye. An
interrupted change of the dataset is completed first. docs/audit.md says what is proven and what is not.
"""
_EXAMPLE = "difflung_audit -d 801"


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    p = shared.command_parser("difflung_audit", _DESCRIPTION, _EXAMPLE, "patients to look at (--images)")
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
    group.add_argument(
        "--images",
        action="store_true",
        help="compare the images of training and validation cases too, since a patient may have several ids; takes "
        "about twice as long as reading all cases (default: compare ids and files only)",
    )
    shared.add_processes(group, "with --images read and compare")
    return p


def print_table(table: dict) -> None:
    """Prints an audit's table for people."""
    lines = [f"{'fold':>5} {'real training cases':>22} {'synthetic':<32} {'validation':>10} {'leaks':>6}"]
    for row in table["folds"]:
        real = f"{row['training_cases']} ({counted(row['training_patients'], 'patient')})"
        synthetic = ", ".join(f"{method} {n}" for method, n in sorted(row["synthetic"].items())) or "none"
        lines.append(f"{row['fold']:>5} {real:>22} {synthetic:<32} {row['validation_cases']:>10} {row['leaks']:>6}")
    lines += [f"- {line}" for line in collapsed(table["problems"])]
    lines += [f"note: {line}" for line in collapsed(table["notes"])]
    lines.append(f"{table['dataset']}: {counted(table['leaks'], 'leak')}, {counted(len(table['problems']), 'problem')}")
    say("\n".join(lines))


def print_images(images: ImageAudit) -> None:
    """Prints the suspicious pairs of cases: at most 20 lines, then their number."""
    check = images.check
    say(f"images: {check.judged() or 'nothing to compare'}")
    if not images.folds:
        say("images: without folds, the cases of all patients were compared with each other")
    similar = [pair for pair in check.pairs if not pair.identical]
    for pair in similar[:_LINES]:
        say(f"? {pair.line}")
    if len(similar) > _LINES:
        say(f"? and {len(similar) - _LINES} more pairs of cases, which --json lists")
    if images.sheet is not None:
        say(
            f"images: {counted(len(check.pairs), 'pair')} of cases may show the same patient; look at {images.sheet}, "
            f"and if they do, {_remedy(images)}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parser().parse_args(arguments)
    name = dataset_name(options.dataset)
    table = audit_table(name, deep=not options.fast, anew=options.deep)
    images = _images(name, options.processes) if options.images else None
    if images is not None:
        _add_images(table, images)
    report(**table)
    keep_log(name)
    print_table(table)
    if images is not None:
        print_images(images)
    if table["problems"]:
        return Code.FAILED
    return Code.SUSPICION if images is not None and images.check.pairs else Code.DONE


def _add_images(table: dict, images: ImageAudit) -> None:
    """Adds the comparison of images to an audit's table; equal voxels in training and validation are leaks."""
    table["images"] = images.as_dict()
    for pair in images.check.identical:
        table["problems"].append(f"{pair.line}; remove one of the two cases, or {_remedy(images)}")
        table["leaks"] += 1
        for row in table["folds"]:
            row["leaks"] += row["fold"] in pair.folds


def _remedy(images: ImageAudit) -> str:
    """What to do if two cases show the same patient."""
    if images.folds:
        return "put both on the same side of every fold in splits_final.json"
    return "list both under one patient in a file for difflung_augment --patients"


def _images(name: str, processes: int) -> ImageAudit:
    if processes < 1:
        raise BadInput(f"-np {processes}: expected at least 1 process")
    from nnunet_difflung.audit.image_audit import audit_images  # imports packages that take seconds

    return audit_images(name, processes, True)


entry = command(main)

if __name__ == "__main__":
    entry()
