"""Converts the contours of an RTSTRUCT to masks on the grid of the image that they were drawn on.

DICOM PS3.3 C.8.8.6 describes the contours: polygons in patient coordinates (mm), each in one plane. Holes are drawn as
keyholes (the outline runs into the hole and back) or as contours inside contours, so the even-odd rule over all
contours of a plane decides whether a point is inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from skimage.draw import polygon

from nnunet_difflung.dataset_conversion.dicom.headers import read_dataset
from nnunet_difflung.dataset_conversion.imaging.geometry import to_index
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
POINTS = 7  # sampling points per pixel and axis; odd, so that one of them is the centre of the pixel
SAME_PLANE = 0.05  # largest distance of contours in the same plane, as a share of the distance between slices


@dataclass(frozen=True)
class Roi:
    """A region of interest.

    Attributes:
        name: of the region, without surrounding spaces.
        frame: UID of the frame of reference; ``""`` if not given.
        contours: the closed contours, each (n, 3) points in mm (LPS).
        images: UIDs of the SOP instances that the closed contours were drawn on.
        ignored: type of contour → number of contours of that type that are ignored.
    """

    name: str
    frame: str
    contours: tuple[np.ndarray, ...]
    images: frozenset[str]
    ignored: dict[str, int]


def read_rtstruct(path: Path) -> tuple[frozenset[str], tuple[Roi, ...]]:
    """The UIDs of the series that the structures were drawn on, and all regions, including those without contours.

    Raises:
        BadInput: the file cannot be read or does not define regions.
    """
    data = read_dataset(path)
    try:
        return _referenced_series(data), tuple(_rois(data))
    except (AttributeError, ValueError, TypeError, KeyError, IndexError, NotImplementedError) as error:
        raise BadInput(
            f"{path}: the contours cannot be read ({type(error).__name__}); the file is truncated or is not an "
            f"RTSTRUCT: export it again"
        ) from error


def _referenced_series(data) -> frozenset[str]:
    return frozenset(
        str(series.SeriesInstanceUID)
        for frame in data.get("ReferencedFrameOfReferenceSequence") or ()
        for study in frame.get("RTReferencedStudySequence") or ()
        for series in study.get("RTReferencedSeriesSequence") or ()
        if series.get("SeriesInstanceUID")
    )


def _rois(data) -> Iterator[Roi]:
    frames = [str(f.get("FrameOfReferenceUID") or "") for f in data.get("ReferencedFrameOfReferenceSequence") or ()]
    drawn: dict[int, list] = {}
    for item in data.ROIContourSequence:
        drawn.setdefault(int(item.ReferencedROINumber), []).extend(item.get("ContourSequence") or ())
    for item in data.StructureSetROISequence:
        contours: list[np.ndarray] = []
        images: set[str] = set()
        ignored: Counter[str] = Counter()
        for contour in drawn.get(int(item.ROINumber), ()):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            if contour.ContourGeometricType not in CLOSED:
                ignored[str(contour.ContourGeometricType)] += 1
            elif len(points) < 3:
                ignored["closed with fewer than 3 points"] += 1
            else:
                contours.append(points)
                images |= {str(i.ReferencedSOPInstanceUID) for i in contour.get("ContourImageSequence") or ()}
        frame = str(item.get("ReferencedFrameOfReferenceUID") or (frames[0] if len(frames) == 1 else ""))
        yield Roi(
            str(item.get("ROIName") or f"ROI {item.ROINumber}").strip(),
            frame,
            tuple(contours),
            frozenset(images),
            dict(ignored),
        )


def roi_mask(roi: Roi, image: sitk.Image, path: Path) -> tuple[np.ndarray, list[Note]]:
    """The mask of a region on the grid of an image, which may be oblique or sheared.

    A contour belongs to the nearest slice, which is at most half a slice away. If several contour planes fall on the
    same slice, only the nearest plane is used. A pixel is set if at least half of its area, sampled at 7 x 7 points,
    is inside the contours. Contours that cover half of no pixel are kept as well: they set the pixels of which they
    cover at least half as much as of their best-covered pixel, or, if they contain no sampling point, the pixel at
    their centre.

    Returns:
        (z, y, x) uint8 of 0 and 1, and notes for the report.

    Raises:
        BadInput: a contour does not lie in the plane of the slices, or no contour lies in the image.
    """
    mask, counts = np.zeros(image.GetSize()[::-1], np.uint8), Counter(_ignored(roi))
    planes: dict[int, list[tuple[float, np.ndarray]]] = {}
    for points in roi.contours:
        index = to_index(image, points)
        if np.ptp(index[:, 2]) > 0.5:
            raise BadInput(
                f"{path}: a contour of {roi.name!r} spans {np.ptp(index[:, 2]):.1f} slices; expected "
                f"contours in the planes of the CT slices: export the structures on this series"
            )
        height = float(index[:, 2].mean())
        z = round(height)
        if not 0 <= z < len(mask):
            counts["above or below the image"] += 1
            continue
        if abs(height - z) > SAME_PLANE:
            counts["between two slices, moved to the nearer slice"] += 1
        if (index[:, :2] < -0.5).any() or (index[:, :2] > np.array(image.GetSize()[:2]) - 0.5).any():
            counts["partly outside the image"] += 1
        planes.setdefault(z, []).append((height, index[:, 1::-1]))
    if roi.contours and not planes:
        raise BadInput(
            f"{path}: none of the {len(roi.contours)} contours of {roi.name!r} lies in the CT volume; "
            f"expected contours drawn on this series: add the series they were drawn on or remove the file"
        )
    for z, contours in planes.items():
        nearest = min((h for h, _ in contours), key=lambda h: abs(h - z))
        in_plane = [points for h, points in contours if abs(h - nearest) <= SAME_PLANE]
        distinct = {np.round(points, 3).tobytes(): points for points in in_plane}
        counts["repeated in the file, used once"] += len(in_plane) - len(distinct)
        counts["ignored, since a contour nearer to the same slice exists"] += len(contours) - len(in_plane)
        _fill(mask[z], list(distinct.values()))
    holes = len(mask[min(planes) : max(planes) + 1]) - len(planes) if planes else 0
    notes = [
        Note(
            f"{roi.name}: {number} {'contour' if number == 1 else 'contours'} {what}",
            _kind(what),
            number,
            f"contours {what}",
        )
        for what, number in sorted(counts.items())
        if number
    ]
    if holes:
        slices_have = "slice has" if holes == 1 else "slices have"
        notes.append(Note(f"{roi.name}: {holes} {slices_have} no contour between the first and the last one"))
    return mask, notes


def _kind(what: str) -> Kind:
    """What happens to contours that are counted under ``what``."""
    if "moved" in what:
        return Kind.MOVED
    return Kind.MERGED if "repeated" in what else Kind.REMARK if "partly" in what else Kind.DROPPED


def _ignored(roi: Roi) -> dict[str, int]:
    return {f"of type {kind} ignored": number for kind, number in roi.ignored.items()}


def _fill(mask: np.ndarray, contours: list[np.ndarray]) -> None:
    """Sets the pixels of one slice (y, x) in place; each contour is (n, 2) points in pixels along y, x."""
    low = np.maximum(np.floor(np.min([c.min(axis=0) for c in contours], axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(np.max([c.max(axis=0) for c in contours], axis=0)).astype(int) + 1, mask.shape)
    if (low >= high).any():
        return
    size, window = high - low, mask[low[0] : high[0], low[1] : high[1]]
    drawn = []
    for contour in contours:
        fine = (contour - low + 0.5) * POINTS - 0.5
        drawn.append(np.zeros(size * POINTS, bool))
        drawn[-1][polygon(fine[:, 0], fine[:, 1], drawn[-1].shape)] = True
    inside = np.logical_xor.reduce(drawn)

    def share(points: np.ndarray) -> np.ndarray:
        return points.reshape(size[0], POINTS, size[1], POINTS).mean(axis=(1, 3))

    window |= share(inside) >= 0.5
    for contour, filled in zip(contours, drawn, strict=True):  # no contour may vanish
        covered = share(filled & inside)
        if not filled.any():
            y, x = np.round(contour.mean(axis=0)).astype(int) - low
            if 0 <= y < size[0] and 0 <= x < size[1]:
                window[y, x] = 1
        elif covered.max() > 0 and not window[covered > 0].any():
            window |= covered >= covered.max() / 2
