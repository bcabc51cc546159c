"""What the header of an image says, without reading its voxels."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

_BYTES = {sitk.sitkUInt8: 1, sitk.sitkInt8: 2, sitk.sitkInt16: 2}  # as the cache stores them; any other may need 4
_MOST_BYTES = 4


def shape_and_bytes(path: str | Path) -> tuple[tuple[int, ...], int]:
    """(x, y, z) of an image, and the bytes that a voxel takes at most in the cache; no size if it can't be read."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # whoever reads its voxels says what is wrong
        return (), _MOST_BYTES
    return reader.GetSize()[:3], _BYTES.get(reader.GetPixelID(), _MOST_BYTES)
