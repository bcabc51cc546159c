"""What each arm's finished nnU-Net trainings are worth per class, paired by patient."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from nnunet_difflung.comparison.scores import Scores, collect, foreground
from nnunet_difflung.comparison.statistics import difference, over_patients, paired_differences, spread
from nnunet_difflung.comparison.surface import collect_surfaces
from nnunet_difflung.comparison.table2 import plot_differences, write_markdown
from nnunet_difflung.comparison.trainings import (
    Trainings,
    check_alike,
    check_present,
)
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import write_json

_DIGITS = 6


def tabulate(scores: Scores, reference: str, surfaces: dict[str, dict[str, np.ndarray]]) -> dict:
    """The table of all arms.

    Args:
        scores: of the arms.
        reference: the arm that the others are compared with.
        surfaces: figure → arm → (classes, seeds, folds, patients); may be empty.

    Returns:
        arm → class → ``dice`` (pooled per patient), ``diff_to_reference``, ``pooled`` (over all voxels of a fold),
        ``per_case`` (nnU-Net's mean over cases), ``false_positive_voxels`` (per patient who does not have the class),
        ``rows`` (each patient of each training) and, for each surface figure, its summary and difference.
    """
    table: dict = {}
    for arm in scores.counts:
        table[arm] = {}
        for c, name in enumerate(scores.classes):
            row = {
                "dice": over_patients(scores.dice(arm)[c]),
                "diff_to_reference": difference(scores.dice(arm)[c], scores.dice(reference)[c]),
                "pooled": spread(scores.pooled(arm)[c]),
                "per_case": spread(scores.per_case[arm][c]),
                "false_positive_voxels": over_patients(scores.false_positives(arm)[c]),
            }
            for figure, values in surfaces.items():
                row[figure] = {
                    **over_patients(values[arm][c]),
                    "diff_to_reference": difference(values[arm][c], values[reference][c]),
                }
            table[arm][name] = {**row, "rows": _rows(scores, arm, c, {f: v[arm][c] for f, v in surfaces.items()})}
    return table


def _rows(scores: Scores, arm: str, c: int, surfaces: dict[str, np.ndarray]) -> list[dict]:
    """Every patient of every training, with voxel counts; Dice is empty where the reference lacks the class."""
    counts, dice = scores.counts[arm][c], scores.dice(arm)[c]
    return [
        {
            "patient": patient,
            "fold": fold,
            "seed": seed,
            "dice": dice[s, f, p],
            **{key: int(n) for key, n in zip(("tp", "fp", "fn"), counts[s, f, p], strict=True)},
            **{figure: values[s, f, p] for figure, values in surfaces.items()},
        }
        for f, fold in enumerate(scores.folds)
        for p, patient in enumerate(scores.patients)
        for s, seed in enumerate(scores.seeds)
        if np.isfinite(counts[s, f, p, 0])
    ]


def without_nan(content):
    """``content`` for JSON: figures rounded to 6 digits, None for NaN."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    if isinstance(content, (float, np.floating)):
        return round(float(content), _DIGITS) if np.isfinite(content) else None
    return content


def compare(
    trainings: Trainings,
    reference: str,
    out: Path,
    pattern: str | None = None,
    tolerance: float | None = None,
    typed: str = "",
) -> dict:
    """Compares finished trainings and writes ``out`` (JSON), and beside it a Markdown table and a plot.

    Args:
        trainings: which ones; all have to be there.
        reference: one of their arms.
        out: path of the JSON file.
        pattern: how to read the patient from a case id; None as ``difflung_augment`` did.
        tolerance: of the surface figures in mm; None leaves them out.
        typed: the command, for the record.

    Returns:
        the table as written.

    Raises:
        BadInput: a training is missing or not comparable.
    """
    if "all" in trainings.folds and trainings.predictions is None:
        raise BadInput(
            "fold all is validated on its own training cases, which says nothing; predict imagesTs, "
            "evaluate, and name that folder with --predictions"
        )
    if reference not in trainings.arms:
        raise BadInput(
            f"--reference {reference} is not among the arms {', '.join(trainings.arms)}; train it, or "
            f"choose one of them with --reference"
        )
    check_present(trainings)
    noted = check_alike(trainings)
    dataset_json, classes = foreground(trainings)
    scores = collect(trainings, classes, dataset_json["file_ending"], pattern)
    surfaces = {} if tolerance is None else collect_surfaces(trainings, scores, dataset_json, tolerance)
    table = without_nan(
        {"meta": _meta(trainings, scores, reference, noted, tolerance, typed), **tabulate(scores, reference, surfaces)}
    )
    points = {
        arm: {
            name: paired_differences(scores.dice(arm)[c], scores.dice(reference)[c])
            for c, name in enumerate(scores.classes)
        }
        for arm in trainings.arms
    }
    write_json(out, table)
    write_markdown(out.with_suffix(".md"), table)
    plot_differences(out.with_suffix(".png"), table, points)
    return table


def _meta(
    trainings: Trainings, scores: Scores, reference: str, noted: dict, tolerance: float | None, typed: str
) -> dict:
    scored = f"predictions {trainings.predictions}" if trainings.predictions else "validation"
    return {
        "command": typed,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "dataset": trainings.dataset,
        "scored": scored,
        "configuration": trainings.configuration,
        "plans": trainings.plans,
        "length": trainings.length or "nnU-Net's",
        "reference": reference,
        "seeds": list(scores.seeds),
        "folds": list(scores.folds),
        **noted,
        "patients": len(scores.patients),
        "cases": len({i for cases in scores.cases.values() for i in cases}),
        "interval": "95 % t-interval, variance between patients and between the seeds of each fold",
        **({"tolerance_mm": tolerance} if tolerance is not None else {}),
        "versions": versions(),
        "machine": machine(),
    }
