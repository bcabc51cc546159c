"""What a plan holds, in a form that tests can compare with what earlier versions planned."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from nnunet_difflung.lesions.plan import Plan


def content(plan: Plan) -> list:
    """Cases, class shares and notes of a plan."""
    return [[planned.as_record() for planned in plan.cases], plan.after, plan.notes]


def digest(plan: Plan) -> str:
    """Hash of the content with nine digits of each number: the last ones depend on the C library."""
    return hashlib.sha256(json.dumps(_rounded(content(plan))).encode()).hexdigest()[:16]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
