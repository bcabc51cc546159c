"""The tables of docs/results.md: the rare class of several experiments at a glance."""

from __future__ import annotations

from experiments.tables import figure
from nnunet_difflung.comparison.table2 import shown


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
