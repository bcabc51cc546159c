"""The picture sheet of Table 1: mask, real slice and what each method painted from the mask, in one grey window."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.labels import LabelRoles
from nnunet_difflung.evaluation.real_slices import RealSlice, Window
from nnunet_difflung.generator.encoding import CT_WINDOW
from nnunet_difflung.painting.preview import coloured, legend, zoom
from nnunet_difflung.runtime.files import replacing


def shown_slices(cache: SliceCache, slices: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """For each pathology the slice with most of it: (case, z) → names of the pathologies that it stands for."""
    shown: dict[tuple[str, int], str] = {}
    for name in cache.roles.pathologies:
        case, z = max(slices, key=lambda place: cache.facts[place[0]].counts[name][place[1]])
        if cache.facts[case].counts[name][z]:
            shown[case, z] = f"{shown[case, z]}, {name}" if (case, z) in shown else name
    return shown


class Sheet:
    """Collects the pictures of some slices while methods are compared."""

    def __init__(self, roles: LabelRoles, shown: dict[tuple[str, int], str]):
        self.roles, self.shown = roles, shown
        self.rows: dict[tuple[str, int], tuple[RealSlice, Window, dict[str, np.ndarray]]] = {}

    def offer(self, true: RealSlice, window: Window, method: str, painted: np.ndarray) -> None:
        """Keeps a painted (h, w) image if its slice is one of those shown."""
        if (true.case, true.z) in self.shown:
            self.rows.setdefault((true.case, true.z), (true, window, {}))[2][method] = painted

    def write(self, path: Path) -> bool:
        """Writes the PNG; returns whether there was anything to show."""
        rows = [(self.shown[place], *self.rows[place]) for place in self.shown if place in self.rows]
        if not rows:
            return False
        from matplotlib.figure import Figure

        columns = 2 + max(len(images) for *_, images in rows)
        figure = Figure(figsize=(2.6 * columns, 2.9 * len(rows)), layout="constrained")
        for axes, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
            self._draw_row(axes, *row)
        legend(figure, self.roles)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        return True

    def _draw_row(
        self, axes: np.ndarray, names: str, true: RealSlice, window: Window, images: dict[str, np.ndarray]
    ) -> None:
        label = np.where(true.condition == self.roles.body_value, 0, true.condition)
        rows, columns = zoom(label)
        bright = 300.0 if window == CT_WINDOW else window[1]  # HU; lung and soft tissue, not bone
        pictures = {"mask": coloured(label, self.roles), f"real: {true.case}": true.image, **images}
        for axis in axes:
            axis.set_axis_off()
        for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
            axis.imshow(picture[rows, columns], cmap="gray", vmin=window[0], vmax=bright, interpolation="nearest")
            axis.set_title(title, fontsize=9)
        axes[0].text(-0.05, 0.5, names, rotation=90, transform=axes[0].transAxes, ha="right", va="center", fontsize=10)
