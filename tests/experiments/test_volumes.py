"""Lesions of volumes painted back: the folder's generators, and means over the same patients."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from experiments import volumes
from experiments.painted_back import conversion_of, generators_of
from experiments.summary_tables import volumes_summary
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset_conversion.pipeline.archive import MANIFEST
from nnunet_difflung.generator.training import FoldData, train_generator
from nnunet_difflung.judging.continuity import FIGURES
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import NNUNET_RESULTS, cache_folder, fold_folder
from nnunet_difflung.runtime.files import write_json
from tests.support.generators import TINY
from tests.support.tiny import make_dataset


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


def test_the_record_says_how_the_generators_were_trained(folders, monkeypatch):
    make_dataset(folders[0], patients=4, volumes=True, depth=4)
    raw, other = open_raw_dataset("801"), folders[2] / "other"
    other.mkdir()
    cache = build_cache(raw, cache_folder(raw.name), progress=False)
    data = FoldData(cache, tuple(raw.channels), raw.name, 0, tuple(raw.training_cases(0)))
    for results, neighbours in ((folders[2], None), (other, 0)):
        with monkeypatch.context() as patch:
            patch.setenv(NNUNET_RESULTS, str(results))
            config = replace(TINY, epochs=1, seed=7, neighbours=neighbours)
            train_generator(data, METHODS["difflung"], config, fold_folder(raw.name, "difflung", 0), progress=False)
    options = Namespace(methods=["difflung", "copy_paste"], slice_by_slice=other)
    rows = generators_of(raw, [0], volumes.painters_of(options))
    assert os.environ[NNUNET_RESULTS] == str(folders[2])
    assert [(row["row"], row["fold"], row["seed"]) for row in rows] == [
        ("difflung", 0, 7),
        (volumes.SLICE_BY_SLICE, 0, 7),
    ]
    assert [row["config"]["neighbours"] for row in rows] == [1, None]
    assert rows[0]["steps"] == -(-rows[0]["training_slices"] // TINY.batch_size) > 0
    assert len({row["weights_sha256"] for row in rows}) == len({row["identity"] for row in rows}) == 2


def test_the_record_says_how_the_dataset_was_converted(tmp_path):
    assert conversion_of(tmp_path) is None
    record = {"command": "Dataset807_LIDCNodules -i DATA --as volumes", "kind": "x", "options": {"form": "volumes"}}
    write_json(tmp_path / MANIFEST, {"format": 1, "seed": 3, "derived": [], "patients": {"a": {}}, **record})
    found = conversion_of(tmp_path)
    assert found["command"] == f"python -m nnunet_difflung.dataset_conversion.{record['command']}"
    assert (found["options"], found["seed"]) == ({"form": "volumes"}, 3)
    assert "patients" not in found, "ids of patients stay in the dataset"
