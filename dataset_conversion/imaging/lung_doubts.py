"""Says how large a derived lung mask is, and what about it looks wrong, so that a person looks at it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

from nnunet_difflung.dataset_conversion.notes import DOUBT, Kind, Note

VOLUME = (1000.0, 9000.0)  # ml of both lungs
CHEST = 200.0  # mm along z; a scan that is shorter may show a part of the lungs
SHARE = (0.05, 0.7)  # of the body, in a single slice
UNEQUAL = 3.0  # times the volume of the smaller lung
SKIN, NEAR_SKIN = 6.0, 0.01  # mm below the skin, and largest share of the mask that may lie there
ROOM, DARK = -970.0, 0.03  # HU of air in the room, and largest share of the mask that may be as dark
EDGE = 40.0  # mm; shorter outlines on the edge of the image are ignored
STRAIGHT = 45.0  # mm; straight outlines through soft tissue that are longer are no border of a lung
BAND = 8.0  # mm; width of the soft tissue on either side of such an outline
MOST = 12  # a volume with more slices is looked at in this many, evenly spread
HOLES = 0.02  # of the mask
SOFT = -300.0  # HU; higher values are soft tissue


def lung_notes(
    hu: np.ndarray, lung: np.ndarray, body: np.ndarray, spacing: tuple[float, float, float], how: str
) -> list[Note]:
    """Notes on a derived lung mask: one on its size, and one on each doubt.

    Args:
        hu: (z, y, x) in HU, axial slices of pixels of about 2 mm.
        lung: (z, y, x) bool, the mask.
        body: (z, y, x) bool, the patient.
        spacing: mm along z, y, x.
        how: what found the lungs.
    """
    share = lung.sum() / max(1, (body | lung).sum())
    volume = lung.sum() * float(np.prod(spacing)) / 1000
    size = f"{100 * share:.0f} % of the body in the slice" if len(hu) == 1 else f"{volume:.0f} ml"
    what = f"lungs found by {how}, not drawn"
    notes = [Note(f"{what}: {size}", Kind.GUESSED, what=what)]
    for name, detail in _doubts(hu, lung, body, spacing, share, volume):
        notes.append(Note(f"{DOUBT}{name} ({detail})", Kind.GUESSED, what=f"{DOUBT}{name}"))
    return notes


def _doubts(
    hu: np.ndarray,
    lung: np.ndarray,
    body: np.ndarray,
    spacing: tuple[float, float, float],
    share: float,
    volume: float,
) -> list[tuple[str, str]]:
    """Name and detail of each doubt about a lung mask."""
    doubts = []
    total = max(1, int(lung.sum()))
    if len(hu) == 1 and not SHARE[0] <= share <= SHARE[1]:
        doubts.append(("unusual share of the body", f"{100 * share:.0f} %"))
    if len(hu) > 1 and (volume > VOLUME[1] or (volume < VOLUME[0] and len(hu) * spacing[0] >= CHEST)):
        doubts.append(("volume outside 1 to 9 l", f"{volume / 1000:.2f} l"))
    ratio = _inequality(lung, body)
    if ratio > UNEQUAL:
        doubts.append(("lungs of unequal size", f"{ratio:.1f} to 1" if np.isfinite(ratio) else "only one side"))
    near = (lung & ~_deeper(body, SKIN, spacing)).sum() / total
    if near > NEAR_SKIN:
        doubts.append(("outside the body or just below the skin", f"{100 * near:.1f} % of the mask"))
    dark = (lung & (ndimage.uniform_filter(hu, (0, 3, 3)) < ROOM)).sum() / total
    if dark > DARK:
        doubts.append(("parts as dark as the air of the room", f"{100 * dark:.0f} % of the mask"))
    edge = _on_edge(lung) * spacing[1]
    if edge > EDGE:
        doubts.append(("cut by the edge of the image", f"along {edge:.0f} mm in a slice"))
    planes = np.flatnonzero(lung.any((1, 2)))
    planes = planes[:: max(1, len(planes) // MOST)]
    straight = max((_straight(hu[z], lung[z], spacing) for z in planes), default=0.0)
    if straight > STRAIGHT:
        doubts.append(("straight edges through soft tissue", f"{straight:.0f} mm"))
    several = lung[:: max(1, len(lung) // MOST)]
    holes = sum(int((ndimage.binary_fill_holes(plane) & ~plane).sum()) for plane in several) / max(1, several.sum())
    if holes > HOLES:
        doubts.append(("holes", f"{100 * holes:.1f} % of the mask"))
    return doubts


def _inequality(lung: np.ndarray, body: np.ndarray) -> float:
    """How many times as large the mask is on one side of the middle of the body as on the other."""
    columns = np.flatnonzero((body | lung).any((0, 1)))
    if not len(columns):
        return 1.0
    middle = (columns[0] + columns[-1] + 1) // 2
    sides = sorted((int(lung[..., :middle].sum()), int(lung[..., middle:].sum())))
    return sides[1] / sides[0] if sides[0] else float("inf")


def _deeper(body: np.ndarray, depth: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """(z, y, x) bool: the body without a layer of ``depth`` mm below the skin; the edge of the image is no skin."""
    steps = max(1, round(depth / spacing[1]))
    disc = ndimage.generate_binary_structure(2, 1)[None]
    return ndimage.binary_erosion(body, disc, steps, border_value=1)


def _on_edge(lung: np.ndarray) -> int:
    """Largest number of pixels in a slice that lie on one of the four edges of the image."""
    edges = (lung[:, 0], lung[:, -1], lung[:, :, 0], lung[:, :, -1])
    return max(int(edge.sum(1).max()) for edge in edges)


def _straight(hu: np.ndarray, lung: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Length in mm of the longest straight part of the outline in a slice that has soft tissue on both sides."""
    soft = ndimage.uniform_filter(hu, 3) > SOFT
    slab = ndimage.binary_opening(soft & lung, np.ones((3, 3)))  # without vessels
    if slab.sum() * spacing[1] * spacing[2] < STRAIGHT * BAND:
        return 0.0
    near, far = (max(1, round(share * BAND / spacing[1])) for share in (0.5, 1))
    longest = 0.0
    for contour in find_contours(np.pad(lung, 1).astype(np.float32), 0.5):
        corners = approximate_polygon(contour - 1, 0.8)
        for first, second in zip(corners[:-1], corners[1:], strict=True):
            along = second - first
            length = float(np.hypot(*along)) * spacing[1]
            if length <= max(longest, STRAIGHT / 2):
                continue
            across = np.array([along[1], -along[0]]) / np.hypot(*along)
            steps = np.linspace(0.1, 0.9, 17)[:, None]
            sides = [first + steps * along + pixels * across for pixels in (-far, -near, near, far)]
            inside = [
                soft[tuple(np.clip(np.rint(side), 0, np.array(soft.shape) - 1).astype(int).T)].mean() for side in sides
            ]
            if min(inside) > 0.9:
                longest = length
    return longest
