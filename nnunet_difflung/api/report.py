"""The report of ``difflung_report``."""

from __future__ import annotations

from pathlib import Path

from nnunet_difflung.api.dataset import Dataset, load_dataset
from nnunet_difflung.report.page import write_report as write
from nnunet_difflung.report.request import method_on_record


def write_report(
    dataset: Dataset | str | int,
    path: str | Path | None = None,
    *,
    method: str | None = None,
    configuration: str | None = None,
    device: str | None = None,
    anonymous: bool = False,
) -> Path:
    """Writes what is on record about a dataset's synthetic cases as one HTML page, as ``difflung_report``.

    Args:
        dataset: from ``load_dataset``, or id or name of the dataset.
        path: of the HTML file; None: ``report.html`` in the method's folder in ``$nnUNet_results``.
        method: that made the cases; None: ``difflung``, or the only one with cases.
        configuration: nnU-Net configuration in the commands to run next; None: that of ``difflung_augment``, ``2d`` if
            it is not on record.
        device: in the commands to run next, ``cpu``, ``cuda`` or ``mps``; None: that of ``difflung_augment``, ``cuda``
            if it is not on record.
        anonymous: call real cases and patients by numbers.

    Returns:
        The path of the file.

    Raises:
        BadInput: nothing is on record, or a record or file is damaged.
    """
    raw = (dataset if isinstance(dataset, Dataset) else load_dataset(dataset)).raw
    target = None if path is None else Path(path)
    return write(raw, method_on_record(raw.name, method), target, configuration, device, anonymous)
