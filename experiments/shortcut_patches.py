"""Patches of normal lung around lesions, as the shortcut probe's classifier sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

SEAM = 0.5  # step of a known seam as a share of the standard deviation of visible normal lung


@dataclass(frozen=True)
class Patches:
    """Patches as the classifier sees them.

    Attributes:
        pixels: (n, c, p, p) intensities.
        visible: (n, p, p) bool, False for hidden pixels and beyond the image.
        lung: (n, p, p) bool, visible normal lung.
        patient: (n,) of each patch.
        case: (n,) synthetic or real case that each patch was cut for.
    """

    pixels: np.ndarray
    visible: np.ndarray
    lung: np.ndarray
    patient: np.ndarray
    case: np.ndarray

    def __getitem__(self, chosen) -> Patches:
        return Patches(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def joined(parts: Sequence[Patches]) -> Patches:
    """Joins several sets of patches."""
    return Patches(*(np.concatenate([getattr(p, name) for p in parts]) for name in Patches.__dataclass_fields__))


def centres_around(
    region: np.ndarray, normal: np.ndarray, margin: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    """(at most count, 3) z, y, x drawn from the normal lung within ``margin`` pixels of a region."""
    plane = ndimage.generate_binary_structure(2, 1)[None]
    ring = np.argwhere(ndimage.binary_dilation(region, plane, margin) & normal & ~region)
    return ring[rng.permutation(len(ring))[:count]]


def cut(
    image: np.ndarray, hidden: np.ndarray, normal: np.ndarray, centres: np.ndarray, size: int, patient: str, case: str
) -> Patches:
    """Patches of ``size`` pixels around voxels of one case.

    Args:
        image: (c, z, y, x).
        hidden: (z, y, x) bool, the pathology.
        normal: (z, y, x) bool, normal lung.
        centres: (n, 3).
        size: edge in pixels.
        patient: of the case.
        case: its id.
    """
    before, after = size // 2, size - size // 2
    room = [(0, 0), (before, after), (before, after)]
    image = np.pad(image.astype(np.float32), [(0, 0), *room])
    visible, lung = np.pad(~hidden, room), np.pad(normal & ~hidden, room)
    windows = [(z, slice(y, y + size), slice(x, x + size)) for z, y, x in centres]
    return Patches(
        np.array([image[(slice(None), *w)] for w in windows]).reshape(-1, len(image), size, size),
        np.array([visible[w] for w in windows], bool).reshape(-1, size, size),
        np.array([lung[w] for w in windows], bool).reshape(-1, size, size),
        np.array([patient] * len(windows)),
        np.array([case] * len(windows)),
    )


def seam_step(patches: Patches) -> float:
    """The intensity step of a known seam."""
    return SEAM * float(patches.pixels[:, 0][patches.lung].std())


def with_seam(patches: Patches) -> Patches:
    """The same patches with the step added to the lung pixels next to hidden ones."""
    edge = ndimage.binary_dilation(~patches.visible, ndimage.generate_binary_structure(2, 1)[None]) & patches.lung
    return replace(patches, pixels=patches.pixels + seam_step(patches) * edge[:, None])


def blind(patches: Patches) -> Patches:
    """The same patches without intensities: only their masks can be seen."""
    return replace(patches, pixels=np.zeros_like(patches.pixels))


def by_lot(patches: Patches, seed: int) -> tuple[Patches, Patches]:
    """Splits patches of one kind at random into two halves; a case is in one of them."""
    cases = np.random.default_rng(seed).permutation(np.unique(patches.case))
    first = np.isin(patches.case, cases[::2])
    return patches[first], patches[~first]
