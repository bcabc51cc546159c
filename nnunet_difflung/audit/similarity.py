"""Finds slices of different cases that show the same anatomy, whatever the cases' names say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

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
_KEPT = 4096  # Fourier transforms of slices that are kept, of 66 kB each
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
        details = _details_of(pictures)
        for begin in watched(range(0, len(pairs), _AT_A_TIME)):
            part = chosen[pairs[begin : begin + _AT_A_TIME]]
            similarities, shifts = _aligned(*([details(int(i)) for i in side] for side in part.T))
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
        details = _details_of(own)
        best = np.zeros(len(order))
        keys = np.stack([picture.key for picture in own]) if own else np.empty((0, 0))
        for position, picture in enumerate(mirrored):
            nearest = np.argsort(-(keys @ picture.key), kind="stable")[:CANDIDATES]
            found = _aligned([_Detail.of(picture)] * len(nearest), [details(int(i)) for i in nearest])[0]
            best[position] = found.max()
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
    return _aligned([_Detail.of(picture) for picture in first], [_Detail.of(picture) for picture in second])


@dataclass(frozen=True)
class _Detail:
    """The detail of a picture as its Fourier transform (SIZE, SIZE // 2 + 1), and its sum of squares."""

    spectrum: np.ndarray
    power: float

    @classmethod
    def of(cls, picture: Picture) -> _Detail:
        detail = picture.detail.astype(np.float32)
        return cls(fft.rfft2(detail), float(np.sum(detail * detail)))


def _details_of(pictures: Sequence[Picture]) -> Callable[[int], _Detail]:
    """The details of pictures by their position; those that were asked for last are kept."""
    return lru_cache(_KEPT)(lambda position: _Detail.of(pictures[position]))


def _aligned(first: Sequence[_Detail], second: Sequence[_Detail]) -> tuple[np.ndarray, np.ndarray]:
    """See ``aligned``.

    Few shifts matter, so the cross-correlation is summed at these alone, along one axis after the other, which takes a
    fraction of the time of transforming it back.
    """
    powers = np.array([a.power * b.power for a, b in zip(first, second, strict=True)], np.float32)
    near = np.empty((len(powers), len(_OFFSETS), len(_OFFSETS)), np.float32)
    for row, (a, b) in enumerate(zip(first, second, strict=True)):
        near[row] = ((_ALONG_Y @ (a.spectrum * b.spectrum.conj())) @ _ALONG_X).real
    flat = near.reshape(len(powers), -1)
    best = flat.argmax(axis=1)
    shifts = np.stack([_OFFSETS[best // len(_OFFSETS)], _OFFSETS[best % len(_OFFSETS)]], axis=1)
    return flat[np.arange(len(powers)), best] / np.maximum(np.sqrt(powers), 1e-6), shifts


def _waves(frequencies: np.ndarray) -> np.ndarray:
    """(offsets, frequencies) complex64; e^(2πi · frequency · offset), with frequencies in cycles a pixel."""
    return np.exp(2j * np.pi * np.outer(_OFFSETS, frequencies)).astype(np.complex64)


_OFFSETS = np.arange(-_SHIFT, _SHIFT + 1)
_ALONG_Y = _waves(fft.fftfreq(SIZE)) / np.float32(SIZE)
_MULTIPLICITY = np.full(SIZE // 2 + 1, 2)  # how many frequencies each stands for
_MULTIPLICITY[[0, -1]] = 1
_ALONG_X = (_waves(fft.rfftfreq(SIZE)) * (_MULTIPLICITY / SIZE).astype(np.float32)).T


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
