"""Finds the patient in a chest CT, and leaves out table, mats, blankets, and the air between them and the skin."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

AIR = -500.0  # HU; lower values are air or lung
SOFT = -180.0  # HU; lower values can be a mat of foam or the beads of a vacuum bag, but not the wall of a chest
NOISE = 50.0  # HU; in images with more noise, fat falls below SOFT, which is lowered by the difference
WALL = 3.0  # mm; anything thinner than twice this, such as the top of a table, is not the wall of a chest
ROOM = -940.0  # HU; air in the room is darker, except where pixels hold something else in part
NO_ROOM = 0.02  # of a slice; a smaller share as dark as the room is in trachea and bronchi
ENCLOSED = 0.75  # share of the outline of a lung that must be chest wall where an edge of the image cuts it open
AROUND = 40.0  # mm; pieces of lung do not reach that far from the rest of the body
BESIDE = 0.25  # the same share at the two ends of the edge of the image; rounded corners of the lung are left out
LIKELY = 0.4  # share of the outline including vessels and bronchi, which is quick to find
PIECE = 200.0  # mm²; smaller pieces are not looked at

IN_PLANE = np.zeros((3, 3, 3), bool)  # neighbours in the same slice
IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)


def body_mask(hu: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The patient including the lungs, without table, mats and clothing.

    The largest component of soft tissue, separated from the table by an opening, with holes filled slice by slice. A
    hole counts only if soft tissue thicker than a table top surrounds it. Air in a hole that is open to the room in the
    next slice, such as between arm and chest, is not body. Lung that an edge of the image cuts open, or whose wall is
    thin in places, is body.

    Args:
        hu: (z, y, x) in HU.
        spacing: mm along z, y, x.

    Returns:
        (z, y, x) bool.
    """
    steps = max(1, round(WALL / spacing[1]))
    smooth = ndimage.uniform_filter(hu.astype(np.float32, copy=False), (0, 3, 3))
    disc = IN_PLANE[1:2]
    middle = len(hu) // 2
    noise = (hu[middle] - smooth[middle])[smooth[middle] > SOFT]
    limit = SOFT - max(0.0, float(noise.std()) - NOISE) if noise.size else SOFT
    # most of the neighbours are soft tissue, or their mean is
    soft = (ndimage.uniform_filter((hu > limit).astype(np.float32), (0, 3, 3)) > 0.5) | (smooth > limit)
    opened = ndimage.binary_erosion(soft, disc, steps, border_value=1)
    opened = ndimage.binary_dilation(opened, disc, steps)
    components, number = ndimage.label(opened)
    if not number:
        return np.zeros(hu.shape, bool)
    wall = components == np.bincount(components.ravel())[1:].argmax() + 1
    body = np.stack([ndimage.binary_fill_holes(plane) for plane in wall])
    _take_out_open_holes(body, wall, smooth)
    near = ndimage.binary_dilation(wall, disc, steps)
    body |= (hu > AIR) & near
    no_room = (~body & (smooth < ROOM)).mean((1, 2)) < NO_ROOM  # these slices show a part of the chest only
    body[no_room] = True
    part = _surroundings(body, spacing)
    _add_cut_lungs(body[part], near[part], smooth[part], spacing)
    return body


def _surroundings(body: np.ndarray, spacing: tuple[float, float, float]) -> tuple[slice, slice, slice]:
    """The body's box with ``AROUND`` mm on each side."""
    margin = round(AROUND / spacing[1])
    sides = []
    for axis in (2, 1):
        inside = np.flatnonzero(body.any((0, axis)))
        sides.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + 1 + margin))
    return slice(None), sides[0], sides[1]


def _take_out_open_holes(body: np.ndarray, wall: np.ndarray, smooth: np.ndarray) -> None:
    """Removes holes as dark as the room from the body if they lie mostly next to the room in a neighbouring slice."""
    components, _ = ndimage.label(body & ~wall & (smooth < AIR), IN_PLANE)
    holes: list[list[tuple[tuple[slice, ...], np.ndarray]]] = [[] for _ in body]
    for k, (plane, *box) in enumerate(ndimage.find_objects(components), start=1):
        place = (plane.start, *box)
        part = components[place] == k
        if np.percentile(smooth[place][part], 25) < ROOM:
            holes[plane.start].append((tuple(box), part))
    for order, step in ((range(1, len(body)), -1), (range(len(body) - 2, -1, -1), 1)):
        for z in order:
            for box, part in holes[z]:
                if (~body[z + step][box][part]).mean() > 0.5:
                    body[z][box] &= ~part


def _add_cut_lungs(body: np.ndarray, near: np.ndarray, smooth: np.ndarray, spacing: tuple[float, float, float]) -> None:
    """Adds lung to the body that an edge of the image cuts open, or whose wall has thin places, slice by slice.

    A mat is as dense as lung, but has the patient on one side only.

    Args:
        body: (z, y, x) bool, changed in place.
        near: (z, y, x) bool, the wall of the chest and its surroundings.
        smooth: (z, y, x) HU without noise.
        spacing: mm along z, y, x.
    """
    lung = ndimage.binary_opening(~body & (smooth > ROOM) & (smooth < AIR), np.ones((1, 3, 3)))
    components, number = ndimage.label(lung, IN_PLANE)
    sizes = np.bincount(components.ravel(), minlength=number + 1) * spacing[1] * spacing[2]
    if not (sizes[1:] > PIECE).any():
        return
    around = near | body
    disc = IN_PLANE[1:2]
    outline = lung & ~ndimage.binary_erosion(lung, disc, border_value=1)
    touching = outline & ndimage.binary_dilation(around, disc, 2)
    lengths, contacts = (np.bincount(components[m], minlength=number + 1) for m in (outline, touching))
    likely = (sizes > PIECE) & (contacts >= LIKELY * lengths)  # vessels and bronchi are outlines as well
    boxes = ndimage.find_objects(components)
    steps = max(1, round(WALL / spacing[1]))
    margin = steps + 3
    edge = np.ones(body.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    for k in np.flatnonzero(likely[1:]) + 1:
        plane, *sides = boxes[k - 1]
        place = (plane.start, *(slice(max(0, side.start - margin), side.stop + margin) for side in sides))
        piece = _closed(components[place] == k, steps)
        ring = ndimage.binary_dilation(piece, iterations=2) & ~piece
        ends = ring & edge[place[1:]]  # beside a cut lung lies chest wall, beside a cut mat the room
        if ends.any() and around[place][ends].mean() < BESIDE:
            continue
        if not ring.any() or around[place][ring].mean() > ENCLOSED:
            body[place] |= piece | ring


def _closed(piece: np.ndarray, steps: int) -> np.ndarray:
    """A (y, x) mask with vessels and bronchi closed and holes filled."""
    closed = ndimage.binary_closing(np.pad(piece, steps), iterations=steps)
    return ndimage.binary_fill_holes(closed)[steps:-steps, steps:-steps]
