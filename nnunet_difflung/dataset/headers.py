"""What the header of an image says, without reading its voxels."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

_BYTES = {sitk.sitkUInt8: 1, sitk.sitkInt8: 2, sitk.sitkInt16: 2}  # as the cache stores them; any other may need 4
_MOST_BYTES = 4
_NIFTI_1 = 348  # bytes of such a header, which begins with this number
_GZIP = b"\x1f\x8b"
MM, COSINES = 1e-2, 1e-3  # how far two files of a case may differ in place and in direction: 0.3 mm at 300 mm

_SPACING = 1e-4  # relative difference up to which two voxels have the same size


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie; all in the order x, y, z.

    Attributes:
        size: number of voxels along each axis.
        spacing: in mm.
        origin: of the first voxel, in mm.
        direction: direction cosines, row by row.
    """

    size: tuple[float, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def lies_in(self, whole: Grid) -> bool:
        """Whether all voxels are also voxels of another grid, of which this one may be a box."""
        axes = len(whole.size)
        if len(self.size) != axes or not np.allclose(self.spacing, whole.spacing, rtol=_SPACING, atol=0):
            return False
        if not np.allclose(self.direction, whole.direction, rtol=0, atol=COSINES):
            return False
        moved = np.linalg.pinv(np.reshape(whole.direction, (axes, axes))) @ np.subtract(self.origin, whole.origin)
        first = np.rint(moved / whole.spacing)
        inside = (first >= 0).all() and (first + self.size <= whole.size).all()
        return bool(inside and np.allclose(moved, first * whole.spacing, rtol=0, atol=MM))

    def rounded(self) -> list[list[float]]:
        """Spacing, origin and direction, without the digits that differ between libraries."""
        return [[round(value, 4) + 0.0 for value in part] for part in (self.spacing, self.origin, self.direction)]


def grid_of(path: str | Path) -> Grid | None:
    """The grid of an image file; None if no library can read it."""
    try:
        header = _information(path)
    except RuntimeError:  # also of sheared NIfTI files, which nnU-Net reads with nibabel
        return _grid_of_nifti(path)
    return Grid(header.GetSize(), header.GetSpacing(), header.GetOrigin(), header.GetDirection())


def _grid_of_nifti(path: str | Path) -> Grid | None:
    import nibabel

    try:
        image: Any = nibabel.load(path)
        axes, origin = np.asarray(image.affine, float)[:3, :3], np.asarray(image.affine, float)[:3, 3]
    except (OSError, ValueError, AttributeError, nibabel.filebasedimages.ImageFileError):
        return None
    spacing = np.maximum(np.linalg.norm(axes, axis=0), np.finfo(float).tiny)
    direction = (axes / spacing).ravel().tolist()
    return Grid(tuple(image.shape[:3]), tuple(spacing.tolist()), tuple(origin.tolist()), tuple(direction))


def other_grid(first: str | Path, second: str | Path) -> str:
    """In what the grid of an image differs from that of another, as text; empty if they are the same or not known.

    Args:
        first: an image.
        second: an image that should lie at the same place.
    """
    try:
        one, other = _information(first), _information(second)
    except RuntimeError:  # a format that nnU-Net reads in another way
        return ""
    for what, tolerance in (("Origin", MM), ("Direction", COSINES)):
        expected, found = (getattr(reader, f"Get{what}")() for reader in (one, other))
        if len(found) == len(expected) and not np.allclose(found, expected, rtol=0, atol=tolerance):
            return f"{what.lower()} {np.round(found, 3).tolist()} instead of {np.round(expected, 3).tolist()}"
    return ""


def _information(path: str | Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def shape_and_bytes(path: str | Path) -> tuple[tuple[int, ...], int]:
    """(x, y, z) of an image, and the bytes that a voxel takes at most in the cache; no size if it can't be read."""
    try:
        reader = _information(path)
    except RuntimeError:  # whoever reads its voxels says what is wrong
        return (), _MOST_BYTES
    return reader.GetSize()[:3], _BYTES.get(reader.GetPixelID(), _MOST_BYTES)


def has_four_axes(path: str | Path) -> bool:
    """Whether an image file holds several volumes; not if its header cannot be read."""
    try:
        return _information(path).GetDimension() == 4
    except RuntimeError:
        return False


def impossible_voxels(path: str | Path, read: Sequence[float]) -> str:
    """The axis along which a NIfTI header says 0 or no number for the size of a voxel, as text; empty if there is none.

    Readers take another size for it, mostly 1 mm. One that agrees with the header's sform is believed, and so is
    whatever they take along an axis with a single voxel.

    Args:
        path: an image; of another format than NIfTI-1 nothing is said.
        read: (x, y, z) spacing in mm as the reader gave it.
    """
    if not str(path).lower().endswith((".nii", ".nii.gz")):
        return ""
    with open(path, "rb") as file:
        header = file.read(_NIFTI_1)
    if header.startswith(_GZIP):
        with gzip.open(path) as unpacked:
            header = unpacked.read(_NIFTI_1)
    is_whole = len(header) == _NIFTI_1
    order = next((o for o in "<>" if is_whole and struct.unpack_from(f"{o}i", header)[0] == _NIFTI_1), None)
    if order is None:
        return ""
    shape = struct.unpack_from(f"{order}8h", header, 40)[1:4]
    sizes = struct.unpack_from(f"{order}8f", header, 76)[1:4]
    if all(math.isfinite(size) and size for size in sizes):
        return ""
    has_sform = struct.unpack_from(f"{order}h", header, 254)[0] > 0
    steps = np.linalg.norm(np.reshape(struct.unpack_from(f"{order}12f", header, 280), (3, 4))[:, :3], axis=0)
    for axis, n, size, step, mm in zip("xyz", shape, sizes, steps, read, strict=True):
        is_size = math.isfinite(size) and size != 0
        if n > 1 and not is_size and not (has_sform and math.isclose(step, mm, rel_tol=1e-3)):
            return f"{axis} is {size:g} mm, of which nnU-Net's reader makes {mm:g} mm"
    return ""
