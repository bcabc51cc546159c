"""Reads images and label maps in common file formats, and tells images from label maps by their content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset.completeness import damage
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.files import openable

if TYPE_CHECKING:
    import SimpleITK as sitk

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
SLICES = (".png", ".tif", ".tiff", ".bmp")
MOST_LABELS = 128  # most distinct values of a label map; segmentations of the whole body have about 100 organs
MOST_COLOURS = 32  # most distinct colours of a label map
_RESOLUTION = ("XResolution", "YResolution")  # tags of a TIFF


@dataclass(frozen=True)
class Facts:
    """What reading a file once tells about it.

    Attributes:
        size: voxels along x, y, z.
        spacing: mm along x, y, z; zeros for a slice whose file does not give it.
        low, high: range of the values.
        values: distinct values if they can be labels (few whole numbers, none negative), colours as 0xRRGGBB;
            else None.
        colour: whether the values are colours.
        flat: share of equal pairs among horizontally neighbouring pixels that are not both 0; near 1 in label maps.
        problem: one line that says why the file cannot be used, or "".
    """

    size: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    low: float = 0.0
    high: float = 0.0
    values: tuple[int, ...] | None = None
    colour: bool = False
    flat: float = 0.0
    problem: str = ""

    @property
    def label_map(self) -> bool:
        """Whether the values look like labels rather than intensities."""
        return self.values is not None and (len(self.values) <= 16 or self.flat > 0.7)


def stem(path: str | Path) -> str:
    """File name without the extension of its format."""
    name = Path(path).name
    for ending in (*VOLUMES, *SLICES):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def facts(path: Path) -> Facts:
    """Reads a file once; if it cannot be used, ``problem`` of the result says why."""
    import SimpleITK as sitk

    try:
        if path.name.lower().endswith(SLICES):
            pixels, colour = read_slice(path, mask=True)
            spacing = (*slice_spacing(path), 0.0)
            size = (pixels.shape[1], pixels.shape[0], 1)
        else:
            image = read_volume(path)
            pixels, colour = sitk.GetArrayViewFromImage(image), False
            spacing, size = image.GetSpacing(), image.GetSize()
    except BadInput as error:
        return Facts(problem=str(error))
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        return Facts(size, spacing, float(np.nanmin(pixels)), float(np.nanmax(pixels)))
    low, high, values = float(pixels.min()), float(pixels.max()), _distinct(pixels)
    if colour and (values is None or len(values) > MOST_COLOURS):
        values = None
    return Facts(size, spacing, low, high, values, colour, _flat(pixels) if values else 0.0)


def read_volume(path: Path) -> sitk.Image:
    """A 3D image of one component; a 2D image becomes one slice.

    Raises:
        BadInput: the file cannot be read or is damaged, is empty, or holds a time series or several channels.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = sitk.ReadImage(openable(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("sitk::ERROR: ")
        raise BadInput(f"{path} cannot be read ({reason}); expected a complete image file: copy it again") from error
    if reason := damage(path):
        raise BadInput(f"{path} is damaged ({reason}); expected a complete image file: copy it again")
    size = image.GetSize()
    if 0 in size:
        raise BadInput(f"{path}: an image of size {size}, without voxels; expected a 3D image: copy it again")
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise BadInput(
            f"{path}: {image.GetNumberOfComponentsPerPixel()} channels; expected one: "
            f"save the channel that holds the CT (or the labels) as a separate file"
        )
    if len(size) == 4 and size[3] == 1:
        image = image[:, :, :, 0]
    elif len(size) == 4:
        raise BadInput(
            f"{path}: a 4D image of size {size}; expected a 3D image: save the annotated volume as a separate file"
        )
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    return image


def read_slice(path: Path, mask: bool) -> tuple[np.ndarray, bool]:
    """Reads a 2D image.

    Args:
        path: of a PNG, TIFF or BMP file.
        mask: whether this is a mask: colours become numbers 0xRRGGBB, palette images become their indices. In images,
            colours are refused.

    Returns:
        (y, x) values, and whether they are colours.

    Raises:
        BadInput: the file cannot be read, has several pages, or is an image in colour.
    """
    try:
        pixels = _pixels(path, mask)
    except BadInput:
        raise
    except Exception as error:  # each decoder raises its own exceptions
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{path} cannot be read ({reason}); expected a complete PNG, TIFF or BMP file: copy it again"
        ) from error
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[:, :, :-1]  # transparency
    if pixels.ndim == 3 and (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        return pixels.astype(np.uint8) if pixels.dtype == bool else pixels, False
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not (mask and pixels.dtype == np.uint8):
        raise BadInput(
            f"{path}: a colour image of shape {pixels.shape}; expected grey values: save the image in greyscale"
        )
    red, green, blue = np.moveaxis(pixels.astype(np.int32), 2, 0)
    return (red << 16) | (green << 8) | blue, True


def _pixels(path: Path, mask: bool) -> np.ndarray:
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        with tifffile.TiffFile(path) as file:
            if len(file.pages) > 1:
                raise BadInput(
                    f"{path}: {len(file.pages)} pages; expected one slice in each file: save each page as a file, "
                    f"or the stack as NIfTI with its spacing"
                )
            return file.asarray()
    from PIL import Image

    with Image.open(path) as picture:
        picture.verify()  # the checksums of a PNG, which reading its pixels leaves out
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB") if picture.mode == "P" and not mask else picture)


def slice_spacing(path: Path) -> tuple[float, float]:
    """Pixel size in mm along x and y that a TIFF gives per centimetre or, written by ImageJ, per mm; else zeros.

    Dots per inch are a default of many programs and say nothing about the patient; nor does the pHYs entry of a PNG.
    """
    if path.suffix.lower() not in (".tif", ".tiff"):
        return 0.0, 0.0
    import tifffile

    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        unit = tags["ResolutionUnit"].value if "ResolutionUnit" in tags else 1
        length = {"mm": 1.0, "cm": 10.0}.get((file.imagej_metadata or {}).get("unit", ""), 10.0 if unit == 3 else 0.0)
        if not length or any(name not in tags for name in _RESOLUTION):
            return 0.0, 0.0
        x, y = (length * below / above if above else 0.0 for above, below in (tags[name].value for name in _RESOLUTION))
    return x, y


def _distinct(pixels: np.ndarray) -> tuple[int, ...] | None:
    """Distinct values if they are at most ``MOST_LABELS`` whole numbers and none is negative; else None."""
    if pixels.min() < 0 or pixels.max() > 0xFFFFFF:
        return None
    integers = pixels
    if pixels.dtype.kind == "f":
        integers = np.rint(pixels).astype(np.int32)
        if (np.abs(pixels - integers) > 1e-3).any():
            return None
    if integers.max() <= 0xFFFF:  # counting is faster than sorting
        values = np.flatnonzero(np.bincount(integers.ravel().astype(np.int32)))
    else:
        values = np.unique(integers)
    return tuple(int(v) for v in values) if len(values) <= MOST_LABELS else None


def _flat(pixels: np.ndarray) -> float:
    left, right = pixels[..., :-1], pixels[..., 1:]
    drawn = (left != 0) | (right != 0)
    return float((left == right)[drawn].mean()) if drawn.any() else 1.0
