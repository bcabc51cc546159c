"""``difflung_compare``: what each arm's finished nnU-Net trainings are worth per class, paired by patient."""
from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from nnunet_difflung.command_line import BadInput, command, nnunet_folder, without_folder
from nnunet_difflung.compare_report import plot_differences, write_markdown
from nnunet_difflung.compare_scores import Scores, collect, foreground
from nnunet_difflung.compare_statistics import difference, over_patients, paired_differences, spread
from nnunet_difflung.compare_surface import check_installed, collect_surfaces
from nnunet_difflung.compare_trainings import (
    ARMS,
    PLANS,
    Trainings,
    check_alike,
    check_present,
    dataset_in,
    find_configuration,
    finished_arms,
    named_results,
)
from nnunet_difflung.files import write_json
from nnunet_difflung.provenance import machine, versions

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
            row = {"dice": over_patients(scores.dice(arm)[c]),
                   "diff_to_reference": difference(scores.dice(arm)[c], scores.dice(reference)[c]),
                   "pooled": spread(scores.pooled(arm)[c]), "per_case": spread(scores.per_case[arm][c]),
                   "false_positive_voxels": over_patients(scores.false_positives(arm)[c])}
            for figure, values in surfaces.items():
                row[figure] = {**over_patients(values[arm][c]),
                               "diff_to_reference": difference(values[arm][c], values[reference][c])}
            table[arm][name] = {**row, "rows": _rows(scores, arm, c, {f: v[arm][c] for f, v in surfaces.items()})}
    return table


def _rows(scores: Scores, arm: str, c: int, surfaces: dict[str, np.ndarray]) -> list[dict]:
    """Every patient of every training, with voxel counts; Dice is empty where the reference lacks the class."""
    counts, dice = scores.counts[arm][c], scores.dice(arm)[c]
    return [{"patient": patient, "fold": fold, "seed": seed, "dice": dice[s, f, p],
             **{key: int(n) for key, n in zip(("tp", "fp", "fn"), counts[s, f, p], strict=True)},
             **{figure: values[s, f, p] for figure, values in surfaces.items()}}
            for f, fold in enumerate(scores.folds) for p, patient in enumerate(scores.patients)
            for s, seed in enumerate(scores.seeds) if np.isfinite(counts[s, f, p, 0])]


def without_nan(content):
    """``content`` for JSON: figures rounded to 6 digits, None for NaN."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    if isinstance(content, (float, np.floating)):
        return round(float(content), _DIGITS) if np.isfinite(content) else None
    return content


def compare(trainings: Trainings, reference: str, out: Path, pattern: str | None = None,
            tolerance: float | None = None, typed: str = "") -> dict:
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
        raise BadInput("fold all is validated on its own training cases, which says nothing; predict imagesTs, "
                       "evaluate, and name that folder with --predictions")
    if reference not in trainings.arms:
        raise BadInput(f"--reference {reference} is not among the arms {', '.join(trainings.arms)}; train it, or "
                       f"choose one of them with --reference")
    check_present(trainings)
    noted = check_alike(trainings)
    dataset_json, classes = foreground(trainings)
    scores = collect(trainings, classes, dataset_json["file_ending"], pattern)
    surfaces = {} if tolerance is None else collect_surfaces(trainings, scores, dataset_json, tolerance)
    table = without_nan({"meta": _meta(trainings, scores, reference, noted, tolerance, typed),
                         **tabulate(scores, reference, surfaces)})
    points = {arm: {name: paired_differences(scores.dice(arm)[c], scores.dice(reference)[c])
                    for c, name in enumerate(scores.classes)} for arm in trainings.arms}
    write_json(out, table)
    write_markdown(out.with_suffix(".md"), table)
    plot_differences(out.with_suffix(".png"), table, points)
    return table


def _meta(trainings: Trainings, scores: Scores, reference: str, noted: dict, tolerance: float | None,
          typed: str) -> dict:
    scored = f"predictions {trainings.predictions}" if trainings.predictions else "validation"
    return {"command": typed, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "dataset": trainings.dataset, "scored": scored, "configuration": trainings.configuration,
            "plans": trainings.plans, "length": trainings.length or "nnU-Net's", "reference": reference,
            "seeds": list(scores.seeds), "folds": list(scores.folds), **noted,
            "patients": len(scores.patients), "cases": len({i for cases in scores.cases.values() for i in cases}),
            "interval": "95 % t-interval, variance between patients and between the seeds of each fold",
            **({"tolerance_mm": tolerance} if tolerance is not None else {}), "versions": versions(),
            "machine": machine()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="difflung_compare", description="Compares finished nnU-Net trainings of the "
                                     "arms by class: Dice of each patient, paired differences to the reference with "
                                     "95 % intervals, a table and a plot.")
    add = parser.add_argument
    add("-d", dest="dataset", required=True, help="dataset id or name")
    add("-f", dest="folds", nargs="+", required=True, metavar="FOLD", help="folds, whose trainings all have to be "
        "finished (all: only with --predictions)")
    add("-c", dest="configuration", help="nnU-Net's configuration (default: the only one that was trained)")
    add("-p", dest="plans", default=PLANS, help=f"nnU-Net's plans (default: {PLANS})")
    add("--arms", nargs="+", choices=tuple(ARMS), help="default: every arm with a finished training")
    add("--reference", default="reference", choices=tuple(ARMS), metavar="ARM",
        help="the arm that the others are compared with (default: reference)")
    add("--length", default="", help="trainers of this length, such as 5epochs (default: nnU-Net's 1000 epochs)")
    add("--results", nargs="+", type=Path, metavar="FOLDER", help="nnUNet_results folders of trainings that differ in "
        "DIFFLUNG_SEED only; each is a repetition (default: $nnUNet_results)")
    add("--predictions", metavar="NAME", help="don't read nnU-Net's validation but the predictions of unseen cases "
        "that nnUNetv2_predict -i imagesTs -o …/<trainer>__<plans>__<configuration>/fold_K/NAME wrote and "
        "nnUNetv2_evaluate_folder labelsTs …/fold_K/NAME scored (…/fold_K/NAME/summary.json)")
    add("--patient-pattern", help="regular expression whose first group is the patient of a case id (default: as "
        "difflung_augment read them)")
    add("--surface", action="store_true", help="also HD95 and normalised surface Dice from the segmentations; needs "
        "pip install 'nnunet_difflung[metrics]'")
    add("--tolerance", type=float, default=2.0, metavar="MM", help="of the surface Dice (default: 2)")
    add("-o", dest="out", type=Path, metavar="FILE.json", help="default: $nnUNet_results/DATASET/DiffLung__compare/"
        "table2.json; the .md and .png are written beside it")
    return parser


def _folds(wanted: Sequence[str]) -> tuple[int | str, ...]:
    for fold in wanted:
        if fold != "all" and not fold.isdigit():
            raise BadInput(f"-f {fold} is no fold; expected numbers such as 0 1 2, or all")
    return tuple(dict.fromkeys(fold if fold == "all" else int(fold) for fold in wanted))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = _parser().parse_args(argv)
    if options.out is not None and options.out.suffix != ".json":
        raise BadInput(f"-o {options.out} does not end in .json; give the path of the table, such as table2.json")
    if not options.tolerance > 0:
        raise BadInput(f"--tolerance {options.tolerance} is not positive; give millimetres, such as 2")
    if options.surface:
        check_installed()
    results = named_results(options.results or [Path(nnunet_folder("nnUNet_results"))])
    dataset, folders = dataset_in(next(iter(results.values())), options.dataset), list(results.values())
    configuration = options.configuration or find_configuration(folders, dataset, options.length, options.plans)
    chosen = {"dataset": dataset, "results": results, "folds": _folds(options.folds), "configuration": configuration,
              "plans": options.plans, "length": options.length, "predictions": options.predictions}
    arms = options.arms or finished_arms(Trainings(**chosen, arms=()))
    out = options.out or Path(nnunet_folder("nnUNet_results")) / dataset / "DiffLung__compare" / "table2.json"
    words = [without_folder(word) for word in (sys.argv[1:] if argv is None else argv)]
    compare(Trainings(**chosen, arms=tuple(dict.fromkeys(arms))), options.reference, out, options.patient_pattern,
            options.tolerance if options.surface else None, shlex.join(["difflung_compare", *words]))
    print(out.with_suffix(".md").read_text())
    print(f"{out} holds all figures, {out.with_suffix('.png')} shows the differences of each patient.")
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
