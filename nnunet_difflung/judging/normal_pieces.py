"""Round pieces of normal lung in real slices, as large as lesions, for what painted regions are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.runtime.progress import Tell, nobody, telling

MIN_NORMAL = 40  # voxels of normal lung in a slice from which a piece is cut


@dataclass(frozen=True)
class Piece:
    """A piece of normal lung, at most half of that of its slice.

    Attributes:
        patient: of the case.
        case: id.
        z: of the slice.
        inside: (m, 2) y, x of its voxels, nearest to its middle first.
        others: (k, 2) y, x of the slice's other normal lung.
    """

    patient: str
    case: str
    z: int
    inside: np.ndarray
    others: np.ndarray


def normal_pieces(
    cache: SliceCache,
    identifiers: Sequence[str],
    patients: Mapping[str, str],
    sizes: Sequence[int],
    number: int,
    rng: np.random.Generator,
    tell: Tell = nobody,
) -> Iterator[Piece]:
    """Pieces around random voxels, in random slices of each patient, the same number of each.

    Args:
        cache: of the real cases.
        identifiers: cases to take them from.
        patients: case id → patient.
        sizes: in voxels, at least one, of which each piece has one.
        number: of pieces, over all patients; rounded up for each of them, and fewer if a patient has fewer slices.
        rng: draws slices, sizes and places.
        tell: gets the share of the patients who are done.
    """
    slices: dict[str, list[tuple[str, int]]] = {}
    for identifier in sorted(identifiers):
        for z, voxels in enumerate(cache.roles.normal_voxels(cache.facts[identifier].counts)):
            if voxels >= MIN_NORMAL:
                slices.setdefault(patients[identifier], []).append((identifier, z))
    for patient, of_patient in telling(list(slices.items()), tell):
        for index in rng.permutation(len(of_patient))[: -(-number // len(slices))]:
            identifier, z = of_patient[index]
            places = np.argwhere(cache.roles.is_normal(np.asarray(cache.condition(identifier)[z])))
            size = min(int(rng.choice(sizes)), len(places) // 2)
            away = ((places - places[rng.integers(len(places))]) ** 2).sum(1)
            places = places[np.argsort(away, kind="stable")]
            yield Piece(patient, identifier, z, places[:size], places[size:])
