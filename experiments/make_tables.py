"""Writes the tables in README.md and docs/results.md from the raw results in docs/results/.

    python experiments/make_tables.py
"""
from __future__ import annotations

import re
from pathlib import Path

from nnunet_difflung.files import read_json, write_bytes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"


def demo_table(demo: dict) -> str:
    """Per-class Dice of both arms on the phantom's test patients."""
    lines = ["| Dice on unseen test patients | reference, mean over slices | with synthetic cases | reference, all "
             "voxels | with synthetic cases |", "|---|---|---|---|---|"]
    for name in demo["reference"]:
        row = [demo[arm][name] for arm in ("reference", "difflung", "reference_pooled", "difflung_pooled")]
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    meta = demo["meta"]
    lines += ["", f"{demo['test_cases']} slices of 15 test patients, leaks: {demo['leaks']}, "
              f"{demo['seconds']['total'] / 60:.0f} minutes after installing ({meta['installing_seconds'] / 60:.1f} "
              f"minutes), largest process {meta['peak_memory_gb']:.1f} GB; one seed; {meta['date']}, "
              f"{meta['machine']}."]
    return "\n".join(lines)


def chain_table(chain: dict) -> str:
    """Shares, painted intensities and Dice of a run of ``main_chain.py``."""
    meta, lines = chain["meta"], []
    shape, patch, batch = meta["median_shape_and_patch"]
    lines += [f"`{meta['command']}`, {meta['date']}, {meta['machine']}; slices of {shape[0]:.0f} × {shape[1]:.0f} "
              f"pixels (median), U-Net patches of {patch[0]} × {patch[1]}, batch {batch}; leaks: {chain['leaks']}.", "",
              "| fold | class | share of lung before | after | painted bias | Wasserstein | sd, painted / real |",
              "|---|---|---|---|---|---|---|"]
    for fold in chain["augment"]["folds"]:
        totals = [sum(fold[key].values()) for key in ("before", "after")]
        for name in fold["before"]:
            quality = fold["quality"].get(name)
            figures = [f"{quality['bias']:+.1f}", f"{quality['wasserstein']:.1f}", f"{quality['sd_ratio']:.2f}"] \
                if quality else ["–"] * 3
            lines.append(f"| {fold['fold']} | {name} | {fold['before'][name] / totals[0]:.1%} | "
                         f"{fold['after'][name] / totals[1]:.1%} | " + " | ".join(figures) + " |")
    lines += ["", "| fold | class | reference voxels | Dice (all voxels), reference | with synthetic cases | Dice "
              "(mean over slices), reference | with synthetic cases |", "|---|---|---|---|---|---|---|"]
    for row in chain["validation"]:
        for name, reference in row["reference"].items():
            ours = row["difflung"][name]
            lines.append(f"| {row['fold']} | {name} | {reference['voxels']} | {reference['dice_pooled']:.3f} | "
                         f"{ours['dice_pooled']:.3f} | {reference['dice_mean']:.3f} | {ours['dice_mean']:.3f} |")
    return "\n".join(lines)


def fill(path: Path, name: str, table: str) -> None:
    """Replaces what stands between ``<!-- name -->`` and ``<!-- end of name -->``."""
    text, marks = path.read_text(), (f"<!-- {name} -->", f"<!-- end of {name} -->")
    pattern = re.compile(re.escape(marks[0]) + ".*?" + re.escape(marks[1]), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{path} has no {marks[0]} … {marks[1]}")
    write_bytes(path, pattern.sub(lambda _: f"{marks[0]}\n{table}\n{marks[1]}", text).encode())


def main() -> None:
    """Fills every table whose raw results are there."""
    demo = demo_table(read_json(RESULTS / "demo.json"))
    fill(ROOT / "README.md", "demo", demo)
    fill(ROOT / "docs" / "results.md", "demo", demo)
    fill(ROOT / "docs" / "results.md", "medseg", chain_table(read_json(RESULTS / "medseg_main_chain.json")))


if __name__ == "__main__":
    main()
