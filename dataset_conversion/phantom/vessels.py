"""Trees of vessels and airways: grown in 3D once per patient, drawn slice by slice."""

from __future__ import annotations

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.anatomy import Thorax
from nnunet_difflung.dataset_conversion.phantom.fields import coverage

STEP_MM = 11.0
VESSEL_HU, AIRWAY_WALL_HU, LUMEN_HU = 35.0, -150.0, -975.0


def _points_in_lung(thorax: Thorax, side: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Random points in one lung (side -1 right, 1 left), shape (<= number, 3) as x, y, z in mm."""
    box = np.array([thorax.a, 2 * thorax.b, thorax.patient.height])
    points = rng.random((5 * number, 3)) * box - np.array([0, thorax.b, thorax.patient.height])
    points[:, 0] *= side
    inside = thorax.lungs(points[:, 0], points[:, 1], points[:, 2]) < -2
    return points[inside][:number]


def grow_tree(root: np.ndarray, targets: np.ndarray, leaf_radius: float, rng: np.random.Generator) -> np.ndarray:
    """Grows a tree by connecting every target to the nearest point of the tree so far, nearest targets first.

    Radii follow Murray's law: the cube of the radius of a branch is the sum of the cubes of its children's radii.

    Args:
        root: (3,) start of the tree, mm.
        targets: (n, 3) ends of the branches, mm.
        leaf_radius: radius at the ends, mm.
        rng: bends the branches.

    Returns:
        (m, 8) segments: start (3), end (3), radius at the start and at the end, all in mm.
    """
    targets = targets[np.argsort(np.linalg.norm(targets - root, axis=1))]
    longest = np.linalg.norm(targets - root, axis=1).max(initial=0)
    xyz = np.empty((1 + len(targets) * (2 + int(longest / STEP_MM)), 3))
    xyz[0], count, parents, reach = root, 1, [-1], np.zeros(len(xyz))
    for target in targets:
        tree = xyz[:count]
        # the length of the path from the root counts as well, so that branches leave at natural angles and not like
        # the teeth of a comb
        distance = np.sqrt(((tree - target) ** 2).sum(axis=1))
        start = previous = int(np.argmin(distance + 0.35 * reach[:count]))
        length = float(distance[start])
        steps = max(1, round(length / STEP_MM))
        for k in range(1, steps + 1):
            bend = rng.normal(0, 0.9, 3) if k < steps else 0.0
            xyz[count] = xyz[start] + (target - xyz[start]) * k / steps + bend
            parents.append(previous)
            reach[count] = reach[previous] + length / steps
            previous, count = count, count + 1
    xyz, parent = xyz[:count], np.asarray(parents[1:])
    cubes = np.zeros(count)
    for i in range(count - 1, 0, -1):
        cubes[i] = max(cubes[i], leaf_radius**3)
        cubes[parents[i]] += cubes[i]
    radius = np.cbrt(cubes)
    start_radius = np.minimum(radius[parent], radius[1:] * 1.25)
    return np.column_stack([xyz[parent], xyz[1:], start_radius, radius[1:]])


def grow_vessels(thorax: Thorax, density: int = 1, leaf_radius: float = 0.5) -> np.ndarray:
    """Arteries and veins of both lungs, (m, 8) segments as in ``grow_tree``.

    Args:
        thorax: shapes of the patient.
        density: factor on the number of branches.
        leaf_radius: radius at the ends, mm.
    """
    rng = thorax.patient.rng(1)
    height, trees = thorax.patient.height, []
    for side in (-1, 1):
        for root, number in (([side * 30.0, 2.0, -0.47 * height], 420), ([side * 28.0, 12.0, -0.58 * height], 240)):
            targets = _points_in_lung(thorax, side, number * density, rng)
            trees.append(grow_tree(np.array(root), targets, leaf_radius, rng))
    return np.concatenate(trees)


def airways(vessels: np.ndarray) -> np.ndarray:
    """Airways beside the thicker vessels, (k, 8) segments with the radii of the lumen."""
    beside = vessels[vessels[:, 7] > 1.25].copy()
    beside[:, 6:8] = np.minimum(beside[:, 6:8] * 0.95, 4.5)
    shift = (beside[:, 6:7] + 0.8) * 1.35 * np.array([[0.6, 0.8, 0.0]])
    beside[:, 0:3] += shift
    beside[:, 3:6] += shift
    return beside


def draw_tubes(tubes: np.ndarray, centres: np.ndarray, z: float, thickness: float, grow: float = 0.0) -> np.ndarray:
    """Coverage (0..1) of a slice by tubes, shape (n, n), indexed [y, x].

    Args:
        tubes: (m, 8) segments as in ``grow_tree``.
        centres: (n,) centres of the pixels along x and along y, mm.
        z: of the middle of the slice, mm.
        thickness: of the slice in mm; tubes anywhere in the slice are seen, thin ones with less coverage.
        grow: mm to add to every radius.
    """
    pixel = float(centres[1] - centres[0])
    result = np.zeros((len(centres), len(centres)))
    half = thickness / 2
    reach = tubes[:, 6] + grow
    near = (np.minimum(tubes[:, 2], tubes[:, 5]) - reach < z + half) & (
        np.maximum(tubes[:, 2], tubes[:, 5]) + reach > z - half
    )
    for tube in tubes[near]:
        radii = tube[6:8] + grow
        first, last, p, q = _part_in_slab(tube, z, half)
        radius = float(radii.max())
        low = np.minimum(p, q) - radius - pixel
        high = np.maximum(p, q) + radius + pixel
        i0, i1 = np.searchsorted(centres, [low[1], high[1]])
        j0, j1 = np.searchsorted(centres, [low[0], high[0]])
        if i0 == i1 or j0 == j1:
            continue
        x, y = centres[j0:j1][None], centres[i0:i1][:, None]
        d = q - p
        along = np.clip(((x - p[0]) * d[0] + (y - p[1]) * d[1]) / max(float(d @ d), 1e-9), 0, 1)
        distance = np.hypot(x - p[0] - along * d[0], y - p[1] - along * d[1])
        local = radii[0] + (radii[1] - radii[0]) * (first + along * (last - first))
        covered = coverage(distance - local, pixel) * np.minimum(1, 2 * local / pixel) * np.minimum(1, 3 * local / half)
        patch = result[i0:i1, j0:j1]
        np.maximum(patch, np.minimum(covered, 1), out=patch)
    return result


def _part_in_slab(tube: np.ndarray, z: float, half: float) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Where a tube enters and leaves the slab z ± half: as shares of its length, and as points (x, y) in mm."""
    start, along = tube[:3], tube[3:6] - tube[:3]
    first, last = 0.0, 1.0
    if abs(along[2]) > 1e-6:
        cuts = sorted(((z - half - start[2]) / along[2], (z + half - start[2]) / along[2]))
        first, last = (min(max(float(cut), 0.0), 1.0) for cut in cuts)
    return first, last, start[:2] + first * along[:2], start[:2] + last * along[:2]
