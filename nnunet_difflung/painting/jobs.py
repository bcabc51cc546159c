"""The slices of a synthetic case as inputs of a network: crop, voxels to paint, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.encoding import Encoding, grow, intensities
from nnunet_difflung.generator.sampling import SliceInputs, paint_slices
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.methods import Method
from nnunet_difflung.painting.application import AppliedCase
from nnunet_difflung.painting.donors import style_maps

_CROP_STEP = 32  # edges of crops are multiples of it, so that many have the same shape and can be painted together
_CORRELATION_MM = 5.0  # length over which the noise of a volume's slices is correlated


@dataclass(frozen=True)
class Job:
    """One slice to paint.

    Attributes:
        index: number of the planned case.
        z: position of the slice in the host.
        crop: (y, x) slices into the host, inside its bounds.
        inputs: inputs of the network for the crop; ``blend`` is 1 in the outline and falls to 0 over the margin.
    """

    index: int
    z: int
    crop: tuple[slice, slice]
    inputs: SliceInputs

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) that the network sees."""
        _, height, width = self.inputs.condition.shape
        return height, width


def make_jobs(
    applied: AppliedCase, generator: Generator, roles: LabelRoles, sampling: SamplingConfig, attempt: int
) -> list[Job]:
    """The slices of a planned case as inputs of the network; a pure function of its arguments."""
    region, noise = applied.region, _noise(applied, attempt)
    encoding = Encoding.of(generator.config, roles.condition_values())
    jobs = []
    for position, crop in crops(region, encoding.factor, sampling):
        z, condition, part = (
            applied.planned.slices[position],
            applied.condition[position][crop],
            (slice(None), position, *crop),
        )
        shape = encoding.grown(condition.shape)
        outline = applied.outline[position][crop]
        inputs = SliceInputs(
            condition=encoding.masks(condition, shape),
            noise=grow(noise[(slice(None), z, *crop)], shape),
            seed=(applied.planned.seed * 4099 + z) * 16 + attempt,
            known=encoding.image(applied.image[part], condition, shape),
            is_known=grow(~region[position][crop], shape)[None],
            blend=grow(_blend(outline, region[position][crop], sampling), shape)[None],
            start=None if applied.pasted is None else encoding.image(applied.pasted[part], condition, shape),
            style=None if applied.owner is None else grow(_style(applied, position, generator)[(..., *crop)], shape),
            parts=None if applied.owner is None else grow(applied.owner[position][crop], shape)[None],
        )
        jobs.append(Job(applied.planned.index, z, crop, inputs))
    return jobs


def crops(region: np.ndarray, edge: int, sampling: SamplingConfig) -> list[tuple[int, tuple[slice, slice]]]:
    """Positions of the slices of a painted region, and the part of each that the network sees."""
    return [(int(n), _crop(region[n], edge, sampling)) for n in np.flatnonzero(region.any((1, 2)))]


def _style(applied: AppliedCase, position: int, generator: Generator) -> np.ndarray:
    """(2c + 1, y, x) level and spread that a slice's regions are to have."""
    owner = np.zeros(applied.region.shape, np.int32) if applied.owner is None else applied.owner
    return style_maps(owner[position], applied.region[position], applied.donors, generator.config.windows)


def _blend(outline: np.ndarray, region: np.ndarray, sampling: SamplingConfig) -> np.ndarray:
    """(h, w) weight of the painted image, for a network that does not see the surroundings."""
    if sampling.paint == "full":
        return region.astype(np.float32)
    away = ndimage.distance_transform_edt(~outline)
    return (region * np.clip(1 - away / (sampling.margin + 1), 0, 1)).astype(np.float32)


def _crop(region: np.ndarray, factor: int, sampling: SamplingConfig) -> tuple[slice, slice]:
    """A box around the region and its context; edges are multiples of 32 if there is room. ``full``: the slice."""
    box = ndimage.find_objects(region.astype(np.uint8))[0]
    if sampling.paint == "full":
        return slice(0, region.shape[0]), slice(0, region.shape[1])
    step = max(_CROP_STEP, factor)
    crop = []
    for part, length in zip(box, region.shape, strict=True):
        wanted = -(-(part.stop - part.start + 2 * sampling.context) // step) * step
        start = int(np.clip((part.start + part.stop - wanted) // 2, 0, max(0, length - wanted)))
        crop.append(slice(start, min(start + wanted, length)))
    return crop[0], crop[1]


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
    """Paints jobs of the same shape together, or in halves if they do not fit into the GPU's memory.

    Returns:
        For each job a (c, h, w) image in the dataset's intensities, cut to the job's crop.
    """
    try:
        return _paint_together(jobs, method, generator, sampling, device)
    except torch.cuda.OutOfMemoryError as error:
        if len(jobs) == 1:
            size = " × ".join(map(str, jobs[0].shape))
            raise BadInput(
                f"the GPU's memory does not hold one image of {size} pixels ({str(error)[:120]}); use "
                f"--paint composite, -device cpu, or free the GPU"
            ) from error
    torch.cuda.empty_cache()  # here, where the error no longer holds what was being painted
    half = len(jobs) // 2
    return [
        image for part in (jobs[:half], jobs[half:]) for image in paint_jobs(part, method, generator, sampling, device)
    ]


def _paint_together(
    jobs: list[Job], method: Method, generator: Generator, sampling: SamplingConfig, device: str
) -> list[np.ndarray]:
    painted = paint_slices(method, generator, sampling, [job.inputs for job in jobs], device)
    return [
        intensities(image, generator.config.windows, [part.stop - part.start for part in job.crop])
        for job, image in zip(jobs, painted, strict=True)
    ]
