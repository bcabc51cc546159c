"""Which channel Table 1 compares: one whose values the networks decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.channels import CaseChannels, find_relations, named
from nnunet_difflung.dataset.raw_dataset import RawDataset

_REASONS = {
    "free": "a further image",
    "constant": "constant, not painted",
    "copy": "a copy of another channel",
    "mask": "a mask, set by the label",
    "kept": "few values, not painted",
    "few": "few values",
    "tied": "follows from another channel",
}


class OneChannel(SliceCache):
    """The compared channel of a cache.

    Attributes:
        number: of the channel.
        left_out: sentences about the other channels, for people.
    """

    def __init__(self, cache: SliceCache, number: int, left_out: list[str]):
        super().__init__(cache.folder, cache.facts, cache.roles)
        self.number, self.left_out = number, left_out

    def image(self, identifier: str) -> np.ndarray:
        """(1, z, y, x) memory map of the compared channel."""
        return super().image(identifier)[self.number : self.number + 1]


def compared_channel(raw: RawDataset, cache: SliceCache, folds: Sequence[int]) -> OneChannel:
    """The first channel that is painted freely in all folds; the first one if there is none.

    Channels that are constant, copies, masks or of few values in training cases are no measure of a generator: they are
    set by rules in synthetic cases (``dataset.channels``).
    """
    if len(raw.channels) == 1:
        return OneChannel(cache, 0, [])
    measured: dict[str, CaseChannels] = {}
    relations = [find_relations(cache, raw.training_cases(fold), measured) for fold in folds]
    kinds = [[of_fold.channels[number].kind for of_fold in relations] for number in range(len(raw.channels))]
    free = [number for number, of_folds in enumerate(kinds) if set(of_folds) == {"free"}]
    number = free[0] if free else 0
    others = [channel for channel in range(len(kinds)) if channel != number]
    reasons = ", ".join(f"{named([channel], raw.channels)}: {_REASONS[kinds[channel][0]]}" for channel in others)
    return OneChannel(cache, number, [f"All figures are of {named([number], raw.channels)}. Left out are {reasons}."])
