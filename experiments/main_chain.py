"""Runs the whole chain on a dataset in $nnUNet_raw, fold by fold, with both arms; writes the results as JSON.

    python -m experiments.main_chain -d 801 -f 0 1 2 --preset fast -o docs/results/NAME.json -- --epochs 80

The method is cbmat, as in the results on record. Options after ``--`` are passed to difflung_augment. Both arms of a
fold train at the same time, each on its own core, with the small U-Net of the demo; the Dice come from nnU-Net's own
validation of the fold, on real cases. Finished trainings are not repeated.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import time
from pathlib import Path

from experiments.further import of_augment
from nnunet_difflung.audit.audit import audit_table
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.demonstration.small_trainings import (
    CONFIGURATION,
    installed,
    make_small_configuration,
    pooled_dice,
    side_by_side,
)
from nnunet_difflung.errors import BadInput
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import NNUNET_RESULTS, fold_name, nnunet_folder, raw_folder, results_folder
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import read_json, write_json

METHOD = "cbmat"
ARMS = {"reference": "nnUNetTrainerDiffLungReference", "difflung": METHODS[METHOD].trainer}
ENVIRONMENT = {"nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}


def call(arguments: list[str]) -> None:
    """Runs a command and stops if it fails."""
    print("$", *arguments, flush=True)
    subprocess.run(installed(arguments), env=os.environ | ENVIRONMENT, check=True)


def train_fold(dataset: str, name: str, fold: int, length: str) -> dict:
    """Trains both arms and reads nnU-Net's validation of the fold."""
    results = Path(nnunet_folder(NNUNET_RESULTS), name)
    folders = {
        arm: results / f"{trainer}_{length}__nnUNetPlans__{CONFIGURATION}" / fold_name(fold)
        for arm, trainer in ARMS.items()
    }
    missing = [arm for arm, folder in folders.items() if not (folder / "validation" / "summary.json").is_file()]
    side_by_side(
        {
            results / f"train_{arm}_{fold}.log": [
                "nnUNetv2_train",
                dataset,
                CONFIGURATION,
                str(fold),
                "-tr",
                f"{ARMS[arm]}_{length}",
                "-device",
                "cpu",
                *(["--c"] if any(folders[arm].glob("checkpoint_*.pth")) else []),
            ]
            for arm in missing
        },
        os.environ | ENVIRONMENT,
    )
    labels = {
        str(v): k for k, v in read_json(raw_folder(name) / "dataset.json")["labels"].items() if v and k != "ignore"
    }
    row: dict = {"fold": fold}
    for arm, folder in folders.items():
        summary = read_json(folder / "validation" / "summary.json")
        row[arm] = {
            label: {
                "dice_pooled": round(pooled_dice(summary["metric_per_case"], key), 4),
                "dice_mean": round(summary["mean"][key]["Dice"], 4),
                "voxels": int(sum(c["metrics"][key]["n_ref"] for c in summary["metric_per_case"])),
            }
            for key, label in labels.items()
        }
    return row


def main() -> None:
    """Entry of the command line."""
    own, more = (
        (sys.argv[1:], [])
        if "--" not in sys.argv
        else (sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :])
    )
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-d", required=True, help="dataset id or name")
    p.add_argument("-f", nargs="+", required=True, type=int, help="folds")
    p.add_argument("--preset", default="fast", help="preset of difflung_augment")
    p.add_argument("--length", default="5epochs", help="suffix of the trainers")
    p.add_argument("-o", required=True, help="JSON file to write")
    options = p.parse_args(own)
    try:
        more = of_augment("--", more, "-d", "-f", "--method", "--preset", "-device")
    except BadInput as error:
        p.error(str(error))
    raw, seconds, begun = open_raw_dataset(options.d), {}, time.monotonic()
    call(
        [
            "difflung_augment",
            "-d",
            options.d,
            "-f",
            *map(str, options.f),
            "--method",
            METHOD,
            "--preset",
            options.preset,
            "-device",
            "cpu",
            *more,
        ]
    )
    seconds["augment"], begun = round(time.monotonic() - begun), time.monotonic()
    call(["nnUNetv2_plan_and_preprocess", "-d", options.d, "-c", "2d", "-np", "2"])
    make_small_configuration(raw.preprocessed / "nnUNetPlans.json")
    seconds["plan"], begun = round(time.monotonic() - begun), time.monotonic()
    rows = []
    for fold in options.f:
        rows.append(train_fold(options.d, raw.name, fold, options.length))
        seconds["train"] = round(time.monotonic() - begun)
        write_json(
            options.o,
            {
                "meta": {
                    "command": "python -m experiments.main_chain " + " ".join(sys.argv[1:]),
                    "date": datetime.date.today().isoformat(),
                    "versions": versions(),
                    "seconds": seconds,
                    "machine": machine(),
                    "dataset": raw.name,
                    "dataset_json": {k: raw.dataset_json[k] for k in ("channel_names", "labels")},
                    "median_shape_and_patch": [
                        read_json(raw.preprocessed / "nnUNetPlans.json")["configurations"]["2d"][key]
                        for key in ("median_image_size_in_voxels", "patch_size", "batch_size")
                    ],
                },
                "leaks": audit_table(raw.name)["leaks"],
                "validation": rows,
                "augment": read_json(results_folder(raw.name, METHOD) / "augment_report.json"),
            },
        )
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
