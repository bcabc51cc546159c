"""Applies a planned case to its host: collects what painting, measuring and writing the synthetic case need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from nnunet_difflung.config import SamplingConfig, Settings
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.lesions.pasting import apply_operations
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.methods import Method
from nnunet_difflung.preparing.donors import Donors, find_donors
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.preparing.stacks import depth_of_margin, with_margin


@dataclass(frozen=True)
class AppliedCase:
    """A planned case in memory: the n slices of its host that change, before and after the change.

    Attributes:
        planned: the entry of the plan; ``planned.slices`` are the n positions.
        shape: (z, y, x) of the host.
        spacing: (z, y, x) of the host in mm.
        image: (c, n, y, x) the host's intensities.
        new_label: (n, y, x) the host's label values with the pasted lesions.
        changed: (n, y, x) bool, the voxels that get a new label; none in a placebo case.
        condition: (n, y, x) condition map: ``new_label`` and the derived body class.
        region: (n, y, x) bool, the voxels that get new intensities (``painted_region``).
        pasted: (c, n, y, x) ``image`` with real lesion texture pasted into it (in a placebo case, normal lung of
            another case), for methods that start from it.
        placebo: (n, y, x) bool, the normal lung in the outlines of a placebo case; None in a case with new lesions.
        donors: whose level and spread each voxel is to have, for methods that use it.
        beside: z → image (c, y, x) and condition map (y, x) of the slices next to those that change, for methods that
            see them.
    """

    planned: PlannedCase
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    image: np.ndarray
    new_label: np.ndarray
    changed: np.ndarray
    condition: np.ndarray
    region: np.ndarray
    pasted: np.ndarray | None = None
    placebo: np.ndarray | None = None
    donors: Donors | None = None
    beside: Mapping[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def outline(self) -> np.ndarray:
        """(n, y, x) bool, what the case is painted for: its new lesions, or the outlines of a placebo case."""
        return self.changed if self.placebo is None else self.placebo

    @property
    def bytes(self) -> int:
        """Size in memory."""
        always = (self.image, self.new_label, self.changed, self.condition, self.region)
        around = [array for arrays in self.beside.values() for array in arrays]
        arrays = (*always, self.pasted, self.placebo, *around)
        donors = self.donors.bytes if self.donors else 0
        return donors + sum(array.nbytes for array in arrays if array is not None)

    def without_texture(self) -> AppliedCase:
        """A copy without the pasted texture, the donors and further slices, which only the jobs need."""
        return replace(self, pasted=None, donors=None, beside={})

    def slice_of_host(self, z: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (c, y, x) and condition map (y, x) of a slice that changes, or of one beside it."""
        if z in self.beside:
            return self.beside[z]
        position = self.planned.slices.index(z)
        return self.image[:, position], self.condition[position]

    def in_host(self, array: np.ndarray) -> np.ndarray:
        """Puts (…, n, y, x) slices into a (…, z, y, x) volume of the host's shape, zero in all other slices."""
        volume = np.zeros((*array.shape[:-3], *self.shape), array.dtype)
        volume[..., list(self.planned.slices), :, :] = array
        return volume


def planned_region(fold: Fold, planned: PlannedCase, read_label: Callable[[str], np.ndarray]) -> np.ndarray:
    """(n, y, x) bool: what will be painted of a planned case (``AppliedCase.region``), from its host's label alone.

    Args:
        fold: fold that the plan is for.
        planned: the case.
        read_label: case id → (z, y, x) label values.
    """
    roles, host, slices = fold.cache.roles, fold.cache.facts[planned.host], list(planned.slices)
    label = read_label(planned.host)
    new_label, _ = apply_operations(planned.operations, label, host.spacing, fold.lesions, roles)
    return _region(fold, planned, label[slices], new_label[slices] != label[slices])


def _region(fold: Fold, planned: PlannedCase, label: np.ndarray, outline: np.ndarray) -> np.ndarray:
    host = fold.cache.facts[planned.host]
    together = paints_together(fold.method, fold.settings, host.shape)
    along_z = (planned.slices, host.spacing) if together else None
    return painted_region(label, outline, fold.cache.roles, fold.settings.sampling, along_z)


def apply_plan(fold: Fold, planned: PlannedCase, textures: bool) -> AppliedCase:
    """Reads a planned case's host and pastes the plan's lesions into it, or finds its outlines if it is a placebo case.

    Args:
        fold: fold that the plan is for.
        planned: the case.
        textures: paste the intensities too, if the method starts from them, and find the donors, if it uses their
            level and spread.
    """
    cache, roles, host = fold.cache, fold.cache.roles, fold.cache.facts[planned.host]
    image, label, slices = cache.image(planned.host), cache.label(planned.host), list(planned.slices)
    starts_from = image if textures and family_of(fold.method).starts_from_paste else None
    new_label, pasted = apply_operations(
        planned.operations, label, host.spacing, fold.lesions, roles, starts_from, cache.image, cache.label
    )
    label, new_label = label[slices], new_label[slices]
    outline = new_label != label
    if planned.placebo:
        new_label = label
    changed = new_label != label
    together = paints_together(fold.method, fold.settings, host.shape)
    region = _region(fold, planned, label, outline)
    donors = None
    if textures and family_of(fold.method).uses_style:
        donors = find_donors(planned, fold.lesions, cache, outline, fold.styles, together)
    condition = cache.condition(planned.host)
    beside = {}
    if textures and together:
        further = set(with_margin(slices, 1, host.shape[0])) - set(slices)
        beside = {z: (np.array(image[:, z]), np.array(condition[z])) for z in further}
    return AppliedCase(
        planned,
        host.shape,
        host.spacing,
        np.array(image[:, slices]),
        new_label,
        changed,
        np.where(changed, new_label, condition[slices]),
        region,
        None if pasted is None else pasted[:, slices],
        outline if planned.placebo else None,
        donors,
        beside,
    )


def paints_together(method: Method, settings: Settings, shape: Sequence[int]) -> bool:
    """Whether a method paints the slices of a host of this (z, y, x) shape together."""
    uses = family_of(method).uses_neighbours and settings.generator.neighbours != 0
    return uses and settings.sampling.paint == "composite" and shape[0] > 1


def painted_region(
    label: np.ndarray,
    outline: np.ndarray,
    roles: LabelRoles,
    sampling: SamplingConfig,
    along_z: tuple[Sequence[int], Sequence[float]] | None = None,
) -> np.ndarray:
    """(n, y, x) bool: the voxels that get new intensities.

    ``composite``: the outline and a margin of normal lung around them; the host's own pathology stays real. Where
    slices are painted together, the margin reaches above and below the outline too, at least by a slice.
    ``full``: the whole slices (what lies outside lung and body is set to the window's lower end, as in the paper).
    Voxels labelled ``ignore`` always keep their intensities.

    Args:
        label: (n, y, x) the host's label values in the slices that change.
        outline: (n, y, x) bool, the voxels that get a new label, or the outlines of a placebo case.
        roles: roles of the labels.
        sampling: settings of painting.
        along_z: z of the slices, and (z, y, x) spacing in mm, if they are painted together.
    """
    if sampling.paint == "full":
        region = np.ones_like(outline)
    elif along_z is not None:
        region = _reached_by_margin(outline, *along_z, sampling.margin) & (outline | roles.is_normal(label))
    else:
        plane = ndimage.generate_binary_structure(2, 1)[None]
        region = ndimage.binary_dilation(outline, plane, sampling.margin) if sampling.margin else outline
        region = region & (outline | roles.is_normal(label))
    return region if roles.ignore is None else region & (label != roles.ignore)


def _reached_by_margin(outline: np.ndarray, slices: Sequence[int], spacing: Sequence[float], margin: int) -> np.ndarray:
    """An outline (n, y, x) and all voxels within ``margin`` pixels of it in mm, and of the slices next to it."""
    if not margin:
        return outline
    first, reach = slices[0], margin * float(np.sqrt(spacing[1] * spacing[2])) * 1.001
    whole = np.zeros((slices[-1] - first + 1, *outline.shape[1:]), bool)
    whole[np.array(slices) - first] = outline
    region, depth = np.zeros_like(whole), depth_of_margin(margin, spacing)
    for n in np.flatnonzero(whole.any((1, 2))):
        for step in range(-depth, depth + 1):
            if 0 <= n + step < len(whole):
                height = min(abs(step) * spacing[0], reach)  # a slice that is too far away is reached nevertheless
                region[n + step] |= _grown(whole[n], float(np.sqrt(reach**2 - height**2)), spacing[1:])
    return region[np.array(slices) - first]


def _grown(outline: np.ndarray, reach: float, pixel: Sequence[float]) -> np.ndarray:
    """A (y, x) outline and what lies within ``reach`` mm of it."""
    box = ndimage.find_objects(outline.astype(np.uint8))[0]
    window = tuple(
        slice(max(0, part.start - int(reach / size) - 1), part.stop + int(reach / size) + 1)
        for part, size in zip(box, pixel, strict=True)
    )
    grown = np.zeros_like(outline)
    grown[window] = ndimage.distance_transform_edt(~outline[window], sampling=pixel) <= reach
    return grown
