"""Table 1 as a page: verdicts, figures beside those of real slices of other patients, intensities, pictures."""

from __future__ import annotations

from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.evaluation.gathered import REAL, Gathered
from nnunet_difflung.evaluation.image_metrics import ALONG_Z
from nnunet_difflung.evaluation.page_pictures import galleries_across, galleries_of, outlined_colours
from nnunet_difflung.evaluation.page_text import methods_paragraph
from nnunet_difflung.evaluation.references import REFERENCES
from nnunet_difflung.evaluation.sheet import Sheet
from nnunet_difflung.evaluation.table1 import CLASS_COLUMNS, COLUMNS, IN_UNIT, Z_COLUMNS, Z_NOTE, further_digits, notes
from nnunet_difflung.evaluation.verdicts import FLOOR, groups, methods_of, verdicts
from nnunet_difflung.judging.continuity import FIGURES
from nnunet_difflung.methods import METHODS
from nnunet_difflung.pages import charts
from nnunet_difflung.pages.blocks import Block, Cell, Chart, Code, Page, Section, Table, Text, Value
from nnunet_difflung.pages.cells import number
from nnunet_difflung.paths import dataset_id
from nnunet_difflung.runtime.figures import GREY, LINE_COLOURS
from nnunet_difflung.runtime.wording import counted

_UNITS = {"psnr": "dB", "psnr_lung": "dB", "psnr_lung_of_mean": "dB", "ssim": "0 to 1", "ssim_lung": "0 to 1"}
_WITH_FLOOR = ("hu_bias", "wasserstein", "texture")


def evaluation_page(table: dict, gathered: Gathered, raw: RawDataset, sheet: Sheet) -> Page:
    """The page.

    Args:
        table: content of ``table1.json``.
        gathered: pictures and histograms.
        raw: the dataset, for the scale of the pictures and their sides.
        sheet: coronal and sagittal planes of volumes.
    """
    meta, methods = table["meta"], methods_of(table)
    first: list[Block] = [verdicts(table, raw.roles.pathologies)]
    first += [Text(line) for line in meta.get("left_out", ())]
    sections = [Section("Verdicts", first), Section("Images", [_image_table(table)])]
    for position, name in enumerate(groups(table), 1):
        sections.append(
            Section(f"Class {position}: {name}", [*_histogram(table, gathered, name), _class_table(table, name)])
        )
    sections += _along_z(table)
    galleries = galleries_of(table, gathered, raw) + galleries_across(table, sheet, raw)
    explained: list[Block] = [*galleries, Text(_PICTURES, fine=True)] if galleries else [Text(_NO_PICTURES)]
    sections += [Section("Pictures", explained), Section("What the figures mean", _meaning(table))]
    sections += [_next(table, raw), _record(table)]
    sections.append(Section("For your manuscript", [Code(methods_paragraph(table), True)]))
    return Page(
        f"Painted slices beside real ones: {meta['dataset']}",
        f"{counted(len(methods), 'method')}, {counted(meta['slices'], 'validation slice')} of "
        f"{counted(meta['patients'], 'patient')}; {meta['date'][:10]}, nnunet_difflung "
        f"{meta['versions']['nnunet_difflung']}",
        sections,
        classes=outlined_colours(raw.roles) if galleries else {},
    )


_PICTURES = (
    "The validation slices with most of each pathology, of different patients, and what each method painted from their "
    "masks alone; the body around the lungs is painted too. A painted slice shows another lung with the same mask, so "
    "its difference to the real slice, voxel by voxel, means nothing."
)
_NO_PICTURES = "No slice is shown, since no painted slice has a pathology."


# ---- tables ----


def _unit(meta: dict) -> str:
    return "HU" if meta["unit"] == "HU" else "grey levels"


def _figure(value: dict | None, digits: int) -> Value:
    if value is None:
        return Value(None, "–")
    mean = number(value["mean"], digits)
    return Value(mean.number, mean.text + ("" if value["sd"] is None else f" ± {value['sd']:.{digits}f}"))


def _image_table(table: dict) -> Table:
    meta, fine = table["meta"], further_digits(table["meta"]["windows"])
    columns = ["painted by"]
    for key, (title, _) in COLUMNS.items():
        columns.append(f"{title.rstrip('¹')}, {_UNITS.get(key, _unit(meta))}")
    rows: list[list[Cell]] = [
        [
            name,
            *(_figure(entry.get(key), digits + fine * (key in IN_UNIT)) for key, (_, digits) in COLUMNS.items()),
            number(entry["seconds_per_image"], 3),
            number(entry["psnr"]["n"], 0),
        ]
        for name, entry in table.items()
        if name != "meta" and "psnr" in entry
    ]
    return Table([*columns, "seconds an image", "patients"], rows, "Mean ± standard deviation over patients")


def _class_table(table: dict, name: str) -> Table:
    """The figures of a class, those of real slices of other patients beside each bias and distance."""
    meta, fine = table["meta"], further_digits(table["meta"]["windows"])
    columns = ["painted by"]
    for key, (title, _) in CLASS_COLUMNS.items():
        columns.append(title.rstrip("²³") + (f", {_unit(meta)}" if key in IN_UNIT else ""))
        if key in _WITH_FLOOR:
            columns.append(f"{columns[-1]}: real slices of other patients")
    rows: list[list[Cell]] = []
    for source, entry in table.items():
        if source in ("meta", FLOOR) or name not in entry["hu_bias"]:
            continue
        cells: list[Cell] = [source]
        for key, (_, digits) in CLASS_COLUMNS.items():
            places = digits + fine * (key in IN_UNIT)
            cells.append(_figure(entry[key].get(name), places))
            if key in _WITH_FLOOR:
                cells.append(_figure(table[FLOOR][key].get(name), places))
        rows.append([*cells, number(entry["hu_bias"][name]["n"], 0)])
    spread = meta["real_sd"].get(name)
    of_real = "" if spread is None else f"; standard deviation of the real voxels {spread:.{1 + fine}f} {_unit(meta)}"
    return Table([*columns, "patients"], rows, f"{name}: mean ± standard deviation over patients{of_real}")


def _along_z(table: dict) -> list[Section]:
    """What lies one above the other; nothing for datasets of slices."""
    entries = {name: entry for name, entry in table.items() if name != "meta" and ALONG_Z[0] in entry}
    if not entries:
        return []
    fine = further_digits(table["meta"]["windows"])
    most = max(entries.values(), key=lambda entry: len(entry["per_patient"]))[ALONG_Z[1]]
    sources = {REAL: most, **{name: entry[ALONG_Z[0]] for name, entry in entries.items()}}
    rows: list[list[Cell]] = []
    for name in dict.fromkeys(label for of in sources.values() for figure in FIGURES for label in of[figure]):
        for source, of in sources.items():
            values = [of[figure].get(name) for figure in FIGURES]
            if any(values):
                digits = [places + fine * (figure != "correlation") for figure, places in FIGURES.items()]
                count = max(value["n"] for value in values if value)
                rows.append([name, source, *map(_figure, values, digits), number(count, 0)])
    columns = ["class", "painted by", *(_titled(figure, table["meta"]) for figure in FIGURES), "patients"]
    return [Section("From slice to slice", [Table(columns, rows), Text(" ".join(Z_NOTE.split()), fine=True)])]


def _titled(figure: str, meta: dict) -> str:
    return Z_COLUMNS[figure] + ("" if figure == "correlation" else f", {_unit(meta)}")


# ---- charts ----


def _histogram(table: dict, gathered: Gathered, name: str) -> list[Block]:
    counts = gathered.counts.get(name, {})
    if not counts:
        return []
    styles = {REAL: (GREY, "-")} | {
        method: (LINE_COLOURS[i % len(LINE_COLOURS)], "--") for i, method in enumerate(methods_of(table))
    }
    curves = {source: (of, *styles[source]) for source, of in counts.items()}
    unit = _unit(table["meta"])
    svg = charts.histograms_of_counts(curves, gathered.bins, unit)
    return [Chart(svg, f"{name}: {unit} of the voxels of real validation slices (grey) and of painted ones (dashed)")]


# ---- texts ----


def _meaning(table: dict) -> list[Block]:
    meta = table["meta"]
    explained = {**{name: method.explanation for name, method in METHODS.items()}, **REFERENCES}
    rows: list[list[Cell]] = [[name, explained[name]] for name in table if name != "meta"]
    paragraphs = [" ".join(part.split()).lstrip("¹²³ ") for part in notes(meta).split("\n\n")]
    return [Table(["painted by", "what it is"], rows), *(Text(part, fine=True) for part in paragraphs)]


def _next(table: dict, raw: RawDataset) -> Section:
    dataset, folds = dataset_id(table["meta"]["dataset"]), " ".join(map(str, range(raw.number_of_folds)))
    commands = [
        f"difflung_audit -d {dataset}    # whether a validation patient leaked into training",
        f"difflung_augment -d {dataset} --method {methods_of(table)[0]}    # paints synthetic cases with a method",
        f"difflung_compare -d {dataset} -f {folds}    # after nnU-Net's trainings: what the cases are worth",
    ]
    return Section("Next commands", [Code("\n".join(commands))])


def _record(table: dict) -> Section:
    meta = table["meta"]
    windows = "; ".join(f"fold {fold}: {low:g} to {high:g}" for fold, (low, high) in meta["windows"].items())
    facts = {
        "command": meta["command"],
        "date": meta["date"],
        "dataset, channel": f"{meta['dataset']}, {meta['channel']}",
        "intensities": meta["unit"],
        "window of PSNR and SSIM": windows,
        "folds": ", ".join(map(str, meta["folds"])),
        "samples of each mask": str(meta["samples"]),
        "slices of a fold": f"at most {meta['max_slices']}" if meta["max_slices"] else "all that show lung",
        "seeds of the noise": ", ".join(map(str, meta["noise_seeds"])),
        "sampling": meta["sampling"],
        "painted on": f"{meta['device']}; {meta['machine']}",
        "versions": ", ".join(f"{name} {version}" for name, version in meta["versions"].items()),
    }
    generators: list[list[Cell]] = [
        [
            card["method"],
            str(card["fold"]),
            str(card["seed"]),
            number(card["iterations"], 0),
            card["weights_sha256"][:12],
        ]
        for card in meta["generators"]
    ]
    columns = ["method", "fold", "seed", "iterations", "SHA-256 of the weights, first digits"]
    record: list[list[Cell]] = [[name, text] for name, text in facts.items()]
    return Section(
        "How it was made", [Table(columns, generators, "Generators"), Table(["what", "value"], record, "Record")]
    )
