"""Level and spread of the intensities in a region, as inputs of a network that is told them."""

from __future__ import annotations

import numpy as np
import torch

_DECADE = 10.0  # 1/_DECADE is the spread that is told as 0: 100 HU with the window of CT


def style_channels(image_channels: int) -> int:
    """Number of style channels: level and spread of each image channel, and where they are told."""
    return 2 * image_channels + 1


def style_of(values: np.ndarray) -> np.ndarray:
    """What a network is told about a lesion or a piece of normal lung.

    Args:
        values: (c, m) its voxels in [−1, 1]; m is at least 1.

    Returns:
        (2c,) float32 in [−1, 1]: for each channel its mean; for each channel log10 of ten times its standard deviation.
    """
    mean, spread = values.mean(1), values.std(1)
    return np.concatenate([mean, np.clip(np.log10(np.maximum(_DECADE * spread, 0.1)), -1, 1)]).astype(np.float32)


def told_spread(told: torch.Tensor) -> torch.Tensor:
    """The standard deviation that ``style_of`` tells."""
    return 10**told / _DECADE


def write_style(maps: np.ndarray, region: np.ndarray, style: np.ndarray) -> None:
    """Tells a style in a region, in place.

    Args:
        maps: (2c + 1, y, x) float32, 0 where nothing is told.
        region: (y, x) bool.
        style: from ``style_of``.
    """
    maps[:-1, region] = style[:, None]
    maps[-1, region] = 1
