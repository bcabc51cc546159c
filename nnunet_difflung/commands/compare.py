"""``difflung_compare``: what each arm's finished nnU-Net trainings are worth per class, paired by patient."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.comparison.compare import compare
from nnunet_difflung.comparison.trainings import (
    ARMS,
    PLANS,
    Trainings,
    dataset_in,
    find_configuration,
    finished_arms,
    named_results,
)
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import nnunet_folder
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.environment import require, without_folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="difflung_compare",
        description="Compares finished nnU-Net trainings of the "
        "arms by class: Dice of each patient, paired differences to the reference with "
        "95 % intervals, a table and a plot.",
    )
    add = parser.add_argument
    add("-d", dest="dataset", required=True, help="dataset id or name")
    add(
        "-f",
        dest="folds",
        nargs="+",
        required=True,
        metavar="FOLD",
        help="folds, whose trainings all have to be finished (all: only with --predictions)",
    )
    add("-c", dest="configuration", help="nnU-Net's configuration (default: the only one that was trained)")
    add("-p", dest="plans", default=PLANS, help=f"nnU-Net's plans (default: {PLANS})")
    add("--arms", nargs="+", choices=tuple(ARMS), help="default: every arm with a finished training")
    add(
        "--reference",
        default="reference",
        choices=tuple(ARMS),
        metavar="ARM",
        help="the arm that the others are compared with (default: reference)",
    )
    add("--length", default="", help="trainers of this length, such as 5epochs (default: nnU-Net's 1000 epochs)")
    add(
        "--results",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="nnUNet_results folders of trainings that differ in "
        "DIFFLUNG_SEED only; each is a repetition (default: $nnUNet_results)",
    )
    add(
        "--predictions",
        metavar="NAME",
        help="don't read nnU-Net's validation but the predictions of unseen cases "
        "that nnUNetv2_predict -i imagesTs -o …/<trainer>__<plans>__<configuration>/fold_K/NAME wrote and "
        "nnUNetv2_evaluate_folder labelsTs …/fold_K/NAME scored (…/fold_K/NAME/summary.json)",
    )
    add(
        "--patient-pattern",
        help="regular expression whose first group is the patient of a case id (default: as "
        "difflung_augment read them)",
    )
    add(
        "--surface",
        action="store_true",
        help="also HD95 and normalised surface Dice from the segmentations; needs "
        "pip install 'nnunet_difflung[metrics]'",
    )
    add("--tolerance", type=float, default=2.0, metavar="MM", help="of the surface Dice (default: 2)")
    add(
        "-o",
        dest="out",
        type=Path,
        metavar="FILE.json",
        help="default: $nnUNet_results/DATASET/DiffLung__compare/table2.json; the .md and .png are written beside it",
    )
    return parser


def _folds(wanted: Sequence[str]) -> tuple[int | str, ...]:
    for fold in wanted:
        if fold != "all" and not fold.isdigit():
            raise BadInput(f"-f {fold} is no fold; expected numbers such as 0 1 2, or all")
    return tuple(dict.fromkeys(fold if fold == "all" else int(fold) for fold in wanted))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = _parser().parse_args(argv)
    if options.out is not None and options.out.suffix != ".json":
        raise BadInput(f"-o {options.out} does not end in .json; give the path of the table, such as table2.json")
    if not options.tolerance > 0:
        raise BadInput(f"--tolerance {options.tolerance} is not positive; give millimetres, such as 2")
    if options.surface:
        require("monai.metrics", extra="metrics", why="--surface", otherwise="leave --surface out")
    results = named_results(options.results or [Path(nnunet_folder("nnUNet_results"))])
    dataset, folders = dataset_in(next(iter(results.values())), options.dataset), list(results.values())
    configuration = options.configuration or find_configuration(folders, dataset, options.length, options.plans)
    chosen = {
        "dataset": dataset,
        "results": results,
        "folds": _folds(options.folds),
        "configuration": configuration,
        "plans": options.plans,
        "length": options.length,
        "predictions": options.predictions,
    }
    arms = options.arms or finished_arms(Trainings(**chosen, arms=()))
    out = options.out or Path(nnunet_folder("nnUNet_results")) / dataset / "DiffLung__compare" / "table2.json"
    words = [without_folder(word) for word in (sys.argv[1:] if argv is None else argv)]
    compare(
        Trainings(**chosen, arms=tuple(dict.fromkeys(arms))),
        options.reference,
        out,
        options.patient_pattern,
        options.tolerance if options.surface else None,
        shlex.join(["difflung_compare", *words]),
    )
    print(out.with_suffix(".md").read_text())
    print(f"{out} holds all figures, {out.with_suffix('.png')} shows the differences of each patient.")
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
