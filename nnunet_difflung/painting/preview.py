"""The picture that a person looks at before trusting synthetic CT: real and painted side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult, load_host, staged_files
from nnunet_difflung.runtime.figures import (
    bare,
    display_window,
    drawing,
    legend,
    show_classes,
    show_difference,
    show_grey,
    zoom,
)


def write_preview(syntheses: list[tuple[Synthesis, SynthesisResult]], path: Path) -> bool:
    """Writes a PNG with a row for each painted class: real slice, mask, new mask, synthetic slice, difference.

    For every class the case with the median number of new voxels is shown, in its slice with most of them.

    Returns:
        Whether there was anything to show.
    """
    roles = syntheses[0][0].cache.roles
    rows = [(name, best) for name in roles.pathologies if (best := _typical(syntheses, name))]
    if not rows:
        return False
    with drawing(path, 13, 2.9 * len(rows)) as figure:
        grid = figure.subplots(len(rows), 5, squeeze=False)
        for axes, (name, (s, planned, z)) in zip(grid, rows, strict=True):
            _draw_row(axes, name, s, planned, z)
        legend(figure, roles.values)
    return True


def _typical(
    syntheses: list[tuple[Synthesis, SynthesisResult]], name: str
) -> tuple[Synthesis, PlannedCase, int] | None:
    """The staged case with the median number of new voxels of a class, and its slice with most of them."""
    found = []
    for s, result in syntheses:
        staged = {case.identifier for case in result.staged}
        for planned in s.plan.cases:
            voxels = sum(op.voxels for op in planned.operations if op.pathology == name)
            if voxels and staged_files(s, planned)[1].name.split(s.raw.dataset_json["file_ending"])[0] in staged:
                found.append((voxels, s, planned))
    if not found:
        return None
    _, s, planned = sorted(found, key=lambda row: row[0])[len(found) // 2]
    host, value = load_host(s, planned), s.cache.roles.values[name]
    return s, planned, int(((host.new_label == value) & (host.label != value)).sum((1, 2)).argmax())


def _draw_row(axes: np.ndarray, name: str, s: Synthesis, planned: PlannedCase, z: int) -> None:
    host, (images, _) = load_host(s, planned), staged_files(s, planned)
    painted = s.raw.reader().read_images([str(f) for f in images])[0][0, z]
    real, label, new = host.image[0, z].astype(float), host.label[z], host.new_label[z]
    window, values = display_window(s.generator.config.windows[0]), s.cache.roles.values
    shown = zoom(label)
    show_grey(axes[0], real[shown], window)
    show_classes(axes[1], label[shown], values)
    show_classes(axes[2], new[shown], values)
    show_grey(axes[3], painted[shown], window)
    bound = show_difference(axes[4], (painted - real)[shown])
    titles = (f"real: {planned.host}, fold {s.fold}", "mask", "new mask", "synthetic", f"difference (±{bound:.0f})")
    for axis, title in zip(axes, titles, strict=True):
        bare(axis, title)
    axes[0].set_ylabel(name, fontsize=11)
