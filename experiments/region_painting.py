"""Paints real lesions of validation patients back into their real surroundings, as augmentation would paint them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.config import Settings
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.generator.store import is_finished, load_generator
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.generator.training import FoldData
from nnunet_difflung.lesions.balance import collect_lesions
from nnunet_difflung.lesions.masks import Lesion, Transform, warp
from nnunet_difflung.lesions.plan import Plan, PlannedCase
from nnunet_difflung.lesions.texture import ROOM, moved_texture, paste_texture
from nnunet_difflung.painting.fade import fade_stack, weights
from nnunet_difflung.painting.jobs import Job, make_jobs, paint_jobs
from nnunet_difflung.pipeline.fold import _without_network
from nnunet_difflung.preparing.application import AppliedCase, painted_region, paints_together
from nnunet_difflung.preparing.donors import Donors, of_layer, restyled
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.preparing.lung_level import lung_around
from nnunet_difflung.preparing.stacks import depth_of_margin, with_margin

SCALES = (0.75, 1.5)  # by how much a donor's texture is scaled at most, as in augmentation


@dataclass(frozen=True)
class Painted:
    """A slice of a real lesion, and the same slice with the lesion painted anew.

    Attributes:
        patient: of the lesion.
        place: case id and z of the slice.
        real: (h, w) intensities.
        image: (h, w) with the painted lesion.
        lesion: (h, w) bool, the outline.
        region: (h, w) bool, all that was painted.
        normal: (h, w) bool, normal lung.
    """

    patient: str
    place: tuple[str, int]
    real: np.ndarray
    image: np.ndarray
    lesion: np.ndarray
    region: np.ndarray
    normal: np.ndarray


def open_fold(raw: RawDataset, cache: SliceCache, number: int, settings: Settings) -> Fold:
    """A fold with the lesions of its training cases and an empty plan."""
    data = FoldData(cache, tuple(raw.channels), raw.name, number, tuple(raw.training_cases(number)))
    lesions = collect_lesions(data.training_cases, cache.facts, raw.roles, cache.label)
    return Fold(raw, data, settings, lesions, Plan([], {}, {}, {}, 0))


def generator_of(fold: Fold, device: str) -> Generator:
    """The fold's generator of its method.

    Raises:
        BadInput: it is not trained.
    """
    if not fold.method.generator:
        return _without_network(fold)
    if not is_finished(fold.folder):
        raise BadInput(
            f"{fold.folder} holds no finished generator; run difflung_augment -d {fold.raw.name} -f {fold.number} "
            f"--method {fold.method.name}"
        )
    return load_generator(fold.folder, device)


@dataclass(frozen=True)
class Volume:
    """A real lesion of a volume with some slices around it, and the same with the lesion painted anew.

    Attributes:
        patient: of the lesion.
        real: (z, h, w) intensities.
        image: (z, h, w) with the painted lesion.
        lesion: (z, h, w) bool, the outline.
        normal: (z, h, w) bool, normal lung.
    """

    patient: str
    real: np.ndarray
    image: np.ndarray
    lesion: np.ndarray
    normal: np.ndarray


def painted_volumes(fold: Fold, pathology: str, device: str, seed: int) -> Iterator[Volume]:
    """As ``painted_lesions``, each lesion with all of its slices and one beyond its ends."""
    if not fold.lesions.get(pathology):
        raise BadInput(f"fold {fold.number} of {fold.raw.name}: its training cases have no {pathology}")
    generator, cache, roles, sampling = generator_of(fold, device), fold.cache, fold.cache.roles, fold.settings.sampling
    validation = fold.raw.validation_cases(int(fold.number))
    lesions = collect_lesions(validation, cache.facts, roles, cache.label).get(pathology, [])
    for index, lesion in enumerate(lesions):
        rng = np.random.default_rng([seed, int(fold.number), index])
        applied = apply_back(fold, lesion, fold.lesions[pathology], rng)
        slices = with_margin(applied.planned.slices, 1, applied.shape[0])
        real = np.asarray(cache.image(lesion.case)[0, list(slices)]).astype(np.float32)
        image = real.copy()
        for job in make_jobs(applied, generator, roles, sampling, 0):
            (painted,) = paint_jobs([job], fold.method, generator, sampling, device)
            painted = _faded(fold, generator, applied, job, painted)
            for n, z in enumerate(job.slices):
                view = image[slices.index(z)][job.crop]
                view[job.stack.own[n]] = painted[0, n][job.stack.own[n]]
        outline = np.zeros(image.shape, bool)
        for n, z in enumerate(applied.planned.slices):
            outline[slices.index(z)] = applied.changed[n]
        normal = roles.is_normal(cache.label(lesion.case)[list(slices)])
        yield Volume(fold.raw.patients[lesion.case], real, image, outline, normal)


def painted_lesions(
    fold: Fold, pathology: str, device: str, seed: int, places: Collection[tuple[str, int]] | None = None
) -> Iterator[Painted]:
    """Paints each lesion of a class of the fold's validation cases.

    Level, spread and texture come from a training lesion drawn at random for each, whatever the method takes of it.

    Args:
        fold: of the method that paints.
        pathology: the class.
        device: ``cpu`` or ``cuda``.
        seed: of the drawn lesions and the noise.
        places: (case, z) of slices; only lesions that reach one of them are painted.

    Raises:
        BadInput: the training cases have no lesion of the class, or the generator is not trained.
    """
    if not fold.lesions.get(pathology):
        raise BadInput(f"fold {fold.number} of {fold.raw.name}: its training cases have no {pathology}")
    generator, cache, roles = generator_of(fold, device), fold.cache, fold.cache.roles
    validation = fold.raw.validation_cases(int(fold.number))
    lesions = collect_lesions(validation, cache.facts, roles, cache.label).get(pathology, [])
    jobs: list[tuple[Job, AppliedCase, Lesion]] = []
    for index, lesion in enumerate(lesions):
        layers = range(lesion.start[0], lesion.start[0] + len(lesion.mask))
        if places is not None and not any((lesion.case, z) in places for z in layers):
            continue
        rng = np.random.default_rng([seed, int(fold.number), index])
        applied = apply_back(fold, lesion, fold.lesions[pathology], rng)
        jobs += [(job, applied, lesion) for job in make_jobs(applied, generator, roles, fold.settings.sampling, 0)]
    by_shape: dict[tuple[int, int], list[int]] = {}
    for i, (job, _, _) in enumerate(jobs):
        by_shape.setdefault(job.shape, []).append(i)
    size = fold.settings.sampling.batch_size
    for group in by_shape.values():
        for first in range(0, len(group), size):
            batch = [jobs[i] for i in group[first : first + size]]
            images = paint_jobs([job for job, _, _ in batch], fold.method, generator, fold.settings.sampling, device)
            for (job, applied, lesion), image in zip(batch, images, strict=True):
                image = _faded(fold, generator, applied, job, image)
                for n, z in enumerate(job.slices):
                    painted = _composed(fold, job, applied, lesion, z, image[:, n])
                    if painted.lesion.any():  # slices above and below it are painted too, but show none of it
                        yield painted


def _faded(fold: Fold, generator: Generator, applied: AppliedCase, job: Job, image: np.ndarray) -> np.ndarray:
    """What was painted, faded into the slices as in augmentation."""
    weight = weights(applied, fold.settings.sampling, bool(generator.config.neighbours))
    if weight is None:
        return image
    normal = fold.cache.roles.is_normal(applied.new_label)
    return fade_stack(image, applied, job.stack, weight, normal, generator.config.windows)


def _composed(fold: Fold, job: Job, applied: AppliedCase, lesion: Lesion, z: int, image: np.ndarray) -> Painted:
    """Puts what was painted into the real slice."""
    position = applied.planned.slices.index(z)
    real, region = applied.image[0, position].astype(np.float32), applied.region[position]
    painted = real.copy()
    painted[job.crop][region[job.crop]] = image[0][region[job.crop]]
    label = fold.cache.label(lesion.case)[z]
    patient = fold.raw.patients[lesion.case]
    normal = fold.cache.roles.is_normal(label)
    return Painted(patient, (lesion.case, z), real, painted, applied.changed[position], region, normal)


def apply_back(fold: Fold, lesion: Lesion, donors: Sequence[Lesion], rng: np.random.Generator) -> AppliedCase:
    """A real lesion as if it were to be added to its own case, where normal lung lay before.

    Args:
        fold: fold of the method that paints.
        lesion: of a validation case.
        donors: training lesions of the class.
        rng: chooses the donor, how its texture is turned, and the noise.
    """
    cache, roles, facts = fold.cache, fold.cache.roles, fold.cache.facts[lesion.case]
    layers = range(lesion.start[0], lesion.start[0] + len(lesion.mask))
    slices = tuple(z for z, part in zip(layers, lesion.mask, strict=True) if part.any())
    together = paints_together(fold.method, fold.settings, facts.shape)
    if together:
        slices = with_margin(slices, depth_of_margin(fold.settings.sampling.margin, facts.spacing), facts.shape[0])
    changed = np.zeros(facts.shape, bool)
    changed[lesion.box] = lesion.mask
    changed, label = changed[list(slices)], np.array(cache.label(lesion.case)[list(slices)])
    before = np.where(changed, roles.values[roles.normal[0]], label)
    image = np.array(cache.image(lesion.case)[:, list(slices)])
    donor = donors[int(rng.integers(len(donors)))]
    planned = PlannedCase(0, lesion.case, (), slices, int(rng.integers(2**40)))
    family, pasted, style = family_of(fold.method), None, {}
    if family.starts_from_paste:
        pasted = image.astype(np.float32)
        for n in range(len(slices)):
            transplant(
                pasted[:, n : n + 1],
                changed[n : n + 1],
                roles.is_normal(before[n : n + 1]),
                donor,
                cache,
                facts.spacing,
                rng,
            )
    if family.uses_style:
        around = lung_around(image, roles.is_normal(before) & ~changed, changed, facts.spacing)
        change = fold.styles[donor.pathology].change(donor, around, rng)
        style = {"donors": _donors(changed, donor, change, cache, together)}
    every = cache.condition(lesion.case)
    beside = {}
    if together:
        further = set(with_margin(slices, 1, facts.shape[0])) - set(slices)
        beside = {z: (np.array(cache.image(lesion.case)[:, z]), np.array(every[z])) for z in further}
    along_z = (slices, facts.spacing) if together else None
    region = painted_region(before, changed, roles, fold.settings.sampling, along_z)
    condition = np.array(every[list(slices)])
    return AppliedCase(
        planned,
        facts.shape,
        facts.spacing,
        image,
        label,
        changed,
        condition,
        region,
        pasted,
        beside=beside,
        **style,
    )


def _donors(
    changed: np.ndarray,
    donor: Lesion,
    change: tuple[np.ndarray, np.ndarray] | None,
    cache: SliceCache,
    together: bool,
) -> Donors:
    """A training lesion as the donor of another lesion, from its lowest to its highest slice."""
    owner = np.zeros(changed.shape, np.int32)
    layers = np.flatnonzero(changed.any((1, 2)))
    for number, n in enumerate(layers, 1):
        owner[n][changed[n]] = number
    heights = (np.arange(len(layers)) + 0.5) / max(1, len(layers))
    voxels = [restyled(of_layer(cache, donor, height, int(together)), change) for height in heights]
    return Donors(owner, (owner > 0).astype(np.int32) if together else owner, tuple(voxels))


def transplant(
    image: np.ndarray,
    outline: np.ndarray,
    free: np.ndarray,
    donor: Lesion,
    cache: SliceCache,
    spacing: Sequence[float],
    rng: np.random.Generator,
) -> None:
    """Pastes a donor's texture into another lesion's outline in one slice, in place, as copy_paste does.

    The donor's largest slice is turned and mirrored at random, scaled towards the outline's area, and continued beyond
    the donor's own outline by reflection where the other one is larger.

    Args:
        image: (c, 1, h, w) float32.
        outline: (1, h, w) bool, not empty.
        free: (1, h, w) bool, normal lung before the lesion was there.
        donor: lesion of a training case.
        cache: the dataset's real cases.
        spacing: z, y, x of the host in mm.
        rng: chooses mirror and angle.
    """
    layer = int(np.argmax(donor.mask.sum((1, 2))))
    mask = donor.mask[layer : layer + 1]
    z = donor.box[0].start + layer
    values = np.asarray(cache.image(donor.case)[(slice(None), slice(z, z + 1), *donor.box[1:])])
    ratio = np.array([1.0, *(np.array(donor.spacing[1:]) / spacing[1:])])  # of a slice
    wanted = np.sqrt(outline.sum() / (mask.sum() * ratio[1] * ratio[2]))
    transform = Transform(bool(rng.random() < 0.5), float(rng.uniform(0, 360)), float(np.clip(wanted, *SCALES)))
    warped = warp(mask, transform, ratio, spacing)
    if not warped.mask.any():
        transform = Transform(transform.mirror)
        warped = warp(mask, transform, (1, 1, 1))
        ratio = np.ones(3)
    box = tuple(slice(int(p.min()) - ROOM, int(p.max()) + 1 + ROOM) for p in np.nonzero(outline)[1:])
    size = [part.stop - part.start for part in box]
    room = ROOM + max(0, *(n - m for n, m in zip(size, warped.mask.shape[1:], strict=True)))
    texture = moved_texture(values, mask, transform, ratio, warped, room, spacing)
    start = [(m - n) // 2 for n, m in zip(size, texture.shape[2:], strict=True)]
    inside = [slice(max(0, p.start), min(n, p.stop)) for p, n in zip(box, outline.shape[1:], strict=True)]
    part = [slice(s + i.start - p.start, s + i.stop - p.start) for s, i, p in zip(start, inside, box, strict=True)]
    window = (slice(None), *inside)
    paste_texture(
        image[(slice(None), *window)], texture[(slice(None), slice(None), *part)], free[window], outline[window]
    )
