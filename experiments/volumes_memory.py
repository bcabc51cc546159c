"""Peak memory of planning, painting and judging one large synthetic volume.

    python -m experiments.volumes_memory --folder FOLDER -o docs/results/volumes_memory.json

The phantom is drawn with 60 slices, which are put one after the other four times, every other time mirrored along z,
so that a volume has 240. The generator is trained for a single step: memory does not depend on its weights. Each stage
is a process of its own. ``anonymous`` is what a process allocated; ``resident`` also counts the pages of mapped files,
such as the cache of real cases, which the system can take back. Linux only.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.config import Settings
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.paths import NNUNET_RAW, PATH_VARIABLES, cache_folder, full_name
from nnunet_difflung.pipeline.fold import prepare_fold, synthesize_fold, train_fold
from nnunet_difflung.preparing.application import apply_plan
from nnunet_difflung.preparing.fold import Fold, discard_work
from nnunet_difflung.preparing.stacks import stacks_of
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import write_json

DATASET, NAME, TIMES = 800, "ChestPhantom", 4
OPTIONS = "--preset fast --steps 3 --max-synthetic 24 --target-share emphysema=0.05 ILD=0.3 --gate report"
_EVERY = 0.005  # seconds between two looks at the memory
Peaks = dict[str, dict[str, int]]


def _status(name: str) -> int:
    """An entry of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


@contextmanager
def peak(peaks: Peaks, stage: str) -> Iterator[None]:
    """Adds the largest memory of a block to ``peaks``: ``resident``, ``anonymous`` and ``anonymous_before``."""
    before = most = _status("RssAnon")
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(_EVERY):
            most = max(most, _status("RssAnon"))

    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to the present size
    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
    peaks[stage] = {"resident": _status("VmHWM"), "anonymous": most, "anonymous_before": before}


def draw(folder: Path, size: int, slices: int, patients: int) -> None:
    """Writes the phantom, and makes its volumes higher."""
    raw = folder / NNUNET_RAW / full_name(DATASET, NAME)
    if (folder / "drawn").is_file():
        return
    module = f"nnunet_difflung.dataset_conversion.{full_name(DATASET, NAME)}"
    words = ["--volumes", "--size", size, "--slices", slices // TIMES, "--patients", patients, "--test-patients", 0]
    if not (raw / "dataset.json").is_file():
        subprocess.run([sys.executable, "-m", module, *map(str, words), "-np", "1"], check=True)
    for file in sorted([*(raw / "imagesTr").iterdir(), *(raw / "labelsTr").iterdir()]):
        image = sitk.ReadImage(str(file))
        array = sitk.GetArrayFromImage(image)
        if len(array) == slices:  # an earlier call was interrupted
            continue
        higher = sitk.GetImageFromArray(np.concatenate([array[:: (-1) ** n] for n in range(TIMES)]))
        higher.SetOrigin(image.GetOrigin())
        higher.SetSpacing((*image.GetSpacing()[:2], image.GetSpacing()[2] / TIMES))
        partial = file.with_name(f".partial_{file.name}")
        sitk.WriteImage(higher, str(partial), True)
        partial.replace(file)
    (folder / "drawn").touch()


def _settings(*further: str) -> Settings:
    settings = settings_from(parse(["-d", str(DATASET), "-device", "cpu", *shlex.split(OPTIONS), *further]))
    return replace(settings, generator=replace(settings.generator, epochs=0))  # the least: one step


def _fold(settings: Settings, peaks: Peaks) -> Fold:
    """Fold 0 with the first case of its plan."""
    with peak(peaks, "cache"):
        raw = open_raw_dataset(str(DATASET))
        cache = build_cache(raw, cache_folder(raw.name), 1, progress=False)
    with peak(peaks, "plan"):
        fold = prepare_fold(raw, 0, settings, cache)
    del fold.plan.cases[1:]
    return fold


def train() -> dict:
    """Makes the cache and trains the generator."""
    peaks: Peaks = {}
    fold = _fold(_settings(), peaks)
    with peak(peaks, "train"):
        train_fold(fold, "cpu", 60)
    return {"peaks": peaks}


def paint(*further: str) -> dict:
    """Paints one case, and judges it unless options say otherwise."""
    peaks: Peaks = {}
    fold = _fold(_settings(*further), peaks)
    (planned,) = fold.plan.cases
    shape = fold.facts[planned.host].shape
    region = apply_plan(fold, planned, textures=False).region
    stacks = stacks_of(region, planned.slices, 4, fold.settings.sampling, together=True)
    with peak(peaks, "paint"):
        _, result = synthesize_fold(fold, "cpu", progress=False)
    cases = len(result.staged)
    discard_work(fold.work)
    return {
        "peaks": peaks,
        "shape": list(shape),
        "volume_float32": int(np.prod(shape)) * 4,
        "slices": len(planned.slices),
        "stacks": [list(stack.own.shape) for stack in stacks],
        "cases": cases,
    }


def _alone(work: Callable[..., dict], *arguments: str) -> Any:
    """What a function returns in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main() -> None:
    """Entry of the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--folder", type=Path, required=True, help="for nnU-Net's folders; what is there is used again")
    p.add_argument("--size", type=int, default=512, help="pixels along x and y (default: %(default)s)")
    p.add_argument("--slices", type=int, default=240, help="of a volume, a multiple of 4 (default: %(default)s)")
    p.add_argument("--patients", type=int, default=3, help="a volume each (default: %(default)s)")
    p.add_argument("-o", type=Path, required=True, metavar="FILE", help="JSON file to write")
    o = p.parse_args()
    for variable in PATH_VARIABLES:
        (o.folder / variable).mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(o.folder / variable)
    draw(o.folder, o.size, o.slices, o.patients)
    stages = {"training": _alone(train)}
    words = f"--folder FOLDER --size {o.size} --slices {o.slices} --patients {o.patients} -o {o.o.name}"
    content = {
        "meta": {
            "command": f"python -m experiments.volumes_memory {words}",
            "augment": f"difflung_augment {OPTIONS}, one training step, the first planned case of fold 0",
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
        },
    }
    for name, further in (
        ("painted together", ()),
        ("painted together, neither gate nor memorisation", ("--gate", "off", "--memorised", "off")),
    ):
        stages[name] = _alone(paint, *further)
        write_json(o.o, content | {"stages": stages})
        print(name, stages[name], flush=True)


if __name__ == "__main__":
    main()
