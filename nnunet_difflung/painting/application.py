"""Applies a planned case to its host: collects what painting, measuring and writing the synthetic case need."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.lesions.pasting import apply_operations
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.painting.donors import find_donors
from nnunet_difflung.painting.fold import Fold


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
        owner: (n, y, x) whose level and spread each voxel is to have, for methods that use it (``find_donors``).
        donors: the voxels of each donor.
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
    owner: np.ndarray | None = None
    donors: tuple[np.ndarray, ...] = ()

    @property
    def outline(self) -> np.ndarray:
        """(n, y, x) bool, what the case is painted for: its new lesions, or the outlines of a placebo case."""
        return self.changed if self.placebo is None else self.placebo

    @property
    def bytes(self) -> int:
        """Size in memory."""
        always = (self.image, self.new_label, self.changed, self.condition, self.region)
        arrays = (*always, self.pasted, self.placebo, self.owner, *self.donors)
        return sum(array.nbytes for array in arrays if array is not None)

    def without_texture(self) -> AppliedCase:
        """A copy without the pasted texture and the donors, which are not needed once the jobs are made."""
        return replace(self, pasted=None, owner=None, donors=())

    def in_host(self, array: np.ndarray) -> np.ndarray:
        """Puts (…, n, y, x) slices into a (…, z, y, x) volume of the host's shape, zero in all other slices."""
        volume = np.zeros((*array.shape[:-3], *self.shape), array.dtype)
        volume[..., list(self.planned.slices), :, :] = array
        return volume


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
    region = painted_region(label, outline, roles, fold.settings.sampling)
    owner: np.ndarray | None = None
    donors: tuple[np.ndarray, ...] = ()
    if textures and family_of(fold.method).uses_style:
        owner, donors = find_donors(planned, fold.lesions, cache, outline, fold.styles)
    return AppliedCase(
        planned,
        host.shape,
        host.spacing,
        np.array(image[:, slices]),
        new_label,
        changed,
        np.where(changed, new_label, cache.condition(planned.host)[slices]),
        region,
        None if pasted is None else pasted[:, slices],
        outline if planned.placebo else None,
        owner,
        donors,
    )


def painted_region(label: np.ndarray, outline: np.ndarray, roles: LabelRoles, sampling: SamplingConfig) -> np.ndarray:
    """(n, y, x) bool: the voxels that get new intensities.

    ``composite``: the outline and a margin of normal lung around them; the host's own pathology stays real.
    ``full``: the whole slices (what lies outside lung and body is set to the window's lower end, as in the paper).
    Voxels labelled ``ignore`` always keep their intensities.

    Args:
        label: (n, y, x) the host's label values in the slices that change.
        outline: (n, y, x) bool, the voxels that get a new label, or the outlines of a placebo case.
        roles: roles of the labels.
        sampling: settings of painting.
    """
    if sampling.paint == "full":
        region = np.ones_like(outline)
    else:
        plane = ndimage.generate_binary_structure(2, 1)[None]
        region = ndimage.binary_dilation(outline, plane, sampling.margin) if sampling.margin else outline
        region = region & (outline | roles.is_normal(label))
    return region if roles.ignore is None else region & (label != roles.ignore)
