"""Preprocesses a dataset's synthetic cases with nnU-Net's preprocessor, and leaves the arrays of the real ones alone.

    python -m experiments.bench.preprocess 807 2d_demo

``nnUNetv2_preprocess`` would make the arrays of all cases again. This package's trainers compare every array with the
raw files before they train.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.paths import dataset_folder, preprocessed_folder
from nnunet_difflung.runtime.files import read_json


def preprocess(dataset: str, configuration_name: str) -> None:
    """Preprocesses the synthetic cases that have no arrays yet.

    Args:
        dataset: id or name.
        configuration_name: of nnU-Net.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    raw = dataset_folder(dataset)
    folder, content = preprocessed_folder(raw.name), read_json(raw / "dataset.json")
    plans = PlansManager(str(folder / "nnUNetPlans.json"))
    configuration = plans.get_configuration(configuration_name)
    preprocessor, target = configuration.preprocessor_class(verbose=False), folder / configuration.data_identifier
    for case, files in get_filenames_of_train_images_and_targets(str(raw), content).items():
        if is_synthetic(case) and not (target / f"{case}.pkl").is_file():
            images, label = files["images"], files["label"]
            preprocessor.run_case_save(str(target / case), images, label, plans, configuration, content)
            shutil.copyfile(label, folder / "gt_segmentations" / Path(label).name)


def main() -> None:
    """Entry of the command line."""
    p = argparse.ArgumentParser(
        prog="python -m experiments.bench.preprocess",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("dataset", help="id or name of an augmented dataset")
    p.add_argument("configuration", help="nnU-Net configuration")
    o = p.parse_args()
    preprocess(o.dataset, o.configuration)


if __name__ == "__main__":
    main()
