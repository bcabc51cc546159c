"""``difflung_evaluate``: compares slices that generators paint from validation masks with real slices (Table 1)."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_difflung.commands import options as shared
from nnunet_difflung.commands.options import checked_output, given, positive
from nnunet_difflung.config import PRESETS, preset
from nnunet_difflung.dataset.raw_dataset import check_dataset
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import TABLE1, dataset_name, fold_folders, fold_of, results_folder
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.messages import report, say
from nnunet_difflung.runtime.wording import without_folder

if TYPE_CHECKING:
    from nnunet_difflung.evaluation.evaluate import Request

_DESCRIPTION = """
Compares generators (the paper's Table 1). Each generator paints whole slices from the masks of its fold's validation
slices, which it has never seen, and the painted slices are compared with the real ones: PSNR, SSIM, error, and for each
class bias, Wasserstein distance, texture and diversity. Three references are also reported: each class at its
mean intensity, the neighbouring real slice, and real slices of other patients. Train the generators first with
difflung_augment --method METHOD. Nothing is written into the dataset.
"""
_EXAMPLE = "difflung_evaluate -d 801 -f 0 1 --methods cbmat mat pix2pix"


def parser() -> argparse.ArgumentParser:
    """The command's parser; options that nnU-Net has too are named as in nnU-Net."""
    p = shared.command_parser("difflung_evaluate", _DESCRIPTION, _EXAMPLE)
    _add_run_options(p.add_argument_group("run"))
    _add_painting_options(p.add_argument_group("painting"))
    shared.add_labels_and_patients(p)
    return p


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    shared.add_dataset(group)
    shared.add_folds(group, " (default: every fold of the split)")
    group.add_argument(
        "--methods",
        "--arms",
        nargs="+",
        default=[],
        metavar="METHOD",
        choices=METHODS,
        help=f"methods to compare, of {', '.join(METHODS)}; those that start from a real slice paint no whole slices "
        "and are left out (default: every method whose generators are trained in all of these folds)",
    )
    group.add_argument(
        "--preset",
        choices=PRESETS,
        help="sets --sampler and --steps (default: the preset that the generators were trained with)",
    )
    shared.add_output(group, TABLE1)
    shared.add_device(group, "painting")
    shared.add_processes(group, "read")


def _add_painting_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--samples",
        type=positive,
        default=4,
        metavar="N",
        help="images painted from each mask; their diversity needs at least 2 (default: %(default)s)",
    )
    group.add_argument(
        "--max-slices",
        type=positive,
        metavar="N",
        help="for a quick look: maximum number of slices of a fold, evenly spaced over its patients (default: every "
        "slice that shows lung)",
    )
    shared.add_sampler(group)
    shared.add_precision(group, "painting")
    shared.add_seed(group, "the noise")


def request_from(arguments: Sequence[str] | None, typed: str) -> Request:
    """The request of a command line. Faults are reported before PyTorch is imported where that is possible.

    Args:
        arguments: the command line; None for that of the process.
        typed: the command for the record in the results.

    Raises:
        BadInput: the device is not available, the output is not a JSON file, or the dataset is missing or faulty.
    """
    options = parser().parse_args(arguments)
    out = checked_output(options.out)
    check_dataset(options.dataset, options.normal_label, options.structure_label)

    from nnunet_difflung.commands.devices import chosen_device
    from nnunet_difflung.evaluation.evaluate import Request
    from nnunet_difflung.evaluation.preset_of import preset_of
    from nnunet_difflung.runtime.device import usual_precision

    device = chosen_device(options.device)
    name = options.preset or preset_of(_generators(options))
    sampling = replace(
        preset(name).sampling,
        paint="full",
        precision=options.precision or usual_precision(device),
        **given(options, "sampler", "steps"),
    )
    return Request(
        dataset=options.dataset,
        folds=tuple(options.folds),
        methods=tuple(dict.fromkeys(options.methods)),
        sampling=sampling,
        preset=name,
        samples=options.samples,
        max_slices=options.max_slices,
        seed=options.seed,
        device=device,
        processes=options.processes,
        out=out,
        normal_labels=tuple(options.normal_label),
        structure_labels=tuple(options.structure_label),
        patient_pattern=options.patient_pattern,
        patients_file=options.patients_file,
        command=typed,
    )


def _generators(options: argparse.Namespace) -> list[Path]:
    """Folders of the generators that are compared, as far as they are there."""
    folders = [
        folder
        for method in options.methods or METHODS
        for folder in fold_folders(results_folder(dataset_name(options.dataset), method))
    ]
    return [folder for folder in folders if not options.folds or str(fold_of(folder)) in options.folds]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    request = request_from(words, shlex.join(["difflung_evaluate", *map(without_folder, words)]))

    from nnunet_difflung.evaluation.evaluate import evaluate

    written = evaluate(request, say=say)
    report(table=read_json(written[0]), written=written)
    say("\n".join([written[1].read_text(encoding="utf-8"), "Written:", *map(str, written)]))
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
