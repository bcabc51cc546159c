"""Resamples masks onto the grid of an image through physical space, and sheared volumes onto an orthogonal grid.

Positions are in mm in the patient coordinates (LPS) of DICOM and SimpleITK; the order of arrays does not matter.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

TOLERANCE = 1e-3  # voxels; grids whose corners differ by less are the same
DIAGONAL = np.ones((3, 3, 3))  # 26-connectivity


def index_to_physical(image: sitk.Image) -> np.ndarray:
    """Matrix (3, 3) whose columns are the steps in mm along x, y and z of the index."""
    return np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())


def to_index(image: sitk.Image, points: np.ndarray) -> np.ndarray:
    """Continuous indices (n, 3), along x, y, z, of physical points (n, 3) in mm; sheared grids work too."""
    return np.linalg.solve(index_to_physical(image), (np.asarray(points) - np.array(image.GetOrigin())).T).T


def image_like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    """An array (z, y, x) as an image with the grid of another image of the same size."""
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


def turned_with(image: sitk.Image, array: np.ndarray, code: str = "LPS") -> np.ndarray:
    """An array (z, y, x) on the grid of an image, reoriented as ``DICOMOrient`` reorients the image to ``code``."""
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image_like(array, image), code))


def same_grid(a: sitk.Image, b: sitk.Image) -> bool:
    """Whether two images have the same size and their corners coincide within a thousandth of a voxel."""
    if a.GetSize() != b.GetSize():
        return False
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (np.array(a.GetSize()) - 1)
    corners_of_b = corners @ index_to_physical(b).T + np.array(b.GetOrigin())
    return bool(np.abs(to_index(a, corners_of_b) - corners).max() <= TOLERANCE)


def is_orthogonal(image: sitk.Image, tolerance: float = 1e-4) -> bool:
    """Whether the axes are perpendicular to each other (cosines between them of at most ``tolerance``)."""
    axes = np.array(image.GetDirection()).reshape(3, 3)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() <= tolerance)


def nearest_rotation(axes: np.ndarray) -> np.ndarray:
    """The matrix (3, 3) of perpendicular axes of length 1 that is nearest to ``axes``, left-handed if they are."""
    u, _, v = np.linalg.svd(axes)
    return u @ v


def on_grid(mask: sitk.Image, image: sitk.Image) -> np.ndarray:
    """A mask resampled onto the grid of an image, both positioned by their physical coordinates.

    If the grids differ, a voxel is set if at least half of it lies in the mask. The share is the mean of trilinear
    interpolations at points that are no farther apart than the voxels of the mask; nearest neighbour and a single
    interpolation at the centre would miss what lies between the centres of larger voxels. A lesion (26-connected
    component) that fills half of no voxel keeps the voxels of which it fills at least half as much as of its best
    voxel, so that no lesion inside the image vanishes: a speck keeps one or a few voxels, a thin plate its whole area.

    Args:
        mask: 3D, 0 outside, any positive value inside.
        image: 3D; only its size, spacing, origin and direction are used.

    Returns:
        (z, y, x) uint8 of 0 and 1.
    """
    array = sitk.GetArrayViewFromImage(mask) > 0
    if same_grid(mask, image):
        return array.astype(np.uint8)
    result = np.zeros(image.GetSize()[::-1], np.uint8)
    if not array.any():
        return result
    region, share = _shares(mask, array, image)
    result[region] = share >= 0.5 - 1e-6
    components, number = ndimage.label(array, structure=DIAGONAL)
    on_mask_grid = _nearest(result, image, mask)
    kept = np.unique(components[array & (on_mask_grid > 0)])
    boxes = ndimage.find_objects(components)
    for lost in np.setdiff1d(np.arange(1, number + 1), kept):
        box = boxes[lost - 1]
        part = mask[tuple(slice(b.start, b.stop) for b in box[::-1])]
        region, share = _shares(part, components[box] == lost, image)
        if share.size and share.max() > 0:
            result[region] |= share >= share.max() / 2
    return result


def straight_grid(image: sitk.Image) -> sitk.Image:
    """An empty orthogonal grid for a sheared volume, which a tilted gantry produces.

    Slices stay in their planes and pixels keep their size; only the shift of each slice against the first is undone.
    The grid is large enough for all slices.
    """
    steps = index_to_physical(image)
    rows, columns = (np.array(image.GetDirection()).reshape(3, 3)[:, a] for a in (0, 1))
    normal = np.cross(rows, columns)
    normal *= np.sign(normal @ steps[:, 2])
    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    drift = np.array([rows @ steps[:, 2], columns @ steps[:, 2]]) * (size[2] - 1) / spacing[:2]
    before, after = np.floor(np.minimum(drift, 0)), np.ceil(np.maximum(drift, 0))
    straight = sitk.Image([*(int(n) for n in size[:2] - before + after), int(size[2])], sitk.sitkUInt8)
    straight.SetOrigin((np.array(image.GetOrigin()) + steps[:, :2] @ before).tolist())
    straight.SetSpacing([*spacing[:2].tolist(), float(normal @ steps[:, 2])])
    straight.SetDirection(np.stack([rows, columns, normal], axis=1).ravel().tolist())
    return straight


def straightened(image: sitk.Image, fill: float) -> sitk.Image:
    """A sheared image on its ``straight_grid``, interpolated linearly in plane; ``fill`` outside its slices."""
    return sitk.Resample(image, straight_grid(image), sitk.Transform(), sitk.sitkLinear, fill, image.GetPixelID())


def _nearest(array: np.ndarray, image: sitk.Image, mask: sitk.Image) -> np.ndarray:
    """An array on the grid of an image, resampled onto the grid of a mask by nearest neighbour."""
    source = image_like(array, image)
    return sitk.GetArrayFromImage(sitk.Resample(source, mask, sitk.Transform(), sitk.sitkNearestNeighbor, 0))


def _shares(mask: sitk.Image, array: np.ndarray, image: sitk.Image) -> tuple[tuple[slice, ...], np.ndarray]:
    """The region of the image that a mask reaches (slices z, y, x), and the share of each of its voxels in the mask.

    Args:
        mask: whose grid ``array`` is on.
        array: (z, y, x) bool.
        image: whose grid the shares are computed for.
    """
    empty = (slice(0, 0),) * 3
    box = ndimage.find_objects(array.astype(np.uint8))[0][::-1]
    corners = np.array(
        [
            [x, y, z]
            for x in (box[0].start - 1, box[0].stop)
            for y in (box[1].start - 1, box[1].stop)
            for z in (box[2].start - 1, box[2].stop)
        ]
    )
    reach = to_index(image, corners @ index_to_physical(mask).T + np.array(mask.GetOrigin()))
    low = np.maximum(np.floor(reach.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(reach.max(axis=0)) + 1, image.GetSize()).astype(int)
    if (low >= high).any():
        return empty, np.zeros((0, 0, 0))
    source = image_like(array.astype(np.float32), mask)
    steps = index_to_physical(image)
    in_mask = np.abs(np.linalg.solve(index_to_physical(mask), steps)).max(axis=0)
    points = np.maximum(1, np.ceil(in_mask - TOLERANCE)).astype(int)  # per voxel along x, y, z
    nx, ny, nz = (high - low).tolist()
    shares = np.empty((nz, ny, nx), np.float32)
    for z in range(low[2], high[2]):  # slice by slice, to save memory
        first = np.array([low[0], low[1], z]) - 0.5 + 0.5 / points
        fine = sitk.Resample(
            source,
            (points * [nx, ny, 1]).tolist(),
            sitk.Transform(),
            sitk.sitkLinear,
            (np.array(image.GetOrigin()) + steps @ first).tolist(),
            (np.array(image.GetSpacing()) / points).tolist(),
            image.GetDirection(),
            0.0,
        )
        shares[z - low[2]] = (
            sitk.GetArrayViewFromImage(fine).reshape(points[2], ny, points[1], nx, points[0]).mean(axis=(0, 2, 4))
        )
    return tuple(slice(int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True)), shares
