"""Measures how many reverse steps each sampler needs, on validation slices painted by finished generators.

    python -m experiments.samplers -o WORK --seeds 1 2 3 --result docs/results/samplers_phantom.json

WORK is a folder of ``run_arms.py --set phantom``, whose generators are used. Every sampler paints the same validation
masks from the same noise through ``difflung_evaluate``. Every row is written as soon as it is finished; finished rows
are skipped.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from experiments.run_arms import SETS
from nnunet_difflung.commands.evaluate import main as evaluate
from nnunet_difflung.paths import PATH_VARIABLES
from nnunet_difflung.runtime.environment import versions
from nnunet_difflung.runtime.files import read_json, write_json

CHOICES = [
    *(("ddim", n) for n in (5, 10, 15, 20, 25, 50, 250, 1000)),
    *(("dpm", n) for n in (5, 10, 25)),
    *(("unipc", n) for n in (5, 10, 25)),
    *(("ddpm", n) for n in (50, 250)),
]
KEPT = ("psnr_lung", "psnr_lung_of_mean", "hu_bias", "wasserstein", "sd_ratio", "texture", "seconds_per_image")


def painted(options: argparse.Namespace, seed: int, sampler: str, steps: int) -> dict:
    """The figures of one sampler and one seed's generator."""
    root = Path(options.o).resolve() / f"seed_{seed}"
    for variable in PATH_VARIABLES:
        os.environ[variable] = str(root / variable)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table1.json"
        evaluate(
            [
                "-d",
                str(SETS["phantom"].number),
                "-f",
                str(options.f),
                "--methods",
                options.method,
                "--preset",
                "fast",
                "--sampler",
                sampler,
                "--steps",
                str(steps),
                "--samples",
                str(options.samples),
                "--max-slices",
                str(options.max_slices),
                "--seed",
                str(seed),
                "-device",
                options.device,
                "-o",
                str(table),
            ]
        )
        return {key: read_json(table)[options.method][key] for key in KEPT}


def main() -> None:
    """Entry of the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", required=True, metavar="WORK", help="folder of run_arms.py --set phantom")
    p.add_argument("--result", required=True, help="JSON file; rows are added to it")
    p.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    p.add_argument("-f", type=int, default=0, help="fold")
    p.add_argument("--method", default="cbmat", choices=("cbmat", "mat", "none"))
    p.add_argument("--samples", type=int, default=2, help="images painted from each mask")
    p.add_argument("--max-slices", type=int, default=8, help="validation slices")
    p.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    o = p.parse_args()
    path = Path(o.result)
    for seed in o.seeds:
        for sampler, steps in CHOICES:
            content = read_json(path) if path.is_file() else {"rows": {}}
            name, key = f"{sampler} {steps}", f"seed {seed}"
            if key in content["rows"].get(name, {}):
                continue
            content["rows"].setdefault(name, {})[key] = painted(o, seed, sampler, steps)
            write_json(
                path,
                {
                    **content,
                    "meta": {
                        "command": "python -m experiments.samplers " + " ".join(sys.argv[1:]).replace(o.o, "WORK"),
                        "date": datetime.date.today().isoformat(),
                        "versions": versions(),
                        "samples": o.samples,
                        "slices": o.max_slices,
                        "method": o.method,
                        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
                    },
                },
            )
            print(f"{time.strftime('%H:%M:%S')} {name}, seed {seed}", flush=True)


if __name__ == "__main__":
    main()
