"""What every benchmark shares: fair timing of two ways in one process, and rows of docs/results/speed.json."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import torch

from nnunet_difflung.runtime.environment import versions
from nnunet_difflung.runtime.files import read_json, write_json

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "speed.json"
KEYS = ("name", "ours", "reference", "ratio", "unit", "quality", "device", "repeats", "meta")


def parser(description: str, size: int, repeats: int = 5) -> argparse.ArgumentParser:
    """Options that all benchmarks have."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "-device",
        default="cpu",
        choices=("cpu", "cuda"),
        help="where networks run; timings wait for it to finish (default: cpu)",
    )
    p.add_argument("--size", type=int, default=size, help="pixels along an image's edge (default: %(default)s)")
    p.add_argument(
        "--repeats",
        type=int,
        default=repeats,
        help="timed turns of each way, alternating, after one that warms up; the median counts (default: %(default)s)",
    )
    p.add_argument(
        "--reference-precision",
        default="default",
        choices=("default", "fp32"),
        help="of a reference's "
        "network on CUDA: torch's default, which takes TF32 for convolutions, or fp32 (default: default)",
    )
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        default=RESULTS,
        help="JSON whose row of this name is replaced (default: docs/results/speed.json)",
    )
    return p


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """Wall-clock seconds of a call, until the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def alternating(
    ours: Callable[[], object], reference: Callable[[], object], repeats: int, device: str = "cpu"
) -> tuple[list[float], list[float]]:
    """Seconds of each turn; the two take turns, so that what else the machine does hits both."""
    seconds(ours, device)
    seconds(reference, device)
    pairs = [(seconds(ours, device), seconds(reference, device)) for _ in range(repeats)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def row(
    name: str, ours: Sequence[float], reference: Sequence[float] | None, unit: str, device: str, quality: dict, **about
) -> dict:
    """A row of speed.json from repeated figures.

    Args:
        name: tells rows apart, together with the device.
        ours: a figure of each repeat.
        reference: the same of what a user would run instead; None where the row has no opponent.
        unit: ``…/s`` is better when higher, everything else when lower; ``ratio`` is above 1 where ours is better.
        device: ``cpu`` or ``cuda``.
        quality: what else has to be equal for the ratio to count.
        about: further content of ``meta``.
    """
    mine, other = median(ours), None if reference is None else median(reference)
    ratio = None if other is None else (mine / other if unit.endswith("/s") else other / mine)
    spread = {
        "ours": [min(ours), max(ours)],
        "reference": None if reference is None else [min(reference), max(reference)],
    }
    return {
        "name": name,
        "ours": mine,
        "reference": other,
        "ratio": ratio,
        "unit": unit,
        "quality": quality,
        "device": device,
        "repeats": len(ours),
        "meta": {"spread": spread, **machine(device), **about},
    }


def machine(device: str) -> dict:
    """Where and when, from which command, and what else the machine was doing."""
    hardware = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
    command = " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    return {
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {hardware}, {torch.get_num_threads()} thread(s)",
        "load": round(os.getloadavg()[0], 1),
        "versions": versions(),
    }


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    """Adds rows to the file, in place of those of the same name and device, and shows them."""
    known = read_json(path) if path.is_file() else []
    new = {(r["name"], r["device"]) for r in rows}
    write_json(path, [r for r in known if (r["name"], r["device"]) not in new] + list(rows))
    for r in rows:
        against = "" if r["ratio"] is None else f", reference {r['reference']:.4g}, ratio {r['ratio']:.3g}"
        print(f"{r['name']} ({r['device']}): {r['ours']:.4g} {r['unit']}{against}", flush=True)
