"""The commands to run after ``difflung_augment``."""

from __future__ import annotations

from pathlib import Path

from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.injection.manifest import plans_files
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import dataset_id
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.wording import quoted

_PLANS = "nnUNetPlans"  # what nnU-Net's commands take without -p


def next_commands(raw: RawDataset, configuration: str, method: str, folds: list[int | str], device: str) -> str:
    """nnU-Net's commands that use the synthetic cases, with the plans and a configuration that there are."""
    dataset, fold = dataset_id(raw.name), folds[0]
    on = "" if device == "cuda" else f" -device {device}"
    trainer = METHODS[method].trainer
    images, labels = (
        quoted(raw.folder / part) if (raw.folder / part).is_dir() else instead
        for part, instead in (("imagesTs", "IMAGES"), ("labelsTs", "LABELS"))
    )
    plans = _plans_in(raw.preprocessed)
    wanted, configuration = configuration, _planned_instead(raw.preprocessed, configuration)
    missing = f" ({plans}.json has no {wanted}, so with {configuration})" if wanted != configuration else ""
    configuration = quoted(configuration)
    if plans == _PLANS:
        prepare, by = f"nnUNetv2_plan_and_preprocess -d {dataset} -c {configuration}", ""
    else:  # such as those of a residual encoder; planning again would make others beside them
        prepare = f"nnUNetv2_preprocess -d {dataset} -plans_name {quoted(plans)} -c {configuration}"
        by = f" -p {quoted(plans)}"
    model = f"-d {dataset} -c {configuration} -f {fold} -tr {trainer}{by}{on}"
    return "\n".join(
        [
            f"Next{missing}:",
            f"  {prepare}",
            f"  nnUNetv2_train {dataset} {configuration} {fold} -tr {trainer}{by}{on}",
            f"  nnUNetv2_train {dataset} {configuration} {fold} -tr nnUNetTrainerDiffLungReference{by}{on}",
            f"  nnUNetv2_predict -i {images} -o PREDICTIONS {model}",
            f"  nnUNetv2_evaluate_folder {labels} PREDICTIONS -djfile {quoted(raw.folder / 'dataset.json')} "
            f"-pfile {quoted(raw.preprocessed / f'{plans}.json')}",
            f"Undo: difflung_remove -d {dataset}",
        ]
    )


def planned_configurations(preprocessed: Path) -> list[str]:
    """The configurations of the plans that the commands use; none if there are no plans, or if they cannot be read."""
    path = preprocessed / f"{_plans_in(preprocessed)}.json"
    try:
        return list(read_json(path)["configurations"]) if path in plans_files(preprocessed) else []
    except (OSError, ValueError, KeyError, TypeError):  # nnU-Net, which needs them, will say what is wrong
        return []


def note_of_configuration(raw: RawDataset, configuration: str) -> str | None:
    """What to say of a configuration that the plans do not have; None if they have it, or if there are none."""
    planned = planned_configurations(raw.preprocessed)
    if not planned or configuration in planned:
        return None
    return (
        f"{raw.preprocessed / _plans_in(raw.preprocessed)}.json has no configuration {configuration}, only "
        f"{', '.join(planned)}; unless you plan anew in a way that adds it, give -c one that there is"
    )


def _planned_instead(preprocessed: Path, wanted: str) -> str:
    """The wanted configuration, or the most alike one of those that are planned if it is not."""
    planned = planned_configurations(preprocessed)
    alike = ("3d_fullres", "3d_lowres", "2d") if wanted.startswith("3d") else ("2d", "3d_fullres", "3d_lowres")
    return next((name for name in (wanted, *alike) if name in planned), wanted)


def _plans_in(preprocessed: Path) -> str:
    """nnU-Net's usual plans, unless a dataset was planned and has others alone."""
    names = [path.stem for path in plans_files(preprocessed)]
    return _PLANS if _PLANS in names or not names else names[0]
