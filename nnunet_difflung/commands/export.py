"""``difflung_export``: writes finished trainings as a model that nnU-Net can use without this package."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.commands import options as shared
from nnunet_difflung.comparison.trainings import FINAL, dataset_in, fold_numbers
from nnunet_difflung.config import METHOD
from nnunet_difflung.errors import BadInput
from nnunet_difflung.export.models import Model, find_models
from nnunet_difflung.export.output import CARD, ZIP, check_output, is_zip
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import NNUNET_RESULTS, nnunet_folder
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.messages import report, say

_DESCRIPTION = """
Writes finished trainings as a model with which nnU-Net predicts on a machine that does not have this package: a folder
for nnUNetv2_predict_from_modelfolder, or a zip file for nnUNetv2_install_pretrained_model_from_zip. It holds the
weights, what nnU-Net needs to predict with them, and a model card: data, synthetic cases, Dice of the validation
patients, limits, how to use it. It holds no case ids, and nothing from which the training could be resumed.
"""
_EXAMPLE = """
difflung_export -d 801 -f 0 1 2 3 4 -o emphysema.zip
difflung_export -d 801 -f 0 -tr nnUNetTrainerDiffLungReference --length 20epochs -o reference_model
"""


def parser() -> argparse.ArgumentParser:
    """The command's parser; options that nnU-Net has too are named as in nnU-Net."""
    p = shared.command_parser("difflung_export", _DESCRIPTION, _EXAMPLE)
    _add_run_options(p.add_argument_group("run"))
    _add_training_options(p.add_argument_group("which trainings"))
    shared.add_patients(p.add_argument_group("who the patients are, for the numbers in the card"))
    return p


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    shared.add_dataset(group, "dataset in the results folder")
    shared.add_folds(group, " or all; each must be trained", required=True)
    group.add_argument(
        "-o",
        dest="out",
        type=Path,
        required=True,
        metavar="PATH",
        help=f"the folder to write, or with a name that ends in {ZIP} a zip file",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export of this name; anything else is refused"
    )
    group.add_argument("--dry-run", action="store_true", help="list the files that would be written; write nothing")


def _add_training_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-tr",
        dest="trainer",
        default=METHODS[METHOD].trainer,
        metavar="TRAINER",
        help="trainer of this package, or nnUNetTrainer, with its length or without (default: %(default)s)",
    )
    group.add_argument(
        "-c",
        dest="configurations",
        nargs="+",
        default=[],
        metavar="CONFIGURATION",
        help=f"nnU-Net configurations, such as 2d; several need a {ZIP} file (default: the only one that was trained)",
    )
    shared.add_plans(group)
    shared.add_length(group)
    group.add_argument(
        "-chk",
        dest="checkpoint",
        default=FINAL,
        metavar="FILE",
        help="checkpoint of each fold, such as checkpoint_best.pth (default: %(default)s)",
    )


def models_from(options: argparse.Namespace) -> list[Model]:
    """The models that a command line names.

    Raises:
        BadInput: a training is missing or not finished, or what is named is ambiguous.
    """
    folds = fold_numbers(options.folds)
    if Path(options.checkpoint).name != options.checkpoint or not options.checkpoint.endswith(".pth"):
        raise BadInput(f"-chk {options.checkpoint} is not the name of a checkpoint, such as {FINAL}")
    results = Path(nnunet_folder(NNUNET_RESULTS)).resolve()
    models = find_models(
        results,
        dataset_in(results, options.dataset),
        folds,
        options.trainer,
        options.configurations,
        options.plans,
        options.length,
        options.checkpoint,
    )
    if len(models) > 1 and not is_zip(options.out):
        raise BadInput(f"-o {options.out}: a folder holds one configuration; give one with -c, or a name with {ZIP}")
    return models


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parser().parse_args(arguments)
    models = models_from(options)
    out = Path(os.path.realpath(options.out))
    check_output(out, options.overwrite)
    if not options.dry_run:
        from nnunet_difflung.export.export import export

        export(models, out, options.patient_pattern, options.patients_file)
    files = [path for model in models for path in model.files_in(out)]
    report(dry_run=options.dry_run, model=out, files=files)
    say("\n".join([f"{'Would write' if options.dry_run else 'Wrote'} {out}:", *(f"  {path}" for path in files)]))
    if options.dry_run:
        return 0
    say(f"\n{CARD} says how to use it; fill in the licence and where the data come from before you send it.")
    if is_zip(out):
        results = models[0].folder.parents[1]
        say(f"Do not install it into {results}: it would take the place of the checkpoints that --c and --val need.")
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
