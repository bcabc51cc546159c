"""What injection and removal have to agree on: which file is whose, and where the original of a changed one is kept."""
from __future__ import annotations

from pathlib import Path

from nnunet_difflung.manifest import PREPROCESSED
from nnunet_difflung.splits import SYNTHETIC_PREFIX


def is_planned(preprocessed: Path) -> bool:
    """Whether nnU-Net has planned the dataset (and then copied the raw splits, if there were any)."""
    return any(preprocessed.glob("*Plans*.json"))


def backup_name(target: str) -> str:
    """Name under which the original of a file is kept."""
    return target.replace(PREPROCESSED, "preprocessed_")


def lists_synthetic(splits: Path) -> bool:
    """Whether a split file names synthetic cases; also where somebody has damaged it."""
    return f'"{SYNTHETIC_PREFIX}'.encode() in splits.read_bytes()
