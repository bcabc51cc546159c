"""Writes a changed copy of an image or label file with the same format, geometry and dtype.

nnU-Net's readers have no writer for images (``write_seg`` would store HU as uint8), so a copy is made from the source
file with the library that its reader uses. Voxels outside ``where`` keep their values; NIfTI files with a scaling are
written as float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_difflung.dataset.headers import grid_of
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.files import copy_file, read_json
from nnunet_difflung.runtime.modes import like

Box = tuple[slice, slice, slice]
Cut = Box | None  # None: all of a volume


def write_changed_copy(
    sources: Sequence[str],
    targets: Sequence[str],
    values: np.ndarray,
    where: np.ndarray,
    reader: type,
    box: Box | None = None,
) -> None:
    """Copies ``sources`` to ``targets`` with ``values`` at ``where``; a copy is no more readable than its source.

    Args:
        sources: files of a case as nnU-Net lists them: one per channel, or fewer files with several channels each.
        targets: path to write for each source.
        values: (c, z, y, x) in the dataset's own intensities, in the reader's orientation.
        where: (z, y, x) bool, the voxels to change.
        reader: nnU-Net's reader class of the dataset.
        box: (z, y, x) of a volume that is written; None writes all of it.

    Raises:
        BadInput: this package cannot write files of this reader.
    """
    write = _writer_of(reader)
    channel = 0
    for source, target in zip(sources, targets, strict=True):
        channel += write(source, target, values[channel:], where, reader, box)
        like(Path(target), Path(source))


def check_writing(reader: type, ending: str) -> None:
    """Refuses a format in which no changed copy can be written; writes into the system's temporary folder.

    Args:
        reader: nnU-Net's reader class of the dataset.
        ending: the dataset's ``file_ending``.

    Raises:
        BadInput: this package, or the library behind it, cannot write such files.
    """
    if _writer_of(reader) is not _write_sitk:
        return
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        try:
            sitk.WriteImage(sitk.Image([2, 2, 1], sitk.sitkUInt8), str(Path(folder) / f"probe{ending}"))
        except RuntimeError as error:
            raise BadInput(
                f"file_ending {ending!r} in dataset.json: SimpleITK, with which nnU-Net writes its segmentations, can "
                f"write no such files; rename the files in imagesTr, labelsTr (and imagesTs) to end in "
                f"{ending.lower()!r}, and file_ending likewise"
            ) from error


def _writer_of(reader: type):
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    for families, write in (
        ((SimpleITKIO,), _write_sitk),
        ((NibabelIO, NibabelIOWithReorient), _write_nibabel),
        ((NaturalImage2DIO,), _write_natural),
        ((Tiff3DIO,), _write_tiff),
    ):
        if issubclass(reader, families):
            return write
    raise BadInput(
        f"images read by nnU-Net's {reader.__name__} cannot be written; expected files of SimpleITKIO, NibabelIO, "
        f"NaturalImage2DIO or Tiff3DIO: convert the dataset to .nii.gz"
    )


def cast_like(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rounds and clips to an integer dtype's range, or casts to a floating dtype."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return values.astype(dtype)


def _change(array: np.ndarray, values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """``array`` (c, z, y, x) with ``values`` at ``where``, in the array's dtype; uint8 for values that 1 bit lacks."""
    if array.dtype == bool:
        numbers = _change(array.astype(np.uint8), values, where)
        return numbers if numbers.max() > 1 else numbers.astype(bool)
    changed = array.copy()
    changed[:, where] = cast_like(values[: len(array), where], array.dtype)
    return changed


def _write_sitk(source: str, target: str, values: np.ndarray, where: np.ndarray, reader: type, box: Cut) -> int:
    import SimpleITK as sitk

    original = sitk.ReadImage(source)
    reorients = "Reorient" in reader.__name__
    image = sitk.DICOMOrient(original, "RAS") if reorients else original
    array = sitk.GetArrayFromImage(image)
    four_d = array.reshape(array.shape[0] if array.ndim == 4 else 1, *where.shape)
    result = sitk.GetImageFromArray(_change(four_d, values, where).reshape(array.shape), isVector=False)
    result.CopyInformation(image)
    if box is not None:
        result = result[(*box[::-1], *([slice(None)] * (result.GetDimension() - 3)))]
    if reorients:
        direction = original.GetDirection()
        result = sitk.DICOMOrient(result, sitk.DICOMOrientImageFilter_GetOrientationFromDirectionCosines(direction))
    sitk.WriteImage(result, str(target), useCompression=True)
    return len(four_d)


def _write_nibabel(
    source: str, target: str, values: np.ndarray, where: np.ndarray, reader: type, box: Box | None
) -> int:
    import nibabel
    from nibabel.orientations import io_orientation, ornt_transform

    original: Any = nibabel.load(source)  # a NIfTI image; nibabel annotates the base class of all formats
    reorients = "Reorient" in reader.__name__
    image = original.as_reoriented(io_orientation(original.affine)) if reorients else original
    header = original.header.copy()
    header.extensions.clear()  # extensions and free texts may name a patient
    for text in ("descrip", "db_name", "aux_file", "intent_name"):
        header[text] = b""
    scaled = (original.dataobj.slope, original.dataobj.inter) != (1, 0)
    data = np.asanyarray(image.dataobj)
    if scaled:
        data = data.astype(np.float32)
        header.set_data_dtype(np.float32)
        header.set_slope_inter(1, 0)
    changed = _change(data.transpose(2, 1, 0)[None], values, where)[0].transpose(2, 1, 0)
    result = nibabel.Nifti1Image(changed, image.affine, header)
    if box is not None:
        result = result.slicer[box[::-1]]
    if reorients:
        result = result.as_reoriented(ornt_transform(io_orientation(result.affine), io_orientation(original.affine)))
    affine = original.affine if box is None else result.affine
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(result.dataobj), affine, header), target)
    return 1


def _write_natural(
    source: str, target: str, values: np.ndarray, where: np.ndarray, reader: type, box: Box | None
) -> int:
    from PIL import Image
    from skimage import io

    array = io.imread(source)
    channels_first = array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[:, None]
    changed = _change(channels_first, values, where)
    if changed.dtype == bool:  # skimage would write True as 255
        Image.fromarray(changed[0, 0]).save(target)
        return 1
    io.imsave(target, changed[0, 0] if array.ndim == 2 else changed[:, 0].transpose(1, 2, 0), check_contrast=False)
    return len(channels_first)


def _write_tiff(source: str, target: str, values: np.ndarray, where: np.ndarray, reader: type, box: Cut) -> int:
    import tifffile

    changed = _change(tifffile.imread(source)[None], values, where)[0]
    changed = changed if box is None else changed[box]
    tifffile.imwrite(target, changed, compression="zlib", photometric="minisblack")  # 3 or 4 slices are not RGB(A)
    return 1


def spacing_sidecar(file: str, channels: bool, reader: type) -> Path | None:
    """The JSON file with a 3D TIFF's spacing, if the reader uses one and it exists.

    Args:
        file: an image file (``channels``: its name ends in ``_0000``) or a label file.
        channels: whether the name has a channel suffix.
        reader: nnU-Net's reader class.
    """
    if reader.__name__ != "Tiff3DIO":
        return None
    path = Path(file)
    stem = path.name[: -len(path.suffix)]
    sidecar = path.with_name((stem[:-5] if channels else stem) + ".json")
    return sidecar if sidecar.is_file() else None


def copy_sidecar(source: Path | None, target: Path) -> None:
    """Copies a spacing file, if there is one."""
    if source is not None:
        copy_file(source, target)


def place_of(file: str, reader: type) -> list[list[float]]:
    """What the header of an image says about size and place of its voxels; empty for formats that have no such header.

    Args:
        file: path of the image.
        reader: nnU-Net's reader class of the dataset.
    """
    grid = grid_of(file) if _has_header(reader) else None
    return grid.rounded() if grid else []


def lies_as_source(copy: Path, source: str, reader: type) -> bool:
    """Whether a changed copy lies where its source lies now, and not where that lay when the copy was written.

    Args:
        copy: image that ``write_changed_copy`` wrote from ``source``, whole or as a box.
        source: the image.
        reader: nnU-Net's reader class of the dataset.

    Returns:
        False if the header of the source, or its file with the spacing, has been changed since; True if a file cannot
        be read, which those who read its voxels notice.
    """
    if _has_header(reader):
        part, whole = grid_of(copy), grid_of(source)
        return part is None or whole is None or part.lies_in(whole)
    sidecars = [spacing_sidecar(str(file), True, reader) for file in (copy, source)]
    try:
        first, second = (None if file is None else read_json(file) for file in sidecars)
    except (OSError, ValueError):
        return True
    return first == second


def _has_header(reader: type) -> bool:
    return _writer_of(reader) in (_write_sitk, _write_nibabel)
