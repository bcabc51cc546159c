"""Compares the finished nnU-Net trainings of several arms, class by class and paired by patient (Table 2)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_difflung.comparison.absent import absent
from nnunet_difflung.comparison.page import comparison_page
from nnunet_difflung.comparison.permutation import holm, permutation_tests
from nnunet_difflung.comparison.progress import learning_curves
from nnunet_difflung.comparison.scores import Scores, collect, foreground
from nnunet_difflung.comparison.segmentations import collect_segmentations
from nnunet_difflung.comparison.statistics import (
    difference,
    mean_difference,
    over_patients,
    paired_differences,
    skewed_difference,
    spread,
)
from nnunet_difflung.comparison.table2 import plot_differences, write_markdown
from nnunet_difflung.comparison.trainings import Trainings, check_alike, check_present
from nnunet_difflung.comparison.verdicts import rare_classes
from nnunet_difflung.comparison.worst_patients import WorstPatients
from nnunet_difflung.dataset.privacy import as_private_as
from nnunet_difflung.errors import BadInput
from nnunet_difflung.pages.render import write_page
from nnunet_difflung.paths import dataset_folders
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import write_json
from nnunet_difflung.runtime.writable import check_folders

_DIGITS = 6
_SHARES = ("lesion_sensitivity", "nsd")  # from 0 (missed) to 1; the other figures have no upper limit
INTERVAL = (
    "95 %, for new patients and new trainings; each difference has its method and degrees of freedom; ci95 is null "
    "where there is none"
)


def tabulate(scores: Scores, reference: str, figures: dict[str, dict[str, np.ndarray]]) -> dict:
    """The table of all arms.

    Args:
        scores: scores of the arms.
        reference: the arm that the other arms are compared with.
        figures: figure of ``segmentations`` → arm → (classes, seeds, folds, patients); may be empty.

    Returns:
        arm → class → ``dice`` (pooled per patient), ``diff_to_reference`` with ``permutation`` tests, ``pooled`` (over
        all voxels of a fold), ``per_case`` (nnU-Net's mean over cases), ``false_positive_voxels`` (per patient without
        the class) and ``false_positive_patients`` (the share of them in whom the class is predicted) with their
        differences, ``rows`` (each patient of each training) and, for each figure, its summary and difference.
    """
    table: dict = {}
    for arm in scores.counts:
        table[arm] = {}
        false, false_of_reference = (scores.false_positives(name) for name in (arm, reference))
        any_false, any_false_of_reference = (
            np.where(np.isnan(voxels), np.nan, voxels > 0) for voxels in (false, false_of_reference)
        )
        for c, name in enumerate(scores.classes):
            row = {
                "dice": over_patients(scores.dice(arm)[c]),
                "diff_to_reference": difference(scores.dice(arm)[c], scores.dice(reference)[c]),
                "pooled": spread(scores.pooled(arm)[c]),
                "per_case": spread(scores.per_case[arm][c]),
                "false_positive_voxels": _compared(false[c], false_of_reference[c], skewed_difference),
                "false_positive_patients": _compared(any_false[c], any_false_of_reference[c], _without_an_interval),
            }
            for figure, values in figures.items():
                compared = _shares_differ if figure in _SHARES else skewed_difference
                row[figure] = _compared(values[arm][c], values[reference][c], compared)
            of_class = {figure: values[arm][c] for figure, values in figures.items()}
            table[arm][name] = {**row, "rows": _rows(scores, arm, c, of_class)}
    _add_permutation_tests(table, scores, reference)
    return table


def _compared(arm: np.ndarray, reference: np.ndarray, differences: Callable[..., dict]) -> dict:
    return {**over_patients(arm), **differences(arm, reference)}


def _without_an_interval(arm: np.ndarray, reference: np.ndarray) -> dict:
    return {"diff_to_reference": mean_difference(arm, reference)}


def _shares_differ(arm: np.ndarray, reference: np.ndarray) -> dict:
    return {"diff_to_reference": difference(arm, reference)}


def _add_permutation_tests(table: dict, scores: Scores, reference: str) -> None:
    """Adds ``permutation`` to the differences in Dice and in false voxels, each adjusted for all arms and classes."""
    dice, false = ({arm: of(arm) for arm in table} for of in (scores.dice, scores.false_positives))
    arms = [arm for arm in table if arm != reference]
    for values, place in ((dice, lambda row: row), (false, lambda row: row["false_positive_voxels"])):
        adjusted = []
        for c, name in enumerate(scores.classes):
            tests = permutation_tests([values[arm][c] for arm in arms], values[reference][c])
            for arm, test in zip(arms, tests, strict=True):
                place(table[arm][name])["diff_to_reference"]["permutation"] = test
                adjusted += [test["patients"]] if test["patients"] else []
        for test, p in zip(adjusted, holm([test["p"] for test in adjusted]), strict=True):
            test["p_holm"] = p


def _rows(scores: Scores, arm: str, c: int, figures: dict[str, np.ndarray]) -> list[dict]:
    """Rows with the voxel counts of each patient in each training; Dice is NaN if the patient lacks the class."""
    counts, dice = scores.counts[arm][c], scores.dice(arm)[c]
    return [
        {
            "patient": patient,
            "fold": fold,
            "seed": seed,
            "dice": dice[s, f, p],
            **{key: int(n) for key, n in zip(("tp", "fp", "fn"), counts[s, f, p], strict=True)},
            **{figure: values[s, f, p] for figure, values in figures.items()},
        }
        for f, fold in enumerate(scores.folds)
        for p, patient in enumerate(scores.patients)
        for s, seed in enumerate(scores.seeds)
        if np.isfinite(counts[s, f, p, 0])
    ]


def without_nan(content: Any) -> Any:
    """Prepares content for JSON: rounds numbers to 6 digits and replaces NaN by None."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    if isinstance(content, (float, np.floating)):
        return round(float(content), _DIGITS) if np.isfinite(content) else None
    return content


def compared(
    trainings: Trainings,
    reference: str,
    pattern: str | None = None,
    lesions: bool = False,
    tolerance: float | None = None,
    typed: str = "",
    patients_file: Path | None = None,
) -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
    """Compares finished trainings; writes nothing.

    Args:
        trainings: the trainings to compare; all of them must be finished and scored.
        reference: the arm that the others are compared with.
        pattern: regular expression whose first group is the patient of a case id; None reads patients as
            they are recorded, or as ids or splits say.
        lesions: whether to read the segmentations for the lesion-wise figures.
        tolerance: tolerance of the surface Dice in mm; None leaves the surface figures out.
        typed: the command as typed, for the record.
        patients_file: CSV or JSON file that says who the patients are, instead of a pattern.

    Returns:
        The table (``tabulate``) without NaN, with a ``meta`` entry; and arm → class → differences of the patients.

    Raises:
        BadInput: a training is missing, or the trainings cannot be compared.
    """
    return _with_worst_patients(trainings, reference, pattern, lesions, tolerance, typed, patients_file)[:2]


def _with_worst_patients(
    trainings: Trainings,
    reference: str,
    pattern: str | None,
    lesions: bool,
    tolerance: float | None,
    typed: str,
    patients_file: Path | None,
) -> tuple[dict, dict[str, dict[str, np.ndarray]], WorstPatients]:
    """What ``compared`` returns, and what finds the worst patients."""
    if "all" in trainings.folds and trainings.predictions is None:
        raise BadInput(
            "-f all: nnU-Net validates this fold on its own training cases, so the scores say nothing about unseen "
            "patients; predict imagesTs, evaluate the predictions, and name their folder with --predictions"
        )
    if reference not in trainings.arms:
        raise BadInput(
            f"--reference {reference} is not among the arms {', '.join(trainings.arms)}; train it, or "
            f"choose one of these with --reference"
        )
    check_present(trainings)
    training_facts = check_alike(trainings)
    dataset_json, classes = foreground(trainings)
    scores = collect(trainings, classes, dataset_json["file_ending"], pattern, patients_file)
    figures = collect_segmentations(trainings, scores, dataset_json, lesions, tolerance)
    table = without_nan(
        {
            "meta": _meta(trainings, scores, reference, training_facts, tolerance, typed),
            **tabulate(scores, reference, figures),
        }
    )
    points = {
        arm: {
            name: paired_differences(scores.dice(arm)[c], scores.dice(reference)[c])
            for c, name in enumerate(scores.classes)
        }
        for arm in trainings.arms
    }
    return table, points, WorstPatients(trainings, scores, dataset_json, classes)


def compare(
    trainings: Trainings,
    reference: str,
    out: Path,
    pattern: str | None = None,
    lesions: bool = False,
    tolerance: float | None = None,
    typed: str = "",
    patients_file: Path | None = None,
) -> dict:
    """Compares finished trainings and writes ``out`` (JSON), and beside it a Markdown table, a plot and a page.

    Args:
        trainings: this and all arguments but ``out`` are those of ``compared``.
        reference: the arm that the others are compared with.
        out: path of the JSON file.

    Returns:
        the table as written.

    Raises:
        BadInput: a training is missing, the trainings cannot be compared, or the folder cannot be written.
    """
    check_folders([out.parent])
    table, points, worst = _with_worst_patients(trainings, reference, pattern, lesions, tolerance, typed, patients_file)
    galleries = worst.galleries(rare_classes(table))
    with as_private_as(dataset_folders(trainings.dataset)[0]):
        write_json(out, table)
        write_markdown(out.with_suffix(".md"), table)
        plot_differences(out.with_suffix(".png"), table, points)
        curves = learning_curves(trainings, foreground(trainings)[1])
        page = comparison_page(table, galleries, list(worst.missing), absent(trainings), curves)
        write_page(page, out.with_suffix(".html"))
    return table


def _meta(
    trainings: Trainings, scores: Scores, reference: str, training_facts: dict, tolerance: float | None, typed: str
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
        **training_facts,
        "patients": len(scores.patients),
        "cases": len({case for cases in scores.cases.values() for case in cases}),
        "interval": INTERVAL,
        **({"tolerance_mm": tolerance} if tolerance is not None else {}),
        "versions": versions(),
        "machine": machine(),
    }
