"""The report of a comparison as a page, from the content of its JSON file and pictures of the worst patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_difflung.comparison.methods_text import explained, methods_paragraph, scored
from nnunet_difflung.comparison.table2 import FIGURES, notes, of_patients, p_text, rests_on, shown
from nnunet_difflung.comparison.trainings import ARMS
from nnunet_difflung.comparison.verdicts import arms_of, missed_trainings, others, rare_classes, shares, verdicts
from nnunet_difflung.comparison.worst_patients import COLOURS
from nnunet_difflung.pages import charts
from nnunet_difflung.pages.blocks import Block, Cell, Chart, Code, Gallery, Page, Section, Table, Text, Value
from nnunet_difflung.pages.cells import number
from nnunet_difflung.paths import dataset_id
from nnunet_difflung.runtime.wording import counted

MOST_CLASSES = 20  # with a section
MOST_LINES, MOST_POINTS = 150, 20_000  # patients in a chart; points in all charts
MOST_ROWS, MOST_CELLS = 300, 40_000  # patients in a table; cells in all tables of patients


def comparison_page(
    table: dict,
    galleries: Mapping[str, Gallery] | None = None,
    missing: Sequence[str] = (),
    absent: Sequence[str] = (),
    curves: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Page:
    """The page.

    Args:
        table: as ``compare`` returns it, without NaN.
        galleries: class → pictures of its worst patients.
        missing: sentences about pictures that could not be drawn.
        absent: sentences about trainings that are not compared.
        curves: class → arm → (epochs,) pseudo Dice (``progress.learning_curves``).
    """
    meta = table["meta"]
    galleries = galleries or {}
    rare = rare_classes(table)
    rest = [name for name in table[meta["reference"]] if name not in rare]
    classes = [*rare, *rest]
    left_out = classes[MOST_CLASSES:]
    words: list[Block] = [verdicts(table), Text(_rarity(table, rare))]
    words += [Text(line) for line in absent]
    if left_out:
        words.append(Text(f"Without a section here, but in the JSON file: {', '.join(left_out)}."))
    sections = [Section("Verdicts", words)]
    for position, name in enumerate(classes[:MOST_CLASSES], 1):
        blocks = _class_blocks(table, name)
        if name in galleries:
            blocks += [galleries[name], Text(_PICTURES, fine=True)]
        elif name in rare:
            blocks.append(Text(f"There are no pictures of {name}."))
        if name in rare:
            blocks += [Text(line) for line in missing]
        if (curves or {}).get(name):
            blocks += _curves(name, (curves or {})[name])
        sections.append(Section(f"Class {position}: {name}", blocks))
    sections += [_next(table), _record(table), Section("For your manuscript", [Code(methods_paragraph(table), True)])]
    return Page(
        f"Comparison of trainings: {meta['dataset']}",
        f"{counted(len(arms_of(table)), 'arm')}, {counted(meta['patients'], 'patient')}, "
        f"{counted(meta['cases'], 'case')}; {meta['date'][:10]}, nnunet_difflung {meta['versions']['nnunet_difflung']}",
        sections,
        classes=dict(COLOURS) if galleries else {},
    )


_PICTURES = (
    "Patients with the lowest mean Dice over all arms. Of each, the case and the slice in which all arms together have "
    "most wrong voxels of the class, in the first repetition; Dice over all voxels of the patient, mean of all "
    "trainings. Enlarge a picture and step through the arms with the arrow keys."
)


def _curves(name: str, of_arms: Mapping[str, np.ndarray]) -> list[Block]:
    svg = charts.lines(of_arms, "epoch", "pseudo Dice", limits=(-0.02, 1.02))
    return [
        Chart(svg, f"Learning curves of {name}: nnU-Net's pseudo Dice, mean of the arm's trainings"),
        Text(_CURVES, True),
    ]


_CURVES = (
    "nnU-Net's moving average over the voxels of random validation patches, which are rougher than whole cases: look "
    "here whether the arms had stopped improving, not which is better. If a curve still rises at its end, train longer."
)


def _rarity(table: dict, rare: Sequence[str]) -> str:
    of = shares(table)
    listed = ", ".join(f"{name} ({of[name]:.2%} of the voxels of all classes)" for name in rare)
    return f"Rare classes here: {listed}. All scored cases are real."


def _class_blocks(table: dict, name: str) -> list[Block]:
    meta, arms = table["meta"], arms_of(table)
    rows = {arm: classes[name] for arm, classes in arms.items()}
    parts = len(arms) * min(MOST_CLASSES, len(arms[meta["reference"]]))
    with_it = rows[meta["reference"]]["dice"]["patients"]
    without = rows[meta["reference"]]["false_positive_voxels"]["patients"]
    blocks: list[Block] = [Text(f"{counted(with_it, 'patient')} with {name}, {without} without.")]
    if with_it:
        blocks.append(_dots(rows, name, min(MOST_LINES, MOST_POINTS // parts)))
        if others(table):
            blocks.append(_intervals(table, name))
        blocks.append(_dice_table(rows, meta["reference"]))
        blocks += [Text(note, fine=True) for note in notes(rows, meta["reference"])]
    figures = _figure_table(rows, meta["reference"])
    blocks += [figures] if figures else []
    return [*blocks, _patient_table(rows, name, min(MOST_ROWS, MOST_CELLS // (2 * parts)))]


def _dots(rows: dict[str, dict], name: str, most: int) -> Chart:
    dice = {arm: of_patients(row, "dice") for arm, row in rows.items()}
    patients = sorted(next(iter(dice.values())))
    part = patients
    if len(patients) > most:
        part = [patients[i] for i in np.linspace(0, len(patients) - 1, most).round().astype(int)]
    values = {patient: [dice[arm].get(patient) for arm in rows] for patient in part}
    means = {arm: row["dice"]["mean"] for arm, row in rows.items()}
    shown_part = "" if part is patients else f" ({most} of {len(patients)} patients, spread evenly by name)"
    caption = f"Dice of {name}: a line for each patient{shown_part}, mean over all patients in orange"
    return Chart(charts.paired_dots(list(rows), values, "Dice of a patient", means, limits=(-0.02, 1.02)), caption)


def _intervals(table: dict, name: str) -> Chart:
    reference = table["meta"]["reference"]
    rows = []
    for arm in others(table):
        difference = table[arm][name]["diff_to_reference"]
        low, high = difference["ci95"] or (None, None)
        rows.append((arm, difference["mean"], low, high))
    some = any(low is not None for _, _, low, _ in rows)
    drawn = (
        "with 95 % intervals for new patients and new trainings" if some else "without intervals, for which see below"
    )
    caption = f"Mean difference in Dice of {name} to {reference}, {drawn}"
    return Chart(charts.intervals(rows, f"Dice minus that of {reference}"), caption)


def _dice_table(rows: dict[str, dict], reference: str) -> Table:
    lines: list[list[Cell]] = []
    for arm, row in rows.items():
        difference = row["diff_to_reference"]
        missed, count = missed_trainings(row)
        compared: list[Cell] = [Value(None, "–"), Value(None, "–"), "–", Value(None, "–")]
        if arm != reference:
            test = (difference.get("permutation") or {}).get("patients")
            ends = difference["ci95"]
            compared = [
                number(difference["mean"], 3, signed=True),
                Value(ends[0], f"{ends[0]:+.3f} to {ends[1]:+.3f}") if ends else Value(None, "none"),
                rests_on(difference),
                Value(test["p"] if test else None, p_text(difference)),
            ]
        lines.append(
            [
                arm,
                number(row["dice"]["mean"], 3),
                number(row["dice"]["sd"], 3),
                *compared,
                number(row["pooled"]["mean"], 3),
                number(row["per_case"]["mean"], 3),
                Value(missed, f"{missed} of {count}"),
            ]
        )
    columns = [
        "arm",
        "Dice, mean of patients",
        "sd of trainings",
        f"difference to {reference}",
        "95 % interval",
        "variance of (degrees of freedom)",
        "p (Holm)",
        "Dice, all voxels",
        "Dice, per case",
        "trainings that miss it",
    ]
    return Table(columns, lines, "Dice, from 0 to 1")


def _figure_table(rows: dict[str, dict], reference: str) -> Table | None:
    lines: list[list[Cell]] = []
    for figure, (title, digits) in FIGURES.items():
        for arm, row in rows.items():
            if figure not in row or row[figure]["mean"] is None:
                continue
            difference, logarithms = "–", "–"
            p = Value(None, "–")
            mean = None
            if arm != reference:
                of = row[figure]["diff_to_reference"]
                scaled = row[figure].get("log10_difference")
                difference, mean = shown(of, digits), of["mean"]
                logarithms = shown(scaled, 2) if scaled and scaled["ci95"] else "–"
                test = (of.get("permutation") or {}).get("patients")
                p = Value(test["p"] if test else None, p_text(of))
            lines.append([title, arm, number(row[figure]["mean"], digits), Value(mean, difference), logarithms, p])
    if not lines:
        return None
    columns = ["figure", "arm", "mean", f"difference to {reference}", "difference of log10(1 + figure)", "p (Holm)"]
    return Table(columns, lines, "Figures beside Dice; false voxels are voxels a patient")


def _patient_table(rows: dict[str, dict], name: str, most: int) -> Table:
    """Each patient's Dice in each arm, or the false voxels of patients without the class."""
    dice = {arm: of_patients(row, "dice") for arm, row in rows.items()}
    false = {arm: of_patients(row, "fp") for arm, row in rows.items()}
    patients = sorted(next(iter(false.values())))
    worst_first = sorted(patients, key=lambda p: (float(np.mean([dice[arm].get(p, 2.0) for arm in rows])), p))
    lines: list[list[Cell]] = [
        [
            patient,
            *(number(dice[arm].get(patient), 3) for arm in rows),
            *(number(false[arm].get(patient), 1) for arm in rows),
        ]
        for patient in worst_first[:most]
    ]
    more = len(patients) - len(lines)
    rest = f"; {more} more patients, with higher Dice or without the class, are in the JSON file" if more > 0 else ""
    caption = f"Each patient: Dice of {name} and voxels falsely marked as it, means over trainings{rest}"
    return Table(
        ["patient", *(f"Dice, {arm}" for arm in rows), *(f"false voxels, {arm}" for arm in rows)],
        lines,
        caption,
        folded=True,
    )


def _next(table: dict) -> Section:
    meta = table["meta"]
    dataset = dataset_id(meta["dataset"])
    commands = [f"difflung_audit -d {dataset}    # whether a validation patient leaked into training"]
    present = {figure for rows in arms_of(table).values() for row in rows.values() for figure in row}
    if "lesion_sensitivity" not in present:
        commands.append(f"{meta['command']} --lesions    # lesions detected, and predicted where there are none")
    if len(meta["seeds"]) == 1 and meta["folds"] != ["all"]:
        commands.append(
            "DIFFLUNG_SEED=1 nnUNet_results=ANOTHER_FOLDER nnUNetv2_train "
            f"{dataset} {meta['configuration']} {meta['folds'][0]} -tr TRAINER    # a second repetition, then --results"
        )
    return Section("Next commands", [Code("\n".join(commands))])


def _record(table: dict) -> Section:
    meta = table["meta"]
    facts = {
        "command": meta["command"],
        "date": meta["date"],
        "dataset": meta["dataset"],
        "scored": scored(meta),
        "configuration, plans": f"{meta['configuration']}, {meta['plans']}",
        "length": f"{meta['iterations']:,} iterations" if meta.get("iterations") else meta["length"],
        "folds": ", ".join(map(str, meta["folds"])),
        "repetitions": str(len(meta["seeds"])),
        **({"trained on": ", ".join(meta["device"])} if meta.get("device") else {}),
        "compared on": meta["machine"],
        "versions": ", ".join(f"{name} {version}" for name, version in meta["versions"].items()),
    }
    arms = Table(
        ["arm", "trainer", "trained on"], [[arm, ARMS[arm], explained(arm)] for arm in arms_of(table)], "The arms"
    )
    return Section("How it was made", [arms, Table(["what", "value"], list(map(list, facts.items())), "Record")])
