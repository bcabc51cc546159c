"""How long does the whole difflung_augment take for one fold, and where does the time go?

Builds a phantom (--distinct slices of 5 to a patient, the rest are copies under other names), runs the real command on
its fold 0 and reads the stages from its report. The training runs for --epochs; what it would take for the preset's all
follows from the median step in its log and from what the stage took beside its steps (compiling, sheets), and the row
says so. What the gate measured on the painted cases is in the row; --pictures keeps the preview, the loss curve and the
training's last sheet of samples. There is no opponent: the public code has no such command.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.setting import multiply, phantom
from benchmarks.timing import parser, row, seconds, write_rows
from experiments.further import of_augment
from nnunet_difflung.config import METHOD, PAPERS_METHOD, preset
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.report import LOG
from nnunet_difflung.paths import NNUNET_RAW, fold_name, results_folder
from nnunet_difflung.runtime.files import read_json

OWN = ("-d", "-f", "--preset", "-device", "-np", "--epochs", "--gate", "--method")  # --augment may not name them

STAGES = {
    "cache": ("checking cases",),
    "plan": ("planning", "comparing images"),
    "train": ("training",),
    "paint": ("painting",),
    "inject": ("adding cases",),
}  # as the results on record name them → as the command does


def run(o: argparse.Namespace, name: str) -> tuple[float, dict, list[dict]]:
    """The command's seconds, its report on the fold, and the rows of the training's log."""
    typed = [
        "-d",
        "800",
        "-f",
        "0",
        "--preset",
        o.preset,
        "-device",
        o.device,
        "-np",
        str(o.np),
        "--epochs",
        str(o.epochs),
        "--gate",
        "report",
        "--method",
        o.method,
        *o.augment,
    ]
    command = [sys.executable, "-m", "nnunet_difflung.commands.augment", *typed]
    total = seconds(lambda: subprocess.run(command, check=True))
    results = results_folder(name, o.method)
    log = [json.loads(line) for line in (results / fold_name(0) / LOG).read_text().splitlines()]
    if o.pictures:
        keep_pictures(results, o.pictures)
    return total, read_json(results / "augment_report.json")["folds"][0], log


def keep_pictures(results: Path, prefix: Path) -> None:
    """Copies what a method's run has drawn to ``prefix``_preview.png, _progress.png and _samples.png."""
    fold = results / fold_name(0)
    drawn = {"preview": results / "preview.png", "progress": fold / "progress.png"}
    drawn["samples"] = max((fold / "samples").glob("step_*.png"))
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for kind, picture in drawn.items():
        shutil.copyfile(picture, prefix.with_name(f"{prefix.name}_{kind}.png"))


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 64, repeats=1)
    p.add_argument("--slices", type=int, default=160, help="of the dataset (default: %(default)s)")
    p.add_argument("--distinct", type=int, default=160, help="of them not copied (default: %(default)s)")
    p.add_argument("--preset", default="fast", choices=("fast", "default", "paper"))
    p.add_argument("--method", choices=(METHOD, PAPERS_METHOD), help="(default: the preset's)")
    p.add_argument("--epochs", type=int, default=8, help="that are trained (default: %(default)s)")
    p.add_argument("-np", type=int, default=2, help="threads that read cases (default: 2)")
    p.add_argument("--pictures", type=Path, metavar="PREFIX", help="where pictures are kept (default: they are not)")
    p.add_argument("--augment", nargs=argparse.REMAINDER, default=[], help="further options of difflung_augment, last")
    o = p.parse_args()
    try:
        of_augment("--augment", o.augment, *OWN)
    except BadInput as error:
        p.error(str(error))
    o.method = o.method or preset(o.preset).method
    full = preset(o.preset).generator.epochs
    with phantom(o.size, o.distinct // 5, 5, o.np) as folder:
        raw = next((folder / NNUNET_RAW).iterdir())
        multiply(raw, o.slices // o.distinct)
        name, cases = raw.name, len(open_raw_dataset("800").cases)
        total, found, log = run(o, name)
    took = found["seconds_of_all_folds_together"]
    stages = {key: sum(took[stage] for stage in names) for key, names in STAGES.items()}
    step = median((b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in pairwise(log))
    trained = log[-1]["step"]
    starting, steps = stages["train"] - step * trained, round(trained * full / o.epochs)
    stages = {**stages, "train": starting + step * steps, "start, audit": total - sum(stages.values())}
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    write_rows(
        o.output,
        [
            row(
                f"whole difflung_augment, {o.method}, preset {o.preset}, {cases} slices of {o.size}²",
                [sum(stages.values()) / 60],
                None,
                "min",
                o.device,
                {
                    "note": "the gate's figures after so many epochs; a full training's are in docs/results.md",
                    "epochs": o.epochs,
                    "injected": found["injected"],
                    "painted": found["quality"],
                },
                stages_s={key: round(value, 1) for key, value in stages.items()},
                steps=steps,
                ms_a_step=1000 * step,
                steps_measured=trained,
                total_measured_s=total,
                training_beside_its_steps_s=starting,
                peak_host_GiB=peak,
                threads=o.np,
            )
        ],
    )


if __name__ == "__main__":
    main()
