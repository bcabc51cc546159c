"""``difflung_export``: what an export holds, what its card says, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from nnunetv2.model_sharing.entry_points import install_from_zip_entry_point
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_difflung import trainers
from nnunet_difflung.commands.export import entry, main
from nnunet_difflung.errors import BadInput
from nnunet_difflung.export import export as export_module
from nnunet_difflung.export.contents import check_trainer
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.paths import PATH_VARIABLES, VALIDATED
from tests.export.conftest import DATASET
from tests.support.tiny import tree_hashes

MODEL = "nnUNetTrainerDiffLung__nnUNetPlans__2d"
REFERENCE = "nnUNetTrainerDiffLungReference_1epoch"
FOLD = ["-d", "801", "-f", "0"]
FINAL = "checkpoint_final.pth"


@pytest.fixture
def results(home) -> Path:
    """The dataset's folder in nnUNet_results."""
    return home / "nnUNet_results" / DATASET


@pytest.fixture
def out(tmp_path) -> Path:
    """Where to export to; not there yet."""
    return tmp_path / "exported" / "model"


def exported(out: Path, *more: str) -> str:
    """Exports, and returns the card; ``out`` is a folder."""
    assert main([*FOLD, "-o", str(out), *more]) == 0
    return (out / "MODEL_CARD.md").read_text(encoding="utf-8")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def change(path: Path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


# ---- what is written ----


def test_an_export_holds_what_prediction_reads_and_nothing_of_a_case(home, results, out):
    card = exported(out)
    assert files(out) == sorted(["MODEL_CARD.md", "dataset.json", "plans.json", f"fold_0/{FINAL}"])
    manifest = read_manifest(home / "nnUNet_raw" / DATASET)
    secret = {*manifest["patients"], *manifest["patients"].values(), *manifest["cases"], str(home), "Dr Who"}
    secret |= {os.uname().nodename, "labelsTr", "difflung_cases"}
    original = b"".join(path.read_bytes() for path in (results / MODEL).rglob("*") if path.is_file())
    assert all(word.encode() in original for word in ("lung_002_s00", "Dr Who", "labelsTr", "difflung_cases"))
    for path in out.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert [word for word in sorted(secret) if word.encode() in content] == [], path
    assert "Dataset801_Tiny" in card


def test_a_checkpoint_holds_weights_and_a_trainer_of_nnunet_and_no_optimizer(results, out):
    exported(out)
    content = torch.load(out / "fold_0" / FINAL, weights_only=True)
    original = torch.load(results / MODEL / "fold_0" / FINAL, weights_only=False)
    assert set(content) == {"network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes"}
    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["init_args"] == {"configuration": "2d", "fold": 0}
    assert content["inference_allowed_mirroring_axes"] == original["inference_allowed_mirroring_axes"] == (0, 1)
    assert list(content["network_weights"]) == list(original["network_weights"])
    assert all(torch.equal(content["network_weights"][k], v) for k, v in original["network_weights"].items())


def test_dataset_and_plans_keep_what_nnunet_reads(results, out):
    change(results / MODEL / "plans.json", lambda plans: plans.update(made_by="/home/somebody"))
    exported(out)
    original = json.loads((results / MODEL / "dataset.json").read_text())
    assert json.loads((out / "dataset.json").read_text()) == {
        key: original[key] for key in ("channel_names", "labels", "file_ending")
    }
    original = json.loads((results / MODEL / "plans.json").read_text())
    assert original.pop("made_by")
    assert json.loads((out / "plans.json").read_text()) == original


def test_a_model_of_regions_keeps_their_order(results, out):
    regions = {"background": 0, "lung": [1, 2, 3], "disease": [2, 3], "emphysema": 2, "ILD": 3}
    order = [1, 3, 2, 3]
    change(results / MODEL / "dataset.json", lambda content: content.update(labels=regions, regions_class_order=order))
    shutil.rmtree(results / MODEL / "fold_0" / "validation")  # of labels
    exported(out)
    content = json.loads((out / "dataset.json").read_text())
    assert (content["labels"], content["regions_class_order"]) == (regions, order)


def test_a_zip_file_has_each_model_where_nnunet_installs_it(results, tmp_path):
    second = results / f"{REFERENCE}__nnUNetPlans__2d_again"
    shutil.copytree(results / f"{REFERENCE}__nnUNetPlans__2d", second)
    change(second / "plans.json", lambda p: p["configurations"].update({"2d_again": {"inherits_from": "2d"}}))
    for fold in ("fold_0", "fold_1"):
        content = torch.load(second / fold / FINAL, weights_only=False)
        content["init_args"]["configuration"] = "2d_again"
        torch.save(content, second / fold / FINAL)
    words = ["-d", DATASET, "-f", "0", "1", "-tr", REFERENCE, "-c", "2d", "2d_again", "-o", str(tmp_path / "m.zip")]
    assert main(words) == 0
    with zipfile.ZipFile(tmp_path / "m.zip") as file:
        assert file.testzip() is None
        names = file.namelist()
        card = file.read(f"{DATASET}/{REFERENCE}__nnUNetPlans__2d_again/MODEL_CARD.md").decode()
    content = ["MODEL_CARD.md", "dataset.json", "plans.json", f"fold_0/{FINAL}", f"fold_1/{FINAL}"]
    models = [f"{DATASET}/{REFERENCE}__nnUNetPlans__{name}" for name in ("2d", "2d_again")]
    assert sorted(names) == sorted(f"{model}/{name}" for model in models for name in content)
    assert "nnUNetv2_install_pretrained_model_from_zip m.zip\n" in card
    assert f"-d {DATASET} -c 2d_again -p nnUNetPlans -tr {REFERENCE} -f 0 1\n" in card
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["model", "model.zip"])
def test_a_dry_run_lists_the_files_and_writes_nothing(home, tmp_path, capsys, name):
    before = tree_hashes(tmp_path)
    out = tmp_path / "new" / name
    assert main([*FOLD, "-o", str(out), "--dry-run"]) == 0
    assert tree_hashes(tmp_path) == before
    listed = re.findall(r"^  (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert main([*FOLD, "-o", str(out)]) == 0
    assert sorted(listed) == (sorted(zipfile.ZipFile(out).namelist()) if name == "model.zip" else files(out))


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_nobody_reads_an_export_who_cannot_read_the_checkpoints(results, out):
    (results / MODEL / "fold_0" / FINAL).chmod(0o600)
    exported(out)
    assert [path for path in (out, *out.rglob("*")) if path.stat().st_mode & 0o077] == []


# ---- the card ----


def table(card: str, first: str) -> dict[str, list[str]]:
    """A table of the card: first cell → the others."""
    rows = card[card.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows[2:])}


def test_the_card_says_what_the_model_was_trained_on(home, out):
    card = exported(out)
    cases = read_manifest(home / "nnUNet_raw" / DATASET)["cases"]
    assert len(cases) > 0
    head, row = "fold", ["4 cases of 2 patients", f"{len(cases)} (difflung)", "4 cases of 2 patients", "1 × 2"]
    assert table(card, head) == {"0": row}
    assert "Trainer `nnUNetTrainerDiffLung`, arm `difflung`." in card
    data = {name: rest[0] for name, rest in table(card, "").items()}
    assert data["real cases of these folds"] == "8 cases of 4 patients"
    assert data["channels"] == "0: CT"
    assert data["labels"] == "background (0), normal_lung (1), emphysema (2), ILD (3)"
    assert data["patch size (voxels)"] == "32 × 32"
    assert data["spacing (mm, where the files have one)"] == "1 × 1"
    assert f"Trained with PyTorch {torch.__version__}" in card


def test_the_card_has_the_mean_dice_over_validation_patients(results, out):
    path = results / MODEL / "fold_0" / "validation" / "summary.json"

    def edit(summary):
        counts = {"lung_001_s00": (6, 2, 4), "lung_001_s01": (4, 0, 0), "lung_003_s00": (1, 0, 9)}
        for entry_ in summary["metric_per_case"]:
            case = Path(entry_["prediction_file"]).name.removesuffix(".nii.gz")
            for key in ("1", "2"):
                entry_["metrics"][key].update(zip(("TP", "FP", "FN"), counts.get(case, (0, 0, 0)), strict=True))
            entry_["metrics"]["3"].update(TP=0, FN=0, FP=5 if case == "lung_003_s01" else 0)

    change(path, edit)
    card = exported(out)
    dice = np.mean([20 / 26, 2 / 11])  # of the two patients' voxels
    assert table(card, "class") == {
        "normal_lung": [f"{dice:.3f}", "2", "0", "0"],
        "emphysema": [f"{dice:.3f}", "2", "0", "0"],
        "ILD": ["–", "0", "2", "1"],
    }
    assert "4 cases of 2 patients in 1 fold (0). They were not in its training. Dice" in card


def test_patients_of_training_and_validation_are_not_called_unseen(results, out):
    path = results / MODEL / "fold_0" / FINAL
    content = torch.load(path, weights_only=False)
    record = content["init_args"]["difflung_cases"]
    record["real"] = [*record["real"], record["validation"][0]]
    torch.save(content, path)
    assert "Some of them were in its training too." in exported(out)


@pytest.mark.parametrize("complete", [True, False])
def test_patients_whom_pretrained_weights_have_seen_are_not_called_unseen(results, out, complete):
    path = results / MODEL / "fold_0" / FINAL
    content = torch.load(path, weights_only=False)
    record = content["init_args"]["difflung_cases"]
    record["pretrained"] = {"cases": [record["validation"][0]], "complete": complete}
    torch.save(content, path)
    assert "Some of them were in its training too." in exported(out)


def test_pretrained_weights_of_unknown_origin_leave_it_open(results, out):
    path = results / MODEL / "fold_0" / FINAL
    content = torch.load(path, weights_only=False)
    content["init_args"]["difflung_cases"]["pretrained"] = {"cases": [], "complete": False}
    torch.save(content, path)
    assert "Whether these patients were in its training is not on record." in exported(out)


def test_a_fold_without_validation_has_no_figures(results, out):
    shutil.rmtree(results / MODEL / "fold_0" / "validation")
    card = exported(out)
    assert "Fold 0: not on record; nnU-Net has not validated checkpoint_final.pth." in card
    assert "| class |" not in card


def test_a_checkpoint_that_nnunet_did_not_validate_has_no_figures(results, out):
    shutil.copy(results / MODEL / "fold_0" / FINAL, results / MODEL / "fold_0" / "checkpoint_best.pth")
    card = exported(out, "-chk", "checkpoint_best.pth")
    assert "Fold 0: not measured; nnU-Net's validation is of checkpoint_final.pth" in card
    assert "| class |" not in card
    assert "-f 0 -chk checkpoint_best.pth\n" in card
    assert f"fold_0/{FINAL}" not in files(out)


def test_fold_all_has_no_figures_of_unseen_patients(results, out):
    shutil.copytree(results / MODEL / "fold_0", results / MODEL / "fold_all")
    card = exported(out, "-f", "all")
    assert "Fold all: not measured on patients whom the training did not have." in card
    assert "| class |" not in card


# ---- the card's commands ----

IN_BASH = """
set -e
nnUNetv2_install_pretrained_model_from_zip() { "$PYTHON" -m zipfile -e "$1" "$nnUNet_results"; }
nnUNetv2_move_plans_between_datasets() {
    "$PYTHON" -c "from nnunetv2.experiment_planning.plans_for_pretraining import move_plans_between_datasets as m
m.entry_point_move_plans_between_datasets()" "$@"
}
nnUNetv2_preprocess() { printf 'preprocess\\n'; printf '%s\\n' "$@"; }
nnUNetv2_train() { printf 'train\\n'; printf '%s\\n' "$@"; }
"""


def commands(card: str) -> list[str]:
    """The commands of a card, one a line."""
    return re.findall(r"^    (\S.*)$", card[card.index("## How to use it") : card.index("## Data\n")], re.MULTILINE)


def moved_to(name: str, home: Path) -> Path:
    """Gives the trained dataset another name, in all folders of nnU-Net; returns its folder in the results."""
    for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (home / folder / DATASET).rename(home / folder / name)
    return home / "nnUNet_results" / name


@pytest.fixture
def elsewhere(trained, tmp_path) -> Path:
    """nnU-Net's folders of a reader of the card, whose datasets have the model's number and name, and another one."""
    there = tmp_path / "the reader's $HOME"
    for name in (DATASET, "Dataset007_Mine"):
        shutil.copytree(trained / "nnUNet_raw" / DATASET, there / "nnUNet_raw" / name)
        (there / "nnUNet_preprocessed" / name).mkdir(parents=True)
        (there / "nnUNet_preprocessed" / name / "nnUNetPlans.json").write_text('{"plans_name": "of the reader"}')
    (there / "nnUNet_results").mkdir()
    return there


@pytest.mark.skipif(shutil.which("bash") is None, reason="the card's commands are for a shell")
@pytest.mark.parametrize("out", ["the model.zip", "model"])
@pytest.mark.parametrize("name", [DATASET, "Dataset801_CT (v2) 'a' $HOME `b` \"c\"!"])
def test_the_cards_commands_train_from_the_weights_and_touch_no_other_dataset(home, tmp_path, elsewhere, name, out):
    model = moved_to(name, home) / MODEL
    assert main([*FOLD, "-o", str(tmp_path / out)]) == 0
    if out == "model":
        card, where = (tmp_path / out / "MODEL_CARD.md").read_text(encoding="utf-8"), tmp_path / out
    else:
        card = zipfile.ZipFile(tmp_path / out).read(f"{name}/{MODEL}/MODEL_CARD.md").decode()
        where = elsewhere / "nnUNet_results" / name / MODEL
    before = tree_hashes(elsewhere / "nnUNet_preprocessed")
    lines = [line for line in commands(card) if not line.startswith(("pip", "nnUNetv2_predict"))]
    assert len(lines) == (7 if where != tmp_path / out else 6)
    for placeholder, meant in (("FOLDER", str(tmp_path / out)), ("DATASET", "7"), ("FOLD", "0")):
        lines = [re.sub(rf"\b{placeholder}\b", meant, line) for line in lines]
    done = subprocess.run(
        ["bash", "-c", IN_BASH + "\n".join(lines)],
        env=os.environ
        | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        | {variable: str(elsewhere / variable) for variable in PATH_VARIABLES},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    preprocess, train = done.stdout.split("train\n")
    words = preprocess.splitlines()[-7:]
    plans = words[4]
    assert words == ["preprocess", "-d", "7", "-plans_name", plans, "-c", "2d"]
    assert train.splitlines() == ["7", "2d", "0", "-p", plans, "-pretrained_weights", str(where / "fold_0" / FINAL)]
    assert (where / "fold_0" / FINAL).is_file()
    new = elsewhere / "nnUNet_preprocessed" / "Dataset007_Mine" / f"{plans}.json"
    now = tree_hashes(elsewhere / "nnUNet_preprocessed")
    assert now.keys() - before.keys() == {str(new)}
    assert before.items() <= now.items()
    content, original = json.loads(new.read_text()), json.loads((model / "plans.json").read_text())
    assert (content["dataset_name"], content["plans_name"]) == ("Dataset007_Mine", plans)
    own = content["configurations"]["2d"]
    assert own.pop("data_identifier") == original["configurations"]["2d"].pop("data_identifier").replace(
        "nnUNetPlans", plans
    )
    assert own == original["configurations"]["2d"]


def test_a_card_of_a_zip_file_warns_of_another_dataset_of_this_number(home, out, tmp_path):
    assert main([*FOLD, "-o", str(tmp_path / "m.zip")]) == 0
    card = zipfile.ZipFile(tmp_path / "m.zip").read(f"{DATASET}/{MODEL}/MODEL_CARD.md").decode()
    assert "If you have another dataset with the number 801, do not install" in card
    assert "do not install" not in exported(out)


# ---- a cascade ----

CASCADE = f"{REFERENCE}__nnUNetPlans__2d_cascade"
STAGES = ["-d", DATASET, "-f", "0", "1", "-tr", REFERENCE, "-c"]


@pytest.fixture
def cascade(results) -> None:
    """A second stage that reads the predictions of 2d, in both folds; its new weights are noise."""
    shutil.copytree(results / f"{REFERENCE}__nnUNetPlans__2d", results / CASCADE)
    stages = {
        "2d_cascade": {"inherits_from": "2d_second"},
        "2d_second": {"inherits_from": "2d", "previous_stage": "2d"},
    }
    change(results / CASCADE / "plans.json", lambda plans: plans["configurations"].update(stages))
    for fold in (0, 1):
        content = torch.load(results / CASCADE / f"fold_{fold}" / FINAL, weights_only=False)
        content["init_args"]["configuration"] = "2d_cascade"
        for key, value in content["network_weights"].items():
            if value.ndim == 4 and value.shape[1] == 1:  # the first layer gets a channel for each of the three classes
                noise = torch.randn((len(value), 3, *value.shape[2:]), generator=torch.Generator().manual_seed(0))
                content["network_weights"][key] = torch.cat([value, noise], 1)
        torch.save(content, results / CASCADE / f"fold_{fold}" / FINAL)


def test_a_second_stage_is_not_exported_without_the_first(cascade, tmp_path, capsys):
    with pytest.raises(SystemExit):
        entry([*STAGES, "2d_cascade", "-o", str(tmp_path / "m.zip"), "--dry-run"])
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "2d_cascade: nnU-Net predicts it from predictions of 2d, so a colleague needs both" in said[0]
    assert said[0].endswith("export them into one zip file with -c 2d 2d_cascade -o NAME.zip")


def test_the_cards_commands_predict_with_a_cascade(cascade, home, tmp_path, monkeypatch):
    main([*STAGES, "2d_cascade", "2d", "-o", str(tmp_path / "m.zip")])
    card = zipfile.ZipFile(tmp_path / "m.zip").read(f"{DATASET}/{CASCADE}/MODEL_CARD.md").decode()
    assert "nnU-Net trains `2d_cascade` on predictions of `2d`: before the last command train `2d` in all folds" in card
    case = "lung_001_s00"
    (tmp_path / "IMAGES").mkdir()
    shutil.copy(home / "nnUNet_raw" / DATASET / "imagesTr" / f"{case}_0000.nii.gz", tmp_path / "IMAGES")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "installed"))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    run = {
        "nnUNetv2_predict": predict_entry_point,
        "nnUNetv2_install_pretrained_model_from_zip": install_from_zip_entry_point,
    }
    for words in map(shlex.split, commands(card)[1:4]):
        options = ["-device", "cpu", "-npp", "0", "-nps", "0"] if words[0] == "nnUNetv2_predict" else []
        monkeypatch.setattr(sys, "argv", [*words, *options])
        run[words[0]]()
    torch.set_num_threads(threads)
    first, second = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / f"{case}.nii.gz")))
        for name in ("PREVIOUS", "PREDICTIONS")
    )
    assert first.shape == second.shape
    assert (first != second).any()


def _without_record(path: Path) -> None:
    content = torch.load(path, weights_only=False)
    del content["init_args"]["difflung_cases"]
    torch.save(content, path)


def test_a_checkpoint_without_a_record_is_said_to_have_none(home, results, out):
    _without_record(results / MODEL / "fold_0" / FINAL)
    number = len(read_manifest(home / "nnUNet_raw" / DATASET)["cases"])
    unknown = "not on record"
    card = exported(out)
    assert table(card, "fold") == {"0": [unknown, f"{number} (difflung) (*)", unknown, "1 × 2"]}
    assert "(*) The checkpoint does not say" in card
    assert "Whether these patients were in its training is not on record." in card


def test_without_manifest_and_notes_numbers_are_not_invented(home, results, out):
    _without_record(results / MODEL / "fold_0" / FINAL)
    (results / MODEL / "fold_0" / "debug.json").unlink()
    for path in home.rglob("difflung_manifest.json"):
        path.unlink()
    card = exported(out, "--patient-pattern", "(lung_[0-9]+)_s[0-9]+")
    assert table(card, "fold") == {"0": ["not on record"] * 4}
    assert "Trained with PyTorch (not on record)" in card


def limits(card: str) -> list[str]:
    """The paragraphs on use and limits."""
    return card.split("## Use and limits\n\n")[1].split("\n\n## ")[0].split("\n\n")


def test_the_card_says_what_was_not_measured_and_what_synthetic_cases_are(home, out):
    first, not_measured, synthetic = limits(exported(out))
    assert first.startswith("For research only. This is not a medical device")
    assert not_measured.startswith("Not measured")
    assert "make sure that its owners" in not_measured
    assert synthetic.startswith("Synthetic cases are painted and add no new patients.")
    assert limits(exported(out, "-tr", REFERENCE, "--overwrite")) == [first, not_measured]


def test_the_reference_has_no_synthetic_cases(home, out):
    card = exported(out, "-tr", REFERENCE)
    assert table(card, "fold")["0"][1] == "none"
    assert "arm `reference`" in card


def test_a_validation_of_other_cases_is_refused(results, out):
    path = results / MODEL / "fold_0" / "validation" / "summary.json"
    change(path, lambda summary: summary["metric_per_case"].pop())
    with pytest.raises(BadInput, match=r"does not score the validation cases of fold 0 in .*_final\.pth: .* is not"):
        exported(out)
    assert not out.exists()


# ---- which trainers ----


def test_every_trainer_of_this_package_builds_nnunets_network(home):
    for arm in trainers.ARMS:
        check_trainer(arm.__name__)
        check_trainer(f"{arm.__name__}_5epochs")


def test_a_trainer_with_a_network_of_its_own_is_refused_by_name(home, out, monkeypatch):
    own = staticmethod(lambda *words, **options: nnUNetTrainer.build_network_architecture(*words, **options))
    monkeypatch.setattr(trainers.nnUNetTrainerDiffLung, "build_network_architecture", own)
    with pytest.raises(BadInput, match="nnUNetTrainerDiffLung builds a network of its own"):
        exported(out)


def test_weights_that_do_not_fit_the_plans_are_refused(results, out):
    def edit(plans):
        plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 8, 16]

    change(results / MODEL / "plans.json", edit)
    with pytest.raises(BadInput, match="fold 0 do not fit the network"):
        exported(out)
    assert not out.exists()
    assert list(out.parent.iterdir()) == []


# ---- what is refused ----


def _unfinished(results):
    (results / MODEL / "fold_0" / FINAL).rename(results / MODEL / "fold_0" / "checkpoint_latest.pth")


def _begun_anew(results):
    (results / MODEL / "fold_0" / "training_log_2099_1_1_00_00_00.txt").write_text("2099-01-01: Epoch 0 \n")


def _damaged(results):
    (results / MODEL / "fold_0" / FINAL).write_bytes(b"PK")


def _no_plans(results):
    (results / MODEL / "plans.json").unlink()


@pytest.mark.parametrize(
    ("fault", "words", "expected"),
    [
        (
            None,
            ["-tr", "nnUNetTrainerMine"],
            "-tr nnUNetTrainerMine is unknown.*nnUNetTrainerDiffLungReference.*" + MODEL,
        ),
        (None, ["-tr", "nnUNetTrainerDiffLungSpade", "-c", "2d"], "Spade.* is missing; choose with -tr.*" + MODEL),
        (
            None,
            ["--length", "7epochs"],
            "no training of nnUNetTrainerDiffLung_7epochs with -p nnUNetPlans.*"
            + MODEL
            + ".*, or train first, as in nnUNetv2_train 801 2d 0 -tr nnUNetTrainerDiffLung_7epochs$",
        ),
        (None, ["-tr", REFERENCE, "--length", "5epochs"], "names a length"),
        (None, ["-c", "3d_fullres"], "3d_fullres is missing.*has .*" + MODEL),
        (
            None,
            ["-p", "OtherPlans"],
            "no training of nnUNetTrainerDiffLung with -p OtherPlans; choose with -tr.*" + MODEL,
        ),
        (None, ["-f", "0", "3"], "fold_3 is missing.*nnUNetv2_train 801 2d 3 .*finished in .*: fold_0$"),
        (None, ["-f", "one"], "-f one is not a fold"),
        (None, ["-chk", "../x.pth"], "-chk ../x.pth is not the name of a checkpoint"),
        (
            None,
            ["-chk", "checkpoint_none.pth"],
            "checkpoint_none.pth is missing; -chk can be one of .*checkpoint_final",
        ),
        (None, ["-c", "2d", "3d_fullres"], "3d_fullres is missing"),
        (_unfinished, [], "this training is not finished: run nnUNetv2_train 801 2d 0 .* --c.*: none$"),
        (_begun_anew, [], "training_log_2099.* is of a training that is not finished"),
        (_damaged, [], "cannot be read as a checkpoint of nnU-Net"),
        (_no_plans, [], "plans.json is missing"),
    ],
)
def test_refusals_are_one_line_that_says_what_there_is(results, out, fault, words, expected, capsys):
    if fault:
        fault(results)
    with pytest.raises(SystemExit) as ended:
        entry([*FOLD, "-o", str(out), *words])
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2
    assert re.search(expected, said[-1]), said
    assert said[-1].startswith("Error: ")
    assert not out.exists()


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(results, out, monkeypatch, capsys):
    path, may = results / MODEL / "fold_0" / FINAL, os.access

    def denied(file, **_):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(torch, "load", denied)
    monkeypatch.setattr(os, "access", lambda file, mode: str(file) != str(path) and may(file, mode))
    with pytest.raises(SystemExit) as ended:
        entry([*FOLD, "-o", str(out)])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"Error: {path} cannot be read (Permission denied); make it readable for you")
    assert ended.value.code == 2


def test_several_configurations_do_not_fit_one_folder(results, out):
    shutil.copytree(results / MODEL, results / MODEL.replace("2d", "2d_again"))
    with pytest.raises(BadInput, match="a folder holds one configuration"):
        exported(out, "-c", "2d", "2d_again")
    with pytest.raises(BadInput, match="trainings of one configuration, .* 2d, 2d_again"):
        exported(out)


@pytest.mark.parametrize("name", ["model", "model.zip"])
def test_an_earlier_export_is_replaced_only_when_asked(home, tmp_path, name):
    out = tmp_path / name
    main([*FOLD, "-o", str(out)])
    before = tree_hashes(tmp_path)
    with pytest.raises(BadInput, match="exists already; give another name, or --overwrite"):
        main([*FOLD, "-tr", REFERENCE, "-o", str(out)])
    assert tree_hashes(tmp_path) == before
    main([*FOLD, "-tr", REFERENCE, "-o", str(out), "--overwrite"])
    assert {path.name for path in tmp_path.iterdir()} == {"home", name}
    if name == "model.zip":
        text = zipfile.ZipFile(out).read(f"{DATASET}/{REFERENCE}__nnUNetPlans__2d/MODEL_CARD.md").decode()
    else:
        text = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"Trainer `{REFERENCE}`" in text


@pytest.mark.parametrize("name", ["model", "model.zip"])
def test_an_export_that_fails_leaves_the_earlier_one(home, tmp_path, monkeypatch, name):
    out = tmp_path / name
    main([*FOLD, "-o", str(out)])
    before = tree_hashes(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        main([*FOLD, "-o", str(out), "--overwrite"])
    assert tree_hashes(tmp_path) == before


def test_an_export_that_cannot_be_put_in_place_leaves_the_earlier_one(home, tmp_path, monkeypatch):
    out, rename = tmp_path / "model", os.rename
    main([*FOLD, "-o", str(out)])
    before = tree_hashes(tmp_path)

    def full(source, target):
        if Path(target) == out and not Path(source).name.endswith("_earlier"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        main([*FOLD, "-o", str(out), "--overwrite"])
    assert tree_hashes(tmp_path) == before


def test_nothing_but_an_export_is_replaced(home, results, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    (tmp_path / "letter.zip").write_text("dear")
    before = tree_hashes(tmp_path)
    for out, expected in [
        (tmp_path / "letters", "letter.txt, which is no part of an exported model"),
        (results / MODEL, "which is no part of an exported model"),
        (tmp_path / "letters" / "letter.txt", "is a file; give the name of a folder"),
        (tmp_path / "letter.zip", "is no zip file"),
    ]:
        with pytest.raises(BadInput, match=expected):
            main([*FOLD, "-o", str(out), "--overwrite"])
    assert tree_hashes(tmp_path) == before


def test_other_zip_files_and_models_are_not_replaced(home, out, tmp_path):
    backup = tmp_path / "backup.zip"
    model = "Dataset801_X/model"
    for name in (f"{model}/dataset.json", "imagesTr/p1.nii.gz", f"{model}/letter.txt", f"{model}/MODEL_CARD.md"):
        with zipfile.ZipFile(backup, "a") as file:
            file.writestr(name, "dear")
        with pytest.raises(BadInput, match="is no zip file of an exported model"):
            main([*FOLD, "-o", str(backup), "--overwrite"])
    exported(out)
    (out / "MODEL_CARD.md").unlink()  # as a model that came from elsewhere
    before = tree_hashes(out)
    with pytest.raises(BadInput, match="has no MODEL_CARD.md, so it was not exported"):
        main([*FOLD, "-o", str(out), "--overwrite"])
    assert tree_hashes(out) == before


def test_a_validation_of_the_best_checkpoint_is_not_that_of_the_last(results, out):
    note = results / MODEL / "fold_0" / VALIDATED
    note.write_text(json.dumps({"checkpoint": FINAL}))
    assert "| class |" in exported(out)
    note.write_text(json.dumps({"checkpoint": "checkpoint_best.pth"}))
    card = exported(out, "--overwrite")
    assert "Fold 0: not on record; nnU-Net has not validated checkpoint_final.pth." in card
    assert "| class |" not in card


def test_an_empty_folder_is_filled(home, out):
    out.mkdir(parents=True)
    exported(out)
