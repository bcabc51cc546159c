"""The unpainted hosts are judged in every augmentation with a gate, and the console, report and manifest say so."""

from __future__ import annotations

import json

import pytest

from nnunet_difflung.commands.augment import main
from nnunet_difflung.injection.manifest import read_manifest
from tests.support.tiny import HU, make_dataset

pytestmark = pytest.mark.usefixtures("fingerprint")
OPTIONS = ["-d", "801", "-f", "0", "--method", "copy_paste", "-device", "cpu", "--max-synthetic", "12"]
TARGETS = ["--target-share", "emphysema=0.4", "ILD=0.4"]


@pytest.mark.parametrize("gate", ["drop", "report", "off"])
def test_the_unpainted_hosts_are_counted_in_console_report_and_manifest(folders, capsys, gate):
    folder = make_dataset(folders[0], patients=8, slices=2, size=40)
    main([*OPTIONS, *TARGETS, "--gate", gate])
    said = capsys.readouterr().out
    (run,) = read_manifest(folder)["runs"]
    report = folders[2] / folder.name / "DiffLung__copy_paste" / "augment_report.json"
    (row,) = json.loads(report.read_text())["folds"]
    verdicts = run["summary"]["verdicts"]
    assert row["verdicts"] == verdicts
    if gate == "off":
        assert verdicts == {}
        return
    for name, verdict in verdicts.items():
        assert verdict["unpainted"]["hosts"] == row["quality_of_all"][name]["cases"] >= 8
        assert verdict["unpainted"]["passing"] == 0
        assert verdict["judged"] is True
        assert f"{name}: 0 of {verdict['unpainted']['hosts']} unpainted hosts would pass too" in said
        assert [part["figure"] for part in verdict["pooled"]] == ["bias", "sd_ratio", "texture", "contrast"]
        (seam,) = verdict["seam"]
        assert 5 <= seam["cases"] <= run["summary"]["injected"]
        assert f"{name}: step at the edge of what was painted {seam['value']:.2f} times" in said
    assert set(verdicts) == {"emphysema", "ILD"}


def test_a_class_like_normal_lung_is_said_to_be_unjudged_and_the_run_goes_on(folders, capsys, monkeypatch):
    monkeypatch.setitem(HU, "emphysema", HU["normal_lung"])
    folder = make_dataset(folders[0], patients=8, slices=2, size=40)
    main([*OPTIONS, *TARGETS, "--gate", "drop"])
    said = capsys.readouterr().out
    (run,) = read_manifest(folder)["runs"]
    verdict = run["summary"]["verdicts"]["emphysema"]
    hosts, passing = verdict["unpainted"]["hosts"], verdict["unpainted"]["passing"]
    assert verdict["judged"] is False
    assert f"emphysema cannot be judged by intensity: {passing} of {hosts} unpainted hosts would pass too" in said
    assert run["summary"]["verdicts"]["ILD"]["judged"] is True
    assert run["summary"]["injected"] >= 0.5 * run["summary"]["planned"]
