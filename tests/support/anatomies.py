"""Chest slices of made people: outline, lungs, vessels, ribs and fat differ from person to person and along z."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from tests.support.tiny import write_array

_SIZE = 160


def chest(person: int, z: float = 0.0, size: int = _SIZE) -> np.ndarray:
    """(size, size) int16 HU of a person at a height z in mm; slices a few mm apart resemble each other.

    The structures inside are smooth random fields of (y, x) that turn into others within about 20 mm along z.
    """
    rng = np.random.default_rng([person, 7])
    y, x = (np.mgrid[:_SIZE, :_SIZE] - (_SIZE - 1) / 2) / (_SIZE / 2)
    wide, deep, tilt = rng.uniform(0.8, 0.9), rng.uniform(0.58, 0.72), rng.uniform(-0.06, 0.06)
    body = (x / wide) ** 2 + ((y + tilt * x) / deep) ** 2 < 1
    lungs = np.zeros_like(body)
    for side in (-1, 1):
        centre, radii = side * rng.uniform(0.36, 0.42), rng.uniform((0.2, 0.34), (0.28, 0.44))
        lungs |= ((x - centre) / radii[0]) ** 2 + ((y - rng.uniform(-0.05, 0.05)) / radii[1]) ** 2 < 1
    fine, coarse = _field(rng, z, 1.6), _field(rng, z, 3.0)
    tissue = 20 + 45 * coarse + 300 * (fine > 1.3)  # fat and muscle, bones
    lung = -860 + 40 * coarse + 650 * (fine > 1.1)  # parenchyma, vessels
    image = np.where(body, np.where(lungs, lung, tissue), -1000.0)
    noise = np.random.default_rng([person, int(z * 10)]).normal(0, 12, image.shape)
    image = np.clip(ndimage.zoom(image + noise, size / _SIZE, order=1), -1024, 1500)
    return np.rint(image).astype(np.int16)


def _field(rng: np.random.Generator, z: float, scale: float) -> np.ndarray:
    """A random field of mean 0 and standard deviation 1 at a height z."""
    a, b = (ndimage.gaussian_filter(rng.standard_normal((_SIZE, _SIZE)), scale) for _ in range(2))
    angle = z / 20
    field = np.cos(angle) * a / a.std() + np.sin(angle) * b / b.std()
    return field / field.std()


def windowed(image: np.ndarray) -> np.ndarray:
    """The slice in 8 bits of a lung window."""
    return np.rint(np.clip((image + 1350.0) / 1500, 0, 1) * 255).astype(np.int16)


def labelled(image: np.ndarray) -> np.ndarray:
    """(y, x) uint8: normal lung with a lesion of each class of the tiny datasets."""
    dark = ndimage.binary_opening(ndimage.binary_fill_holes(image > -500) & (image < -500))
    label = dark.astype(np.uint8)
    rows, columns = np.nonzero(dark)
    for value, at in ((2, len(rows) // 3), (3, 2 * len(rows) // 3)):
        near = (np.arange(_SIZE)[:, None] - rows[at]) ** 2 + (np.arange(_SIZE) - columns[at]) ** 2 < 30
        label[dark & near[: image.shape[0], : image.shape[1]]] = value
    return label


def write_chests(folder: Path, slices: dict[str, np.ndarray], splits: list[dict] | None) -> None:
    """Writes a dataset with a case for each slice.

    Args:
        folder: of the raw dataset.
        slices: case id → (y, x) HU.
        splits: content of splits_final.json, if any.
    """
    for identifier, image in slices.items():
        write_array(folder / "imagesTr" / f"{identifier}_0000.nii.gz", image[None], (5.0, 2.2, 2.2))
        write_array(folder / "labelsTr" / f"{identifier}.nii.gz", labelled(image)[None], (5.0, 2.2, 2.2))
    labels = {"background": 0, "normal_lung": 1, "emphysema": 2, "ILD": 3}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": len(slices), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    if splits is not None:
        (folder / "splits_final.json").write_text(json.dumps(splits))
