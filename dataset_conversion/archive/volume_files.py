"""Reads volumes in NIfTI, NRRD and MetaImage files, and repairs what their headers say about the grid.

A header is believed where it is clear. Axes that are perpendicular but for rounding are made perpendicular, a NIfTI
header in µm or m is read in mm, and each such step leaves a note. A volume that is really sheared (a tilted gantry)
keeps its shear: ``volumes`` straightens it. What leaves the size of a voxel open is refused.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_difflung.dataset_conversion.imaging.geometry import (
    index_to_physical,
    is_orthogonal,
    nearest_rotation,
)
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput

if TYPE_CHECKING:
    import SimpleITK as sitk

NIFTI = (".nii.gz", ".nii", ".hdr")
SMALLEST, LARGEST = 0.01, 100.0  # mm; voxels of a CT are neither smaller nor larger
_UNITS = {1: (1000.0, "m"), 3: (0.001, "µm")}  # xyzt_units of NIfTI → mm, name
_ROUNDED = 0.5  # voxels; a corner that moves less is off by rounding
_EXACT = 1e-6  # cosines; what single precision keeps
_NOTED = 1e-3  # mm; moves that are not worth a note
_GZIP = b"\x1f\x8b"


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


def read_volume(path: Path) -> sitk.Image:
    """The image of ``open_volume``.

    Raises:
        BadInput: see ``open_volume``, or the file has several channels.
    """
    volume = open_volume(path)
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
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if path.stat().st_size == 0:
        raise BadInput(f"{path} is empty (0 bytes); expected a complete image file: copy it again")
    notes: list[Note] = []
    image = _nifti(path, notes) if path.name.lower().endswith(NIFTI) else _by_itk(path)
    image = _three_dimensional(image, path)
    metadata = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    if "NRRD_kinds[0]" in metadata and "NRRD_space" not in metadata and set(image.GetSpacing()) == {1.0}:
        what = "volumes whose header gives no voxel size: 1 mm is assumed"
        notes.append(Note(f"{path.name} gives no voxel size: 1 mm is assumed", Kind.GUESSED, what=what))
    _check_spacing(image, path)
    image = _perpendicular(image, path, notes)
    return Volume(image, image.GetNumberOfComponentsPerPixel(), metadata, tuple(notes))


def _by_itk(path: Path) -> sitk.Image:
    import SimpleITK as sitk

    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise BadInput(_unreadable(path, str(error))) from error


def _unreadable(path: Path, error: str) -> str:
    """One line that says why ITK cannot read a file, and what to do."""
    reason = error.strip().splitlines()[-1].removeprefix("sitk::ERROR: ").removeprefix("ITK ERROR: ")
    beside = re.search(r"open \"(.+)\" \(data file", error) or re.search(r"File cannot be read: (\S+)", error)
    if beside or path.name.lower().endswith((".mhd", ".nhdr")) and "No such file" in reason:
        name = Path(beside[1]).name if beside else "of its voxels"
        return (
            f"{path} cannot be read: its data file {name} is missing or incomplete; expected the data file that the "
            f"header names beside it: copy both files again"
        )
    if "Refusing to change spacing" in reason:
        return (
            f"{path} cannot be read: its header gives a voxel size of 0 mm ({reason}); expected mm along each axis: "
            f"correct the spacing in its header, or export it again"
        )
    return f"{path} cannot be read ({reason}); expected a complete image file: copy it again"


def _three_dimensional(image: sitk.Image, path: Path) -> sitk.Image:
    import SimpleITK as sitk

    size = image.GetSize()
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
        text = f"the axes of {path.name} were made perpendicular, which moves a corner by {distance}"
        notes.append(Note(text, Kind.REINTERPRETED, what=what))
    result = sitk.Image(image)
    result.SetSpacing(sizes.tolist())
    result.SetDirection(rotation.ravel().tolist())
    return result


# ---- NIfTI ----


def _nifti(path: Path, notes: list[Note]) -> sitk.Image:
    """A NIfTI file; by nibabel where ITK refuses the header or departs from the standard."""
    with _named_by_content(path) as named:
        nifti = nifti_header(named)
        if nifti is None:
            return _by_itk(path)
        header = nifti.header
        sizes = np.asarray(header["pixdim"][1:4], float)[: max(1, min(3, int(header["dim"][0])))]
        affine = header.get_sform() if header["sform_code"] > 0 else None
        if affine is not None and (not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12):
            affine = None
        counted = sizes[np.array(nifti.shape[: len(sizes)]) > 1]
        if affine is None and not (np.isfinite(counted).all() and counted.all()):
            raise BadInput(
                f"{path}: its header gives voxels of {' × '.join(f'{size:g}' for size in sizes)} mm; expected the size "
                f"in mm along each axis: correct pixdim or the affine in its header, or export it again"
            )
        if affine is None and header["qform_code"] <= 0:
            what = "volumes whose header does not say where the patient lies: taken as facing up, head last"
            notes.append(Note(f"{path.name} gives no position and orientation", Kind.GUESSED, what=what))
        _note_unit(int(header["xyzt_units"]) & 7, path, notes)
        if _needs_nibabel(header, affine, sizes, path, notes):
            return _by_nibabel(nifti, path, notes)
        try:
            return _by_itk(named)
        except BadInput as error:
            try:
                return _by_nibabel(nifti, path, notes)
            except (OSError, ValueError, EOFError):
                raise BadInput(str(error).replace(str(named), str(path))) from error


def _needs_nibabel(header: Any, affine: np.ndarray | None, sizes: np.ndarray, path: Path, notes: list[Note]) -> bool:
    """Whether ITK would read other values or another grid than the standard says."""
    slope, intercept = (float(header[f"scl_{name}"]) for name in ("slope", "inter"))
    if slope == 0 and intercept:
        text = f"{path.name}: scl_slope is 0, so scl_inter ({intercept:g}) was not added, as the NIfTI standard says"
        notes.append(Note(text, Kind.REINTERPRETED, what="files whose scl_slope is 0: values are as stored"))
        return True
    if not np.isfinite(slope) or not np.isfinite(intercept):
        if np.isnan(slope) and (np.isnan(intercept) or intercept == 0):
            return False  # nibabel writes these where there is no scaling
        raise BadInput(
            f"{path}: scl_slope {slope:g} and scl_inter {intercept:g} in its header; expected finite numbers: correct "
            f"them (1 and 0 if there is no scaling), or export the file again"
        )
    if affine is None:
        return False
    steps = np.linalg.norm(affine[:3, :3], axis=0)[: len(sizes)]
    if np.allclose(steps, np.abs(sizes), rtol=0.01, equal_nan=False):
        return False
    listed = " × ".join(f"{step:g}" for step in steps)
    if header["qform_code"] > 0:
        raise BadInput(
            f"{path}: the sform of its header gives voxels of {listed} mm, its qform and pixdim voxels of "
            f"{' × '.join(f'{size:g}' for size in sizes)} mm; expected the same: correct the one that is wrong, or set "
            f"its code to 0"
        )
    text = f"{path.name}: voxels of {listed} mm as the sform says, against pixdim"
    notes.append(Note(text, Kind.REINTERPRETED, what="files whose sform gives another voxel size than pixdim"))
    return True


def _note_unit(unit: int, path: Path, notes: list[Note]) -> None:
    if unit in _UNITS:
        name = _UNITS[unit][1]
        what = f"files whose header is in {name}: converted to mm"
        notes.append(Note(f"the header of {path.name} is in {name}: converted to mm", Kind.REINTERPRETED, what=what))


def _by_nibabel(nifti: Any, path: Path, notes: list[Note]) -> sitk.Image:
    """The image in a NIfTI file; its values and affine as the standard says, in LPS."""
    import SimpleITK as sitk

    values = np.asanyarray(nifti.dataobj)
    if values.dtype.kind not in "iufb":
        raise BadInput(
            f"{path}: values of type {values.dtype}; expected one number a voxel: save the channel that holds the CT "
            f"(or the labels) as a separate file"
        )
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim > 3:
        raise BadInput(
            f"{path}: a 4D image of size {values.shape}; expected a 3D image: save the annotated volume as a separate "
            f"file"
        )
    values = values.reshape(values.shape + (1,) * (3 - values.ndim))
    if values.dtype.kind == "f" and values.dtype.itemsize not in (4, 8):
        values = values.astype(np.float64)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T.astype(values.dtype.newbyteorder("="))))
    factor = _UNITS.get(int(nifti.header["xyzt_units"]) & 7, (1.0, ""))[0]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(nifti.affine, float)
    steps = affine[:3, :3] * factor
    sizes = np.linalg.norm(steps, axis=0)
    if not np.isfinite(affine).all() or not sizes.all() or abs(np.linalg.det(steps / sizes)) < 1e-6:
        raise BadInput(
            f"{path}: the affine of its header has no inverse; expected three axes at right angles: correct it, or "
            f"export the file again"
        )
    image.SetSpacing(sizes.tolist())
    image.SetDirection((steps / sizes).ravel().tolist())
    image.SetOrigin((affine[:3, 3] * factor).tolist())
    return image


def nifti_header(path: Path) -> Any:
    """A NIfTI file as nibabel opens it, without its values; None if its header is damaged.

    Raises:
        BadInput: the file is Analyze 7.5.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        with nibabel.imageglobals.LoggingOutputSuppressor():
            image = nibabel.load(path)
    except (ImageFileError, HeaderDataError, OSError, ValueError, EOFError, KeyError):
        return None
    if not isinstance(image, nibabel.Nifti1Pair):  # Nifti1Image and Nifti2Image are such pairs too
        raise BadInput(
            f"{path}: Analyze 7.5, a format that does not tell left from right; expected NIfTI: convert the file with "
            f"the program that wrote it"
        )
    return image


def nifti_extensions(path: Path) -> list[bytes]:
    """The contents of the extensions of a NIfTI header; empty if it has none."""
    with _named_by_content(path) as named:
        nifti = nifti_header(named)
        return [bytes(extension.get_content()) for extension in _texts(nifti)] if nifti is not None else []


def _texts(nifti: Any) -> list[Any]:
    return [extension for extension in nifti.header.extensions if isinstance(extension.get_content(), (bytes, str))]


@contextmanager
def _named_by_content(path: Path) -> Iterator[Path]:
    """A path to the file whose ending says whether it is compressed, which readers go by."""
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP
    ending = ".nii.gz" if compressed else ".nii"
    if path.name.lower().endswith((ending, ".hdr")):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / f"volume{ending}"
        named.symlink_to(path.resolve())
        yield named
