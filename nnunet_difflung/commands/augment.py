"""``difflung_augment``: adds synthetic cases of rare classes to an nnU-Net dataset."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_difflung.commands import options as shared
from nnunet_difflung.commands.options import (
    above_zero,
    by_preset,
    given,
    multiple,
    natural,
    positive,
    share_below_one,
    share_of_one,
)
from nnunet_difflung.config import (
    ABLATED_CLASSES,
    ABLATION_READINGS,
    ANNEALINGS,
    BOX,
    EDGES,
    HOSTS,
    LEVELS,
    METHOD,
    ORDERS,
    PAPERS_METHOD,
    PLACEMENTS,
    SELECTIONS,
    STYLES,
    TARGET_MULTIPLE,
    GeneratorConfig,
    SamplingConfig,
    Settings,
    preset,
)
from nnunet_difflung.dataset.raw_dataset import check_dataset
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.meaning.labels import with_names
from nnunet_difflung.methods import METHODS, Method
from nnunet_difflung.paths import cache_folder, dataset_folder, results_folder
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.messages import note

if TYPE_CHECKING:
    from nnunet_difflung.pipeline.request import Request

_DESCRIPTION = """
Adds synthetic cases of rare lung classes to an nnU-Net dataset. For each fold it trains a mask-conditioned diffusion
model on the training patients of that fold alone, plans new masks in which the rare classes are common, paints them,
compares their intensities with the real ones, and adds the new cases to that fold's training list. Validation cases
stay real. The command can be interrupted at any time; run it again to resume. difflung_remove restores the dataset
byte for byte.
"""
_EXAMPLE = """
difflung_augment -d 801 --dry-run                 show class shares, plan, time and disk space
difflung_augment -d 801 -f 0 --preset fast        one fold, with a small network
"""


def parser() -> argparse.ArgumentParser:
    """The command's parser; options that nnU-Net has too are named as in nnU-Net."""
    p = shared.command_parser("difflung_augment", _DESCRIPTION, _EXAMPLE)
    _add_run_options(p.add_argument_group("run"))
    _add_machine_options(p.add_argument_group("machine"))
    _add_mask_options(p.add_argument_group("which masks are made"))
    _add_label_options(p.add_argument_group("labels and patients"))
    _add_training_options(p.add_argument_group("training of the generator"))
    _add_conditioning_options(p.add_argument_group("what the generator learns"))
    painting = p.add_argument_group("painting")
    _add_painting_options(painting)
    _add_box(painting)
    _add_exclude(painting)
    return p


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    shared.add_dataset(group)
    shared.add_folds(
        group,
        "; 'all' trains one generator on every case, for a final model that is judged on a separate test set "
        "(default: every fold of the split)",
    )
    shared.add_preset(
        group,
        "default: for one GPU; fast: a small network, for a CPU or small images; paper: Diff-Lung as published "
        "(Eq. 8, 1000 steps, whole slices, a gate that only reports)",
    )
    group.add_argument(
        "--method",
        choices=METHODS,
        metavar="METHOD",
        help="how synthetic cases are made. "
        + "; ".join(f"{m.name}: {m.explanation}" for m in METHODS.values())
        + f" (default: {METHOD}; preset paper: {PAPERS_METHOD})",
    )
    group.add_argument(
        "--dry-run", action="store_true", help="show class shares, plan, time and disk space, and write nothing"
    )
    shared.add_configuration(group, "that you will train, for the commands printed at the end", "2d")
    shared.add_seed(group, "weights, batches, masks and noise")


def _add_machine_options(group: argparse._ArgumentGroup) -> None:
    shared.add_device(group, "training and painting")
    group.add_argument(
        "-num_gpus",
        type=positive,
        default=1,
        metavar="N",
        help="GPUs of this machine to use, one process each; the result is the same (default: %(default)s)",
    )
    shared.add_processes(group, "read, measure and write")
    group.add_argument(
        "--save-every",
        type=float,
        default=60,
        metavar="SECONDS",
        help="time between two checkpoints of the generator in training (default: %(default)s)",
    )


def _add_mask_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--target-share",
        nargs="+",
        action="extend",
        default=[],
        metavar="CLASS=SHARE",
        help="wanted share of the lung voxels for each pathology, such as emphysema=0.06 ILD=0.22; 0 paints none of it "
        "(default: --target-multiple)",
    )
    group.add_argument(
        "--target-multiple",
        type=multiple,
        metavar="N",
        help="target of the pathologies without --target-share: N times their share of the fold's training cases, but "
        "no more than they have in the slices that contain them (or 1.25 times their share, if that is more); 0: "
        f"{preset('paper').balance.default_share} of the lung for each (default: {TARGET_MULTIPLE:g}; preset "
        f"paper: 0, but without this option {preset('paper').balance.fibrosis_share} for fibrosis or ILD)",
    )
    group.add_argument(
        "--balance-order",
        dest="order",
        choices=ORDERS,
        help="which class gets the next lesion while several lie below their targets. deficit: the one furthest below, "
        "relative to its target, so that all come equally close if there are too few slices; frequency: the least "
        "frequent one until its target is met, as in the paper. With equal targets both are the same "
        f"({by_preset('balance', 'order')})",
    )
    group.add_argument(
        "--placement",
        choices=PLACEMENTS,
        help="real: lesions lie where those of their class lie in the fold's training cases, touch the pleura as they "
        "do, with the same number and size per case; uniform: they lie anywhere in normal lung and fill up to half of "
        f"it ({by_preset('balance', 'placement')})",
    )
    group.add_argument(
        "--hosts",
        choices=HOSTS,
        help="which real cases lesions are painted into. alike: those whose other pathologies are like those of the "
        "fold's real cases with the class. If real ground glass never lies beside a solid nodule, painted ground glass "
        "does not either; otherwise the nodule would reveal that the ground glass is painted, and the segmentation "
        "could learn that instead of the class. any: all training cases in turn, whatever they hold "
        f"({by_preset('balance', 'hosts')})",
    )
    group.add_argument(
        "--max-synthetic",
        type=natural,
        metavar="SLICES",
        help="maximum number of slices of a fold that get new lesions, not counting those of placebo cases, and those "
        "above and below the lesions of volumes, which are painted along with them "
        f"(default: {preset('default').balance.max_ratio} times the number of its real slices)",
    )
    group.add_argument(
        "--placebo",
        type=share_below_one,
        metavar="SHARE",
        help="share of the synthetic cases in which outlines of lesions are repainted as the normal lung that they "
        "are, and keep its label. If every painted region is a lesion, the segmentation can learn what painting looks "
        "like (noise, smoothness, edge) instead of the class, and finds lesions where there are none; a placebo shows "
        "it painting without a lesion. Such cases are added to those with lesions: 0.5 doubles the number of cases, 0 "
        f"adds none ({by_preset('balance', 'placebo')})",
    )


def _add_label_options(group: argparse._ArgumentGroup) -> None:
    shared.add_labels(group)
    shared.add_patients(group)


def _add_training_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        help=f"passes over the fold's training slices ({by_preset('generator', 'epochs')})",
    )
    group.add_argument(
        "--batch-size",
        type=shared.positive_or_auto,
        metavar="SLICES",
        help="slices of a training step, or 'auto' for the preset's. A step that does not fit into the GPU's memory is "
        "split and its gradients are summed, so that every GPU trains the same generator "
        f"({by_preset('generator', 'batch_size')})",
    )
    group.add_argument(
        "--patch-size",
        type=natural,
        metavar="PIXELS",
        help=f"edge of the training crops; 0: whole slices ({by_preset('generator', 'patch_size')})",
    )
    group.add_argument(
        "--neighbours",
        type=int,
        choices=(0, 1),
        help="for volumes with --method difflung: slices on each side that the network sees beside the one that it "
        "paints. 1: all slices of a lesion are painted together, so that it continues from slice to slice as real ones "
        "do; 0: slice by slice (default: 1 for volumes)",
    )
    group.add_argument(
        "--balanced-share",
        type=share_of_one,
        metavar="SHARE",
        help="share of each batch that is drawn for each pathology, at most 0.9 for all of them together; 0: slices "
        f"are drawn uniformly ({by_preset('generator', 'balanced_share')})",
    )
    shared.add_precision(group, "training and painting")


def _add_conditioning_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--ablation-probability",
        choices=ABLATION_READINGS,
        help="reading of Eq. 8 for a class that is the share f of the lung voxels: eq8: 1 - f; text: proportional to f "
        f"({by_preset('generator', 'ablation_probability')})",
    )
    group.add_argument(
        "--ablated-classes",
        choices=ABLATED_CLASSES,
        help="which masks are hidden from the network at random in training. pathologies: it always knows where normal "
        "lung is, which a lesion is painted into; all: normal lung is hidden too, and with --method mat also what "
        f"surrounds the lung, as in the paper ({by_preset('generator', 'ablated_classes')})",
    )
    group.add_argument(
        "--annealing",
        choices=ANNEALINGS,
        help="how mask ablation fades during training: cosine (Eq. 9), or none: it lasts until the end "
        f"({by_preset('generator', 'annealing')})",
    )
    group.add_argument(
        "--prediction",
        choices=("epsilon", "v_prediction"),
        help=f"training target of the network ({by_preset('generator', 'prediction')})",
    )
    group.add_argument(
        "--window",
        action="append",
        metavar="LOW,HIGH",
        help="range of intensities that is painted, as in --window=-1000,1000; give it once for each channel "
        "(default: -1000,1000 HU for CT, else percentiles of the fold's training cases, "
        "wide enough for each pathology)",
    )


def _add_painting_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--paint",
        choices=("composite", "full"),
        help="composite: only the changed region; its real surroundings guide every step and stay as they are; full: "
        f"the whole isolated slice ({by_preset('sampling', 'paint')})",
    )
    group.add_argument(
        "--margin",
        type=natural,
        metavar="PIXELS",
        help="normal lung around a new lesion that is painted along with it, for --paint composite; in volumes "
        f"--method {METHOD} paints as many mm of it above and below a lesion, at least one slice "
        f"(default: 2; other methods: {by_preset('sampling', 'margin').removeprefix('default: ')})",
    )
    shared.add_sampler(group, "default: ddpm; other methods: {}")
    group.add_argument(
        "--resamplings",
        type=positive,
        metavar="N",
        help="number of times each denoising step is repeated, with fresh noise in between, so that the new lesion "
        "fits its surroundings better (RePaint); painting takes N times as long. For --method cbmat, mat and none with "
        f"--paint composite ({by_preset('sampling', 'resamplings')})",
    )
    group.add_argument(
        "--level",
        choices=LEVELS,
        help="mean intensity of a lesion that --method difflung paints. host: it follows the brightness of the lung "
        "around it, as the fold's lesions of the class do; donor: that of the real lesion whose outline it has, "
        f"whatever the lung is like ({by_preset('sampling', 'level')})",
    )
    group.add_argument(
        "--styles",
        choices=STYLES,
        help="mean and spread of the intensities of a lesion that --method difflung paints. real: those of the real "
        "lesion whose outline it has, apart from what --level changes; drawn: drawn around these, within the range of "
        "the fold's lesions of the class, so that lesions between the real ones are painted too "
        f"({by_preset('sampling', 'styles')})",
    )
    group.add_argument(
        "--edge",
        choices=EDGES,
        help="how a region that --method difflung paints ends. faded: over the margin it blends into the existing "
        "normal lung, whose noise texture is kept; painted: abruptly, where painting ends "
        f"({by_preset('sampling', 'edge')})",
    )
    group.add_argument(
        "--strength",
        type=share_of_one,
        metavar="SHARE",
        help="for --method harmonise: noise level at which the reverse process starts, as a share of the training "
        f"timesteps ({by_preset('sampling', 'strength')})",
    )
    group.add_argument(
        "--gate",
        choices=("drop", "report", "off"),
        help="what happens to cases whose painted intensities differ from those of the real class: drop: they are "
        "painted again, and dropped if they still differ; report: they are counted but still added; off: nothing is "
        f"measured ({by_preset('sampling', 'gate')})",
    )
    group.add_argument(
        "--memorised",
        default="report",
        choices=("report", "drop", "off"),
        help="what happens to cases with a lesion that is closer to a training slice than 99 %% of real lesions are to "
        "those of other patients (default: %(default)s)",
    )
    group.add_argument(
        "--candidates",
        type=positive,
        metavar="N",
        help="paint each case N times from different noise and keep one. A small segmenter, trained on the fold's real "
        "training cases within minutes, judges them: a painting in which it sees less of a class than in 95 %% of the "
        "real lesions of patients that it has not seen, or than in normal lung, is rejected, unless it has not "
        "learned the class well enough; --selection says which of the others is kept. Painting takes N times as long "
        f"({by_preset('sampling', 'candidates')})",
    )
    group.add_argument(
        "--selection",
        choices=SELECTIONS,
        help="which of the --candidates is kept: hard: the one that the segmenter recognises least, from which a "
        "training can learn most; easy: the one that it recognises best; random: a control, to see what the preference "
        f"is worth ({by_preset('sampling', 'selection')})",
    )


def _add_exclude(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--exclude",
        type=Path,
        metavar="FILE",
        help="CSV file with a column 'case': synthetic cases not to keep, as saved from the report by someone who has "
        "looked at them. Cases of other methods are ignored (default: keep all that pass the gate)",
    )


def _add_box(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--box",
        type=above_zero,
        nargs="?",
        const=BOX,
        metavar="MM",
        help="for volumes: write a synthetic case as the box around what was painted, with this many mm of the real "
        f"volume on each side ({BOX:g} without a number), instead of as a copy of the whole volume. It takes less disk "
        "and preprocessing; half of nnU-Net's patch size is enough. Only for channels that nnU-Net normalises alike in "
        "all cases, such as CT (default: whole volumes)",
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse_args(arguments)


_OF_GENERATOR = (
    "ablation_probability",
    "ablated_classes",
    "annealing",
    "epochs",
    "batch_size",
    "patch_size",
    "balanced_share",
    "prediction",
    "neighbours",
)
_OF_SAMPLING = (
    "paint",
    "margin",
    "sampler",
    "steps",
    "resamplings",
    "strength",
    "gate",
    "candidates",
    "selection",
    "level",
    "styles",
    "edge",
    "box",
)


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings: the preset, changed by the options that were given.

    Raises:
        BadInput: a value is out of range, or options contradict each other.
    """
    base = preset(options.preset)
    method = METHODS[options.method or base.method]
    windows, targets = tuple(map(_window, options.window or ())), _targets(options.target_share)
    _leave_out(method, options)
    from nnunet_difflung.generator.families import family_of, with_own_sampling  # PyTorch, for which no refusal waits

    precision = _precision(options)
    generator = replace(base.generator, precision=precision, seed=options.seed, **given(options, *_OF_GENERATOR))
    if generator.neighbours == 1:  # as without the option
        generator = replace(generator, neighbours=None)
    if "ablated_classes" in family_of(method).unused_options:
        generator = replace(generator, ablated_classes=GeneratorConfig.ablated_classes)
    if generator.prediction == "epsilon":
        generator = replace(generator, zero_terminal_snr=False)
    if windows:
        generator = replace(generator, windows=windows)
    sampling = replace(
        with_own_sampling(method, base.sampling),
        precision=precision,
        memorised=options.memorised,
        exclude=_excluded(options.exclude, method),
        **given(options, *_OF_SAMPLING),
    )
    if sampling.paint == "full" and options.margin is not None:
        note("with --paint full, --margin has no effect.")
    _check_method(method, options, generator, sampling)
    balance = replace(
        base.balance,
        target_share=targets,
        max_synthetic=options.max_synthetic,
        seed=options.seed,
        **given(options, "placement", "target_multiple", "placebo", "hosts", "order"),
    )
    if options.target_multiple is not None:  # says the target of every class without one of its own
        balance = replace(balance, fibrosis_share=None)
    if not balance.target_multiple:
        balance = replace(balance, target_multiple=None)
    return Settings(generator, sampling, balance, options.preset, method.name)


def _excluded(path: Path | None, method: Method) -> tuple[str, ...]:
    from nnunet_difflung.pipeline.exclusion import read_excluded

    return read_excluded(path, method.name) if path else ()


def _precision(options: argparse.Namespace) -> str:
    """The requested precision, or else the device's usual precision, for which PyTorch is imported."""
    if options.precision:
        return options.precision
    from nnunet_difflung.commands.devices import chosen_device
    from nnunet_difflung.runtime.device import usual_precision

    return usual_precision(chosen_device(options.device))


def _check_method(
    method: Method, options: argparse.Namespace, generator: GeneratorConfig, sampling: SamplingConfig
) -> None:
    """Refuses options that a method does not support.

    Raises:
        BadInput: names the option and the remedy.
    """
    from nnunet_difflung.generator.families import family_of

    family = family_of(method)
    most = family.most_steps(generator)
    if most is not None and sampling.steps > most:
        raise BadInput(f"--steps {sampling.steps} is more than the {most} timesteps of training; give fewer")
    if options.strength is not None and not family.uses_strength:
        users = ", ".join(m.name for m in METHODS.values() if family_of(m).uses_strength)
        raise BadInput(f"--strength does nothing with --method {method.name}; leave it out, or use --method {users}")
    if sampling.candidates > 1 and not family.varies:
        varying = ", ".join(m.name for m in METHODS.values() if family_of(m).varies)
        raise BadInput(
            f"--candidates {sampling.candidates}: --method {method.name} paints a case alike each time, so there is "
            f"nothing to choose from; leave the option out, or use --method {varying}"
        )
    if options.selection is not None and sampling.candidates == 1:
        raise BadInput(
            f"--selection {options.selection} needs several paintings of each case to choose from; add --candidates 4"
        )
    family.check_options(sampling, vars(options))


def _leave_out(method: Method, options: argparse.Namespace) -> None:
    """Drops options without effect for a method, with a note, so that they do not make equal runs look different.

    The size of crops stays, by which earlier versions named what they painted; ``config.identity`` does not compare it.
    """
    from nnunet_difflung.generator.families import family_of
    from nnunet_difflung.generator.families.interface import STYLE_OPTIONS

    family = family_of(method)
    unused = (*family.unused_options, *(() if family.uses_style else STYLE_OPTIONS))
    unused = unused if family.uses_neighbours else (*unused, "neighbours")
    idle = [name for name in unused if getattr(options, name) is not None]
    for name in idle:
        if name != "patch_size":
            setattr(options, name, None)
    if idle:
        note(f"with --method {method.name}, {', '.join('--' + name.replace('_', '-') for name in idle)} has no effect.")


def _targets(texts: Sequence[str]) -> dict[str, float]:
    targets = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        if name in targets:
            raise BadInput(f"--target-share names {name!r} twice; give it one share")
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


def request_from(options: argparse.Namespace) -> Request:
    """The request of a command line. Faults are reported before PyTorch is imported where that is possible.

    Raises:
        BadInput: an option is wrong, the device is not available, or the dataset is missing or faulty.
    """
    roles = check_dataset(options.dataset, options.normal_label, options.structure_label)
    settings = settings_from(options)
    targets = with_names(settings.balance.target_share, roles)
    settings = replace(settings, balance=replace(settings.balance, target_share=targets))

    from nnunet_difflung.commands.devices import chosen_device
    from nnunet_difflung.pipeline.request import Request

    return Request(
        dataset=options.dataset,
        folds=tuple(options.folds),
        settings=settings,
        configuration=options.configuration,
        device=chosen_device(options.device),
        processes=options.processes,
        normal_labels=tuple(options.normal_label),
        structure_labels=tuple(options.structure_label),
        patient_pattern=options.patient_pattern,
        patients_file=options.patients_file,
        save_every=options.save_every,
        dry_run=options.dry_run,
    )


def _note_earlier_default(options: argparse.Namespace, method: str) -> None:
    """Says which option resumes what an earlier version began without ``--method``, where this run would not."""
    name = dataset_folder(options.dataset).name
    begun = {which: results_folder(name, which).is_dir() for which in (METHOD, PAPERS_METHOD)}
    if options.method is None and method == METHOD and begun[PAPERS_METHOD] and not begun[METHOD]:
        note(
            f"{name} has work of --method {PAPERS_METHOD}, the default of earlier versions; to resume or extend "
            f"it, add --method {PAPERS_METHOD}, and for cases of version 0.1.0 also --placement uniform "
            f"--target-multiple 0 --hosts any. The default is now {METHOD}."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(typed)
    request = request_from(options)

    from nnunet_difflung.commands.report import report_on
    from nnunet_difflung.pipeline.augment import augment
    from nnunet_difflung.runtime.launcher import started_by_launcher

    if not started_by_launcher():
        _note_earlier_default(options, request.settings.method)
    if options.num_gpus > 1 and not started_by_launcher() and not options.dry_run:
        return _run_in_processes(request, options.num_gpus, typed)
    try:
        reported = augment(request)
    except Failed:
        report_on(request)
        raise
    if reported:
        report_on(request)
    sys.stdout.flush()
    return 0


def _run_in_processes(request: Request, number: int, arguments: Sequence[str]) -> int:
    """Runs the command in several processes; returns their exit code."""
    from nnunet_difflung.dataset.privacy import as_private_as
    from nnunet_difflung.generator.training import check_batch
    from nnunet_difflung.pipeline.augment import open_dataset
    from nnunet_difflung.pipeline.preflight import begun_here, nothing_left_on_fault
    from nnunet_difflung.runtime.launcher import run_in_processes

    raw = open_dataset(request).raw  # so that a fault is reported once, not by each process
    check_batch(METHODS[request.settings.method], request.settings.generator, number)
    with (
        as_private_as(raw.folder, raw.files()),
        begun_here(cache_folder(raw.name), raw.folder) as delete,
        nothing_left_on_fault(delete),
    ):
        code = run_in_processes(number, arguments, request.device)
        if code == 2:
            delete()
    return code


entry = command(main)

if __name__ == "__main__":
    entry()
