"""Kills the real commands at random moments of every stage, and checks that nothing is lost or half done.

    python -m tests.faults.campaign --kills 48 --seed 0 -o docs/results/faults.json

Each round takes a fresh tiny dataset, starts ``difflung_augment`` or ``difflung_remove`` in a process of its own, waits
until a stage has begun (a state of the files, never a time) and for a random time after that, sends SIGKILL or
SIGTERM, and checks the dataset: it must be as before or completely changed, or the next command must finish a change
that was decided. Then the same command must end with the result of a run that was not interrupted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.injection.commit import pending
from nnunet_difflung.injection.manifest import MANIFEST, read_manifest
from nnunet_difflung.paths import PATH_VARIABLES
from nnunet_difflung.runtime.files import read_json, write_json
from tests.faults.records import meta
from tests.support.tiny import make_dataset, tree_hashes

AUGMENT = [
    "nnunet_difflung.commands.augment",
    "-d",
    "801",
    "--method",
    "cbmat",
    "--preset",
    "fast",
    "--epochs",
    "3",
    "--batch-size",
    "4",
    "--steps",
    "4",
    "--gate",
    "report",
    "-device",
    "cpu",
    "--max-synthetic",
    "3",
    "-f",
    "0",
    "--save-every",
    "0",
]
REMOVE = ["nnunet_difflung.commands.remove", "-d", "801"]
NAME = "Dataset801_Tiny"
STATES = ("before", "after", "decided", "broken")


@dataclass(frozen=True)
class Stage:
    """When to kill.

    Attributes:
        command: what is running.
        begun: whether the stage has begun, from the folders raw and results.
        moment: the signal is sent a random time later, up to this many seconds.
    """

    command: list[str]
    begun: Callable[[Path, Path], bool]
    moment: float


def _fold(results: Path) -> Path:
    return results / "DiffLung__cbmat" / "fold_0"


STAGES = {
    "starting": Stage(AUGMENT, lambda raw, results: True, 3.0),
    "caching": Stage(AUGMENT, lambda raw, results: any(results.glob("DiffLung__cache/*.json")), 0.05),
    "planning": Stage(AUGMENT, lambda raw, results: len(list(results.glob("DiffLung__cache/*.json"))) == 10, 0.3),
    "training": Stage(AUGMENT, lambda raw, results: (_fold(results) / "training_log.jsonl").is_file(), 1.0),
    "saving": Stage(AUGMENT, lambda raw, results: (_fold(results) / "unet").is_dir(), 0.1),
    "painting": Stage(AUGMENT, lambda raw, results: any(_fold(results).glob("synthesis_*/painted/*/*.npy")), 0.1),
    "staging": Stage(AUGMENT, lambda raw, results: any(_fold(results).glob("synthesis_*/imagesTr/*")), 0.1),
    "preparing the commit": Stage(AUGMENT, lambda raw, results: (raw / ".difflung" / "commit").is_dir(), 0.02),
    "committing": Stage(AUGMENT, lambda raw, results: (raw / ".difflung" / "commit" / "journal.json").is_file(), 0.01),
    "ending": Stage(AUGMENT, lambda raw, results: (raw / MANIFEST).is_file(), 0.3),
    "removing": Stage(REMOVE, lambda raw, results: (raw / ".difflung" / "commit").is_dir(), 0.0),
    "restoring": Stage(REMOVE, lambda raw, results: (raw / ".difflung" / "commit" / "journal.json").is_file(), 0.0),
}


class Ground:
    """Templates of the dataset before and after, and what a run without interruption leaves."""

    def __init__(self, folder: Path) -> None:
        """Makes the dataset in ``folder`` and augments a copy."""
        self.folder, self.place = folder, folder / "place"
        raw, preprocessed, _ = (folder / "plain" / name for name in PATH_VARIABLES)
        for name in PATH_VARIABLES:
            (folder / "plain" / name).mkdir(parents=True)
        make_dataset(raw)
        (preprocessed / NAME).mkdir()
        (preprocessed / NAME / "dataset_fingerprint.json").write_text("{}")
        self.before = self.fresh("plain", lambda: self.dataset())
        self.after = self.fresh("plain", self._augmented)

    def _augmented(self) -> dict:
        assert self.run(AUGMENT) == 0
        shutil.copytree(self.place, self.folder / "augmented", symlinks=True)
        return self.dataset()

    def fresh(self, template: str, work: Callable):
        """Calls ``work`` on a fresh copy of a template."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.folder / template, self.place, symlinks=True)
        return work()

    @property
    def raw(self) -> Path:
        """The dataset's raw folder."""
        return self.place / "nnUNet_raw" / NAME

    @property
    def results(self) -> Path:
        """Its results folder."""
        return self.place / "nnUNet_results" / NAME

    def dataset(self) -> dict:
        """All that a user sees of the dataset, without times and without our hidden folder."""
        manifest = read_manifest(self.raw)
        if manifest:
            manifest.pop("created")
        files = {
            k.removeprefix(str(self.place)): v
            for k, v in tree_hashes(self.raw, self.place / "nnUNet_preprocessed").items()
            if ".difflung" not in k and MANIFEST not in k
        }
        return {"manifest": manifest, "files": files}

    def start(self, command: list[str]) -> subprocess.Popen:
        """Starts a command on the place."""
        variables = {name: str(self.place / name) for name in PATH_VARIABLES}
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | variables | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def run(self, command: list[str]) -> int:
        """Exit code of a command; the end of its stderr is shown if it fails."""
        process = self.start(command)
        stderr = process.communicate()[1].decode(errors="replace")
        if process.returncode:
            print(stderr[-2000:], file=sys.stderr)
        return process.returncode


def state_of(ground: Ground, start: dict, end: dict) -> str:
    """One of ``STATES``; of a removal, ``before`` has the synthetic cases and ``after`` does not."""
    if pending(ground.raw):
        return "decided"
    dataset = ground.dataset()
    if dataset == start:
        return "before"
    return "after" if dataset == end else "broken"


def round_of(ground: Ground, stage: Stage, sign: signal.Signals, moment: float) -> dict:
    """Kills a command once, and checks whether the same command then ends as it should.

    Returns:
        ``hit`` (the command was still running), ``code``, ``seconds`` from the signal to the end, ``found`` (as before,
        after, decided, or broken), and ``recovered``.
    """
    augmenting = stage.command is AUGMENT
    start, end = (ground.before, ground.after) if augmenting else (ground.after, ground.before)

    def work() -> dict:
        process = ground.start(stage.command)
        while process.poll() is None and not stage.begun(ground.raw, ground.results):
            pass  # a commit takes milliseconds
        time.sleep(moment)
        hit = process.poll() is None
        begun = time.monotonic()
        process.send_signal(sign)
        process.communicate()
        row = {"hit": hit, "code": process.returncode, "seconds": round(time.monotonic() - begun, 2)}
        row["found"] = state_of(ground, start, end)
        done = row["found"] == "after" and not augmenting  # then there is nothing left to remove
        row["recovered"] = (
            (done or ground.run(stage.command) == 0) and ground.dataset() == end and not pending(ground.raw)
        )
        return row

    return ground.fresh("plain" if augmenting else "augmented", work)


@contextmanager
def new_ground():
    """A ground in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield Ground(Path(folder))


def campaign(kills: int, seed: int, minutes: float, shown: bool = True, stages: tuple[str, ...] = ()) -> list[dict]:
    """Rows of ``kills`` rounds, with the stages (by default all) in turn; no round begins after ``minutes``."""
    stages = stages or tuple(STAGES)
    rng, rows, begun = np.random.default_rng(seed), [], time.monotonic()
    with new_ground() as ground:
        for number in range(kills):
            if time.monotonic() - begun > 60 * minutes:
                break
            name = stages[number % len(stages)]
            sign = signal.SIGKILL if rng.random() < 0.5 else signal.SIGTERM
            row = round_of(ground, STAGES[name], sign, float(rng.uniform(0, STAGES[name].moment)))
            rows.append({"stage": name, "signal": sign.name, **row})
            if shown:
                print(rows[-1], flush=True)
    return rows


def faults(rows: list[dict]) -> list[str]:
    """Rounds with a broken dataset or another result, and SIGTERMs that were slow or ended with another exit code."""
    problems = []
    for row in rows:
        where = f"{row['signal']} while {row['stage']}"
        if row["found"] == "broken" or not row["recovered"]:
            problems.append(f"{where}: {row}")
        outside = row["stage"] == "starting" or row["found"] == "after"  # Python itself was starting or ending
        codes = (143, 0, -15) if outside else (143, 0)
        if row["signal"] == "SIGTERM" and row["hit"] and row["code"] not in codes:
            problems.append(f"{where}: exit code {row['code']}")
        if row["seconds"] > 20:
            problems.append(f"{where}: {row['seconds']} s until it ended")
    return problems


def main() -> int:
    """Entry of the command line; exit code 1 where something was lost."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kills", type=int, default=48, help="rounds (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of signals and moments (default: %(default)s)")
    p.add_argument("--minutes", type=float, default=28, help="no round begins later (default 28)")
    p.add_argument("-o", type=Path, metavar="FILE.json", help="rows, added to those of other seeds")
    o = p.parse_args()
    rows = campaign(o.kills, o.seed, o.minutes)
    if o.o:
        earlier = read_json(o.o)["rounds"] if o.o.is_file() else {}
        write_json(
            o.o,
            {
                "meta": meta(f"python -m tests.faults.campaign --kills {o.kills} --seed {o.seed}"),
                "rounds": {**earlier, f"seed {o.seed}": rows},
            },
        )
    for name in STAGES:
        of_stage = [row for row in rows if row["stage"] == name]
        states = ", ".join(f"{sum(r['found'] == s for r in of_stage)} {s}" for s in STATES)
        print(
            f"{name:<22}{len(of_stage):3} kills, {sum(r['hit'] for r in of_stage)} in time: {states}; "
            f"{sum(r['recovered'] for r in of_stage)} ended as they should"
        )
    problems = faults(rows)
    for line in problems:
        print(f"FAULT {line}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
