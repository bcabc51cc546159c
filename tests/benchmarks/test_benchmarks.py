"""The benchmarks' opponents are what they say, and their rows have the agreed keys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("script", ["planning", "painting", "training", "cache", "writing", "dry_run"])
def test_help_says_what_is_compared(script):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", "-h"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "reference" in done.stdout
    assert "-device" in done.stdout


def test_the_reference_paints_as_many_slices_at_once_as_the_public_code(monkeypatch, tmp_path):
    from benchmarks import painting, timing

    seen = []

    class Network:
        def eval(self):
            return self

        def requires_grad_(self, _):
            return self

        def to(self, device):
            return self

        def __call__(self, x, t):
            seen.append(len(x))

    monkeypatch.setattr(painting, "reference_network", Network)
    monkeypatch.setattr(painting, "our_painting", lambda o, settings: lambda: {"32 × 32": 4})
    monkeypatch.setattr(sys, "argv", ["painting", "--size", "32", "--repeats", "1", "-o", str(tmp_path / "speed.json")])
    painting.main()
    assert set(seen) == {8}
    assert {r["meta"]["reference_batch"] for r in timing.read_json(tmp_path / "speed.json")} == {8}
    assert "Not timed" in painting.__doc__


def test_the_reference_network_has_its_parameters():
    from benchmarks import setting

    assert sum(w.numel() for w in setting.reference_network().parameters()) / 1e6 == pytest.approx(113.7, abs=0.1)


def test_copies_of_cases_belong_to_patients_of_their_own():
    from benchmarks import setting
    from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
    from nnunet_difflung.paths import NNUNET_RAW

    with setting.phantom(48, 6, 2) as folder:
        before = open_raw_dataset("800")
        setting.multiply(folder / NNUNET_RAW / setting.PHANTOM, 3)
        raw = open_raw_dataset("800")
        assert set(before.cases) < set(raw.cases)
        assert len(raw.cases) == 3 * len(before.cases)
        assert len(set(raw.patients.values())) == 3 * len(set(before.patients.values()))
        for fold in range(raw.number_of_folds):
            training, validation = raw.training_cases(fold), raw.validation_cases(fold)
            assert len(training) == 3 * len(before.training_cases(fold))
            assert {raw.patients[i] for i in training}.isdisjoint(raw.patients[i] for i in validation)


def test_trial_and_error_changes_normal_lung_only():
    from benchmarks import planning

    rng, label = np.random.default_rng(0), np.zeros((1, 40, 40), np.uint8)
    label[:, 8:32, 8:32] = 1
    label[:, 18:22, 18:22] = 3
    before = label.copy()
    changed = planning.trial_and_error(label, np.ones((1, 5, 5), bool), 2, rng)
    assert changed == (label != before).sum() >= 0.9 * 25
    assert (before[label != before] == 1).all()
    assert (label[label != before] == 2).all()
    assert planning.trial_and_error(label, np.ones((1, 30, 30), bool), 2, rng) == 0


def test_rows_have_the_agreed_keys_and_ratios_above_one_are_better(tmp_path):
    from benchmarks import make_table, timing

    rate = timing.row("a", [2.0, 4.0, 3.0], [1.0, 1.0, 1.0], "slices/s", "cpu", {})
    time = timing.row("b", [1.0], [10.0], "s a slice", "cpu", {})
    assert set(rate) == set(timing.KEYS)
    assert (rate["ratio"], time["ratio"]) == (3.0, 10.0)
    for rows in ([rate, time], [time | {"ours": 2.0}]):
        timing.write_rows(tmp_path / "speed.json", rows)
    found = timing.read_json(tmp_path / "speed.json")
    assert [(r["name"], r["ours"]) for r in found] == [("a", 3.0), ("b", 2.0)]
    assert "| a | cpu | 3 (2 to 4) | 1 (1 to 1) | slices/s | 3 | 3 |" in make_table.table(found)
