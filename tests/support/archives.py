"""Writes small CT archives as people have them: DICOM, volumes with label maps, slices with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tests.support.tiny import LABELS, make_image, make_masks

SPACING = (4.0, 4.0, 5.0)  # mm along x, y, z: a chest of 26 cm in 64 pixels
ORIGIN = (-100.0, 50.0, -300.0)


def like(array: np.ndarray, spacing=SPACING, origin=ORIGIN, direction=None) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(np.ravel(direction).tolist())
    return image


def chest(seed: int, depth: int = 4, size: int = 64, emphysema: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """HU (z, y, x) int16 and labels of ``tests.support.tiny.LABELS``."""
    rng = np.random.default_rng(seed)
    body, label = make_masks(rng, depth, (size, size), emphysema)
    return np.rint(make_image(rng, body, label)[0]).astype(np.int16), label


def structures(label: np.ndarray) -> dict[str, np.ndarray]:
    """Masks as readers draw them: the lung holds its lesions."""
    named = {"Lungs": label > 0, "Emphysema": label == LABELS["emphysema"], "ILD": label == LABELS["ILD"]}
    return {name: mask.astype(np.uint8) for name, mask in named.items() if mask.any()}


def write_volumes(
    folder: Path,
    patients: int = 3,
    binary: bool = False,
    ending: str = ".nii.gz",
    depth: int = 4,
    emphysema_every: int = 1,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """``ct/p1``, ``label/p1`` with one label map of all classes, or ``p1/ct``, ``p1/Lungs``, … with ``binary``.

    Returns:
        patient → image and labels.
    """
    made = {}
    for number in range(1, patients + 1):
        image, label = made[f"p{number}"] = chest(number, depth, emphysema=(number - 1) % emphysema_every == 0)
        files = (
            {f"p{number}/ct": image, **{f"p{number}/{k}": m for k, m in structures(label).items()}}
            if binary
            else {f"ct/p{number}": image, f"label/p{number}": label}
        )
        for name, array in files.items():
            path = folder / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(like(array), str(path), True)
    return made


def write_slices(folder: Path, patients: int = 3, slices: int = 2) -> None:
    """``images/p1_s00.png`` in a lung window of 8 bits, ``masks/p1_s00.png`` with labels."""
    from skimage import io

    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(1, patients + 1):
        image, label = chest(number, slices)
        window = np.rint(255 * np.clip((image + 1350) / 1500.0, 0, 1)).astype(np.uint8)
        for z in range(slices):
            for part, array in (("images", window), ("masks", label)):
                io.imsave(folder / part / f"p{number}_s{z:02d}.png", array[z].astype(np.uint8), check_contrast=False)


def write_dicom(
    folder: Path,
    patients: int = 2,
    kind: str = "RTSTRUCT",
    depth: int = 4,
    direction=None,
    names: tuple[str, ...] = ("Lungs", "Emphysema", "ILD"),
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A folder for each patient with a CT series and its structures."""
    from tests.support.dicom_files import outlines, write_ct, write_rtstruct, write_seg

    made = {}
    for number in range(1, patients + 1):
        image, label = made[f"p{number}"] = chest(number, depth)
        place = folder / f"p{number}"
        written = write_ct(place / "ct", like(image.astype(np.float32), direction=direction), patient=str(number))
        drawn = {name: mask for name, mask in structures(label).items() if name in names}
        if kind == "RTSTRUCT":
            write_rtstruct(
                place / "rs", written, {name: outlines(like(mask, direction=direction)) for name, mask in drawn.items()}
            )
        else:
            write_seg(place / "seg", written, drawn)
    return made
