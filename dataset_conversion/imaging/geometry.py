"""Brings masks onto an image's grid through physical space, and sheared volumes onto an orthogonal grid.

Places are millimetres in DICOM's patient coordinates (LPS), which are also SimpleITK's; array order means nothing here.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

TOLERANCE = 1e-3  # of a voxel, for grids to count as the same
DIAGONAL = np.ones((3, 3, 3))


def index_to_physical(image: sitk.Image) -> np.ndarray:
    """Matrix (3, 3) whose columns are the steps in mm along x, y and z of the index."""
    return np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())


def to_index(image: sitk.Image, points: np.ndarray) -> np.ndarray:
    """Continuous indices (n, 3), along x, y, z, of physical points (n, 3) in mm; sheared grids work too."""
    return np.linalg.solve(index_to_physical(image), (np.asarray(points) - np.array(image.GetOrigin())).T).T


def image_like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    """An array (z, y, x) as an image in the place of another of the same size."""
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


def turned_with(image: sitk.Image, array: np.ndarray, code: str = "LPS") -> np.ndarray:
    """An array (z, y, x) on an image's grid, turned by whole axes as ``DICOMOrient`` turns the image to ``code``."""
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image_like(array, image), code))


def same_grid(a: sitk.Image, b: sitk.Image) -> bool:
    """Whether both have one size and their corners coincide within a thousandth of a voxel."""
    if a.GetSize() != b.GetSize():
        return False
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (np.array(a.GetSize()) - 1)
    places = corners @ index_to_physical(b).T + np.array(b.GetOrigin())
    return bool(np.abs(to_index(a, places) - corners).max() <= TOLERANCE)


def is_orthogonal(image: sitk.Image, tolerance: float = 1e-4) -> bool:
    """Whether the three axes are perpendicular to each other (cosines of at most ``tolerance``)."""
    axes = np.array(image.GetDirection()).reshape(3, 3)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() <= tolerance)


def on_grid(mask: sitk.Image, image: sitk.Image) -> np.ndarray:
    """A mask on the grid of an image, both placed by their physical coordinates.

    On another grid, a voxel is set where at least half of it lies in the mask: its share is the mean of trilinear
    interpolations at points not farther apart than the mask's own voxels. Nearest neighbour and a
    single interpolation at the centre would pass over what lies between the centres of larger voxels. A lesion
    (26-connected component) that fills half of no voxel keeps the voxels where its share is at least
    half of its largest share, so none inside the image vanishes: a speck keeps one or a few voxels, a
    thin plate all of its area.

    Args:
        mask: 3D, 0 outside, anything else inside.
        image: 3D; only its size, spacing, origin and direction count.

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
    seen = _nearest(result, image, mask)
    kept = np.unique(components[array & (seen > 0)])
    boxes = ndimage.find_objects(components)
    for lost in np.setdiff1d(np.arange(1, number + 1), kept):
        box = boxes[lost - 1]
        part = mask[tuple(slice(b.start, b.stop) for b in box[::-1])]
        region, share = _shares(part, components[box] == lost, image)
        if share.size and share.max() > 0:
            result[region] |= share >= share.max() / 2
    return result


def straight_grid(image: sitk.Image) -> sitk.Image:
    """An empty orthogonal grid for a sheared volume, as a tilted gantry makes it.

    The slices stay in their planes and the pixels keep their size, only the shift of each slice against the
    first is undone; the grid is as wide as all slices together.
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
    """A sheared image on its ``straight_grid``, interpolated linearly in plane; ``fill`` where no slice reached."""
    return sitk.Resample(image, straight_grid(image), sitk.Transform(), sitk.sitkLinear, fill, image.GetPixelID())


def _nearest(result: np.ndarray, image: sitk.Image, mask: sitk.Image) -> np.ndarray:
    source = image_like(result, image)
    return sitk.GetArrayFromImage(sitk.Resample(source, mask, sitk.Transform(), sitk.sitkNearestNeighbor, 0))


def _shares(mask: sitk.Image, array: np.ndarray, image: sitk.Image) -> tuple[tuple[slice, ...], np.ndarray]:
    """The part of the image that the mask reaches, as slices z, y, x, and each of its voxels' share in the mask.

    Args:
        mask: gives the grid of ``array``.
        array: (z, y, x) bool.
        image: gives the grid to go to.
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
    for z in range(low[2], high[2]):  # slice by slice, for the memory's sake
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
