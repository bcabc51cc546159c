"""Lesions of volumes painted back: the folder's generators, and means over the same patients."""

from __future__ import annotations

import os
from argparse import Namespace
from types import SimpleNamespace

import numpy as np

from experiments import volumes
from experiments.summary_tables import volumes_summary
from nnunet_difflung.painting.continuity import FIGURES
from nnunet_difflung.paths import NNUNET_RESULTS


def test_means_are_over_patients_in_whom_both_are_known():
    nan = float("nan")
    rows = {
        "real": {"0 a": dict.fromkeys(FIGURES, 1.0), "0 b": dict.fromkeys(FIGURES, nan)},
        "difflung": {"0 a": dict.fromkeys(FIGURES, 3.0), "0 b": dict.fromkeys(FIGURES, 9.0)},
    }
    table = volumes.summarised(rows)["difflung"]["flicker"]
    assert table == {"mean": 3.0, "real": 1.0, "patients": 1}
    rows["real"].pop("0 a")
    rows["difflung"].pop("0 a")
    assert volumes.summarised(rows)["difflung"]["flicker"]["mean"] is None


def test_slice_by_slice_takes_the_generators_of_its_own_folder(monkeypatch, tmp_path):
    seen = []
    image = np.zeros((3, 4, 4))
    volume = SimpleNamespace(patient="a", real=image, image=image, lesion=image > 0, normal=image == 0)

    def opened(raw, cache, number, settings):
        seen.append((os.environ[NNUNET_RESULTS], settings.generator.neighbours, settings.sampling.margin))

    monkeypatch.setenv(NNUNET_RESULTS, "usual")
    monkeypatch.setattr(volumes, "open_fold", opened)
    monkeypatch.setattr(volumes, "painted_volumes", lambda *_: [volume])
    options = Namespace(
        f=[0, 2], methods=["difflung"], preset="fast", augment="--margin 2", pathology="x", device="cpu", seed=1
    )
    options.slice_by_slice = tmp_path
    rows = volumes.measure(None, None, options)
    assert seen == [("usual", None, 2), (str(tmp_path), 0, 2)] * 2
    assert os.environ[NNUNET_RESULTS] == "usual"
    assert set(rows) == {"difflung", volumes.SLICE_BY_SLICE, "real"}
    assert set(rows["real"]) == {"0 a", "2 a"}


def test_the_table_divides_by_the_same_real_lesions():
    known = {figure: {"mean": 2.0, "real": 4.0, "patients": 3} for figure in FIGURES}
    real = {figure: {"mean": 3.0, "real": 3.0, "patients": 4} for figure in FIGURES}
    nothing = {figure: {"mean": None, "real": None, "patients": 0} for figure in FIGURES}
    content = {
        "meta": {"class": "ground_glass"},
        "methods": {"difflung": known, "real": real, volumes.SLICE_BY_SLICE: nothing},
    }
    rows = volumes_summary(["LIDC"], content).splitlines()[2:]
    cells = " | ".join(f"{2:.{digits}f} (0.50)" for digits in FIGURES.values())
    assert rows[0] == f"| LIDC, ground glass | `difflung` | {cells} | 3 |"
    assert rows[1].startswith("| LIDC, ground glass | real | 3.000 | 3.00 |")
    assert rows[2] == "| LIDC, ground glass | `difflung`, slice by slice | – | – | – | – | 0 |"
