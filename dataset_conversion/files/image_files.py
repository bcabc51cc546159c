"""Reads images and label maps in common file formats, and tells images from label maps by their content."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset_conversion.files.nifti_files import NIFTI, nifti_extensions
from nnunet_difflung.dataset_conversion.files.picture_files import read_picture
from nnunet_difflung.dataset_conversion.files.segment_names import Segment, named_in_extension, named_in_header
from nnunet_difflung.dataset_conversion.files.volume_files import check_finite, open_volume, several_channels
from nnunet_difflung.dataset_conversion.notes import Note
from nnunet_difflung.errors import BadInput

VOLUMES = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")
SLICES = (".png", ".tif", ".tiff", ".bmp")
LOWEST_LABEL = -10  # negative labels are marks such as "not looked at"; lower values are intensities
MOST_NEGATIVE = 32768  # values below are no labels
WHOLE, NEARLY = 1e-3, 0.1  # largest distance from a whole number that rounding, or lossy resampling, explains
MIXED = 0.9  # share of whole numbers from which other values are taken for interpolated labels
SAMPLE = 10_000  # voxels that are looked at first
FEWEST_LOSSY, MOST_SPECKLES = 5, 8  # distinct values from which a picture may be a mask after lossy compression
NEAR = 32  # grey values around those of a mask that lossy compression leaves
MOST_LABELS = 128  # most distinct values of a label map; segmentations of the whole body have about 100 organs
MOST_COLOURS = 32  # most distinct colours of a label map


@dataclass(frozen=True)
class Facts:
    """What reading a file once tells about it.

    Attributes:
        size: voxels along x, y, z.
        spacing: mm along x, y, z; zeros for a slice whose file does not give it.
        low, high: range of the values.
        values: distinct values if they can be labels (few numbers that are whole or nearly so), colours as 0xRRGGBB;
            else None.
        mixed: whether most values are small whole numbers, but not all, as in labels after interpolation.
        off: the value that is farthest from a whole number; None if all are whole but for rounding.
        colour: whether the values are colours.
        palette: index → colour (0xRRGGBB) of the values of a picture with a palette.
        flat: share of equal pairs among horizontally neighbouring pixels that are not both 0; near 1 in label maps.
        lossy: whether a picture was compressed as JPEG does, which leaves other values around the areas of a mask.
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
    mixed: bool = False
    off: float | None = None
    colour: bool = False
    palette: tuple[tuple[int, int], ...] = ()
    flat: float = 0.0
    lossy: bool = False
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
            return None if self.mixed or (self.low >= 0 and self.high <= 1) else False
        if self.low == self.high or self.off is not None or self.lossy or self.low < LOWEST_LABEL:
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
    picture = read_picture(path, mask=True)
    pixels = picture.pixels
    size = (pixels.shape[1], pixels.shape[0], 1)
    about = _facts_of_values(pixels, picture.colour, size, (*picture.spacing, 0.0))
    about = replace(about, lossy=picture.lossy, notes=picture.notes)
    if about.values is None or picture.colour:
        return about
    palette = tuple((value, picture.palette[value]) for value in about.values) if picture.palette else ()
    return replace(about, lossy=picture.lossy or _is_lossy(pixels, about.values), palette=palette)


def _facts_of_volume(path: Path) -> Facts:
    import SimpleITK as sitk

    volume = open_volume(path)
    check_finite(volume.image, path)
    segments = named_in_header(volume.metadata, volume.layers, path)
    if volume.layers > 1 and not segments:
        raise BadInput(several_channels(path, volume.layers))
    if not segments and path.name.lower().endswith(NIFTI):
        segments = named_in_extension(nifti_extensions(path))
    pixels = sitk.GetArrayViewFromImage(volume.image)
    about = _facts_of_values(pixels, False, volume.image.GetSize(), volume.image.GetSpacing())
    layers: tuple[tuple[int, ...], ...] = ()
    if volume.layers > 1:
        layers = tuple(_distinct(pixels[..., k])[0] or () for k in range(volume.layers))
    return replace(about, segments=segments, layers=layers, notes=volume.notes)


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
    mixed = values is None and pixels.dtype.kind == "f" and low >= 0 and high <= MOST_LABELS
    mixed = mixed and bool((np.abs(pixels - np.rint(pixels)) <= WHOLE).mean() > MIXED)
    return Facts(size, spacing, low, high, values, mixed, off, colour, flat=_flat(pixels) if values else 0.0)


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


def _is_lossy(pixels: np.ndarray, values: tuple[int, ...]) -> bool:
    """Whether a mask was compressed as JPEG does, which leaves other values around its areas.

    Either most of many values are lone pixels, or rare values lie around 0 and around a frequent highest value.
    """
    if pixels.shape[1] < 2 or len(values) < FEWEST_LOSSY:
        return False
    counts = dict(zip(*(part.tolist() for part in np.unique(pixels, return_counts=True)), strict=True))
    highest = values[-1]
    low, high = ([v for v in values if 0 < abs(v - end) <= NEAR] for end in (0, highest))
    frequent = sum(n for v, n in counts.items() if v >= highest - NEAR)
    if highest >= 192 and low and high and len({0, highest, *low, *high}) == len(values):
        return sum(counts[v] for v in (*low, *high)) < frequent and len(low) + len(high) >= 3
    if len(values) < MOST_SPECKLES:
        return False
    equal = pixels[:, :-1] == pixels[:, 1:]
    alone = sum(1 for v in values if not (of_value := equal[pixels[:, :-1] == v]).size or of_value.mean() < 0.3)
    return alone > len(values) / 2


def _flat(pixels: np.ndarray) -> float:
    left, right = pixels[..., :-1], pixels[..., 1:]
    drawn = (left != 0) | (right != 0)
    return float((left == right)[drawn].mean()) if drawn.any() else 1.0
