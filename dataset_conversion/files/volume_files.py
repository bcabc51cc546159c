"""Reads volumes in NIfTI, NRRD and MetaImage files, and repairs what their headers say about the grid.

A header is believed where it is clear. Axes that are perpendicular but for rounding are made perpendicular, which
leaves a note. A volume that is really sheared (a tilted gantry)
keeps its shear: ``volumes`` straightens it. What leaves the size of a voxel open is refused.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset_conversion.files.itk_files import read_by_itk
from nnunet_difflung.dataset_conversion.files.nifti_files import NIFTI, not_finite, place, read_nifti
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.completeness import damage
from nnunet_difflung.meaning.voxels import LARGEST, SMALLEST

if TYPE_CHECKING:
    import SimpleITK as sitk

NRRD = (".nrrd", ".nhdr")
_ROUNDED = 0.5  # voxels; a corner that moves less is off by rounding
_EXACT = 1e-6  # cosines; what single precision keeps
_NOTED = 1e-3  # mm; moves that are not worth a note


@dataclass(frozen=True)
class Volume:
    """A volume as it was read.

    Attributes:
        image: 3D, of one component for each layer.
        layers: number of components.
        metadata: entries of the header that hold text.
        notes: on what was repaired.
    """

    image: sitk.Image
    layers: int
    metadata: dict[str, str]
    notes: tuple[Note, ...]

    def layer(self, number: int) -> sitk.Image:
        """A layer as an image of one component."""
        import SimpleITK as sitk

        return self.image if self.layers == 1 else sitk.VectorIndexSelectionCast(self.image, number)


def check_complete(path: Path) -> None:
    """Checks that all voxels are in a file, undamaged; readers fill what is missing with zeros.

    Raises:
        BadInput: the file broke off, or a checksum is wrong.
    """
    if reason := damage(path):
        raise BadInput(f"{path} cannot be read ({reason}); expected a complete image file: copy it again")


def check_finite(image: sitk.Image, path: Path) -> None:
    """Checks that all values in a file are numbers.

    Args:
        image: as ``open_volume`` read it.
        path: of the file.

    Raises:
        BadInput: some are NaN or infinite.
    """
    import SimpleITK as sitk

    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind != "f":
        return
    number = int(np.count_nonzero(~np.isfinite(values)))
    if not number and path.name.lower().endswith(NIFTI):
        number = not_finite(path, image)
    if number:
        raise BadInput(
            f"{path}: {number} of {values.size} values are NaN or infinite; expected finite numbers: set them to the "
            f"HU of air (an image) or to 0 (a label map), or export the file again"
        )


def read_volume(path: Path) -> sitk.Image:
    """The image of ``open_volume``.

    Raises:
        BadInput: see ``open_volume``, ``check_complete`` and ``check_finite``, or the file has several channels.
    """
    check_complete(path)
    volume = open_volume(path)
    check_finite(volume.image, path)
    if volume.layers != 1:
        raise BadInput(several_channels(path, volume.layers))
    return volume.image


def several_channels(path: Path, number: int) -> str:
    """One line that says what to do with a file of several channels."""
    remedy = "save the channel that holds the CT (or the labels) as a separate file"
    return f"{path}: {number} channels; expected one: {remedy}"


def open_volume(path: Path) -> Volume:
    """A 3D volume; a 2D image becomes one slice.

    Raises:
        BadInput: the file cannot be read, holds a time series, or does not give the size of its voxels.
    """
    if path.stat().st_size == 0:
        raise BadInput(f"{path} is empty (0 bytes); expected a complete image file: copy it again")
    notes: list[Note] = []
    image = read_nifti(path, notes) if path.name.lower().endswith(NIFTI) else read_by_itk(path)
    image = _three_dimensional(image, path)
    metadata = _texts(image)
    if path.suffix.lower() in NRRD and "NRRD_space" not in metadata and set(image.GetSpacing()) == {1.0}:
        what = "volumes whose header gives no voxel size: 1 mm is assumed"
        notes.append(Note(f"{place(path)} gives no voxel size: 1 mm is assumed", Kind.GUESSED, what=what))
    _check_spacing(image, path)
    image = _perpendicular(image, path, notes)
    return Volume(image, image.GetNumberOfComponentsPerPixel(), metadata, tuple(notes))


def _texts(image: sitk.Image) -> dict[str, str]:
    """The entries of a header, without those that are not in UTF-8."""
    texts = {}
    for key in image.GetMetaDataKeys():
        with suppress(TypeError, ValueError, RuntimeError):
            texts[key] = image.GetMetaData(key)
    return texts


def _three_dimensional(image: sitk.Image, path: Path) -> sitk.Image:
    import SimpleITK as sitk

    size = image.GetSize()
    if 0 in size:
        raise BadInput(f"{path}: an image of size {size}, without voxels; expected a 3D image: copy it again")
    if image.GetPixelIDValue() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise BadInput(f"{path}: complex numbers; expected a CT or labels: save the channel that holds them")
    if len(size) > 3 and all(n == 1 for n in size[3:]):
        image = image[(slice(None), slice(None), slice(None), *([0] * (len(size) - 3)))]
    elif len(size) > 3:
        raise BadInput(
            f"{path}: a 4D image of size {size}; expected a 3D image: save the annotated volume as a separate file"
        )
    return sitk.JoinSeries(image) if image.GetDimension() == 2 else image


def _check_spacing(image: sitk.Image, path: Path) -> None:
    from nnunet_difflung.dataset_conversion.imaging.geometry import index_to_physical

    steps = np.linalg.norm(index_to_physical(image), axis=0)
    counted = steps[np.array(image.GetSize()) > 1]
    if not np.isfinite(steps).all() or (counted.size and not SMALLEST <= counted.min() <= counted.max() <= LARGEST):
        listed = " × ".join(f"{step:g}" for step in steps)
        raise BadInput(
            f"{path}: voxels of {listed} mm; expected {SMALLEST:g} to {LARGEST:g} mm along each axis: correct the "
            f"voxel size or its unit in the header, or export the file again"
        )


def _perpendicular(image: sitk.Image, path: Path, notes: list[Note]) -> sitk.Image:
    """The image with axes of length 1 that are perpendicular, unless they are off by more than rounding."""
    import SimpleITK as sitk

    from nnunet_difflung.dataset_conversion.imaging.geometry import index_to_physical, is_orthogonal, nearest_rotation

    if is_orthogonal(image, _EXACT):
        return image
    steps = index_to_physical(image)
    sizes = np.linalg.norm(steps, axis=0)
    if not sizes.all() or abs(np.linalg.det(steps / sizes)) < 1e-3:
        raise BadInput(
            f"{path}: its axes lie in a plane (direction {tuple(round(v, 4) for v in image.GetDirection())}); expected "
            f"three axes at right angles: correct the direction or the affine in its header, or export it again"
        )
    rotation = nearest_rotation(steps / sizes)
    moved = np.abs((steps - rotation * sizes) * (np.array(image.GetSize()) - 1)).sum(axis=1)
    if np.linalg.norm(moved) > _ROUNDED * sizes.min():
        rotation = steps / sizes  # sheared
    elif np.linalg.norm(moved) > _NOTED:
        what = "files whose axes were perpendicular but for rounding and are now perpendicular"
        distance = f"{np.linalg.norm(moved):.2g} mm"
        text = f"the axes of {place(path)} were made perpendicular, which moves a corner by {distance}"
        notes.append(Note(text, Kind.REINTERPRETED, what=what))
    result = sitk.Image(image)
    result.SetSpacing(sizes.tolist())
    result.SetDirection(rotation.ravel().tolist())
    return result
