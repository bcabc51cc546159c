"""Rows of Table 1 without a network: reference values that help to read the other rows.

``class_mean``: each class painted with its mean over the fold's training cases. It has the best PSNR that masks alone
allow, and no texture at all, so a method with a lower PSNR is not necessarily worse. ``neighbour``: the next real slice
of the same patient; its distributions are taken from its own classes. ``real_other_patients``: the fold's training
patients, pooled, compared with each validation patient: the bias, Wasserstein and texture distance that a perfect
painter of other patients' lungs would reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.evaluation.image_metrics import PatientTally, Pool, Scales, add_to_pool, class_figures, pool_slice
from nnunet_difflung.evaluation.real_slices import RealSlice, Window, neighbour_of, real_slice, slices_with_lung
from nnunet_difflung.evaluation.texture_distance import standardisation

REFERENCES = {
    "class_mean": "each class painted with its mean over the training cases",
    "neighbour": "the next real slice of the same patient",
    "real_other_patients": "the real training patients against each validation patient",
}
_POOL_SLICES = 100  # maximum number of training slices for a class's distribution, evenly spaced


@dataclass(frozen=True)
class TrainingReference:
    """Means and distributions of the classes in a fold's real training cases.

    Attributes:
        means: voxel value of a condition class → mean intensity.
        pool: voxels and texture descriptors of each lung class.
        scales: mean and standard deviation of these descriptors.
    """

    means: dict[int, float]
    pool: Pool
    scales: Scales


def training_reference(raw: RawDataset, cache: SliceCache, fold: int, window: Window) -> TrainingReference:
    """Reads the slices with lung of the fold's training cases, and no other slices."""
    places = slices_with_lung(cache, raw.training_cases(fold))
    sums, counts = np.zeros(256), np.zeros(256)
    for case, z in places:
        true = real_slice(raw, cache, case, z, window)
        sums += np.bincount(true.condition.ravel(), true.image.ravel(), 256)
        counts += np.bincount(true.condition.ravel(), minlength=256)
    means = {int(v): float(sums[v] / counts[v]) for v in cache.roles.condition_values() if counts[v]}
    pool: Pool = {}
    for name in cache.roles.lung:
        holding = [(case, z) for case, z in places if cache.facts[case].counts[name][z]]
        for i in np.unique(np.linspace(0, len(holding) - 1, min(len(holding), _POOL_SLICES)).round().astype(int)):
            case, z = holding[int(i)]
            true = real_slice(raw, cache, case, z, window)
            add_to_pool(pool, {name: pool_slice(true.image, true.condition, true.key, cache.roles, window)[name]})
    textures = {name: np.concatenate([part[1] for part in parts]) for name, parts in pool.items()}
    scales = {name: standardisation(texture) for name, texture in textures.items() if len(texture) >= 2}
    return TrainingReference(means, pool, scales)


def class_mean_image(condition: np.ndarray, means: dict[int, float], window: Window) -> np.ndarray:
    """(h, w) float32: each class at its mean; the window's lower end elsewhere and for classes not trained on."""
    table = np.full(256, window[0], np.float32)
    table[list(means)] = list(means.values())
    return table[condition]


def reference_rows(
    raw: RawDataset, cache: SliceCache, slices: Sequence[RealSlice], training: TrainingReference, window: Window
) -> dict[str, dict]:
    """Name of the reference → a patient's row; without ``neighbour`` if the patient has no neighbouring slices."""
    tallies = {name: PatientTally(cache.roles, window, training.scales) for name in ("class_mean", "neighbour")}
    for true in slices:
        tallies["class_mean"].add(true, class_mean_image(true.condition, training.means, window)[None])
        neighbour = neighbour_of(raw, cache, true, window)
        if neighbour is not None:
            tallies["neighbour"].add(true, neighbour.image[None], condition=neighbour.condition)
    rows = {name: tally.row() for name, tally in tallies.items() if tally.images}
    rows["real_other_patients"] = {
        "slices": len(slices),
        **class_figures(tallies["class_mean"].real, training.pool, training.scales),
    }
    return rows
