"""``difflung_compare``: compares the arms' finished nnU-Net trainings class by class, paired by patient."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.commands import options as shared
from nnunet_difflung.commands.options import checked_output
from nnunet_difflung.comparison.trainings import ARMS, Trainings, find_trainings
from nnunet_difflung.dataset.logs import keep_log
from nnunet_difflung.dataset.places import check_links
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import TABLE2, fold_name, table2_file
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.environment import require
from nnunet_difflung.runtime.messages import report, say
from nnunet_difflung.runtime.wording import without_folder

_DESCRIPTION = """
Compares finished nnU-Net trainings class by class (the paper's Table 2): Dice of each patient, and the paired
differences to a reference arm with 95 % confidence intervals, as a table and a plot. An arm is a trainer: the reference
is trained on real cases only, each of the others on the real cases and the synthetic cases of one method. Trainings of
nnUNetTrainerDiffLung count for the method whose cases they had: difflung, or cbmat with earlier versions.

An interval needs several trainings of every arm: two folds or two seeds give one, but a very wide one; give five folds,
or five seeds of one fold. With one training per arm the table has no interval, since nothing shows how much trainings
vary. Several folds with several seeds each give the narrowest intervals.
"""
_EXAMPLE = """
difflung_compare -d 801 -f 0 1 2 3 4
difflung_compare -d 801 -f 0 --arms reference difflung copy_paste --length 5epochs
"""


def parser() -> argparse.ArgumentParser:
    """The command's parser; options that nnU-Net has too are named as in nnU-Net."""
    p = shared.command_parser("difflung_compare", _DESCRIPTION, _EXAMPLE)
    _add_run_options(p.add_argument_group("run"))
    _add_training_options(p.add_argument_group("which trainings"))
    _add_score_options(p.add_argument_group("how they are scored"))
    return p


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    shared.add_dataset(group, "dataset in the results folder")
    shared.add_folds(
        group, "; every arm must be trained on all of them; 'all' only together with --predictions", required=True
    )
    group.add_argument(
        "--arms",
        "--methods",
        nargs="+",
        choices=tuple(ARMS),
        metavar="ARM",
        help=f"arms to compare, of {', '.join(ARMS)} (default: every arm with a finished training)",
    )
    group.add_argument(
        "--reference",
        default="reference",
        choices=tuple(ARMS),
        metavar="ARM",
        help="arm that the others are compared with (default: %(default)s)",
    )
    shared.add_output(group, TABLE2)


def _add_training_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-c",
        dest="configuration",
        metavar="CONFIGURATION",
        help="nnU-Net configuration, such as 2d (default: the only one that was trained)",
    )
    shared.add_plans(group)
    shared.add_length(group)
    group.add_argument(
        "--results",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="nnUNet_results folders of trainings that differ in DIFFLUNG_SEED only; each folder is one repetition "
        "(default: $nnUNet_results)",
    )


def _add_score_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--predictions",
        metavar="NAME",
        help="score predictions of unseen cases: the folder NAME inside each fold of "
        f"a trained model, written by nnUNetv2_predict -i imagesTs -o .../{fold_name('K')}/NAME and scored by "
        f"nnUNetv2_evaluate_folder labelsTs .../{fold_name('K')}/NAME (default: nnU-Net's validation)",
    )
    shared.add_patients(group)
    group.add_argument(
        "--lesions",
        action="store_true",
        help="also count the lesions (connected components) that were detected, and those that were predicted where "
        "there are none; reads the segmentations, and takes about 7 ms more for each slice of 512 x 512",
    )
    group.add_argument(
        "--surface",
        action="store_true",
        help="also compute HD95 and the normalised surface Dice from the segmentations; needs "
        "pip install 'nnunet_difflung[metrics]'",
    )
    group.add_argument(
        "--tolerance",
        type=float,
        default=2.0,
        metavar="MM",
        help="distance within which a surface counts as correct in the normalised surface Dice (default: %(default)s)",
    )


def trainings_from(options: argparse.Namespace) -> Trainings:
    """The trainings that a command line names.

    Raises:
        BadInput: a folder, dataset or configuration is missing or ambiguous, or no training is finished.
    """
    return find_trainings(
        options.dataset,
        options.folds,
        options.results,
        options.configuration,
        options.arms,
        options.plans,
        options.length,
        options.predictions,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    out = checked_output(options.out)
    if not options.tolerance > 0:
        raise BadInput(f"--tolerance {options.tolerance} is not positive; give millimetres, such as 2")
    if options.surface:
        require("monai.metrics", extra="metrics", why="--surface", otherwise="leave --surface out")
    trainings = trainings_from(options)
    if out is None:
        out = table2_file(trainings.dataset)
        check_links(trainings.dataset, [], [out.parent])

    from nnunet_difflung.comparison.compare import compare

    keep_log(trainings.dataset)
    table = compare(
        trainings,
        options.reference,
        out,
        options.patient_pattern,
        options.lesions,
        options.tolerance if options.surface else None,
        shlex.join(["difflung_compare", *map(without_folder, words)]),
        options.patients_file,
    )
    written = [out.with_suffix(ending) for ending in (".json", ".md", ".png", ".html")]
    report(dataset=trainings.dataset, table=table, written=written)
    say(out.with_suffix(".md").read_text(encoding="utf-8"))
    say(f"{out} holds all figures; open {out.with_suffix('.html')} in a browser for charts and the worst patients.")
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
