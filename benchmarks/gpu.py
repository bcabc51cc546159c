"""Everything that only a CUDA card can show, in one command that ends within --seconds.

    make gpu                                      # on a machine with a card
    python -m benchmarks.gpu --rehearse -o /tmp  # the same steps, tiny, on a CPU

Steps run one after the other, each in a process of its own: the tests that need a card, training and painting against
the public code's network, networks of several sizes at 256², and the whole command on many slices of 512². With
--dataset, difflung_augment also runs with the preset `default` to its end on a dataset in $nnUNet_raw. What a step
finds is written when it ends, to gpu_speed.json, gpu_networks.json and gpu_run.json; a step that fails, or that lacks a
package or the time, is named there and the next one begins. Run again, it repeats what did not succeed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from nnunet_difflung.runtime.environment import versions
from nnunet_difflung.runtime.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
AUGMENT, EVALUATE = "nnunet_difflung.commands.augment", "nnunet_difflung.commands.evaluate"
NNUNET = ("nnunetv2", "SimpleITK")


@dataclass(frozen=True)
class Step:
    """A part of the run.

    Attributes:
        name: in the report and for ``--only``.
        command: arguments of the Python interpreter.
        needs: packages without which it is skipped.
        least: seconds that have to be left for it to begin.
    """

    name: str
    command: list[str]
    needs: tuple[str, ...] = ()
    least: float = 20.0


def steps(o: argparse.Namespace) -> Iterator[Step]:
    """The run's parts, the most wanted first."""
    device = ["-device", "cpu" if o.rehearse else "cuda"]
    size = ["--size", "64" if o.rehearse else "256"]
    speed = ["-o", str(o.output / "gpu_speed.json"), "--repeats", "1" if o.rehearse else "5"]
    few = ["--steps", "1" if o.rehearse else "10", "--reference-batch", "1" if o.rehearse else "16"]

    few_slices = ["--max-slices", "2" if o.rehearse else "24"]

    def benchmark(name: str, *arguments: str) -> list[str]:
        return ["-m", f"benchmarks.{name}", *device, *arguments]

    yield Step("tests", ["-m", "pytest", "-q", "-rs", "-s", str(ROOT / "tests" / "runtime" / "test_cuda.py")], NNUNET)
    painting = "fast" if o.rehearse else "default"
    yield Step(
        "painting",
        benchmark(
            "painting",
            *size,
            *speed,
            "--preset",
            painting,
            "--precision",
            "bf16",
            "--slices",
            "2" if o.rehearse else "32",
            "--batch-size",
            "32",
            *few[2:],
        ),
        NNUNET,
    )
    trained = [("fast", "default")] if o.rehearse else [("default", "default"), ("paper", "default"), ("paper", "fp32")]
    for name, precision in trained:
        yield Step(
            f"training {name} against {precision}",
            benchmark("training", *size, *speed, "--preset", name, *few, "--reference-precision", precision),
            NNUNET,
            60,
        )
    if o.dataset:
        yield Step(
            "dataset",
            [
                "-m",
                AUGMENT,
                "-d",
                o.dataset,
                "-f",
                o.fold,
                *device,
                "--gate",
                "report",
                "-np",
                str(os.cpu_count()),
                "--preset",
                painting,
                *(["--epochs", "1", "--max-synthetic", "2"] if o.rehearse else []),
            ],
            NNUNET,
            120,
        )
        yield Step(
            "dataset, judged",
            [
                "-m",
                EVALUATE,
                "-d",
                o.dataset,
                "-f",
                o.fold,
                *device,
                "--preset",
                painting,
                "--methods",
                "cbmat",
                *few_slices,
                "-o",
                str(o.output / "gpu_table1.json"),
            ],
            NNUNET,
            60,
        )
    whole = (
        ["--slices", "10", "--distinct", "10", "--preset", "fast", "--epochs", "3"]
        if o.rehearse
        else ["--slices", "2000", "--distinct", "100", "--preset", "default", "--epochs", "21"]
    )
    yield Step(
        "whole command",
        benchmark("whole", "--size", "64" if o.rehearse else "512", *speed[:2], *whole, "-np", str(os.cpu_count())),
        NNUNET,
        120,
    )
    if not o.rehearse:
        yield Step(
            "training default on crops",
            benchmark("training", *size, *speed, "--preset", "default", "--patch-size", "192", *few),
            NNUNET,
            60,
        )
    networks = (
        ["16-32-32, 1 block (fast)"]
        if o.rehearse
        else ["32-64-128-128, 2 blocks (default)", "32-64-64, 1 block", "paper, 114 M"]
    )
    yield Step(
        "networks",
        benchmark(
            "networks",
            *size,
            "--steps",
            "2" if o.rehearse else "1500",
            "--crops",
            "0.75",
            "--patients",
            "5" if o.rehearse else "24",
            *few_slices,
            "--result",
            str(o.output / "gpu_networks.json"),
            "--networks",
            *networks,
        ),
        NNUNET,
        90,
    )


def run(step: Step, seconds: float, log: Path) -> dict:
    """Runs a step for at most ``seconds`` and says how it ended; its output goes to ``log`` as it comes."""
    begun = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ
            | {
                "PYTHONUNBUFFERED": "1",
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            },
        )
        try:
            ended = "done" if process.wait(seconds) == 0 else f"failed with exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = f"stopped after {seconds:.0f} s"
    lines = [line.rstrip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return {"ended": ended, "seconds": round(time.monotonic() - begun, 1), "command": step.command, "tail": lines[-12:]}


def about() -> dict:
    """Where and when, and on which card."""
    card = "none"
    if torch.cuda.is_available():
        about_card = torch.cuda.get_device_properties(0)
        card = f"{about_card.name}, {about_card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return {
        "card": card,
        "cores": os.cpu_count(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def main(argv: list[str] | None = None) -> int:
    """Entry of the command line; 1 if a step failed."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=float, default=540, help="that the whole run may take (default: %(default)s)")
    p.add_argument("--rehearse", action="store_true", help="the same steps on a CPU, tiny: finds what would fail")
    p.add_argument("--only", nargs="+", metavar="STEP", help="steps by name (default: all that have not succeeded)")
    p.add_argument("--dataset", help="an nnU-Net dataset on which difflung_augment runs to its end")
    p.add_argument("--fold", default="0", help="of that dataset (default: 0)")
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        default=ROOT / "docs" / "results",
        help="folder of the JSON files and logs (default: docs/results)",
    )
    o = p.parse_args(argv)
    if not o.rehearse and not torch.cuda.is_available():
        p.error("there is no CUDA card here; --rehearse runs the same steps on the CPU")
    wanted = list(steps(o))
    if unknown := set(o.only or []) - {step.name for step in wanted}:
        p.error(f"no step is called {', '.join(sorted(unknown))}; steps: {'; '.join(step.name for step in wanted)}")
    end = time.monotonic() + o.seconds
    o.output.mkdir(parents=True, exist_ok=True)
    logs = o.output / "gpu_logs"
    logs.mkdir(exist_ok=True)
    report = o.output / "gpu_run.json"
    known = read_json(report)["steps"] if report.is_file() else {}
    for step in wanted:
        if step.name not in (o.only or [step.name]) or (not o.only and known.get(step.name, {}).get("ended") == "done"):
            continue
        left = end - time.monotonic()
        missing = [name for name in step.needs if importlib.util.find_spec(name) is None]
        if missing:
            known[step.name] = {"ended": f"skipped, {', '.join(missing)} not installed"}
        elif left < step.least:
            known[step.name] = {"ended": f"skipped, {left:.0f} s left of {o.seconds:.0f}"}
        else:
            known[step.name] = run(step, left - 5, logs / f"{step.name.replace(' ', '_').replace(',', '')}.log")
        write_json(report, {"meta": about(), "steps": known})
        print(f"{step.name}: {known[step.name]['ended']} ({known[step.name].get('seconds', 0)} s)", flush=True)
        if known[step.name]["ended"].startswith("failed"):
            print(*known[step.name]["tail"], sep="\n", flush=True)
    if o.output == ROOT / "docs" / "results":
        shutil.rmtree(logs)  # their ends are in gpu_run.json
    return int(any(part["ended"].startswith("failed") for part in known.values()))


if __name__ == "__main__":
    sys.exit(main())
