"""The picture sheet of Table 1: mask, real image, and the image that each method painted, in the same window.

A slice of each pathology; of volumes also the coronal and the sagittal plane through the same lesion. All are turned
as radiologists see them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.orientation import AxialView, axial_view
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.evaluation.real_slices import RealSlice, Window
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.runtime.cuts import Cut, cuts
from nnunet_difflung.runtime.figures import (
    as_text,
    bare,
    display_window,
    drawing,
    legend,
    show_classes,
    show_grey,
    zoom,
)


@dataclass(frozen=True)
class Plane:
    """A plane of a validation case that the sheet shows.

    Attributes:
        names: the pathologies that it is shown for.
        case: case id.
        cut: the plane.
        slices: z of the painted slices that it crosses, from the lowest on.
    """

    names: str
    case: str
    cut: Cut
    slices: tuple[int, ...]

    def rows_of(self, image: np.ndarray) -> np.ndarray:
        """What the plane shows of a (y, x) slice that it crosses: all of it, or a single row."""
        return image if self.cut.axis == 0 else np.take(image, self.cut.index, self.cut.axis - 1)[None]


def shown_planes(cache: SliceCache, slices: Sequence[tuple[str, int]]) -> list[Plane]:
    """The planes of the sheet.

    Each pathology is shown in the slice that has most of its voxels; in volumes also in the coronal and the sagittal
    plane that have most of the lesion that is largest in this slice. These reach as far as slices are painted without
    a gap; they are left out where no neighbour of the slice is painted.

    Args:
        cache: of the real cases.
        slices: (case, z) of all slices that are painted.
    """
    chosen: dict[tuple[str, int], list[str]] = {}
    for name in cache.roles.pathologies:
        case, z = max(slices, key=lambda place: cache.facts[place[0]].counts[name][place[1]])
        if cache.facts[case].counts[name][z]:
            chosen.setdefault((case, z), []).append(name)
    planes = []
    for (case, z), names in chosen.items():
        run, (_, height, width) = _run(z, {of for other, of in slices if other == case}), cache.facts[case].spacing
        title = "axial" if cache.facts[case].shape[0] > 1 else ""
        planes.append(Plane(", ".join(names), case, Cut(title, 0, z, height / width), (z,)))
        if len(run) > 1:
            planes += [Plane(name, case, cut, run) for name in names for cut in _across(cache, case, name, z, run)]
    return planes


def _across(cache: SliceCache, case: str, name: str, z: int, run: tuple[int, ...]) -> list[Cut]:
    """The coronal and the sagittal plane through the lesion of a class that is the largest in slice ``z``."""
    voxels = np.asarray(cache.condition(case)[run[0] : run[-1] + 1]) == cache.roles.values[name]
    parts, _ = ndimage.label(voxels)
    of_slice = parts[z - run[0]]
    lesion = parts == np.bincount(of_slice[of_slice > 0]).argmax()
    return cuts(lesion, cache.facts[case].spacing)[1:]


def _run(z: int, painted: set[int]) -> tuple[int, ...]:
    """The painted slices without a gap around one of them."""
    first = last = z
    while first - 1 in painted:
        first -= 1
    while last + 1 in painted:
        last += 1
    return tuple(range(first, last + 1))


@dataclass
class _Row:
    """What is kept of a plane.

    Attributes:
        window: intensities of the metrics.
        condition: z → what it shows of the condition map.
        pictures: title → z → what it shows of the real image, or of a method's.
    """

    window: Window
    condition: dict[int, np.ndarray] = field(default_factory=dict)
    pictures: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)


def _joined(parts: dict[int, np.ndarray]) -> np.ndarray:
    """The plane from its slices, in the order of the array."""
    return np.concatenate([parts[z] for z in sorted(parts)])


class Sheet:
    """Collects the pictures of the shown planes while the methods are evaluated."""

    def __init__(self, roles: LabelRoles, planes: Sequence[Plane]):
        self.roles, self.planes = roles, planes
        self.rows: dict[Plane, _Row] = {}

    def offer(self, true: RealSlice, window: Window, method: str, painted: np.ndarray) -> None:
        """Keeps what the shown planes have of a painted (h, w) image."""
        for plane in self.planes:
            if plane.case == true.case and true.z in plane.slices:
                row = self.rows.setdefault(plane, _Row(window))
                row.condition[true.z] = plane.rows_of(true.condition)
                for title, image in ((f"real: {true.case}", true.image), (method, painted)):
                    row.pictures.setdefault(title, {})[true.z] = plane.rows_of(image).copy()

    def across(self) -> Iterator[tuple[Plane, np.ndarray, dict[str, np.ndarray]]]:
        """Coronal and sagittal planes: the plane, its condition map, and title → intensities, the real image first.

        The arrays are as the volume has them.
        """
        for plane in self.planes:
            if plane.cut.axis and plane in self.rows:
                row = self.rows[plane]
                yield plane, _joined(row.condition), {title: _joined(parts) for title, parts in row.pictures.items()}

    def write(self, path: Path, raw: RawDataset) -> bool:
        """Writes the PNG; returns whether there was anything to show.

        Args:
            path: of the PNG.
            raw: the dataset, whose files say how the planes have to be turned.
        """
        planes = [plane for plane in self.planes if plane in self.rows]
        if not planes:
            return False
        views = {case: axial_view(raw.read_label(case)[1]) for case in {plane.case for plane in planes}}
        columns = 1 + max(len(self.rows[plane].pictures) for plane in planes)
        with drawing(path, 2.6 * columns, 2.9 * len(planes)) as figure:
            for axes, plane in zip(figure.subplots(len(planes), columns, squeeze=False), planes, strict=True):
                self._draw_row(axes, plane, self.rows[plane], views[plane.case])
            legend(figure, self.roles.condition_classes)
        return True

    def _draw_row(self, axes: np.ndarray, plane: Plane, row: _Row, view: AxialView) -> None:
        def turned(parts: dict[int, np.ndarray]) -> np.ndarray:
            return view.shown(_joined(parts), plane.cut.axis)

        condition, aspect = turned(row.condition), plane.cut.aspect
        shown = zoom(np.where(condition == self.roles.body_value, 0, condition))
        show_classes(axes[0], condition[shown], self.roles.condition_classes, aspect)
        bare(axes[0], "mask")
        axes[0].set_ylabel(plane.cut.named(as_text(plane.names)), fontsize=10)
        for axis, (title, parts) in zip(axes[1:], row.pictures.items(), strict=False):
            show_grey(axis, turned(parts)[shown], display_window(row.window), aspect)
            bare(axis, title)
        for axis in axes[1 + len(row.pictures) :]:
            axis.set_axis_off()
