"""What ``difflung_augment`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_difflung.config import Settings


@dataclass(frozen=True)
class Request:
    """A call of ``difflung_augment``.

    Attributes:
        dataset: id or name.
        folds: names of folds, empty for all of the split.
        settings: of generator, sampling and balance.
        configuration: nnU-Net configuration that is to be trained afterwards.
        device: ``cpu``, ``cuda`` or ``mps``.
        processes: for reading cases and nnU-Net's fingerprint.
        normal_label: name of the normal lung's label, or None.
        structure_labels: labels that are neither lung nor pathology.
        patient_pattern: regular expression, or None.
        save_every: seconds between checkpoints of the generator.
        dry_run: show the plan and touch nothing.
    """

    dataset: str
    folds: tuple[str, ...]
    settings: Settings
    configuration: str = "2d"
    device: str = "cpu"
    processes: int = 2
    normal_label: str | None = None
    structure_labels: tuple[str, ...] = ()
    patient_pattern: str | None = None
    save_every: float = 60.0
    dry_run: bool = False
