"""The settings of a run of one method and fold, of which another run may have the same."""

from __future__ import annotations

import re
from typing import Any

from nnunet_difflung.config import identity

# the shortest name of a method, since the key of a case may look like a fold: difflung_difflung_f0_f1234567_0001
_OF_METHOD = re.compile(r"difflung_(?P<method>.+?)_f(?P<fold>\d+|all)(_[0-9a-f]{8})?_\d{4,}")


def part_of_id(identifier: str, part: str) -> str:
    """The ``method`` or the ``fold`` that an id names; empty if it is not the id of a synthetic case."""
    found = _OF_METHOD.fullmatch(identifier)
    return found[part] if found else ""


def identity_in(settings: Any, fold: int | str) -> Any:
    """What decides which cases a fold gets: ``config.identity`` without excluded cases of other folds.

    The list of what a reader has refused may name cases of several folds, and is recorded with each of them.

    Args:
        settings: as a manifest records them.
        fold: number of the fold, or ``all``.
    """
    sampling = settings.get("sampling") if isinstance(settings, dict) else None
    if isinstance(sampling, dict) and sampling.get("exclude"):
        own = [name for name in sampling["exclude"] if part_of_id(name, "fold") in ("", str(fold))]
        settings = {**settings, "sampling": {**sampling, "exclude": own}}
    return identity(settings)
