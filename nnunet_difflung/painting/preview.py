"""The preview for people: real and painted slices side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_difflung.dataset.staged_case import StagedCase
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.painting.application import apply_plan
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult, synthetic_id
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

    For each class the case with the median number of new voxels is shown, in the slice that has most of them. A last
    row shows a placebo case, whose mask stays the same, with its outlines. The synthetic slices are read from the
    staged files.

    Returns:
        Whether there was anything to show, and so a picture was written.
    """
    roles = syntheses[0][0].fold.cache.roles
    rows = [(name, shown) for name in (*roles.pathologies, None) if (shown := _typical(syntheses, name))]
    if not rows:
        return False
    with drawing(path, 13, 2.9 * len(rows)) as figure:
        grid = figure.subplots(len(rows), 5, squeeze=False)
        for axes, (name, shown) in zip(grid, rows, strict=True):
            _draw_row(axes, name, *shown)
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


def _draw_row(
    axes: np.ndarray, name: str | None, synthesis: Synthesis, planned: PlannedCase, staged: StagedCase
) -> None:
    fold, roles = synthesis.fold, synthesis.fold.cache.roles
    new_labels = np.rint(fold.raw.reader().read_seg(str(staged.label))[0][0]).astype(int)
    condition = fold.cache.condition(planned.host)
    if name is None:
        applied = apply_plan(fold, planned, textures=False)
        shown_voxels = applied.in_host(applied.outline)
    else:
        shown_voxels = (new_labels == roles.values[name]) & (condition != roles.values[name])
    z = max(planned.slices, key=lambda z: int(shown_voxels[z].sum()))
    channel = next(iter(fold.relations.painted()), 0)
    painted = fold.raw.reader().read_images([str(f) for f in staged.images])[0][channel, z]
    real = fold.cache.image(planned.host)[channel, z].astype(float)
    label = np.where(condition[z] == roles.body_value, 0, condition[z])
    window = synthesis.generator.config.windows[channel]
    shown = zoom(label)
    show_grey(axes[0], real[shown], display_window(window))
    show_classes(axes[1], label[shown], roles.values)
    show_classes(axes[2], new_labels[z][shown], roles.values)
    if name is None:
        axes[2].contour(shown_voxels[z][shown], levels=[0.5], colors=["white"], linewidths=0.9)
    show_grey(axes[3], painted[shown], display_window(window))
    bound = show_difference(axes[4], (painted - real)[shown], window)
    titles = (
        f"real: {planned.host}, fold {fold.number}",
        "mask",
        "new mask" if name is not None else "the same mask, outlines repainted",
        "synthetic",
        f"difference (±{bound:.0f})" if bound >= 10 else f"difference (±{bound:.2g})",
    )
    for axis, title in zip(axes, titles, strict=True):
        bare(axis, title)
    axes[0].set_ylabel(as_text(name if name is not None else "placebo"), fontsize=11)
