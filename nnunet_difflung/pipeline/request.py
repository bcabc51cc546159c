"""The request that ``difflung_augment`` carries out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.config import Settings


@dataclass(frozen=True)
class Request:
    """A call of ``difflung_augment``.

    Attributes:
        dataset: id or name.
        folds: names of folds; empty for every fold of the split.
        settings: settings of generator, sampling and balance.
        configuration: nnU-Net configuration to train afterwards, for the commands that are printed.
        device: ``cpu``, ``cuda`` or ``mps``.
        processes: number of processes or threads that read, measure and write cases, and make nnU-Net's fingerprint.
        normal_labels: names of normal lung's labels; without any they are found by their names.
        structure_labels: labels that are neither normal lung nor pathology.
        patient_pattern: regular expression whose first group is the patient of a case id; None if it is not given.
        patients_file: CSV or JSON file that says which cases belong to the same patient; None if it is not given.
        save_every: seconds between checkpoints of the generator.
        dry_run: show the plan and write nothing.
    """

    dataset: str
    folds: tuple[str, ...]
    settings: Settings
    configuration: str = "2d"
    device: str = "cpu"
    processes: int = 2
    normal_labels: tuple[str, ...] = ()
    structure_labels: tuple[str, ...] = ()
    patient_pattern: str | None = None
    patients_file: Path | None = None
    save_every: float = 60.0
    dry_run: bool = False
