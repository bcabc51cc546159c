"""The pictures of Table 1's page: real slices and what the methods painted from their masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnunet_difflung.config import CT_WINDOW
from nnunet_difflung.dataset.orientation import AxialView, axial_view
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.evaluation.gathered import REAL, Gathered, Shown
from nnunet_difflung.evaluation.sheet import Sheet
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.pages.blocks import Gallery, Picture
from nnunet_difflung.pages.pictures import grey_png, outlines_of
from nnunet_difflung.runtime.figures import LUNG_WINDOW, Window, class_colours, zoom

WIDEST = 256  # pixels of a picture's side; larger parts are shown at a half, a third, … of their size
NARROW: Window = (-1024.0, -700.0)  # HU; shows emphysema in lung


def _outlined(roles: LabelRoles) -> dict[str, int]:
    """The classes with an outline: all but the body."""
    return {name: value for name, value in roles.condition_classes.items() if value != roles.body_value}


def outlined_colours(roles: LabelRoles) -> dict[str, str]:
    """Class → colour of its outline."""
    return class_colours(_outlined(roles))


def galleries_of(table: dict, gathered: Gathered, raw: RawDataset) -> list[Gallery]:
    """A gallery for each pathology, or group of them that share a slice.

    Args:
        table: content of ``table1.json``.
        gathered: the slices to show.
        raw: the dataset, for the scale of the pictures and their sides.
    """
    windows = _windows(table)
    columns: dict[str, list[tuple[str, list[Picture]]]] = {}
    for (case, z), shown in gathered.shown.items():
        if shown.real is None:
            continue
        label, properties = raw.read_label(case)
        title = case if len(label) == 1 else f"{case}, slice {z}"
        pictures = _pictures(shown, axial_view(properties), raw.roles, windows)
        columns.setdefault(", ".join(shown.names), []).append((title, pictures))
    return [Gallery(names, of) for names, of in columns.items()]


def galleries_across(table: dict, sheet: Sheet, raw: RawDataset) -> list[Gallery]:
    """A gallery for each pathology with the coronal and the sagittal plane through a lesion; none where all is 2D.

    Args:
        table: content of ``table1.json``.
        sheet: holds the planes.
        raw: the dataset, for the scale of the pictures and their sides.
    """
    windows = _windows(table)
    columns: dict[str, list[tuple[str, list[Picture]]]] = {}
    for plane, condition, images in sheet.across():
        properties = raw.read_label(plane.case)[1]
        view, axis = axial_view(properties), plane.cut.axis
        shown = {REAL if title.startswith(f"{REAL}: ") else title: image for title, image in images.items()}
        pictures = _of_parts(
            {title: view.upright(image, axis) for title, image in shown.items()},
            view.upright(condition, axis),
            plane.cut.aspect,
            float(properties["spacing"][3 - axis]) if view.millimetres else None,
            view.sides if axis == 1 else (),
            raw.roles,
            windows,
        )
        columns.setdefault(plane.names, []).append((f"{plane.case}, {plane.cut.plane}", pictures))
    return [Gallery(f"{names}, coronal and sagittal", of) for names, of in columns.items()]


def _pictures(shown: Shown, view: AxialView, roles: LabelRoles, windows: dict[str, Window]) -> list[Picture]:
    """The real slice and the samples of each method, cut to the lungs."""
    assert shown.real is not None
    assert shown.condition is not None
    images = {REAL: shown.real}
    for method, samples in shown.painted.items():
        images |= {f"{method}, sample {i}": image for i, image in enumerate(samples, 1)}
    turned = {name: view.turned(image) for name, image in images.items()}
    condition = view.turned(shown.condition)
    return _of_parts(turned, condition, view.aspect, view.millimetres, view.sides, roles, windows)


def _of_parts(
    images: Mapping[str, np.ndarray],
    condition: np.ndarray,
    aspect: float,
    millimetres: float | None,
    sides: tuple[str, str] | tuple[()],
    roles: LabelRoles,
    windows: dict[str, Window],
) -> list[Picture]:
    """Pictures of the same plane, cut to the lungs; ``millimetres`` is the width of a pixel."""
    rows, columns = zoom(np.where(condition == roles.body_value, 0, condition))
    step = -(-max(condition[rows, columns].shape) // WIDEST)
    cut = (slice(rows.start, rows.stop, step), slice(columns.start, columns.stop, step))
    height, width = condition[cut].shape
    return [
        Picture(
            name,
            {title: grey_png(image[cut], window) for title, window in windows.items()},
            width,
            height,
            aspect,
            outlines_of(condition[cut], _outlined(roles)),
            step * millimetres if millimetres else None,
            sides,
        )
        for name, image in images.items()
    ]


def _windows(table: dict) -> dict[str, Window]:
    """Name → display window."""
    window = tuple(next(iter(table["meta"]["windows"].values())))
    if table["meta"]["unit"] == "HU" and window == CT_WINDOW:
        named = {"lung window": LUNG_WINDOW, "narrow window": NARROW}
        return {f"{name}, {low:g} to {high:g} HU": (low, high) for name, (low, high) in named.items()}
    return {f"window {window[0]:g} to {window[1]:g}": window}
