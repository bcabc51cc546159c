"""Measures what a fold's networks recognise of real lesions, each in the patients that it was trained without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_difflung.segmenter.config import SegmenterConfig
from nnunet_difflung.segmenter.data import SegmenterData
from nnunet_difflung.segmenter.trained import Knowledge, Segmenters, Sight

_MIN_VOXELS = 8  # of a class in a slice, as for the gate
_PER_PATIENT = 24  # slices of a class, evenly spaced
_MIN_PATIENTS = 2


def measure_knowledge(segmenters: Segmenters, data: SegmenterData) -> dict[str, Knowledge]:
    """Class → what the networks know of it."""
    return {name: _of_class(segmenters, data, name) for name in data.roles.pathologies}


def _of_class(segmenters: Segmenters, data: SegmenterData, name: str) -> Knowledge:
    rows: dict[str, list[Sight]] = {}
    for patient in sorted(set(data.patients.values())) if segmenters.parts else ():
        sights = [_see(segmenters, data, patient, name, case, z) for case, z in _slices(data, patient, name)]
        if sights:
            rows[patient] = sights
    if not rows:
        return Knowledge(0, 0, 0.0, 0.0, 0.0, 0.0, False)
    recall = float(np.mean([np.mean([sight.score for sight in sights]) for sights in rows.values()]))
    outside = [[s.outside for s in sights if np.isfinite(s.outside)] for sights in rows.values()]
    around = float(np.mean([np.mean(values) for values in outside if values])) if any(outside) else 0.0
    known = len(rows) >= _MIN_PATIENTS and recall - around >= segmenters.config.least_recall
    floor, below = _floor(list(rows.values()), around, segmenters.config)
    return Knowledge(
        patients=len(rows),
        slices=sum(map(len, rows.values())),
        recall=round(recall, 4),
        outside=round(around, 4),
        floor=round(floor, 4),
        below=round(below, 4),
        known=known,
    )


def _slices(data: SegmenterData, patient: str, name: str) -> list[tuple[str, int]]:
    """(case, z) of slices of a patient that show a class, evenly spaced if there are many."""
    slices = [
        (case, z)
        for case in data.cases_of([patient])
        for z, voxels in enumerate(data.cache.facts[case].counts[name])
        if voxels >= _MIN_VOXELS
    ]
    if len(slices) <= _PER_PATIENT:
        return slices
    return [slices[i] for i in np.linspace(0, len(slices) - 1, _PER_PATIENT).astype(int)]


def _see(segmenters: Segmenters, data: SegmenterData, patient: str, name: str, case: str, z: int) -> Sight:
    label = np.asarray(data.cache.condition(case)[z : z + 1])
    image = np.asarray(data.cache.image(case)[:, z : z + 1])
    regions = {name: label == data.roles.values[name]}
    return segmenters.see(patient, image, regions, data.roles.is_normal(label))[name]


def _floor(rows: Sequence[Sequence[Sight]], around: float, config: SegmenterConfig) -> tuple[float, float]:
    """The score below which a lesion is not recognised, and the share of real slices below it; see ``Knowledge``.

    A lesion in which no more of the class is seen than in normal lung is not recognised, though some real ones are so.
    """
    scores = np.concatenate([[sight.score for sight in sights] for sights in rows])
    weights = np.concatenate([np.full(len(sights), 1 / len(sights)) for sights in rows]) / len(rows)
    order = np.argsort(scores, kind="stable")
    low = scores[order][np.searchsorted(np.cumsum(weights[order]), config.floor_percentile / 100)]
    floor = max(float(low), around)
    return floor, float(weights[scores < floor].sum())
