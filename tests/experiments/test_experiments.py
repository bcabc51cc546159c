"""The experiments' tables of settings fit the package; their bookkeeping runs each task once and in order."""

from __future__ import annotations

import pytest

from nnunet_difflung import trainers
from nnunet_difflung.config import preset


def test_every_variant_of_the_ablations_changes_what_it_says():
    from experiments import ablations

    default = ablations.settings_of(ablations.VARIANTS["default (cbmat, composite)"], 1)
    for name, variant in ablations.VARIANTS.items():
        settings = ablations.settings_of(variant, 1)
        assert settings.generator.channels == preset("fast").generator.channels
        same = {"default (cbmat, composite)", "real only", "margin 1"}
        assert (settings == default) <= (name in same), name


def test_every_arm_has_its_trainer_in_every_length():
    from experiments import run_arms

    assert all(hasattr(trainers, f"{trainer}_5epochs") for trainer in run_arms.ARMS.values())


def test_a_failure_stops_its_seed_and_no_other(monkeypatch, tmp_path, capsys):
    from experiments import run_arms

    done = []
    monkeypatch.setattr(run_arms, "prepare", lambda run: 1 / 0 if run.seed == 2 else done.append(("prepare", run.seed)))
    monkeypatch.setattr(run_arms, "table1", lambda run: done.append(("table1", run.seed)))
    monkeypatch.setattr(run_arms, "regions", lambda run: done.append(("regions", run.seed)))
    monkeypatch.setattr(run_arms, "train", lambda run, arm, fold: done.append((arm, fold, run.seed)))
    runs = [
        run_arms.Run(
            tmp_path / str(seed), "phantom", seed, (0, 1), ("cbmat",), ("reference", "cbmat"), "5epochs", (), (), ()
        )
        for seed in (1, 2, 3)
    ]
    assert run_arms.everything(runs, 2) == 1
    assert "seed 2 prepare: FAILED: division by zero" in capsys.readouterr().out
    assert sorted(map(str, done)) == sorted(
        map(
            str,
            [(arm, fold, seed) for seed in (1, 3) for fold in (0, 1) for arm in ("reference", "cbmat")]
            + [(what, seed) for what in ("prepare", "table1", "regions") for seed in (1, 3)],
        )
    )
    assert done.index(("prepare", 1)) < done.index(("cbmat", 0, 1)) < done.index(("table1", 1))


def test_table_1_by_region_is_of_all_methods_and_table_1_of_those_that_paint_whole_slices(monkeypatch, tmp_path):
    import json

    from experiments import run_arms

    called = {}
    monkeypatch.setattr(run_arms.Run, "call", lambda run, name, words, **variables: called.update({name: words}))
    methods, augment = ("difflung", "copy_paste", "mat"), ("--preset", "fast", "--epochs", "3")
    run = run_arms.Run(tmp_path, "medseg", 7, (0, 3), methods, (), "5epochs", (), augment, ())
    (tmp_path / "failed_methods.json").write_text(json.dumps({"mat": "no GPU"}))
    run_arms.table1(run)
    run_arms.regions(run)
    assert "evaluate" not in called  # mat failed, difflung and copy_paste change a real slice
    words = called.pop("regions")
    assert words[words.index("--methods") + 1 : words.index("--preset")] == ["difflung", "copy_paste"]
    assert words[words.index("--preset") + 1 :][:2] == ["fast", "--augment=--epochs 3"]
    assert words[words.index("-f") + 1 : words.index("--class")] == ["0", "3"]
    assert words[words.index("--class") + 1] == "consolidation"

    known = {"meta": {"folds": [0, 3]}, "methods": {"real": {}, "difflung": {}, "copy_paste": {}}}
    (tmp_path / "regions.json").write_text(json.dumps(known))
    run_arms.regions(run)
    assert "regions" not in called
    (tmp_path / "failed_methods.json").unlink()
    run_arms.regions(run)
    run_arms.table1(run)
    assert {"regions", "evaluate"} <= set(called)
    assert called["evaluate"][called["evaluate"].index("--methods") + 1 :][:2] == ["mat", "--seed"]


def test_crops_of_the_small_network_need_fewer_stages(monkeypatch, tmp_path):
    from experiments import run_arms

    made = {}
    monkeypatch.setattr(run_arms.Run, "call", lambda *words, **variables: None)
    monkeypatch.setattr(run_arms, "make_small_configuration", lambda path, **changes: made.update(changes))
    for crop in (0, 64):
        made.clear()
        run_arms.prepare(run_arms.Run(tmp_path / str(crop), "phantom", 1, (0,), (), (), "5epochs", (), (), (), crop))
        assert made.get("patch_size") == ([64, 64] if crop else None)
        assert ("stages" in made) == bool(crop)


def test_the_small_segmenter_learns_and_its_dice_is_of_patients():
    import numpy as np

    from experiments.small_segmenter import Slices, dice_by_patient, predict, train

    rng = np.random.default_rng(0)
    label = np.zeros((8, 32, 32), np.uint8)
    label[:, 8:24, 8:24] = 1
    image = np.where(label, -300, -900) + rng.normal(0, 20, label.shape)
    data = Slices(image, label, np.array(["a", "b"] * 4))
    dice = dice_by_patient(predict(train(data, 2, 0, 30, 4), image), data, 1)
    assert set(dice) == {"a", "b"}
    assert min(dice.values()) > 0.95
    half = label.copy()
    half[:, 16:] = 0
    assert dice_by_patient(half, data, 1)["a"] == pytest.approx(2 / 3)


def test_rows_of_ablations_come_together_from_several_processes_and_make_a_table(tmp_path):
    from experiments import ablations
    from experiments.tables import ablation_table
    from nnunet_difflung.runtime.files import read_json

    path = tmp_path / "ablations.json"
    about = {"command": "c", "date": "d", "machine": "m", "phantom_seed": 7, "pixels": 64}
    wanted = {"iterations": 600, "segmenters": 1}
    quality = {"emphysema": {"bias": -3.0, "wasserstein": 20.0, "sd_ratio": 0.8}}
    for seed, dice in ((1, 0.7), (2, 0.8)):
        row = {
            "dice": {"emphysema": [dice]},
            "quality_of_all": quality,
            "cases": 9,
            "dropped": 1,
            "painting_seconds": 4,
        }
        ablations.add_row(path, "mat", f"seed {seed}", wanted, row, about)
        ablations.add_row(path, "real only", f"seed {seed}", wanted, {"dice": {"emphysema": [0.1]}}, about)
    assert [p.name for p in tmp_path.iterdir()] == ["ablations.json"]
    table = ablation_table(read_json(path))
    assert "| mat | 0.750 ± 0.071 | -3.0 ± 0.0 | 20.0 ± 0.0 | 0.80 ± 0.00 | 2 of 20 | 4 |" in table
    assert "| real only | 0.100 ± 0.000 | – | – | – | – | – |" in table
    ablations.add_row(path, "mat", "seed 3", wanted | {"iterations": 800}, row, about)
    assert set(read_json(path)["rows"]["mat"]) == {"wanted", "seed 3"}, "other settings replace old seeds"
