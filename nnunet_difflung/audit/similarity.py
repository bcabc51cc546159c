"""Finds slices of different cases that show the same anatomy, whatever the cases' names say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

from nnunet_difflung.audit.slice_pictures import SIZE, Picture

# Least correlation of the detail of two slices that are reported, by whether their pictures are framed by a body.
# docs/results/image_check.json has the error rates that were measured with it.
SUSPICIOUS = {True: 0.70, False: 0.93}
_ABOVE_CHANCE = 0.07  # what is reported exceeds the similarity of mirror images by so much
_HIGHEST_THRESHOLD = 0.97  # copies in another window, of another size or from a JPEG file still reach this
_MIRRORED = 300  # slices whose mirror images are compared
CANDIDATES = 10  # of a slice, in the search by keys
_SHIFT = 6  # pixels of a picture by which the alignment may move
_AT_A_TIME = 128  # pairs that are aligned at a time
_ROWS = 512  # slices whose keys are compared with all other keys at a time


@dataclass(frozen=True)
class Match:
    """Two slices after alignment.

    Attributes:
        first, second: positions in the list of pictures.
        similarity: correlation of the detail inside the bodies, −1 to 1.
        outline: Dice of the two bodies; None for cut-outs.
        bones: Dice of what is brighter than soft tissue; None for cut-outs and where a window has cut bones off.
    """

    first: int
    second: int
    similarity: float
    outline: float | None
    bones: float | None


def find_matches(
    pictures: Sequence[Picture],
    compared: Callable[[np.ndarray], np.ndarray],
    thresholds: Mapping[bool, float],
    watched: Callable[[range], Iterable[int]] = lambda rows: rows,
) -> list[Match]:
    """The suspicious pairs, the most similar first.

    Candidates are the pairs with the most similar keys; each is aligned to one pixel of a picture (about 3 mm) by the
    maximum of the cross-correlation.

    Args:
        pictures: all slices.
        compared: positions (n,) → (n, number of pictures) bool; which pairs matter.
        thresholds: least similarity of framed pictures (True) and of cut-outs (False).
        watched: wraps the steps of the alignment, for a progress bar.
    """
    matches: list[Match] = []
    for framed in (True, False):
        chosen = np.array([i for i, picture in enumerate(pictures) if picture.framed == framed], int)

        def among(rows: np.ndarray, chosen: np.ndarray = chosen) -> np.ndarray:
            return compared(chosen[rows])[:, chosen]

        pairs = _candidates([pictures[i] for i in chosen], among)
        for begin in watched(range(0, len(pairs), _AT_A_TIME)):
            part = chosen[pairs[begin : begin + _AT_A_TIME]]
            similarities, shifts = aligned([pictures[i] for i in part[:, 0]], [pictures[i] for i in part[:, 1]])
            for (a, b), similarity, shift in zip(part, similarities, shifts, strict=True):
                if similarity >= thresholds[framed]:
                    evidence = _overlaps(pictures[a], pictures[b], shift)
                    matches.append(Match(int(a), int(b), float(similarity), *evidence))
    return sorted(matches, key=lambda match: (-match.similarity, match.first, match.second))


def mirror_similarity(pictures: Sequence[Picture], seed: int = 0) -> dict[bool, float]:
    """What similarity slices reach by chance in this dataset: that of slices with mirror images of all slices.

    A mirror image shows a body that nobody in the dataset has, in the dataset's own style. Where bodies resemble each
    other, as simulated ones do, mirror images do too.

    Returns:
        for framed pictures (True) and cut-outs (False): the 99th percentile over up to 300 slices of the greatest
        similarity; 0 where there is none.
    """
    reached = {}
    for framed in (True, False):
        own = [picture for picture in pictures if picture.framed == framed]
        order = np.random.default_rng(seed).permutation(len(own))[:_MIRRORED]
        mirrored = [own[i].mirrored() for i in order]
        best = np.zeros(len(order))
        keys = np.stack([picture.key for picture in own]) if own else np.empty((0, 0))
        for position, picture in enumerate(mirrored):
            nearest = np.argsort(-(keys @ picture.key), kind="stable")[:CANDIDATES]
            best[position] = aligned([picture] * len(nearest), [own[i] for i in nearest])[0].max()
        reached[framed] = float(np.quantile(best, 0.99)) if len(best) else 0.0
    return reached


def thresholds_above(chance: Mapping[bool, float]) -> dict[bool, float]:
    """Least similarity that is reported, from what mirror images reach (see ``mirror_similarity``)."""
    return {
        framed: min(max(least, chance[framed] + _ABOVE_CHANCE), _HIGHEST_THRESHOLD)
        for framed, least in SUSPICIOUS.items()
    }


def _candidates(pictures: Sequence[Picture], compared: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(n, 2) positions, the smaller first: each slice with the slices whose keys are most similar to its own."""
    if len(pictures) < 2:
        return np.empty((0, 2), int)
    keys = np.stack([picture.key for picture in pictures])
    pairs = []
    for begin in range(0, len(keys), _ROWS):
        rows = np.arange(begin, min(begin + _ROWS, len(keys)))
        scores = np.where(compared(rows), keys[rows] @ keys.T, -np.inf)
        number = min(CANDIDATES, scores.shape[1])
        best = np.argpartition(-scores, number - 1, axis=1)[:, :number]
        row, rank = np.nonzero(np.take_along_axis(scores, best, 1) > -np.inf)
        pairs.append(np.sort(np.stack([rows[row], best[row, rank]], axis=1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def aligned(first: Sequence[Picture], second: Sequence[Picture]) -> tuple[np.ndarray, np.ndarray]:
    """Largest correlation (n,) of pairs over small shifts, and the shifts (n, 2) of the second pictures."""
    a, b = (np.stack([picture.detail for picture in side]).astype(np.float32) for side in (first, second))
    norms = np.sqrt(np.sum(a * a, axis=(1, 2)) * np.sum(b * b, axis=(1, 2)))
    products = fft.irfft2(fft.rfft2(a) * fft.rfft2(b).conj(), s=(SIZE, SIZE))
    offsets = np.arange(-_SHIFT, _SHIFT + 1)
    near = products[:, offsets][:, :, offsets].reshape(len(a), -1)
    best = near.argmax(axis=1)
    shifts = np.stack([offsets[best // len(offsets)], offsets[best % len(offsets)]], axis=1)
    return near[np.arange(len(a)), best] / np.maximum(norms, 1e-6), shifts


def _overlaps(first: Picture, second: Picture, shift: np.ndarray) -> tuple[float | None, float | None]:
    """Dice of the outlines and of the bones of two framed pictures."""
    if not first.framed:
        return None, None
    outline = _dice(first.mask, np.roll(second.mask, shift, (0, 1)))
    if first.bones is None or second.bones is None:
        return outline, None
    return outline, _dice(first.bones, np.roll(second.bones, shift, (0, 1)))


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.sum(a & b) / max(int(a.sum() + b.sum()), 1))
