"""Surface figures of segmentations: the Hausdorff distance's 95th percentile, and the normalised surface Dice."""

from __future__ import annotations

import warnings

import numpy as np

FIGURES = ("hd95_mm", "nsd")


def surface_scores(
    reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], tolerance: float
) -> tuple[float, float]:
    """Distances between the surfaces (edge voxels) of two masks.

    Args:
        reference: (z, y, x) bool with at least one voxel. A single slice (z = 1) is measured in 2D.
        prediction: the same shape.
        spacing: z, y, x in mm (pixels for formats without a spacing).
        tolerance: in the same unit; surfaces closer than this count as matching.

    Returns:
        HD95, the larger of both directions, and NSD in [0, 1]. For an empty prediction these are the image's diagonal
        and 0, so that a prediction that misses the class counts in the mean.
    """
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    if reference.shape[0] == 1:
        reference, prediction, spacing = reference[0], prediction[0], spacing[1:]
    if not prediction.any():
        return float(np.linalg.norm(np.multiply(reference.shape, spacing))), 0.0
    predicted, expected = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, reference))
    edges = [float(edge) for edge in spacing]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd95 = compute_hausdorff_distance(predicted, expected, include_background=True, percentile=95, spacing=edges)
        nsd = compute_surface_dice(predicted, expected, [float(tolerance)], include_background=True, spacing=edges)
    return float(hd95), float(nsd)


def case_scores(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, ...],
    values: list[list[int]],
    ignore: int | None,
    tolerance: float,
) -> np.ndarray:
    """(classes, 2) HD95 and NSD of a case; NaN for the classes that its reference does not contain.

    Args:
        reference: (z, y, x) label values.
        prediction: the same shape.
        spacing: z, y, x in mm.
        values: label values of each class.
        ignore: label value of voxels that are left out, as in nnU-Net's evaluation; None if there is none.
        tolerance: in mm.
    """
    scores = np.full((len(values), 2), np.nan)
    counted = np.ones(reference.shape, bool) if ignore is None else reference != ignore
    for index, of_class in enumerate(values):
        expected = np.isin(reference, of_class) & counted
        if expected.any():
            scores[index] = surface_scores(expected, np.isin(prediction, of_class) & counted, spacing, tolerance)
    return scores
