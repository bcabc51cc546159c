"""``difflung_evaluate``: what each generator paints from validation masks, against the real slices (Table 1)."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_difflung.commands.options import given, natural, positive
from nnunet_difflung.config import SAMPLERS, preset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.evaluation.evaluate import Request, evaluate
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.device import check_device, default_device, usual_precision
from nnunet_difflung.runtime.environment import without_folder

_DESCRIPTION = """
Compares generators (the paper's Table 1): each paints the masks of its fold's validation slices, which it has never
seen, as whole slices, and what it paints is compared with the real slices: PSNR, SSIM, error, and for each class bias,
Wasserstein distance, texture and diversity. Train the generators first with difflung_augment --method ...; nothing is
written into the dataset. Beside them stand three references: each class at its mean, the neighbouring real slice, and
real slices of other patients. Example: difflung_evaluate -d 801 -f 0 1 --methods cbmat mat pix2pix --preset fast
"""


def parser() -> argparse.ArgumentParser:
    """The command's options, in nnU-Net's own names where it has them."""
    p = argparse.ArgumentParser(prog="difflung_evaluate", description=_DESCRIPTION)
    run, painting = p.add_argument_group("run"), p.add_argument_group("painting")
    labels = p.add_argument_group("labels, as for difflung_augment")
    run.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name in $nnUNet_raw")
    run.add_argument(
        "-f", nargs="+", default=[], metavar="FOLD", help="folds, such as -f 0 2 (default: every fold of the split)"
    )
    run.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="METHOD",
        choices=METHODS,
        help="of "
        f"{', '.join(METHODS)}; those that start from a real slice have no whole-slice generator and are "
        "left out (default: all that are finished in every fold given)",
    )
    run.add_argument(
        "-device",
        default=default_device(),
        choices=("cuda", "cpu", "mps"),
        help="where to paint (default here: %(default)s)",
    )
    run.add_argument("-np", type=positive, default=2, metavar="N", help="threads that read cases (default: 2)")
    run.add_argument(
        "-o",
        type=Path,
        metavar="FILE.json",
        help="where the figures go; FILE.md and FILE.png are "
        "written beside it (default: $nnUNet_results/<dataset>/DiffLung__evaluate/table1.json)",
    )
    painting.add_argument(
        "--samples",
        type=positive,
        default=4,
        metavar="N",
        help="images of each mask; spread needs two (default: %(default)s)",
    )
    painting.add_argument(
        "--max-slices",
        type=positive,
        metavar="N",
        help="paint at most so many slices of a fold, "
        "evenly spaced over its patients, for a quick look (default: all that show lung)",
    )
    painting.add_argument("--seed", type=natural, default=12345, help="of the noise (default: %(default)s)")
    painting.add_argument(
        "--preset",
        default="default",
        choices=("default", "fast", "paper"),
        help="whose sampler and "
        "steps to use; give the one that the generators were trained with (default: %(default)s)",
    )
    painting.add_argument("--sampler", choices=SAMPLERS, help="reverse process of diffusion (default: by preset)")
    painting.add_argument("--steps", type=positive, help="of the reverse process (default: by preset)")
    painting.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        help="of the network (default: bf16 on GPUs that have it, as in difflung_augment)",
    )
    labels.add_argument("--normal-label", metavar="NAME", help="label of normal lung (default: found by its name)")
    labels.add_argument(
        "--structure-label",
        nargs="+",
        default=[],
        metavar="NAME",
        help="labels that are neither normal lung nor pathology",
    )
    labels.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="matches a whole case id; its first group is the patient (default: the id without its slice counter)",
    )
    return p


def request_from(arguments: Sequence[str] | None, command: str) -> Request:
    """The request that a command line stands for.

    Raises:
        BadInput: a device that is not there, or an output that is no JSON file.
    """
    options = parser().parse_args(arguments)
    check_device(options.device)
    if options.o is not None and options.o.suffix != ".json":
        raise BadInput(f"-o {options.o} is not a .json file; the table and the pictures are named after it")
    sampling = replace(
        preset(options.preset).sampling,
        paint="full",
        precision=options.precision or usual_precision(options.device),
        **given(options, "sampler", "steps"),
    )
    return Request(
        options.d,
        tuple(options.f),
        tuple(dict.fromkeys(options.methods)),
        sampling,
        options.preset,
        options.samples,
        options.max_slices,
        options.seed,
        options.device,
        options.np,
        options.o,
        options.normal_label,
        tuple(options.structure_label),
        options.patient_pattern,
        command,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    evaluate(request_from(typed, shlex.join(["difflung_evaluate", *map(without_folder, typed)])))
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
