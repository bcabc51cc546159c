"""Paints a mask that is given as arrays, without a plan and without a case on disk.

It goes the way of a planned case (``preparing.application``, ``jobs``). Each connected part of the new mask is a
lesion, which gets the level and the spread of a real lesion of its class, or those that the caller tells (``Looks``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.channels import Relations
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.methods import Method
from nnunet_difflung.painting.batches import Batches
from nnunet_difflung.painting.fade import weights
from nnunet_difflung.painting.jobs import Job, make_jobs, paint_jobs, with_painted
from nnunet_difflung.preparing.application import AppliedCase, painted_region
from nnunet_difflung.preparing.donors import Donors, of_layer, restyled
from nnunet_difflung.preparing.lung_level import lung_around
from nnunet_difflung.preparing.stacks import Stack, depth_of_margin, with_margin
from nnunet_difflung.preparing.styles import ClassStyles

_CONNECTED = np.ones((3, 3, 3), bool)
_LARGE = 30  # voxels of a real lesion whose mean and spread can be trusted

Layers = Callable[[float, int], np.ndarray]
"""(height in the lesion from 0 to 1, slices above and below that count too) → (c, m) voxels that look as it is to."""
Looks = Callable[[str, "np.ndarray | None", np.random.Generator], Layers]
"""(pathology, (c,) level of the normal lung around the new lesion or None, draws) → the looks of the new lesion."""


@dataclass(frozen=True)
class Drawn:
    """A mask to paint into a real image.

    Attributes:
        image: (c, z, y, x) the image's intensities.
        label: (z, y, x) its label values.
        new_label: (z, y, x) label values with the mask; where they differ, ``label`` is normal lung.
        condition: (z, y, x) condition map of ``label``.
        spacing: (z, y, x) in mm.
        seed: of the looks and of the noise.
    """

    image: np.ndarray
    label: np.ndarray
    new_label: np.ndarray
    condition: np.ndarray
    spacing: tuple[float, float, float]
    seed: int


def real_looks(lesions: dict[str, list[Lesion]], styles: Mapping[str, ClassStyles], cache: SliceCache) -> Looks:
    """A new lesion looks like a real one of its class, drawn at random, changed as in a plan (``preparing.styles``).

    Args:
        lesions: pathology → real lesions of the generator's training cases.
        styles: pathology → their styles.
        cache: the real cases.
    """

    def looks(pathology: str, lung: np.ndarray | None, rng: np.random.Generator) -> Layers:
        found = lesions[pathology]
        large = [lesion for lesion in found if lesion.voxels >= _LARGE] or found
        lesion = large[int(rng.integers(len(large)))]
        change = styles[pathology].change(lesion, lung, rng)
        return lambda height, reach: restyled(of_layer(cache, lesion, height, reach), change)

    return looks


def told_looks(told: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Looks:
    """A new lesion has the level and the spread that are told.

    Args:
        told: pathology → (c,) mean and (c,) standard deviation in the image's intensities.
    """

    def looks(pathology: str, lung: np.ndarray | None, rng: np.random.Generator) -> Layers:
        level, spread = told[pathology]
        return lambda height, reach: np.stack([level - spread, level + spread], 1)

    return looks


def paint_mask(
    drawn: Drawn,
    method: Method,
    generator: Generator,
    roles: LabelRoles,
    sampling: SamplingConfig,
    looks: Looks | None = None,
    relations: Relations | None = None,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Paints a mask.

    Args:
        drawn: what to paint, and where.
        method: a method with a generator that does not start from pasted texture.
        generator: of the method.
        roles: of the labels.
        sampling: settings of painting; ``paint`` is ``composite``.
        looks: how bright and how rough lesions are to be, for methods that use it; None: the network is told nothing.
        relations: what holds between the channels; None: nothing.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        (c, z, y, x) float32 intensities, and (z, y, x) bool, where they may differ from those of the image.
    """
    applied = _applied(drawn, method, generator, roles, sampling, looks)
    batches, painted = Batches[Job](sampling.batch_size), list[tuple[Stack, np.ndarray]]()

    def paint(batch: list) -> None:
        images = paint_jobs(batch, method, generator, sampling, device)
        painted.extend(zip((job.stack for job in batch), images, strict=True))

    for job in make_jobs(applied, generator, roles, sampling, attempt=0):
        if batch := batches.add(job):
            paint(batch)
    for batch in batches.rest():
        paint(batch)
    slices, values = list(applied.planned.slices), drawn.image.astype(np.float32)
    values[:, slices] = with_painted(
        applied,
        painted,
        generator.config.windows,
        relations or Relations(),
        roles.is_normal(applied.new_label),
        weights(applied, sampling, bool(generator.config.neighbours)),
    )
    return values, applied.in_host(applied.region)


def _applied(
    drawn: Drawn,
    method: Method,
    generator: Generator,
    roles: LabelRoles,
    sampling: SamplingConfig,
    looks: Looks | None,
) -> AppliedCase:
    """The mask as a planned case that was applied to its host."""
    depth, height, width = drawn.label.shape
    changed = drawn.new_label != drawn.label
    together = bool(generator.config.neighbours) and depth > 1
    slices = tuple(int(z) for z in np.flatnonzero(changed.any((1, 2))))
    if together:
        slices = with_margin(slices, depth_of_margin(sampling.margin, drawn.spacing), depth)
    at = list(slices)
    along_z = (slices, drawn.spacing) if together else None
    donors = _donors(drawn, at, roles, looks, together) if looks and family_of(method).uses_style else None
    further = set(with_margin(slices, 1, depth)) - set(slices) if together else set()
    return AppliedCase(
        PlannedCase(0, "", (), slices, drawn.seed),
        (depth, height, width),
        drawn.spacing,
        drawn.image[:, at],
        drawn.new_label[at],
        changed[at],
        np.where(changed, drawn.new_label, drawn.condition)[at],
        painted_region(drawn.label[at], changed[at], roles, sampling, along_z),
        donors=donors,
        beside={z: (drawn.image[:, z], drawn.condition[z]) for z in further},
    )


def _donors(drawn: Drawn, slices: list[int], roles: LabelRoles, looks: Looks, together: bool) -> Donors:
    """What gives each voxel of the new lesions its level and spread, in the slices that change (``find_donors``)."""
    normal, image = roles.is_normal(drawn.new_label[slices]), drawn.image[:, slices]
    owner, held, voxels = np.zeros(normal.shape, np.int32), np.zeros(normal.shape, np.int32), list[np.ndarray]()
    run = slice(slices[0], slices[-1] + 1)  # slices between those that change keep lesions apart
    label, new_label, number = drawn.label[run], drawn.new_label[run], 0
    for pathology in roles.pathologies:
        value = roles.values[pathology]
        parts, count = ndimage.label((new_label == value) & (label != value), _CONNECTED)
        parts = parts[[z - slices[0] for z in slices]]
        for part in range(1, count + 1):
            number += 1
            outline = parts == part
            rng = np.random.default_rng([drawn.seed, number])
            layers = looks(pathology, lung_around(image, normal, outline, drawn.spacing), rng)
            inside = np.flatnonzero(outline.any((1, 2)))
            height_of = partial(np.interp, xp=(inside[0] - 0.5, inside[-1] + 0.5), fp=(0.0, 1.0))
            for n in inside:
                voxels.append(layers(float(height_of(n)), 1 if together else 0))
                owner[n][outline[n]] = len(voxels)
                held[n][outline[n]] = number if together else len(voxels)
    return Donors(owner, held, tuple(voxels))
