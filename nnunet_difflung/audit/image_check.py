"""Compares the images of training and validation cases of each fold, without trusting what the cases are called."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nnunet_difflung.audit.similarity import find_matches, mirror_similarity, thresholds_above
from nnunet_difflung.audit.slice_pictures import Picture, picture_of
from nnunet_difflung.runtime.parallel import bar, in_threads
from nnunet_difflung.runtime.workers import in_processes

METHOD = 2  # number of the method; results of another one are not used again
_EVERY_MM = 5.0  # of a volume; slices 2.5 mm from a compared slice are still recognised
_LEAST_CONTENT = 0.05  # share of a slice beside its levels; slices of air, padding and a table are all the same
_LEVELS = 3  # intensities that an empty slice has: air, what surrounds a scanner's circle, and a table
_WORTH_CASES = 300  # looking at fewer takes hardly longer than starting processes
_AT_A_TIME = 8  # cases that a process is given at a time
_LOOKED_AT = 64  # pixels along each side from which the levels are counted

Splits = Sequence[Mapping[str, Sequence[str]]]
ReadImage = Callable[[], tuple[np.ndarray, float]]  # → (c, z, y, x) of a case and its spacing along z in mm


@dataclass(frozen=True)
class SlicePair:
    """Two slices that show the same anatomy.

    Attributes:
        training_slice, validation_slice: positions along z.
        similarity: correlation of structures of 2 to 6 mm inside the bodies, after alignment; 1 for the same voxels.
        outline: Dice of the bodies' outlines; None if there is none.
        bones: Dice of the bones; None where they cannot be seen.
    """

    training_slice: int
    validation_slice: int
    similarity: float
    outline: float | None = None
    bones: float | None = None


@dataclass(frozen=True)
class CasePair:
    """A training and a validation case with slices that show the same anatomy.

    Attributes:
        folds: where the two are on different sides.
        training, validation: case ids, by their sides in the first of these folds.
        identical: whether they share a slice with exactly the same voxels.
        slices: the pairs of slices, the most similar first.
    """

    folds: tuple[int, ...]
    training: str
    validation: str
    identical: bool
    slices: tuple[SlicePair, ...]

    @property
    def line(self) -> str:
        """The pair in words, with its most similar slices."""
        best, more = self.slices[0], len(self.slices) - 1
        evidence = "the same voxels" if self.identical else f"similarity {best.similarity:.2f}{_evidence(best)}"
        further = f" (and {', '.join(map(str, self.folds[1:]))})" if self.folds[1:] else ""
        where = f"fold {self.folds[0]}{further}: " if self.folds else ""
        places = [
            f"{side} {case}" + (f" slice {z}" if any(of_side) else "")
            for side, case, z, of_side in (
                ("training", self.training, best.training_slice, [p.training_slice for p in self.slices]),
                ("validation", self.validation, best.validation_slice, [p.validation_slice for p in self.slices]),
            )
        ]
        return f"{where}{', '.join(places)}: {evidence}{f'; {more} more pairs of slices' if more else ''}"


def _evidence(pair: SlicePair) -> str:
    values = {"outline": pair.outline, "bones": pair.bones}
    return "".join(f", {name} {value:.2f}" for name, value in values.items() if value is not None)


@dataclass(frozen=True)
class ImageCheck:
    """Result of the comparison.

    Attributes:
        pairs: identical cases first, then the most similar.
        framed: number of slices that were compared by the anatomy inside the body's outline.
        cut_outs: number of slices without an outline around lungs, of which only copies can be recognised.
        unjudged: number of slices that are too small or show nothing.
        unjudged_cases: cases without any slice that could be compared by its anatomy.
        thresholds: least similarity that is reported, of framed slices and of cut-outs.
        chance: what mirror images of the dataset's own slices reach, likewise.
    """

    pairs: tuple[CasePair, ...]
    framed: int = 0
    cut_outs: int = 0
    unjudged: int = 0
    unjudged_cases: tuple[str, ...] = ()
    thresholds: dict[str, float] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)

    @property
    def identical(self) -> tuple[CasePair, ...]:
        """The pairs of cases that share a slice with exactly the same voxels."""
        return tuple(pair for pair in self.pairs if pair.identical)

    def as_dict(self) -> dict[str, Any]:
        """JSON content."""
        return {"method": METHOD, **asdict(self)}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> ImageCheck:
        """The result that ``as_dict`` has written."""
        pairs = tuple(
            CasePair(**{**p, "folds": tuple(p["folds"]), "slices": tuple(SlicePair(**s) for s in p["slices"])})
            for p in content["pairs"]
        )
        rest = {key: value for key, value in content.items() if key not in ("method", "pairs")}
        return cls(pairs, **{**rest, "unjudged_cases": tuple(rest["unjudged_cases"])})

    def judged(self) -> str:
        """One line: what was compared, and what could not be judged."""
        parts = [f"{self.framed} slices compared by the anatomy inside the body"]
        if self.framed and self.thresholds["framed"] > 0.9:
            parts.append(
                f"bodies resemble each other so much (mirror images reach {self.chance['framed']:.2f}) that only near "
                f"copies can be told from other patients"
            )
        if self.cut_outs:
            parts.append(
                f"{self.cut_outs} slices without a body's outline around lungs: their patients cannot be judged, only "
                f"copies are recognised"
            )
        if self.unjudged:
            parts.append(f"{self.unjudged} slices cannot be judged: too small or empty")
        return "; ".join(parts)


@contextmanager
def looking_at(
    images: Mapping[str, ReadImage], processes: int = 1, single_slices: bool = False
) -> Iterator[Iterator[list[Slice]]]:
    """Looks at the images of cases: of a volume at every slice at 5 mm, of several channels at the first.

    Where there are several processes and many images, they begin at once and go on while the caller does other work.

    Args:
        images: case id → reads its image, in any thread or process.
        processes: number of processes; threads where there are few images.
        single_slices: whether looking at an image takes milliseconds.

    Yields:
        the slices of each case, in the order of the cases' ids.
    """
    readers = [images[identifier] for identifier in sorted(images)]
    if processes > 1 and len(readers) >= _WORTH_CASES:
        with in_processes(_slices_of, readers, processes, _AT_A_TIME if single_slices else 1) as slices:
            yield slices
    else:
        with in_threads(_slices_of, readers, processes) as slices:
            yield slices


def check_images(
    images: Mapping[str, ReadImage],
    splits: Splits | None,
    patients: Mapping[str, str] | None = None,
    processes: int = 1,
    progress: bool = True,
) -> ImageCheck:
    """Finds slices of the same anatomy across training and validation.

    Args:
        images: case id of each real case → reads its image, in any thread or process.
        splits: the folds; without them all pairs of cases of different patients are compared.
        patients: case id → patient, which matters without ``splits`` only.
        processes: number of processes.
        progress: show progress bars.
    """
    with looking_at(images, processes) as slices:
        return compare_slices(sorted(images), slices, splits, patients, progress)


def compare_slices(
    cases: Sequence[str],
    looked_at: Iterator[list[Slice]],
    splits: Splits | None,
    patients: Mapping[str, str] | None = None,
    progress: bool = True,
) -> ImageCheck:
    """Finds slices of the same anatomy across training and validation.

    Args:
        cases: ids of the real cases, sorted.
        looked_at: their slices, from ``looking_at``.
        splits: see ``check_images``.
        patients: see ``check_images``.
        progress: show progress bars.
    """
    slices = list(bar(looked_at, visible=progress, total=len(cases), desc="looking at images", unit="case"))
    sides = _Sides(cases, splits, patients)
    pictures = [entry.picture for of_case in slices for entry in of_case if entry.picture is not None]
    places = [(n, entry.z) for n, of_case in enumerate(slices) for entry in of_case if entry.picture is not None]
    owner = np.array([n for n, _ in places], int)
    chance = mirror_similarity(pictures)
    thresholds = thresholds_above(chance)
    matches = find_matches(
        pictures,
        lambda rows: sides.across(owner[rows], owner),
        thresholds,
        lambda steps: bar(steps, visible=progress, desc="comparing images", unit="step", delay=2),
    )
    rows: dict[tuple[int, int], dict[tuple[int, int], SlicePair]] = {}
    for a, b, pair in _identical_slices(slices, sides):
        rows.setdefault((a, b), {})[pair.training_slice, pair.validation_slice] = pair
    identical = set(rows)
    for match in matches:
        (a, z_a), (b, z_b) = places[match.first], places[match.second]
        if not sides.in_order(a, b):
            (a, z_a), (b, z_b) = (b, z_b), (a, z_a)
        rounded = (None if value is None else round(value, 3) for value in (match.outline, match.bones))
        rows.setdefault((a, b), {}).setdefault((z_a, z_b), SlicePair(z_a, z_b, round(match.similarity, 3), *rounded))
    pairs = [
        CasePair(sides.folds(*key), cases[key[0]], cases[key[1]], key in identical, _by_similarity(found.values()))
        for key, found in rows.items()
    ]
    pairs.sort(key=lambda p: (not p.identical, -p.slices[0].similarity, p.training, p.validation))
    return ImageCheck(
        tuple(pairs),
        sum(picture.framed for picture in pictures),
        sum(not picture.framed for picture in pictures),
        sum(entry.picture is None for of_case in slices for entry in of_case),
        tuple(c for c, own in zip(cases, slices, strict=True) if not any(s.picture and s.picture.framed for s in own)),
        {"framed": thresholds[True], "cut_outs": thresholds[False]},
        {"framed": chance[True], "cut_outs": chance[False]},
    )


def _by_similarity(pairs: Iterable[SlicePair]) -> tuple[SlicePair, ...]:
    return tuple(sorted(pairs, key=lambda p: (-p.similarity, p.training_slice, p.validation_slice)))


class _Sides:
    """Which cases meet across training and validation."""

    def __init__(self, cases: Sequence[str], splits: Splits | None, patients: Mapping[str, str] | None):
        position = {case: n for n, case in enumerate(cases)}
        self._training = np.zeros((len(cases), len(splits or ())), np.float32)
        self._validation = self._training.copy()
        for fold, split in enumerate(splits or ()):
            for side, of_side in ((split["train"], self._training), (split["val"], self._validation)):
                of_side[[position[case] for case in side if case in position], fold] = 1
        names = [(patients or {}).get(case, case) for case in cases]
        self._patient = None if splits else np.unique(names, return_inverse=True)[1]

    def across(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(n, m) bool; whether cases (n,) and (m,) are different, and on different sides in some fold."""
        if self._patient is not None:
            return self._patient[a][:, None] != self._patient[b]
        meet = self._training[a] @ self._validation[b].T + self._validation[a] @ self._training[b].T
        return (meet > 0) & (a[:, None] != b)

    def folds(self, a: int, b: int) -> tuple[int, ...]:
        """The folds in which the two cases are on different sides."""
        meet = self._training[a] * self._validation[b] + self._validation[a] * self._training[b]
        return tuple(int(fold) for fold in np.flatnonzero(meet))

    def in_order(self, a: int, b: int) -> bool:
        """Whether the first case is the training case in the first fold in which the two meet."""
        folds = self.folds(a, b)
        return not folds or bool(self._training[a, folds[0]])


@dataclass(frozen=True)
class Slice:
    """A slice that is compared.

    Attributes:
        z: its position in the case.
        picture: None if it cannot be judged.
        digest: of the voxels of all channels; None if the slice is empty.
    """

    z: int
    picture: Picture | None
    digest: bytes | None


def _slices_of(read: ReadImage) -> list[Slice]:
    return slices_of(*read())


def slices_of(image: np.ndarray, spacing: float) -> list[Slice]:
    """The slices of a (c, z, y, x) image that are compared; its spacing is that along z, in mm."""
    step = max(1, round(_EVERY_MM / spacing)) if spacing > 0 else 1
    return [_slice(np.asarray(image[:, z], np.float32), z) for z in range(0, image.shape[1], step)]


def _slice(planes: np.ndarray, z: int) -> Slice:
    """A slice from its planes (c, y, x)."""
    shows_nothing = [_is_empty(plane) for plane in planes]
    digest = hashlib.blake2b(planes.tobytes() + str(planes.shape).encode(), digest_size=16).digest()
    picture = None if shows_nothing[0] else picture_of(planes[0])
    return Slice(z, picture, None if all(shows_nothing) else digest)


def _is_empty(plane: np.ndarray) -> bool:
    """Whether nearly all pixels of a slice (y, x) have one of few intensities."""
    step = max(1, min(plane.shape) // _LOOKED_AT)
    counts = np.sort(np.unique(plane[::step, ::step], return_counts=True)[1])
    return int(counts[:-_LEVELS].sum()) < _LEAST_CONTENT * int(counts.sum())


def _identical_slices(slices: Sequence[Sequence[Slice]], sides: _Sides) -> Iterable[tuple[int, int, SlicePair]]:
    """(training case, validation case, slices) of slices with the same voxels."""
    holders: dict[bytes, list[tuple[int, int]]] = {}
    for number, of_case in enumerate(slices):
        for entry in of_case:
            if entry.digest is not None:
                holders.setdefault(entry.digest, []).append((number, entry.z))
    for places in holders.values():
        own = np.array([number for number, _ in places])
        if len(set(own)) < 2:
            continue
        for i, j in zip(*np.nonzero(np.triu(sides.across(own, own))), strict=True):
            (a, z_a), (b, z_b) = (places[i], places[j]) if sides.in_order(own[i], own[j]) else (places[j], places[i])
            yield a, b, SlicePair(z_a, z_b, 1.0)
