"""The tables of the experiments' pages in Markdown, each from the raw results of one experiment."""

from __future__ import annotations

from statistics import mean, median, stdev

from nnunet_difflung.comparison.table2 import rests_on, shown

_OF_CLASS = (("hu_bias", 1, "+"), ("wasserstein", 1, ""), ("sd_ratio", 2, ""), ("texture", 3, ""))
"""Figures of a painted class: key, digits, sign."""


def demo_table(demo: dict) -> str:
    """Per-class Dice of both arms on the phantom's test patients."""
    lines = [
        "| Dice on unseen test patients | reference, mean over slices | with synthetic cases | reference, all "
        "voxels | with synthetic cases |",
        "|---|---|---|---|---|",
    ]
    for name in demo["reference"]:
        row = [demo[arm][name] for arm in ("reference", "difflung", "reference_pooled", "difflung_pooled")]
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    meta = demo["meta"]
    lines += [
        "",
        f"{demo['test_cases']} slices of 15 test patients, leaks: {demo['leaks']}, "
        f"{demo['seconds']['total'] / 60:.0f} minutes after installing ({meta['installing_seconds'] / 60:.1f} "
        f"minutes), largest process {meta['peak_memory_gb']:.1f} GB; one seed; {meta['date']}, "
        f"{meta['machine']}.",
    ]
    return "\n".join(lines)


def chain_table(chain: dict) -> str:
    """Shares, painted intensities and Dice of a run of ``main_chain.py``."""
    meta, lines = chain["meta"], []
    shape, patch, batch = meta["median_shape_and_patch"]
    lines += [
        f"`{meta['command']}`, {meta['date']}, {meta['machine']}; slices of {shape[0]:.0f} × {shape[1]:.0f} "
        f"pixels (median), U-Net patches of {patch[0]} × {patch[1]}, batch {batch}; leaks: {chain['leaks']}.",
        "",
        "| fold | class | share of lung before | after | painted bias | Wasserstein | sd, painted / real |",
        "|---|---|---|---|---|---|---|",
    ]
    for fold in chain["augment"]["folds"]:
        totals = [sum(fold[key].values()) for key in ("before", "after")]
        for name in fold["before"]:
            quality = fold["quality"].get(name)
            figures = (
                [f"{quality['bias']:+.1f}", f"{quality['wasserstein']:.1f}", f"{quality['sd_ratio']:.2f}"]
                if quality
                else ["–"] * 3
            )
            lines.append(
                f"| {fold['fold']} | {name} | {fold['before'][name] / totals[0]:.1%} | "
                f"{fold['after'][name] / totals[1]:.1%} | " + " | ".join(figures) + " |"
            )
    lines += [
        "",
        "| fold | class | reference voxels | Dice (all voxels), reference | with synthetic cases | Dice "
        "(mean over slices), reference | with synthetic cases |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in chain["validation"]:
        for name, reference in row["reference"].items():
            ours = row["difflung"][name]
            lines.append(
                f"| {row['fold']} | {name} | {reference['voxels']} | {reference['dice_pooled']:.3f} | "
                f"{ours['dice_pooled']:.3f} | {reference['dice_mean']:.3f} | {ours['dice_mean']:.3f} |"
            )
    return "\n".join(lines)


def _run(meta: dict) -> str:
    """The command, date, seeds, folds and network of a table."""
    network, seeds = meta["network"], ", ".join(map(str, meta["seeds"]))
    folds = ", ".join(map(str, meta["folds"])) + (" (a seed for each fold)" if meta.get("paired") else "")
    patch = " × ".join(map(str, network["patch_size"]))
    return (
        f"`{meta['command'].split(';')[0]}`, {meta['date'][:10]}; seeds {seeds}, folds {folds}; U-Net patches of "
        f"{patch}, batch {network['batch_size']}, {meta['iterations']} iterations."
    )


def figure(value: dict | None, digits: int, sign: str = "") -> str:
    """A mean with its standard deviation, where there is one."""
    if value is None or value["mean"] is None:
        return "–"
    return f"{value['mean']:{sign}.{digits}f}" + (f" ± {value['sd']:.{digits}f}" if value["sd"] is not None else "")


def table1(content: dict) -> str:
    """Figures of painted validation slices, a row for each method and reference."""
    meta = content["meta"]
    rows = {name: row for name, row in content.items() if name != "meta" and "psnr_lung" in row}
    lines = [
        f"{meta['slices']} validation slices of {meta['patients']} patients, {meta['samples']} samples of each "
        f"mask, {meta['sampling']}; mean ± sd over patients and seeds. Folds "
        f"{', '.join(map(str, meta['folds']))}, generator seeds {', '.join(map(str, meta['seeds']))}; "
        f"{meta['date'][:10]}.",
        "",
        "| method | PSNR lung, dB | SSIM lung | PSNR lung of the mean image | MAE lung | s / image |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        seconds = "–" if row["seconds_per_image"] is None else f"{row['seconds_per_image']:.2f}"
        lines.append(
            f"| `{name}` | {figure(row['psnr_lung'], 2)} | {figure(row['ssim_lung'], 3)} | "
            f"{figure(row.get('psnr_lung_of_mean'), 2)} | {figure(row['mae_lung'], 1)} | {seconds} |"
        )
    lines += [
        "",
        f"| class | method | bias, {meta['unit']} | Wasserstein | sd, painted / real | texture distance | diversity |",
        "|---|---|---|---|---|---|---|",
    ]
    names = [name for name in content if name != "meta" and name != "neighbour"]
    for group in dict.fromkeys(group for name in names for group in content[name]["hu_bias"]):
        for name in names:
            row = content[name]
            cells = [
                figure(row[key].get(group), digits, sign) for key, digits, sign in (*_OF_CLASS, ("diversity", 1, ""))
            ]
            lines.append(f"| {group} | `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def table2(content: dict) -> str:
    """Dice of the arms and their differences to the reference."""
    meta, arms = content["meta"], {name: rows for name, rows in content.items() if name != "meta"}
    classes = list(next(iter(arms.values())))
    lines = [
        f"{meta['scored']}. {_run(meta)}",
        "",
        "| class | arm | Dice | difference to the reference [95 %] | variance of (degrees of freedom) | all voxels | "
        "false voxels in patients without the class |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in classes:
        for arm, rows in arms.items():
            row, difference = rows[group], rows[group]["diff_to_reference"]
            compared = [shown(difference, 3), rests_on(difference)] if arm != meta["reference"] else ["–", "–"]
            lines.append(
                f"| {group} ({row['dice']['patients']} patients) | `{arm}` | {figure(row['dice'], 3)} | "
                f"{' | '.join(compared)} | {figure(row['pooled'], 3)} | {figure(row['false_positive_voxels'], 1)} |"
            )
    return "\n".join(lines)


def probe_table(content: dict) -> str:
    """AUCs of the shortcut probe, a row for each method."""
    lines = [
        "| AUC | synthetic against its own host | against real lesion borders | outlines alone | by lot | a known "
        "seam |",
        "|---|---|---|---|---|---|",
    ]
    keys = ("paired", "real_borders", "outlines_alone", "control", "known_seam")
    lines += [
        f"| `{row['method']}` | " + " | ".join(figure(row[key], 2) for key in keys) + " |" for row in content["rows"]
    ]
    return "\n".join(lines)


def ablation_table(content: dict) -> str:
    """Dice of the small segmenter and painted intensities for each variant, mean ± sd over seeds."""
    rows, meta = content["rows"], content["meta"]
    settings = next(iter(rows.values()))["wanted"]
    seeds = sorted({key for row in rows.values() for key in row if key.startswith("seed ")})
    classes = list(next(iter(rows.values()))[seeds[0]]["dice"])
    lines = [
        f"`{meta['command']}`, {meta['date']}, {meta['machine']}; {', '.join(seeds)}; phantom drawn with seed "
        f"{meta['phantom_seed']}, {meta['pixels']} pixels, small U-Net of "
        f"{settings['iterations']} iterations, {settings['segmenters']} in each seed; mean ± sd over seeds.",
        "",
        f"| variant | {' | '.join(f'Dice {name}' for name in classes)} | bias, HU | Wasserstein | sd, painted / "
        f"real | dropped | painting, s |",
        "|---|" + "---|" * (len(classes) + 5),
    ]
    for name, row in rows.items():
        runs = [row[key] for key in seeds if key in row]
        dice = [_spread([sum(run["dice"][group]) / len(run["dice"][group]) for run in runs], 3) for group in classes]
        painted = [run["quality_of_all"] for run in runs if run.get("quality_of_all")]
        rare = next(iter(painted[0]), None) if painted else None
        figures = (
            [
                _spread([quality[rare][key] for quality in painted], digits, sign)
                for key, digits, sign in (("bias", 1, "+"), ("wasserstein", 1, ""), ("sd_ratio", 2, ""))
            ]
            if rare
            else ["–"] * 3
        )
        figures += (
            [
                f"{sum(run['dropped'] for run in runs)} of {sum(run['cases'] + run['dropped'] for run in runs)}",
                f"{sum(run['painting_seconds'] for run in runs) / len(runs):.0f}",
            ]
            if painted
            else ["–"] * 2
        )
        lines.append(f"| {name} | {' | '.join([*dice, *figures])} |")
    return "\n".join(lines)


def sampler_table(content: dict) -> str:
    """Painted intensities of the rare class and of normal lung by sampler and steps, mean ± sd over seeds."""
    rows, meta = content["rows"], content["meta"]
    groups = list(next(iter(next(iter(rows.values())).values()))["hu_bias"])
    shown = [name for name in ("normal_lung", "emphysema") if name in groups] or groups[:2]
    columns = [f"{what} {name}" for name in shown for what in ("bias", "Wasserstein", "sd, painted / real", "texture")]
    lines = [
        f"`{meta['command']}`, {meta['date']}, {meta['machine']}; {meta['method']}, {meta['slices']} validation "
        f"slices, {meta['samples']} samples of each; mean ± sd over {len(next(iter(rows.values())))} seeds.",
        "",
        f"| sampler and steps | PSNR lung | of the mean image | {' | '.join(columns)} | s / image |",
        "|---|" + "---|" * (len(columns) + 3),
    ]
    for name, seeds in sorted(rows.items(), key=lambda row: (row[0].split()[0], int(row[0].split()[1]))):
        runs = list(seeds.values())
        cells = [_spread([run[key]["mean"] for run in runs], 2) for key in ("psnr_lung", "psnr_lung_of_mean")]
        cells += [
            _spread([run[key][group]["mean"] for run in runs], digits, sign)
            for group in shown
            for key, digits, sign in _OF_CLASS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {mean(run['seconds_per_image'] for run in runs):.2f} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int, sign: str = "") -> str:
    text = f"{mean(values):{sign}.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


def interval_tables(content: dict) -> str:
    """Lowest coverage of each kind of simulation, and single cells, before and now."""
    meta, rows = content["meta"], content["rows"]
    names = ("before", "now", "fold means", "trainings", "corrected resampled t")
    lines = [
        f"`{meta['command']}`, {meta['date'][:10]}, {meta['machine']}; {meta['repeats']} experiments in each cell.",
        "",
        "| lowest coverage (median width) | scored | cells | before | now | fold means | all trainings | corrected "
        "resampled t |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, test, counts in dict.fromkeys((row["kind"], row["test"], row["counts"]) for row in rows):
        cells = [row for row in rows if (row["kind"], row["test"]) == (kind, test) and "now" in row]
        figures = []
        for name in names:
            values = [row[name] for row in cells if name in row]
            figures.append(
                f"{min(coverage for coverage, _ in values):.0%} ({median(width for _, width in values):.2f})"
                if values
                else "–"
            )
        title = kind if counts else f"*{kind}*"
        scored = "test patients" if test else "validation"
        lines.append(f"| {title} | {scored} | {len(cells)} | {' | '.join(figures)} |")
    lines += [
        "",
        "| normal, trainings vary 4 times as much as patients | patients | before | now |",
        "|---|---|---|---|",
    ]
    for seeds, folds, patients in ((1, 1, 30), (1, 2, 30), (1, 5, 6), (1, 5, 30), (1, 5, 100), (3, 1, 6), (3, 5, 30)):
        (row,) = (
            row
            for row in rows
            if (row["kind"], row["test"], row["ratio"]) == ("normal", False, 4)
            and (row["seeds"], row["folds"], row["patients"]) == (seeds, folds, patients)
        )
        shown_cells = [f"{row[name][0]:.0%} ({row[name][1]:.2f})" if name in row else "none" for name in names[:2]]
        lines.append(f"| {_count(seeds, 'seed')}, {_count(folds, 'fold')} | {patients} | {' | '.join(shown_cells)} |")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def learning_rate_table(content: dict) -> str:
    """Dice of the rare class by learning rate and schedule, a row for each training."""
    meta = content["meta"]
    lines = [
        f"{meta['date']}, {meta['machine']}.",
        "",
        "| trainer | peak | cycles | share of the peak in the last cycle | Dice emphysema, all voxels | mean over "
        "slices |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        settings, dice = row["settings"], row["validation_fold_0"]["emphysema"]
        rates = [str(settings.get(key, "–")) for key in ("peak", "cycles", "end_envelope")]
        lines.append(
            f"| `{row['trainer']}` | {' | '.join(rates)} | {dice['dice_pooled']:.2f} | {dice['dice_mean']:.2f} |"
        )
    return "\n".join(lines)


def timesteps_table(content: dict) -> str:
    """Texture that an ideal denoiser keeps, by spacing and number of timesteps."""
    meta, rows = content["meta"], content["rows"]
    spacings = list(dict.fromkeys(row["timesteps"] for row in rows))
    lines = [
        f"`{meta['command']}`, {meta['date']}, {meta['machine']}; seed {meta['seed']}; true standard deviation "
        f"{rows[0]['true_sd_hu']:.0f} HU.",
        "",
        f"| steps | {' | '.join(f'sd, {spacing}' for spacing in spacings)} |",
        "|---|" + "---|" * len(spacings),
    ]
    for steps in dict.fromkeys(row["steps"] for row in rows):
        kept = {row["timesteps"]: row["sd_hu"] for row in rows if row["steps"] == steps}
        lines.append(f"| {steps} | {' | '.join(f'{kept[spacing]:.1f} HU' for spacing in spacings)} |")
    return "\n".join(lines)
