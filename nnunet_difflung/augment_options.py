"""Options of ``difflung_augment`` and the settings that they stand for."""
from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.config import ABLATION_READINGS, ANNEALINGS, SAMPLERS, SamplingConfig, Settings, preset
from nnunet_difflung.gan import require_gan
from nnunet_difflung.methods import METHODS, Method

_ABLATION = ("ablation_probability", "annealing")
_IDLE = {"mat": _ABLATION, "none": _ABLATION, "gan": (*_ABLATION, "prediction", "sampler", "steps"),
         "copy": (*_ABLATION, "prediction", "sampler", "steps", "epochs", "batch_size", "balanced_share", "precision")}

_DESCRIPTION = """
Adds synthetic cases of rare lung classes to an nnU-Net dataset. For every fold it trains a mask-conditioned diffusion
model on that fold's training patients alone, plans new masks in which the rare classes are common, paints them, checks
their intensities against the real ones, and adds them to that fold's training list. Validation stays real. Interrupt it
at any moment and give the same command again; difflung_remove undoes it byte for byte.
"""


def parser() -> argparse.ArgumentParser:
    """The command's options, in nnU-Net's own names where it has them."""
    p = argparse.ArgumentParser(prog="difflung_augment", description=_DESCRIPTION)
    run, model = p.add_argument_group("run"), p.add_argument_group("generator")
    painting, masks = p.add_argument_group("painting"), p.add_argument_group("masks and labels")
    run.add_argument("-d", required=True, metavar="DATASET", help="dataset id or name in $nnUNet_raw")
    run.add_argument("-f", nargs="+", metavar="FOLD", help="folds, such as -f 0 2; 'all' trains one generator on every "
                     "case, for a final model judged on a separate test set (default: every fold of the split)")
    run.add_argument("-c", default="2d", metavar="CONFIGURATION", choices=("2d", "3d_fullres", "3d_lowres"),
                     help="nnU-Net configuration that you will train; decides the commands printed at the end "
                     "(default: 2d)")
    run.add_argument("-device", default=default_device(), choices=("cuda", "cpu", "mps"), help="where to train and "
                     "paint (default here: %(default)s)")
    run.add_argument("-num_gpus", type=positive, default=1, metavar="N", help="GPUs of this machine to train and paint "
                     "with, a process for each; same result (default: 1)")
    run.add_argument("-np", type=positive, default=2, metavar="N", help="threads that read cases (default: 2)")
    run.add_argument("--dry-run", action="store_true", help="show class shares, plan, time and disk; write nothing")
    run.add_argument("--preset", default="default", choices=("default", "fast", "paper"),
                     help="default: v-prediction, 50 DDIM steps, right in HU, for one GPU; fast: a small network for a "
                     "CPU and small images; paper: Diff-Lung as published (Eq. 8, 1000 steps, whole slices) "
                     "(default: default)")
    run.add_argument("--seed", type=natural, help="of weights, batches, masks and noise (default: 12345)")
    run.add_argument("--save-every", type=float, default=60, metavar="SECONDS", help="between checkpoints "
                     "in training (default: 60)")
    model.add_argument("--method", default="cbmat", choices=METHODS,
                       help="how synthetic cases are made: " + "; ".join(
                           f"{m.name}: {m.explanation}" for m in METHODS.values()) + " (default: cbmat)")
    model.add_argument("--ablation-probability", choices=ABLATION_READINGS,
                       help="reading of Eq. 8: eq8 is 1 - f, text is proportional to f (default: by preset)")
    model.add_argument("--annealing", choices=ANNEALINGS, help="of the ablation: cosine (Eq. 9), or none, so that it "
                       "goes on to the end (default: cosine)")
    model.add_argument("--epochs", type=positive, help="passes over the fold's slices (default: by preset)")
    model.add_argument("--batch-size", type=positive, help="slices in a training step (default: by preset)")
    model.add_argument("--patch-size", type=natural, metavar="PIXELS",
                       help="edge of training crops, 0 for whole slices (default: by preset)")
    model.add_argument("--balanced-share", type=share_of_one, metavar="SHARE",
                       help="of each batch drawn for each pathology; 0 draws uniformly (default: by preset)")
    model.add_argument("--prediction", choices=("epsilon", "v_prediction"),
                       help="network's target (default: by preset)")
    model.add_argument("--precision", choices=("fp32", "bf16"), help="of training (default: bf16 on GPUs that have it)")
    model.add_argument("--window", action="append", metavar="LOW,HIGH", help="intensities that are painted, as in "
                       "--window=-1000,1000; once for each channel (default: that for CT, else percentiles of the "
                       "fold's training cases)")
    painting.add_argument("--paint", choices=("composite", "full"), help="only the changed region, re-imposing the "
                          "real surroundings at every step, or the whole isolated slice (default: by preset)")
    painting.add_argument("--margin", type=natural, metavar="PIXELS", help="normal lung around a new lesion that is "
                          "painted along with it in composite (default: by preset)")
    painting.add_argument("--sampler", choices=SAMPLERS, help="reverse process (default: ddim)")
    painting.add_argument("--steps", type=positive, help="of the reverse process (default: by preset)")
    painting.add_argument("--strength", type=share_of_one, help="of --method harmonise: noise level at which the "
                          "reverse process begins, as a share of all timesteps (default: 0.5)")
    painting.add_argument("--gate", default="drop", choices=("drop", "report", "off"),
                          help="cases whose painted intensities are not those of the real class (default: drop)")
    painting.add_argument("--memorised", default="report", choices=("report", "drop", "off"),
                          help="cases whose lesions are closer to a training slice than 99 %% of real lesions are to "
                          "those of other patients (default: report)")
    masks.add_argument("--target-share", nargs="+", default=[], metavar="CLASS=SHARE",
                       help="wanted shares of lung voxels, such as emphysema=0.06 ILD=0.22 (default: 0.06 each)")
    masks.add_argument("--max-synthetic", type=natural, metavar="SLICES",
                       help="bound on painted slices of a fold (default: a quarter of its real slices)")
    masks.add_argument("--normal-label", metavar="NAME", help="label of normal lung (default: found by its name)")
    masks.add_argument("--structure-label", nargs="+", default=[], metavar="NAME",
                       help="labels that are neither normal lung nor pathology (airways, heart)")
    masks.add_argument("--patient-pattern", metavar="REGEX", help="matches a whole case id; its first group is the "
                       "patient (default: the id without its slice counter)")
    return p


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from the command line."""
    return parser().parse_args(arguments)


def settings_from(options: argparse.Namespace) -> Settings:
    """The preset with the options given on the command line."""
    check_device(options.device)
    base, method = preset(options.preset), METHODS[options.method]
    _leave_out(method, options)
    seed = {} if options.seed is None else {"seed": options.seed}
    precision = options.precision or _precision(options.device)
    generator = replace(base.generator, method=options.method, precision=precision, **seed, **given(
        options, "ablation_probability", "annealing", "epochs", "batch_size", "patch_size", "balanced_share",
        "prediction"))
    if generator.prediction == "epsilon":
        generator = replace(generator, zero_terminal_snr=False)
    if options.window:
        generator = replace(generator, windows=tuple(_window(text) for text in options.window))
    sampling = replace(base.sampling, gate=options.gate, memorised=options.memorised, **given(
        options, "paint", "margin", "sampler", "steps", "strength"))
    if sampling.steps > generator.train_timesteps:
        raise BadInput(f"--steps {sampling.steps} is more than the {generator.train_timesteps} timesteps of training")
    _check_method(method, options, sampling)
    balance = replace(base.balance, target_share=_targets(options.target_share), max_synthetic=options.max_synthetic,
                      **seed)
    return Settings(generator, sampling, balance, options.preset)


def _check_method(method: Method, options: argparse.Namespace, sampling: SamplingConfig) -> None:
    """Refuses what a method cannot do, or options that would do nothing."""
    if method.pastes and sampling.paint == "full":
        raise BadInput(f"--method {method.name} pastes lesions into real slices and cannot paint whole ones; "
                       f"add --paint composite")
    if method.family == "harmonise" and options.sampler not in (None, "ddim"):
        raise BadInput(f"--method harmonise runs DDIM from the middle; --sampler {options.sampler} cannot")
    if method.family == "harmonise" and sampling.strength <= 0:
        raise BadInput("--strength 0 would leave the pasted texture as it is; choose a share above 0, or --method "
                       "copy_paste")
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
        print(f"Note: with --method {method.name}, {', '.join('--' + name.replace('_', '-') for name in idle)} changes "
              f"nothing.", file=sys.stderr)


def given(options: argparse.Namespace, *names: str) -> dict:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _targets(texts: Sequence[str]) -> dict[str, float]:
    targets = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            targets[name] = float(value)
        except ValueError:
            targets[name] = math.nan
        if not name or not 0 <= targets[name] < 1:
            raise BadInput(f"--target-share {text!r} is not CLASS=SHARE with a share of lung voxels between 0 and 1, "
                           f"such as emphysema=0.06")
    return targets


def _window(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise BadInput(f"--window {text!r} is not LOW,HIGH with LOW < HIGH, such as --window=-1000,1000")
    return low, high


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        raise BadInput(f"-device {device}: torch {torch.__version__} sees no such device here; use -device "
                       f"{' or '.join(name for name, here in there.items() if here)}, or repair the driver")


def _precision(device: str) -> str:
    """bf16 where the GPU computes in it (compute capability 8.0), fp32 elsewhere."""
    return "bf16" if device == "cuda" and torch.cuda.get_device_capability()[0] >= 8 else "fp32"


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def share_of_one(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
