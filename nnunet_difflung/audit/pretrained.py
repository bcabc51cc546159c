"""What pretrained weights have seen, according to the records in the checkpoints of this package's trainers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_difflung.patients.ids import read_id

PRETRAINED = "pretrained"  # in a checkpoint's record: what the weights that its training began with had seen


def taught_by(record: Mapping[str, Any] | None, elsewhere: bool = False) -> dict[str, Any]:
    """What weights have seen, according to their checkpoint's record (None: it has none).

    Args:
        record: of the checkpoint.
        elsewhere: whether it was trained on another dataset, where the same id is another case, and the same patient
            may have another id.

    Returns:
        ``cases``: real cases that they, and the weights that they were begun with, were trained on; sorted.
        ``complete``: whether these are all.
    """
    if record is None or elsewhere:
        return {"cases": [], "complete": False}
    earlier = record.get(PRETRAINED) or {"cases": [], "complete": True}
    return {"cases": sorted({*record["real"], *earlier["cases"]}), "complete": earlier["complete"]}


def seen(taught: Mapping[str, Any], validation: Sequence[str], patients: Mapping[str, str]) -> list[str]:
    """The validation cases whose patients are among those of ``taught_by``.

    Args:
        taught: as ``taught_by`` gives it.
        validation: case ids.
        patients: case id → patient; the others are read from their ids, or are a patient each.
    """

    def of(case: str) -> str:
        return patients.get(case) or read_id(case) or case

    known = {*map(of, taught["cases"]), *taught["cases"]}
    return sorted(case for case in validation if case in known or of(case) in known)
