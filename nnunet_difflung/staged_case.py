"""A synthetic case that waits for its injection."""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.manifest import is_identifier
from nnunet_difflung.raw_dataset import RawDataset


@dataclass(frozen=True)
class StagedCase:
    """A synthetic case whose files are complete and have their final names.

    Under ``staging_folder`` they are moved by the injection, anywhere else they are copied.

    Attributes:
        identifier: ``difflung_…``.
        images: ``<id>_0000<ending>``, …; a 3D TIFF's ``<id>.json`` beside them goes with them.
        label: ``<id><ending>``, and ``<id>.json`` beside it.
        record: the manifest's entry: method, fold, sources, host, slices, operations, seed, generator, quality.
    """

    identifier: str
    images: tuple[Path, ...]
    label: Path
    record: dict


def check_staged(case: StagedCase, raw: RawDataset, run: dict) -> None:
    """Whether a staged case is what its caller promised (a defect of ours if not).

    Raises:
        BadInput: a staged file is gone.
    """
    name, ending = re.escape(case.identifier), re.escape(raw.dataset_json["file_ending"])
    example = next(iter(raw.cases.values()))
    if not is_identifier(case.identifier):
        raise ValueError(f"{case.identifier!r} is no id of a synthetic case")
    if (case.record["method"], case.record["fold"]) != (run["method"], run["fold"]):
        raise ValueError(f"{case.identifier} is not of method {run['method']}, fold {run['fold']}")
    if len(case.images) != len(example.images) or not re.fullmatch(name + ending, case.label.name) \
            or not all(re.fullmatch(rf"{name}_\d{{4}}{ending}", path.name) for path in case.images):
        raise ValueError(f"{case.identifier} has other files than a case of {raw.name}: {case.images}, {case.label}")
    for path in (*case.images, case.label):
        if not path.is_file():
            raise BadInput(f"{path} is missing, a staged file of {case.identifier}; run the same command again")
