"""nnU-Net's own training command, for a number of iterations and validated without files.

    python -m experiments.bench.train SCORES ITERATIONS SEED -- 807 2d_demo 3 -tr nnUNetTrainer -device cpu

What follows ``--`` is the command line of ``nnUNetv2_train``, which is run with three changes: the trainer ends after
ITERATIONS (a multiple of 250); torch keeps to OMP_NUM_THREADS; and the validation predicts all cases in this process
with nnU-Net's predictor and export, and writes the figures of each patient to SCORES, instead of one file for each of
many tiny cases. nnU-Net's own trainer, which sets no seed, gets one. SCORES also holds the seconds that the process has
taken, for a bench that does not see its end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.bench import probabilities
from experiments.bench.scoring import added_up, counts_of
from nnunet_difflung.runtime.files import read_json, write_json

EPOCH = 250  # nnU-Net's iterations of an epoch
VALIDATION = 5  # batches of the running validation, which decides nothing here; nnU-Net has 50


def shorten(trainer: Any, iterations: int) -> None:
    """Sets the length of a trainer that is being built."""
    trainer.num_epochs, trainer.num_iterations_per_epoch = max(1, iterations // EPOCH), min(EPOCH, iterations)
    trainer.num_val_iterations_per_epoch = VALIDATION
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def with_length(build: Callable[..., None], iterations: int) -> Callable[..., None]:
    """The constructor of a trainer, followed by ``shorten``; nnU-Net reads the names of its arguments."""

    @wraps(build)
    def built(self: Any, *arguments: Any, **named: Any) -> None:
        build(self, *arguments, **named)
        shorten(self, iterations)

    return built


def predictions(trainer: Any):
    """(case, (z, y, x) predicted label values, (class, z, y, x) probabilities), in the grid of the raw case."""
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(
        use_mirroring=True, perform_everything_on_device=False, device=trainer.device, allow_tqdm=False
    )
    plans, configuration, content = trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json
    axes = trainer.inference_allowed_mirroring_axes
    predictor.manual_initialization(trainer.network, plans, configuration, None, content, type(trainer).__name__, axes)
    cases = trainer.do_split()[1]
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases)
    for case in dataset.identifiers:
        data, _, _, properties = dataset.load_case(case)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(data[:]))).cpu()
        yield (
            case,
            *convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, plans, configuration, trainer.label_manager, properties, return_probabilities=True
            ),
        )


def score(trainer: Any, patients: dict[str, str], roles: tuple[str, ...]) -> dict:
    """Counts of each validation patient, histograms of the probabilities of ``roles``, and the number of cases.

    Args:
        trainer: trained; on labels, not on regions.
        patients: case id → patient.
        roles: classes that come in lesions.
    """
    labels = {name: value for name, value in trainer.dataset_json["labels"].items() if name != "ignore" and value != 0}
    folder = Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"
    reader = trainer.plans_manager.image_reader_writer_class()
    cases = []
    odds: dict[str, list[tuple[str, list[list[int]]]]] = {name: [] for name in roles}
    for case, prediction, probability in predictions(trainer):
        reference, properties = reader.read_seg(str(folder / f"{case}{trainer.dataset_json['file_ending']}"))
        spacing = tuple(map(float, properties["spacing"]))
        counts = {
            name: counts_of(reference[0], prediction, value, spacing, name in roles) for name, value in labels.items()
        }
        cases.append((patients[case], counts))
        for name, of_cases in odds.items():
            of_cases.append(
                (patients[case], probabilities.histogram(probability[labels[name]], reference[0] == labels[name]))
            )
    histograms = {name: probabilities.added_up(of_cases) for name, of_cases in odds.items()}
    return {"patients": added_up(cases), "probabilities": histograms, "cases": len(cases)}


def and_score(target: Path, about: dict) -> Callable[..., None]:
    """The validation of a trainer whose training begins now, which writes ``target``."""
    begun = time.monotonic()

    def validated(trainer: Any, *_: Any) -> None:
        trained = time.monotonic()
        content = score(trainer, about["patients"], tuple(about["lesions"]))
        content["network"] = json.loads(json.dumps(trainer.configuration_manager.configuration, default=str))
        seconds = {"train": trained - begun, "validate": time.monotonic() - trained}
        write_json(target, content | {"seconds": seconds, "cpu_seconds": cpu_seconds()})

    return validated


def cpu_seconds() -> float:
    """Seconds of a core that this process and its ended children have taken."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def parser() -> argparse.ArgumentParser:
    """The options before ``--``."""
    p = argparse.ArgumentParser(
        prog="python -m experiments.bench.train",
        usage="%(prog)s [-h] SCORES ITERATIONS SEED -- ARGUMENTS",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("scores", metavar="SCORES", type=Path, help="JSON file to write; about.json lies beside it")
    p.add_argument("iterations", metavar="ITERATIONS", type=int, help=f"below {EPOCH}, or a multiple of it")
    p.add_argument("seed", metavar="SEED", type=int, help="of nnU-Net's own trainer")
    return p


def main() -> None:
    """Entry of the command line."""
    words = sys.argv[1:]
    divide = words.index("--") if "--" in words else len(words)
    o = parser().parse_args(words[:divide])
    if not words[divide + 1 :]:
        parser().error("-- and the arguments of nnUNetv2_train are missing")
    target, iterations, seed = o.scores, o.iterations, o.seed
    about = read_json(target.with_name("about.json"))
    sys.argv = ["nnUNetv2_train", *words[divide + 1 :]]

    from nnunetv2.run.run_training import run_training_entry
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    nnUNetTrainer.__init__ = with_length(nnUNetTrainer.__init__, iterations)
    nnUNetTrainer.perform_actual_validation = and_score(target, about)
    run_training_entry()


if __name__ == "__main__":
    main()
