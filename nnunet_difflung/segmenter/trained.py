"""A fold's trained networks, one without each part of the patients, and how they see a region of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from nnunet_difflung.segmenter.config import SegmenterConfig
from nnunet_difflung.segmenter.crops import Scale, box_around
from nnunet_difflung.segmenter.data import FIRST


@dataclass(frozen=True)
class Sight:
    """What a network sees of a class in an image.

    Attributes:
        voxels: number of voxels of the class.
        score: mean probability of the class in them (soft recall), 0 to 1.
        outside: mean probability of the class in the normal lung around them; NaN if there is none.
    """

    voxels: int
    score: float
    outside: float


@dataclass(frozen=True)
class Knowledge:
    """What the networks know of a class, measured on real lesions of training patients whom they have not seen.

    Attributes:
        patients, slices: how many were measured.
        recall: mean probability of the class in its voxels, each patient having the same weight.
        outside: mean probability of the class in the normal lung around them.
        floor: score below which a lesion is not recognised: a low percentile of the same figure of single slices, each
            patient having the same weight, but not less than ``outside``.
        below: share of the real slices below the floor, with the same weights.
        known: whether painted lesions of the class can be judged.
    """

    patients: int
    slices: int
    recall: float
    outside: float
    floor: float
    below: float
    known: bool


@dataclass(frozen=True)
class Part:
    """A network that was trained without some of the patients."""

    network: torch.nn.Module
    scale: Scale
    patients: tuple[str, ...]


@dataclass(frozen=True)
class Segmenters:
    """The networks of a fold.

    Attributes:
        parts: the networks; none with a single training patient.
        config: their settings.
        edge: of their crops.
        pathologies: names of the classes that they tell from normal lung.
        knowledge: class → what they know of it.
        hash: SHA-256 over the hashes of their weights.
        seconds: that the training took since it was last started.
    """

    parts: tuple[Part, ...]
    config: SegmenterConfig
    edge: int
    pathologies: tuple[str, ...]
    knowledge: Mapping[str, Knowledge] = field(default_factory=dict)
    hash: str = ""
    seconds: float = 0.0

    def unaware_of(self, patient: str) -> Part:
        """The network that was trained without a training patient."""
        return next(part for part in self.parts if patient in part.patients)

    def knows(self, name: str) -> bool:
        """Whether painted lesions of a class can be judged."""
        return name in self.knowledge and self.knowledge[name].known

    def see(
        self, patient: str, image: np.ndarray, regions: Mapping[str, np.ndarray], normal: np.ndarray
    ) -> dict[str, Sight]:
        """What the network that was trained without a patient sees in an image of this patient.

        Each slice is judged by itself in a box around the regions, so that a figure depends on nothing else.

        Args:
            patient: a training patient.
            image: (c, n, y, x) in the dataset's intensities.
            regions: class → (n, y, x) bool.
            normal: (n, y, x) bool, normal lung.

        Returns:
            class → what is seen of it, for the classes with voxels.
        """
        part, sums = self.unaware_of(patient), {name: np.zeros(4) for name, voxels in regions.items() if voxels.any()}
        for z in np.flatnonzero(np.any([regions[name].any((1, 2)) for name in sums], axis=0)) if sums else ():
            together = np.any([regions[name][z] for name in sums], axis=0)
            box = box_around(together, self.edge)
            seen, lung = self._probabilities(part, image[(slice(None), z, *box)]), normal[(z, *box)]
            for name, total in sums.items():
                voxels, of_class = regions[name][(z, *box)], seen[FIRST + self.pathologies.index(name)]
                if voxels.any():
                    total += of_class[voxels].sum(), voxels.sum(), of_class[lung].sum(), lung.sum()
        return {
            name: Sight(int(size), float(total / size), float(outside / lung) if lung else float("nan"))
            for name, (total, size, outside, lung) in sums.items()
        }

    @torch.inference_mode()
    def _probabilities(self, part: Part, image: np.ndarray) -> np.ndarray:
        """(k, y, x) probabilities of the classes in a (c, y, x) image."""
        factor = self.config.factor
        height, width = image.shape[1:]
        shape = (-(-height // factor) * factor, -(-width // factor) * factor)
        device = next(part.network.parameters()).device
        seen = part.network(torch.from_numpy(part.scale.apply(image, shape))[None].to(device))
        return torch.softmax(seen.float(), 1)[0, :, :height, :width].cpu().numpy().astype(float)
