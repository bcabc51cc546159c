"""JSON as every parser reads it: without NaN and Infinity, which Python writes but the standard does not have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def strict_json(content: Any) -> str:
    """Content as JSON text in ASCII: what is not finite is null, keys are text, sets are sorted lists."""
    return json.dumps(_strict(content), indent=1, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(each) for key, each in value.items()}
    if isinstance(value, (set, frozenset)):
        return [_strict(each) for each in sorted(value)]
    if isinstance(value, (list, tuple)):
        return [_strict(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _strict(value.tolist())
    return str(value) if isinstance(value, PurePath) else value
