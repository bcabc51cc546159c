"""Tiny nnU-Net datasets made on the fly: an elliptic body, two lungs, lesions with plausible HU."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from nnunet_difflung.paths import PATH_VARIABLES, full_name

LABELS = {"background": 0, "normal_lung": 1, "emphysema": 2, "ILD": 3}
IGNORE = 4
HU = {
    "air": (-1000.0, 0.0),
    "body": (40.0, 15.0),
    "normal_lung": (-850.0, 40.0),
    "emphysema": (-940.0, 20.0),
    "ILD": (-600.0, 80.0),
}
UNSIGNED_OFFSET = 1024


def set_paths(folder: Path, monkeypatch) -> tuple[Path, Path, Path]:
    """Makes nnU-Net's three folders in ``folder`` and sets the variables (nnunetv2 reads them at call time).

    Returns:
        the raw, the preprocessed and the results folder.
    """
    folders = tuple(Path(folder) / name for name in PATH_VARIABLES)
    for name, path in zip(PATH_VARIABLES, folders, strict=True):
        path.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(name, str(path))
    return folders


def write_fingerprint(preprocessed: Path) -> None:
    """An empty ``dataset_fingerprint.json`` of the default dataset, as if nnU-Net had extracted it."""
    (preprocessed / "Dataset801_Tiny").mkdir()
    (preprocessed / "Dataset801_Tiny" / "dataset_fingerprint.json").write_text("{}")


def _disc(shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


def make_masks(
    rng: np.random.Generator, depth: int, size: tuple[int, int], emphysema: bool = True, ild: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one patient's anatomy.

    Returns:
        (z, y, x) bool body, and (z, y, x) uint8 labels of ``LABELS``; lesions span neighbouring slices.
    """
    h, w = size
    middle = (h / 2 + rng.uniform(-1, 1), w / 2 + rng.uniform(-1, 1))
    scale = rng.uniform(0.95, 1.05)
    body = _disc(size, middle, (0.42 * h * scale, 0.46 * w * scale))
    lungs = [(middle[0], middle[1] + side * 0.21 * w) for side in (-1, 1)]
    lung = np.logical_or(*(_disc(size, centre, (0.28 * h * scale, 0.15 * w * scale)) for centre in lungs))
    label = np.repeat((lung & body).astype(np.uint8)[None], depth, axis=0)
    lesions = [("ILD", 0.10)] * ild + [("emphysema", 0.06)] * emphysema
    for (name, radius), side in zip(lesions, rng.permutation(2), strict=False):
        centre = (lungs[side][0] + rng.uniform(-0.12, 0.12) * h, lungs[side][1] + rng.uniform(-0.05, 0.05) * w)
        first, last = (0, depth) if depth < 3 else (depth // 4, depth - depth // 4)
        lesion = _disc(size, centre, (max(1.5, radius * h), max(1.5, radius * w))) & lung
        label[first:last, lesion] = LABELS[name]
    return np.repeat(body[None], depth, axis=0), label


def make_image(rng: np.random.Generator, body: np.ndarray, label: np.ndarray, channels: int = 1) -> np.ndarray:
    """(c, z, y, x) float32 HU; a second channel is a noisy linear map of the first."""
    mean, sd = (np.full(label.shape, value) for value in HU["air"])
    for name, where in (("body", body), *((n, label == LABELS[n]) for n in HU if n in LABELS)):
        mean[where], sd[where] = HU[name]
    image = np.clip(mean + sd * rng.standard_normal(label.shape), -1024, 1000)
    image[~body] = -1000
    extra = [0.5 * image + 10 * rng.standard_normal(label.shape) for _ in range(channels - 1)]
    return np.stack([image, *extra]).astype(np.float32)


def write_array(
    path: Path,
    array: np.ndarray,
    spacing: tuple[float, float, float] = (5.0, 0.8, 0.8),
    direction: np.ndarray | None = None,
) -> None:
    """Writes (z, y, x) in the format of the path's ending.

    PNG (and 2D TIFF) keep z = 1 only; unsigned formats are the caller's matter.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".png", ".bmp")) or (path.name.endswith((".tif", ".tiff")) and len(array) == 1):
        from skimage import io

        io.imsave(path, array[0], check_contrast=False)
    elif path.name.endswith((".tif", ".tiff")):
        import tifffile

        tifffile.imwrite(path, array, compression="zlib", photometric="minisblack")  # 3 or 4 slices are no RGB(A)
    else:
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing[::-1])
        image.SetOrigin((-11.5, 7.25, 100.0))
        if direction is not None:
            image.SetDirection(np.asarray(direction, float).ravel().tolist())
        sitk.WriteImage(image, str(path), True)


def make_dataset(
    raw_folder: str | Path,
    dataset_id: int = 801,
    name: str = "Tiny",
    patients: int = 5,
    slices: int = 2,
    size: int | tuple[int, int] = 32,
    channels: int = 1,
    file_ending: str = ".nii.gz",
    volumes: bool = False,
    depth: int = 6,
    ignore: bool = False,
    splits: bool = True,
    folds: int = 5,
    dataset_key: bool = False,
    emphysema_every: int = 1,
    dtype: str | None = None,
    direction: np.ndarray | None = None,
    seed: int = 0,
    **dataset_json,
) -> Path:
    """Writes a dataset.

    Args:
        raw_folder: ``$nnUNet_raw``.
        slices: cases of each patient with z = 1, named ``lung_001_s00`` (with ``volumes``: one case ``lung_001``).
        size: rows and columns, or both.
        depth: slices of a volume.
        ignore: a label ``ignore`` (4) is declared and used in a corner of the body.
        splits: write ``splits_final.json``, grouped by patient.
        dataset_key: list the files under ``dataset`` in dataset.json too.
        emphysema_every: only each n-th patient has emphysema.
        dtype: voxel type of images; default int16, uint16 (HU + 1024) for .png, .bmp.
        direction: 3 × 3 direction cosines for formats that have them.
        dataset_json: further entries of dataset.json, such as ``overwrite_image_reader_writer``.

    Returns:
        the dataset's folder.
    """
    folder = Path(raw_folder) / full_name(dataset_id, name)
    size = (size, size) if isinstance(size, int) else tuple(size)
    unsigned = file_ending in (".png", ".bmp")
    dtype = np.dtype(dtype or ("uint16" if unsigned else "int16"))
    cases: dict[str, str] = {}
    for patient in range(1, patients + 1):
        rng = np.random.default_rng([seed, patient])
        for index in range(1 if volumes else slices):
            identifier = f"lung_{patient:03d}" + ("" if volumes else f"_s{index:02d}")
            cases[identifier] = f"lung_{patient:03d}"
            body, label = make_masks(rng, depth if volumes else 1, size, emphysema=(patient - 1) % emphysema_every == 0)
            image = make_image(rng, body, label, channels) + (UNSIGNED_OFFSET if unsigned else 0)
            if ignore:
                corner = body & (label == 0)
                corner[:, size[0] // 2 :] = False
                label[corner & (np.arange(size[1]) < size[1] // 3)] = IGNORE
            cast = image if dtype.kind == "f" else np.rint(np.clip(image, 0 if dtype.kind == "u" else -1024, None))
            _write_case(folder, identifier, cast.astype(dtype), label, file_ending, direction)
    _write_json_files(folder, cases, channels, file_ending, ignore, dataset_key, dataset_json)
    if splits:
        write_splits(folder, cases, folds)
    return folder


def _write_case(
    folder: Path, identifier: str, image: np.ndarray, label: np.ndarray, ending: str, direction: np.ndarray | None
) -> None:
    for channel, array in enumerate(image):
        write_array(folder / "imagesTr" / f"{identifier}_{channel:04d}{ending}", array, direction=direction)
    write_array(folder / "labelsTr" / f"{identifier}{ending}", label, direction=direction)
    if ending in (".tif", ".tiff") and len(label) > 1:
        for part in ("imagesTr", "labelsTr"):
            (folder / part / f"{identifier}.json").write_text(json.dumps({"spacing": [5.0, 0.8, 0.8]}))


def _write_json_files(
    folder: Path, cases: dict[str, str], channels: int, ending: str, ignore: bool, dataset_key: bool, more: dict
) -> None:
    content = {
        "channel_names": {str(c): "CT" if c == 0 else f"extra{c}" for c in range(channels)},
        "labels": {**LABELS, **({"ignore": IGNORE} if ignore else {})},
        "numTraining": len(cases),
        "file_ending": ending,
        **more,
    }
    if dataset_key:
        content["dataset"] = {
            i: {
                "images": [f"./imagesTr/{i}_{c:04d}{ending}" for c in range(channels)],
                "label": f"./labelsTr/{i}{ending}",
            }
            for i in cases
        }
    (folder / "dataset.json").write_text(json.dumps(content, indent=4))


def write_splits(folder: Path, cases: dict[str, str], folds: int) -> None:
    """Patient-grouped splits: patient number modulo folds is the validation fold."""
    names = sorted(set(cases.values()))
    folds = min(folds, len(names))
    content = []
    for fold in range(folds):
        held_out = set(names[fold::folds])
        content.append(
            {"train": [i for i in cases if cases[i] not in held_out], "val": [i for i in cases if cases[i] in held_out]}
        )
    (folder / "splits_final.json").write_text(json.dumps(content, indent=4))


def tree_hashes(*folders: Path) -> dict[str, str]:
    """Every file (hash) and folder below ``folders``, so that equal results mean equal trees."""
    found = {}
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            found[str(path)] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found
