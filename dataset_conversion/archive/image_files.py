"""Reads images and label maps in common file formats, and tells images from label maps by their content."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset_conversion.archive.nifti_files import NIFTI, nifti_extensions
from nnunet_difflung.dataset_conversion.archive.segment_names import Segment, named_in_extension, named_in_header
from nnunet_difflung.dataset_conversion.archive.volume_files import open_volume, several_channels
from nnunet_difflung.dataset_conversion.notes import Note
from nnunet_difflung.errors import BadInput

VOLUMES = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")
SLICES = (".png", ".tif", ".tiff", ".bmp")
LOWEST_LABEL = -10  # negative labels are marks such as "not looked at"; lower values are intensities
MOST_NEGATIVE = 32768  # values below are no labels
WHOLE, NEARLY = 1e-3, 0.1  # largest distance from a whole number that rounding, or lossy resampling, explains
SAMPLE = 10_000  # voxels that are looked at first
MOST_SPECKLES = 8  # distinct values from which a picture may be a mask after lossy compression
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
        values: distinct values if they can be labels (few numbers that are whole or nearly so), colours as 0xRRGGBB;
            else None.
        off: the value that is farthest from a whole number; None if all are whole but for rounding.
        colour: whether the values are colours.
        palette: index → colour (0xRRGGBB) of the values of a picture with a palette.
        flat: share of equal pairs among horizontally neighbouring pixels that are not both 0; near 1 in label maps.
        speckled: whether most of the values are lone pixels, as lossy compression leaves them around areas.
        segments: structures that the header names.
        layers: for a file with several layers, the distinct values of each.
        problem: one line that says why the file cannot be used, or "".
        notes: on what was repaired when the file was read.
    """

    size: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    low: float = 0.0
    high: float = 0.0
    values: tuple[int, ...] | None = None
    off: float | None = None
    colour: bool = False
    palette: tuple[tuple[int, int], ...] = ()
    flat: float = 0.0
    speckled: bool = False
    segments: tuple[Segment, ...] = ()
    layers: tuple[tuple[int, ...], ...] = ()
    problem: str = ""
    notes: tuple[Note, ...] = ()

    def holds(self, value: int, layer: int = 0) -> bool:
        """Whether a value occurs in a layer."""
        return value in (self.layers[layer] if self.layers else self.values or ())

    @property
    def label_map(self) -> bool | None:
        """Whether the values are labels (True) or intensities (False); None if they may be either."""
        if self.segments:
            return True
        if self.values is None:
            return None if self.low >= 0 and self.high <= 1 else False
        if self.low == self.high or self.off is not None or self.speckled or self.low < LOWEST_LABEL:
            return None
        return True if self.flat > 0.7 else None if len(self.values) <= 16 else False

    @property
    def seems_label_map(self) -> bool:
        """The better guess where ``label_map`` is None."""
        return self.values is not None and self.low >= LOWEST_LABEL


def stem(path: str | Path) -> str:
    """File name without the extension of its format."""
    name = Path(path).name
    for ending in (*VOLUMES, *SLICES):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def facts(path: Path) -> Facts:
    """Reads a file once; if it cannot be used, ``problem`` of the result says why."""
    try:
        return _facts_of_slice(path) if path.name.lower().endswith(SLICES) else _facts_of_volume(path)
    except BadInput as error:
        return Facts(problem=str(error))


def _facts_of_slice(path: Path) -> Facts:
    pixels, colour = read_slice(path, mask=True)
    size = (pixels.shape[1], pixels.shape[0], 1)
    found = _facts_of_values(pixels, colour, size, (*slice_spacing(path), 0.0))
    if found.values is None or colour:
        return found
    return replace(found, speckled=_speckled(pixels, found.values), palette=_palette(path, found.values))


def _facts_of_volume(path: Path) -> Facts:
    import SimpleITK as sitk

    volume = open_volume(path)
    segments = named_in_header(volume.metadata, volume.layers, path)
    if volume.layers > 1 and not segments:
        raise BadInput(several_channels(path, volume.layers))
    if not segments and path.name.lower().endswith(NIFTI):
        segments = named_in_extension(nifti_extensions(path))
    pixels = sitk.GetArrayViewFromImage(volume.image)
    found = _facts_of_values(pixels, False, volume.image.GetSize(), volume.image.GetSpacing())
    layers: tuple[tuple[int, ...], ...] = ()
    if volume.layers > 1:
        layers = tuple(_distinct(pixels[..., k])[0] or () for k in range(volume.layers))
    return replace(found, segments=segments, layers=layers, notes=volume.notes)


def _facts_of_values(
    pixels: np.ndarray, colour: bool, size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> Facts:
    if pixels.dtype.kind == "f" and not (finite := np.isfinite(pixels)).all():
        low, high = (float(pixels[finite].min()), float(pixels[finite].max())) if finite.any() else (0.0, 0.0)
        return Facts(size, spacing, low, high)
    low, high = float(pixels.min()), float(pixels.max())
    values, off = _distinct(pixels)
    if colour and (values is None or len(values) > MOST_COLOURS):
        values = None
    return Facts(size, spacing, low, high, values, off, colour, flat=_flat(pixels) if values else 0.0)


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


def _distinct(pixels: np.ndarray) -> tuple[tuple[int, ...] | None, float | None]:
    """Distinct whole numbers, and the value that is farthest from them (None if rounding explains it).

    The numbers are None if there are more than ``MOST_LABELS`` or some value is no whole number by far.
    """
    if pixels.min() < -MOST_NEGATIVE or pixels.max() > 0xFFFFFF:
        return None, None
    sample = pixels.ravel()[:: max(1, pixels.size // SAMPLE)]
    if len(np.unique(np.rint(sample))) > MOST_LABELS:  # an image, as most files that are large
        return None, None
    integers, off = pixels, None
    if pixels.dtype.kind == "f":
        integers = np.rint(pixels).astype(np.int32)
        distance = np.abs(pixels - integers)
        farthest = np.unravel_index(distance.argmax(), distance.shape)
        if distance[farthest] > NEARLY:
            return None, None
        off = float(pixels[farthest]) if distance[farthest] > WHOLE else None
    lowest = int(integers.min())
    if int(integers.max()) - lowest <= 0xFFFF:  # counting is faster than sorting
        values = np.flatnonzero(np.bincount(integers.ravel().astype(np.int32) - lowest)) + lowest
    else:
        values = np.unique(integers)
    return (tuple(int(v) for v in values) if len(values) <= MOST_LABELS else None), off


def _speckled(pixels: np.ndarray, values: tuple[int, ...]) -> bool:
    """Whether most of many values are lone pixels, as JPEG leaves them around the areas of a mask."""
    if len(values) < MOST_SPECKLES or pixels.shape[1] < 2:
        return False
    equal = pixels[:, :-1] == pixels[:, 1:]
    in_area = {int(v) for v in np.unique(pixels[:, :-1][equal])}
    lone = sum(1 for value in values if value not in in_area or equal[pixels[:, :-1] == value].mean() < 0.3)
    return lone > len(values) / 2


def _palette(path: Path, values: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Index → colour of the values in a PNG or BMP with a palette; empty for other files."""
    if path.suffix.lower() in (".tif", ".tiff"):
        return ()
    from PIL import Image

    with Image.open(path) as picture:
        table = picture.getpalette() if picture.mode == "P" else None
    if table is None:
        return ()
    table = table + [0] * 768
    return tuple((v, table[3 * v] << 16 | table[3 * v + 1] << 8 | table[3 * v + 2]) for v in values)


def _flat(pixels: np.ndarray) -> float:
    left, right = pixels[..., :-1], pixels[..., 1:]
    drawn = (left != 0) | (right != 0)
    return float((left == right)[drawn].mean()) if drawn.any() else 1.0
