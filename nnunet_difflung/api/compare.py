"""The figures of ``difflung_compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_difflung.api.dataset import Dataset
from nnunet_difflung.comparison.compare import compared
from nnunet_difflung.comparison.trainings import ARMS, PLANS, find_trainings
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.environment import require


@dataclass(frozen=True)
class Comparison:
    """Figures of several arms of nnU-Net trainings.

    Attributes:
        meta: what was compared: dataset, folds, seeds, configuration, reference, versions.
        arms: arm → class → figures, as in the file that ``difflung_compare`` writes: ``dice``, ``diff_to_reference``,
            ``pooled``, ``per_case``, ``false_positive_voxels``, ``false_positive_patients``, ``rows`` (each patient of
            each training), with ``lesions`` and ``tolerance_mm`` more. None stands for what cannot be computed.
    """

    meta: dict = field(repr=False)
    arms: dict[str, dict[str, dict]] = field(repr=False)

    @property
    def reference(self) -> str:
        """The arm that the others are compared with."""
        return self.meta["reference"]

    def dice(self, arm: str, label: str) -> float | None:
        """Mean Dice of a class over the patients who have it, each of whom counts once."""
        return self.arms[arm][label]["dice"]["mean"]

    def difference(self, arm: str, label: str) -> tuple[float | None, tuple[float, float] | None]:
        """Mean difference in Dice to the reference, paired by patient, and its 95 % interval, where there is one."""
        row = self.arms[arm][label]["diff_to_reference"]
        return row["mean"], None if row["ci95"] is None else (row["ci95"][0], row["ci95"][1])


def compare(
    dataset: Dataset | str | int,
    folds: Sequence[int | str],
    *,
    arms: Sequence[str] | None = None,
    reference: str = "reference",
    configuration: str | None = None,
    plans: str = PLANS,
    length: str = "",
    results: Sequence[str | Path] | None = None,
    predictions: str | None = None,
    patient_pattern: str | None = None,
    patients_file: str | Path | None = None,
    lesions: bool = False,
    tolerance_mm: float | None = None,
) -> Comparison:
    """Compares finished nnU-Net trainings class by class, paired by patient, as ``difflung_compare``; writes nothing.

    Args:
        dataset: from ``load_dataset``, or id or name of a dataset in the results folder.
        folds: on which every arm was trained.
        arms: such as ``reference``, ``difflung``, ``copy_paste``; None: all with a finished training.
        reference: the arm that the others are compared with.
        configuration: nnU-Net configuration; None: the only one that was trained.
        plans: name of nnU-Net's plans.
        length: suffix of the trainers' names, such as ``5epochs``.
        results: nnUNet_results folders, one for each repetition; None: ``$nnUNet_results``.
        predictions: folder inside each ``fold_K`` with evaluated predictions; None: nnU-Net's validation.
        patient_pattern: regular expression whose first group is the patient of a case id.
        patients_file: CSV or JSON file that says who the patients are, instead of a pattern.
        lesions: also compare the numbers of lesions that were detected; reads the segmentations.
        tolerance_mm: also compute HD95 and the surface Dice, with this tolerance; needs MONAI.

    Raises:
        BadInput: a training is missing, or the trainings cannot be compared.
    """
    if tolerance_mm is not None:
        if not tolerance_mm > 0:
            raise BadInput(f"tolerance_mm={tolerance_mm} is not positive; give millimetres, such as 2")
        require("monai.metrics", extra="metrics", why="tolerance_mm", otherwise="leave tolerance_mm out")
    if patient_pattern is not None and patients_file is not None:
        raise BadInput("patient_pattern and patients_file both say who the patients are; give one of them")
    if isinstance(arms, str) or not set(arms or ()) <= set(ARMS):
        raise BadInput(f"arms={arms!r}: expected a list of arms, each of them one of {', '.join(ARMS)}")
    trainings = find_trainings(
        dataset.name if isinstance(dataset, Dataset) else str(dataset),
        [str(fold) for fold in folds],
        None if results is None else [Path(folder) for folder in results],
        configuration,
        arms,
        plans,
        length,
        predictions,
    )
    file = None if patients_file is None else Path(patients_file)
    table, _ = compared(trainings, reference, patient_pattern, lesions, tolerance_mm, "dl.compare", file)
    return Comparison(table["meta"], {arm: rows for arm, rows in table.items() if arm != "meta"})
