"""Pictures of a report from arrays: PNG in a data URI, and outlines as SVG paths."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping

import numpy as np

from nnunet_difflung.pages.blocks import Outline
from nnunet_difflung.runtime.figures import Window, class_colours


def grey_png(image: np.ndarray, window: Window) -> str:
    """A (y, x) image as the data URI of an 8-bit PNG.

    Args:
        image: intensities, in HU for CT.
        window: intensities that are shown as black and white; what lies outside is clipped.
    """
    from PIL import Image

    low, high = window
    grey = np.clip((np.asarray(image, dtype=float) - low) / max(high - low, 1e-6), 0, 1)
    file = io.BytesIO()
    Image.fromarray(np.rint(255 * grey).astype(np.uint8)).save(file, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def outlines_of(label: np.ndarray, values: Mapping[str, int], dashed: Collection[str] = ()) -> list[Outline]:
    """The outline of each class that occurs in a (y, x) label map.

    Args:
        label: label values.
        values: class → label value, as in dataset.json; the background (0) has no outline.
        dashed: classes whose outline is drawn dashed.
    """
    return [
        Outline(name, colour, path, name in dashed)
        for name, colour in class_colours(values).items()
        if (path := outline_path(label == values[name]))
    ]


def outline_path(mask: np.ndarray) -> str:
    """The border of a (y, x) mask as an SVG path in pixels, (0, 0) being the corner of the first one; empty without."""
    from skimage.measure import find_contours

    lines = find_contours(np.pad(np.asarray(mask, dtype=float), 1), 0.5)
    return "".join("M" + "L".join(f"{x - 0.5:g} {y - 0.5:g}" for y, x in line) for line in lines)
