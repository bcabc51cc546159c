"""The slices of a synthetic case as inputs of a network (crop, voxels to paint, noise), and what it painted of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.dataset.channels import Relations
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.along_z import along_stacks, correlation
from nnunet_difflung.generator.encoding import Encoding, grow, intensities
from nnunet_difflung.generator.sampling import SliceInputs, paint_slices
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.methods import Method
from nnunet_difflung.painting.fade import fade_stack
from nnunet_difflung.preparing.application import AppliedCase
from nnunet_difflung.preparing.donors import style_maps
from nnunet_difflung.preparing.stacks import Stack, stacks_of, with_margin, with_neighbours

_CORRELATION_MM = 5.0  # length over which the noise of a volume's slices is correlated where it was not measured


@dataclass(frozen=True)
class Job:
    """A slice to paint, or a stack of neighbouring slices.

    Attributes:
        index: number of the planned case.
        number: of the job in the case.
        stack: the slices and their crop.
        slices: z of the slices in the host.
        inputs: inputs of the network for the crop of each slice. Those of a single slice have a ``blend``, which is 1
            in the outline and falls to 0 over the margin; those of a stack begin and end with the slices below and
            above it, which stay as they are.
        first: index in ``inputs`` of the first slice to paint.
    """

    index: int
    number: int
    stack: Stack
    slices: tuple[int, ...]
    inputs: tuple[SliceInputs, ...]
    first: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """Number of the planned case, and of the job in it."""
        return self.index, self.number

    @property
    def number_of_slices(self) -> int:
        """Slices among its inputs, with those beside the painted ones."""
        return len(self.inputs)

    @property
    def crop(self) -> tuple[slice, slice]:
        """(y, x) slices into the host, inside its bounds."""
        return self.stack.crop

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) that the network sees."""
        _, height, width = self.inputs[0].condition.shape
        return height, width


def make_jobs(
    applied: AppliedCase,
    generator: Generator,
    roles: LabelRoles,
    sampling: SamplingConfig,
    attempt: int,
    wanted: Collection[int] | None = None,
) -> list[Job]:
    """A planned case as inputs of the network; a pure function of its arguments.

    Args:
        applied: the case.
        generator: that paints it.
        roles: of the labels.
        sampling: settings of painting.
        attempt: number of the attempt, for other noise.
        wanted: numbers of the jobs to make; None: all of them.
    """
    encoding = Encoding.of(generator.config, roles.condition_values())
    together = bool(generator.config.neighbours)
    stacks = stacks_of(applied.region, applied.planned.slices, encoding.factor, sampling, together)
    numbered = [(n, stack) for n, stack in enumerate(stacks) if wanted is None or n in wanted]
    if together:
        return [_stack_job(applied, stack, n, generator, encoding, attempt) for n, stack in numbered]
    noise = _noise(applied, attempt)
    return [_slice_job(applied, stack, n, generator, encoding, noise, sampling, attempt) for n, stack in numbered]


def _slice_job(
    applied: AppliedCase,
    stack: Stack,
    number: int,
    generator: Generator,
    encoding: Encoding,
    noise: np.ndarray,
    sampling: SamplingConfig,
    attempt: int,
) -> Job:
    """A single slice, with its part of the host's noise (c, z, y, x)."""
    (position,), crop, region = stack.positions, stack.crop, stack.own[0]
    z, shape = applied.planned.slices[position], encoding.grown(region.shape)
    condition = applied.condition[position][crop]
    pasted = None if applied.pasted is None else applied.pasted[(slice(None), position, *crop)]
    style = parts = None
    if donors := applied.donors:
        parts = donors.held[position][crop]
        whole = style_maps(donors.owner[position], applied.region[position], donors.voxels, generator.config.windows)
        style = grow(whole[(..., *crop)], shape)
    inputs = SliceInputs(
        condition=encoding.masks(condition, shape),
        noise=_grown_noise(noise[(slice(None), z, *crop)], shape, (applied.planned.seed, z, attempt)),
        seed=(applied.planned.seed * 4099 + z) * 16 + attempt,
        known=encoding.image(applied.image[(slice(None), position, *crop)], condition, shape),
        is_known=~grow(region, shape)[None],  # so is what is padded
        blend=grow(_blend(applied.outline[position][crop], region, sampling), shape)[None],
        start=None if pasted is None else encoding.image(pasted, condition, shape),
        style=style,
        parts=None if parts is None else grow(parts, shape)[None],
    )
    return Job(applied.planned.index, number, stack, (z,), (inputs,))


def _stack_job(
    applied: AppliedCase, stack: Stack, number: int, generator: Generator, encoding: Encoding, attempt: int
) -> Job:
    """A stack, with noise of its own, and with the slices below and above it, where the host has them."""
    slices = [applied.planned.slices[position] for position in stack.positions]
    every = with_margin(slices, 1, applied.shape[0])
    shared = correlation(applied.spacing[0], generator.config.correlation_mm or _CORRELATION_MM)
    shape = encoding.grown(stack.own.shape[1:])
    sequence = np.random.SeedSequence([applied.planned.seed, attempt, number])  # other stacks have the same slices
    seed, *of_slices = map(int, sequence.generate_state(1 + len(every), np.uint64) >> np.uint64(1))
    source = torch.Generator().manual_seed(seed)
    noise = torch.randn((len(every), len(applied.image), *shape), generator=source)
    noise = along_stacks(noise, [len(every)], torch.full((len(every),), shared))
    own = np.zeros((len(every), *stack.own.shape[1:]), bool)
    own[every.index(slices[0]) : every.index(slices[0]) + len(slices)] = stack.own
    owner, held = np.zeros(own.shape, np.int32), np.zeros(own.shape, np.int32)
    if donors := applied.donors:
        for target, array in ((owner, donors.owner), (held, donors.held)):
            target[own] = array[list(stack.positions)][(slice(None), *stack.crop)][stack.own]
    voxels = donors.voxels if donors else ()
    style = style_maps(owner, own, voxels, generator.config.windows, applied.spacing)
    told = with_neighbours(np.asarray(owner.any((1, 2))))
    style[:, ~told] = 0  # in training a style is told where the network sees the lesion
    inputs = []
    for n, z in enumerate(every):
        image, condition = (part[(..., *stack.crop)] for part in applied.slice_of_host(z))
        inputs.append(
            SliceInputs(
                condition=encoding.masks(condition, shape),
                noise=noise[n].numpy(),
                seed=of_slices[n],
                known=encoding.image(image, condition, shape),
                is_known=~grow(own[n], shape)[None],
                style=grow(style[:, n], shape) if donors else None,
                parts=grow(held[n], shape)[None] if donors else None,
                shared=shared,
            )
        )
    return Job(applied.planned.index, number, stack, tuple(slices), tuple(inputs), every.index(slices[0]))


def _grown_noise(noise: np.ndarray, shape: tuple[int, int], seed: Sequence[int]) -> np.ndarray:
    """Noise (c, y, x) padded with other noise to (c, h, w), at the ends of both axes."""
    grown = np.random.default_rng(seed).standard_normal((len(noise), *shape), np.float32)
    grown[:, : noise.shape[1], : noise.shape[2]] = noise
    return grown


def _blend(outline: np.ndarray, region: np.ndarray, sampling: SamplingConfig) -> np.ndarray:
    """(h, w) weight of the painted image, for a network that does not see the surroundings."""
    if sampling.paint == "full":
        return region.astype(np.float32)
    away = ndimage.distance_transform_edt(~outline)
    return (region * np.clip(1 - away / (sampling.margin + 1), 0, 1)).astype(np.float32)


def _noise(applied: AppliedCase, attempt: int) -> np.ndarray:
    """(c, z, y, x) standard normal noise from the case's own seed, correlated along z.

    Slices are painted one by one, and with independent noise the texture would change abruptly between slices. So the
    noise is a first-order autoregression along z with a correlation length of 5 mm; each slice is standard normal.
    """
    source = torch.Generator().manual_seed(applied.planned.seed * 16 + attempt)
    noise = torch.randn((len(applied.image), *applied.shape), generator=source).numpy()
    correlation = float(np.exp(-applied.spacing[0] / _CORRELATION_MM))
    for z in range(1, noise.shape[1]):
        noise[:, z] = correlation * noise[:, z - 1] + np.sqrt(1 - correlation**2) * noise[:, z]
    return noise


def paint_jobs(
    jobs: list[Job], method: Method, generator: Generator, sampling: SamplingConfig, device: str
) -> list[np.ndarray]:
    """Paints jobs of the same shape together, or less at once if they do not fit into the GPU's memory.

    Returns:
        For each job a (c, s, h, w) image in the dataset's intensities, cut to the job's crop.
    """
    try:
        return _paint_together(jobs, method, generator, sampling, device)
    except torch.cuda.OutOfMemoryError as error:
        fewer = sampling.batch_size // 2 if generator.config.neighbours else 0  # a network call is smaller than a stack
        if len(jobs) == 1 and not fewer:
            size = " × ".join(map(str, jobs[0].shape))
            what, remedy = f"one image of {size} pixels", "use --paint composite or -device cpu"
            if generator.config.neighbours:
                what = f"{len(jobs[0].inputs)} slices of {size} pixels"
                remedy = "use -device cpu, or train a generator with --neighbours 0, which paints slice by slice"
            raise BadInput(
                f"the GPU's memory does not hold {what} ({str(error)[:120]}); free the GPU, {remedy}"
            ) from error
    torch.cuda.empty_cache()  # here, where the error no longer holds what was being painted
    if len(jobs) == 1:
        return paint_jobs(jobs, method, generator, replace(sampling, batch_size=fewer), device)
    half = len(jobs) // 2
    return [
        image for part in (jobs[:half], jobs[half:]) for image in paint_jobs(part, method, generator, sampling, device)
    ]


def _paint_together(
    jobs: list[Job], method: Method, generator: Generator, sampling: SamplingConfig, device: str
) -> list[np.ndarray]:
    slices, lengths = [inputs for job in jobs for inputs in job.inputs], [len(job.inputs) for job in jobs]
    stacks = lengths if generator.config.neighbours else None
    painted = paint_slices(method, generator, sampling, slices, device, stacks)
    images, begin = [], 0
    for job, length in zip(jobs, lengths, strict=True):
        own = painted[begin + job.first : begin + job.first + len(job.slices)]
        edges = [part.stop - part.start for part in job.crop]
        images.append(np.stack([intensities(image, generator.config.windows, edges) for image in own], 1))
        begin += length
    return images


def with_painted(
    applied: AppliedCase,
    painted: Iterable[tuple[Stack, np.ndarray]],
    windows: Sequence[Sequence[float]],
    relations: Relations,
    normal: np.ndarray,
    weight: np.ndarray | None,
) -> np.ndarray:
    """Puts what was painted into the slices of a case that change.

    Args:
        applied: the case.
        painted: for each of its stacks a (c, s, h, w) image of the stack's crop.
        windows: of the generator.
        relations: what holds between the channels.
        normal: (n, y, x) bool, normal lung.
        weight: (n, y, x) of what was painted (``fade.weights``); None: nothing is faded.

    Returns:
        (c, n, y, x) float32: the host's intensities outside ``applied.region``.
    """
    values = applied.image.astype(np.float32)
    for stack, image in painted:
        if weight is not None:
            image = fade_stack(image, applied, stack, weight, normal, windows)
        for n, (position, own) in enumerate(zip(stack.positions, stack.own, strict=True)):
            view = values[(slice(None), position, *stack.crop)]
            view[:, own] = image[:, n, own]
    outside = applied.region & (applied.condition == 0)
    for channel, (low, _) in enumerate(windows):
        values[channel][outside] = low
    relations.apply(values, applied.image, applied.region, applied.condition)
    return values
