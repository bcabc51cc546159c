"""Options of ``difflung_augment``; ``augment_settings`` says what they stand for."""
from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_difflung.config import ABLATION_READINGS, ANNEALINGS, SAMPLERS
from nnunet_difflung.methods import METHODS
from nnunet_difflung.option_types import default_device, natural, positive, positive_or_auto, share_of_one

_DESCRIPTION = """
Adds synthetic cases of rare lung classes to an nnU-Net dataset. For every fold it trains a mask-conditioned diffusion
model on that fold's training patients alone, plans new masks in which the rare classes are common, paints them, checks
their intensities against the real ones, and adds them to that fold's training list. Validation stays real. Interrupt it
at any moment and give the same command again; difflung_remove undoes it byte for byte.
"""


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
    group.add_argument("-f", nargs="+", metavar="FOLD", help="folds, such as -f 0 2; 'all' trains one generator on "
                       "every case, for a final model judged on a separate test set (default: every fold of the split)")
    group.add_argument("-c", default="2d", metavar="CONFIGURATION", choices=("2d", "3d_fullres", "3d_lowres"),
                       help="nnU-Net configuration that you will train; decides the commands printed at the end "
                       "(default: 2d)")
    group.add_argument("-device", default=default_device(), choices=("cuda", "cpu", "mps"), help="where to train and "
                       "paint (default here: %(default)s)")
    group.add_argument("-num_gpus", type=positive, default=1, metavar="N", help="GPUs of this machine to train and "
                       "paint with, a process for each; same result (default: 1)")
    group.add_argument("-np", type=positive, default=2, metavar="N", help="threads that read, measure and write "
                       "cases (default: 2)")
    group.add_argument("--dry-run", action="store_true", help="show class shares, plan, time and disk; write nothing")
    group.add_argument("--preset", default="default", choices=("default", "fast", "paper"),
                       help="default: v-prediction, 25 DDIM steps, right in HU, for one GPU; fast: a small network for "
                       "a CPU and small images; paper: Diff-Lung as published (Eq. 8, 1000 steps, whole slices) "
                       "(default: default)")
    group.add_argument("--seed", type=natural, help="of weights, batches, masks and noise (default: 12345)")
    group.add_argument("--save-every", type=float, default=60, metavar="SECONDS", help="between checkpoints "
                       "in training (default: 60)")


def _add_generator_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--method", default="cbmat", choices=METHODS,
                       help="how synthetic cases are made: " + "; ".join(
                           f"{m.name}: {m.explanation}" for m in METHODS.values()) + " (default: cbmat)")
    group.add_argument("--ablation-probability", choices=ABLATION_READINGS,
                       help="reading of Eq. 8: eq8 is 1 - f, text is proportional to f (default: by preset)")
    group.add_argument("--annealing", choices=ANNEALINGS, help="of the ablation: cosine (Eq. 9), or none, so that it "
                       "goes on to the end (default: cosine)")
    group.add_argument("--epochs", type=positive, help="passes over the fold's slices (default: by preset)")
    group.add_argument("--batch-size", type=positive_or_auto, metavar="SLICES", help="in a training step, or auto: the "
                       "preset's. A step that the GPU's memory does not hold is done in parts whose gradients are "
                       "summed, so that every card trains the same generator (default: auto)")
    group.add_argument("--patch-size", type=natural, metavar="PIXELS",
                       help="edge of training crops, 0 for whole slices (default: by preset)")
    group.add_argument("--balanced-share", type=share_of_one, metavar="SHARE",
                       help="of each batch drawn for each pathology; 0 draws uniformly (default: by preset)")
    group.add_argument("--prediction", choices=("epsilon", "v_prediction"),
                       help="network's target (default: by preset)")
    group.add_argument("--precision", choices=("fp32", "bf16"), help="of the network in training "
                       "and painting (default: bf16 on GPUs that have it)")
    group.add_argument("--window", action="append", metavar="LOW,HIGH", help="intensities that are painted, as in "
                       "--window=-1000,1000; once for each channel (default: that for CT, else percentiles of the "
                       "fold's training cases)")


def _add_painting_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--paint", choices=("composite", "full"), help="only the changed region, re-imposing the "
                       "real surroundings at every step, or the whole isolated slice (default: by preset)")
    group.add_argument("--margin", type=natural, metavar="PIXELS", help="normal lung around a new lesion that is "
                       "painted along with it in composite (default: by preset)")
    group.add_argument("--sampler", choices=SAMPLERS, help="reverse process (default: ddim)")
    group.add_argument("--steps", type=positive, help="of the reverse process (default: by preset)")
    group.add_argument("--strength", type=share_of_one, help="of --method harmonise: noise level at which the "
                       "reverse process begins, as a share of all timesteps (default: 0.5)")
    group.add_argument("--gate", default="drop", choices=("drop", "report", "off"),
                       help="cases whose painted intensities are not those of the real class (default: drop)")
    group.add_argument("--memorised", default="report", choices=("report", "drop", "off"),
                       help="cases whose lesions are closer to a training slice than 99 %% of real lesions are to "
                       "those of other patients (default: report)")


def _add_mask_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--target-share", nargs="+", default=[], metavar="CLASS=SHARE",
                       help="wanted shares of lung voxels, such as emphysema=0.06 ILD=0.22 (default: 0.06 each)")
    group.add_argument("--max-synthetic", type=natural, metavar="SLICES",
                       help="bound on painted slices of a fold (default: a quarter of its real slices)")
    group.add_argument("--normal-label", metavar="NAME", help="label of normal lung (default: found by its name)")
    group.add_argument("--structure-label", nargs="+", default=[], metavar="NAME",
                       help="labels that are neither normal lung nor pathology (airways, heart)")
    group.add_argument("--patient-pattern", metavar="REGEX", help="matches a whole case id; its first group is the "
                       "patient (default: the id without its slice counter)")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from the command line."""
    return parser().parse_args(arguments)
