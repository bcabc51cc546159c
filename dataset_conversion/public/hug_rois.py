"""Reads the ROI text files of the ILD database of the University Hospitals of Geneva, and draws their contours.

A file ``CT-INSPIRIUM-7605.txt`` begins with lines such as ``SpacingX: 0.683594``. Then, for each class and slice, it
has ``label: fibrosis``, ``slice_number: 4``, ``nb_points_on_contour: 63`` and that many lines ``x y`` in mm from the
upper left corner of the image; further slices and contours follow without repeating the label. Slice 4
is ``CT-7605-0004.dcm``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.errors import BadInput

FINE = 5  # sub-pixels of a pixel along each axis


@dataclass(frozen=True)
class HugRoi:
    """A contour: class, number of the slice as in the names of the files, and points (n, 2) along x, y in mm."""

    label: str
    slice_number: int
    points: np.ndarray


def read_rois(path: Path) -> tuple[tuple[float, float], list[HugRoi]]:
    """Pixel spacing (x, y) in mm, and the contours of a file.

    Raises:
        BadInput: the file cannot be read, has no spacing, or a contour is incomplete or has no label or slice.
    """
    spacing: dict[str, float] = {}
    label, number, rois = "", 0, []
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); download it again") from error
    position = 0
    while position < len(lines):
        key, _, value = lines[position].partition(":")
        key, value, position = key.strip().lower(), value.strip(), position + 1
        if key in ("spacingx", "spacingy"):
            spacing[key[-1]] = float(value)
        elif key == "label":
            label = value.lower()
        elif key == "slice_number":
            number = int(value)
        elif key == "nb_points_on_contour":
            rois.append(HugRoi(label, number, _points(path, lines, position, int(value))))
            position += int(value)
            if not label or number < 1:
                raise BadInput(
                    f"{path}: the contour that ends at line {position} has no label or slice_number before it; "
                    f"expected both: download the file again"
                )
    if set(spacing) != {"x", "y"} or min(spacing.values()) <= 0:
        raise BadInput(
            f"{path}: SpacingX or SpacingY is missing or not positive; expected the pixel size in mm: download it again"
        )
    return (spacing["x"], spacing["y"]), rois


def _points(path: Path, lines: list[str], position: int, number: int) -> np.ndarray:
    numbers = [re.findall(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", line) for line in lines[position : position + number]]
    if len(numbers) < number or any(len(pair) != 2 for pair in numbers):
        raise BadInput(
            f"{path}: line {position}: expected {number} lines with two numbers after nb_points_on_contour: "
            f"download the file again"
        )
    return np.array(numbers, float).reshape(-1, 2)


def draw(
    rois: list[HugRoi], spacing: tuple[float, float], shape: tuple[int, int, int], slice_of: dict[int, int]
) -> dict[str, np.ndarray]:
    """Class → mask (z, y, x); a pixel is set if at least half of its area lies in a contour.

    Args:
        rois: contours.
        spacing: pixel size (x, y) in mm.
        shape: (z, y, x) of the masks.
        slice_of: number of a slice → z.

    Raises:
        KeyError: a contour is on a slice that ``slice_of`` does not have.
    """
    from skimage.draw import polygon

    masks: dict[str, np.ndarray] = {}
    for roi in rois:
        mask = masks.setdefault(roi.label, np.zeros(shape, np.uint8))
        x, y = (roi.points / spacing).T * FINE - 0.5
        low = [max(0, int(np.floor(axis.min() / FINE))) for axis in (y, x)]
        high = [min(n, int(np.ceil(axis.max() / FINE)) + 2) for axis, n in zip((y, x), shape[1:], strict=True)]
        if low[0] >= high[0] or low[1] >= high[1]:
            continue
        fine = np.zeros([(b - a) * FINE for a, b in zip(low, high, strict=True)], bool)
        fine[polygon(y - low[0] * FINE, x - low[1] * FINE, fine.shape)] = True
        share = fine.reshape(high[0] - low[0], FINE, high[1] - low[1], FINE).mean(axis=(1, 3))
        part = mask[slice_of[roi.slice_number], low[0] : high[0], low[1] : high[1]]
        part |= share >= min(0.5, share.max() or 1)
    return masks
