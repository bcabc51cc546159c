"""Mask-ablated training: Eq. 8, Eq. 9 and Algorithm 1 of the paper, and its uniform predecessor.

Ablating a class removes its mask from the condition, so that the network learns to paint the class without being told
and depends less on single labels. Nothing is ablated in sampling.
"""

from __future__ import annotations

import math

import numpy as np

from nnunet_difflung.meaning.labels import LabelRoles


def ablatable(roles: LabelRoles, ablation: str, classes: str) -> tuple[str, ...]:
    """Names of the classes whose masks may be ablated, in the order in which they are drawn.

    Args:
        roles: of the labels.
        ablation: ``cbmat``, ``mat`` or ``none``.
        classes: ``pathologies``; or ``all`` of Algorithm 1's classes: for ``cbmat`` normal lung too, but never what
            surrounds the lung (line 5), which is the derived body class and structures; for ``mat`` every class.
    """
    if classes == "pathologies" or ablation == "none":
        return roles.pathologies
    return roles.conditions if ablation == "mat" else roles.lung


def initial_probabilities(
    frequencies: np.ndarray, ablation: str, reading: str = "eq8", delta_0: float = 1.0, normal: float | None = None
) -> np.ndarray:
    """Ablation probability of each class at the start of training (Algorithm 1, line 1).

    Args:
        frequencies: (k,) share f_i of the lung voxels of the training cases for each class that may be ablated.
        ablation: ``cbmat``, ``mat`` (each of the 2^k combinations equally likely, so 1/2 for each class) or ``none``.
        reading: ``eq8``: P_i = 1 − f_i (paper, Eq. 8); ``text``: P_i = f_i / max f, the sentence under Eq. 8, by which
            common classes are ablated more often; the maximum is over all lung classes, so that the only or most
            common pathology is not hidden always.
        delta_0: factor δ0 of Algorithm 1, line 1.
        normal: share of normal lung, of all of its labels together; None: what the classes leave of the lung.

    Returns:
        (k,) probabilities in [0, 1].
    """
    frequencies = np.asarray(frequencies, float)
    if ablation == "none" or not len(frequencies):
        return np.zeros_like(frequencies)
    if ablation == "mat":
        return np.full_like(frequencies, 0.5)
    if ablation != "cbmat":
        raise ValueError(f"unknown ablation {ablation!r}; expected cbmat, mat or none")
    if reading == "eq8":
        return delta_0 * (1 - frequencies)
    if reading == "text":
        normal = 1 - frequencies.sum() if normal is None else normal
        return delta_0 * frequencies / max(frequencies.max(), normal, np.finfo(float).tiny)
    raise ValueError(f"unknown reading {reading!r} of Eq. 8")


def annealed(probabilities: np.ndarray, progress: float, ablation: str, annealing: str = "cosine") -> np.ndarray:
    """Cosine annealing (paper, Eq. 9): P_t = P_initial · (1 + cos(π t / T)) / 2, with ``progress`` = t / T.

    The closed form is used; Algorithm 1's line 10 read literally multiplies the factors of all steps so far, which ends
    ablation within a few steps. ``mat`` is constant in its source; ``annealing="none"`` makes ``cbmat`` constant
    too, to measure the effect of the schedule.
    """
    if ablation == "mat" or annealing == "none":
        return probabilities
    return probabilities * (1 + math.cos(math.pi * progress)) / 2


def draw_ablation(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Independent draws for the classes of one image (Algorithm 1, lines 6 and 7); (k,) bool, True is ablated."""
    return rng.random(len(probabilities)) < probabilities


def ablate(condition: np.ndarray, ablated: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Removes the ablated classes from a condition map (Algorithm 1, line 8).

    Args:
        condition: (y, x) label values.
        ablated: (k,) bool.
        values: (k,) label values of the classes that may be ablated.

    Returns:
        (y, x) copy with the ablated classes' voxels 0.
    """
    return np.where(np.isin(condition, values[ablated]), 0, condition).astype(condition.dtype)
