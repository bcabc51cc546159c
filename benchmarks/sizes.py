"""What do the stages beside training cost at clinical sizes, and does the cost of a slice grow with the dataset?

Runs the real command with a method that needs no network, on 1, 2 and 4 times the slices of a phantom; every stage but
the networks' is the same for all methods. nnU-Net's fingerprint is extracted before, by its own command, and the audit
is run again afterwards by ours; both with their imports.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys

from benchmarks.setting import PHANTOM, multiply, phantom
from benchmarks.timing import RESULTS, parser, row, seconds, write_rows
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.paths import NNUNET_PREPROCESSED, NNUNET_RAW, NNUNET_RESULTS, dataset_number, results_folder
from nnunet_difflung.runtime.files import read_json

METHOD = "copy_paste"
STAGES = ("checking cases", "planning", "comparing images", "painting", "adding cases")
_FINGERPRINT = (
    "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import extract_fingerprint_entry as e; e()"
)


def stages_of(processes: int) -> tuple[dict[str, float], int, float]:
    """Seconds of each stage on the phantom, the number of painted slices, and GiB that a process held at most."""
    number, np = str(dataset_number(PHANTOM)), ("-np", str(processes))
    found = {"fingerprint (nnU-Net)": _timed("-c", _FINGERPRINT, "-d", number, *np)}
    augment = ("-m", "nnunet_difflung.commands.augment", "-d", number, "-f", "0", "--method", METHOD, "-device", "cpu")
    total = _timed(*augment, "--preset", "fast", "--gate", "report", *np)
    fold = read_json(results_folder(PHANTOM, METHOD) / "augment_report.json")["folds"][0]
    found |= {stage: fold["seconds_of_all_folds_together"][stage] for stage in STAGES}
    found["start, audit, report"] = total - sum(found[stage] for stage in STAGES)
    found["audit --deep"] = _timed("-m", "nnunet_difflung.commands.audit", "-d", number, "--deep")
    return found, fold["injected"], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def _timed(*arguments: str) -> float:
    command = [sys.executable, *arguments]
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 512, repeats=1)
    p.add_argument(
        "--patients", type=int, default=20, help="of the phantom at 1×, 5 slices each (default: %(default)s)"
    )
    p.add_argument("--times", type=int, nargs="+", default=[1, 2, 4], help="its multiples (default: 1 2 4)")
    p.add_argument("-np", type=int, default=2, help="processes and threads of the commands (default: 2)")
    p.set_defaults(output=RESULTS.with_name("stage_sizes.json"))
    o = p.parse_args()
    with phantom(o.size, o.patients, 5, o.np) as folder:
        raw, kept = folder / NNUNET_RAW / PHANTOM, folder / "kept"
        shutil.move(raw, kept)
        for times in o.times:
            shutil.copytree(kept, raw)
            multiply(raw, times)
            cases = len(open_raw_dataset(PHANTOM).cases)
            write_rows(o.output, [_row(o.size, cases, *stages_of(o.np))])
            for variable in (NNUNET_RAW, NNUNET_PREPROCESSED, NNUNET_RESULTS):
                shutil.rmtree(folder / variable / PHANTOM, ignore_errors=True)


def _row(size: int, cases: int, stages: dict[str, float], painted: int, peak: float) -> dict:
    return row(
        f"stages, {METHOD}, {cases} slices of {size}²",
        [1000 * sum(stages.values()) / cases],
        None,
        "ms a slice",
        "cpu",
        {"painted": painted},
        stages_s={stage: round(value, 2) for stage, value in stages.items()},
        slices=cases,
        size=size,
        peak_host_GiB=round(peak, 2),
    )


def sizes_table(rows: list[dict]) -> str:
    """Seconds of each stage, and milliseconds of each painted slice, a line for each size and number of slices.

    The most memory that a process held, which the rows have too, is nnU-Net's fingerprint's, so it is not shown.
    """
    names = list(rows[0]["meta"]["stages_s"])
    lines = [
        f"| size | slices | painted | {' | '.join(names)} | paint, ms a painted slice |",
        "|---" * (len(names) + 4) + "|",
    ]
    for found in sorted(rows, key=lambda r: (r["meta"]["size"], r["meta"]["slices"])):
        meta, painted = found["meta"], found["quality"]["painted"]
        stages = " | ".join(f"{meta['stages_s'][name]:.1f}" for name in names)
        each = 1000 * meta["stages_s"]["painting"] / max(1, painted)
        about = f"{meta['size']}² | {meta['slices']:,} | {painted:,}"
        lines.append(f"| {about} | {stages} | {each:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
