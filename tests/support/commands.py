"""``difflung_augment`` on a tiny dataset: its options, a process of it, and what it left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.injection.manifest import read_manifest
from tests.support.tiny import set_paths, tree_hashes, write_fingerprint

OPTIONS = [
    "-d",
    "801",
    "--preset",
    "fast",
    "--epochs",
    "1",
    "--batch-size",
    "4",
    "--steps",
    "2",
    "--gate",
    "report",
    "-device",
    "cpu",
    "--max-synthetic",
    "3",
]
ONE_FOLD_FAST = ["-d", "801", "-f", "0", "-device", "cpu", "--preset", "fast", "--epochs", "1", "--gate", "report"]
"""A short training of fold 0; whatever was painted is kept."""
AS_EARLIER = ["--placement", "uniform", "--target-multiple", "0", "--hosts", "any"]
"""The masks of versions before these options."""


def prepared(folder: Path, monkeypatch, fingerprint: bool = True) -> tuple[Path, Path, Path]:
    """nnU-Net's folders; a fingerprint is already there, since extracting one costs nnU-Net 2 GB and seconds."""
    folders = set_paths(folder, monkeypatch)
    if fingerprint:
        write_fingerprint(folders[1])
    return folders


def synthetic_arrays(raw: RawDataset, identifier: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    ending = raw.dataset_json["file_ending"]
    images = sorted(str(f) for f in (folder / "imagesTr").glob(f"{identifier}_????{ending}"))
    image, _ = raw.reader().read_images(images)
    label, _ = raw.reader().read_seg(str(folder / "labelsTr" / f"{identifier}{ending}"))
    return image, label[0]


def run_command(
    arguments: list[str],
    until=None,
    sign=signal.SIGKILL,
    program: Sequence[str] = ("-m", "nnunet_difflung.commands.augment"),
) -> int:
    """Starts the command and sends a signal as soon as ``until()`` holds (a state of the files, not a time)."""
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[2],
    )
    while process.poll() is None:
        if until is not None and until():
            process.send_signal(sign)
            break
        time.sleep(0.002)
    return process.wait()


def results_of(folder: Path, results: Path) -> dict:
    """All that a run left, without times."""
    manifest = read_manifest(folder)
    manifest.pop("created")
    weights = [p.read_bytes() for p in sorted(results.rglob("diffusion_pytorch_model.safetensors"))]
    files = {
        k.removeprefix(str(folder)): v
        for k, v in tree_hashes(folder).items()
        if "manifest" not in k and ".difflung" not in k
    }
    return {"manifest": manifest, "weights": weights, "files": files}
