"""Could a reader tell planned masks from real ones? Uniform against real places, any hosts against alike ones.

    python -m experiments.mask_likeness -d 801 811 -o docs/results/masks.json

For each fold and seed, masks are planned from the fold's training cases as ``difflung_augment --method copy_paste
For each fold and seed, masks are planned from the fold's training cases as ``difflung_augment --method copy_paste
--dry-run`` plans them: with uniform places and 6 % of lung for each class (``uniform``), and with the default preset,
with ``--hosts any`` (``any``) and as it is (``alike``). Each figure is compared with that of the training cases' own
lesions (``lesions.likeness``): the AUC is the mean over folds and seeds. No image is painted and nothing is written to
the datasets. The time is that of the processor for planning alone, on one core.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunet_difflung.config import BalanceConfig, preset
from nnunet_difflung.dataset.cache import check_cases
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.reading import with_class_counts
from nnunet_difflung.lesions.balance import collect_lesions, make_plan
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.lesions.plan import Plan
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import read_json, write_json

ARMS = {
    "uniform": BalanceConfig(),
    "any": replace(preset("default").balance, hosts="any"),
    "alike": preset("default").balance,
}


def uses_of_hosts(plan: Plan) -> dict[str, float]:
    """How many hosts a plan has, and how often each of them is used."""
    uses = list(Counter(case.host for case in plan.cases).values()) or [0]
    return {"hosts": len(uses), "median": float(np.median(uses)), "most": max(uses)}


def rows_of(raw: RawDataset, seeds: list[int], folds: list[int] | None = None) -> list[dict]:
    """One row for each arm, fold and seed: numbers, shares and the figures of each class."""
    facts = check_cases(raw, 1)
    raw = with_class_counts(raw, facts)
    labels = {identifier: raw.read_label(identifier)[0].astype(np.uint8) for identifier in raw.cases}
    of_cases: dict[str, list[Lesion]] = {}
    rows = []
    for fold in folds or raw.folds():
        training = raw.training_cases(fold)
        lesions = collect_lesions(training, facts, raw.roles, labels.__getitem__, of_cases)
        for arm, balance in ARMS.items():
            for seed in seeds:
                begun = time.process_time()
                config: BalanceConfig = replace(balance, seed=seed)
                plan = make_plan([facts[i] for i in training], lesions, raw.roles, config, fold, labels.__getitem__)
                seconds = time.process_time() - begun
                rows.append(
                    {
                        "arm": arm,
                        "fold": fold,
                        "seed": seed,
                        "cases": len(plan.cases),
                        "slices": plan.slices,
                        "uses_of_hosts": uses_of_hosts(plan),
                        "lesions": sum(not op.around for case in plan.cases for op in case.operations),
                        "milliseconds_a_slice": round(1000 * seconds / max(1, plan.slices), 1),
                        "targets": plan.targets,
                        "voxels_before": plan.before,
                        "voxels_planned": plan.after,
                        "notes": plan.notes,
                        "likeness": plan.likeness,
                    }
                )
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """Arm, class and figure → mean, lowest and highest AUC over folds and seeds, and means of the medians."""
    found: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows:
        for name, figures in row["likeness"].items():
            for figure, values in figures.items():
                found.setdefault((name, figure, row["arm"]), []).append(values)
    return [
        {
            "class": name,
            "figure": figure,
            "arm": arm,
            "auc": round(float(np.mean([v["auc"] for v in values])), 3),
            "lowest": min(v["auc"] for v in values),
            "highest": max(v["auc"] for v in values),
            "planned": round(float(np.mean([v["planned"] for v in values])), 3),
            "real": round(float(np.mean([v["real"] for v in values])), 3),
            "plans": len(values),
        }
        for (name, figure, arm), values in sorted(found.items())
    ]


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("-d", nargs="+", required=True, metavar="DATASET", help="ids or names in $nnUNet_raw")
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the plans (default: 1 2 3)")
    p.add_argument("-f", type=int, nargs="+", metavar="FOLD", help="folds (default: all)")
    p.add_argument("-o", type=Path, required=True, metavar="FILE", help="JSON file; the datasets' entries are replaced")
    options = p.parse_args()
    content = read_json(options.o) if options.o.is_file() else {}
    for dataset in options.d:
        raw = open_raw_dataset(dataset)
        rows = rows_of(raw, options.seeds, options.f)
        seeds, folds = (" ".join(map(str, part or [])) for part in (options.seeds, options.f))
        content[raw.name] = {
            "meta": {
                "command": f"python -m experiments.mask_likeness -d {dataset} --seeds {seeds}"
                + f"{f' -f {folds}' if folds else ''} -o {options.o}",
                "date": time.strftime("%Y-%m-%d"),
                "versions": versions(),
                "machine": machine(),
            },
            "summary": summary(rows),
            "plans": rows,
        }
        write_json(options.o, content)
        for row in content[raw.name]["summary"]:
            print(raw.name, *row.values())


if __name__ == "__main__":
    main()
