"""``conversion_report.html``: what ``conversion_report.json`` and ``.png`` tell, as a page to open in a browser.

It has no date and no command, so that the same conversion writes the same bytes; ``difflung_conversion.json`` has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_difflung import __version__
from nnunet_difflung.dataset_conversion.output.sheet import Tile, window_of
from nnunet_difflung.dataset_conversion.output.verdicts import foreground, verdicts
from nnunet_difflung.pages import charts
from nnunet_difflung.pages.blocks import (
    Block,
    Cell,
    Chart,
    Code,
    Gallery,
    Page,
    Picture,
    Section,
    Table,
    Text,
    Value,
)
from nnunet_difflung.pages.cells import number
from nnunet_difflung.pages.pictures import grey_png, outlines_of
from nnunet_difflung.runtime.figures import class_colours, zoom
from nnunet_difflung.runtime.wording import counted, quoted

WIDEST = 256  # pixels of a picture's side; larger parts are shown at a half, a third, … of their size
MEDIASTINUM = (-160.0, 240.0)  # HU
MOST_ROWS, MOST_CELLS = 1000, 40_000  # of a table

LeftOut = Sequence[tuple[str, str]]  # (patient, reason)


def conversion_page(
    name: str,
    report: Mapping,
    tiles: Sequence[Tile],
    histograms: Mapping[str, np.ndarray],
    bins: np.ndarray,
    left_out: LeftOut = (),
) -> Page:
    """The page.

    Args:
        name: of the dataset.
        report: content of ``conversion_report.json``.
        tiles: slices to show.
        histograms: class → counts of intensities.
        bins: edges of the histograms' bins.
        left_out: patients that were left out, without folders of the archive.
    """
    patients = report["patients"]
    cases = sum(patient["cases"] for patient in patients.values())
    sections = [
        Section("Verdicts", [verdicts(report), _about(report)]),
        Section("Classes", _class_blocks(report, histograms, bins)),
        Section("Changes on the way", _change_blocks(report, left_out)),
        Section("Patients", [_patient_table(report)]),
    ]
    if tiles:
        sections.append(Section("Pictures", _picture_blocks(report, tiles, len(patients))))
    sections += [_next(name), Section("For your manuscript", [Code(_paragraph(report, cases), True)])]
    colours = class_colours(_outlined(report)) if tiles else {}
    counts = f"{counted(len(patients), 'patient')}, {counted(cases, 'case')}, channel {report['channel']}"
    return Page(f"Conversion: {name}", f"{counts}; nnunet_difflung {__version__}", sections, classes=colours)


def _outlined(report: Mapping) -> dict[str, int]:
    return {name: value for name, value in report["labels"].items() if name != "ignore"}


# ---- tables and charts ----


def _about(report: Mapping) -> Table:
    patients = list(report["patients"].values())
    test = sum(patient["test"] for patient in patients)
    spacings = np.array([patient["spacing_mm"] for patient in patients], float)
    ranges = [
        f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        for low, high in zip(spacings.min(0), spacings.max(0), strict=True)
    ]
    facts = {
        "training patients, test patients": f"{len(patients) - test}, {test}",
        "slices": f"{sum(patient['slices'] for patient in patients):,}",
        "spacing in mm along x, y, z": "; ".join(ranges),
        "lowest and highest value": f"{min(p['intensity'][0] for p in patients):g}, "
        f"{max(p['intensity'][1] for p in patients):g}",
    }
    return Table(["what", "value"], [[what, value] for what, value in facts.items()], "The dataset")


def _class_blocks(report: Mapping, histograms: Mapping[str, np.ndarray], bins: np.ndarray) -> list[Block]:
    names = [name for name in report["labels"] if name != "background"]
    labelled = sum(report["classes"][name]["voxels"] for name in names) or 1
    shares = {name: report["classes"][name]["voxels"] / labelled for name in names}
    unit = "HU" if report["channel"] == "CT" else report["channel"]
    rows: list[list[Cell]] = []
    for name, row in report["classes"].items():
        spread = row.get("percentiles")
        rows.append(
            [
                name + (" (derived)" if name in report["derived"] else ""),
                number(row["value"], 0),
                Value(row["voxels"], f"{row['voxels']:,}"),
                Value(row["share"], f"{row['share']:.3%}"),
                Value(shares.get(name), f"{shares[name]:.3%}" if name in shares else "–"),
                number(row["cases"], 0),
                number(row["patients"], 0),
                number(row.get("mean"), 0),
                Value(spread["5"], f"{spread['5']:.0f} to {spread['95']:.0f}") if spread else Value(None, "–"),
            ]
        )
    columns = ["class", "value", "voxels", "share of all voxels", "share of labelled voxels", "cases", "patients"]
    columns += [f"mean, {unit}", f"5th to 95th percentile, {unit}"]
    blocks: list[Block] = []
    if shares:
        blocks.append(
            Chart(charts.shares(shares, class_colours(report["labels"])), "Share of each class, on a logarithmic axis")
        )
    colours = class_colours(report["labels"])
    curves = {name: (histograms[name], colours[name], "-") for name in names if histograms[name].sum()}
    if curves:
        blocks.append(Chart(charts.histograms_of_counts(curves, bins, unit), f"Intensities of each class, {unit}"))
    return [*blocks, Table(columns, rows, "All cases, training and test")]


def _change_blocks(report: Mapping, left_out: LeftOut) -> list[Block]:
    rows: list[list[Cell]] = [
        [kind, number(row["count"], 0), what, number(row["patients"], 0)]
        for kind, of_kind in report["changes"].items()
        for what, row in of_kind.items()
    ]
    blocks: list[Block] = [Text("Nothing was dropped, merged, moved, guessed or reinterpreted.")]
    if rows:
        shown = rows[:MOST_ROWS]
        caption = f"Changes{_rest(len(rows) - len(shown))}; the notes of each patient are in conversion_report.json"
        blocks = [Table(["what happened", "how often", "to what", "patients"], shown, caption)]
    if left_out:
        listed: list[list[Cell]] = [[name, reason] for name, reason in left_out[:MOST_ROWS]]
        caption = f"Patients that were left out{_rest(len(left_out) - len(listed))}"
        blocks.append(Table(["patient", "reason"], listed, caption, folded=len(listed) > 20))
    return blocks


def _rest(more: int) -> str:
    return f" (and {more} more)" if more > 0 else ""


def _patient_table(report: Mapping) -> Table:
    names = foreground(report)
    rows: list[list[Cell]] = []
    most = min(MOST_ROWS, MOST_CELLS // (9 + len(names)))
    for patient, row in list(report["patients"].items())[:most]:
        total = sum(row["voxels"].values()) or 1
        low, high = row["intensity"]
        rows.append(
            [
                patient,
                "test" if row["test"] else "training",
                number(row["cases"], 0),
                number(row["slices"], 0),
                Value(float(np.prod(row["size"])), " × ".join(map(str, row["size"]))),
                Value(row["spacing_mm"][0], " × ".join(f"{size:.3g}" for size in row["spacing_mm"])),
                Value(low, f"{low:g} to {high:g}"),
                *(Value(row["voxels"][name], f"{row['voxels'][name] / total:.2%}") for name in names),
                number(len(row["notes"]), 0),
                "; ".join(row["doubts"]),
            ]
        )
    columns = ["patient", "part", "cases", "slices", "size of the first case", "spacing, mm", "values"]
    columns += [*(f"{name}, share of voxels" for name in names), "notes", "doubts about derived lungs"]
    caption = f"Each patient{_rest(len(report['patients']) - len(rows))}"
    return Table(columns, rows, caption, folded=len(rows) > 20)


# ---- pictures ----


def _picture_blocks(report: Mapping, tiles: Sequence[Tile], patients: int) -> list[Block]:
    groups = {"lungs in doubt": [t for t in tiles if t.doubtful], "others": [t for t in tiles if not t.doubtful]}
    columns = [(title, [_picture(report, tile) for tile in of]) for title, of in groups.items() if of]
    if len(columns) == 1:
        columns = [("", columns[0][1])] if columns[0][0] == "others" else columns
    part = f"{len(tiles)} of {patients} patients" if len(tiles) < patients else counted(patients, "patient")
    text = (
        f"{part}: the slice with most of the patient's rarest class, cut to what is labelled. Seen from the feet, "
        "right is left. Dashed outlines are derived, not drawn."
    )
    return [Gallery("A slice of each patient", columns), Text(text, fine=True)]


def _picture(report: Mapping, tile: Tile) -> Picture:
    rows, columns = zoom(tile.label)
    step = -(-max(tile.label[rows, columns].shape) // WIDEST)
    cut = (slice(rows.start, rows.stop, step), slice(columns.start, columns.stop, step))
    image = tile.image[cut]
    height, width = image.shape
    low, high = window_of(report, tile.image)
    windows = {f"window {low:g} to {high:g}": (low, high)}
    if report["channel"] == "CT":
        windows = {
            f"lung window, {low:g} to {high:g} HU": (low, high),
            f"soft tissue, {MEDIASTINUM[0]:g} to {MEDIASTINUM[1]:g} HU": MEDIASTINUM,
        }
    return Picture(
        tile.title,
        {name: grey_png(image, window) for name, window in windows.items()},
        width,
        height,
        tile.spacing[0] / tile.spacing[1],
        outlines_of(tile.label[cut], _outlined(report), report["derived"]),
        step * tile.spacing[1],
        ("R", "L"),
        note="test patient" if tile.test else "",
    )


# ---- texts ----


def _next(name: str) -> Section:
    found = re.match(r"Dataset0*(\d+)_", name)
    dataset = found[1] if found else quoted(name)
    commands = [
        f"difflung_augment -d {dataset} --dry-run    # class shares, plan, time and disk space; writes nothing",
        f"nnUNetv2_plan_and_preprocess -d {dataset} -c 2d",
        f"nnUNetv2_train {dataset} 2d 0 -tr nnUNetTrainerDiffLungReference    # what the real cases alone give",
    ]
    record = "difflung_conversion.json, beside this page, holds the command, the mapping and the source files."
    return Section("Next commands", [Code("\n".join(commands)), Text(record, fine=True)])


def _paragraph(report: Mapping, cases: int) -> str:
    patients = list(report["patients"].values())
    test = sum(patient["test"] for patient in patients)
    names = foreground(report)
    have = {name: counted(report["classes"][name]["patients"], "patient") for name in names}
    classes = "; ".join(
        f"{name} ({report['classes'][name]['share']:.3%} of the voxels, {have[name]})" for name in names
    )
    derived = [name for name in report["derived"] if name in names]
    changes = "; ".join(
        f"{row['count']} {what} ({kind})" for kind, rows in report["changes"].items() for what, row in rows.items()
    )
    sentences = [
        f"The dataset was converted with nnunet_difflung {__version__}: {counted(len(patients), 'patient')} "
        f"({test} of them for testing), {counted(cases, 'case')}, {sum(p['slices'] for p in patients):,} slices.",
        f"Classes: {classes}." if classes else "",
        f"Not drawn but derived from the images: {', '.join(derived)}." if derived else "",
        "All cases of a patient are in the same fold.",
        f"Changed by the conversion: {changes}." if changes else "The conversion dropped, merged and moved nothing.",
    ]
    return " ".join(filter(None, sentences))
