"""Could a reader tell planned lesions from real ones by their places, sizes, number, or by what lies beside them?

For each figure the answer is the AUC with which that figure alone tells a planned lesion (or slice) from a real one of
the fold's training cases: 0.5 means that they are alike, 1 that it is larger in every planned one, 0 smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.lesions.lung import Lung, Site
from nnunet_difflung.lesions.masks import MIN_VOXELS, Lesion, box_of
from nnunet_difflung.lesions.plan import Pasted
from nnunet_difflung.lesions.surroundings import share_of_border
from nnunet_difflung.meaning.labels import LabelRoles

LIMIT = 0.1  # largest difference of an AUC to 0.5 that is not a warning
_FEW = 0.25  # a larger limit means that there are too few cases for a verdict
_CHANCE = 2.0  # standard errors of an AUC without a difference, which few cases may differ by
_OTHERS, _BORDER = "other_pathologies", "border"
_OF_LESIONS = ("front_back", "sideways", "height", "depth", "contact", "size")


@dataclass
class Sample:
    """The lesions of a class, and the slices that hold it.

    Attributes:
        sites: of the lesions.
        shares: share of the slice's lung that the class covers, for each slice.
        counts: number of separate areas of the class, for each slice.
        within: other pathologies as a share of the lung that each lesion borders on.
        others: share of the slice's lung that other pathologies cover, for each slice; empty if the dataset has none.
        cases: number of cases that they are from.
    """

    sites: list[Site] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    within: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    cases: int = 0

    def figures(self) -> dict[str, np.ndarray]:
        """Figure → its values."""
        values = {name: np.array([getattr(site, name) for site in self.sites]) for name in _OF_LESIONS}
        of_slices = {"share_of_lung": self.shares, "count": self.counts, _BORDER: self.within, _OTHERS: self.others}
        return values | {name: np.array(of_slice) for name, of_slice in of_slices.items()}

    def add_slices(self, label: np.ndarray, name: str, roles: LabelRoles, lung: Lung, slices: Sequence[int]) -> None:
        """Adds slices of (z, y, x) label values that hold the class ``name``."""
        others = [roles.values[other] for other in roles.pathologies if other != name]
        for z in slices:
            values = np.asarray(label[z])
            plane = values == roles.values[name]
            count = _areas(plane[box_of(plane)])
            if count:
                pixels = lung.slice(z).pixels
                self.shares.append(float(plane.sum() / pixels))
                self.counts.append(count)
                if others:
                    self.others.append(float(np.isin(values, others).sum() / pixels))


def _areas(plane: np.ndarray) -> int:
    """Number of connected areas of at least ``MIN_VOXELS`` pixels."""
    parts, number = ndimage.label(plane)
    return int((np.bincount(parts.ravel(), minlength=number + 1)[1:] >= MIN_VOXELS).sum())


def real_sample(lesions: Sequence[Lesion], facts: Mapping[str, CaseFacts], roles: LabelRoles) -> Sample:
    """The lesions of a class in training cases, with their sites, and the slices that hold them."""
    sample = Sample(cases=len({lesion.case for lesion in lesions}))
    areas: dict[tuple[str, str, int], int] = {}
    for lesion in lesions:
        if lesion.site is not None:
            sample.sites.append(lesion.site)
            sample.within.append(lesion.within)
        for z, plane in enumerate(lesion.mask, start=lesion.start[0]):
            key = (lesion.case, lesion.pathology, z)
            areas[key] = areas.get(key, 0) + _areas(plane)
    for (case, name, z), count in areas.items():
        if count:
            counts = facts[case].counts
            pixels = sum(counts[part][z] for part in roles.lung)
            others = [counts[other][z] for other in roles.pathologies if other != name]
            sample.shares.append(counts[name][z] / pixels)
            sample.counts.append(count)
            if others:
                sample.others.append(sum(others) / pixels)
    return sample


def add_planned(
    samples: dict[str, Sample], pasted: Sequence[Pasted], label: np.ndarray, lung: Lung, roles: LabelRoles
) -> None:
    """Adds a planned case to the samples of its classes.

    Where lesions lie and how large they are is that of the pasted ones; how much of a slice is the class, in how many
    areas, and how much is another pathology, is that of the whole new slice, with what the host had of it.

    Args:
        samples: pathology → sample.
        pasted: the lesions of the case.
        label: (z, y, x) its new label values.
        lung: of its host.
        roles: of the labels.
    """
    slices: dict[str, set[int]] = {}
    for name, mask, place in ((part.pathology, part.mask, part.place) for part in pasted):
        sample = samples.setdefault(name, Sample())
        sample.sites.append(lung.site(mask, place))
        box = box_of(mask)
        z, y, x = (at + cut.start for at, cut in zip(place, box, strict=True))
        sample.within.append(share_of_border(label, Lesion("", name, 0, mask[box], lung.spacing, (z, y, x)), roles))
        slices.setdefault(name, set()).update(place[0] + int(z) for z in np.flatnonzero(mask.any((1, 2))))
    for name, changed in slices.items():
        samples[name].cases += 1
        samples[name].add_slices(label, name, roles, lung, sorted(changed))


def compare(planned: Sample, real: Sample) -> dict[str, dict]:
    """Compares planned lesions of a class with real ones.

    Lesions of a case resemble each other, so chance is that of as many cases: with 70 it is within 0.1, and with less
    than 11 there is no verdict.

    Returns:
        figure → {auc, limit, alike, planned, real, number_planned, number_real}; planned and real are medians, alike is
        None without a verdict. The limit is that of the AUC's difference to 0.5: 0.1, or with few cases two standard
        errors of an AUC by chance. Figures that are the same everywhere, such as the height in slices, are left out.
        Other pathologies are not: that the class never lies beside any, painted or real, is an answer.
    """
    rows, of_real = {}, real.figures()
    n, m = max(1, planned.cases), max(1, real.cases)
    limit = max(LIMIT, _CHANCE * ((n + m + 1) / (12 * n * m)) ** 0.5)
    for name, values in planned.figures().items():
        others = of_real[name]
        if len(values) and len(others) and (name == _OTHERS or np.ptp(np.concatenate([values, others])) > 0):
            found = auc(values, others)
            rows[name] = {
                "auc": round(found, 3),
                "limit": round(min(limit, 0.5), 3),
                "alike": None if limit > _FEW else bool(abs(found - 0.5) <= limit),
                "planned": round(float(np.median(values)), 4),
                "real": round(float(np.median(others)), 4),
                "number_planned": len(values),
                "number_real": len(others),
            }
    return rows


def auc(values: np.ndarray, others: np.ndarray) -> float:
    """Probability that one of ``values`` is larger than one of ``others``; ties count one half."""
    others = np.sort(others)
    below, up_to = (others.searchsorted(values, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(others)))
