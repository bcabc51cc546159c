"""Pictures of lesions for a report: the part of a slice around a lesion, in windows that a radiologist knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.pages.blocks import Picture
from nnunet_difflung.pages.pictures import grey_png, outlines_of
from nnunet_difflung.report.injected import InjectedCase, Scan
from nnunet_difflung.runtime.cuts import largest_part
from nnunet_difflung.runtime.figures import LUNG_WINDOW, Window

MEDIASTINAL_WINDOW: Window = (-160.0, 240.0)  # HU; width 400 at 40
_LEAST = 60.0  # mm; a smaller part of a slice does not show where the lesion lies
_AROUND = 1.5  # side of the part, in extents of the lesion
_NO_SPACING = (999.0, 1.0, 1.0)  # what nnU-Net's reader of PNG says, whose files have none
_MOST = 160  # pixels along a side of a picture; longer ones are thinned out


@dataclass(frozen=True)
class Looks:
    """How pictures of a dataset are shown.

    Attributes:
        windows: name of a view → intensities that are black and white.
        values: class → label value, for the outlines.
        channel: that is shown.
    """

    windows: Mapping[str, Window]
    values: Mapping[str, int]
    channel: int = 0


def windows_of(hu: bool, image: np.ndarray, painted: Window | None = None) -> dict[str, Window]:
    """Lung and mediastinal window of HU; else what was painted, or the 1st to 99.5th percentile of the image.

    Args:
        hu: whether the channel is in HU.
        image: intensities of a real case.
        painted: the range of intensities that the user asked to paint; None: no one in particular.
    """
    if hu:
        return {"lung window": LUNG_WINDOW, "mediastinal window": MEDIASTINAL_WINDOW}
    low, high = painted or np.percentile(image, [1, 99.5])
    return {f"{low:.4g} to {high:.4g}": (float(low), float(high))}


def shown_area(voxels: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Area in mm² of the axial slice of a lesion of (z, y, x) voxels that is shown: of its largest part, where it is
    largest."""
    return float(largest_part(voxels).sum((1, 2)).max()) * spacing[1] * spacing[2]


def nearest_in_area(wanted: Sequence[float], areas: Sequence[float]) -> list[int]:
    """For each wanted area in turn the index of the nearest one by ratio, each used once, as long as there are any."""
    left, chosen = list(range(len(areas))), []
    for area in wanted[: len(left)]:
        chosen.append(min(left, key=lambda i: abs(np.log(areas[i] / area))))
        left.remove(chosen[-1])
    return chosen


def lesion_picture(
    scan: Scan,
    voxels: np.ndarray,
    looks: Looks,
    caption: str,
    note: str = "",
    axis: int = 0,
    new: Collection[str] = (),
    identifier: str = "",
) -> Picture:
    """The plane of a case that has most of a lesion, around it.

    Args:
        scan: the case; a synthetic one also shows what was there before, as a view of its own.
        voxels: (z, y, x) bool, where the lesion is; it has to have some.
        looks: windows, classes, channel.
        caption: what it shows.
        note: a second line.
        axis: of (z, y, x) that is cut across: axial, coronal or sagittal.
        new: classes whose outline is drawn solid, the others being dashed; empty: all of them are solid.
        identifier: of the case, if a reader may exclude it.
    """
    lesion = largest_part(voxels)
    index = int(lesion.sum(tuple(other for other in range(3) if other != axis)).argmax())
    rows, columns = (other for other in range(3) if other != axis)
    spacing = scan.spacing[rows], scan.spacing[columns]
    whole = _part(np.take(lesion, index, axis), spacing)
    thin = [max(1, -(-(s.stop - s.start) // _MOST)) for s in whole]
    part = tuple(slice(s.start, s.stop, step) for s, step in zip(whole, thin, strict=True))

    def cut(volume: np.ndarray) -> np.ndarray:
        plane = np.take(volume, index, axis)[part]
        if axis == 0:
            return scan.view.turned(plane)
        return scan.view.upright(plane, axis)

    label = cut(scan.label)
    views = {name: grey_png(cut(scan.image[looks.channel]), window) for name, window in looks.windows.items()}
    if isinstance(scan, InjectedCase):
        name, window = next(iter(looks.windows.items()))
        views[f"before, {name}"] = grey_png(cut(scan.before[looks.channel]), window)
    dashed = set(looks.values) - set(new) if new else set()
    wide, high = spacing[1] * thin[1], spacing[0] * thin[0]
    return Picture(
        caption,
        views,
        label.shape[1],
        label.shape[0],
        high / wide,
        outlines_of(label, looks.values, dashed),
        None if scan.spacing == _NO_SPACING else wide,
        scan.view.sides if axis < 2 else (),
        identifier,
        note,
    )


def _part(lesion: np.ndarray, spacing: tuple[float, float]) -> tuple[slice, slice]:
    """A square (in mm) of a (y, x) plane around a lesion, at least 60 mm wide, cut at the image's border."""
    places = [np.flatnonzero(lesion.any(axis)) for axis in (1, 0)]
    extents = [(int(at[-1]) - int(at[0]) + 1) * step for at, step in zip(places, spacing, strict=True)]
    side = max(_LEAST, _AROUND * max(extents))
    parts = []
    for at, step, length in zip(places, spacing, lesion.shape, strict=True):
        pixels = min(length, max(1, round(side / step)))
        first = min(max(0, (int(at[0]) + int(at[-1]) + 1 - pixels) // 2), length - pixels)
        parts.append(slice(first, first + pixels))
    return parts[0], parts[1]
