"""Shared parts of the commands' parsers: common options, types of numbers, the format of -h."""

from __future__ import annotations

import argparse
import math
import shutil
import textwrap
from argparse import _ActionsContainer as Options
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_difflung.comparison.trainings import PLANS
from nnunet_difflung.config import METHOD, PRECISIONS, PRESETS, SAMPLERS, preset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.arguments import CommandParser

if TYPE_CHECKING:
    from nnunet_difflung.dataset.raw_dataset import RawDataset

DEVICES = ("cuda", "cpu", "mps")
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
_LARGEST_SEED = 2**63 - 1  # of torch
_WIDEST = 110  # maximum number of columns of a help text


def command_parser(name: str, description: str, example: str, suspicion: str = "") -> argparse.ArgumentParser:
    """A parser with the options for scripts, whose -h ends with an example and the exit codes.

    Args:
        name: name of the command.
        description: plain text, which is wrapped here.
        example: one or more command lines, one per line.
        suspicion: when the command ends with exit code 3; empty: never.
    """
    width = min(_WIDEST, shutil.get_terminal_size().columns - 2)
    return CommandParser(
        prog=name,
        suspicion=suspicion,
        description=textwrap.fill(" ".join(description.split()), width),
        epilog="example:\n" + textwrap.indent(textwrap.dedent(example).strip(), "  "),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=width),
    )


def given(options: argparse.Namespace, *names: str) -> dict:
    """Name → value of the options that were given."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def by_preset(part: str, name: str) -> str:
    """A setting's values in the presets, for a help text, such as ``default: 25; preset paper: 1000``.

    Args:
        part: ``generator``, ``sampling`` or ``balance``.
        name: name of the setting.
    """
    usual, *others = ((which, asdict(preset(which))[part][name]) for which in PRESETS)
    differing = [f"; preset {which}: {value}" for which, value in others if value != usual[1]]
    return f"default: {usual[1]}{''.join(differing)}"


def add_dataset(group: Options, where: str = "dataset in $nnUNet_raw", required: bool = True) -> None:
    """``-d``, as ``dataset``; where it is not required, nothing is done with a dataset without it."""
    group.add_argument(
        "-d",
        dest="dataset",
        required=required,
        metavar="DATASET",
        help=f"{where}, by id or name: 801 or Dataset801_NAME{'' if required else ' (default: none)'}",
    )


def add_folds(group: Options, explanation: str, required: bool = False) -> None:
    """``-f``, as ``folds``, a list of names."""
    group.add_argument(
        "-f",
        dest="folds",
        nargs="+",
        default=[],
        required=required,
        metavar="FOLD",
        help=f"folds, such as -f 0 2{explanation}",
    )


def add_configuration(
    group: Options, explanation: str, default: str | None = None, otherwise: str = "%(default)s"
) -> None:
    """``-c``, as ``configuration``, of a command that names what to train; ``otherwise`` explains a default of None."""
    group.add_argument(
        "-c",
        dest="configuration",
        default=default,
        type=configuration,
        choices=CONFIGURATIONS,
        help=f"nnU-Net configuration {explanation} (default: {otherwise})",
    )


def add_plans(group: Options) -> None:
    """``-p``, as ``plans``."""
    group.add_argument(
        "-p", dest="plans", default=PLANS, metavar="PLANS", help="name of nnU-Net's plans (default: %(default)s)"
    )


def add_length(group: Options) -> None:
    """``--length``."""
    group.add_argument(
        "--length",
        default="",
        metavar="LENGTH",
        help="length of the trainers as in their names, such as 5epochs (default: nnU-Net's 1000 epochs)",
    )


def add_device(group: Options, doing: str) -> None:
    """``-device``, as ``device``; None means the fastest available device (see ``commands.devices``)."""
    group.add_argument(
        "-device",
        choices=DEVICES,
        help=f"device for {doing} (default: cuda if PyTorch finds a GPU, else mps on Apple silicon, else cpu)",
    )


def add_processes(group: Options, doing: str) -> None:
    """``-np``, as ``processes``."""
    group.add_argument(
        "-np",
        dest="processes",
        type=positive,
        default=2,
        metavar="N",
        help=f"processes or threads that {doing} cases (default: %(default)s)",
    )


def add_preset(group: Options, explanation: str) -> None:
    """``--preset``."""
    group.add_argument("--preset", default="default", choices=PRESETS, help=f"{explanation} (default: %(default)s)")


def add_seed(group: Options, of: str) -> None:
    """``--seed``."""
    default = preset("default").generator.seed
    group.add_argument(
        "--seed", type=seed, default=default, metavar="N", help=f"random seed of {of} (default: %(default)s)"
    )


def add_sampler(group: Options, exception: str = "") -> None:
    """``--sampler`` and ``--steps``; ``exception`` says which sampler is the default unless it is the preset's."""
    default = by_preset("sampling", "sampler")
    if exception:
        default = exception.format(default.removeprefix("default: "))
    group.add_argument(
        "--sampler",
        choices=SAMPLERS,
        help=f"sampler of the reverse process ({default})",
    )
    group.add_argument(
        "--steps",
        type=positive,
        metavar="N",
        help=f"denoising steps of the reverse process ({by_preset('sampling', 'steps')})",
    )


def add_precision(group: Options, doing: str) -> None:
    """``--precision``."""
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        help=f"number format of the network in {doing} (default: bf16 on GPUs that support it, else fp32)",
    )


def add_labels(group: Options) -> None:
    """``--normal-label`` and ``--structure-label``."""
    group.add_argument(
        "--normal-label",
        nargs="+",
        action="extend",
        default=[],
        metavar="LABEL",
        help="labels of normal lung tissue, such as 'left lung' 'right lung'; may be given several times (default: the "
        "label, or those of the lungs or lobes, whose names say normal, healthy or lung, if that is unambiguous)",
    )
    group.add_argument(
        "--structure-label",
        nargs="+",
        action="extend",
        default=[],
        metavar="LABEL",
        help="labels that are neither normal lung nor pathology, such as airways or heart; may be given several times. "
        "A name with a leading dash needs an equals sign: --structure-label=-heart (default: none)",
    )


def add_patients(group: Options) -> None:
    """``--patient-pattern`` and ``--patients``, as ``patients_file``; at most one of them may be given."""
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="regular expression that matches a whole case id and whose first group is the patient, such as "
        "'(.+)_s[0-9]+'; '(.+)' says that every case is a patient (default: the patients that an earlier command "
        "recorded, else patients.json in the raw dataset, else the ids if they are unambiguous)",
    )
    either.add_argument(
        "--patients",
        dest="patients_file",
        type=Path,
        metavar="FILE",
        help="CSV file with the columns case,patient, or JSON file {case: patient}, that says which cases belong to "
        "the same patient (default: as for --patient-pattern)",
    )


def add_labels_and_patients(p: argparse.ArgumentParser) -> None:
    """``add_labels`` and ``add_patients`` in a group of their own."""
    group = p.add_argument_group("labels and patients, as for difflung_augment")
    add_labels(group)
    add_patients(group)


def add_method_on_record(group: Options, what: str) -> None:
    """``--method``, as ``method``, of a command that shows what methods have made (``report.request``)."""
    group.add_argument(
        "--method",
        choices=METHODS,
        metavar="METHOD",
        help=f"method whose {what} are shown, of {', '.join(METHODS)} (default: {METHOD}, or the only one with cases)",
    )


def opened(options: argparse.Namespace) -> RawDataset:
    """The dataset that ``add_dataset``, ``add_labels`` and ``add_patients`` describe.

    Raises:
        BadInput: it cannot be used as they say.
    """
    from nnunet_difflung.dataset.raw_dataset import open_raw_dataset  # not needed by every command, and not by -h

    return open_raw_dataset(
        options.dataset,
        options.normal_label,
        options.structure_label,
        options.patient_pattern,
        options.patients_file,
    )


def add_output(group: Options, default: str) -> None:
    """``-o``, as ``out``, a path."""
    group.add_argument(
        "-o",
        dest="out",
        type=Path,
        metavar="FILE.json",
        help=f"results file; FILE.md, FILE.html and FILE.png are written beside it (default: {default} in the "
        "dataset's folder in $nnUNet_results)",
    )


def checked_output(out: Path | None) -> Path | None:
    """The path given with ``-o``.

    Raises:
        BadInput: it does not end in ``.json``.
    """
    if out is not None and out.suffix != ".json":
        raise BadInput(f"-o {out} does not end in .json; give the path of the results file, such as table.json")
    return out


def configuration(text: str) -> str:
    """The name of a configuration; that of a cascade's second stage is refused with the reason."""
    if "cascade" in text:
        raise argparse.ArgumentTypeError(
            f"{text} needs a segmentation of each training case by 3d_lowres, which synthetic cases do not have; give "
            f"3d_fullres or 3d_lowres, or train {text} on the real cases with nnUNetTrainerDiffLungReference"
        )
    return text


def positive(text: str) -> int:
    """A whole number of at least 1, as a type for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def positive_or_auto(text: str) -> int | None:
    """``positive``, or None for ``auto``."""
    return None if text == "auto" else positive(text)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def seed(text: str) -> int:
    """A whole number from 0 to ``_LARGEST_SEED``."""
    value = natural(text)
    if value > _LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is above {_LARGEST_SEED}")
    return value


def above_zero(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share_below_one(text: str) -> float:
    """A number of at least 0 and below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and below 1")
    return value


def share_of_one(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def multiple(text: str) -> float:
    """A number of at least 1, or 0."""
    value = float(text)
    if value != 0 and not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is neither 0 nor at least 1")
    return value
