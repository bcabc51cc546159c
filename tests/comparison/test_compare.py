"""``difflung_compare`` on hand-written trees of nnU-Net's results."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_difflung.commands.compare import entry, main
from nnunet_difflung.comparison.methods_text import methods_paragraph
from nnunet_difflung.comparison.scores import case_patients
from nnunet_difflung.comparison.statistics import difference, over_patients, pool
from nnunet_difflung.comparison.surface import case_scores, surface_scores
from nnunet_difflung.comparison.trainings import ARMS, named_results
from nnunet_difflung.comparison.verdicts import verdicts
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import MANIFEST, new_manifest
from nnunet_difflung.paths import CASES_IN_CHECKPOINT, VALIDATED

NAME = "Dataset942_Tiny"
LABELS = {"background": 0, "lung": 1, "emphysema": 2}
# case -> (TP, FP, FN) of lung and emphysema; patient 3 has no emphysema, patient 1's second slice neither
REFERENCE = {
    "p1_s0": [(80, 10, 10), (0, 0, 10)],
    "p1_s1": [(40, 0, 10), (0, 0, 0)],
    "p2_s0": [(90, 0, 0), (5, 0, 15)],
    "p3_s0": [(70, 5, 5), (0, 0, 0)],
}
CBMAT = {
    "p1_s0": [(80, 10, 10), (6, 2, 4)],
    "p1_s1": [(40, 0, 10), (0, 4, 0)],
    "p2_s0": [(90, 0, 0), (15, 5, 5)],
    "p3_s0": [(70, 5, 5), (0, 12, 0)],
}


def write_training(results, arm, cases, fold=0, scored="validation", length="", notes=None, prefix=""):
    """What nnU-Net leaves of an arm's training that this command reads."""
    model = results / NAME / f"{ARMS[arm]}{length and '_' + length}__nnUNetPlans__2d"
    folder = model / f"fold_{fold}" / scored
    folder.mkdir(parents=True, exist_ok=True)
    (model / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}))
    entries = [
        {
            "prediction_file": f"/somewhere/else/{prefix}{case}.nii.gz",
            "metrics": {
                str(key): dict(zip(("TP", "FP", "FN"), of_class, strict=True), Dice=float("nan"))
                for key, of_class in enumerate(counts, 1)
            },
        }
        for case, counts in cases.items()
    ]
    (folder / "summary.json").write_text(json.dumps({"metric_per_case": entries}))
    if notes:
        (folder.parent / "debug.json").write_text(json.dumps(notes))


@pytest.fixture
def results(folders):
    """nnU-Net's folders; a manifest of the patients in the preprocessed one; two arms trained on fold 0."""
    _, preprocessed, folder = folders
    (preprocessed / NAME).mkdir()
    manifest = new_manifest(NAME, {case: case.split("_")[0] for case in REFERENCE})
    (preprocessed / NAME / MANIFEST).write_text(json.dumps(manifest))
    write_training(folder, "reference", REFERENCE)
    write_training(folder, "cbmat", CBMAT)
    return folder


def compared(*more, dataset="942", folds=("0",)):
    assert main(["-d", dataset, "-f", *folds, *more]) == 0
    out = more[more.index("-o") + 1] if "-o" in more else None
    default = f"{NAME}/DiffLung__compare/table2.json"
    return json.loads(Path(out or Path(os.environ["nnUNet_results"]) / default).read_text())


# ---- statistics ----


def test_pooled_dice_by_hand():
    assert pool(np.array([[6, 2, 4], [0, 3, 0], [0, 0, 0]])) == pytest.approx([12 / 18, 0, np.nan], nan_ok=True)


def test_every_patient_counts_once_in_the_mean_and_trainings_make_the_spread():
    values = np.array(
        [[[0.2, 0.4, np.nan], [np.nan, np.nan, 0.9]], [[0.4, 0.6, np.nan], [np.nan, np.nan, 0.7]]]
    )  # two seeds, folds of two patients and of one
    summary = over_patients(values)
    assert summary["mean"] == pytest.approx((0.3 + 0.5 + 0.8) / 3)  # and not the mean of the folds' means
    assert summary["sd"] == pytest.approx(np.std([0.3, 0.9, 0.5, 0.7], ddof=1))
    assert (summary["n"], summary["patients"]) == (4, 3)


def simulated(rng, patients, seeds=3, folds=1, truth=0.1, patient_sd=0.1, seed_sd=0.05, both_sd=0.0):
    """Arm and reference whose difference is truth + patient + training (shared by the fold's patients) + both."""
    shape = (seeds, folds, patients)
    reference = np.full(shape, np.nan)
    for fold in range(folds):  # each patient is in one fold
        reference[:, fold, fold::folds] = 0.5
    effect = (
        patient_sd * rng.standard_normal(patients)
        + seed_sd * rng.standard_normal((seeds, folds, 1))
        + both_sd * rng.standard_normal(shape)
    )
    return reference + truth + effect, reference


@pytest.mark.parametrize(
    "design",
    [
        {"patients": 15},
        {"patients": 15, "both_sd": 0.1},
        {"patients": 15, "folds": 5},
        {"patients": 15, "seeds": 2},
        {"patients": 30, "seeds": 8},
        {"patients": 6, "seed_sd": 0},
        {"patients": 15, "patient_sd": 0.01},
    ],
    ids=str,
)
def test_interval_covers_the_truth_about_as_often_as_it_says(design):
    rng = np.random.default_rng(0)
    intervals = [difference(*simulated(rng, **design))["ci95"] for _ in range(1000)]
    assert 0.93 <= np.mean([low <= 0.1 <= high for low, high in intervals]) <= 0.995


def test_interval_is_repeatable_and_shrinks_with_patients():
    widths = {}
    for patients in (10, 40, 160):
        arm, reference = simulated(np.random.default_rng(1), patients, seed_sd=0)
        result = difference(arm, reference)
        assert result == difference(arm, reference)
        assert result["mean"] == pytest.approx((arm - reference).mean())
        widths[patients] = np.diff(result["ci95"])[0]
    assert widths[10] > 1.5 * widths[40] > 2.25 * widths[160]


def test_interval_knows_the_spread_between_seeds_which_all_patients_share():
    differences = np.array([0.0, 0.1, 0.2])[:, None, None] + np.zeros((3, 1, 50))  # patients agree, seeds don't
    low, high = difference(differences, np.zeros_like(differences))["ci95"]
    assert high - low > 0.1
    halves = np.full((3, 2, 100), np.nan)  # two folds, whose networks are independent, average that out
    halves[:, 0, :50] = halves[:, 1, 50:] = differences[:, 0]
    two = difference(halves, np.where(np.isnan(halves), np.nan, 0))["ci95"]
    assert two[1] - two[0] < 0.85 * (high - low)


def test_equal_arms_differ_by_exactly_nothing():
    arm = np.random.default_rng(2).random((3, 2, 9))
    result = difference(arm, arm)
    assert (result["mean"], result["ci95"], result["patients"]) == (0.0, [0.0, 0.0], 9)


def test_patients_in_several_folds_weigh_the_same_as_others():
    values = np.full((1, 2, 2), np.nan)
    values[0, 0], values[0, 1, 0] = [0.0, 0.4], 0.2  # the first patient was scored in both folds
    result = difference(values + 0.5, values * 0 + 0.5)
    assert result["mean"] == pytest.approx((0.1 + 0.4) / 2)
    of_folds = np.array([(0.0 / 2 + 0.4) / 1.5, 0.2])  # the first patient counts half in each fold: weights 3/4 and 1/4
    error = np.hypot(0.15, of_folds.std(ddof=1) * np.hypot(0.75, 0.25))  # of 0.1 and 0.4, and of the folds
    half = 12.7062 * error  # t of 1 degree of freedom
    assert result["ci95"] == pytest.approx([0.25 - half, 0.25 + half], abs=1e-4)


def test_one_patient_has_no_interval_and_unpaired_scores_are_refused():
    assert difference(np.full((2, 1, 1), 0.5), np.zeros((2, 1, 1)))["ci95"] is None
    with pytest.raises(ValueError, match="same patients"):
        difference(np.array([[[0.5, np.nan]]]), np.array([[[0.5, 0.1]]]))


# ---- the table ----


def test_table_of_two_arms_by_hand(results):
    table = compared()
    emphysema = table["cbmat"]["emphysema"]
    dice = {"p1": 2 * 6 / (2 * 6 + 6 + 4), "p2": 2 * 15 / (2 * 15 + 10)}  # p1: both slices, false positives included
    before = {"p1": 0.0, "p2": 2 * 5 / (2 * 5 + 15)}
    assert emphysema["dice"] == {"mean": pytest.approx(np.mean(list(dice.values()))), "sd": None, "n": 1, "patients": 2}
    result = emphysema["diff_to_reference"]
    gains = [dice[p] - before[p] for p in dice]
    assert result["mean"] == pytest.approx(np.mean(gains), abs=1e-6)
    assert result["ci95"] is None
    assert result["no_interval"] == "one training per arm does not show how much trainings vary"
    assert emphysema["pooled"]["mean"] == pytest.approx(2 * 21 / (2 * 21 + 23 + 9), abs=1e-6)
    assert emphysema["per_case"]["mean"] == pytest.approx((12 / 18 + 0 + 30 / 40 + 0) / 4, abs=1e-6)
    assert table["reference"]["emphysema"]["diff_to_reference"]["mean"] == 0
    assert table["cbmat"]["lung"]["diff_to_reference"]["ci95"] is None
    test = {"p": 0.5, "smallest_p": 0.5, "units": 2, "flips": "all", "p_holm": 1.0}  # Holm: 0.5 times two classes
    assert result["permutation"] == {"patients": test, "trainings": None}
    rows = {row["patient"]: row for row in emphysema["rows"]}
    assert rows["p1"] == {
        "patient": "p1",
        "fold": 0,
        "seed": "nnUNet_results",
        "dice": pytest.approx(12 / 22, abs=1e-6),
        "tp": 6,
        "fp": 6,
        "fn": 4,
    }


def test_painting_in_patients_without_the_class_is_told_and_is_no_dice(results):
    table = compared()
    figures = table["cbmat"]["emphysema"]
    assert (figures["false_positive_voxels"]["mean"], figures["false_positive_voxels"]["patients"]) == (12, 1)
    assert figures["false_positive_voxels"]["diff_to_reference"]["mean"] == 12
    assert figures["false_positive_voxels"]["diff_to_reference"]["ci95"] is None
    assert (figures["false_positive_patients"]["mean"], figures["false_positive_patients"]["patients"]) == (1, 1)
    assert figures["false_positive_patients"]["diff_to_reference"]["mean"] == 1
    assert table["reference"]["emphysema"]["false_positive_patients"]["mean"] == 0
    assert table["reference"]["emphysema"]["false_positive_voxels"]["mean"] == 0
    assert [row["dice"] for row in figures["rows"] if row["patient"] == "p3"] == [None]
    assert table["cbmat"]["lung"]["false_positive_voxels"]["mean"] is None  # everyone has lung


def test_files_beside_the_table_and_what_the_record_tells(results, tmp_path, capsys):
    out = tmp_path / "elsewhere" / "mine.json"
    table = compared("-o", str(out))
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    text = out.with_suffix(".md").read_text()
    assert "## emphysema (2 patients with it, 1 without)" in text
    assert text in capsys.readouterr().out
    assert f"| cbmat | {table['cbmat']['emphysema']['dice']['mean']:.3f} | +0.448 (no interval) | – | 0.5 (1) |" in text
    assert table["meta"]["command"] == "difflung_compare -d 942 -f 0 -o mine.json"
    assert str(tmp_path) not in out.read_text()
    assert {"date", "seeds", "folds", "versions", "machine"} <= set(table["meta"])
    assert "null where there is none" in table["meta"]["interval"]
    assert "No interval: one training per arm does not show how much trainings vary." in text
    assert "With 2 patients p cannot be below 0.5." in text


def test_order_of_cases_and_arms_changes_nothing(results):
    first = compared()
    write_training(results, "reference", dict(reversed(REFERENCE.items())))
    write_training(results, "cbmat", dict(reversed(CBMAT.items())))
    again = compared("--arms", "cbmat", "reference")
    for arm in ("reference", "cbmat"):
        assert first[arm] == again[arm]


def test_two_seeds_and_two_folds(results, tmp_path):
    second = tmp_path / "seed2"
    for where, arms in ((results, (REFERENCE, CBMAT)), (second, (REFERENCE, REFERENCE))):
        for arm, cases in zip(("reference", "cbmat"), arms, strict=True):
            write_training(where, arm, cases)
            write_training(where, arm, cases, fold=1, prefix="q")
    pattern = ("--patient-pattern", "(.+)_s[0-9]")
    single_seed = compared(*pattern)
    table = compared("--results", str(results), str(second), *pattern, folds=("0", "1"))
    assert table["meta"]["seeds"] == ["nnUNet_results", "seed2"]
    assert table["meta"]["folds"] == [0, 1]
    text = (results / NAME / "DiffLung__compare" / "table2.md").read_text()
    assert "| difference [95 %] | variance of |" in text
    assert "] | patients and seeds (" in text
    of_two_seeds, of_one_seed = table["cbmat"]["emphysema"], single_seed["cbmat"]["emphysema"]
    assert (of_two_seeds["dice"]["n"], of_two_seeds["dice"]["patients"], len(of_two_seeds["rows"])) == (4, 4, 12)
    assert of_two_seeds["diff_to_reference"]["mean"] == pytest.approx(
        of_one_seed["diff_to_reference"]["mean"] / 2, abs=1e-6
    )
    result = of_two_seeds["diff_to_reference"]
    low, high = result["ci95"]
    assert low < 0 < result["mean"] < high
    assert (
        result["method"]
        == "t-interval of patients and, if there are several, of the seeds of each fold (Satterthwaite)"
    )
    assert of_two_seeds["dice"]["sd"] > 0


def test_predictions_of_unseen_patients_also_of_fold_all(results):
    for arm, cases in (("reference", REFERENCE), ("cbmat", CBMAT)):
        unseen = {case.replace("p", "new"): counts for case, counts in cases.items()}
        write_training(results, arm, unseen, fold="all", scored="test")
    table = compared("--predictions", "test", folds=("all",))
    assert {row["patient"] for row in table["cbmat"]["lung"]["rows"]} == {"new1", "new2", "new3"}
    assert table["meta"]["scored"] == "predictions test"
    assert table["meta"]["folds"] == ["all"]


def test_predictions_of_training_cases_are_refused(results, capsys):
    (results.parent / "nnUNet_preprocessed" / NAME / "splits_final.json").write_text(
        json.dumps([{"train": ["p1_s0", "p9_s0"], "val": ["p2_s0"]}])
    )
    for fold in (0, "all"):
        for arm in ("reference", "cbmat"):
            write_training(results, arm, {"p7_s1": CBMAT["p3_s0"], "p2_s0": CBMAT["p2_s0"]}, fold, scored="test")
    assert compared("--predictions", "test")["meta"]["cases"] == 2, "fold 0 has not seen its validation case"
    message = refusal(capsys, "--predictions", "test", "-f", "all")
    assert "has predictions of p2_s0 (1 such cases), a training case of fold all in" in message
    for arm in ("reference", "cbmat"):
        write_training(results, arm, {"p9_s0": CBMAT["p3_s0"], "p1_s0": CBMAT["p2_s0"]}, scored="test")
    message = refusal(capsys, "--predictions", "test")
    assert "fold_0/test has predictions of p1_s0 (2 such cases), a training case of fold 0 in" in message


def test_predictions_of_other_scans_of_training_patients_are_refused_where_it_is_stated_who_they_are(results, capsys):
    raw = results.parent / "nnUNet_preprocessed" / NAME
    raw.joinpath("splits_final.json").write_text(json.dumps([{"train": ["p1_s0", "p9_s0"], "val": ["p2_s0"]}]))
    for arm in ("reference", "cbmat"):
        write_training(results, arm, {"p9_s1": CBMAT["p3_s0"], "p8_s0": CBMAT["p2_s0"]}, scored="test")
    compared("--predictions", "test")
    assert "if the ids say rightly who they are (1 such cases, first: p9_s1 of p9)" in capsys.readouterr().err
    message = refusal(capsys, "--predictions", "test", "--patient-pattern", "(p[0-9]).*")
    assert "has predictions of patients whom fold 0 in" in message
    compared("--predictions", "test", "--patient-pattern", "(.+)")


def write_splits(results, train: list[str], val: list[str]):
    path = results.parent / "nnUNet_preprocessed" / NAME / "splits_final.json"
    path.write_text(json.dumps([{"train": train, "val": val}]))


def write_record(results, arm: str, real: list[str], validation: list[str] | None):
    """A checkpoint of fold 0 that says which cases it was trained with, or says nothing."""
    folder = results / NAME / f"{ARMS[arm]}__nnUNetPlans__2d" / "fold_0"
    record = {} if validation is None else {CASES_IN_CHECKPOINT: {"real": real, "validation": validation}}
    content = {"network_weights": {}, "init_args": {"configuration": "2d", **record}, "trainer_name": ARMS[arm]}
    torch.save(content, folder / "checkpoint_final.pth")


@pytest.mark.parametrize("recorded", [None, False, True])
def test_a_validation_that_also_scores_training_patients_of_its_fold_is_refused(results, capsys, recorded):
    """nnU-Net scores all files of ``validation``, also those that a training with other folds has left there."""
    held_out, trained = ["p2_s0", "p3_s0"], ["p1_s0", "p1_s1", "p4_s0", "difflung_0"]
    write_splits(results, trained, held_out)
    for arm in ("reference", "cbmat") if recorded is not None else ():
        write_record(results, arm, trained[:-1], held_out if recorded else None)
    message = refusal(capsys)
    folder = results / NAME / "nnUNetTrainerDiffLungReference__nnUNetPlans__2d" / "fold_0"
    source = "checkpoint_final.pth" if recorded else "splits_final.json"
    assert f"{folder / 'validation' / 'summary.json'} scores p1_s0 (2 such cases), a training case of fold 0" in message
    assert f"{source} (nnU-Net scores all files" in message
    assert message.rstrip().endswith(
        f"delete {folder / 'validation'} and run nnUNetv2_train 942 2d 0 -tr nnUNetTrainerDiffLungReference --val"
    )
    for arm, cases in (("reference", REFERENCE), ("cbmat", CBMAT)):
        write_training(results, arm, {case: cases[case] for case in held_out})
    assert compared()["meta"]["cases"] == 2


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        ([*REFERENCE, "p5_s0"], "p5_s0 is not scored (1 cases differ;"),
        (["p1_s0", "p1_s1", "p2_s0"], "p3_s0 is none of them (1 cases differ;"),
    ],
)
def test_a_validation_of_other_cases_than_the_folds_is_refused(results, capsys, held_out, words):
    write_splits(results, ["p4_s0"], held_out)
    message = refusal(capsys)
    assert f"does not score the validation cases of fold 0 in {results.parent / 'nnUNet_preprocessed'}" in message
    assert words in message


def test_a_validation_that_fits_its_checkpoint_is_taken_whatever_the_folds_are_now(results):
    write_splits(results, ["p1_s0", "p1_s1"], ["p2_s0", "p3_s0"])
    for arm in ("reference", "cbmat"):
        write_record(results, arm, ["p8_s0"], list(REFERENCE))
    assert compared()["meta"]["cases"] == 4


NOTES = {"num_epochs": "5", "num_iterations_per_epoch": "250"}


def write_dosed(results, *doses: str | None):
    """A fold of reference and of difflung for each dose, which is noted unless it is None."""
    for fold, dose in enumerate(doses):
        notes = {**NOTES, "method": "difflung"}
        write_training(results, "reference", REFERENCE, fold)
        write_training(results, "difflung", CBMAT, fold, notes=notes | ({"dose": dose} if dose else {}))


def test_the_dose_of_an_arm_is_told(results):
    write_dosed(results, "DIFFLUNG_SYNTHETIC_SHARE=0.5 DIFFLUNG_SYNTHETIC_SCHEDULE=constant", None)
    table = compared("--arms", "reference", "difflung", folds=("0", "1"))
    assert table["meta"]["doses"] == {"difflung": "DIFFLUNG_SYNTHETIC_SHARE=0.5 DIFFLUNG_SYNTHETIC_SCHEDULE=constant"}
    assert "Of the patches of difflung, an expected share of 0.5 was synthetic (constant)." in methods_paragraph(table)
    write_dosed(results, "DIFFLUNG_SYNTHETIC_SHARE=cases")
    assert "SYNTHETIC_SHARE" not in methods_paragraph(compared("--arms", "reference", "difflung"))


def test_two_doses_are_no_arm(results, capsys):
    write_dosed(results, "DIFFLUNG_SYNTHETIC_SHARE=cases", "DIFFLUNG_SYNTHETIC_SHARE=0.5")
    message = refusal(capsys, "-f", "0", "1", "--arms", "reference", "difflung")
    assert "record different doses of synthetic cases (DIFFLUNG_SYNTHETIC_SHARE=0.5 and DIFFLUNG_S" in message


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("aaa 111", None),
        ("aaa unknown", None),
        ("bbb 111", "record different real cases of the two trainings"),
        ("aaa 222", "record real cases whose files have changed in between of the two trainings"),
    ],
)
def test_arms_that_were_trained_on_other_real_cases_are_not_compared(results, capsys, own, message):
    for arm, dices, cases in (("reference", REFERENCE, "aaa 111"), ("cbmat", CBMAT, own)):
        write_training(results, arm, dices, notes={**NOTES, "real_cases": cases})
    if message is None:
        compared()
    else:
        assert message in refusal(capsys)


def test_folds_have_real_cases_of_their_own(results):
    for fold in (0, 1):
        for arm, dices in (("reference", REFERENCE), ("cbmat", CBMAT)):
            write_training(results, arm, dices, fold, notes={**NOTES, "real_cases": f"{fold} unknown"})
    compared(folds=("0", "1"))


def test_a_training_that_began_with_weights_that_had_seen_its_validation_patients_is_refused(results, capsys):
    for arm, dices, weights in (("reference", REFERENCE, "none"), ("cbmat", CBMAT, "unseen")):
        write_training(results, arm, dices, notes={**NOTES, "pretrained": weights})
    assert "weights_of_unknown_origin" not in compared()["meta"]
    write_training(results, "cbmat", CBMAT, notes={**NOTES, "pretrained": "unknown"})
    table = compared()
    assert table["meta"]["weights_of_unknown_origin"] == ["cbmat, fold 0"]
    light = next(light for light in verdicts(table).lights if light.title == "Leaks")
    assert (light.state, light.text[:40]) == ("look", "1 training began with pretrained weights")
    write_training(results, "cbmat", CBMAT, notes={**NOTES, "pretrained": "validation patients"})
    assert "trained on validation patients of its fold" in refusal(capsys)


def test_a_validation_of_the_best_checkpoint_is_refused(results, capsys):
    folder = results / NAME / f"{ARMS['cbmat']}__nnUNetPlans__2d" / "fold_0"
    for checkpoint in ("checkpoint_final.pth", "checkpoint_best.pth"):
        (folder / VALIDATED).write_text(json.dumps({"checkpoint": checkpoint}))
        if checkpoint == "checkpoint_final.pth":
            compared()
    assert "the validation in" in (message := refusal(capsys))
    assert "fold_0 is of checkpoint_best.pth, expected checkpoint_final.pth" in message


def test_trainings_of_another_length_and_stock_nnunet(results):
    for arm, cases in (("nnUNetTrainer", REFERENCE), ("mat", CBMAT)):
        write_training(results, arm, cases, length="5epochs")
    table = compared("--length", "5epochs", "--reference", "nnUNetTrainer")
    assert [arm for arm in table if arm != "meta"] == ["mat", "nnUNetTrainer"]
    assert table["mat"]["emphysema"]["diff_to_reference"]["mean"] > 0.4


def test_arms_are_all_trainers_of_this_package_and_stock_nnunet():
    from nnunet_difflung import trainers

    assert sorted(set(ARMS.values())) == sorted([arm.__name__ for arm in trainers.ARMS] + ["nnUNetTrainer"])


def write_noted(results, fold=0, method="cbmat", arm="difflung"):
    """A training of nnUNetTrainerDiffLung (or of its twin) with the cases of a method, as nnU-Net notes it."""
    notes = {"num_epochs": "5", "num_iterations_per_epoch": "250", "method": method}
    write_training(results, arm, CBMAT, fold, notes=notes)


@pytest.mark.parametrize("poly", ["", "_poly"])
def test_a_training_of_an_earlier_version_is_called_by_the_method_of_its_cases(results, poly):
    shutil.rmtree(results / NAME / f"{ARMS['cbmat']}__nnUNetPlans__2d")
    write_noted(results, arm=f"difflung{poly}")
    table = compared()
    assert [arm for arm in table if arm != "meta"] == ["reference", f"cbmat{poly}"]
    assert table[f"cbmat{poly}"]["emphysema"]["diff_to_reference"]["mean"] > 0
    write_noted(results, arm=f"difflung{poly}", method="difflung")
    assert [arm for arm in compared() if arm != "meta"] == ["reference", f"difflung{poly}"]


def test_trainings_of_cbmat_before_and_after_the_change_are_one_arm(results):
    for fold in (0, 1):
        write_training(results, "reference", REFERENCE, fold)
    write_noted(results, 1)
    table = compared(folds=("0", "1"))
    assert [arm for arm in table if arm != "meta"] == ["reference", "cbmat"]
    assert {row["fold"] for row in table["cbmat"]["emphysema"]["rows"]} == {0, 1}


# ---- what is refused ----


def test_a_folder_with_trainings_of_two_methods_is_no_arm(results, capsys):
    for fold in (0, 1):
        write_training(results, "reference", REFERENCE, fold)
    write_noted(results, 0, "cbmat")
    write_noted(results, 1, "difflung")
    message = refusal(capsys, "-f", "0", "1", "--arms", "reference", "difflung")
    assert "fold_0/debug.json says that this training had the cases of cbmat, so it is none of arm difflung" in message
    assert "run difflung_augment -d 942 -f 0 --method difflung, preprocess the new cases, and run" in message
    message = refusal(capsys, "-f", "0", "1", "--arms", "reference", "cbmat")
    assert "summary.json is missing (arm cbmat, fold 1; 1 such trainings)" in message
    assert "-tr nnUNetTrainerDiffLungCBMAT" in message


def log(results, number: int, text: str):
    """nnU-Net's log of the training of cbmat that was started as the ``number``-th, in month ``number``."""
    folder = results / NAME / f"{ARMS['cbmat']}__nnUNetPlans__2d" / "fold_0"
    stamp = f"2026-0{number}-28 19:37:02.149522: "
    lines = "".join(f"{stamp}{line} \n" for line in text.split("/"))
    (folder / f"training_log_2026_{number}_28_19_37_02.txt").write_text(lines)
    return folder


@pytest.mark.parametrize(
    "logs",
    [
        ("Epoch 0/Epoch 1/Training done.",),
        ("Epoch 0/Epoch 1", "Epoch 1/Training done.", "Validation complete"),
        ("Epoch 0", "Epoch 0/Training done."),
        ("Epoch 10/Epoch 11",),
    ],
    ids=["at once", "continued", "begun anew", "log of the beginning is lost"],
)
def test_a_finished_training_is_compared_however_often_it_was_started(results, logs):
    for number, text in enumerate(logs, 1):
        log(results, number, text)
    assert [arm for arm in compared() if arm != "meta"] == ["reference", "cbmat"]


def test_scores_of_an_earlier_training_are_not_those_of_one_begun_anew(results, capsys):
    log(results, 2, "Epoch 0/Training done.")
    folder = log(results, 10, "Epoch 0/Epoch 1")  # October comes after February, in spite of its name
    message = refusal(capsys, "--arms", "reference", "cbmat")
    assert "training_log_2026_10_28_19_37_02.txt is of a training that is not finished" in message
    assert "fold_0 are those of an earlier one (arm cbmat, fold 0; 1 such trainings)" in message
    assert "checkpoint_final" not in message
    (folder / "checkpoint_final.pth").touch()
    assert "first move" in refusal(capsys, "--arms", "reference", "cbmat")
    log(results, 11, "Epoch 1/Training done.")
    assert [arm for arm in compared() if arm != "meta"] == ["reference", "cbmat"]


def test_a_training_that_may_be_of_either_method_is_not_named(results, capsys):
    write_training(results, "difflung", CBMAT)
    assert "does not say whether this training had the cases of difflung or" in refusal(capsys)
    assert [arm for arm in compared("--arms", "reference", "cbmat") if arm != "meta"] == ["reference", "cbmat"]


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        entry(["-d", "942", "-f", "0", *arguments])
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith("Error: ")
    assert message.count("\n") == 1
    return message


def test_a_missing_arm_is_named_with_its_command(results, capsys):
    message = refusal(capsys, "--arms", "reference", "spade")
    assert "arm spade, fold 0" in message
    assert "nnUNetv2_train 942 2d 0 -tr nnUNetTrainerDiffLungSpade" in message
    message = refusal(capsys, "--predictions", "test", "--arms", "reference")
    assert 'nnUNetv2_predict -i "$nnUNet_raw"/' in message
    assert "nnUNetv2_evaluate_folder" in message


def test_a_dataset_without_trainings_is_told_the_command_that_trains(folders, capsys):
    (folders[2] / NAME).mkdir()
    assert "train first, as in nnUNetv2_train 942 2d 0 -tr nnUNetTrainerDiffLungReference" in refusal(capsys)
    message = refusal(capsys, "--length", "5epochs")
    assert "-tr nnUNetTrainerDiffLungReference_5epochs" in message


def test_a_missing_repetition_of_an_arm_is_not_passed_over(results, tmp_path, capsys):
    write_training(tmp_path / "seed2", "reference", REFERENCE)
    message = refusal(capsys, "--results", str(results), str(tmp_path / "seed2"))
    assert "arm cbmat, fold 0" in message
    assert "seed2" in message


def test_arms_with_other_cases_cannot_be_paired(results, capsys):
    write_training(results, "cbmat", {case: CBMAT[case] for case in ("p1_s0", "p1_s1", "p2_s0")})
    message = refusal(capsys)
    assert "p3_s0 is in only one of them" in message
    assert "nnUNetTrainerDiffLungReference__" in message


def test_arms_scored_against_other_references_cannot_be_paired(results, capsys):
    write_training(results, "cbmat", {**CBMAT, "p2_s0": [(90, 0, 0), (15, 5, 6)]})
    assert "case p2_s0 has different numbers of emphysema voxels" in refusal(capsys)


def test_synthetic_cases_are_refused(results, capsys):
    for arm in ("reference", "cbmat"):
        write_training(results, arm, {**REFERENCE, "difflung_cbmat_0_000": REFERENCE["p1_s0"]})
    assert "synthetic case difflung_cbmat_0_000" in refusal(capsys)


def test_trainings_of_unequal_length_are_refused(results, capsys):
    notes = {"num_epochs": 5, "num_iterations_per_epoch": 250, "device": "cpu"}
    write_training(results, "reference", REFERENCE, notes=notes)
    write_training(results, "cbmat", CBMAT, notes={**notes, "num_epochs": 6})
    assert "different numbers of epochs" in refusal(capsys)
    write_training(results, "cbmat", CBMAT, notes=notes)
    meta = compared()["meta"]
    assert (meta["iterations"], meta["device"]) == (1250, ["cpu"])


def test_arms_planned_with_other_numbers_of_cases_are_told_the_cause(results, capsys):
    notes = {"num_epochs": 5, "num_iterations_per_epoch": 250, "batch_size": 12, "configuration_manager": "batch 12"}
    write_training(results, "reference", REFERENCE, notes=notes)
    write_training(results, "cbmat", CBMAT, notes={**notes, "batch_size": 14, "configuration_manager": "batch 14"})
    message = refusal(capsys)
    assert "different batch sizes (14 and 12)" in message
    assert "caps its batch size by the number of training cases" in message
    assert "inject all methods before nnUNetv2_plan_and_preprocess, then train all arms" in message
    write_training(results, "cbmat", CBMAT, notes={**notes, "configuration_manager": "other patches"})
    message = refusal(capsys)
    assert "different plans of the configuration" in message
    assert "caps its batch size" not in message


def test_other_bad_input(results, capsys):
    assert "its own training cases" in refusal(capsys, "-f", "all", "--arms", "cbmat")
    assert "is not among the arms" in refusal(capsys, "--reference", "mat", "--arms", "cbmat")
    assert "no arm has a finished training" in refusal(capsys, "-c", "3d_fullres")
    assert "choose with -c, --length" in refusal(capsys, "--length", "20epochs")
    assert "does not end in .json" in refusal(capsys, "-o", "table.md")
    assert "is given 2 times" in refusal(capsys, "--results", str(results), str(results))
    (results / "file").touch()
    assert "is a file, but a folder" in refusal(capsys, "-o", str(results / "file" / "table.json"))
    (results / NAME / f"{ARMS['cbmat']}__nnUNetPlans__2d" / "fold_0" / "validation" / "summary.json").write_text("{}")
    assert "is not a summary.json of the classes lung, emphysema" in refusal(capsys)


def test_results_of_the_same_name_are_told_apart(tmp_path):
    folders = [tmp_path / seed / "nnUNet_results" for seed in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
    assert list(named_results(folders)) == ["a/nnUNet_results", "b/nnUNet_results"]
    assert list(named_results(folders[:1])) == ["nnUNet_results"]


def test_patients_of_cases_that_the_manifest_does_not_know(results, tmp_path):
    assert case_patients(["p1_s0", "new4_s3"], NAME) == {"p1_s0": "p1", "new4_s3": "new4"}
    manifest = new_manifest(NAME, {"p1_s0": "clinicA", "p2_s0": "clinicA"})
    (tmp_path / "nnUNet_preprocessed" / NAME / MANIFEST).write_text(json.dumps(manifest))
    assert case_patients(["p1_s0"], NAME) == {"p1_s0": "clinicA"}
    with pytest.raises(BadInput, match="new4_s3 .*--patient-pattern"):
        case_patients(["p1_s0", "new4_s3"], NAME)
    assert case_patients(["new4_s3"], NAME, "(....).*") == {"new4_s3": "new4"}


def test_ambiguous_ids_are_refused_with_candidates_until_somebody_says_who_the_patients_are(folders, capsys, tmp_path):
    ids = {"p1_s0": "p1_v1", "p1_s1": "p1_v2", "p2_s0": "p2_v1", "p3_s0": "p3_v1"}
    for arm, cases in (("reference", REFERENCE), ("cbmat", CBMAT)):
        write_training(folders[2], arm, {ids[case]: counts for case, counts in cases.items()})
    with pytest.raises(SystemExit) as stop:
        entry(["-d", "942", "-f", "0"])
    assert stop.value.code == 2
    first, *candidates = capsys.readouterr().err.splitlines()
    assert first.startswith(f"Error: the patients cannot be told from the 4 case ids of {NAME} (such as 'p1_v1')")
    option = next(line.strip() for line in candidates if "[0-9]+" in line)
    assert compared(*shlex.split(option))["meta"]["patients"] == 3
    table = tmp_path / "who.csv"
    table.write_text("case,patient\np1_v1,a\np1_v2,a\np2_v1,b\np3_v1,c\nunscored,d\n")
    rows = compared("--patients", str(table))["cbmat"]["lung"]["rows"]
    assert {row["patient"] for row in rows} == {"a", "b", "c"}
    assert compared("--patient-pattern", "(.+)")["meta"]["patients"] == 4


def test_given_folds_say_enough_but_are_warned_of(folders, capsys):
    ids = ["p1_v1", "p1_v2", "p2_v1", "p2_v2"]
    splits = [{"train": ids[1::2], "val": ids[0::2]}, {"train": ids[0::2], "val": ids[1::2]}]
    (folders[1] / NAME).mkdir()
    (folders[1] / NAME / "splits_final.json").write_text(json.dumps(splits))
    assert case_patients(ids[0::2], NAME) == {"p1_v1": "p1_v1", "p2_v1": "p2_v1"}
    assert "Warning: " in capsys.readouterr().err
    splits = [{"train": ids[2:], "val": ids[:2]}]
    (folders[1] / NAME / "splits_final.json").write_text(json.dumps(splits))
    assert case_patients(ids[:2], NAME) == {"p1_v1": "p1", "p1_v2": "p1"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Patients: 2, read so that the given folds fit")
    assert "p1_v1 → p1" in line


# ---- surfaces ----


def mask(shape, *voxels):
    voxels_set = np.zeros(shape, bool)
    voxels_set[tuple(np.transpose(voxels))] = True
    return voxels_set


def test_surface_distances_in_millimetres_by_hand():
    pytest.importorskip("monai")
    flat, moved = mask((1, 9, 9), (0, 2, 2)), mask((1, 9, 9), (0, 2, 4))
    assert surface_scores(flat, flat, (999, 1.5, 1.5), 1) == (0, 1)
    assert surface_scores(flat, moved, (999, 1.5, 1.5), 2.9) == (3.0, 0)
    assert surface_scores(flat, moved, (999, 1.5, 1.5), 3.1) == (3.0, 1)
    deep = mask((4, 9, 9), (1, 2, 2)), mask((4, 9, 9), (2, 2, 2))
    assert surface_scores(*deep, (5.0, 1, 1), 2) == (5.0, 0)
    both = surface_scores(flat, flat | moved, (999, 1.5, 1.5), 1)
    assert both[1] == pytest.approx(2 / 3)  # two of the three surface voxels of both masks
    assert surface_scores(flat, flat & moved, (999, 3.0, 4.0), 2) == (pytest.approx(45.0), 0)  # the diagonal


def test_hausdorff_distance_bears_five_percent_outliers_and_no_more():
    pytest.importorskip("monai")
    row = mask((1, 9, 60), *((0, 0, x) for x in range(40)))
    row_with_one, row_with_four = (row | mask(row.shape, *((0, 8, x) for x in range(n))) for n in (1, 4))
    assert surface_scores(row, row_with_one, (1, 1, 1), 1)[0] == 0
    assert surface_scores(row, row_with_four, (1, 1, 1), 1)[0] == 8


def test_ignored_voxels_are_not_judged():
    pytest.importorskip("monai")
    reference = np.zeros((1, 9, 9), int)
    reference[0, 4, 4], reference[0, 8] = 1, 3
    prediction = np.where(reference == 3, 1, reference)
    assert case_scores(reference, prediction, (1, 1, 1), [[1], [2]], 3, 1)[0].tolist() == [0, 1]
    assert case_scores(reference, prediction, (1, 1, 1), [[1], [2]], None, 1)[0, 0] > 0
    assert np.isnan(case_scores(reference, prediction, (1, 1, 1), [[1], [2]], 3, 1)[1]).all()


def write_labels(path, column, height=1):
    label = np.zeros((1, 9, 9), np.uint8)
    label[0, 1:8, 1:8] = 1
    label[0, 2 : 2 + height, column] = 2
    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(label)
    image.SetSpacing((1.5, 1.5, 5))
    sitk.WriteImage(image, str(path))


def test_surfaces_end_to_end(results, tmp_path):
    pytest.importorskip("monai")
    cases = {"p1_s0": [(49, 0, 0), (0, 1, 1)], "p2_s0": [(49, 0, 0), (0, 1, 1)]}
    for arm, column in (("reference", 5), ("cbmat", 2)):
        write_training(results, arm, cases)
        folder = results / NAME / f"{ARMS[arm]}__nnUNetPlans__2d" / "fold_0" / "validation"
        for case in cases:
            write_labels(folder / f"{case}.nii.gz", column)
            write_labels(tmp_path / "nnUNet_preprocessed" / NAME / "gt_segmentations" / f"{case}.nii.gz", 3)
    table = compared("--surface", "--tolerance", "2")
    assert table["reference"]["emphysema"]["hd95_mm"]["mean"] == 3.0  # two pixels of 1.5 mm
    assert table["cbmat"]["emphysema"]["hd95_mm"]["mean"] == 1.5
    assert (table["reference"]["emphysema"]["nsd"]["mean"], table["cbmat"]["emphysema"]["nsd"]["mean"]) == (0, 1)
    assert table["cbmat"]["emphysema"]["hd95_mm"]["diff_to_reference"]["mean"] == -1.5
    assert table["meta"]["tolerance_mm"] == 2
    assert "hd95_mm" not in compared()["cbmat"]["emphysema"]


def test_lesions_end_to_end(results, tmp_path):
    cases = {"p1_s0": [(49, 0, 0), (0, 3, 3)], "p1_s1": [(49, 0, 0), (0, 3, 3)], "p2_s0": [(49, 0, 0), (0, 3, 3)]}
    for arm, columns in (("reference", (5, 5, 5)), ("cbmat", (3, 5, 3))):
        write_training(results, arm, cases)
        folder = results / NAME / f"{ARMS[arm]}__nnUNetPlans__2d" / "fold_0" / "validation"
        for case, column in zip(cases, columns, strict=True):
            write_labels(folder / f"{case}.nii.gz", column, 3)
            write_labels(tmp_path / "nnUNet_preprocessed" / NAME / "gt_segmentations" / f"{case}.nii.gz", 3, 3)
    row = compared("--lesions")["cbmat"]["emphysema"]
    assert (row["lesion_sensitivity"]["mean"], row["false_lesions"]["mean"]) == (0.75, 0.5)  # p1: one of two slices
    assert row["lesion_sensitivity"]["diff_to_reference"]["mean"] == 0.75
    assert row["false_lesions"]["diff_to_reference"]["mean"] == -1  # the reference has 2 in p1 and 1 in p2
    assert [r["false_lesions"] for r in row["rows"]] == [1, 0]
    assert "hd95_mm" not in row
    text = (results / NAME / "DiffLung__compare" / "table2.md").read_text()
    assert "| lesions detected, share | cbmat | 0.750 | +0.750 (no interval) |" in text


def test_a_prediction_that_broke_off_is_refused(results, tmp_path, capsys):
    for arm, cases in (("reference", REFERENCE), ("cbmat", CBMAT)):
        for case in cases:
            folder = results / NAME / f"{ARMS[arm]}__nnUNetPlans__2d" / "fold_0" / "validation"
            write_labels(folder / f"{case}.nii.gz", 3, 3)
            write_labels(tmp_path / "nnUNet_preprocessed" / NAME / "gt_segmentations" / f"{case}.nii.gz", 3, 3)
    compared("--lesions")
    whole = folder / "p2_s0.nii.gz"
    whole.write_bytes(whole.read_bytes()[:-20])
    message = refusal(capsys, "--lesions")
    assert "p2_s0.nii.gz is damaged" in message
    assert "replace or repair the file" in message


def test_surface_without_its_files_or_its_library(results, monkeypatch, capsys):
    pytest.importorskip("monai")
    assert "gt_segmentations" in refusal(capsys, "--surface")
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    assert "pip install 'nnunet_difflung[metrics]'" in refusal(capsys, "--surface")
