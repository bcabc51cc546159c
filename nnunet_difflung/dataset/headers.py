"""What the header of an image says, without reading its voxels."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

_BYTES = {sitk.sitkUInt8: 1, sitk.sitkInt8: 2, sitk.sitkInt16: 2}  # as the cache stores them; any other may need 4
_MOST_BYTES = 4


def voxels_and_bytes(path: str | Path) -> tuple[int, int]:
    """Number of an image's voxels, and the bytes that each takes at most in the cache; (0, 4) if it can't be read."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # whoever reads its voxels says what is wrong
        return 0, _MOST_BYTES
    voxels = 1
    for length in reader.GetSize():
        voxels *= length
    return voxels, _BYTES.get(reader.GetPixelID(), _MOST_BYTES)
