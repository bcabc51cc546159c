"""Tiny datasets whose lungs have a label each, made from one in which both are ``normal_lung``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

APART = {"background": 0, "left lung": 1, "right lung": 2, "emphysema": 3, "ILD": 4}


def relabel(folder: Path, labels: dict, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Writes new label maps, each from the old one (z, y, x), and their names into a dataset of NIfTI files."""
    for path in (folder / "labelsTr").iterdir():
        old = sitk.ReadImage(str(path))
        new = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(old)))
        new.CopyInformation(old)
        sitk.WriteImage(new, str(path))
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "labels": labels}))
    return folder


def lungs_apart(folder: Path) -> Path:
    """Gives the lungs of a tiny dataset the labels of ``APART``."""
    return relabel(folder, APART, apart)


def apart(label: np.ndarray) -> np.ndarray:
    """(z, y, x) label values of ``tiny.LABELS`` → of ``APART``; the lungs lie on two sides of the middle."""
    right = np.arange(label.shape[2]) >= label.shape[2] // 2
    return np.where(label == 1, 1 + right, np.where(label > 1, label + 1, label)).astype(np.uint8)


def together(label: np.ndarray) -> np.ndarray:
    """The inverse of ``apart``."""
    return np.where(label > 1, label - 1, label).astype(np.uint8)
