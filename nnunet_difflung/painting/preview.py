"""The picture that a person looks at before trusting synthetic CT: real and painted side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_difflung.dataset.labels import LabelRoles
from nnunet_difflung.dataset.staged_case import StagedCase
from nnunet_difflung.generator.encoding import CT_WINDOW
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult, synthetic_id
from nnunet_difflung.runtime.files import replacing

_COLOURS = ("#2e7d32", "#1e88e5", "#e53935", "#fdd835", "#8e24aa", "#fb8c00", "#00acc1")


def write_preview(syntheses: list[tuple[Synthesis, SynthesisResult]], path: Path) -> bool:
    """Writes a PNG with a row for each painted class: real slice, mask, new mask, synthetic slice, difference.

    For every class the case with the median number of new voxels is shown, in its slice with most of them. Its slices
    are read from the staged files.

    Returns:
        Whether there was anything to show.
    """
    roles = syntheses[0][0].fold.cache.roles
    rows = [(name, shown) for name in roles.pathologies if (shown := _typical(syntheses, name))]
    if not rows:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 5, squeeze=False)
    for axes, (name, shown) in zip(grid, rows, strict=True):
        _draw_row(axes, name, *shown)
    legend(figure, roles)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return True


def _typical(
    syntheses: list[tuple[Synthesis, SynthesisResult]], name: str
) -> tuple[Synthesis, PlannedCase, StagedCase] | None:
    """The staged case with the median number of new voxels of a class."""
    candidates = []
    for synthesis, result in syntheses:
        staged = {case.identifier: case for case in result.staged}
        for planned in synthesis.fold.plan.cases:
            voxels = sum(op.voxels for op in planned.operations if op.pathology == name)
            identifier = synthetic_id(synthesis.fold, planned)
            if voxels and identifier in staged:
                candidates.append((voxels, synthesis, planned, staged[identifier]))
    if not candidates:
        return None
    return sorted(candidates, key=lambda candidate: candidate[0])[len(candidates) // 2][1:]


def _draw_row(axes: np.ndarray, name: str, synthesis: Synthesis, planned: PlannedCase, staged: StagedCase) -> None:
    fold, roles = synthesis.fold, synthesis.fold.cache.roles
    new_labels = np.rint(fold.raw.reader().read_seg(str(staged.label))[0][0]).astype(int)
    condition, value = fold.cache.condition(planned.host), roles.values[name]
    z = max(planned.slices, key=lambda z: int(((new_labels[z] == value) & (condition[z] != value)).sum()))
    painted = fold.raw.reader().read_images([str(f) for f in staged.images])[0][0, z]
    real = fold.cache.image(planned.host)[0, z].astype(float)
    label = np.where(condition[z] == roles.body_value, 0, condition[z])
    low, high = synthesis.generator.config.windows[0]
    bright = 300.0 if (low, high) == CT_WINDOW else high  # HU; lung and soft tissue, not bone
    limits = {"cmap": "gray", "vmin": low, "vmax": bright, "interpolation": "nearest"}
    rows, columns = zoom(label)
    shown = [
        ("real", real),
        ("mask", coloured(label, roles)),
        ("new mask", coloured(new_labels[z], roles)),
        ("synthetic", painted),
        ("difference", painted - real),
    ]
    for axis, (title, picture) in zip(axes, shown, strict=True):
        style = limits if title in ("real", "synthetic") else {"interpolation": "nearest"}
        if title == "difference":
            bound = max(1.0, float(np.percentile(np.abs(picture), 99.5)))
            style = {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound, "interpolation": "nearest"}
            title = f"difference (±{bound:.0f})"
        axis.imshow(picture[rows, columns], **style)
        axis.set_title(f"{title}: {planned.host}, fold {fold.number}" if title == "real" else title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_ylabel(name, fontsize=11)


def zoom(label: np.ndarray) -> tuple[slice, slice]:
    """The labelled part of a slice with some room around it."""
    edges = []
    for axis in (1, 0):
        labelled = np.flatnonzero((label > 0).any(axis))
        length = len(label) if axis == 1 else label.shape[1]
        room = max(4, length // 16)
        if len(labelled):
            edges.append(slice(max(0, labelled[0] - room), labelled[-1] + room + 1))
        else:
            edges.append(slice(None))
    return edges[0], edges[1]


def coloured(label: np.ndarray, roles: LabelRoles) -> np.ndarray:
    """(y, x, 3) colours of a label map."""
    from matplotlib.colors import to_rgb

    picture = np.zeros((*label.shape, 3))
    for i, name in enumerate([*roles.lung, *roles.structures]):
        picture[label == roles.values[name]] = to_rgb(_COLOURS[i % len(_COLOURS)])
    return picture


def legend(figure, roles: LabelRoles) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(color=_COLOURS[i % len(_COLOURS)], label=name) for i, name in enumerate([*roles.lung, *roles.structures])
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=9)
