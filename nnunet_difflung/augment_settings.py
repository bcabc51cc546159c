"""The settings that the options of ``difflung_augment`` stand for, and which of them fit each other."""
from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.config import SamplingConfig, Settings, preset
from nnunet_difflung.device_speed import usual_precision
from nnunet_difflung.gan import require_gan
from nnunet_difflung.methods import METHODS, Method
from nnunet_difflung.option_types import check_device, given

_ABLATION = ("ablation_probability", "annealing")
_IDLE = {"mat": _ABLATION, "none": _ABLATION, "gan": (*_ABLATION, "prediction", "sampler", "steps"),
         "copy": (*_ABLATION, "prediction", "sampler", "steps", "epochs", "batch_size", "balanced_share", "precision")}


def settings_from(options: argparse.Namespace) -> Settings:
    """The preset with the options given on the command line."""
    check_device(options.device)
    base, method = preset(options.preset), METHODS[options.method]
    _leave_out(method, options)
    seed = {} if options.seed is None else {"seed": options.seed}
    precision = options.precision or usual_precision(options.device)
    generator = replace(base.generator, method=options.method, precision=precision, **seed, **given(
        options, "ablation_probability", "annealing", "epochs", "batch_size", "patch_size", "balanced_share",
        "prediction"))
    if generator.prediction == "epsilon":
        generator = replace(generator, zero_terminal_snr=False)
    if options.window:
        generator = replace(generator, windows=tuple(_window(text) for text in options.window))
    sampling = replace(base.sampling, gate=options.gate, memorised=options.memorised, precision=precision,
                       **given(options, "paint", "margin", "sampler", "steps", "strength"))
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
