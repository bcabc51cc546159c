"""The tables of docs/results.md and README.md: the rare class of several experiments at a glance."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.bench.arms import ARMS, DECISIVE
from experiments.bench.plot import EARLIER
from experiments.tables import figure
from nnunet_difflung.comparison.table2 import shown
from nnunet_difflung.judging.continuity import FIGURES as CONTINUITY


def table1_summary(sources: dict[str, str], *contents: dict) -> str:
    """Painting, a row for each method and reference.

    Args:
        sources: data as the reader knows them → their rare class, in the order of ``contents``.
        contents: as ``difflung_evaluate`` writes them.
    """
    lines = [
        "| data (unit) | method | PSNR lung, dB | of the mean image | bias | Wasserstein | sd, painted / real | "
        "texture distance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (data, rare), content in zip(sources.items(), contents, strict=True):
        unit = content["meta"]["unit"]
        for name, row in content.items():
            if name in ("meta", "neighbour"):  # the neighbour's lesions are the patient's own
                continue
            cells = [figure(row.get("psnr_lung"), 2), figure(row.get("psnr_lung_of_mean"), 2)]
            cells += [figure(row["hu_bias"].get(rare), 1, "+"), figure(row["wasserstein"].get(rare), 1)]
            cells += [figure(row["sd_ratio"].get(rare), 2), figure(row["texture"].get(rare), 3)]
            lines.append(f"| {data} ({unit}) | `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def regions_summary(sources: Sequence[str], *contents: dict) -> str:
    """Real lesions painted back where they are, a row for each method.

    Args:
        sources: data as the reader knows them, in the order of ``contents``.
        contents: as ``experiments.regions`` writes them.
    """
    lines = [
        "| data, class | method | step at the painted edge | correlation across it | sd | autocorrelation, 1 px | "
        "bias | Wasserstein | PSNR, dB | AUC at the borders |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for data, content in zip(sources, contents, strict=True):
        patients, shown_class = content["methods"]["real"]["patients"], content["meta"]["class"].replace("_", " ")
        for name in sorted(content["methods"], key=lambda method: method != "real"):
            row = content["methods"][name]
            cells = [
                _mean(row, "seam_edge", 2),
                _to_real(row, "correlation_edge", 2),
                _mean(row, "sd_ratio", 2),
                _to_real(row, "autocorrelation_1", 2),
                _to_real(row, "bias", 0),
                _mean(row, "wasserstein", 0),
                _mean(row, "psnr", 1),
                "–" if row["auc"] is None else f"{row['auc']:.2f}",
            ]
            unit = "" if content["meta"].get("unit", "HU") == "HU" else f", {content['meta']['unit']}"
            about = f"{data}, {shown_class} ({patients} patients{unit})"
            lines.append(f"| {about} | `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def edges_summary(default: str, content: dict) -> str:
    """How far the borders of painted lesions are from those of real ones, a row for each margin and edge.

    Args:
        default: what the row of the method with its own settings is called.
        content: as ``experiments.regions`` writes it; the method first, each other row called after its options.
    """
    figures = {"seam_edge": 2, "correlation_edge": 2, "seam_outline": 2, "correlation_outline": 2}
    lines = [
        "| margin, edge | step at the edge / real, − 1 | correlation across it | step at the outline / real, − 1 | "
        "correlation across it | AUC at the borders |",
        "|---|---|---|---|---|---|",
    ]
    method, *others = (name for name in content["methods"] if name != "real")
    for name in sorted([method, *others], key=lambda row: default if row == method else row):
        row = content["methods"][name]
        cells = [_to_real(row, figure, digits) for figure, digits in figures.items()]
        lines.append(f"| {default if name == method else name} | {' | '.join(cells)} | {row['auc']:.2f} |")
    return "\n".join(lines)


def steps_summary(default: str, content: dict) -> str:
    """What painted lesions lose with fewer reverse steps, a row for each sampler and number of steps.

    Args:
        default: what the row of the method with its own settings is called.
        content: as ``experiments.regions`` writes it; the method first, each other row called after its options.
    """
    figures = {"seam_edge": 2, "correlation_edge": 2, "autocorrelation_1": 2, "sd_ratio": 2, "bias": 0}
    lines = [
        "| sampler, steps | step at the edge / real, − 1 | correlation across it | autocorrelation, 1 pixel | "
        "sd / real, − 1 | bias, HU | Wasserstein, HU | AUC at the borders |",
        "|---|---|---|---|---|---|---|---|",
    ]
    method, *others = (name for name in content["methods"] if name != "real")
    for name in (method, *others):
        row = content["methods"][name]
        cells = [_to_real(row, figure, digits) for figure, digits in figures.items()]
        cells = [default if name == method else name, *cells, _mean(row, "wasserstein", 0)]
        lines.append(f"| {' | '.join(cells)} | {row['auc']:.2f} |")
    return "\n".join(lines)


def volumes_summary(sources: Sequence[str], *contents: dict) -> str:
    """Lesions of volumes from slice to slice; in brackets each method's mean divided by that of the same real lesions.

    Args:
        sources: name of each data set.
        contents: as ``experiments.volumes`` writes them, one for each source.
    """
    lines = [
        "| data, class | images | correlation of neighbouring slices | change of the mean | difference of neighbours | "
        "step at the first and last slice | patients |",
        "|---|---|---|---|---|---|---|",
    ]
    for source, content in zip(sources, contents, strict=True):
        for name, row in content["methods"].items():
            cells = [_along_z(row[figure], digits, name) for figure, digits in CONTINUITY.items()]
            patients = max(figure["patients"] for figure in row.values())
            what = f"{source}, {content['meta']['class'].replace('_', ' ')}"
            method, comma, how = name.partition(",")
            images = name if name == "real" else f"`{method}`{comma}{how}"
            lines.append(f"| {what} | {images} | {' | '.join(cells)} | {patients} |")
    return "\n".join(lines)


def _along_z(figure: dict, digits: int, name: str) -> str:
    if figure["mean"] is None:
        return "–"
    ratio = "" if name == "real" or not figure["real"] else f" ({figure['mean'] / figure['real']:.2f})"
    return f"{figure['mean']:.{digits}f}{ratio}"


def _mean(row: dict, figure: str, digits: int) -> str:
    value = row[figure]["mean"]
    return "–" if value is None else f"{value:.{digits}f}"


def _to_real(row: dict, figure: str, digits: int) -> str:
    """The difference to the real lesions with its interval; of these, the figure itself."""
    difference = row[figure]["to_real"]
    if difference is None:
        return _mean(row, figure, digits)
    numbers = [f"{n:+.{digits}f}" for n in (difference["mean"], *difference["ci95"])]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def table2_summary(sources: dict[str, str], *contents: dict) -> str:
    """Dice of the rare class and what the other classes pay for it, a row for each arm.

    Args:
        sources: data as the reader knows them → their rare class, in the order of ``contents``.
        contents: as ``difflung_compare`` writes them.
    """
    lines = [
        "| data | arm | Dice, rare class | difference to `reference` [95 %] | false voxels | normal lung, difference "
        "[95 %] | other pathology, difference [95 %] |",
        "|---|---|---|---|---|---|---|",
    ]
    for (data, rare), content in zip(sources.items(), contents, strict=True):
        reference = content["meta"]["reference"]
        for arm, rows in content.items():
            if arm == "meta":
                continue
            (other,) = set(rows) - {rare, "normal_lung"}
            changes = [
                "–" if arm == reference else shown(rows[name]["diff_to_reference"], 3)
                for name in (rare, "normal_lung", other)
            ]
            false = figure(rows[rare]["false_positive_voxels"], 1)
            cells = [figure(rows[rare]["dice"], 3), changes[0], false, *changes[1:]]
            lines.append(f"| {data} | `{arm}` | {' | '.join(cells)} |")
    return "\n".join(lines)


_CELLS = "In each cell: Dice, and the difference to `reference` with its 95 % interval."


def bench_summary(name: str, content: dict) -> str:
    """The learning curve as picture and table, all arms with their differences to the reference.

    Args:
        name: of the bench's files in ``docs/results``, without suffix.
        content: as ``experiments.bench`` writes it.
    """
    link = f"results/{name}"
    lines = [_picture(content, link), "", *_learning_curve(content, list(ARMS))]
    return "\n".join([*lines, "", f"{_CELLS} {_runs(content)} [All figures]({link}.md)."])


def bench_in_short(name: str, content: dict) -> str:
    """The learning curve for the README: the arms that the claim rests on; as ``bench_summary``."""
    lines = ["What synthetic cases are worth on real CT:", "", _picture(content, f"docs/results/{name}"), ""]
    lines += _learning_curve(content, DECISIVE)
    more = "[More](docs/results.md#the-learning-curve)."
    return "\n".join([*lines, "", f"{_CELLS} {_runs(content)} {more}"])


def _picture(content: dict, link: str) -> str:
    return f"![Dice of {_rare(content)} by number of training patients who have it, a line for each arm]({link}.png)"


def _learning_curve(content: dict, arms: Sequence[str]) -> list[str]:
    numbers, rare = content["numbers"], content["meta"]["rare"]
    counts = [
        (f"all ({next(iter(of.values()))['sources']:.0f})" if number == "all" else number)
        + ("" if content.get("made", {}).get(number, {}).get("rows_kept", True) else f" ({EARLIER})")
        for number, of in numbers.items()
    ]
    lines = [
        f"| Dice of {_rare(content)} on unseen patients, by number of training patients who have it | "
        f"{' | '.join(counts)} | false-positive voxels, relative to `reference` ({' / '.join(numbers)}) |",
        "|---|" + "---|" * (len(counts) + 1),
    ]
    for arm in arms:
        of_numbers = [of.get(arm) for of in numbers.values()]
        references = [of.get("reference") for of in numbers.values()]
        if not any(of_numbers):
            continue
        cells = [
            _dice(row, rare) + _incomplete(row, reference, rare)
            for row, reference in zip(of_numbers, references, strict=True)
        ]
        cells.append("–" if arm == "reference" else " / ".join(_ratio(row, rare) for row in of_numbers))
        lines.append(f"| `{arm}`: {ARMS[arm].explanation} | {' | '.join(cells)} |")
    return lines


def _runs(content: dict) -> str:
    """How many trainings of which length, and with which seeds, which may differ between numbers of patients."""
    meta, patch = content["meta"], " × ".join(map(str, content["meta"]["network"]["patch_size"]))
    seeds: dict[int, list[str]] = {}
    for number, of in content.get("made", dict.fromkeys(content["numbers"], meta)).items():
        seeds.setdefault(len(of["seeds"]), []).append(number)
    told = [
        f"{count} seed{'s' * (count > 1)}" + (f" ({' and '.join(numbers)} patients)" if len(seeds) > 1 else "")
        for count, numbers in seeds.items()
    ]
    return (
        f"{meta['title']}; a small U-Net, patches of {patch}; {meta['rows']} trainings of "
        f"{meta['iterations']:,} iterations, {len(meta['folds'])} folds × {', '.join(told)}; means over trainings."
    )


def _rare(content: dict) -> str:
    return content["meta"]["rare"].replace("_", " ")


def _dice(row: dict | None, rare: str) -> str:
    if row is None:
        return "–"
    difference = row["differences"].get("reference", {}).get(rare, {}).get("dice")
    dice = figure(row["figures"][rare]["dice"] | {"sd": None}, 3)
    return f"{dice}, {shown(difference['diff'], 3)}" if difference else dice


def _incomplete(row: dict | None, reference: dict | None, rare: str) -> str:
    """Says how many of the reference's trainings an arm has, if it lacks some: its mean is not of the same patients."""
    if row is None or reference is None:
        return ""
    trainings, all_of_them = (of["figures"][rare]["dice"]["trainings"] for of in (row, reference))
    return f" ({trainings} of {all_of_them} trainings)" if trainings < all_of_them else ""


def _ratio(row: dict | None, rare: str) -> str:
    compared = row["differences"].get("reference", {}).get(rare, {}).get("false_voxels") if row else None
    return f"{compared['ratio']:.1f}" if compared and compared["ratio"] is not None else "–"
