"""Folds with fewer source patients: the same validation patients, and nested draws of those with the rare class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

NUMBERS = ("all", "16", "8", "4")  # the dataset's own folds come first and keep their numbers


def index_of(number: str, fold: int, folds: int) -> int:
    """Where the entry of a number of source patients and a fold stands in ``splits_final.json``."""
    return NUMBERS.index(number) * folds + fold


def drawn(patients: Collection[str], number: str, seed: int, fold: int) -> list[str]:
    """The source patients of an entry, sorted; those of a smaller number are among those of a larger one.

    Args:
        patients: training patients of the fold who have the rare class.
        number: how many of them, or ``all``.
        seed: decides the order in which they are drawn.
        fold: of the dataset.
    """
    order = np.random.default_rng([seed, fold]).permutation(sorted(patients))
    return sorted(map(str, order if number == "all" else order[: int(number)]))


def with_fewer_sources(
    splits: Sequence[Mapping[str, Sequence[str]]], patients: Mapping[str, str], rare: Collection[str], seed: int
) -> list[dict[str, list[str]]]:
    """All entries of ``splits_final.json`` for a seed.

    An entry validates on the patients of its fold. It trains on all others without the rare class, and on as many of
    those with it as its number says; the remaining ones are in neither list, with all of their cases.

    Args:
        splits: the dataset's own folds.
        patients: case id → patient.
        rare: patients with the rare class.
        seed: of the draws.
    """
    entries = []
    for number in NUMBERS:
        for fold, split in enumerate(splits):
            having = {patients[case] for case in split["train"]}.intersection(rare)
            left_out = having.difference(drawn(having, number, seed, fold))
            entries.append(
                {
                    "train": [case for case in split["train"] if patients[case] not in left_out],
                    "val": list(split["val"]),
                }
            )
    return entries
