"""Does the memory of difflung_augment grow with the dataset?

Runs the real command (cache, plan, training, painting, injection, audit) on 1, 2 and 4 times the slices, each in a
process of its own, and takes the most memory that the process held. The plan and the training's steps are bounded, so
that only the dataset grows; nnU-Net's fingerprint is there already, as after planning (extracting it takes 2.3 GB
whatever the dataset). The reference is the same process with all slices loaded at once, as float32, as a script would:
what it held is computed from the slices.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.setting import multiply, phantom
from benchmarks.timing import parser, row, write_rows
from nnunet_difflung.paths import NNUNET_PREPROCESSED, NNUNET_RAW, results_folder
from nnunet_difflung.runtime.files import write_json

METHOD = "cbmat"  # as in the results on record
MEASURED = """
import resource, sys
from nnunet_difflung.commands.augment import main
main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_of(command: list[str]) -> float:
    """MiB that a command's own process held at most."""
    out = subprocess.run([sys.executable, "-c", MEASURED, *command], check=True, capture_output=True, text=True).stdout
    return int(out.rsplit("peak", 1)[1]) / 1024


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 256, repeats=1)
    p.add_argument(
        "--patients", type=int, default=30, help="of the phantom at 1×, 5 slices each (default: %(default)s)"
    )
    o = p.parse_args()
    bounded = [
        "-d",
        "800",
        "-f",
        "0",
        "--method",
        METHOD,
        "--preset",
        "fast",
        "-device",
        "cpu",
        "-np",
        "1",
        "--gate",
        "report",
        "--max-synthetic",
        "8",
        "--target-share",
        "emphysema=0.05",
        "--epochs",
        "1",
    ]
    found = {}
    with phantom(o.size, o.patients, 5, 2) as folder:
        raw = next((folder / NNUNET_RAW).iterdir())
        for factor in (1, 2, 4):
            whole = folder / f"x{factor}" / raw.name
            shutil.copytree(raw, whole)
            multiply(whole, factor)
            shutil.move(raw, folder / "kept")
            shutil.move(whole, raw)
            write_json(folder / NNUNET_PREPROCESSED / raw.name / "dataset_fingerprint.json", {"spacings": []})
            found[factor] = [peak_of(bounded) for _ in range(o.repeats)]
            shutil.rmtree(raw)
            shutil.move(folder / "kept", raw)
            shutil.rmtree(Path(results_folder(raw.name, METHOD)).parent)
            shutil.rmtree(folder / NNUNET_PREPROCESSED / raw.name, ignore_errors=True)
    slices = {factor: 5 * o.patients * factor for factor in found}
    loaded = {factor: n * o.size**2 * 5 / 2**20 for factor, n in slices.items()}  # float32 image, uint8 label
    base = min(found[1])
    write_rows(
        o.output,
        [
            row(
                f"peak host memory, {n} slices of {o.size}²",
                found[factor],
                [base + loaded[factor]],
                "MiB",
                "cpu",
                {"growth over 1×": found[factor][0] / base},
            )
            for factor, n in slices.items()
        ],
    )


if __name__ == "__main__":
    main()
