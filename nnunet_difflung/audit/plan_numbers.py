"""Whether nnU-Net's plans were made from the fingerprint of the real cases.

The plans hold numbers of the fingerprint that they were made from: intensities, by which images are normalised, and the
median shape and spacing. A fingerprint that counted synthetic cases may be replaced by the right one afterwards; the
plans then still have its numbers.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from nnunet_difflung.injection.leaks import Problem
from nnunet_difflung.injection.manifest import FINGERPRINT, PREPROCESSED, plans_files
from nnunet_difflung.paths import dataset_id, names_in
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.wording import quoted

_INTENSITIES = "foreground_intensity_properties_per_channel"
_SPACING, _SHAPE = "original_median_spacing_after_transp", "original_median_shape_after_transp"
_SAME_SPACING, _SAME_SHAPE = 0.01, 0.25  # relative differences that a few synthetic cases more may make
_SAME_INTENSITY = 0.5  # difference of the means, in standard deviations


def plan_problems(preprocessed: Path, manifest: dict) -> tuple[list[Problem], list[str]]:
    """Compares the numbers in all plans of a dataset with its fingerprint.

    Plans with other numbers are a problem if they were written after the synthetic cases were added and fit this
    dataset. Else they are a note: plans may be older than the fingerprint, and nnU-Net moves plans between datasets.

    Args:
        preprocessed: folder of the dataset.
        manifest: its manifest.

    Returns:
        problems, and notes.
    """
    own = _read(preprocessed / FINGERPRINT.removeprefix(PREPROCESSED))
    problems: list[Problem] = []
    notes: list[str] = []
    for path in plans_files(preprocessed) if own.get(_INTENSITIES) and manifest["cases"] else ():
        plans = _read(path)
        if plans.get(_INTENSITIES) in (None, own[_INTENSITIES]):
            continue
        text = f"{path} was not made from {FINGERPRINT.removeprefix(PREPROCESSED)} beside it (other intensities)"
        if _is_later(path, manifest) and _fits(plans, own) and not _is_of_another(plans, preprocessed):
            again = f"-d {dataset_id(preprocessed.name)} -overwrite_plans_name {quoted(plans['plans_name'])}"
            if plans["plans_name"] == "nnUNetPlans":
                again = f"-d {dataset_id(preprocessed.name)}"
            text = (
                f"{text}, so it may have been made from one that counted synthetic cases, those of other folds "
                f"included; run nnUNetv2_plan_and_preprocess {again} with the other options of your planning"
            )
            problems.append(Problem(text, None, True))
        else:
            notes.append(f"{text}: it is older than the synthetic cases, or of another dataset")
    return problems, notes


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_later(path: Path, manifest: dict) -> bool:
    """Whether plans were written after the dataset got its first synthetic cases."""
    try:
        return path.stat().st_mtime > datetime.fromisoformat(manifest["created"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return True


def _fits(plans: dict, fingerprint: dict) -> bool:
    """Whether plans can be of this dataset: median spacing, median shape and intensities are about the same."""
    try:
        axes = [int(axis) for axis in plans["transpose_forward"]]
        for name, key, allowed in ((_SPACING, "spacings", _SAME_SPACING), (_SHAPE, "shapes_after_crop", _SAME_SHAPE)):
            medians = [median(sizes) for sizes in zip(*fingerprint[key], strict=True)]
            for wanted, axis in zip(plans[name], axes, strict=True):
                if abs(wanted - medians[axis]) > allowed * medians[axis]:
                    return False
        ours, theirs = fingerprint[_INTENSITIES], plans[_INTENSITIES]
        return set(ours) == set(theirs) and all(
            abs(ours[c]["mean"] - theirs[c]["mean"]) <= _SAME_INTENSITY * ours[c]["std"] for c in ours
        )
    except (KeyError, TypeError, ValueError, IndexError):
        return True


def _is_of_another(plans: dict, preprocessed: Path) -> bool:
    """Whether plans have the numbers of another dataset, from which nnU-Net has moved them."""
    root, file = preprocessed.parent, FINGERPRINT.removeprefix(PREPROCESSED)
    others = [root / name / file for name in names_in(root) if name != preprocessed.name]
    return any(_read(path).get(_INTENSITIES) == plans[_INTENSITIES] for path in others)
