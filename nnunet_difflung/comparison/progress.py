"""The learning curves of trainings, as their logs tell: nnU-Net's pseudo Dice of each class after each epoch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nnunet_difflung.comparison.trainings import Trainings, logs_of

_EPOCH = re.compile(r": Epoch (\d+)\s*$")
_DICE = re.compile(r"Pseudo dice \[(.*)\]")
_NUMBER = re.compile(r"(?:np\.)?(?:float\d+\()?(nan|\d+\.?\d*(?:e-?\d+)?)\)?")
_KEPT = 0.9  # share of the earlier mean that nnU-Net keeps at each epoch


def learning_curves(trainings: Trainings, classes: Mapping[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """Mean learning curve of the trainings of each arm.

    nnU-Net counts voxels of random patches of the validation cases after each epoch, so these figures are rough; its
    own moving average smooths them.

    Args:
        trainings: finished trainings.
        classes: name → key in nnU-Net's summary.json: a label value or, of a region, the values.

    Returns:
        class → arm → (epochs,) moving average in [0, 1] of the pseudo Dice, as long as the arm's shortest training;
        arms without readable logs are left out.
    """
    names = sorted(classes, key=lambda name: int(classes[name])) if _labels(classes) else list(classes)
    found: dict[str, list[np.ndarray]] = {}
    for arm, seed, fold in trainings.each():
        of_epochs = pseudo_dice(trainings.training(seed, arm, fold))
        if of_epochs.shape[1:] == (len(names),):
            found.setdefault(arm, []).append(moving_average(of_epochs))
    curves: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    for arm, of_trainings in found.items():
        length = min(map(len, of_trainings))
        means = np.mean([one[:length] for one in of_trainings], 0)
        for i, name in enumerate(names):
            curves[name][arm] = means[:, i]
    return curves


def _labels(classes: Mapping[str, str]) -> bool:
    return all(key.isdecimal() for key in classes.values())


def pseudo_dice(training: Path) -> np.ndarray:
    """(epochs, classes) pseudo Dice of a training, from its logs; an epoch that was trained twice counts as the second.

    Returns:
        an array without epochs where there is no log, epochs are missing, or the number of classes changes.
    """
    rows: dict[int, list[float]] = {}
    for text in logs_of(training).values():
        epoch = -1
        for line in text.splitlines():
            if begun := _EPOCH.search(line):
                epoch = int(begun[1])
                rows = {earlier: row for earlier, row in rows.items() if earlier < epoch}
            elif (values := _DICE.search(line)) and epoch >= 0:
                rows[epoch] = [float(number) for number in _NUMBER.findall(values[1])]
    if list(rows) != list(range(len(rows))) or len({len(row) for row in rows.values()}) != 1:
        return np.zeros((0, 0))
    return np.array(list(rows.values()))


def moving_average(of_epochs: np.ndarray) -> np.ndarray:
    """nnU-Net's moving average along the first axis; a class without voxels in an epoch (NaN) keeps its value."""
    average = np.nan_to_num(of_epochs)
    for epoch in range(1, len(of_epochs)):
        before = average[epoch - 1]
        now = np.where(np.isnan(of_epochs[epoch]), before, of_epochs[epoch])
        average[epoch] = _KEPT * before + (1 - _KEPT) * now
    return average
