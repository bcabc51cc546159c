"""The picture sheet of Table 1: mask, real slice, and the slice that each method painted, in the same window."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.evaluation.real_slices import RealSlice, Window
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.runtime.figures import (
    as_text,
    bare,
    display_window,
    drawing,
    legend,
    show_classes,
    show_grey,
    zoom,
)


def shown_slices(cache: SliceCache, slices: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """(case, z) of the slice with most voxels of each pathology → the pathologies that it is shown for."""
    shown: dict[tuple[str, int], str] = {}
    for name in cache.roles.pathologies:
        case, z = max(slices, key=lambda place: cache.facts[place[0]].counts[name][place[1]])
        if cache.facts[case].counts[name][z]:
            shown[case, z] = f"{shown[case, z]}, {name}" if (case, z) in shown else name
    return shown


class Sheet:
    """Collects the pictures of the shown slices while the methods are evaluated."""

    def __init__(self, roles: LabelRoles, shown: dict[tuple[str, int], str]):
        self.roles, self.shown = roles, shown
        self.rows: dict[tuple[str, int], tuple[RealSlice, Window, dict[str, np.ndarray]]] = {}

    def offer(self, true: RealSlice, window: Window, method: str, painted: np.ndarray) -> None:
        """Keeps a painted (h, w) image if its slice will be shown."""
        if (true.case, true.z) in self.shown:
            self.rows.setdefault((true.case, true.z), (true, window, {}))[2][method] = painted

    def write(self, path: Path) -> bool:
        """Writes the PNG; returns whether there was anything to show."""
        rows = [(self.shown[place], *self.rows[place]) for place in self.shown if place in self.rows]
        if not rows:
            return False
        columns = 2 + max(len(images) for *_, images in rows)
        with drawing(path, 2.6 * columns, 2.9 * len(rows)) as figure:
            for axes, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
                self._draw_row(axes, *row)
            legend(figure, self.roles.condition_classes)
        return True

    def _draw_row(
        self, axes: np.ndarray, names: str, true: RealSlice, window: Window, images: dict[str, np.ndarray]
    ) -> None:
        shown = zoom(np.where(true.condition == self.roles.body_value, 0, true.condition))
        show_classes(axes[0], true.condition[shown], self.roles.condition_classes)
        bare(axes[0], "mask")
        axes[0].set_ylabel(as_text(names), fontsize=10)
        pictures = {f"real: {true.case}": true.image, **images}
        for axis, (title, picture) in zip(axes[1:], pictures.items(), strict=False):
            show_grey(axis, picture[shown], display_window(window))
            bare(axis, title)
        for axis in axes[1 + len(pictures) :]:
            axis.set_axis_off()
