"""Reads NIfTI files: by ITK, or by nibabel where ITK refuses a header or departs from the NIfTI standard.

ITK refuses axes that are not perpendicular, and NIfTI-2. It adds ``scl_inter`` where a ``scl_slope`` of 0 says that
there is no scaling, and takes the voxel size from ``pixdim`` although the sform is the transform that counts.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_difflung.dataset_conversion.files.itk_files import is_unicode, linked, read_by_itk
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput

if TYPE_CHECKING:
    import SimpleITK as sitk

NIFTI = (".nii.gz", ".nii", ".hdr")
_UNITS = {1: (1000.0, "m"), 3: (0.001, "µm")}  # xyzt_units → mm, name
_COSINE = 1e-3  # between axes; what rounding explains
_PART = 2**22  # bytes that are read at a time
_GZIP = b"\x1f\x8b"
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DAMAGED = (OSError, EOFError, ValueError, KeyError, MemoryError, zlib.error)


def read_nifti(path: Path, notes: list[Note]) -> sitk.Image:
    """The image in a NIfTI file, in mm.

    Args:
        path: of the file; its content says whether it is compressed.
        notes: on what was repaired are added.

    Raises:
        BadInput: the file cannot be read, or its header gives no grid or no finite scaling.
    """
    with _named_by_content(path) as named:
        header = _stored_header(named)
        if header is None:
            return _readdressed(named, path)
        if named.name.endswith(".nii") and path.stat().st_size < _bytes_of(header):
            raise BadInput(truncated(path, path.stat().st_size, _bytes_of(header)))
        unscaled = _is_unscaled(header, path, notes)
        affine = _affine(header, path, notes)
        unit = int(header["xyzt_units"]) & 7
        if unit in _UNITS:
            text = f"the header of {place(path)} is in {_UNITS[unit][1]}: converted to mm"
            what = f"files whose header is in {_UNITS[unit][1]}: converted to mm"
            notes.append(Note(text, Kind.REINTERPRETED, what=what))
        factor = _UNITS.get(unit, (1.0, ""))[0]
        if unscaled or affine is not None:
            return _by_nibabel(named, path, affine, factor)
        try:
            return _readdressed(named, path)
        except BadInput as refusal:
            try:
                return _by_nibabel(named, path, None, factor)
            except BadInput:
                raise
            except _DAMAGED:
                raise refusal from None


def not_finite(path: Path, image: sitk.Image) -> int:
    """The number of values in a NIfTI file that are NaN or infinite, for which ITK gives 0 without a word.

    Args:
        path: of the file.
        image: as it was read; without a value that may stand for such a one, the file is not read again.
    """
    import SimpleITK as sitk

    with _named_by_content(path) as named:
        header = _stored_header(named)
        if header is None or header.get_data_dtype().kind not in "fc":
            return 0
        values = sitk.GetArrayViewFromImage(image)
        intercept = header["scl_inter"]
        if not (values == values.dtype.type(intercept if np.isfinite(intercept) else 0)).any():
            return 0
        return sum(int(np.count_nonzero(~np.isfinite(part))) for part in _stored_parts(named, path, header))


def _stored_parts(named: Path, path: Path, header: Any) -> Iterator[np.ndarray]:
    """The values in a NIfTI file as they are stored, in parts; fewer if the file breaks off."""
    if named.name.lower().endswith(".hdr"):
        yield np.asanyarray(_opened(named, path).dataobj.get_unscaled())
        return
    kind = header.get_data_dtype()
    with suppress(*_DAMAGED), gzip.open(named) if named.name.endswith(".gz") else named.open("rb") as file:
        file.read(int(header["vox_offset"]))
        while content := file.read(_PART):
            yield np.frombuffer(content[: len(content) // kind.itemsize * kind.itemsize], kind)


def place(path: Path) -> str:
    """A file with its folder, for notes."""
    return f"{path.parent.name}/{path.name}"


def _bytes_of(header: Any) -> int:
    sizes = [int(n) for n in header["dim"][1 : 1 + max(0, min(7, int(header["dim"][0])))]]
    return int(header["vox_offset"]) + math.prod(sizes) * int(header["bitpix"]) // 8


def truncated(path: Path, found: int, expected: int) -> str:
    """One line on a file that ends too early."""
    return f"{path} cannot be read ({found} bytes of {expected}); expected a complete image file: copy it again"


def _readdressed(named: Path, path: Path) -> sitk.Image:
    """The image as ITK reads it; a message gives the path that the user knows."""
    try:
        return read_by_itk(named)
    except BadInput as error:
        raise BadInput(str(error).replace(str(named), str(path))) from error


def _is_unscaled(header: Any, path: Path, notes: list[Note]) -> bool:
    """Whether ITK would scale values that are not scaled.

    Raises:
        BadInput: the scaling is no finite number.
    """
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 and intercept:
        text = f"{place(path)}: scl_slope is 0, so scl_inter ({intercept:g}) was not added, as the NIfTI standard says"
        notes.append(Note(text, Kind.REINTERPRETED, what="files whose scl_slope is 0: values are as stored"))
        return True
    without = np.isnan(slope) and (np.isnan(intercept) or intercept == 0)  # as nibabel writes it
    if not without and not (np.isfinite(slope) and np.isfinite(intercept)):
        raise BadInput(
            f"{path}: scl_slope {slope:g} and scl_inter {intercept:g} in its header; expected finite numbers: correct "
            f"them (1 and 0 if there is no scaling), or export the file again"
        )
    return False


def _affine(header: Any, path: Path, notes: list[Note]) -> np.ndarray | None:
    """The affine (RAS) that counts where ITK would take another one; None where it takes the right one.

    Raises:
        BadInput: the header gives no voxel size, or two that differ.
    """
    sizes = np.abs(np.asarray(header["pixdim"][1:4], float))[: max(1, min(3, int(header["dim"][0])))]
    counted = sizes[np.asarray(header["dim"][1 : 1 + len(sizes)]) > 1]
    sform, qform = header["sform_code"] > 0, header["qform_code"] > 0
    steps = np.linalg.norm(header.get_sform()[:3, :3], axis=0)[: len(sizes)]
    if sform and not (np.isfinite(header.get_sform()).all() and abs(np.linalg.det(header.get_sform()[:3, :3])) > 1e-12):
        if not qform:
            raise BadInput(
                f"{path}: the sform of its header is not a valid affine (zeros, NaN or axes in a plane), and it "
                f"has no qform; expected a position and three axes: correct it, or export the file again"
            )
        sform = False
        what = "files whose sform is not a valid affine: the qform was taken"
        notes.append(
            Note(
                f"the sform of {place(path)} is not a valid affine: the qform was taken", Kind.REINTERPRETED, what=what
            )
        )
        if np.isfinite(counted).all() and counted.all():
            return np.asarray(header.get_qform(), float)
    if not sform and not (np.isfinite(counted).all() and counted.all()):
        raise BadInput(
            f"{path}: its header gives voxels of {_listed(sizes)} mm; expected the size in mm along each axis: correct "
            f"pixdim or the affine in its header, or export it again"
        )
    if not sform and not qform:
        what = "volumes whose header does not say where the patient lies: taken as facing up, head last"
        notes.append(Note(f"{place(path)} gives no position and orientation", Kind.GUESSED, what=what))
    if sform and qform and counted.all() and _sheared(header.get_sform()):
        what = "files whose sform is sheared: the qform was taken, as ITK does"
        notes.append(Note(f"{place(path)}: the sform is sheared, the qform was taken", Kind.REINTERPRETED, what=what))
        return None
    if not sform or np.allclose(steps, sizes, rtol=0.01):
        return None
    if qform and counted.all():
        raise BadInput(
            f"{path}: the sform of its header gives voxels of {_listed(steps)} mm, its qform and pixdim voxels of "
            f"{_listed(sizes)} mm; expected the same: correct the one that is wrong, or set its code to 0"
        )
    text = f"{place(path)}: voxels of {_listed(steps)} mm as the sform says, against pixdim ({_listed(sizes)} mm)"
    notes.append(Note(text, Kind.REINTERPRETED, what="files whose sform gives another voxel size than pixdim"))
    return np.asarray(header.get_sform(), float)


def _sheared(affine: np.ndarray) -> bool:
    """Whether the axes of an affine are not perpendicular, by more than rounding."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > _COSINE)


def _listed(sizes: np.ndarray) -> str:
    return " × ".join(f"{size:g}" for size in sizes)


def _by_nibabel(named: Path, path: Path, affine: np.ndarray | None, factor: float) -> sitk.Image:
    """The image as nibabel reads it.

    Args:
        named: the file.
        path: of the file, for messages.
        affine: RAS, in the unit of the header; None for the one of the header.
        factor: from the unit of the header to mm.

    Raises:
        BadInput: the file holds no single channel, or several time points, or its affine has no inverse.
    """
    import SimpleITK as sitk

    nifti = _opened(named, path)
    values = np.asanyarray(nifti.dataobj)
    if values.dtype.kind not in "iufb" or not values.size:
        raise BadInput(
            f"{path}: values of type {values.dtype} and shape {values.shape}; expected one number a voxel: save the "
            f"channel that holds the CT (or the labels) as a separate file"
        )
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim > 3:
        raise BadInput(
            f"{path}: a 4D image of size {values.shape}; expected a 3D image: save the annotated volume as a separate "
            f"file"
        )
    values = values.reshape(values.shape + (1,) * (3 - values.ndim)).T
    if values.dtype.kind == "b" or values.dtype.itemsize > 8 or values.dtype == np.float16:
        values = values.astype(np.uint8 if values.dtype.kind == "b" else np.float64)
    lps = _TO_LPS @ np.asarray(nifti.affine if affine is None else affine, float)
    steps = lps[:3, :3] * factor
    sizes = np.linalg.norm(steps, axis=0)
    if not np.isfinite(lps).all() or not sizes.all() or abs(np.linalg.det(steps / sizes)) < 1e-6:
        raise BadInput(
            f"{path}: the affine of its header has no inverse; expected three axes at right angles: correct it, or "
            f"export the file again"
        )
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))))
    image.SetSpacing(sizes.tolist())
    image.SetDirection((steps / sizes).ravel().tolist())
    image.SetOrigin((lps[:3, 3] * factor).tolist())
    return image


def _opened(named: Path, path: Path) -> Any:
    """A NIfTI file as nibabel opens it, without its values.

    Raises:
        BadInput: the file is Analyze 7.5, or its header is damaged.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        with nibabel.imageglobals.LoggingOutputSuppressor():
            image = nibabel.load(named)
    except (ImageFileError, HeaderDataError, WrapStructError, *_DAMAGED) as error:
        reason = " ".join(str(error).replace(str(named), path.name).split())
        raise BadInput(f"{path} cannot be read ({reason}); expected a complete NIfTI file: copy it again") from error
    return image


def _stored_header(path: Path) -> Any:
    """A header as it is stored, without the corrections that nibabel makes; None if the file is no NIfTI.

    Raises:
        BadInput: the file is Analyze 7.5.
    """
    import nibabel
    from nibabel.wrapstruct import WrapStructError

    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            content = file.read(nibabel.Nifti2Header.sizeof_hdr)
        if content[4:7] in (b"n+2", b"ni2"):
            return nibabel.Nifti2Header(content, check=False)
        header = nibabel.Nifti1Header(content[: nibabel.Nifti1Header.sizeof_hdr], check=False)
    except (WrapStructError, *_DAMAGED):
        return None
    if header["sizeof_hdr"] != nibabel.Nifti1Header.sizeof_hdr:
        return None
    if bytes(header["magic"])[:3] not in (b"n+1", b"ni1"):
        raise BadInput(
            f"{path}: Analyze 7.5, a format that does not tell left from right; expected NIfTI: convert the file with "
            f"the program that wrote it"
        )
    return header


def nifti_extensions(path: Path) -> list[bytes]:
    """The contents of the extensions of a NIfTI header that hold text; empty if it has none."""
    with _named_by_content(path) as named:
        if _stored_header(named) is None:
            return []
        contents = [extension.get_content() for extension in _opened(named, path).header.extensions]
    return [content if isinstance(content, bytes) else content.encode() for content in contents if _is_text(content)]


def _is_text(content: Any) -> bool:
    return isinstance(content, (bytes, str))


@contextmanager
def _named_by_content(path: Path) -> Iterator[Path]:
    """A path to the file whose ending says whether it is compressed, which readers go by."""
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP
    ending = ".nii.gz" if compressed else ".nii"
    if path.name.lower().endswith((ending, ".hdr")) and is_unicode(path):
        yield path
        return
    with linked(path, f"volume{ending}") as named:
        yield named
