"""Finds the lungs in a chest CT by thresholds and morphology, or with the network of the package ``lungmask``.

The mask holds both lungs with their vessels and lesions, without trachea and main bronchi. It is a derived label: it
says where lung is, but does not replace the segmentation of a reader. Steps: find the body and the air in it, remove
the airways, choose the lungs, fill dents along the chest wall. Sources of the ideas: Hu et al., IEEE TMI 2001
(threshold, airways, smoothing); Sluimer et al., IEEE TMI 2005 (what thresholds miss in diseased lungs).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from skimage.segmentation import watershed

from nnunet_difflung.dataset_conversion.imaging.airways import find_airways
from nnunet_difflung.dataset_conversion.imaging.body import body_mask
from nnunet_difflung.dataset_conversion.imaging.geometry import turned_with
from nnunet_difflung.dataset_conversion.imaging.lung_doubts import lung_notes
from nnunet_difflung.dataset_conversion.imaging.repair import closed, costal_dents, fill_holes
from nnunet_difflung.dataset_conversion.notes import Note
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.intensities import window_name
from nnunet_difflung.runtime.environment import require

TISSUE = -400.0  # HU half-way between lung (-850) and chest wall (50), where partial volume puts the border of the lung
WORKING = (
    1.4  # mm; finer pixels are averaged first: enough for the shape, and 512 x 512 pixels take a quarter of the time
)
OUTDOORS = -965.0  # HU; components with a lower median are air in the room, the bowel or bronchi, not parenchyma
GAS, DARKER = -940.0, 60.0  # HU; smaller components that are darker than GAS, and by DARKER than the lung, are no lung
WIDE, VESSELS = 3000.0, 0.005  # mm² and share of a slice: area and vessels of a lung that is as dark as air
SIMILAR = 0.25  # of the larger lung; a smaller second component may belong to the same lung
SMALLEST = 200.0  # mm²; area that a lung must have in at least one slice
SHARE = 0.01  # of the largest component; smaller components are bowel, bronchi or noise
BACKENDS = ("threshold", "lungmask")


@dataclass(frozen=True)
class DerivedLungs:
    """A lung mask that nobody drew.

    Attributes:
        mask: (z, y, x) uint8 of 0 and 1 on the grid of the image.
        notes: its size, and each doubt about it.
    """

    mask: np.ndarray
    notes: tuple[Note, ...]


def lung_mask(image: sitk.Image, pathology: np.ndarray | None = None, backend: str = "threshold") -> np.ndarray:
    """The ``mask`` of ``derive_lungs``."""
    return derive_lungs(image, pathology, backend).mask


def derive_lungs(image: sitk.Image, pathology: np.ndarray | None = None, backend: str = "threshold") -> DerivedLungs:
    """Finds both lungs with everything inside them, without trachea and main bronchi.

    Args:
        image: 3D CT in HU, in any orientation: a whole chest, a part of it, or a single slice.
        pathology: (z, y, x), nonzero where a lesion is annotated; always part of the mask, and it connects parts of a
            lung that it separates.
        backend: ``threshold`` needs no further package; ``lungmask`` is the network of Hofmanninger et al. (2020)
            from the package of that name, which downloads its weights on first use.

    Returns:
        The mask, which is only the pathology if the image shows no lung, and notes on it.

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
    given = np.asarray(_network()(image)) > 0 if backend == "lungmask" else None
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    if code[2] in "SI":
        return _derived(image, pathology, given, backend)
    turned = sitk.DICOMOrient(image, "LPS")
    lesion, mask = (None if m is None else turned_with(image, (m != 0).astype(np.uint8)) for m in (pathology, given))
    lungs = _derived(turned, lesion, mask, backend)
    return replace(lungs, mask=turned_with(turned, lungs.mask, code))


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


def _derived(image: sitk.Image, pathology: np.ndarray | None, given: np.ndarray | None, backend: str) -> DerivedLungs:
    """The lungs in axial slices: by thresholds unless a mask (z, y, x) is given; and the notes on them."""
    hu, spacing = sitk.GetArrayViewFromImage(image), image.GetSpacing()[::-1]
    step = max(1, round(WORKING / max(spacing[1:])))
    small, coarse = _averaged(hu, step), (spacing[0], spacing[1] * step, spacing[2] * step)
    body = body_mask(small, coarse)
    lesion = None if pathology is None else pathology != 0
    mask = _threshold_lungs(hu, small, body, coarse, lesion) if given is None else given > 0
    if lesion is not None:
        mask = mask | lesion
    how = "thresholds" if backend == "threshold" else f"the network {backend}"
    notes = lung_notes(small, _averaged(mask, step) >= 0.5, body, coarse, how)
    return DerivedLungs(mask.astype(np.uint8), tuple(notes))


def _threshold_lungs(
    hu: np.ndarray,
    small: np.ndarray,
    body: np.ndarray,
    coarse: tuple[float, float, float],
    lesion: np.ndarray | None,
) -> np.ndarray:
    """Finds the lungs in axial slices.

    Args:
        hu: (z, y, x) in HU.
        small: (z, y, x) the same, averaged over blocks of pixels.
        body: (z, y, x) bool, the patient, on the grid of ``small``.
        coarse: mm along z, y, x on the grid of ``small``.
        lesion: (z, y, x) bool, voxels that are known to be lesions; may be None.

    Returns:
        (z, y, x) bool.
    """
    step = -(-hu.shape[1] // small.shape[1])
    drawn = None if lesion is None else _averaged(lesion, step) >= 0.5
    air = (small < TISSUE) & body
    inside = air if drawn is None else air | drawn
    airways = find_airways(small, air if drawn is None else air & ~drawn, body, coarse)
    allowed = body & ~airways
    mask = np.zeros_like(body)
    for lung in choose_lungs(small, inside & ~airways, body, coarse):
        filled = fill_holes(closed(lung, coarse), coarse)
        mask |= (filled | costal_dents(filled, body, small, coarse)) & allowed
    return mask if step == 1 else _refined(mask, mask & ~air, airways, hu, step)


def choose_lungs(
    hu: np.ndarray, air: np.ndarray, body: np.ndarray, spacing: tuple[float, float, float]
) -> list[np.ndarray]:
    """Chooses the lungs among the components of air in the body; a bool array (z, y, x) for each side.

    Components that consolidation cuts off are assigned to the lung of their side. Gas in stomach and bowel, and air of
    the room in folds of the skin, are darker than the lungs; a lung that is as dark has vessels, which gas has not.
    """
    components, number = ndimage.label(air)
    if not number or not body.any():
        return []
    sizes = np.bincount(components.ravel(), minlength=number + 1)
    area = spacing[1] * spacing[2]
    boxes = ndimage.find_objects(components)
    pieces: list[tuple[tuple[slice, ...], np.ndarray]] = []
    largest, darkest = 0, OUTDOORS
    for k in np.argsort(-sizes[1:], kind="stable") + 1:
        if sizes[k] * area < SMALLEST or sizes[k] < SHARE * largest:
            break
        box = boxes[k - 1]
        part = components[box] == k
        if part.sum((1, 2)).max() * area < SMALLEST:
            continue
        low, level = np.percentile(hu[box][part], (25, 50))
        if level < OUTDOORS and not _has_vessels(part, area):
            continue
        if largest and low < darkest:
            continue
        if not largest:
            largest, darkest = sizes[k], min(GAS, level - DARKER)
        pieces += [(box, piece) for piece in _halves(part, box, _middle_of(body), spacing)]
    return _by_side(pieces, _middle(pieces, _middle_of(body)), air.shape)


def _has_vessels(part: np.ndarray, area: float) -> bool:
    """Whether a component is as wide as a lung and has holes, as vessels make them, while gas has none.

    Args:
        part: (z, y, x) bool.
        area: of a pixel in mm².
    """
    largest = part[part.sum((1, 2)).argmax()]
    inside = ndimage.binary_erosion(ndimage.binary_fill_holes(largest), iterations=2)
    return bool(largest.sum() * area > WIDE and (inside & ~largest).sum() > VESSELS * inside.sum())


def _middle_of(body: np.ndarray) -> float:
    """Column in the middle of the body."""
    columns = np.flatnonzero(body.any((0, 1)))
    return float(columns[0] + columns[-1]) / 2


def _middle(pieces: list[tuple[tuple[slice, ...], np.ndarray]], middle: float) -> float:
    """Column between the two lungs, if there are two of similar size beside each other; else the middle of the body.

    The middle of the body is of no use where an arm, or the edge of the image, makes one side wider.
    """
    if len(pieces) < 2:
        return middle
    first, second = sorted(pieces, key=lambda piece: -piece[1].sum())[:2]
    spans = [np.flatnonzero(part.any((0, 1))) + box[2].start for box, part in (first, second)]
    overlap = min(spans[0][-1], spans[1][-1]) - max(spans[0][0], spans[1][0])
    if second[1].sum() < SIMILAR * first[1].sum() or overlap > 0.25 * min(len(spans[0]), len(spans[1])):
        return middle
    return float(np.mean([_column(box, part) for box, part in (first, second)]))


def _column(box: tuple[slice, ...], part: np.ndarray) -> float:
    """Mean column of a component."""
    return float(np.nonzero(part)[2].mean() + box[2].start)


def _by_side(
    pieces: list[tuple[tuple[slice, ...], np.ndarray]], middle: float, shape: tuple[int, ...]
) -> list[np.ndarray]:
    """One (z, y, x) mask of all pieces left of the middle, and one of those right of it."""
    sides: dict[bool, np.ndarray] = {}
    for box, piece in pieces:
        side = sides.setdefault(_column(box, piece) > middle, np.zeros(shape, bool))
        side[box] |= piece
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
