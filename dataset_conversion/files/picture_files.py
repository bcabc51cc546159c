"""Reads slices in PNG, TIFF and BMP files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_difflung.dataset_conversion.files.nifti_files import place
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput

_TIFF = (".tif", ".tiff")
_GREY = ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE")  # photometric interpretations of a TIFF that are understood
_RESOLUTION = ("XResolution", "YResolution")  # tags of a TIFF
_OPAQUE = 255


@dataclass(frozen=True)
class Picture:
    """A picture as it was read.

    Attributes:
        pixels: (y, x) values; 0xRRGGBB if they are colours.
        colour: whether they are colours.
        palette: index → colour (0xRRGGBB), if the pixels are indices.
        lossy: whether the file is a JPEG whatever its name says.
        spacing: pixel size in mm along x and y if the file gives it, else zeros.
        notes: on what was reinterpreted.
    """

    pixels: np.ndarray
    colour: bool = False
    palette: tuple[int, ...] = ()
    lossy: bool = False
    spacing: tuple[float, float] = (0.0, 0.0)
    notes: tuple[Note, ...] = ()


def read_picture(path: Path, mask: bool) -> Picture:
    """Reads a 2D image.

    Args:
        path: of a PNG, TIFF or BMP file.
        mask: whether this is a mask: colours become numbers 0xRRGGBB, palette images become their indices, and
            transparent pixels background. In images, colours are refused, and transparency is ignored.

    Raises:
        BadInput: the file cannot be read, has several pages, or is an image in colour.
    """
    if path.stat().st_size == 0:
        raise BadInput(f"{path} is empty (0 bytes); expected a complete PNG, TIFF or BMP file: copy it again")
    try:
        picture = _of_tiff(path) if path.suffix.lower() in _TIFF else _of_pillow(path, mask)
        return _of_channels(picture, path, mask)
    except BadInput:
        raise
    except Exception as error:  # each decoder raises its own exceptions
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{path} cannot be read ({reason}); expected a complete PNG, TIFF or BMP file: copy it again"
        ) from error


def _of_channels(picture: Picture, path: Path, mask: bool) -> Picture:
    """A picture whose channels are one number."""
    pixels = picture.pixels
    if not pixels.size:
        raise BadInput(f"{path} holds no pixels; expected a complete PNG, TIFF or BMP file: copy it again")
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        alpha, pixels = pixels[:, :, -1], pixels[:, :, :-1]
        if mask and (alpha != _OPAQUE).any():
            pixels = _without_transparent(pixels, alpha, path)
    if pixels.ndim == 3 and (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, 0]
    if pixels.dtype == bool and not mask:
        raise BadInput(
            f"{path}: a picture of 1 bit, black and white only; expected grey values: export the image again"
        )
    if pixels.ndim == 2:
        return replace(picture, pixels=pixels.astype(np.uint8) if pixels.dtype == bool else pixels)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not (mask and pixels.dtype == np.uint8):
        raise BadInput(
            f"{path}: a colour image of shape {pixels.shape}; expected grey values: save the image in greyscale"
        )
    red, green, blue = np.moveaxis(pixels.astype(np.int32), 2, 0)
    return replace(picture, pixels=(red << 16) | (green << 8) | blue, colour=True)


def _without_transparent(pixels: np.ndarray, alpha: np.ndarray, path: Path) -> np.ndarray:
    """The channels of a mask, with transparent pixels as background.

    Raises:
        BadInput: pixels are partly transparent.
    """
    partly = int(((alpha > 0) & (alpha < alpha.max())).sum())
    if partly:
        raise BadInput(
            f"{path}: {partly} pixels are partly transparent; expected a mask with opaque and fully transparent "
            f"pixels: export it again without smoothed edges"
        )
    return np.where(alpha[:, :, None] > 0, pixels, pixels.dtype.type(0))


def _of_tiff(path: Path) -> Picture:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            raise BadInput(
                f"{path}: {len(file.pages)} pages; expected one slice in each file: save each page as a file, "
                f"or the stack as NIfTI with its spacing"
            )
        page: Any = file.pages.first
        photometric = getattr(page.photometric, "name", str(page.photometric))
        if photometric not in _GREY:
            raise BadInput(
                f"{path}: a TIFF with {photometric} values; expected grey values: save the image in greyscale"
            )
        turned = page.tags["Orientation"].value if "Orientation" in page.tags else 1
        if turned != 1:
            raise BadInput(
                f"{path}: a tag says that the picture is to be turned or mirrored (Orientation {int(turned)}); "
                f"expected pixels as they are shown: open the file in an image editor and save it again"
            )
        pixels = file.asarray()
        notes: tuple[Note, ...] = ()
        if photometric == "MINISWHITE" and pixels.dtype.kind in "bu":
            highest = 1 if pixels.dtype == bool else (1 << int(page.bitspersample)) - 1
            pixels = (highest - pixels.astype(np.int64)).astype(pixels.dtype)
            what = "TIFF files in which 0 is white: values were inverted"
            notes = (Note(f"in {place(path)} 0 is white: values were inverted", Kind.REINTERPRETED, what=what),)
        return Picture(pixels, spacing=_spacing(file), notes=notes)


def _of_pillow(path: Path, mask: bool) -> Picture:
    from PIL import Image

    with Image.open(path) as picture:
        picture.verify()  # the checksums of a PNG, which reading its pixels leaves out
    with Image.open(path) as picture:
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            raise BadInput(
                f"{path}: {frames} pictures in one file; expected one slice in each file: save each as a file"
            )
        lossy = picture.format == "JPEG"
        if picture.mode == "CMYK":
            raise BadInput(f"{path}: a picture in CMYK; expected grey values: save the image in greyscale")
        if picture.mode != "P":
            return Picture(np.array(picture), lossy=lossy)
        if not mask:
            return Picture(np.array(picture.convert("RGB")))
        table = [*(picture.getpalette("RGB") or []), *([0] * 768)]
        palette = tuple(table[3 * i] << 16 | table[3 * i + 1] << 8 | table[3 * i + 2] for i in range(256))
        return Picture(np.array(picture), palette=palette)


def _spacing(file: Any) -> tuple[float, float]:
    """Pixel size in mm along x and y that a TIFF gives per centimetre or, written by ImageJ, per mm; else zeros.

    Dots per inch are a default of many programs and say nothing about the patient; nor does the pHYs entry of a PNG.
    """
    tags = file.pages.first.tags
    unit = tags["ResolutionUnit"].value if "ResolutionUnit" in tags else 1
    length = {"mm": 1.0, "cm": 10.0}.get((file.imagej_metadata or {}).get("unit", ""), 10.0 if unit == 3 else 0.0)
    if not length or any(name not in tags for name in _RESOLUTION):
        return 0.0, 0.0
    x, y = (length * below / above if above else 0.0 for above, below in (tags[name].value for name in _RESOLUTION))
    return x, y
