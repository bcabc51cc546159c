"""Shared parts of all pictures: colours, display windows, and how a figure is drawn and saved.

matplotlib is imported only when something is drawn, and always draws into memory: no window, no pyplot, no state that
outlives a figure.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.config import CT_WINDOW
from nnunet_difflung.runtime.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Window = tuple[float, float]

# Colours that colour-blind people can tell apart: seven of Okabe and Ito (2008), light colours first, since they stand
# out on a grey CT; then two dark colours of Paul Tol. With more than nine classes the colours repeat.
CLASS_COLOURS = (
    *("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2"),
    *("#882255", "#332288"),
)
SPECIAL_COLOURS = {"ignore": "#BBBBBB", "derived_body": "#303030"}  # greys: voxels that belong to no class
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, visible on white
BLUE, ORANGE, GREY = LINE_COLOURS[0], LINE_COLOURS[1], "#777777"  # of charts: real or ours, synthetic, all others
RULE_COLOUR = "#333333"
DOUBT_COLOUR = "#B00000"

LUNG_WINDOW: Window = (-1350.0, 150.0)  # HU; a radiologist's lung window, width 1500 at -600
_BRIGHTEST = 300.0  # HU; brighter voxels are bone, which does not matter here


def display_window(window: Window) -> Window:
    """The part of a generator's window that is shown: [−1000, 300] HU for CT's window, any other window as a whole."""
    return (window[0], _BRIGHTEST) if tuple(window) == CT_WINDOW else window


def class_colours(values: Mapping[str, int]) -> dict[str, str]:
    """Colour of each class, by the order of the label values, so that it is the same in all pictures of a dataset.

    Args:
        values: class → label value, as in dataset.json; the background (0) gets no colour.
    """
    classes = sorted(
        (name for name, value in values.items() if value and name not in SPECIAL_COLOURS), key=lambda name: values[name]
    )
    colours = {name: CLASS_COLOURS[i % len(CLASS_COLOURS)] for i, name in enumerate(classes)}
    return {name: SPECIAL_COLOURS.get(name) or colours[name] for name, value in values.items() if value}


def coloured(label: np.ndarray, values: Mapping[str, int]) -> np.ndarray:
    """(y, x, 3) colours in [0, 1] of a (y, x) label map; voxels with other values are black."""
    from matplotlib.colors import to_rgb

    picture = np.zeros((*label.shape, 3))
    for name, colour in class_colours(values).items():
        picture[label == values[name]] = to_rgb(colour)
    return picture


def zoom(label: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the labelled part of a (y, x) slice and a margin; the whole slice if nothing is labelled."""
    edges = []
    for length, labelled in zip(label.shape, ((label > 0).any(1), (label > 0).any(0)), strict=True):
        inside, margin = np.flatnonzero(labelled), max(4, length // 16)
        edges.append(slice(max(0, inside[0] - margin), inside[-1] + margin + 1) if len(inside) else slice(None))
    return edges[0], edges[1]


@contextmanager
def drawing(path: Path, width: float, height: float, dpi: int = 110) -> Iterator[Figure]:
    """Yields an empty figure, and writes it to a PNG file if the block ends without an error, completely or not at all.

    Letters that the font does not have become boxes.

    Args:
        path: path of the PNG file.
        width: in inches.
        height: in inches.
        dpi: pixels per inch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        try:
            yield figure
            with replacing(path) as temporary:
                figure.savefig(temporary, format="png", dpi=dpi)
        finally:
            figure.clear()


def show_grey(axes: Axes, image: np.ndarray, window: Window, aspect: float = 1.0) -> None:
    """Draws a (y, x) image in grey.

    Args:
        axes: axes to draw into.
        image: intensities.
        window: intensities that are shown as black and white.
        aspect: height of a pixel divided by its width.
    """
    axes.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], interpolation="nearest", aspect=aspect)


def show_classes(axes: Axes, label: np.ndarray, values: Mapping[str, int], aspect: float = 1.0) -> None:
    """Draws a (y, x) label map in the colours of its classes; ``aspect`` as in ``show_grey``."""
    axes.imshow(coloured(label, values), interpolation="nearest", aspect=aspect)


def show_difference(axes: Axes, difference: np.ndarray, window: Window = CT_WINDOW, aspect: float = 1.0) -> float:
    """Draws a (y, x) difference, blue below and red above 0, and returns the bound of its colours in the image's unit.

    The bound is the 99.5th percentile of the absolute values, at least a two-thousandth of the window (1 HU for CT).
    ``aspect`` as in ``show_grey``.
    """
    bound = max((window[1] - window[0]) / 2000, float(np.percentile(np.abs(difference), 99.5)))
    axes.imshow(difference, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest", aspect=aspect)
    return bound


def outline_classes(
    axes: Axes,
    label: np.ndarray,
    values: Mapping[str, int],
    dashed: Collection[str] = (),
    thick: Collection[str] = (),
) -> None:
    """Draws the outline of each class of a (y, x) label map over an image.

    Args:
        axes: axes to draw into.
        label: (y, x) label values.
        values: class → label value.
        dashed: classes with a dashed outline.
        thick: classes with a thick outline, above the others.
    """
    for name, colour in sorted(class_colours(values).items(), key=lambda item: item[0] in thick):
        mask = label == values[name]
        if mask.any():
            style, width = "--" if name in dashed else "-", 1.6 if name in thick else 0.9
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=width, linestyles=style)


def bare(axes: Axes, title: str, size: float = 9) -> None:
    """Removes an image's ticks and sets its title, with a font size in points."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(as_text(title), fontsize=size)


def as_text(name: str) -> str:
    """The name of a label or case for a picture: matplotlib takes what is between two dollar signs for mathematics."""
    return name.replace("$", r"\$")


def legend(figure: Figure, values: Mapping[str, int]) -> None:
    """Names the colours of the classes below a figure."""
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=as_text(name)) for name, colour in class_colours(values).items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 6), fontsize=9)
