"""What a fold's segmenter may see: the fold's training cases, grouped by patient, in parts for cross-fitting."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache, hash_of_voxels
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.runtime.files import json_bytes
from nnunet_difflung.segmenter.config import SegmenterConfig

OTHER, NORMAL, FIRST = 0, 1, 2  # classes of the network: all else, normal lung, and the pathologies from FIRST on


@dataclass(frozen=True)
class SegmenterData:
    """The training cases of a fold and their patients; other cases of the cache are never read.

    Attributes:
        cache: the dataset's real cases.
        dataset: name of the dataset.
        fold: index of the fold, or ``all``.
        patients: training case → patient.
    """

    cache: SliceCache
    dataset: str
    fold: int | str
    patients: Mapping[str, str]

    @property
    def training_cases(self) -> tuple[str, ...]:
        """Ids of the training cases, sorted."""
        return tuple(sorted(self.patients))

    @property
    def roles(self) -> LabelRoles:
        """Of the labels."""
        return self.cache.roles

    def cases_of(self, patients: Sequence[str]) -> tuple[str, ...]:
        """Ids of the training cases of these patients, sorted."""
        return tuple(i for i in self.training_cases if self.patients[i] in patients)

    def key(self, seed: int, *numbers: int) -> list[int]:
        """What seeds a random draw of this fold."""
        return [seed, 1_000_003 if self.fold == "all" else int(self.fold), *numbers]

    def depends(self, config: SegmenterConfig) -> dict:
        """All that the networks depend on, as their card has it."""
        return {
            "config": asdict(config) | {"features": list(config.features)},
            "dataset": self.dataset,
            "fold": self.fold,
            "training_cases": list(self.training_cases),
            "patients": {i: self.patients[i] for i in self.training_cases},
            "classes": [list(self.roles.normal), *self.roles.pathologies],
            "contents": hash_of_voxels(self.cache, self.training_cases),
        }

    def digest(self, config: SegmenterConfig) -> str:
        """Hash of all that the networks depend on."""
        return hashlib.sha256(json_bytes(self.depends(config))).hexdigest()


def patients_in_parts(data: SegmenterData, config: SegmenterConfig) -> tuple[tuple[str, ...], ...]:
    """Deals the training patients into parts: those who have the rarest class first, so that each part has its share.

    Returns:
        the patients of each part, sorted, without those whose cases show no lung; fewer parts than ``config.parts`` if
        there are fewer patients.
    """
    facts, roles = data.cache.facts, data.roles
    patients = sorted({data.patients[i] for i in data.training_cases if facts[i].lung_slices(roles)})
    holding = {
        name: sorted({data.patients[i] for i in data.training_cases if facts[i].voxels(name)})
        for name in roles.pathologies
    }
    rng, order = np.random.default_rng(data.key(config.seed)), list[str]()
    for group in (*sorted(holding.values(), key=len), patients):
        order += [group[i] for i in rng.permutation(len(group)) if group[i] not in order]
    number = min(config.parts, len(order))
    return tuple(tuple(sorted(order[part::number])) for part in range(number))


def targets(condition: np.ndarray, roles: LabelRoles) -> np.ndarray:
    """A condition map as classes of the network: int64 of the same shape; ``ignore_class`` for ignored voxels."""
    table = np.zeros(256, np.int64)
    table[[roles.values[name] for name in roles.normal]] = NORMAL
    for number, name in enumerate(roles.pathologies):
        table[roles.values[name]] = FIRST + number
    if roles.ignore is not None:
        table[roles.ignore] = ignore_class(roles)
    return table[condition]


def number_of_classes(roles: LabelRoles) -> int:
    """Number of classes of the network."""
    return FIRST + len(roles.pathologies)


def ignore_class(roles: LabelRoles) -> int:
    """What stands for ignored voxels among the targets; the network has no such class."""
    return number_of_classes(roles)
