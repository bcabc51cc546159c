"""Everything that only a CUDA card can show, in one command that ends within --seconds.

    make gpu                                      # on a machine with a card
    python -m benchmarks.gpu --rehearse -o /tmp   # the same steps, tiny, on a CPU

Steps run one after the other, each in a process of its own: the tests that need a card; painting, and training the
114 M network, against the public code's network; a short training of the default method at 512², with its pictures;
the whole command on many slices of 512²; painting in 8 steps; networks of several sizes at 256²; further training rows.
With --dataset, difflung_augment also runs with the preset `default` to its end on a dataset in $nnUNet_raw, and with
--class the default painter and the public code are trained on it for the same time. What a step finds is written when
it ends, to gpu_speed.json, gpu_networks.json, gpu_peer.json, gpu_painter_*.png and gpu_run.json; a step that fails, or
lacks a package or the time, is named there and the next one begins. A step behind which others wait is stopped when it
has had its share of the time. Run again, the command repeats what did not succeed, last what was stopped.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
AUGMENT, EVALUATE = "nnunet_difflung.commands.augment", "nnunet_difflung.commands.evaluate"
NETWORK = ("torch", "numpy", "tqdm", "safetensors", "accelerate", "diffusers")
READING = ("SimpleITK", "scipy", "skimage", "acvl_utils")  # of nnunet_difflung.dataset, which every step imports
NEEDS = (*NETWORK, *READING)
NNUNET = (*NEEDS, "nnunetv2", "dynamic_network_architectures", "matplotlib", "yaml")  # datasets are opened by nnU-Net


@dataclass(frozen=True)
class Step:
    """A part of the run.

    Attributes:
        name: in the report and for ``--only``.
        command: arguments of the Python interpreter.
        needs: packages without which it is skipped.
        least: seconds that have to be left for it to begin.
        most: seconds that it gets while others wait.
    """

    name: str
    command: list[str]
    needs: tuple[str, ...] = ()
    least: float = 20.0
    most: float = 240.0


def steps(o: argparse.Namespace) -> Iterator[Step]:
    """The run's parts: first what no card has shown yet, last the training rows whose networks compile for minutes."""
    tiny, out, cores = o.rehearse, shlex.quote(str(o.output)), os.cpu_count()
    device, size = f"-device {'cpu' if tiny else 'cuda'}", f"--size {32 if tiny else 256}"
    speed = f"{device} -o {out}/gpu_speed.json"
    turns = f"{size} --repeats {1 if tiny else 5} --reference-batch {1 if tiny else 16}"
    preset, judged = "fast" if tiny else "default", f"--max-slices {2 if tiny else 24}"

    def step(name: str, words: str, least: float = 20, most: float = 240, needs: tuple[str, ...] = NNUNET) -> Step:
        return Step(name, ["-m", *shlex.split(words)], needs, least, most)

    def painting(name: str, more: str = "") -> Step:
        batches = f"--slices {2 if tiny else 32} --batch-size 32"
        words = f"benchmarks.painting {speed} {turns} --preset {preset} --precision bf16 {batches} {more}"
        return step(name, words, most=90, needs=NEEDS)

    def training(name: str, precision: str) -> Step:
        words = f"{speed} {turns} --preset {name} --steps {1 if tiny else 10} --reference-precision {precision}"
        return step(f"training {name} against {precision}", f"benchmarks.training {words}", 100, 270)

    yield step("tests", "pytest -q -rs -s tests/runtime/test_cuda.py", most=150, needs=(*NNUNET, "pytest"))
    yield painting("painting")
    yield training("fast" if tiny else "paper", "fp32")
    real = (
        "--size 64 --slices 10 --distinct 10 --epochs 3"
        if tiny
        else "--size 512 --slices 60 --distinct 60 --epochs 150"
    )
    yield step(
        "new painter",
        f"benchmarks.whole {speed} {real} --preset {preset} -np {cores} --pictures {out}/gpu_painter "
        f"--augment --memorised report",
        60,
        150,
    )
    if o.dataset:
        short = "--epochs 1 --max-synthetic 2" if tiny else ""
        here = f"-d {shlex.quote(o.dataset)} -f {o.fold} {device} --preset {preset}"
        yield step("dataset", f"{AUGMENT} {here} --method cbmat --gate report -np {cores} {short}", 120)
        if o.pathology:
            learning = f"--class {shlex.quote(o.pathology)} --preset {preset} --seconds {20 if tiny else 60}"
            slices = "--slices 2 --batch-size 1 --size 32" if tiny else "--slices 24 --batch-size 32"
            words = f"-d {shlex.quote(o.dataset)} -f {o.fold} {device} {learning} {slices} -o {out}/gpu_peer.json"
            yield step("peer", f"benchmarks.peer {words}", 180, 300, (*NNUNET, "PIL", "torchvision"))
        yield step("dataset, judged", f"{EVALUATE} {here} --methods cbmat {judged} -o {out}/gpu_table1.json", 60)
    whole = (
        "--size 64 --slices 20 --distinct 10 --epochs 3"
        if tiny
        else "--size 512 --slices 2000 --distinct 100 --epochs 6"
    )
    yield step("whole command", f"benchmarks.whole {speed} {whole} --preset {preset} -np {cores}", 120)
    yield painting("painting in 8 steps", "--steps 8")
    names = ["16-32-32, 1 block (fast)"] if tiny else ["32-64-128-128, 2 blocks (default)", "32-64-64, 1 block"]
    yield step(
        "networks",
        f"benchmarks.networks {device} {size} --crops 0.75 --steps {2 if tiny else 1500} "
        f"--patients {5 if tiny else 24} {judged} --result {out}/gpu_networks.json --networks {shlex.join(names)}",
        90,
        180,
    )
    if not tiny:
        yield training("default", "default")
        yield training("paper", "default")


def run(step: Step, seconds: float, log: Path) -> dict:
    """Runs a step for at most ``seconds`` and says how it ended; its output goes to ``log`` as it comes."""
    begun = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            preexec_fn=os.setpgrp,  # what it has started ends with it; no new session, which would outlive this one
            env=os.environ
            | {
                "PYTHONUNBUFFERED": "1",
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            },
        )
        try:
            ended = "done" if process.wait(seconds) == 0 else f"failed with exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = [line.rstrip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return {"ended": ended, "seconds": round(time.monotonic() - begun, 1), "command": step.command, "tail": lines[-12:]}


def about(words: list[str]) -> dict:
    """Where and when, on which card, and from which arguments."""
    card = "none"
    if torch.cuda.is_available():
        about_card = torch.cuda.get_device_properties(0)
        card = f"{about_card.name}, {about_card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return {
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *words]),
        "card": card,
        "cores": os.cpu_count(),
        "machine": machine(),
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
    p.add_argument("--class", dest="pathology", help="of that dataset: lesions that both codes paint (benchmarks.peer)")
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        default=ROOT / "docs" / "results",
        help="folder of the JSON files and logs (default: docs/results)",
    )
    o = p.parse_args(argv)
    if o.pathology and not o.dataset:
        p.error("--class says which lesions of --dataset are painted; give both")
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
    before = {name: part["ended"] for name, part in known.items()}
    todo = [step for step in wanted if step.name in (o.only or [step.name])]
    if not o.only:
        todo = [step for step in todo if before.get(step.name) != "done"]
        todo.sort(key=lambda step: before.get(step.name, "").startswith("stopped"))  # may need all that is left
    for step in todo:
        left = end - time.monotonic()
        missing = [name for name in step.needs if importlib.util.find_spec(name) is None]
        if missing:
            known[step.name] = {"ended": f"skipped, {', '.join(missing)} not installed"}
        elif left < step.least:
            known[step.name] = {"ended": f"skipped, {left:.0f} s left of {o.seconds:.0f}"}
        else:
            given = left - 5 if step is todo[-1] else min(left - 5, step.most)
            known[step.name] = run(step, given, logs / f"{step.name.replace(' ', '_').replace(',', '')}.log")
        write_json(report, {"meta": about(sys.argv[1:] if argv is None else argv), "steps": known})
        print(f"{step.name}: {known[step.name]['ended']} ({known[step.name].get('seconds', 0)} s)", flush=True)
        if known[step.name]["ended"].startswith("failed"):
            print(*known[step.name]["tail"], sep="\n", flush=True)
    if o.output == ROOT / "docs" / "results":
        shutil.rmtree(logs)  # their ends are in gpu_run.json
    return int(any(part["ended"].startswith("failed") for part in known.values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the step is stopped too
    sys.exit(main())
