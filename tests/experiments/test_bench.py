"""The bench: nested draws of source patients, the order of rows, what resumes, and what may not stand in one table."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.bench import base, table, work
from experiments.bench import run as running
from experiments.bench.__main__ import main, parser, wanted
from experiments.bench.arms import ARMS, DECISIVE, SETS, missing
from experiments.bench.compared import compared, grid, precision_compared, values
from experiments.bench.curve import lines
from experiments.bench.rows import NUMBERS, Row, Store, check_purpose, in_order
from experiments.bench.scoring import added_up, counts_of, figures
from experiments.bench.splits import index_of, with_fewer_sources
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.files import read_json, write_json
from nnunet_difflung.trainers.dose import SCHEDULE, SHARE, Dose, dose_of

SETTINGS = {"trainer": "t"}


def dataset(patients: int = 50, rare: int = 25, folds: int = 5):
    """Case → patient (two cases each), patients with the rare class, and folds."""
    of_case = {f"p{i:02d}_s{j}": f"p{i:02d}" for i in range(patients) for j in range(2)}
    names = sorted(set(of_case.values()))
    splits = [
        {
            side: [c for c, p in of_case.items() if (int(p[1:]) % folds == fold) == (side == "val")]
            for side in ("train", "val")
        }
        for fold in range(folds)
    ]
    return of_case, set(names[:rare]), splits


def row(arm: str, seed: int, fold: int, dice: float, number: str = "4") -> dict:
    """A finished row with two validation patients of its fold: one with the rare class, one without."""
    found = round(100 * dice)
    patients = {
        f"with{fold}": {"rare": [found, 100 - found, 100 - found, 1, 1, 0], "lung": [90, 10, 10, 0, 0, 0]},
        f"without{fold}": {"rare": [0, 10 * fold, 0, 0, 0, fold], "lung": [80, 20, 20, 0, 0, 0]},
    }
    return {
        "row": vars(Row(arm, number, seed, fold, 500)),
        "patients": patients,
        "figures": {name: figures(patients, name) for name in ("rare", "lung")},
        "seconds": {"train and validate": 100.0 * seed},
    }


def test_entries_have_nested_source_patients_and_the_validation_patients_of_their_fold():
    patients, rare, splits = dataset()
    entries = with_fewer_sources(splits, patients, rare, seed=1)
    assert len(entries) == 4 * 5
    assert entries[:5] == splits, "the dataset's own folds keep their numbers"
    for fold in range(5):
        drawn = {}
        for number in NUMBERS:
            entry = entries[index_of(number, fold, 5)]
            assert entry["val"] == splits[fold]["val"]
            training = {patients[case] for case in entry["train"]}
            assert not training & {patients[case] for case in entry["val"]}
            assert training - rare == {patients[c] for c in splits[fold]["train"]} - rare, "nobody else is left out"
            assert all(entry["train"].count(f"{p}_s{j}") == 1 for p in training for j in range(2)), "whole patients"
            drawn[number] = training & rare
        assert [len(drawn[n]) for n in ("4", "8", "16", "all")] == [4, 8, 16, 20]
        assert drawn["4"] < drawn["8"] < drawn["16"] < drawn["all"]


def test_draws_depend_on_seed_and_fold_alone():
    patients, rare, splits = dataset()
    first, again, other = (with_fewer_sources(splits, patients, rare, seed) for seed in (1, 1, 2))
    assert first == again
    assert first[index_of("4", 0, 5)] != other[index_of("4", 0, 5)]
    shuffled = [{side: split[side][::-1] for side in split} for split in splits]
    turned = with_fewer_sources(shuffled, patients, rare, 1)
    assert [set(e["train"]) for e in turned] == [set(e["train"]) for e in first], "not on the order of the cases"


def test_decisive_rows_come_first_and_the_arms_of_a_comparison_follow_each_other():
    rows = in_order(list(ARMS), NUMBERS, (1, 2), (0, 1), 500)
    assert len(rows) == len(set(rows)) == len(ARMS) * 4 * 2 * 2
    decisive = len(DECISIVE) * 3 * 2 * 2
    assert {r.arm for r in rows[:decisive]} == set(DECISIVE)
    assert "all" not in {r.number for r in rows[: len(ARMS) * 3 * 2 * 2]}
    for first in range(0, decisive, len(DECISIVE)):
        group = rows[first : first + len(DECISIVE)]
        assert len({(r.number, r.seed, r.fold) for r in group}) == 1
        assert [r.arm for r in group] == list(DECISIVE)
    assert [r.arm for r in in_order(["mat", "copy_paste"], ("4",), (1,), (0,), 500)] == ["copy_paste", "mat"]


@pytest.mark.parametrize(
    ("folds", "seeds", "tuning", "named"),
    [
        ((0, 4), (1,), False, "-f 4"),
        ((0,), (1, 99), False, "--seeds 99"),
        ((3,), (99,), True, "-f 3"),
        ((4,), (1,), True, "--seeds 1"),
    ],
)
def test_folds_and_seeds_for_tuning_are_refused_for_reporting_and_the_other_way_round(folds, seeds, tuning, named):
    with pytest.raises(BadInput, match=f"{named} is not for {'--tuning' if tuning else 'reporting'}"):
        check_purpose(folds, seeds, tuning)
    check_purpose((4,) if tuning else (0, 1, 2, 3), (99,) if tuning else (1, 2, 3), tuning)


@pytest.mark.parametrize(
    ("arm", "earlier"), [("difflung", "nnUNetTrainerDiffLungContext"), ("cbmat_dose", "nnUNetTrainerDiffLung")]
)
def test_rows_made_before_the_trainers_were_renamed_are_kept(tmp_path, arm, earlier):
    bench = work.Bench(tmp_path, "lidc", SimpleNamespace(network={}), ("--preset", "fast"))
    store, wanted = Store(tmp_path), Row(arm, "4", 1, 0, 500)
    now = bench.settings(wanted)
    store.add(wanted, {"settings": {**now, "trainer": earlier}})
    assert now["trainer"] != earlier
    assert store.holds(wanted, now)
    swapped = {"difflung": "cbmat", "cbmat": "difflung"}[now["method"]]
    for key, value in (("method", swapped), ("trainer", "nnUNetTrainerDiffLungPoly")):
        store.add(wanted, {"settings": {**now, key: value}})
        with pytest.raises(BadInput, match=f"was made with {key} '{value}'"):
            store.holds(wanted, now)


def test_rows_of_another_presets_values_are_no_rows_of_this_bench(tmp_path, monkeypatch):
    from dataclasses import replace

    from nnunet_difflung.commands import augment

    def settings(arm: str) -> dict:
        work._settings.cache_clear()
        return work.Bench(tmp_path, "lidc", SimpleNamespace(network={}), ("--preset", "fast")).settings(
            Row(arm, "4", 1, 0, 500)
        )

    now, reference = settings("difflung"), settings("reference")
    usual = augment.preset

    def changed(name: str):
        preset = usual(name)
        return replace(preset, balance=replace(preset.balance, hosts="any"))

    monkeypatch.setattr(augment, "preset", changed)
    other = settings("difflung")
    assert settings("reference") == reference, "has no synthetic cases"
    monkeypatch.undo()
    assert settings("difflung") == now != other
    store, wanted = Store(tmp_path), Row("difflung", "4", 1, 0, 500)
    store.add(wanted, {"settings": other})
    with pytest.raises(BadInput, match="was made with cases"):
        store.holds(wanted, now)
    rows = [{"row": {"arm": "difflung"}, "settings": part} for part in (now, other)]
    table.check_alike(rows[:1] * 2)
    with pytest.raises(BadInput, match="rows of difflung were made with cases"):
        table.check_alike(rows)


def test_rows_for_tuning_and_for_reporting_never_stand_in_one_table(tmp_path):
    reported, tuned = Row("reference", "4", 1, 0, 500), Row("reference", "4", 99, 4, 500)
    store, tuning = Store(tmp_path), Store(tmp_path, True)
    store.add(reported, {"settings": SETTINGS})
    tuning.add(tuned, {"settings": SETTINGS})
    assert [r["row"]["fold"] for r in store.read()] == [0]
    assert [r["row"]["fold"] for r in tuning.read()] == [4]
    with pytest.raises(ValueError, match="does not belong"):
        store.add(tuned, {"settings": SETTINGS})
    tuning.path(tuned).rename(store.path(tuned))
    with pytest.raises(BadInput, match="is a row for tuning among those for reporting"):
        store.read()


def test_a_row_is_complete_with_its_file_and_other_settings_are_refused(tmp_path):
    store, wanted = Store(tmp_path), Row("reference", "4", 1, 0, 500)
    assert not store.holds(wanted, SETTINGS)
    store.add(wanted, {"settings": SETTINGS})
    assert store.holds(wanted, SETTINGS)
    assert not store.holds(Row("reference", "8", 1, 0, 500), SETTINGS)
    with pytest.raises(BadInput, match="was made with trainer 't', now it is 'u'"):
        store.holds(wanted, {"trainer": "u"})


def test_rows_are_written_as_they_come_and_a_failure_stops_no_other(tmp_path):
    store, said, tidied = Store(tmp_path), [], []
    rows = [Row("reference", "4", 1, fold, 500) for fold in range(4)]

    def make(wanted: Row) -> dict:
        if wanted.fold == 1:
            raise RuntimeError("no space")
        if wanted.fold == 3:
            assert {r["row"]["fold"] for r in store.read()} == {0, 2}, "earlier rows are on disk by now"
        return {"settings": SETTINGS, "seconds": {"train and validate": 60.0}}

    def tidy(finished: Row) -> None:
        assert store.path(finished).is_file(), "nothing is deleted before the row is written"
        tidied.append(finished.fold)

    assert running.work_through(rows, store, make, 1, said.append, tidy) == 1
    assert tidied == [0, 2, 3], "what a failed row has done is kept"
    assert "fold1_500its: FAILED: no space; 2 rows left" in said[1]
    assert [r for r in rows if not store.holds(r, SETTINGS)] == [rows[1]], "only the failed row is left to do"


def test_expected_cost_comes_from_finished_rows_of_the_arm_and_length():
    finished = [row("reference", 1, 0, 0.5), row("reference", 3, 0, 0.5)]
    assert running.expected(Row("reference", "16", 2, 1, 500), finished) == 200
    unseen = {**row("reference", 1, 1, 0.5), "seconds": {"link": 1.0, "train": 900.0}}
    assert running.expected(Row("reference", "16", 2, 1, 500), [*finished, unseen]) == 200, "its training is unknown"
    rule = running.expected(Row("reference", "16", 2, 1, 1000), finished)
    assert rule == running.PER_TRAINING + 1000 * running.PER_ITERATION
    assert running.expected(Row("difflung", "4", 1, 0, 1000), []) > running.expected(
        Row("copy_paste", "4", 1, 0, 1000), []
    )


def test_counts_and_figures_of_a_segmentation_with_known_answers():
    reference, prediction = np.zeros((2, 1, 20, 20), int)
    reference[0, 2:6, 2:6] = 2
    reference[0, 12:16, 12:16] = 2
    prediction[0, 2:6, 4:8] = 2  # half of the first lesion, and as many beside it
    prediction[0, 8:10, 15:18] = 2  # a false one
    prediction[0, 0, 0] = 1
    assert counts_of(reference, prediction, 2, (1, 1, 1), True) == [8, 14, 24, 2, 1, 1]
    assert counts_of(reference, prediction, 1, (1, 1, 1), False) == [0, 1, 0, 0, 0, 0]
    patients = added_up([("a", {"rare": [8, 4, 0, 1, 1, 0]}), ("a", {"rare": [0, 4, 0, 1, 0, 2]})])
    patients |= added_up([("b", {"rare": [0, 0, 8, 2, 0, 0]}), ("c", {"rare": [0, 30, 0, 0, 0, 1]})])
    assert patients["a"] == {"rare": [8, 8, 0, 2, 1, 2]}
    assert figures(patients, "rare") == {
        "dice": pytest.approx((2 / 3 + 0) / 2),
        "dice_pooled": pytest.approx(16 / (16 + 38 + 8)),
        "lesion_sensitivity": pytest.approx(1 / 4),
        "false_lesions": pytest.approx(1),
        "false_voxels": pytest.approx(30),
    }


def test_arms_are_paired_by_patient_on_the_trainings_that_both_have():
    arm = {(s, f): row("difflung", s, f, 0.5 + 0.01 * s) for s in (1, 2) for f in (0, 1, 2)}
    other = {(s, f): row("reference", s, f, 0.4 + 0.01 * s) for s, f in arm if (s, f) != (2, 2)}
    assert grid(arm, other) == ([1, 2], [0, 1]), "four trainings are more than three folds of one seed"
    found = values(arm, [1, 2], [0, 1], "rare", "dice")
    assert found.shape == (2, 2, 4)
    assert np.isfinite(found).sum() == 4, "a patient is in one fold and only those with the class have a Dice"
    difference = compared(arm, other, "rare", "dice")
    assert difference["trainings"] == 4
    assert difference["diff"]["mean"] == pytest.approx(0.1)
    assert difference["diff"]["patients"] == 2
    low, high = difference["diff"]["ci95"]
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1), "the seeds' own differences cancel, since the arms are paired"
    false = compared(arm, other, "rare", "false_voxels")
    assert false["diff"]["mean"] == 0
    assert false["ratio"] == 1
    assert compared(arm, {}, "rare", "dice") is None


def histograms(row: dict, precision: float) -> dict:
    """The row with an average precision of its rare class."""
    return {**row, "probabilities": {"rare": precision}}


def test_means_are_of_the_trainings_that_all_arms_have():
    rows = [row("reference", seed, fold, 0.1 * seed) for seed in (1, 2) for fold in (0, 1)]
    rows += [row("copy_paste", 1, fold, 0.5) for fold in (0, 1)]
    about = {"sources": ["a"], "cpu_seconds": {}, "machine": "m", "versions": {}, "date": "2026-11-28"}
    arms = table.tabulated([{**of, **about} for of in rows], table.Set("D", "rare", "T"))["numbers"]["4"]
    assert arms["reference"]["figures"]["rare"]["dice"] == {"mean": pytest.approx(0.1), "sd": 0.0, "trainings": 2}
    assert arms["copy_paste"]["differences"]["reference"]["rare"]["dice"]["trainings"] == 2


def test_average_precision_is_compared_by_the_means_of_the_folds(monkeypatch):
    monkeypatch.setattr("experiments.bench.compared.average_precision", lambda value: value)
    seeds, folds = (1, 2), (0, 1, 2, 3)
    arm = {(s, f): histograms(row("difflung", s, f, 0.5), 0.5 + 0.1 * f + 0.01 * s) for s in seeds for f in folds}
    reference = {(s, f): histograms(row("reference", s, f, 0.5), 0.4) for s in seeds for f in folds}
    found = precision_compared(arm, reference, "rare")
    assert found["trainings"] == 8
    assert found["diff"]["mean"] == pytest.approx(0.1 + 0.15 + 0.015)
    half = 3.182446 * np.std([0, 0.1, 0.2, 0.3], ddof=1) / 2  # Student's t with three degrees of freedom
    assert found["diff"]["ci95"] == pytest.approx([0.265 - half, 0.265 + half])
    one_fold = [{key: of for key, of in rows.items() if key[1] == 0} for rows in (arm, reference)]
    assert precision_compared(*one_fold, "rare")["diff"]["ci95"] == pytest.approx(
        [0.115 - 0.06353, 0.115 + 0.06353], abs=1e-4
    )
    one = [{key: of for key, of in rows.items() if key == (1, 0)} for rows in (arm, reference)]
    assert precision_compared(*one, "rare")["diff"]["ci95"] is None
    assert precision_compared(arm, {(1, 0): row("reference", 1, 0, 0.5)}, "rare") is None


def test_a_factor_comes_from_the_difference_of_logarithms():
    assert table.factor({"mean": 0.477, "ci95": [0.0, 1.0]}) == "3.0 [1.0, 10.0]"
    assert table.factor({"mean": 0.477, "ci95": None}) == table.factor(None) == "–"


def test_an_arm_that_this_version_lacks_is_named_by_what_it_lacks(monkeypatch):
    from experiments.bench import arms

    monkeypatch.setitem(ARMS, "new", arms.Arm("nnUNetTrainerDiffLung", "difflung", ("--no-such-option", "1")))
    monkeypatch.setitem(ARMS, "other", arms.Arm("nnUNetTrainerNoSuch"))
    monkeypatch.setitem(ARMS, "method", arms.Arm("nnUNetTrainerDiffLung", "no_such"))
    assert [missing(name) for name in ("reference", "cbmat", "stock")] == ["", "", ""]
    assert missing("new") == "--no-such-option"
    assert missing("other") == "the trainer nnUNetTrainerNoSuch"
    assert missing("method") == "--method no_such"


def test_table_and_curve_show_what_the_rows_hold(tmp_path):
    import argparse

    about = {
        "settings": {"network": {"patch_size": [32, 32], "batch_size": 12}, "augment": [], "trainer": "t"},
        "cpu_seconds": {"train": 36.0},
        "machine": "m",
        "versions": {},
        "date": "2026-11-28",
        "sources": ["a"] * 4,
    }
    store = Store(tmp_path)
    for arm, dice in (("reference", 0.4), ("copy_paste", 0.5)):
        for seed in (1, 2):
            for fold in (0, 1):
                store.add(Row(arm, "4", seed, fold, 500), {**row(arm, seed, fold, dice), **about})
    options = argparse.Namespace(
        o=tmp_path,
        tuning=False,
        iterations=500,
        arms=None,
        seeds=None,
        set="phantom",
        out=tmp_path / "t.json",
        rows=tmp_path / "kept",
    )
    kind = table.SETS["phantom"]
    rows = store.read()
    content = table.tabulated(rows, table.Set(kind.dataset, "rare", kind.title))
    assert list(content["numbers"]) == ["4"]
    (text,) = [
        line
        for line in table.markdown(
            {**content, "meta": table._meta(rows, options, table.Set("D", "rare", "T"))}
        ).splitlines()
        if line.startswith("| `copy_paste` | 4 |")
    ]
    assert "| 0.500 ± 0.000 |" in text
    assert "+0.100 [" in text
    assert lines(rows, "rare")[2:] == ["| 4 | reference | 0.400 (–; 5) |", "| 4 | copy_paste | 0.500 (–; 5) |"]
    newer = [{**rows[0], "row": {**rows[0]["row"], "arm": "of_a_newer_version"}}]
    assert lines(newer + rows, "rare")[-1] == "| 4 | of_a_newer_version | 0.500 (–; 0) |"
    from experiments.bench.plot import learning_curve

    learning_curve(tmp_path / "curve.png", {**content, "meta": {"rare": "rare", "title": "T"}})
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert read_json(store.path(Row("reference", "4", 1, 0, 500)))["format"] == 1


def bench_with(folder, arms=("reference",), number="4", folds=(0, 1)):
    store = Store(folder)
    about = {"settings": SETTINGS | {"network": {"patch_size": [32, 32], "batch_size": 12}, "augment": []}}
    about |= {"cpu_seconds": {"train": 36.0}, "machine": "m", "versions": {"torch": "2"}, "date": "2026-11-28"}
    for arm in arms:
        for fold in folds:
            content = {key: value for key, value in row(arm, 1, fold, 0.4).items() if key != "row"}
            store.add(Row(arm, number, 1, fold, 500), content | about | {"sources": ["a"] * 4})
    return store


def test_rows_are_kept_with_the_results_and_go_on_on_another_machine(tmp_path, monkeypatch):
    import argparse

    monkeypatch.setitem(table.SETS, "small", table.SETS["lidc"].__class__("Dataset999_D", "rare", "T"))
    rows = bench_with(tmp_path / "here").read()
    kept = Store(tmp_path / "here", kept=tmp_path / "kept")
    kept.keep(rows)
    packed = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    kept.keep(kept.read())
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == packed
    elsewhere = Store(tmp_path / "there", kept=tmp_path / "kept")
    assert elsewhere.read() == rows
    assert elsewhere.holds(Row("reference", "4", 1, 0, 500), rows[0]["settings"])
    with pytest.raises(BadInput, match=r"json\.gz was made with augment .*; use --rows with another folder"):
        elsewhere.holds(Row("reference", "4", 1, 0, 500), {"trainer": "another"})
    assert not elsewhere.holds(Row("reference", "4", 1, 2, 500), {})
    newer = {
        **{key: value for key, value in rows[0].items() if key not in ("row", "format", "tuning")},
        "date": "later",
    }
    elsewhere.add(Row("reference", "4", 1, 0, 500), newer)
    assert [content["date"] for content in elsewhere.read()] == ["later", "2026-11-28"], "what was made here counts"
    elsewhere.path(Row("reference", "4", 1, 0, 500)).unlink()
    bench_with(tmp_path / "there", ("copy_paste",))
    options = argparse.Namespace(
        o=tmp_path / "there", tuning=False, iterations=500, arms=None, seeds=None, set="small", rows=tmp_path / "kept"
    )
    options.out = tmp_path / "t.json"
    table.write(options)
    assert len(list((tmp_path / "kept").iterdir())) == 4, "the new ones are kept, too"
    assert list(read_json(options.out)["numbers"]["4"]) == ["reference", "copy_paste"]


def test_a_kept_row_gives_way_to_another_one_only_if_it_is_told_to(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SETS, "small", SETS["lidc"].__class__("Dataset999_D", "rare", "T"))
    kept, out = tmp_path / "kept", tmp_path / "t.json"
    words = ["table", "--set", "small", "-o", "", "--iterations", "500", "--rows", str(kept), "--out", str(out)]

    def tabulate(folder: str, *more: str) -> tuple[int, str, str]:
        words[4] = str(tmp_path / folder)
        return main([*words, *more]), *capsys.readouterr()

    bench_with(tmp_path / "here")
    assert tabulate("here")[::2] == (0, "")
    other = bench_with(tmp_path / "there", folds=(0,))
    row = Row("reference", "4", 1, 0, 500)
    assert tabulate("there")[::2] == (0, ""), "the same row"
    content = read_json(other.path(row))
    write_json(other.path(row), content | {"date": "later", "commits": ["abcd1234.dirty"]})
    before = {path.name: path.read_bytes() for path in [*kept.iterdir(), out]}
    code, _, error = tabulate("there")
    assert code == 2
    assert f"{kept / row.name}.json.gz is another row of this name, made 2026-11-28 by unknown, than" in error
    assert "made later by abcd1234.dirty; move one of them away, or add --replace" in error
    assert {path.name: path.read_bytes() for path in [*kept.iterdir(), out]} == before
    assert tabulate("there", "--replace")[::2] == (0, "")
    assert [content["date"] for content in Store(tmp_path / "none", kept=kept).read()] == ["later", "2026-11-28"]
    assert tabulate("there")[::2] == (0, "")


def test_the_table_says_which_arms_were_made_by_different_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SETS, "small", SETS["lidc"].__class__("Dataset999_D", "rare", "T"))
    store = bench_with(tmp_path, ("reference", "copy_paste"))
    words = ["table", "--set", "small", "-o", str(tmp_path), "--iterations", "500", "--out", str(tmp_path / "t.json")]
    assert main(words) == 0
    assert "same code" not in capsys.readouterr().out, "rows from before commits were recorded"
    for fold, commits in ((0, ["aaaa1111"]), (1, ["aaaa1111", "bbbb2222.dirty"])):
        path = store.path(Row("copy_paste", "4", 1, fold, 500))
        write_json(path, read_json(path) | {"commits": commits})
    assert main([*words, "--replace"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "same code" in line]
    assert line.endswith("copy_paste (1 by aaaa1111; 1 by aaaa1111, bbbb2222.dirty).")
    assert "reference" not in line


def test_a_row_names_the_commits_that_its_commands_ran(tmp_path, monkeypatch):
    import sys

    from experiments.bench import commands

    checkout = iter(["aaaa1111", "aaaa1111", "bbbb2222.dirty"])
    monkeypatch.setattr(commands, "commit", SimpleNamespace(__wrapped__=lambda: next(checkout)))
    for _ in range(3):  # interrupted twice
        commands.Commands(tmp_path, tmp_path / "log").run("augment", [sys.executable, "-c", ""])
    patients, rare, splits = dataset()
    shared = base.Base(tmp_path, "D", patients, tuple(rare), (), splits, {})
    for name in ("open_workspace", "keep_remembered"):
        monkeypatch.setattr(work, name, lambda *_: None)
    scores = {"patients": {"a": {"rare": [1, 0, 0, 1, 1, 0]}}, "cases": 1, "seconds": {}}
    monkeypatch.setattr(work, "_train", lambda *_: scores)
    monkeypatch.setattr(work, "Commands", lambda *_: commands.Commands(tmp_path, tmp_path / "log"))
    made = work.make_row(work.Bench(tmp_path, "lidc", shared, ()), Row("reference", "4", 1, 0, 500))
    assert made["commits"] == ["aaaa1111", "bbbb2222.dirty"]
    assert len(made["commands"]) == 3


def test_a_table_has_the_rows_of_the_arms_and_seeds_that_are_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SETS, "small", SETS["lidc"].__class__("Dataset999_D", "rare", "T"))
    bench_with(tmp_path / "here", ("reference", "copy_paste", "difflung"))
    out, kept = tmp_path / "t.json", tmp_path / "kept"
    words = ["table", "--set", "small", "-o", str(tmp_path / "here"), "--iterations", "500"]
    words += ["--rows", str(kept), "--out", str(out), "--arms", "reference", "difflung", "--seeds"]
    assert main([*words, "1"]) == 0
    content = read_json(out)
    assert list(content["numbers"]["4"]) == ["reference", "difflung"]
    assert content["meta"]["command"].endswith(" --arms reference difflung --seeds 1")
    assert not [path for path in kept.iterdir() if "copy_paste" in path.name]
    assert main([*words, "7"]) == 2
    assert "no row of --arms and --seeds is complete" in capsys.readouterr().err


def test_numbers_whose_rows_are_gone_stay_in_the_table(tmp_path, monkeypatch):
    import argparse

    monkeypatch.setitem(table.SETS, "small", table.SETS["lidc"].__class__("Dataset999_D", "rare", "T"))

    def written(folder):
        table.write(
            argparse.Namespace(
                o=folder,
                tuning=False,
                iterations=500,
                arms=None,
                seeds=None,
                set="small",
                rows=folder / "kept",
                out=tmp_path / "t.json",
            )
        )
        return read_json(tmp_path / "t.json")

    bench_with(tmp_path / "first", ("reference", "copy_paste"), "16")
    bench_with(tmp_path / "first", number="4")
    first = written(tmp_path / "first")
    bench_with(tmp_path / "second", ("reference", "copy_paste"), "4")
    bench_with(tmp_path / "second", number="16")
    second = written(tmp_path / "second")
    assert second["numbers"]["16"] == first["numbers"]["16"], "more rows than there are now"
    assert list(second["numbers"]["4"]) == ["reference", "copy_paste"]
    assert {number: made["rows"] for number, made in second["made"].items()} == {"4": 4, "16": 4}
    assert second["meta"]["rows"] == 8
    assert {number: made["rows_kept"] for number, made in second["made"].items()} == {"4": True, "16": False}
    text = (tmp_path / "t.md").read_text()
    four, sixteen = text.split("## 16")
    assert "Of an earlier version" in sixteen
    assert "Of an earlier version" not in four
    assert (tmp_path / "t.md").read_text().count("4 trainings; seeds 1, folds 0, 1; 2026-11-28; 0.0 core hours.") == 2
    bench_with(tmp_path / "second", ("cbmat",), "16", folds=(0,))
    with pytest.raises(
        BadInput, match="rows of cbmat with 16 source patients cannot be compared with the earlier ones"
    ):
        written(tmp_path / "second")
    for folder in (tmp_path / "second" / "rows", tmp_path / "second" / "kept"):
        for path in folder.glob("cbmat*"):
            path.unlink()
    del second["made"]  # as earlier versions wrote it
    (tmp_path / "t.json").write_text(json.dumps(second))
    assert "core_hours" not in written(tmp_path / "second")["made"]["16"], "it was that of all rows together"


def test_the_curve_of_iterations_is_recorded(tmp_path, monkeypatch):
    import argparse

    from experiments.bench import curve

    monkeypatch.setitem(curve.SETS, "small", curve.SETS["lidc"].__class__("Dataset999_D", "rare", "T"))
    about = {"cpu_seconds": {"train": 36.0}, "machine": "m", "versions": {"torch": "2"}, "date": "2026-11-28"}
    about["settings"] = SETTINGS
    for length, dice in ((500, 0.1), (1000, 0.3)):
        key = Row("reference", "4", 91, 4, length)
        content = {name: value for name, value in row("reference", 91, 4, dice).items() if name != "row"}
        Store(tmp_path, tuning=True).add(key, content | about)
    written = curve.write(argparse.Namespace(o=tmp_path, set="small", out=tmp_path / "curve.json"))
    assert [path.name for path in written] == ["curve.json", "curve.md"]
    command = (
        "python -m experiments.bench curve --set small -o WORK --arms reference -n 4 --seeds 91 --iterations 1000 500"
    )
    assert read_json(written[0])["meta"]["command"] == command
    assert read_json(written[0])["meta"]["date"]
    assert [(r["iterations"], r["dice"], r["cpu_seconds"]) for r in read_json(written[0])["rows"]] == [
        (1000, 0.3, 36.0),
        (500, 0.1, 36.0),
    ]
    assert "| 4 | reference | 0.100 (–; 40) | 0.300 (–; 40) |" in written[1].read_text()
    nobody = {"patients": {}, "figures": {"rare": figures({}, "rare")}, "row": vars(Row("mat", "4", 91, 4, 500))}
    assert lines([nobody], "rare")[-1] == "| 4 | mat | – (–; –) |"
    other = {**row("reference", 92, 4, 0.1), **about, "settings": {"trainer": "another"}}
    del other["row"]
    Store(tmp_path, tuning=True).add(Row("reference", "4", 92, 4, 500), other)
    with pytest.raises(BadInput, match="rows of reference were made with trainer"):
        curve.write(argparse.Namespace(o=tmp_path, set="small", out=tmp_path / "curve.json"))


def test_a_row_continues_with_its_unfinished_step_and_no_two_processes_work_on_it(tmp_path):
    import sys

    from experiments.bench.commands import Commands, working_on

    with working_on(tmp_path / "row.lock") as lock:
        commands = Commands(tmp_path / "root", tmp_path / "log", lock)
        commands.run("first", [sys.executable, "-c", "print('done')"])
        with pytest.raises(RuntimeError, match="failed with exit code 3; see"):
            commands.run("second", [sys.executable, "-c", "raise SystemExit(3)"])
        with pytest.raises(RuntimeError, match="another process works on it"), working_on(tmp_path / "row.lock"):
            pass
    again = Commands(tmp_path / "root", tmp_path / "log")
    assert set(again.seconds) == set(again.cpu) == {"first", "second"}, "seconds of both attempts count"
    assert "done" in (tmp_path / "log").read_text()
    with working_on(tmp_path / "row.lock"):
        pass


BENCH = """
import sys
from pathlib import Path
from experiments.bench.commands import TRAINING, Commands, working_on

root, *command = sys.argv[1:]
with working_on(Path(root, "row.lock")) as lock:
    Commands(Path(root), Path(root, "log"), lock).run(TRAINING, command)
"""
LIVES_ON = """
import sys, time
from pathlib import Path
from experiments.bench.train import and_score
from experiments.bench import train

root = Path(sys.argv[1])
train.score = lambda *_: {"patients": {}, "cases": 0}
validated = and_score(root / "scores.json", {"patients": {}, "lesions": []})
Path(root, "begun").touch()
while not Path(root, "bench_is_dead").exists():
    time.sleep(0.01)


class Trainer:
    class configuration_manager:
        configuration = {}


validated(Trainer)
"""


def test_a_training_that_outlives_its_bench_leaves_command_and_seconds(tmp_path):
    import subprocess
    import sys
    import time
    from pathlib import Path

    from experiments.bench.commands import TRAINING, Commands, working_on

    training = [sys.executable, "-c", LIVES_ON, str(tmp_path)]
    bench = subprocess.Popen(
        [sys.executable, "-c", BENCH, str(tmp_path), *training], cwd=Path(__file__).resolve().parents[2]
    )
    while not (tmp_path / "begun").exists():
        assert bench.poll() is None
        time.sleep(0.01)
    bench.kill()
    bench.wait()
    with pytest.raises(RuntimeError, match="another process works on it"), working_on(tmp_path / "row.lock"):
        pass
    (tmp_path / "bench_is_dead").touch()
    while not (tmp_path / "scores.json").exists():
        time.sleep(0.01)
    scores = read_json(tmp_path / "scores.json")
    again = Commands(tmp_path, tmp_path / "log")
    assert len(again.typed) == 1
    assert "ROOT" in again.typed[0]
    base = SimpleNamespace(patients={}, lesions=())
    assert work._train(work.Bench(tmp_path, "lidc", base, ()), Row("stock", "4", 1, 0, 250), again, 0) == scores
    assert len(again.typed) == 1, "the training is not repeated"
    for commands in (again, Commands(tmp_path, tmp_path / "log")):
        assert commands.cpu == {TRAINING: scores["cpu_seconds"]}
        assert commands.seconds[TRAINING] == pytest.approx(sum(scores["seconds"].values()))
    assert scores["cpu_seconds"] > 0
    work._train(work.Bench(tmp_path, "lidc", base, ()), Row("stock", "4", 1, 0, 250), again, 0)
    assert again.cpu == {TRAINING: scores["cpu_seconds"]}, "added once"


def test_a_training_whose_end_was_seen_is_not_counted_twice(tmp_path):
    import sys

    from experiments.bench.commands import TRAINING, Commands

    commands = Commands(tmp_path, tmp_path / "log")
    (tmp_path / "steps").write_text("import json, sys; sys.exit(not json.load(open(sys.argv[1]))['typed'])")
    commands.run(TRAINING, [sys.executable, str(tmp_path / "steps"), str(tmp_path / "steps.json")])
    cpu = dict(commands.cpu)
    write_json(tmp_path / "scores.json", {"seconds": {"train": 900.0, "validate": 9.0}, "cpu_seconds": 900.0})
    base = SimpleNamespace(patients={}, lesions=())
    work._train(work.Bench(tmp_path, "lidc", base, ()), Row("stock", "4", 1, 0, 250), commands, 0)
    assert commands.cpu == cpu


def test_a_workspace_links_what_is_shared_and_never_changes_it(tmp_path):
    import json

    from experiments.bench.base import Base
    from experiments.bench.workspace import keep_remembered, open_workspace

    patients, rare, splits = dataset(10, 5)
    base, cache = tmp_path / "base", "nnUNet_results/D/DiffLung__cache"
    for name in ("nnUNet_raw/D/imagesTr/a.nii.gz", "nnUNet_preprocessed/D/p/a.b2nd", f"{cache}/a.npy"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(name)
    (base / "nnUNet_raw/D/dataset.json").write_text("{}")
    shared = Base(base, "D", patients, tuple(rare), (), splits, {})
    root, remembered = tmp_path / "work", tmp_path / "remembered"
    open_workspace(root, shared, 1, remembered)
    assert (root / "nnUNet_raw/D/imagesTr/a.nii.gz").is_symlink()
    assert (root / "nnUNet_preprocessed/D/p/a.b2nd").read_text() == "nnUNet_preprocessed/D/p/a.b2nd"
    for name in ("nnUNet_raw/D/dataset.json", f"{cache}/a.npy"):
        assert not (root / name).is_symlink(), "commands write such files"
    for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
        assert json.loads((root / folder / "D/splits_final.json").read_text()) == with_fewer_sources(
            splits, patients, rare, 1
        )
    (root / cache / ".images.json").write_text("compared")
    (root / "begun").write_text("x")
    open_workspace(root, shared, 1, remembered)
    assert (root / "begun").is_file(), "an interrupted row is continued"
    keep_remembered(root, shared, remembered)
    open_workspace(tmp_path / "next", shared, 1, remembered)
    assert (tmp_path / "next" / cache / ".images.json").read_text() == "compared"
    assert not (base / cache / ".images.json").exists()


@pytest.mark.parametrize(("iterations", "epochs", "each"), [(2000, 8, 250), (250, 1, 250), (10, 1, 10)])
def test_a_trainer_ends_after_the_iterations_and_keeps_the_names_of_its_arguments(iterations, epochs, each):
    import inspect

    from experiments.bench.train import with_length

    class Trainer:
        def __init__(self, plans: dict, fold: int) -> None:
            known = dict(locals())
            self.num_epochs, self.num_iterations_per_epoch = 1000, 250
            self.arguments = [known[name] for name in inspect.signature(self.__init__).parameters]

    Trainer.__init__ = with_length(Trainer.__init__, iterations)
    trainer = Trainer(plans={}, fold=3)
    assert trainer.arguments == [{}, 3], "nnU-Net's trainer looks its arguments up in this way"
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (epochs, each)


@pytest.mark.parametrize("arm", ["difflung", "difflung_dose", "difflung_falling"])
def test_a_dose_in_the_users_shell_reaches_no_row(tmp_path, monkeypatch, arm):
    monkeypatch.setenv(SHARE, "0.9")
    monkeypatch.setenv(SCHEDULE, "falling")
    given = {}

    def module(step, name, words, variables):
        given.update({**os.environ, **variables})
        write_json(tmp_path / "scores.json", {})

    base = SimpleNamespace(patients={}, lesions=())
    commands = SimpleNamespace(root=tmp_path, module=module)
    work._train(work.Bench(tmp_path, "lidc", base, ()), Row(arm, "4", 1, 0, 250), commands, 0)
    dose = dose_of(given, None)
    assert dose == (Dose(float(ARMS[arm].dose), ARMS[arm].schedule or "constant") if ARMS[arm].dose else None)


def test_arms_share_a_generator_unless_their_options_change_its_weights(tmp_path):
    def painter(kind: str, arm: str) -> str:
        bench = work.Bench(tmp_path, kind, SimpleNamespace(network={}), tuple(SETS[kind].augment.split()))
        return work._painter(bench, Row(arm, "4", 1, 0, 500))

    assert painter("lidc_volumes", "difflung") == painter("lidc_volumes", "difflung_box") == "difflung"
    assert painter("lidc", "difflung_selection") == "difflung"
    assert painter("lidc_volumes", "difflung_slices") == "difflung_slices", "its network sees no neighbours"


def test_arms_of_volumes_are_refused_for_slices(tmp_path):
    words = ["run", "--set", "lidc", "-o", str(tmp_path), "--arms", "difflung_slices", "--dry-run"]
    with pytest.raises(BadInput, match="difflung_slices is an arm for volumes, and --set lidc has slices"):
        wanted(parser().parse_args(words))
    words[2] = "lidc_volumes"
    assert {row.arm for row in wanted(parser().parse_args(words))} == {"difflung_slices"}
    every = {row.arm for row in wanted(parser().parse_args(["run", "--set", "lidc", "-o", str(tmp_path)]))}
    assert "reference" in every
    assert not every & {"difflung_slices", "difflung_box"}


@pytest.mark.parametrize(("kind", "configuration"), [("lidc", "2d"), ("lidc_volumes", "3d_fullres")])
def test_a_set_decides_which_of_nnunets_configurations_its_rows_train(tmp_path, monkeypatch, kind, configuration):
    called, planned = [], {}
    arrays = {"n_stages": 2, "features_per_stage": [32, 64], "n_conv_per_stage": [2, 2]}

    def run(self, step, arguments, variables=None):
        called.append(arguments)
        if step == "plan and preprocess":
            plans = {"patch_size": [8, 32, 32], "architecture": {"arch_kwargs": arrays}}
            planned["path"] = self.root / "nnUNet_preprocessed" / SETS[kind].dataset / "nnUNetPlans.json"
            planned["path"].parent.mkdir(parents=True)
            write_json(planned["path"], {"configurations": {configuration: plans}})

    monkeypatch.setattr(base.Commands, "run", run)
    monkeypatch.setattr(base, "_read", lambda root, kind: {"patients": {}, "rare": [], "lesions": [], "splits": []})
    with pytest.raises(KeyError, match="network"):
        base.prepare(tmp_path, kind, ["-i", "DATA"], SETS[kind].batch)
    (convert, plan), options = called, [*SETS[kind].convert, "-i", "DATA"]
    assert convert[-len(options) :] == options
    assert plan[plan.index("-c") + 1] == configuration
    small = read_json(planned["path"])["configurations"][SETS[kind].network]
    assert small["inherits_from"] == configuration
    assert small["batch_size"] == SETS[kind].batch
    trained = []
    monkeypatch.setattr(base.Commands, "module", lambda self, step, name, words, variables: trained.extend(words))
    bench = work.Bench(tmp_path, kind, SimpleNamespace(patients={}, lesions=()), ())
    with pytest.raises(FileNotFoundError):
        work._train(bench, Row("reference", "4", 1, 0, 250), base.Commands(tmp_path / "row", tmp_path / "log"), 15)
    assert trained[trained.index("--") + 1 :][:3] == ["807", SETS[kind].network, "15"]
