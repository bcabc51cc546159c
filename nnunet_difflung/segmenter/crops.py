"""Crops of slices as inputs of the segmenter: intensities on one scale, training batches, a box around a region."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from nnunet_difflung.dataset.cache import SliceCache, index_slices
from nnunet_difflung.segmenter.config import SegmenterConfig
from nnunet_difflung.segmenter.data import SegmenterData, targets

_EVERY = 7  # of the lung's voxels, for the scale of the intensities
_MOST = 10**7  # voxels of the lung that the scale is taken from, about
_CONTEXT = 8  # pixels around a region that is larger than a crop


@dataclass(frozen=True)
class Scale:
    """nnU-Net's normalisation of CT, with the figures of lung voxels: clipped, mean 0, standard deviation 1.

    Attributes:
        channels: for each channel its low and high bound, mean and standard deviation.
    """

    channels: tuple[tuple[float, float, float, float], ...]

    @classmethod
    def of(cls, cache: SliceCache, cases: Sequence[str]) -> Scale:
        """The scale of training cases: bounds are the 0.5 and 99.5 percentiles of their lung voxels.

        Of many or large cases fewer voxels are taken, so that memory does not grow with them.
        """
        values, rows = cache.roles.lung_values(), []
        voxels = sum(cache.facts[i].voxels(name) for i in cases for name in cache.roles.lung)
        every = max(_EVERY, math.ceil(voxels / _MOST))
        samples: list[list[np.ndarray]] = [[] for _ in range(cache.facts[cases[0]].channels)]
        for identifier in cases:
            lung, image = np.isin(cache.condition(identifier), values), cache.image(identifier)
            for channel, of_channel in enumerate(samples):
                of_channel.append(image[channel][lung][::every].copy())  # a view would keep them all
        for of_channel in samples:
            sample = np.concatenate(of_channel).astype(float)
            low, high = np.percentile(sample, (0.5, 99.5)) if sample.size else (0.0, 1.0)
            clipped = np.clip(sample, low, high) if sample.size else np.array([0.0, 1.0])
            rows.append((float(low), float(high), float(clipped.mean()), max(float(clipped.std()), 1e-6)))
        return cls(tuple(rows))

    def apply(self, image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """(c, y, x) in the dataset's intensities → (c, h, w) float32, padded at the ends with the low bounds."""
        low, high, mean, sd = np.array(self.channels, np.float32).T[..., None, None]
        pad = [(0, 0), *((0, edge - length) for edge, length in zip(shape, image.shape[1:], strict=True))]
        scaled = (np.clip(image.astype(np.float32), low, high) - mean) / sd
        padded = np.pad(scaled, pad)
        for channel, value in enumerate(((low - mean) / sd).ravel()):
            padded[channel, image.shape[1] :], padded[channel, :, image.shape[2] :] = value, value
        return padded


def edge_of(data: SegmenterData, config: SegmenterConfig) -> int:
    """Edge of the crops: that of the settings, or of the largest slice if that is smaller."""
    largest = max(max(data.cache.facts[i].shape[1:]) for i in data.training_cases)
    return -(-min(config.patch_size, largest) // config.factor) * config.factor


class CropSource:
    """Training batches as a pure function of (seed, fold, part, step).

    Args:
        data: the fold's training cases.
        cases: those of them that the network is trained on.
        config: settings.
        scale: of the intensities.
        part: number of the part that the network is trained without.
    """

    def __init__(self, data: SegmenterData, cases: Sequence[str], config: SegmenterConfig, scale: Scale, part: int):
        self.data, self.config, self.scale, self.part = data, config, scale, part
        self.index, self.edge = index_slices(data.cache, cases), edge_of(data, config)
        self.present = [name for name, slices in self.index.holding.items() if len(slices)]

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, c, e, e) float32 images and (n, 1, e, e) int64 classes."""
        rng = np.random.default_rng(self.data.key(self.config.seed, self.part, step))
        images, classes = zip(*(self._crop(rng) for _ in range(self.config.batch_size)), strict=True)
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(classes))[:, None]

    def _crop(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        cache, roles, wanted = self.data.cache, self.data.roles, None
        if self.present and rng.random() < self.config.balanced_share:
            wanted = self.present[rng.integers(len(self.present))]
        number = int(rng.choice(self.index.holding[wanted] if wanted else len(self.index)))
        case, z = self.index.cases[number], self.index.z[number]
        condition = np.asarray(cache.condition(case)[z])
        mask = condition == roles.values[wanted] if wanted else np.isin(condition, roles.lung_values())
        centre = rng.choice(np.argwhere(mask)) + rng.integers(-self.edge // 4, self.edge // 4 + 1, 2)
        start = np.clip(centre - self.edge // 2, 0, np.maximum(np.array(condition.shape) - self.edge, 0))
        box = tuple(slice(first, first + self.edge) for first in start)
        image = self.scale.apply(np.asarray(cache.image(case)[(slice(None), z, *box)]), (self.edge, self.edge))
        classes = targets(condition[box], roles)
        classes = np.pad(classes, [(0, self.edge - length) for length in classes.shape])
        if rng.random() < 0.5:
            return image[..., ::-1].copy(), classes[..., ::-1].copy()
        return image, classes


def box_around(region: np.ndarray, edge: int) -> tuple[slice, slice]:
    """A part of a slice in which the network judges a region: as large as its crops, or larger if the region is.

    Args:
        region: (y, x) bool, not empty.
        edge: of the crops in training.
    """
    box = ndimage.find_objects(region.astype(np.uint8))[0]
    parts = []
    for part, length in zip(box, region.shape, strict=True):
        extent = part.stop - part.start
        wanted = edge if extent <= edge else extent + 2 * _CONTEXT
        start = int(np.clip((part.start + part.stop - wanted) // 2, 0, max(0, length - wanted)))
        parts.append(slice(start, min(start + wanted, length)))
    return parts[0], parts[1]
