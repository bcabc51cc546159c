"""``difflung_augment``: from an nnU-Net dataset with a rare class to the same dataset with synthetic cases of it."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace

from nnunet_difflung.commands.options import given, natural, positive, positive_or_auto, share_of_one
from nnunet_difflung.config import ABLATION_READINGS, ANNEALINGS, SAMPLERS, SamplingConfig, Settings, preset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.gan import require_gan
from nnunet_difflung.generator.training import check_batch
from nnunet_difflung.methods import METHODS, Method
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.pipeline.augment import augment, open_dataset
from nnunet_difflung.pipeline.preflight import (
    begun_here,
    nothing_left_on_fault,
)
from nnunet_difflung.pipeline.request import Request
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.device import check_device, default_device, usual_precision
from nnunet_difflung.runtime.launcher import run_in_processes, started_by_launcher

_DESCRIPTION = """
Adds synthetic cases of rare lung classes to an nnU-Net dataset. For every fold it trains a mask-conditioned diffusion
model on that fold's training patients alone, plans new masks in which the rare classes are common, paints them, checks
their intensities against the real ones, and adds them to that fold's training list. Validation stays real. Interrupt it
at any moment and give the same command again; difflung_remove undoes it byte for byte.
"""

_ABLATION = ("ablation_probability", "annealing")
_IDLE = {
    "mat": _ABLATION,
    "none": _ABLATION,
    "gan": (*_ABLATION, "prediction", "sampler", "steps"),
    "copy": (*_ABLATION, "prediction", "sampler", "steps", "epochs", "batch_size", "balanced_share", "precision"),
}


def parser() -> argparse.ArgumentParser:
    """The command's options, in nnU-Net's own names where it has them."""
    p = argparse.ArgumentParser(prog="difflung_augment", description=_DESCRIPTION)
    _add_run_options(p.add_argument_group("run"))
    _add_generator_options(p.add_argument_group("generator"))
    _add_painting_options(p.add_argument_group("painting"))
    _add_mask_options(p.add_argument_group("masks and labels"))
    return p


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name in $nnUNet_raw")
    group.add_argument(
        "-f",
        nargs="+",
        metavar="FOLD",
        help="folds, such as -f 0 2; 'all' trains one generator on "
        "every case, for a final model judged on a separate test set (default: every fold of the split)",
    )
    group.add_argument(
        "-c",
        default="2d",
        metavar="CONFIGURATION",
        choices=("2d", "3d_fullres", "3d_lowres"),
        help="nnU-Net configuration that you will train; decides the commands printed at the end (default: 2d)",
    )
    group.add_argument(
        "-device",
        default=default_device(),
        choices=("cuda", "cpu", "mps"),
        help="where to train and paint (default here: %(default)s)",
    )
    group.add_argument(
        "-num_gpus",
        type=positive,
        default=1,
        metavar="N",
        help="GPUs of this machine to train and paint with, a process for each; same result (default: 1)",
    )
    group.add_argument(
        "-np", type=positive, default=2, metavar="N", help="threads that read, measure and write cases (default: 2)"
    )
    group.add_argument("--dry-run", action="store_true", help="show class shares, plan, time and disk; write nothing")
    group.add_argument(
        "--preset",
        default="default",
        choices=("default", "fast", "paper"),
        help="default: v-prediction, 25 DDIM steps, right in HU, for one GPU; fast: a small network for "
        "a CPU and small images; paper: Diff-Lung as published (Eq. 8, 1000 steps, whole slices) "
        "(default: default)",
    )
    group.add_argument("--seed", type=natural, help="of weights, batches, masks and noise (default: 12345)")
    group.add_argument(
        "--save-every", type=float, default=60, metavar="SECONDS", help="between checkpoints in training (default: 60)"
    )


def _add_generator_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--method",
        default="cbmat",
        choices=METHODS,
        help="how synthetic cases are made: "
        + "; ".join(f"{m.name}: {m.explanation}" for m in METHODS.values())
        + " (default: cbmat)",
    )
    group.add_argument(
        "--ablation-probability",
        choices=ABLATION_READINGS,
        help="reading of Eq. 8: eq8 is 1 - f, text is proportional to f (default: by preset)",
    )
    group.add_argument(
        "--annealing",
        choices=ANNEALINGS,
        help="of the ablation: cosine (Eq. 9), or none, so that it goes on to the end (default: cosine)",
    )
    group.add_argument("--epochs", type=positive, help="passes over the fold's slices (default: by preset)")
    group.add_argument(
        "--batch-size",
        type=positive_or_auto,
        metavar="SLICES",
        help="in a training step, or auto: the "
        "preset's. A step that the GPU's memory does not hold is done in parts whose gradients are "
        "summed, so that every card trains the same generator (default: auto)",
    )
    group.add_argument(
        "--patch-size",
        type=natural,
        metavar="PIXELS",
        help="edge of training crops, 0 for whole slices (default: by preset)",
    )
    group.add_argument(
        "--balanced-share",
        type=share_of_one,
        metavar="SHARE",
        help="of each batch drawn for each pathology; 0 draws uniformly (default: by preset)",
    )
    group.add_argument(
        "--prediction", choices=("epsilon", "v_prediction"), help="network's target (default: by preset)"
    )
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        help="of the network in training and painting (default: bf16 on GPUs that have it)",
    )
    group.add_argument(
        "--window",
        action="append",
        metavar="LOW,HIGH",
        help="intensities that are painted, as in "
        "--window=-1000,1000; once for each channel (default: that for CT, else percentiles of the "
        "fold's training cases)",
    )


def _add_painting_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--paint",
        choices=("composite", "full"),
        help="only the changed region, re-imposing the "
        "real surroundings at every step, or the whole isolated slice (default: by preset)",
    )
    group.add_argument(
        "--margin",
        type=natural,
        metavar="PIXELS",
        help="normal lung around a new lesion that is painted along with it in composite (default: by preset)",
    )
    group.add_argument("--sampler", choices=SAMPLERS, help="reverse process (default: ddim)")
    group.add_argument("--steps", type=positive, help="of the reverse process (default: by preset)")
    group.add_argument(
        "--strength",
        type=share_of_one,
        help="of --method harmonise: noise level at which the "
        "reverse process begins, as a share of all timesteps (default: 0.5)",
    )
    group.add_argument(
        "--gate",
        default="drop",
        choices=("drop", "report", "off"),
        help="cases whose painted intensities are not those of the real class (default: drop)",
    )
    group.add_argument(
        "--memorised",
        default="report",
        choices=("report", "drop", "off"),
        help="cases whose lesions are closer to a training slice than 99 %% of real lesions are to "
        "those of other patients (default: report)",
    )


def _add_mask_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--target-share",
        nargs="+",
        default=[],
        metavar="CLASS=SHARE",
        help="wanted shares of lung voxels, such as emphysema=0.06 ILD=0.22 (default: 0.06 each)",
    )
    group.add_argument(
        "--max-synthetic",
        type=natural,
        metavar="SLICES",
        help="bound on painted slices of a fold (default: a quarter of its real slices)",
    )
    group.add_argument("--normal-label", metavar="NAME", help="label of normal lung (default: found by its name)")
    group.add_argument(
        "--structure-label",
        nargs="+",
        default=[],
        metavar="NAME",
        help="labels that are neither normal lung nor pathology (airways, heart)",
    )
    group.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="matches a whole case id; its first group is the patient (default: the id without its slice counter)",
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from the command line."""
    return parser().parse_args(arguments)


def settings_from(options: argparse.Namespace) -> Settings:
    """The preset with the options given on the command line."""
    check_device(options.device)
    base, method = preset(options.preset), METHODS[options.method]
    _leave_out(method, options)
    seed = {} if options.seed is None else {"seed": options.seed}
    precision = options.precision or usual_precision(options.device)
    generator = replace(
        base.generator,
        method=options.method,
        precision=precision,
        **seed,
        **given(
            options,
            "ablation_probability",
            "annealing",
            "epochs",
            "batch_size",
            "patch_size",
            "balanced_share",
            "prediction",
        ),
    )
    if generator.prediction == "epsilon":
        generator = replace(generator, zero_terminal_snr=False)
    if options.window:
        generator = replace(generator, windows=tuple(_window(text) for text in options.window))
    sampling = replace(
        base.sampling,
        gate=options.gate,
        memorised=options.memorised,
        precision=precision,
        **given(options, "paint", "margin", "sampler", "steps", "strength"),
    )
    if sampling.steps > generator.train_timesteps:
        raise BadInput(f"--steps {sampling.steps} is more than the {generator.train_timesteps} timesteps of training")
    _check_method(method, options, sampling)
    balance = replace(
        base.balance, target_share=_targets(options.target_share), max_synthetic=options.max_synthetic, **seed
    )
    return Settings(generator, sampling, balance, options.preset)


def _check_method(method: Method, options: argparse.Namespace, sampling: SamplingConfig) -> None:
    """Refuses what a method cannot do, or options that would do nothing."""
    if method.pastes and sampling.paint == "full":
        raise BadInput(
            f"--method {method.name} pastes lesions into real slices and cannot paint whole ones; add --paint composite"
        )
    if method.family == "harmonise" and options.sampler not in (None, "ddim"):
        raise BadInput(f"--method harmonise runs DDIM from the middle; --sampler {options.sampler} cannot")
    if method.family == "harmonise" and sampling.strength <= 0:
        raise BadInput(
            "--strength 0 would leave the pasted texture as it is; choose a share above 0, or --method copy_paste"
        )
    if method.family != "harmonise" and options.strength is not None:
        raise BadInput(f"--strength belongs to --method harmonise, not to {method.name}")
    if method.family == "gan":
        require_gan()


def _leave_out(method: Method, options: argparse.Namespace) -> None:
    """Takes out options that a method has no use for, so that they cannot tell equal runs apart, and says so."""
    idle = [name for name in _IDLE.get(method.name, _IDLE.get(method.family, ())) if getattr(options, name) is not None]
    for name in idle:
        setattr(options, name, None)
    if idle:
        print(
            f"Note: with --method {method.name}, {', '.join('--' + name.replace('_', '-') for name in idle)} changes "
            f"nothing.",
            file=sys.stderr,
        )


def _targets(texts: Sequence[str]) -> dict[str, float]:
    targets = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            targets[name] = float(value)
        except ValueError:
            targets[name] = math.nan
        if not name or not 0 <= targets[name] < 1:
            raise BadInput(
                f"--target-share {text!r} is not CLASS=SHARE with a share of lung voxels between 0 and 1, "
                f"such as emphysema=0.06"
            )
    return targets


def _window(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise BadInput(f"--window {text!r} is not LOW,HIGH with LOW < HIGH, such as --window=-1000,1000")
    return low, high


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parse(arguments)
    request = Request(
        dataset=options.d,
        folds=tuple(options.f or ()),
        settings=settings_from(options),
        configuration=options.c,
        device=options.device,
        processes=options.np,
        normal_label=options.normal_label,
        structure_labels=tuple(options.structure_label),
        patient_pattern=options.patient_pattern,
        save_every=options.save_every,
        dry_run=options.dry_run,
    )
    if options.num_gpus > 1 and not started_by_launcher() and not options.dry_run:
        raw = open_dataset(request).raw  # what is wrong is told once
        check_batch(request.settings.generator, options.num_gpus)
        with begun_here(cache_folder(raw.name)) as delete, nothing_left_on_fault(delete):
            code = run_in_processes(options.num_gpus, arguments or sys.argv[1:], options.device)
            if code == 2:
                delete()
        return code
    augment(request)
    sys.stdout.flush()
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
