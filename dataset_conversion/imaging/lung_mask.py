"""Finds the lungs in a chest CT by thresholds and morphology, or with the network of the package ``lungmask``.

The mask holds both lungs with their vessels and lesions, without trachea and main bronchi. It is a derived label: it
says where lung is, but does not replace the segmentation of a reader. Steps: find the body and the air in it, remove
the airways, choose the lungs, fill dents along the chest wall. Sources of the ideas: Hu et al., IEEE TMI 2001
(threshold, airways, smoothing); Sluimer et al., IEEE TMI 2005 (what thresholds miss in diseased lungs).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from skimage.segmentation import watershed

from nnunet_difflung.dataset.intensities import window_name
from nnunet_difflung.dataset_conversion.imaging.airways import find_airways
from nnunet_difflung.dataset_conversion.imaging.geometry import turned_with
from nnunet_difflung.dataset_conversion.imaging.repair import closed, costal_dents, fill_slices
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.environment import require

TISSUE = -400.0  # HU half-way between lung (-850) and chest wall (50), where partial volume puts the border of the lung
WORKING = (
    1.4  # mm; finer pixels are averaged first: enough for the shape, and 512 x 512 pixels take a quarter of the time
)
OUTDOORS = -965.0  # HU; components with a lower median are air in the room, the bowel or bronchi, not parenchyma
SMALLEST = 200.0  # mm²; area that a lung must have in at least one slice
SHARE = 0.01  # of the largest component; smaller components are bowel, bronchi or noise
BACKENDS = ("threshold", "lungmask")


def lung_mask(image: sitk.Image, pathology: np.ndarray | None = None, backend: str = "threshold") -> np.ndarray:
    """Mask of both lungs with everything inside them, without trachea and main bronchi.

    Args:
        image: 3D CT in HU, in any orientation: a whole chest, a part of it, or a single slice.
        pathology: (z, y, x), nonzero where a lesion is annotated; always part of the mask, and it connects parts of a
            lung that it separates.
        backend: ``threshold`` needs no further package; ``lungmask`` is the network of Hofmanninger et al. (2020)
            from the package of that name, which downloads its weights on first use.

    Returns:
        (z, y, x) uint8 of 0 and 1 on the grid of the image; only the pathology if the image shows no lung.

    Raises:
        BadInput: the values are a display window and not HU, or the backend is not installed.
        ValueError: the backend is unknown, or the pathology has another shape than the image.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; expected one of {', '.join(BACKENDS)}")
    shape = image.GetSize()[::-1]
    if pathology is not None and pathology.shape != shape:
        raise ValueError(f"the shapes of pathology {pathology.shape} and image {shape} differ; expected the same shape")
    scaled = window_name(sitk.GetArrayViewFromImage(image))
    if scaled:
        raise BadInput(
            f"lungs can only be found in HU, but the values are a display window ({scaled}); provide a lung mask "
            f"as a structure, or images in HU"
        )
    mask = np.asarray(_network()(image)) > 0 if backend == "lungmask" else _axial(image, pathology)
    if pathology is not None:
        mask |= pathology != 0
    return mask.astype(np.uint8)


@functools.cache
def _network() -> Callable[[sitk.Image], np.ndarray]:
    """``apply`` of the pretrained network, whose weights are loaded once in a process."""
    lungmask = require(
        "lungmask",
        extra="lungmask",
        why="the mapping's option 'lung: lungmask'",
        otherwise="set 'lung: threshold', which needs no further package",
    )
    return lungmask.LMInferer(tqdm_disable=True).apply


def _axial(image: sitk.Image, pathology: np.ndarray | None) -> np.ndarray:
    """``threshold_lungs`` of the image reoriented to axial slices; the mask is on the grid of the image."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    lesion = None if pathology is None else pathology != 0
    if code[2] in "SI":
        return threshold_lungs(sitk.GetArrayViewFromImage(image), image.GetSpacing()[::-1], lesion)
    turned = sitk.DICOMOrient(image, "LPS")
    if lesion is not None:
        lesion = turned_with(image, lesion.astype(np.uint8)) > 0
    lungs = threshold_lungs(sitk.GetArrayViewFromImage(turned), turned.GetSpacing()[::-1], lesion)
    return turned_with(turned, lungs.astype(np.uint8), code) > 0


def threshold_lungs(hu: np.ndarray, spacing: tuple[float, float, float], lesion: np.ndarray | None) -> np.ndarray:
    """Finds the lungs in axial slices.

    Args:
        hu: (z, y, x) in HU.
        spacing: mm along z, y, x.
        lesion: (z, y, x) bool, voxels that are known to be lesions; may be None.

    Returns:
        (z, y, x) bool.
    """
    step = max(1, round(WORKING / max(spacing[1:])))
    small, drawn = _averaged(hu, step), None if lesion is None else _averaged(lesion, step) >= 0.5
    coarse = (spacing[0], spacing[1] * step, spacing[2] * step)
    body = body_mask(small)
    air = (small < TISSUE) & body
    inside = air if drawn is None else air | drawn
    airways = find_airways(small, air if drawn is None else air & ~drawn, body, coarse)
    allowed = body & ~airways
    mask = np.zeros_like(body)
    for lung in choose_lungs(small, inside & ~airways, body, coarse):
        filled = fill_slices(closed(lung, coarse))
        mask |= (filled | costal_dents(filled, body, small, coarse)) & allowed
    return mask if step == 1 else _refined(mask, mask & ~air, airways, hu, step)


def body_mask(hu: np.ndarray) -> np.ndarray:
    """(z, y, x) bool: the patient including the lungs, without table and clothing.

    The largest component of tissue, separated from the table by an opening, with holes filled slice by slice. Lung that
    the edge of the image cuts open is not a hole; air at the edge that is denser than the air of the room is body.
    """
    tissue = hu > -500
    disc = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), 2)[None]
    components, number = ndimage.label(ndimage.binary_opening(tissue, disc))
    if not number:
        return np.zeros(hu.shape, bool)
    largest = components == np.bincount(components.ravel())[1:].argmax() + 1
    body = fill_slices(largest | (tissue & ndimage.binary_dilation(largest, disc)))
    outside, _ = ndimage.label(~body)
    for k, box in enumerate(ndimage.find_objects(outside), start=1):
        part = outside[box] == k
        if part.sum() > 50 and -950 < np.median(hu[box][part]) < -600:
            body[box] |= part
    return body


def choose_lungs(
    hu: np.ndarray, air: np.ndarray, body: np.ndarray, spacing: tuple[float, float, float]
) -> list[np.ndarray]:
    """Chooses the lungs among the components of air in the body; a bool array (z, y, x) for each side.

    Components that consolidation cuts off are assigned to the lung of their side. Gas in the bowel has lower HU than
    any parenchyma.
    """
    components, number = ndimage.label(air)
    if not number:
        return []
    sizes = np.bincount(components.ravel(), minlength=number + 1)
    area = spacing[1] * spacing[2]
    columns = np.flatnonzero(body.any((0, 1)))
    middle = (columns[0] + columns[-1]) / 2
    boxes = ndimage.find_objects(components)
    sides: dict[bool, np.ndarray] = {}
    largest = 0
    for k in np.argsort(-sizes[1:], kind="stable") + 1:
        if sizes[k] * area < SMALLEST or sizes[k] < SHARE * largest:
            break
        part = components[boxes[k - 1]] == k
        if part.sum((1, 2)).max() * area < SMALLEST or np.median(hu[boxes[k - 1]][part]) < OUTDOORS:
            continue
        largest = largest or sizes[k]
        for piece in _halves(part, boxes[k - 1], middle, spacing):
            right = np.nonzero(piece)[2].mean() + boxes[k - 1][2].start > middle
            side = sides.setdefault(bool(right), np.zeros_like(air))
            side[boxes[k - 1]] |= piece
    return list(sides.values())


def _halves(
    part: np.ndarray, box: tuple[slice, ...], middle: float, spacing: tuple[float, float, float]
) -> list[np.ndarray]:
    """Two lungs that touch, separated where their connection is thinnest; any other component unchanged."""
    volume = part.sum()
    left = part[..., : max(0, int(middle) - box[2].start)].sum() / volume
    if not 0.2 < left < 0.8:
        return [part]
    depth = ndimage.distance_transform_edt(np.pad(part, ((0, 0), (1, 1), (1, 1))), spacing)[:, 1:-1, 1:-1]
    for radius in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0):
        cores, number = ndimage.label(depth > radius)
        sizes = np.bincount(cores.ravel(), minlength=number + 1)[1:]
        largest = np.argsort(-sizes, kind="stable")[:2] + 1
        if len(largest) == 2 and sizes[largest[1] - 1] > 0.03 * volume:
            basins = watershed(-depth, np.where(np.isin(cores, largest), cores, 0), mask=part)
            return [basins == k for k in largest]
    return [part]


def _averaged(array: np.ndarray, step: int) -> np.ndarray:
    """float32 means over blocks of step x step pixels; incomplete blocks at the far edges repeat the last pixels."""
    if step == 1:
        return array.astype(np.float32)
    ny, nx = (-(-n // step) for n in array.shape[1:])
    out = np.empty((len(array), ny, nx), np.float32)
    for z, plane in enumerate(array):
        plane = np.pad(plane, ((0, ny * step - plane.shape[0]), (0, nx * step - plane.shape[1])), mode="edge")
        out[z] = plane.reshape(ny, step, nx, step).mean((1, 3), dtype=np.float32)
    return out


def _refined(mask: np.ndarray, repaired: np.ndarray, airways: np.ndarray, hu: np.ndarray, step: int) -> np.ndarray:
    """The mask on the grid of the image; at the border, the pixels of the image decide, except in repaired parts."""
    out = np.zeros(hu.shape, bool)
    ny, nx = hu.shape[1:]
    for z in np.flatnonzero(mask.any((1, 2))):
        fine, mended, tubes = (np.kron(m[z], np.ones((step, step), bool))[:ny, :nx] for m in (mask, repaired, airways))
        smooth = ndimage.uniform_filter(fine.astype(np.float32), 2 * step + 1) > 0.5
        near = ndimage.binary_dilation(fine, iterations=step)
        core = ndimage.binary_erosion(fine, iterations=step, border_value=1)
        out[z] = (core | (near & (hu[z] < TISSUE)) | (smooth & mended)) & ~tubes
    return out
