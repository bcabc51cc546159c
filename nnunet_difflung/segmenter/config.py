"""The settings of a fold's segmenter; they are the same for every run but for the seed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SegmenterConfig:
    """All settings that determine a segmenter's weights and what counts as known; the training cases do the rest.

    Attributes:
        seed: of parts, initial weights and crops.
        parts: number of parts of the training patients; a network is trained without each of them.
        features: feature channels of each resolution level of the U-Net.
        patch_size: edge of the crops in pixels, at most that of the slices.
        batch_size: crops in a training step.
        steps: training steps of each network.
        learning_rate: of AdamW at the first step.
        balanced_share: share of the crops that are drawn around a pathology, all pathologies equally often.
        least_recall: a class is known if the mean probability of it in real lesions of unseen patients exceeds that in
            the normal lung around them by this much.
        floor_percentile: of the real lesions' scores; a painted lesion of a known class below it, or below what is seen
            in normal lung, is not recognised.
    """

    seed: int = 12345
    parts: int = 3
    features: tuple[int, ...] = (8, 16, 32, 64)
    patch_size: int = 64
    batch_size: int = 12
    steps: int = 600
    learning_rate: float = 3e-3
    balanced_share: float = 0.6
    least_recall: float = 0.3
    floor_percentile: float = 5.0

    @property
    def factor(self) -> int:
        """The number that image edges must be multiples of, because of the network's poolings."""
        return 2 ** (len(self.features) - 1)
