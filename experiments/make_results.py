"""Makes docs/results/table1_<set>.json and table2_<set>.json from finished runs of ``run_arms.py``.

    python -m experiments.make_results --set phantom -o WORK --seeds 1 2 3 -f 0 --arms reference cbmat mat copy_paste

Table 1 merges the tables that ``difflung_evaluate`` wrote for every seed; ``regions_<set>.json`` is table 1 by region.
Table 2 is the output of ``difflung_compare`` over all seeds and folds. If the set has test patients,
``table2_<set>.json`` holds their scores and ``table2_<set>_validation.json`` those of nnU-Net's validation patients;
without test patients ``table2_<set>.json`` holds the validation.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from experiments.regions import markdown as regions_markdown
from experiments.run_arms import ARMS, SETS
from nnunet_difflung.commands.compare import main as compare
from nnunet_difflung.demonstration.small_trainings import CONFIGURATION
from nnunet_difflung.evaluation.table1 import markdown, merge_table1
from nnunet_difflung.paths import NNUNET_PREPROCESSED, NNUNET_RAW, NNUNET_RESULTS, PATH_VARIABLES, fold_name
from nnunet_difflung.runtime.files import read_json, write_bytes, write_json

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def table1(roots: list[Path], target: Path, about: dict) -> None:
    """Merges the seeds' tables."""
    missing = [root.name for root in roots if not (root / "table1.json").is_file()]
    if missing:
        raise SystemExit(f"no table1.json in {', '.join(missing)}; finish run_arms.py, or leave those seeds out")
    merged = merge_table1([read_json(root / "table1.json") for root in roots])
    merged["meta"] |= {"command": about["command"]}
    write_json(target, merged)
    write_bytes(target.with_suffix(".md"), markdown(merged).encode())


def by_region(roots: list[Path], target: Path, about: dict) -> None:
    """Table 1 by region, of the first seed: further seeds paint the same lesions."""
    content = read_json(roots[0] / "regions.json")
    content["meta"] |= {"command": about["command"]}
    write_json(target, content)
    write_bytes(target.with_suffix(".md"), regions_markdown(content).encode())


def paired(roots: list[Path], folds: list[int], kind: str) -> Path:
    """An nnUNet_results folder in which each fold comes from its own seed (``run_arms.py --pair``)."""
    folder, name = roots[0].parent / "paired" / NNUNET_RESULTS, SETS[kind].name
    shutil.rmtree(folder, ignore_errors=True)
    for root, fold in zip(roots, folds, strict=True):
        for training in (root / NNUNET_RESULTS / name).glob(f"nnUNetTrainer*/{fold_name(fold)}"):
            model = folder / name / training.parent.name
            model.mkdir(parents=True, exist_ok=True)
            for file in ("dataset.json", "plans.json"):
                shutil.copyfile(training.parent / file, model / file)
            (model / training.name).symlink_to(training)
    return folder


def table2(roots: list[Path], options: argparse.Namespace, target: Path, about: dict, predictions: str | None) -> None:
    """Compares the arms' trainings over all seeds with the reference and with each arm of ``--against``."""
    for variable in PATH_VARIABLES:
        os.environ[variable] = str(roots[0] / variable)
    results = [paired(roots, options.f, options.set)] if options.pair else [r / NNUNET_RESULTS for r in roots]
    arguments = [
        "-d",
        str(SETS[options.set].number),
        "-f",
        *map(str, options.f),
        "-c",
        CONFIGURATION,
        "--length",
        options.length,
        "--results",
        *map(str, results),
        "--arms",
        *options.arms,
        *(["--predictions", predictions] if predictions else []),
        "-o",
        str(target),
    ]
    against = {}
    for opponent in options.against:
        compare([*arguments, "--reference", opponent])
        against[opponent] = read_json(target)
    compare(arguments)
    content = read_json(target)
    for arm in options.arms:
        for name, row in content[arm].items():
            row |= {f"diff_to_{opponent}": table[arm][name]["diff_to_reference"] for opponent, table in against.items()}
    content["meta"] |= {**about, "cases": {root.name: cases_of(root, options.set) for root in roots}}
    write_json(target, content)


def cases_of(root: Path, kind: str) -> dict:
    """Numbers of planned, injected and dropped cases of each method and fold."""
    manifest = root / NNUNET_RAW / SETS[kind].name / "difflung_manifest.json"
    runs = read_json(manifest)["runs"] if manifest.is_file() else []
    return {
        f"{run['method']} fold {run['fold']}": {key: run["summary"][key] for key in ("planned", "injected")}
        | {"dropped": len(run["summary"]["dropped"])}
        for run in runs
    }


def main() -> None:
    """Entry of the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--set", required=True, choices=SETS)
    p.add_argument("-o", required=True, metavar="WORK", help="the folder given to run_arms.py")
    p.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    p.add_argument("-f", nargs="+", type=int, default=[0])
    p.add_argument("--pair", action="store_true", help="if run_arms.py ran with --pair")
    p.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    p.add_argument(
        "--against",
        nargs="*",
        default=["mat", "copy_paste"],
        choices=ARMS,
        help="further arms to compare all arms with, in addition to the reference",
    )
    p.add_argument("--length", default="5epochs")
    p.add_argument(
        "--name", help="name of the result files, for a set with several experiments (default: name of the set)"
    )
    p.add_argument(
        "--tables",
        nargs="+",
        default=["1", "2", "regions"],
        choices=("1", "2", "regions"),
        help="tables to write; regions is table 1 by region, of the first seed",
    )
    o = p.parse_args()
    name = o.name or o.set
    work = Path(o.o).resolve()
    o.against = [arm for arm in o.against if arm in o.arms]
    roots = [work / f"seed_{seed}" for seed in o.seeds]
    plans = read_json(roots[0] / NNUNET_PREPROCESSED / SETS[o.set].name / "nnUNetPlans.json")["configurations"]
    made = f"python -m experiments.make_results {' '.join(sys.argv[1:]).replace(o.o, 'WORK')}"
    about = {
        "command": "; ".join([*read_json(work / "run.json")["commands"], made]),
        "seeds": o.seeds,
        "folds": o.f,
        "paired": o.pair,
        "length": o.length,
        "iterations": 250 * int(o.length.split("epoch")[0]),
        "network": {
            "patch_size": plans[CONFIGURATION].get("patch_size", plans["2d"]["patch_size"]),
            "batch_size": plans[CONFIGURATION]["batch_size"],
            "architecture": plans[CONFIGURATION]["architecture"]["arch_kwargs"]["features_per_stage"],
        },
    }
    if "1" in o.tables:
        table1(roots, RESULTS / f"table1_{name}.json", about)
    if "regions" in o.tables:
        by_region(roots, RESULTS / f"regions_{name}.json", about)
    if "2" in o.tables:
        test = (roots[0] / NNUNET_RAW / SETS[o.set].name / "imagesTs").is_dir()
        table2(roots, o, RESULTS / f"table2_{name}{'_validation' if test else ''}.json", about, None)
        if test:
            table2(roots, o, RESULTS / f"table2_{name}.json", about, "test")


if __name__ == "__main__":
    main()
