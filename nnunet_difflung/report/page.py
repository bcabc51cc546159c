"""The report's sections, and the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from nnunet_difflung import __version__
from nnunet_difflung.dataset.privacy import as_private_as
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.judging.memorisation import expected_share
from nnunet_difflung.lesions.plan import shares
from nnunet_difflung.methods import METHODS
from nnunet_difflung.pages import charts
from nnunet_difflung.pages.blocks import Block, Cell, Chart, Code, Lights, Page, Section, Table, Text, Value
from nnunet_difflung.pages.render import write_page
from nnunet_difflung.paths import dataset_id, results_folder
from nnunet_difflung.pipeline.augment import REPORT
from nnunet_difflung.report.gallery import gallery
from nnunet_difflung.report.injected import has_new
from nnunet_difflung.report.paragraph import paragraph
from nnunet_difflung.report.records import Records, read_records, without_folders
from nnunet_difflung.report.verdicts import verdicts
from nnunet_difflung.runtime.figures import class_colours
from nnunet_difflung.runtime.wording import counted
from nnunet_difflung.runtime.writable import check_folders
from nnunet_difflung.telling.likeness import named, value_of
from nnunet_difflung.telling.next_commands import next_commands
from nnunet_difflung.telling.quality import faults, figure, meaning, span, value

_LONG = 30  # rows of a table; a longer one is folded
_EXCLUDE = (
    "Tick 'exclude' below pictures that you would not train on, and save the list. Then "
    "'difflung_remove -d {dataset} --method {method}' and the same difflung_augment command with "
    "'--exclude exclude.csv' make the dataset without them; the generators are kept, so nothing is trained again. Only "
    "cases with a picture can be ticked here; the file may name any."
)


def report_file(dataset_name: str, method: str) -> Path:
    """Where a method's report lies."""
    return results_folder(dataset_name, method) / REPORT


def write_report(
    raw: RawDataset,
    method: str,
    target: Path | None = None,
    configuration: str | None = None,
    device: str | None = None,
    anonymous: bool = False,
    progress: bool = False,
) -> Path:
    """Writes the report of a method's synthetic cases, from what is on record and the files of the dataset.

    Args:
        raw: the dataset.
        method: name in ``methods.METHODS``.
        target: path of the HTML file; None: ``report.html`` in the method's folder in ``$nnUNet_results``.
        configuration: nnU-Net configuration in the commands to run next; None: that of the last run, ``2d`` if it is
            not on record.
        device: in the commands to run next: ``cpu``, ``cuda`` or ``mps``; None: that of the last run, ``cuda`` if it is
            not on record.
        anonymous: call real cases and patients by numbers.
        progress: show a progress bar.

    Returns:
        The path.

    Raises:
        BadInput: the method has no report, a record or file is damaged, or the page cannot be written there.
    """
    path = target or report_file(raw.name, method)
    if path.is_dir():
        raise BadInput(f"{path} is a folder; give the name of an HTML file")
    check_folders([path.parent])
    records = read_records(raw, method, anonymous)
    with as_private_as(raw.folder, raw.files()):
        write_page(augment_page(records, configuration, device, progress), path)
    return path


def augment_page(
    records: Records, configuration: str | None = None, device: str | None = None, progress: bool = False
) -> Page:
    """The page; arguments as in ``write_report``."""
    raw = records.raw
    patients = counted(len(set(raw.patients.values())), "patient")
    identifier = str(dataset_id(raw.name))
    return Page(
        f"Synthetic cases of {raw.name}",
        f"Method {records.method}: {METHODS[records.method].explanation}. {len(raw.cases)} real cases of {patients}, "
        f"{counted(len(records.cases), 'synthetic case')}. nnunet_difflung {__version__}, "
        f"{datetime.now():%Y-%m-%d %H:%M}.",
        [
            Section("Verdicts", [Lights(verdicts(records))]),
            Section("Classes", list(_classes(records))),
            Section("Pictures", gallery(records, progress)),
            Section("Painted against real", list(_figures(records))),
            Section("Masks", list(_masks(records))),
            Section("Cases", list(_cases(records))),
            Section("Audit", list(_audit(records))),
            Section("Next", [Code(_next(records, configuration, device))]),
            Section("For a manuscript", [Code(without_folders(paragraph(records)), prose=True)]),
            Section("Settings", list(_settings(records))),
        ],
        _EXCLUDE.format(dataset=identifier, method=records.method) if records.cases else "",
        class_colours(raw.roles.values),
    )


def _classes(records: Records) -> Iterator[Block]:
    targets = {run["fold"]: run["summary"].get("targets", {}) for run in records.runs}
    for row in records.rows:
        before, after = shares(row["before"]), shares(row["after"])
        cases = counted(row["injected"], "synthetic case")
        yield Chart(
            charts.share_bars(before, after, targets.get(row["fold"], {})),
            f"Fold {row['fold']}: share of lung of each class in the training cases, and with the {row['planned']} "
            f"planned cases. {cases} in the dataset, {len(row['dropped'])} dropped.",
        )
        for note in row["notes"]:
            yield Text(f"Fold {row['fold']}: {note}", fine=True)
    rows: list[list[Cell]] = [
        [
            name,
            Value(held := sum(counts[name] > 0 for counts in records.voxels.values()), str(held)),
            Value(
                patients := len({records.raw.patients[i] for i, counts in records.voxels.items() if counts[name]}),
                str(patients),
            ),
            Value(made := sum(has_new(case, name) for case in records.cases.values()), str(made)),
        ]
        for name in records.raw.roles.lung
    ]
    yield Table(
        ["class", "real cases", "patients", "synthetic cases with new lesions"], rows, "All real cases of the dataset"
    )


def _figures(records: Records) -> Iterator[Block]:
    """Figures of all cases of a class together, and what patients differ by."""
    rows = [
        [f"fold {row['fold']}", name, figure(verdict), Value(verdict["value"], value(verdict)), *_judged(verdict)]
        for row in records.rows
        for name, of in row.get("verdicts", {}).items()
        for verdict in of["pooled"]
    ]
    if not rows:
        yield Text("Nothing was compared: no case was painted, or the gate was off.")
        return
    yield Table(["fold", "class", "figure", "painted", "range of real patients", "patients", "verdict"], rows)
    yield Text(
        "Biases are in the image's unit (HU for CT in HU). The range is where the mean of as many other patients would "
        "lie (95 %); it says by how much patients differ, so a value inside it cannot be told from a real one by this "
        "figure.",
        fine=True,
    )
    yield from _seams(records)
    copies = [
        [
            f"fold {row['fold']}",
            name,
            Value(of["mean"], f"{of['mean']:.2f}"),
            Value(of["share_above_real_p99"], _share(of["share_above_real_p99"])),
            _expected(of),
            Value(of["real_regions"], str(of["real_regions"])),
        ]
        for row in records.rows
        for name, of in row.get("memorisation", {}).items()
        if of.get("mean") is not None
    ]
    if copies:
        yield Table(
            ["fold", "class", "mean correlation", "above the real 99th percentile", "expected", "real lesions"],
            copies,
            "Memorisation: highest correlation of a painted lesion with a training slice",
        )


def _expected(of: dict) -> Cell:
    """The share of cases that is expected above the 99th percentile of real lesions."""
    if of["share_above_real_p99"] is None:
        return "–"
    share = expected_share(of)
    return Value(share, _share(share))


def _seams(records: Records) -> Iterator[Block]:
    """The edges of what was painted."""
    rows: list[list[Cell]] = [
        [
            f"fold {row['fold']}",
            name,
            Value(seam["value"], value(seam)),
            Value(seam["real"], f"{seam['real']:.2f}"),
            "–" if seam["within"] is None else span(seam),
            Value(seam["cases"], str(seam["cases"])),
            _said(seam),
        ]
        for row in records.rows
        for name, of in {**row.get("verdicts", {}), "placebo": row.get("placebo", {})}.items()
        for seam in of.get("seam", ())
    ]
    if rows:
        yield Table(
            ["fold", "class", "step", "real lesions", "accepted", "cases", "verdict"],
            rows,
            "Edges: step between neighbours across the edge of the painted regions, both in normal lung; around real "
            "lesions: the step as far from their outlines, divided by that of other normal lung",
        )


def _said(seam: dict) -> str:
    if seam["within"] is None:
        return "not judged: too few cases"
    return "in the range" if seam["within"] else f"outside{meaning(seam)}"


def _judged(verdict: dict) -> list[str | Value]:
    if verdict["within"] is None:
        return ["–", Value(verdict["patients"], str(verdict["patients"])), "not judged: too few patients"]
    said = "in the range" if verdict["within"] else f"outside{meaning(verdict)}"
    return [span(verdict), Value(verdict["patients"], str(verdict["patients"])), said]


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _masks(records: Records) -> Iterator[Block]:
    words = {True: "alike", False: "different", None: "too few cases"}
    rows = [
        [
            f"fold {row['fold']}",
            name,
            named(which),
            Value(of["planned"], value_of(which, of, "planned")),
            Value(of["real"], value_of(which, of, "real")),
            Value(of["auc"], f"{of['auc']:.2f}"),
            words[of["alike"]],
        ]
        for row in records.rows
        for name, figures in row.get("likeness", {}).items()
        for which, of in figures.items()
    ]
    if rows:
        columns = ["fold", "class", "figure", "planned (median)", "real (median)", "AUC", "verdict"]
        yield Table(columns, rows, "Planned lesions against real ones (AUC 0.50: no difference)", len(rows) > _LONG)
    else:
        yield Text("There were no planned lesions to compare with real ones.")


def _cases(records: Records) -> Iterator[Block]:
    rows: list[list[Cell]] = []
    for identifier, case in records.cases.items():
        new: dict[str, int] = {}
        for op in case.get("operations", ()):
            new[op["pathology"]] = new.get(op["pathology"], 0) + op["voxels"]
        quality = case.get("quality", {})
        distances = [row["wasserstein"] for row in quality.values() if row.get("wasserstein") is not None]
        rows.append(
            [
                identifier,
                Value(None if isinstance(case["fold"], str) else case["fold"], str(case["fold"])),
                records.called(case["host"]),
                "placebo" if case.get("placebo") else ", ".join(f"{name} {voxels}" for name, voxels in new.items()),
                Value(max(distances, default=None), f"{max(distances):.3g}" if distances else "–"),
            ]
        )
    columns = ["synthetic case", "fold", "host", "new voxels", "Wasserstein distance"]
    if rows:
        yield Table(columns, rows, f"{counted(len(rows), 'synthetic case')} in the dataset", len(rows) > _LONG)
    channels = records.raw.channels
    dropped = [
        [f"fold {row['fold']}", identifier, faults(_named(measured, records), channels) or "no reason on record"]
        for row in records.rows
        for identifier, measured in sorted(row["dropped"].items())
    ]
    if dropped:
        count = counted(len(dropped), "case")
        yield Table(["fold", "case", "why"], dropped, f"{count} painted and dropped", len(dropped) > _LONG)
    else:
        yield Text("No case was dropped.")


def _named(measured: dict, records: Records) -> dict:
    """Measurements of a dropped case in which the training case that it resembles is called as in the page."""
    memorisation = {
        name: row and {**row, "nearest_case": records.called(row["nearest_case"])}
        for name, row in measured.get("memorisation", {}).items()
    }
    return {**measured, "memorisation": memorisation}


def _audit(records: Records) -> Iterator[Block]:
    rows: list[list[Cell]] = [
        [
            str(fold.fold),
            Value(fold.training_cases, f"{fold.training_cases} of {counted(fold.training_patients, 'patient')}"),
            ", ".join(f"{method} {number}" for method, number in sorted(fold.synthetic.items())) or "none",
            Value(fold.validation_cases, str(fold.validation_cases)),
            Value(fold.leaks, str(fold.leaks)),
        ]
        for fold in records.audit.folds
    ]
    columns = ["fold", "real training cases", "synthetic training cases", "validation cases", "leaks"]
    yield Table(columns, rows, "difflung_audit, from the records and files when this report was written")
    for problem in records.audit.problems:
        yield Text(records.hidden(problem.text))
    for note in records.audit.notes:
        yield Text(f"Not checked: {records.hidden(note)}", fine=True)


def _next(records: Records, configuration: str | None, device: str | None) -> str:
    folds = [row["fold"] for row in records.of_made_folds().rows]
    if not folds:
        again = f"difflung_augment -d {dataset_id(records.raw.name)} --method {records.method}"
        return f"{again}   # the dataset holds no synthetic cases of this method"
    configuration = configuration or records.report.get("configuration", "2d")  # earlier versions did not record them
    device = device or records.report.get("device", "cuda")
    return without_folders(next_commands(records.raw, configuration, records.method, folds, device))


def _settings(records: Records) -> Iterator[Block]:
    flat = [
        [part, key, json.dumps(setting) if isinstance(setting, dict | list) else str(setting)]
        for part, of in records.settings.items()
        if isinstance(of, dict)
        for key, setting in of.items()
    ]
    preset = records.settings.get("preset", "default")
    yield Table(["part", "setting", "value"], flat, f"Settings of the last run (preset {preset})", folded=True)
    generators = [
        [f"fold {run['fold']}", run["generator"]["hash"] or "none", str(len(run["generator"]["training_cases"]))]
        for run in records.runs
    ]
    if generators:
        yield Table(["fold", "SHA-256 of the generator", "its training cases"], generators, "Generators", folded=True)
    patients = records.report.get("patients", {})
    said = ", ".join(
        f"{key} {setting}"
        for key, setting in patients.items()
        if key != "sha256" and (not records.anonymous or key in ("from", "patients"))  # others may hold names
    )
    yield Text(f"Patients: {without_folders(said) or 'see the output of the command'}.", fine=True)
