"""What nnU-Net leaves of finished trainings, made from a dataset's label maps without any training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_difflung.comparison.trainings import ARMS


def spoiled(label: np.ndarray, value: int, kept: float, false: float, rng: np.random.Generator) -> np.ndarray:
    """A prediction: a share of the class ``value`` is found, and a share of label 1 is taken for it."""
    kept, false = (share * rng.uniform(0.3, 1.7) for share in (kept, false))
    noise = ndimage.gaussian_filter(rng.standard_normal(label.shape), (0, 2, 2))
    lesion, lung = label == value, label == 1
    found = (
        lesion & (noise < np.quantile(noise[lesion], min(1, kept)))
        if lesion.any() and kept > 0
        else np.zeros_like(lesion)
    )
    wrong = lung & (noise > np.quantile(noise[lung], 1 - false)) if lung.any() and false > 0 else np.zeros_like(lesion)
    return np.where(lesion, 1, label) * ~(found | wrong) + value * (found | wrong)


def write_trainings(
    results: Path,
    dataset: Path,
    arms: Mapping[str, tuple[float, float]],
    folds: Sequence[int],
    value: int = 2,
    seed: int = 0,
    notes: dict | None = None,
) -> None:
    """Writes predictions of the validation cases of each fold, and their ``summary.json``.

    Args:
        results: nnUNet_results.
        dataset: folder of a raw dataset with splits_final.json and .nii.gz files.
        arms: arm → share of the class's voxels found, and share of label 1 taken for it.
        folds: numbers.
        value: label value of the class.
        seed: of what is found.
        notes: content of debug.json.
    """
    content = json.loads((dataset / "dataset.json").read_text())
    splits = json.loads((dataset / "splits_final.json").read_text())
    keys = {name: number for name, number in content["labels"].items() if number and name != "ignore"}
    for number, (arm, (kept, false)) in enumerate(arms.items()):
        model = results / dataset.name / f"{ARMS[arm]}__nnUNetPlans__2d"
        for fold in folds:
            folder = model / f"fold_{fold}" / "validation"
            folder.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng((seed, number, fold))
            entries = [_predict(dataset, folder, case, keys, value, kept, false, rng) for case in splits[fold]["val"]]
            (folder / "summary.json").write_text(json.dumps({"metric_per_case": entries}))
            if notes:
                (folder.parent / "debug.json").write_text(json.dumps({**notes, "method": arm}))
        shutil.copy(dataset / "dataset.json", model)


def _predict(dataset, folder, case, keys, value, kept, false, rng) -> dict:
    source = sitk.ReadImage(str(dataset / "labelsTr" / f"{case}.nii.gz"))
    label = sitk.GetArrayFromImage(source)
    prediction = spoiled(label, value, kept, false, rng).astype(np.uint8)
    image = sitk.GetImageFromArray(prediction)
    image.CopyInformation(source)
    sitk.WriteImage(image, str(folder / f"{case}.nii.gz"), True)
    metrics = {}
    for number in keys.values():
        expected, found = label == number, prediction == number
        counts = {"TP": expected & found, "FP": found & ~expected, "FN": expected & ~found}
        metrics[str(number)] = {name: int(mask.sum()) for name, mask in counts.items()}
    return {"prediction_file": f"/somewhere/else/{case}.nii.gz", "metrics": metrics}
