"""Why a fold's cases were dropped is said by what dropped them: the gate, the segmenter or the memorisation audit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_difflung.config import preset
from nnunet_difflung.errors import Failed
from nnunet_difflung.methods import METHODS
from nnunet_difflung.painting.cases import SynthesisResult
from nnunet_difflung.pipeline.preflight import refuse_undertrained

FAILS = {"quality": {"ILD": {"passes": False}}, "memorisation": {}}
COPIED = {"quality": {}, "memorisation": {"ILD": {"above_real_p99": True}}}
UNKNOWN = {"quality": {}, "memorisation": {}, "recognition": {"ILD": {"score": 0.1, "floor": 0.4}}}


def refused(rows: list[dict], gate: str) -> str:
    """What is said when four cases are dropped."""
    settings = preset("default")
    settings = replace(settings, sampling=replace(settings.sampling, gate=gate))
    plan = SimpleNamespace(with_lesions=[None] * 4)
    fold = SimpleNamespace(number=0, plan=plan, settings=settings, method=METHODS["difflung"], folder=Path("fold_0"))
    result = SynthesisResult(dropped={str(number): row for number, row in enumerate(rows)})
    with pytest.raises(Failed) as refusal:
        refuse_undertrained(fold, result)
    return str(refusal.value)


def test_the_segmenter_is_named_where_it_dropped_the_cases():
    said = refused([UNKNOWN, UNKNOWN, UNKNOWN, COPIED], "drop")
    assert "4 of 4 cases were dropped, of which the segmenter does not recognise 3" in said
    assert "leave out --candidates" in said


def test_a_gate_that_only_reports_has_dropped_nothing():
    said = refused([FAILS | {"recognition": UNKNOWN["recognition"]}] * 4, "report")
    assert "the segmenter does not recognise 4" in said
    assert "--gate" not in said


def test_the_gate_and_the_audit_are_named_as_before():
    assert "the gate dropped 4 of 4 cases" in refused([FAILS, FAILS, FAILS, UNKNOWN], "drop")
    assert "--memorised report" in refused([COPIED, COPIED, COPIED, UNKNOWN], "report")
