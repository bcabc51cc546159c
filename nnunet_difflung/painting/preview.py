"""The preview for people: real and painted slices side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset.orientation import axial_view
from nnunet_difflung.dataset.staged_case import StagedCase
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.painting.box import box_from
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult, synthetic_id
from nnunet_difflung.preparing.application import apply_plan
from nnunet_difflung.runtime.cuts import Cut, cuts
from nnunet_difflung.runtime.figures import (
    as_text,
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

    For each class the case with the median number of new voxels is shown, in the slice that has most of its largest new
    lesion; of a volume also in the coronal and the sagittal plane that have most of this lesion, with pixels of their
    true shape. All are turned as radiologists see them. The last rows show a placebo case, whose mask stays the same,
    with its outlines. The synthetic images are read from the staged files.

    Returns:
        Whether there was anything to show, and so a picture was written.
    """
    roles = syntheses[0][0].fold.cache.roles
    rows = [row for name in (*roles.pathologies, None) for row in _rows(syntheses, name)]
    if not rows:
        return False
    with drawing(path, 13, 2.9 * len(rows)) as figure:
        grid = figure.subplots(len(rows), 5, squeeze=False)
        for axes, row in zip(grid, rows, strict=True):
            _draw_row(axes, row)
        legend(figure, roles.values)
    return True


def _typical(
    syntheses: list[tuple[Synthesis, SynthesisResult]], name: str | None
) -> tuple[Synthesis, PlannedCase, StagedCase] | None:
    """The staged case with the median number of new voxels of a class, or of voxels in its outlines: placebo (None)."""
    candidates = []
    for synthesis, result in syntheses:
        staged = {case.identifier: case for case in result.staged}
        for planned in synthesis.fold.plan.cases:
            own = [op for op in planned.operations if name in (None, op.pathology)]
            voxels = sum(op.voxels for op in own) if planned.placebo == (name is None) else 0
            identifier = synthetic_id(synthesis.fold, planned)
            if voxels and identifier in staged:
                candidates.append((voxels, synthesis, planned, staged[identifier]))
    if not candidates:
        return None
    return sorted(candidates, key=lambda candidate: candidate[0])[len(candidates) // 2][1:]


@dataclass(frozen=True)
class _Row:
    """A plane of a synthetic case beside that of its host; all arrays are (y, x), as they are shown.

    Attributes:
        name: the class that it shows; None for a placebo case.
        title: of the host's image.
        cut: the plane.
        real, painted: intensities of the first painted channel.
        label, new_label: label values.
        voxels: bool, what is new, or the outlines of a placebo case.
        window: intensities of the channel that are painted.
        values: class → label value.
    """

    name: str | None
    title: str
    cut: Cut
    real: np.ndarray
    painted: np.ndarray
    label: np.ndarray
    new_label: np.ndarray
    voxels: np.ndarray
    window: Sequence[float]
    values: Mapping[str, int]


def _rows(syntheses: list[tuple[Synthesis, SynthesisResult]], name: str | None) -> list[_Row]:
    """The rows of a class; none if no staged case shows it."""
    typical = _typical(syntheses, name)
    if typical is None:
        return []
    synthesis, planned, staged = typical
    fold, roles = synthesis.fold, synthesis.fold.cache.roles
    labels, properties = fold.raw.reader().read_seg(str(staged.label))
    new_label, view = np.rint(labels[0]).astype(int), axial_view(properties)
    box = box_from(staged.record)
    condition = np.array(fold.cache.condition(planned.host)[box])
    if name is None:
        applied = apply_plan(fold, planned, textures=False)
        voxels = applied.in_host(applied.outline)[box]
    else:
        voxels = (new_label == roles.values[name]) & (condition != roles.values[name])
    channel = next(iter(fold.relations.painted()), 0)
    painted = fold.raw.reader().read_images([str(f) for f in staged.images])[0][channel]
    real, label = fold.cache.image(planned.host)[channel][box], np.where(condition == roles.body_value, 0, condition)

    def shown(cut: Cut, volume: np.ndarray) -> np.ndarray:
        return view.shown(cut.of(volume), cut.axis)

    return [
        _Row(
            name,
            f"real: {planned.host}, fold {fold.number}",
            cut,
            shown(cut, real).astype(float),
            shown(cut, painted),
            shown(cut, label),
            shown(cut, new_label),
            shown(cut, voxels),
            synthesis.generator.config.windows[channel],
            roles.values,
        )
        for cut in cuts(voxels, fold.cache.facts[planned.host].spacing)
    ]


def _draw_row(axes: np.ndarray, row: _Row) -> None:
    shown, window, aspect = zoom(row.label), row.window, row.cut.aspect
    display = display_window((window[0], window[1]))
    show_grey(axes[0], row.real[shown], display, aspect)
    show_classes(axes[1], row.label[shown], row.values, aspect)
    show_classes(axes[2], row.new_label[shown], row.values, aspect)
    if row.name is None:
        axes[2].contour(row.voxels[shown], levels=[0.5], colors=["white"], linewidths=0.9)
    show_grey(axes[3], row.painted[shown], display, aspect)
    bound = show_difference(axes[4], (row.painted - row.real)[shown], (window[0], window[1]), aspect)
    titles = (
        row.title,
        "mask",
        "new mask" if row.name is not None else "the same mask, outlines repainted",
        "synthetic",
        f"difference (±{bound:.0f})" if bound >= 10 else f"difference (±{bound:.2g})",
    )
    for axis, title in zip(axes, titles, strict=True):
        bare(axis, title)
    name = as_text(row.name if row.name is not None else "placebo")
    axes[0].set_ylabel(row.cut.named(name), fontsize=11)
