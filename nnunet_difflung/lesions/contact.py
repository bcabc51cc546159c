"""Whether a pathology lies in the lung: how much of its outline borders on normal lung or on another pathology.

A label that never occurs in the lung, such as a bone, is taken for a pathology by mistake. A lesion that replaces a
whole lobe or lung borders on little or no lung, too, but there is no other lung around it. So only what lies between
lung counts: the part of a slice inside the bounding box of its normal lung.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_difflung.lesions.masks import box_of
from nnunet_difflung.meaning.labels import LabelRoles

_SLICES = 16  # maximum number of slices that are looked at in a case
_LEAST = 0.03  # share of the outline; a lesion in the lung has a multiple of it, a structure mostly nothing
_ENOUGH = 40  # edges of pixels in an outline; fewer say nothing


class LungContact:
    """Counts, over several cases, which labels lie beside which."""

    def __init__(self, roles: LabelRoles):
        self.roles = roles
        size = roles.body_value
        self._edges = np.zeros((size, size), np.int64)
        self._cases: set[str] = set()

    def has(self, identifier: str) -> bool:
        """Whether a case has been counted."""
        return identifier in self._cases

    def add(self, identifier: str, label: np.ndarray, counts: Mapping[str, Sequence[int]]) -> None:
        """Counts in evenly spaced slices of a case, unless it has been counted.

        Args:
            identifier: id of the case.
            label: (z, y, x) label values.
            counts: label name → number of voxels in each slice.
        """
        if identifier in self._cases:
            return
        self._cases.add(identifier)
        pathology = np.sum([counts[name] for name in self.roles.pathologies], axis=0)
        holding = np.flatnonzero(pathology * self.roles.normal_voxels(counts))
        for i in np.unique(np.linspace(0, len(holding) - 1, min(len(holding), _SLICES)).round().astype(int)):
            self._add_slice(np.asarray(label[holding[i]]))

    def _add_slice(self, plane: np.ndarray) -> None:
        plane, size = plane[box_of(self.roles.is_normal(plane))].astype(np.int64), len(self._edges)
        for first, second in ((plane[:-1], plane[1:]), (plane[:, :-1], plane[:, 1:])):
            differing = first != second
            pairs = np.bincount(first[differing] * size + second[differing], minlength=size * size).reshape(size, size)
            self._edges += pairs + pairs.T

    def outside(self) -> dict[str, float]:
        """The pathologies that hardly border on lung, and the share of their outline that does.

        Lung is normal lung and every pathology that borders on it: consolidation may lie in ground glass alone. Voxels
        labelled ``ignore`` may be anything and do not count.
        """
        values = self.roles.values
        lung, shares = [values[name] for name in self.roles.normal], {}
        outlines = {name: self._outline(values[name]) for name in self.roles.pathologies}
        pending = [name for name, outline in outlines.items() if outline >= _ENOUGH]
        while pending:
            shares = {name: float(self._edges[values[name], lung].sum() / outlines[name]) for name in pending}
            inside = [name for name, share in shares.items() if share >= _LEAST]
            if not inside:
                break
            lung += [values[name] for name in inside]
            pending = [name for name in pending if name not in inside]
        return {name: shares[name] for name in pending}

    def _outline(self, value: int) -> int:
        edges = int(self._edges[value].sum())
        return edges if self.roles.ignore is None else edges - int(self._edges[value, self.roles.ignore])
