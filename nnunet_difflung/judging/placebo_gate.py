"""The quality gate of placebo cases: does a repainted outline look like normal lung?

A placebo is judged as if normal lung were a class: by the intensities of pieces of normal lung in the fold's training
cases, each about as large as a lesion, with the tolerances of ``gate``. Two patients' normal lung can differ by more
than a painted region may differ from the lung around it, so it is also compared with the normal lung of its own image.
It is never compared with a pathology.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.judging.channel_pairs import percentile95
from nnunet_difflung.judging.gate import (
    MIN_VOXELS,
    PER_SLICE,
    SLACK,
    ClassReference,
    Region,
    class_reference,
    measure,
    region_of,
    rounded,
)
from nnunet_difflung.judging.normal_pieces import MIN_NORMAL, Piece, normal_pieces
from nnunet_difflung.runtime.progress import Tell, nobody

NAME = "placebo"  # of the only row of a placebo case's quality
_PIECES = 200  # number of pieces of normal lung, over all patients
_STREAM = 807  # separates the random numbers from those of the pathologies' references
_LEAST = 0.1  # smallest tolerance of the difference to the image's own lung, as a share of normal lung's sd


@dataclass(frozen=True)
class LungReference:
    """Normal lung of the fold's training cases.

    Attributes:
        lung: its intensities, as of a class; without a contrast, which tells a class from normal lung.
        own: for each channel the largest accepted difference between the medians of a piece and of the other normal
            lung in its image.
        spread: for each channel the standard deviation of normal lung.
    """

    lung: ClassReference
    own: tuple[float, ...]
    spread: tuple[float, ...]


def lung_reference(
    cache: SliceCache,
    identifiers: Sequence[str],
    patients: Mapping[str, str],
    windows: Sequence[Sequence[float]],
    seed: int,
    judged: Sequence[int] | None = None,
    tell: Tell = nobody,
) -> LungReference | None:
    """The reference of normal lung from round pieces of it, the same number of each patient.

    Args:
        cache: of the real cases.
        identifiers: the fold's training cases.
        patients: case id → patient.
        windows: the generator's.
        seed: chooses the pieces.
        judged: numbers of the channels that are painted, not set; None for all.
        tell: gets the share of the work that is done.

    Returns:
        None if no slice has enough normal lung for a piece.
    """
    rng = np.random.default_rng([seed, _STREAM])
    facts, roles = cache.facts, cache.roles
    sizes = [n for i in identifiers for name in roles.pathologies for n in facts[i].counts[name] if n >= MIN_VOXELS]
    regions: list[Region] = []
    of_patients: list[str] = []
    for piece in normal_pieces(cache, identifiers, patients, sizes or [MIN_NORMAL], _PIECES, rng, tell):
        regions.append(_region(cache, piece, windows, rng))
        of_patients.append(piece.patient)
    if not regions:
        return None
    widths, names = [high - low for low, high in windows], np.array(of_patients)
    channels = tuple(range(len(widths)) if judged is None else sorted(judged))
    lung = class_reference(regions, names, np.empty((0, 2 * len(widths))), np.empty(0), widths, rng, channels)
    _, index, counts = np.unique(names, return_inverse=True, return_counts=True)
    away = np.abs([region.median - region.normal for region in regions])
    spread = [float(channel.values.std()) for channel in lung.channels]
    own = [
        SLACK * max(percentile95(column[np.isfinite(column)], 1 / counts[index][np.isfinite(column)]), _LEAST * sd)
        if np.isfinite(column).any()
        else float("inf")
        for column, sd in zip(away.T, spread, strict=True)
    ]
    return LungReference(lung, tuple(own), tuple(spread))


def _region(cache: SliceCache, piece: Piece, windows: Sequence[Sequence[float]], rng: np.random.Generator) -> Region:
    """A piece, with at most 400 of its voxels, and the other normal lung of its slice."""
    image = np.asarray(cache.image(piece.case)[:, piece.z : piece.z + 1])
    inside, others = np.zeros((2, 1, *image.shape[2:]), bool)
    inside[(0, *piece.inside.T)] = True
    others[(0, *piece.others.T)] = True
    whole = region_of(image, inside, others, windows)
    kept = rng.permuted(whole.voxels, axis=1)[:, :PER_SLICE].copy()  # a view would keep all of them in memory
    return replace(whole, voxels=kept)


def measure_placebo(region: Region, around: int, real: LungReference) -> dict[str, dict]:
    """Compares the outlines of a placebo case with normal lung.

    Args:
        region: the outlines' voxels, with the median of the normal lung around them.
        around: number of voxels of that lung.
        real: of the fold's training cases.

    Returns:
        ``NAME`` → the figures of ``gate.measure``, and own_difference and max_own_difference to the image's own normal
        lung, of the channel in which they differ most for what is accepted (None if the image has too little other
        lung). Empty with fewer than eight voxels.
    """
    quality = measure({NAME: region}, {NAME: real.lung})
    if not quality:
        return {}
    voxels = 1 / region.voxels.shape[1] + 1 / max(around, 1)
    chance = 2.5 * np.array(real.spread) * np.sqrt(voxels)  # twice the standard error of a difference of medians
    differences, most = region.median - region.normal, np.array(real.own) + chance
    channels = [channel for channel in real.lung.judged if np.isfinite(differences[channel])]
    worst = max(channels, key=lambda channel: abs(differences[channel]) / most[channel], default=None)
    row = quality[NAME]
    row["own_difference"] = None if worst is None else rounded(float(differences[worst]))
    row["max_own_difference"] = None if worst is None else rounded(float(most[worst]))
    row["passes"] = bool(row["passes"] and (worst is None or abs(differences[worst]) <= most[worst]))
    return quality
