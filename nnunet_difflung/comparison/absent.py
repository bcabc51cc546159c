"""Names the trainings in the results folders that a comparison leaves out, so that nobody takes them for compared."""

from __future__ import annotations

from nnunet_difflung.comparison.trainings import ARMS, Trainings
from nnunet_difflung.paths import fold_folders, fold_name


def absent(trainings: Trainings) -> list[str]:
    """A sentence for each arm with a training that is not compared, and one for folds that are not."""
    trainers = {ARMS[arm] for arm in trainings.arms}
    rest = [arm for arm in ARMS if arm not in trainings.arms and ARMS[arm] not in trainers]
    sentences = []
    for arm in rest:
        begun = [
            (seed, fold)
            for seed in trainings.results
            for fold in trainings.folds
            if trainings.training(seed, arm, fold).is_dir()
        ]
        if begun:
            finished = sum(trainings.has(seed, arm, fold) for seed, fold in begun)
            count = len(trainings.results) * len(trainings.folds)
            sentences.append(f"Not compared: {arm}, of which {finished} of {count} trainings are finished and scored.")
    first = trainings.training(next(iter(trainings.results)), trainings.arms[0], trainings.folds[0]).parent
    compared = {fold_name(fold) for fold in trainings.folds}
    further = [folder.name for folder in fold_folders(first) if folder.name not in compared]
    if further:
        sentences.append(f"Not compared: {', '.join(further)}, which {trainings.arms[0]} was trained on too.")
    return sentences
