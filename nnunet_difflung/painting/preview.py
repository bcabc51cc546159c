"""The picture that a person looks at before trusting synthetic CT: real and painted side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_difflung.dataset.labels import LabelRoles
from nnunet_difflung.generator.encoding import CT_WINDOW
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult, load_host, staged_files
from nnunet_difflung.runtime.files import replacing

_COLOURS = ("#2e7d32", "#1e88e5", "#e53935", "#fdd835", "#8e24aa", "#fb8c00", "#00acc1")


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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 5, squeeze=False)
    for axes, (name, (s, planned, z)) in zip(grid, rows, strict=True):
        _draw_row(axes, name, s, planned, z)
    legend(figure, roles)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
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
    low, high = s.generator.config.windows[0]
    bright = 300.0 if (low, high) == CT_WINDOW else high  # HU; lung and soft tissue, not bone
    limits = {"cmap": "gray", "vmin": low, "vmax": bright, "interpolation": "nearest"}
    rows, columns = zoom(label)
    shown = [
        ("real", real),
        ("mask", coloured(label, s.cache.roles)),
        ("new mask", coloured(new, s.cache.roles)),
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
        axis.set_title(f"{title}: {planned.host}, fold {s.fold}" if title == "real" else title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_ylabel(name, fontsize=11)


def zoom(label: np.ndarray) -> tuple[slice, slice]:
    """The labelled part of a slice with some room around it."""
    edges = []
    for axis in (1, 0):
        there = np.flatnonzero((label > 0).any(axis))
        length = len(label) if axis == 1 else label.shape[1]
        room = max(4, length // 16)
        edges.append(slice(max(0, there[0] - room), there[-1] + room + 1) if len(there) else slice(None))
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
