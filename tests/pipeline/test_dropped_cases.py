"""Why a fold's cases were dropped is said by what dropped them: the gate, the segmenter or the memorisation audit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_difflung.commands.augment import main
from nnunet_difflung.config import preset
from nnunet_difflung.errors import Failed
from nnunet_difflung.methods import METHODS
from nnunet_difflung.painting.cases import SynthesisResult
from nnunet_difflung.pipeline import augment as augment_module
from nnunet_difflung.pipeline.preflight import refuse_undertrained
from tests.support.tiny import make_dataset

FAILS = {"quality": {"ILD": {"passes": False}}, "memorisation": {}}
COPIED = {"quality": {}, "memorisation": {"ILD": {"above_real_p99": True}}}
UNKNOWN = {"quality": {}, "memorisation": {}, "recognition": {"ILD": {"score": 0.1, "floor": 0.4}}}


def refused(rows: list[dict], gate: str, method: str = "difflung") -> str:
    """What is said when four cases are dropped."""
    settings = preset("default")
    settings = replace(settings, sampling=replace(settings.sampling, gate=gate))
    plan = SimpleNamespace(with_lesions=[None] * 4)
    fold = SimpleNamespace(
        number=0,
        plan=plan,
        settings=settings,
        method=METHODS[method],
        folder=Path("fold_0"),
        raw=SimpleNamespace(name="Dataset801_Tiny"),
    )
    result = SynthesisResult(dropped={str(number): row for number, row in enumerate(rows)})
    with pytest.raises(Failed) as refusal:
        refuse_undertrained(fold, result, [0, 1])
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


@pytest.mark.parametrize(("rows", "epochs"), [([FAILS] * 4, "more"), ([COPIED] * 4, "fewer"), ([UNKNOWN] * 4, "more")])
def test_the_generators_of_all_folds_are_trained_again(rows, epochs, tmp_path, monkeypatch):
    """One alone would have other settings than those of the other folds, which the same command refuses."""
    command = "run difflung_remove -d Dataset801_Tiny -f 0 1 --method difflung --generators, then train with"
    assert f"{command} {epochs} --epochs than 200" in refused(rows, "drop")
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    said = refused(rows, "drop", "harmonise")
    assert "difflung_remove" not in said, "which would remove the cases of cbmat too"
    assert "DiffLung__cbmat/fold_0, " in said
    assert f"DiffLung__cbmat/fold_1, then train with {epochs} --epochs" in said


def test_a_method_that_is_not_trained_has_no_epochs():
    said = refused([COPIED] * 4, "drop", "copy_paste")
    assert "--epochs" not in said
    assert "Either add patients, or inject them anyway with --memorised report" in said


@pytest.mark.usefixtures("fingerprint", "no_fsync")
def test_a_run_gives_the_remedy_all_its_folds(folders, monkeypatch):
    make_dataset(folders[0], patients=4, slices=1, folds=2)
    given = []
    monkeypatch.setattr(augment_module, "refuse_undertrained", lambda fold, _, of_run: given.append(of_run))
    copy = ["-d", "801", "--method", "copy_paste", "--max-synthetic", "1", "--gate", "report", "--memorised", "off"]
    main([*copy, "-f", "0", "1", "-device", "cpu", "-np", "1"])
    assert given == [[0, 1], [0, 1]]


def test_neither_placebos_nor_what_a_reader_excluded_decide_why_cases_were_dropped():
    of_reader, placebo = FAILS | {"excluded": True}, FAILS | {"placebo_quality": {}}
    for others in ([of_reader] * 2, [placebo] * 3, [placebo | {"excluded": True}] * 3):
        said = refused([COPIED, COPIED, *others], "drop")
        planned = 2 if others[0] is of_reader else 4
        assert f"{planned} of {planned} cases resemble training slices too closely" in said
