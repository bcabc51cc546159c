"""Table 1 as JSON content and as Markdown; merging of several tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_difflung.errors import BadInput
from nnunet_difflung.evaluation.image_metrics import ALONG_Z, BY_CLASS, SCALARS
from nnunet_difflung.evaluation.references import REFERENCES
from nnunet_difflung.judging.continuity import FIGURES
from nnunet_difflung.methods import METHODS
from nnunet_difflung.pages.markdown import table_lines

_JOINED = ("command", "device", "machine", "sampling")  # texts of meta that a merged table joins
_COMPARABLE = ("dataset", "unit", "channel", "samples", "max_slices")  # meta that must be equal in all tables
COLUMNS = {
    "psnr_lung": ("PSNR lung", 2),
    "ssim_lung": ("SSIM lung", 3),
    "psnr_lung_of_mean": ("PSNR lung, mean¹", 2),
    "psnr": ("PSNR slice", 2),
    "ssim": ("SSIM slice", 3),
    "mae_lung": ("MAE lung", 1),
}
CLASS_COLUMNS = {
    "hu_bias": ("bias", 1),
    "wasserstein": ("Wasserstein", 1),
    "sd_ratio": ("sd ratio", 2),
    "texture": ("texture²", 3),
    "diversity": ("diversity³", 1),
}
Z_COLUMNS = {
    "correlation": "correlation of neighbours",
    "flicker": "change of the mean",
    "difference": "difference of neighbours",
    "end_step": "step at the ends",
}
Z_NOTE = """\
Of slices one above the other: correlation of a lesion's voxels with those above them, less their slices' means; change
of the lesion's mean; mean absolute difference of voxels; the same at the lesion's first and last slice, to normal lung.
Here masks are painted slice by slice."""
IN_UNIT = ("mae_lung", "hu_bias", "wasserstein", "diversity")  # figures in the images' unit
_NOTES = """\
Mean ± standard deviation over patients (and seeds, if there are several); intensities in {unit}. PSNR and SSIM of
images clipped to the window and mapped to [0, 1], data range 1, Gaussian window 11/1.5: figures of another convention
are not comparable.

¹ PSNR that the mean of infinitely many samples of a mask would have, estimated from {samples}: the squared error of
their mean minus their variance / {samples} (a single sample is not corrected). The squared error of a sample with the
right texture contains the texture's variance twice, that of a blurred image only once (up to 3 dB), so a higher PSNR of
single images can mean a worse image; `class_mean` shows the PSNR of an image without any texture.

² Energy distance of local standard deviations and of differences between voxels 1 to 3 pixels apart; needs no network
and does not depend on the mean. `real_other_patients` shows the value that real slices of other patients reach, also
for the bias and the Wasserstein distance.

³ Standard deviation between the samples of a mask; for comparison, the standard deviation of the real voxels of a
patient's class: {real_sd}.
"""


def statistic(values: Sequence[float]) -> dict:
    """Mean, standard deviation (with n − 1; None for a single value) and number of values."""
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "n": len(values),
    }


def summarise(rows: Sequence[dict]) -> dict:
    """A method's entry of the JSON from its patients' rows."""
    entry: dict = {name: statistic(values) for name in SCALARS if (values := [r[name] for r in rows if name in r])}
    for figure in (*BY_CLASS, "diversity"):
        classes = dict.fromkeys(name for row in rows for name in row.get(figure, {}))
        entry[figure] = {
            name: statistic([row[figure][name] for row in rows if name in row.get(figure, {})]) for name in classes
        }
    for what in ALONG_Z:
        found: dict[str, dict] = {}
        for figure in FIGURES:
            of_rows = [row.get(what, {}).get(figure, {}) for row in rows]
            classes = dict.fromkeys(name for of in of_rows for name in of)
            found |= {figure: {name: statistic([of[name] for of in of_rows if name in of]) for name in classes}}
        if any(found.values()):
            entry[what] = found
    seconds = [row["seconds_per_image"] for row in rows if row.get("seconds_per_image")]
    return {**entry, "seconds_per_image": float(np.median(seconds)) if seconds else None, "per_patient": list(rows)}


def make_table(meta: dict, rows: dict[str, list[dict]]) -> dict:
    """The whole JSON content: ``meta`` with the entries that the rows determine, then each method and reference."""
    ordered = [name for name in (*METHODS, *REFERENCES) if rows.get(name)]
    slices = {
        (row["fold"], row["patient"]): row["slices"] for name in ordered for row in rows[name] if name != "neighbour"
    }
    spread = summarise(rows["real_other_patients"])["real_sd"]
    meta = {
        **meta,
        "real_sd": {name: value["mean"] for name, value in spread.items()},
        "folds": sorted({fold for fold, _ in slices}),
        "slices": sum(slices.values()),
        "patients": len({patient for _, patient in slices}),
        "seeds": sorted({card["seed"] for card in meta["generators"]}),
        "iterations": {
            name: sorted({card["iterations"] for card in meta["generators"] if card["method"] == name})
            for name in ordered
            if name in METHODS
        },
    }
    return {"meta": meta, **{name: summarise(rows[name]) for name in ordered}}


def merge_table1(tables: Sequence[dict]) -> dict:
    """Merges the tables of several folds or seeds: every patient of every fold and seed is a row of equal weight.

    Equal rows count once, since the references are the same for all seeds of a generator.

    Args:
        tables: contents of ``table1.json`` files.

    Raises:
        BadInput: there is no table, or the tables cannot be compared.
    """
    if not tables:
        raise BadInput("no table1.json was given; run difflung_evaluate first")
    metas = [table["meta"] for table in tables]
    windows: dict = {}
    for meta in metas:
        for key in _COMPARABLE:
            if meta[key] != metas[0][key]:
                raise BadInput(
                    f"tables with {key} {metas[0][key]!r} and {meta[key]!r} cannot be merged; run difflung_evaluate "
                    f"with the same options on the same dataset for all of them"
                )
        if _reverse_process(meta) != _reverse_process(metas[0]):
            raise BadInput(
                f"tables of {_reverse_process(metas[0])} and {_reverse_process(meta)} cannot be merged; run "
                f"difflung_evaluate with the same --preset, --sampler and --steps for all of them"
            )
        for fold, window in meta["windows"].items():
            if windows.setdefault(fold, window) != window:
                raise BadInput(
                    f"tables with the windows {windows[fold]} and {window} in fold {fold} cannot be merged; merge only "
                    f"tables of generators that were trained with the same --window"
                )
    merged = {**metas[0], "windows": windows, "date": max(meta["date"] for meta in metas)}
    for key in _JOINED:
        merged[key] = "; ".join(dict.fromkeys(meta[key] for meta in metas))
    merged["versions"] = {
        name: ", ".join(dict.fromkeys(meta["versions"].get(name, "?") for meta in metas))
        for name in metas[0]["versions"]
    }
    merged["noise_seeds"] = sorted({seed for meta in metas for seed in meta["noise_seeds"]})
    merged["generators"] = _unique([card for meta in metas for card in meta["generators"]])
    names = dict.fromkeys(name for table in tables for name in table if name != "meta")
    rows = {
        name: _unique([row for table in tables if name in table for row in table[name]["per_patient"]])
        for name in names
    }
    return make_table(merged, rows)


def _reverse_process(meta: dict) -> str:
    """Sampler and steps of a table's images; the batch size is left out, since it does not change the images."""
    return meta["sampling"].partition(" steps")[0] + " steps"


def _unique(rows: Sequence[dict]) -> list[dict]:
    kept: list[dict] = []
    for row in rows:
        if row not in kept:
            kept.append(row)
    return kept


def markdown(table: dict) -> str:
    """Table 1 for readers: figures of the images, then the distributions of each class."""
    meta, names = table["meta"], [name for name in table if name != "meta"]
    lines = [
        f"# Table 1: {meta['dataset']}",
        "",
        f"{meta['slices']} validation slices of {meta['patients']} patients, folds "
        f"{', '.join(map(str, meta['folds']))}, generator seeds {', '.join(map(str, meta['seeds']))}, "
        f"{meta['sampling']}; seconds on {meta['device']}.",
        "",
        *([*meta["left_out"], ""] if meta.get("left_out") else []),
    ]
    fine = further_digits(meta["windows"])
    rows = []
    for name in names:
        if "psnr" in table[name]:
            seconds = table[name]["seconds_per_image"]
            cells = [
                _cell(table[name].get(key), digits + fine * (key in IN_UNIT)) for key, (_, digits) in COLUMNS.items()
            ]
            rows.append([name, *cells, "–" if seconds is None else f"{seconds:.3g}", str(table[name]["psnr"]["n"])])
    lines += table_lines(["method", *(title for title, _ in COLUMNS.values()), "s/image", "n"], rows)
    for group in dict.fromkeys(label for name in names for label in table[name]["hu_bias"]):
        rows = []
        for name in [name for name in names if group in table[name]["hu_bias"]]:
            cells = [
                _cell(table[name][key].get(group), digits + fine * (key in IN_UNIT))
                for key, (_, digits) in CLASS_COLUMNS.items()
            ]
            rows.append([name, *cells, str(table[name]["hu_bias"][group]["n"])])
        head = ["method", *(title for title, _ in CLASS_COLUMNS.values()), "n"]
        lines += ["", f"## {group}", "", *table_lines(head, rows)]
    lines += _along_z({name: table[name] for name in names if "along_z" in table[name]}, fine)
    lines += ["", notes(meta)]
    explained = {**{name: method.explanation for name, method in METHODS.items()}, **REFERENCES}
    return "\n".join(lines + [f"- `{name}`: {explained[name]}" for name in names] + ["", f"`{meta['command']}`", ""])


def notes(meta: dict) -> str:
    """What the figures mean."""
    fine = further_digits(meta["windows"])
    spread = ", ".join(f"{sd:.{fine}f} ({name})" for name, sd in meta["real_sd"].items())
    return _NOTES.format(unit=meta["unit"], samples=meta["samples"], real_sd=spread)


def _along_z(entries: dict[str, dict], fine: int) -> list[str]:
    """The table of what lies above each other; nothing for datasets of slices, or if no two neighbours were painted."""
    if not entries:
        return []
    most = max(entries.values(), key=lambda entry: len(entry["per_patient"]))["real_along_z"]
    sources = [("real", most), *((name, entry["along_z"]) for name, entry in entries.items())]
    rows = []
    for group in dict.fromkeys(label for _, of in sources for figure in FIGURES for label in of[figure]):
        for name, of in sources:
            numbers = [of[figure].get(group) for figure in FIGURES]
            if not any(numbers):
                continue
            digits = [places + fine * (figure != "correlation") for figure, places in FIGURES.items()]
            cells = [_cell(*pair) for pair in zip(numbers, digits, strict=True)]
            rows.append([group, name, *cells, str(max(number["n"] for number in numbers if number))])
    table = table_lines(["class", "method", *Z_COLUMNS.values(), "n"], rows)
    return ["", "## From slice to slice", "", *table, "", *Z_NOTE.splitlines()]


def further_digits(windows: dict) -> int:
    """Digits to add to figures in the images' unit, for windows such as 0 to 1."""
    width = min(high - low for low, high in windows.values())
    return max(0, int(np.ceil(np.log10(200 / width))))


def _cell(value: dict | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value['mean']:.{digits}f}" + ("" if value["sd"] is None else f" ± {value['sd']:.{digits}f}")
