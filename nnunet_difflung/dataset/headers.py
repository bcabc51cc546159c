"""What the header of an image says, without reading its voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

_BYTES = {sitk.sitkUInt8: 1, sitk.sitkInt8: 2, sitk.sitkInt16: 2}  # as the cache stores them; any other may need 4
_MOST_BYTES = 4
MM, COSINES = 1e-2, 1e-3  # how far two files of a case may differ in place and in direction: 0.3 mm at 300 mm


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
