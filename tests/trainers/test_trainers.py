"""Trainers on a tiny dataset, found and run through nnU-Net's own functions."""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

import nnunet_difflung
from nnunet_difflung import trainers
from nnunet_difflung.audit.preprocessed import Comparison
from nnunet_difflung.injection.leaks import Problem
from nnunet_difflung.injection.manifest import MANIFEST
from nnunet_difflung.methods import METHODS
from nnunet_difflung.patients.ids import UnknownPatients
from nnunet_difflung.trainers import case_record, training_cases
from tests.support import tiny_nnunet
from tests.support.tiny_nnunet import NAME, REAL, SPLITS

CHECKOUT = Path(__file__).resolve().parents[2]
SHIM = Path(nnunet_difflung.__file__).parent / "nnunet_ext"
SYNTHETIC = {
    f"difflung_{method}_{fold}": {"method": method, "fold": fold, "sources": [REAL[2]]}
    for method in METHODS
    for fold in (0, "all")
} | {"difflung_cbmat_1": {"method": "cbmat", "fold": 1, "sources": [REAL[2]]}}

# a trainer of three short epochs; DIE_AT_STEP kills its process there, without any chance to clean up
TINY_TRAINER = """
import os, signal
from nnunet_difflung.trainers import nnUNetTrainerDiffLung

class nnUNetTrainerTiny(nnUNetTrainerDiffLung):
    epochs = 3
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch, self.save_every = 7, 1, 1

    def train_step(self, batch):
        if self.lr_scheduler.last_epoch == int(os.environ.get("DIE_AT_STEP", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train_step(batch)

    def plot_network_architecture(self):
        pass
"""
RUN = """
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from tests.trainers.test_trainers import train
LocalLogger.plot_progress_png = lambda *_: None
train("nnUNetTrainerTiny")
"""


def train(name, go_on=False, fold=0):
    """What nnUNetv2_train does up to the final validation, on one thread of the CPU."""
    torch.set_num_threads(1)
    trainer = get_trainer_from_args(NAME, "2d", fold, name, continue_training=go_on, device=torch.device("cpu"))
    maybe_load_checkpoint(trainer, go_on, False)
    trainer.run_training()
    return trainer


def weights(trainer):
    return torch.cat([w.flatten() for w in trainer.network.state_dict().values()])


@pytest.fixture
def nnunet(tmp_path, monkeypatch):
    """nnU-Net's folders with the tiny dataset; yields the folder that holds them."""
    for variable in ("raw", "preprocessed", "results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "tiny_trainer.py").write_text(TINY_TRAINER)
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(SHIM), str(tmp_path / "trainers")]))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)
    tiny_nnunet.write_dataset(tmp_path / "preprocessed", SYNTHETIC)
    return tmp_path


def trainer_of(name, fold=0):
    return get_trainer_from_args(NAME, "2d", fold, name, device=torch.device("cpu"))


# ---- found by nnU-Net ----


@pytest.mark.parametrize("name", ["nnUNetTrainerDiffLung", "nnUNetTrainerDiffLungReference_250epochs"])
def test_nnunet_finds_the_trainer(nnunet, name):
    found = recursive_find_trainer_class_by_name(name)
    assert found is getattr(trainers, name)  # the very class of the package, not a copy
    assert not any(module.startswith("nnunet_difflung_trainers") for module in sys.modules)


def test_all_names_resolve_and_keep_nnunets_constructor():
    expected = list(inspect.signature(nnUNetTrainer.__init__).parameters)
    for name in trainers.__all__:
        cls = getattr(trainers, name)
        assert cls.__name__ == name
        assert list(inspect.signature(cls.__init__).parameters) == expected
    assert {f"nnUNetTrainerDiffLung{arm}_{n}epochs" for arm in ("", "Reference") for n in (5, 10, 20, 100, 250)} <= set(
        trainers.__all__
    )


def test_every_method_has_its_trainer_and_every_cyclic_trainer_its_method():
    trained = {arm.__name__: arm.method for arm in trainers.ARMS if arm.use_synthetic and arm.cyclic}
    assert trained == {method.trainer: name for name, method in METHODS.items()}


def test_length_variants_only_change_the_number_of_epochs(nnunet):
    assert trainer_of("nnUNetTrainerDiffLung").num_epochs == 1000
    twenty = trainer_of("nnUNetTrainerDiffLungReference_20epochs")
    assert (twenty.num_epochs, twenty.use_synthetic) == (20, False)
    assert "nnUNetTrainerDiffLungReference_20epochs__" in twenty.output_folder


def test_shim_is_empty_where_the_package_is_missing(tmp_path):
    code = (
        f"import runpy; print('found', [n for n in runpy.run_path({str(SHIM / 'nnunet_difflung_trainers.py')!r}) "
        f"if n.startswith('nnUNet')])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert done.stdout.strip() == "found []", done.stderr


# ---- which cases ----


@pytest.mark.parametrize(
    ("name", "fold", "synthetic"),
    [
        ("nnUNetTrainerDiffLung", 0, ["difflung_difflung_0"]),
        ("nnUNetTrainerDiffLung", 1, ["difflung_cbmat_1"]),  # no others: those of an earlier version or preset paper
        ("nnUNetTrainerDiffLungPoly", 1, ["difflung_cbmat_1"]),
        ("nnUNetTrainerDiffLungReference", 1, []),
        ("nnUNetTrainerDiffLungSegGuided", 0, ["difflung_mat_0"]),
        ("nnUNetTrainerDiffLungReference", 0, []),
        ("nnUNetTrainerDiffLungPoly", 0, ["difflung_difflung_0"]),
        ("nnUNetTrainerDiffLungReferencePoly", 0, []),
        *(
            (METHODS[method].trainer, 0, [f"difflung_{method}_0"])
            for method in ("cbmat", "none", "pix2pix", "spade", "copy_paste", "harmonise")
        ),
    ],
)
def test_split_holds_real_cases_and_this_arms_synthetic_ones(nnunet, name, fold, synthetic):
    tr_keys, val_keys = trainer_of(name, fold).do_split()
    assert sorted(tr_keys) == sorted(SPLITS[fold]["train"] + synthetic)
    assert val_keys == SPLITS[fold]["val"]


def test_fold_all_validates_on_real_cases_only(nnunet):
    tr_keys, val_keys = trainer_of("nnUNetTrainerDiffLung", "all").do_split()
    assert sorted(tr_keys) == sorted([*REAL, "difflung_difflung_all"])
    assert sorted(val_keys) == sorted(REAL)


def test_fold_all_does_not_depend_on_the_order_of_the_folder(nnunet, monkeypatch):
    backwards = [*sorted(REAL, reverse=True), "difflung_difflung_all"]
    monkeypatch.setattr(nnUNetDatasetBlosc2, "get_identifiers", lambda *_: list(backwards))
    assert trainer_of("nnUNetTrainerDiffLung", "all").do_split() == ([*REAL, "difflung_difflung_all"], REAL)


def test_synthetic_cases_never_reach_validation_even_if_the_split_lists_them(nnunet):
    path = nnunet / "preprocessed" / NAME / "splits_final.json"
    splits = json.loads(path.read_text())
    splits[0]["val"] += list(SYNTHETIC)
    path.write_text(json.dumps(splits))
    for name in ("nnUNetTrainerDiffLung", "nnUNetTrainerDiffLungReference"):
        assert trainer_of(name).do_split()[1] == SPLITS[0]["val"]


EVERY_KIND = [
    "nnUNetTrainerDiffLung",
    "nnUNetTrainerDiffLungReference",
    "nnUNetTrainerDiffLungReferencePoly_1epoch",
    "nnUNetTrainerDiffLungCopyPaste_5epochs",
]


def begin(name, fold=0, **options):
    """What nnU-Net does first in every way to start a trainer; unlike a training it ends if nothing is refused."""
    trainer = get_trainer_from_args(NAME, "2d", fold, name, device=torch.device("cpu"), **options)
    trainer.initialize()
    return trainer


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def base(nnunet):
    """The dataset's folder in nnUNet_preprocessed."""
    return nnunet / "preprocessed" / NAME


def raw_copy(nnunet, base):
    """A raw dataset that holds splits, dataset.json and manifest only."""
    raw = nnunet / "raw" / NAME
    raw.mkdir()
    for name in ("splits_final.json", "dataset.json", MANIFEST):
        shutil.copy(base / name, raw)
    return raw


def test_refuses_to_start_without_synthetic_cases_and_names_the_commands(nnunet):
    with pytest.raises(
        RuntimeError,
        match="difflung_augment -d Dataset942_Tiny -f 1 --method mat; then: "
        "nnUNetv2_preprocess -d 942 -plans_name nnUNetPlans -c 2d",
    ):
        begin("nnUNetTrainerDiffLungSegGuided", 1)


@pytest.mark.parametrize(
    ("case", "kind"),
    [("difflung_difflung_0", "synthetic"), (REAL[3], "real training"), (REAL[0], "validation")],
)
def test_refuses_to_start_when_a_case_is_not_preprocessed(base, case, kind):
    (base / "nnUNetPlans_2d" / f"{case}.b2nd").unlink()
    with pytest.raises(RuntimeError, match=f"1 of the . {kind} cases.*{case}.*nnUNetv2_preprocess"):
        begin("nnUNetTrainerDiffLung")


def test_refuses_a_configuration_that_is_not_preprocessed(base):
    shutil.rmtree(base / "nnUNetPlans_2d")
    with pytest.raises(RuntimeError, match="holds no case; run nnUNetv2_preprocess -d 942 -plans_name nnUNetPlans -c"):
        begin("nnUNetTrainerDiffLungReference")


@pytest.mark.parametrize("name", EVERY_KIND)
def test_every_arm_refuses_when_a_validation_patient_leaked(base, name):
    def leak(manifest):
        manifest["cases"]["difflung_difflung_0"]["sources"] = [REAL[0]]

    change(base / MANIFEST, leak)
    with pytest.raises(RuntimeError, match="difflung_difflung_0 was made from.*difflung_audit -d Dataset942_Tiny"):
        begin(name)


def test_the_first_step_of_a_training_refuses_too(base):
    change(base / MANIFEST, lambda manifest: manifest["cases"]["difflung_difflung_0"].update(sources=[REAL[0]]))
    with pytest.raises(RuntimeError, match="difflung_difflung_0 was made from"):
        trainer_of("nnUNetTrainerDiffLungReference").on_train_start()


def _slice_moved(splits):
    splits[0]["train"].append(splits[0]["val"].pop(0))


def _slice_on_both_sides(splits):
    splits[0]["train"].append(splits[0]["val"][0])


def _synthetic_in_validation(splits):
    splits[0]["val"].append("difflung_difflung_0")


@pytest.mark.parametrize("name", EVERY_KIND)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_slice_moved, "same patients in training and validation: patient0"),
        (_slice_on_both_sides, "same patients in training and validation: patient0"),
        (_synthetic_in_validation, "validates on the synthetic case difflung_difflung_0"),
    ],
)
def test_every_arm_refuses_splits_that_leak(base, name, fault, message):
    change(base / "splits_final.json", fault)
    with pytest.raises(RuntimeError, match=message):
        begin(name)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_every_arm_refuses_a_fold_beyond_the_split(base, name):
    with pytest.raises(RuntimeError, match=r"fold 2 is not in .*splits_final.json, which has 2 folds, 0 to 1"):
        begin(name, 2)
    with pytest.raises(RuntimeError, match="fold 2 is not in"):
        trainer_of(name, 2).do_split()


@pytest.mark.parametrize("name", EVERY_KIND)
def test_every_arm_refuses_a_lost_split_file_with_a_remedy_that_works(nnunet, base, name):
    raw = raw_copy(nnunet, base)
    (raw / "imagesTr").mkdir()
    (raw / "labelsTr").mkdir()
    lost = base / "splits_final.json"
    lost.unlink()
    with pytest.raises(RuntimeError, match="splits_final.json is missing") as refusal:
        begin(name)
    assert not lost.exists()  # nnU-Net has made none
    command = re.search(r"cp \S+ \S+$", str(refusal.value))[0]
    subprocess.run(command.split(), check=True)
    assert trainer_of(name).do_split()[1] == SPLITS[0]["val"]


def test_a_lost_split_file_is_refused_without_the_raw_dataset_too(base):
    (base / "splits_final.json").unlink()
    with pytest.raises(RuntimeError, match="new folds over real and synthetic cases; .*difflung_remove"):
        begin("nnUNetTrainerDiffLungReference")


def test_arrays_of_removed_synthetic_cases_join_no_new_folds(base):
    (base / "splits_final.json").unlink()
    (base / MANIFEST).unlink()
    with pytest.raises(RuntimeError, match="no longer in the dataset; run nnUNetv2_preprocess -d 942"):
        begin("nnUNetTrainerDiffLungReference")


@pytest.mark.parametrize("content", ["{", "[]", '[{"train": ["a"]}]', '[{"train": ["a"], "val": 3}]'])
def test_a_damaged_split_file_is_refused(base, content):
    (base / "splits_final.json").write_text(content)
    with pytest.raises(RuntimeError, match=r"is not a split file; .* restore it from a copy"):
        begin("nnUNetTrainerDiffLungReference")


def test_splits_that_differ_from_the_raw_ones_are_refused(nnunet, base):
    raw = raw_copy(nnunet, base)
    change(raw / "splits_final.json", lambda splits: splits[1]["train"].pop(0))
    with pytest.raises(RuntimeError, match="differs from the raw splits_final.json in fold 1"):
        begin("nnUNetTrainerDiffLungReference")


def test_reference_trains_on_a_dataset_that_was_never_augmented(base):
    (base / MANIFEST).unlink()
    (base / "splits_final.json").write_text(json.dumps(SPLITS))
    trainer = begin("nnUNetTrainerDiffLungReference")
    assert sorted(trainer.do_split()[0]) == sorted(SPLITS[0]["train"])


@pytest.fixture
def never_augmented(base):
    """The dataset without manifest, splits and synthetic cases: nnU-Net will draw folds of slices."""
    for path in (base / MANIFEST, base / "splits_final.json", *(base / "nnUNetPlans_2d").glob("difflung_*")):
        path.unlink()


def test_nnunets_own_folds_are_refused_if_the_ids_say_that_they_cut_patients(never_augmented):
    with pytest.raises(
        RuntimeError,
        match="trains on other cases of the same patients; delete .*splits_final.json and run difflung_augment",
    ):
        begin("nnUNetTrainerDiffLungReference")


def test_reference_takes_nnunets_own_folds_if_the_patients_are_not_known(never_augmented, monkeypatch):
    def unknown(*_):
        raise UnknownPatients("ambiguous")

    monkeypatch.setattr(training_cases, "find_reading", unknown)
    training, validation = begin("nnUNetTrainerDiffLungReference").do_split()
    assert sorted(training + validation) == sorted(REAL)


@pytest.mark.parametrize("fault", ["a case is missing", "no JSON"])
def test_patients_that_are_stated_with_a_fault_are_not_taken_as_unknown(nnunet, base, never_augmented, fault):
    (base / "splits_final.json").write_text(json.dumps(SPLITS))
    (nnunet / "raw" / NAME).mkdir()
    text = json.dumps(dict.fromkeys(REAL[:-1], "the same"))
    (nnunet / "raw" / NAME / "patients.json").write_text(text if fault == "a case is missing" else text[:-9])
    with pytest.raises(RuntimeError, match=r"patients\.json"):
        begin("nnUNetTrainerDiffLungReference")


def test_patients_stated_beside_a_dataset_that_was_never_augmented_count(nnunet, base, never_augmented):
    (base / "splits_final.json").write_text(json.dumps(SPLITS))
    begin("nnUNetTrainerDiffLungReference")
    (nnunet / "raw" / NAME).mkdir()
    stated = {case: "the same" if case in (REAL[0], REAL[2]) else case for case in REAL}
    (nnunet / "raw" / NAME / "patients.json").write_text(json.dumps(stated))
    with pytest.raises(RuntimeError, match="fold 0 validates on patient0_s0 and trains on other cases"):
        begin("nnUNetTrainerDiffLungReference")


def test_fold_all_is_checked_too(base):
    assert begin("nnUNetTrainerDiffLung", "all").do_split()[0][-1] == "difflung_difflung_all"
    change(base / "splits_final.json", _slice_moved)
    with pytest.raises(RuntimeError, match="same patients in training and validation"):
        begin("nnUNetTrainerDiffLung", "all")


@pytest.mark.parametrize("name", ["nnUNetTrainerDiffLung", "nnUNetTrainerDiffLungReference"])
def test_fold_all_does_not_train_on_arrays_of_a_case_that_left_the_dataset(base, name):
    tiny_nnunet.write_case(base / "nnUNetPlans_2d", "patient9_s0", 50)
    begin(name, 0)
    with pytest.raises(RuntimeError, match=rf"holds 1 case not in {MANIFEST} \(patient9_s0\).* run nnUNetv2_pre"):
        begin(name, "all")


def test_fold_all_of_a_dataset_that_was_never_augmented_has_the_cases_of_its_split_file(base, never_augmented):
    tiny_nnunet.write_case(base / "nnUNetPlans_2d", "patient9_s0", 50)
    begin("nnUNetTrainerDiffLungReference", "all")  # nothing says which cases there are
    (base / "splits_final.json").write_text(json.dumps(SPLITS))
    with pytest.raises(RuntimeError, match=r"holds 1 case not in .*splits_final.json \(patient9_s0\)"):
        begin("nnUNetTrainerDiffLungReference", "all")


@pytest.mark.parametrize(
    ("name", "synthetic"),
    [("nnUNetTrainerDiffLungReference", set()), ("nnUNetTrainerDiffLung", {"difflung_difflung_0"})],
)
def test_arrays_of_something_else_are_refused(base, monkeypatch, name, synthetic):
    asked = []

    def compare(*arguments, **_):
        asked.extend(arguments)
        return Comparison((Problem("other arrays; run nnUNetv2_preprocess"),))

    monkeypatch.setattr(training_cases, "compare_preprocessed", compare)
    with pytest.raises(RuntimeError, match="other arrays; run nnUNetv2_preprocess"):
        begin(name)
    assert asked == [NAME, base / "nnUNetPlans_2d", {*REAL, *synthetic}]


def test_what_could_not_be_checked_is_in_the_log(base, capsys):
    begin("nnUNetTrainerDiffLungReference")
    assert (
        "the raw dataset is not here, so the preprocessed arrays were not compared with it" in capsys.readouterr().out
    )


# ---- a fold without synthetic cases ----


@pytest.mark.parametrize("name", ["nnUNetTrainerDiffLungSegGuided", "nnUNetTrainerDiffLungSegGuided_5epochs"])
def test_a_fold_whose_targets_are_met_trains_as_the_reference_and_says_so(base, capsys, name):
    summary = {"injected": 0, "planned": 0, "targets": {"ILD": 0.1}, "voxels_before": {"lung": 90, "ILD": 10}}
    change(base / MANIFEST, lambda manifest: manifest["runs"].append({"method": "mat", "fold": 1, "summary": summary}))
    training, validation = begin(name, 1).do_split()
    assert (training, validation) == (SPLITS[1]["train"], SPLITS[1]["val"])
    said = capsys.readouterr().out
    assert "every class has its target share there: this training has real cases only" in said
    assert name.replace("SegGuided", "Reference") in said
    assert "WARNING" not in said


@pytest.mark.parametrize(
    ("summary", "why"),
    [
        ({"planned": 12}, "none of the 12 planned cases was kept (excluded by a reader or dropped)"),
        ({"targets": {"ILD": 0.25}}, "classes are below their target shares there (ILD 10.0% of 25.0%)"),
        ({"targets": {}}, "no pathology was to be painted"),
        ({"targets": None}, "why is not on record"),
    ],
)
def test_an_arm_without_the_cases_that_it_should_have_had_is_no_silent_reference(base, capsys, summary, why):
    summary = {"injected": 0, "planned": 0, "targets": {}, "voxels_before": {"lung": 90, "ILD": 10}} | summary
    change(base / MANIFEST, lambda manifest: manifest["runs"].append({"method": "mat", "fold": 1, "summary": summary}))
    begin("nnUNetTrainerDiffLungSegGuided", 1)
    said = capsys.readouterr().out
    assert "target share there:" not in said
    assert "WARNING: difflung_augment added no case of method 'mat' to fold 1, since" in said
    assert f"{why}: this training has real cases only" in said


@pytest.mark.parametrize("epochs", [50, 20])
def test_the_reference_that_a_message_names_exists(epochs):
    derived = type("nnUNetTrainerOfAUser", (trainers.nnUNetTrainerDiffLung,), {"epochs": epochs})
    expected = {50: "nnUNetTrainerDiffLungReference", 20: "nnUNetTrainerDiffLungReference_20epochs"}
    assert derived.reference_name() == expected[epochs]
    assert derived.reference_name() in trainers.__all__


def test_a_run_whose_cases_are_lost_is_no_fold_whose_targets_are_met(base):
    run = {"method": "mat", "fold": 1, "summary": {"injected": 3}}
    change(base / MANIFEST, lambda manifest: manifest["runs"].append(run))
    with pytest.raises(RuntimeError, match="no synthetic cases of method 'mat' for fold 1. Run: difflung_augment"):
        begin("nnUNetTrainerDiffLungSegGuided", 1)


# ---- a fold with cases of an earlier version, or of preset paper ----

CASES_OF_CBMAT = "Fold 1 has no synthetic cases of method 'difflung', so this training has those of 'cbmat'"


@pytest.mark.parametrize("name", ["nnUNetTrainerDiffLung_5epochs", "nnUNetTrainerDiffLungPoly"])
def test_a_fold_with_cases_of_cbmat_alone_trains_on_them_and_says_so(base, capsys, name):
    trainer = begin(name, 1)
    said = capsys.readouterr().out
    assert said.count(CASES_OF_CBMAT) == 1
    assert CASES_OF_CBMAT in Path(trainer.log_file).read_text()
    assert trainer.my_init_kwargs[case_record.KEY]["synthetic"] == ["difflung_cbmat_1"]
    trainer._save_debug_information()
    notes = json.loads((Path(trainer.output_folder) / "debug.json").read_text())
    assert notes["method"] == "cbmat", "difflung_compare reads it there"
    assert trainer_of(name, 0).method == "difflung"


def test_a_fold_with_cases_of_both_methods_says_nothing_and_notes_its_method(base, capsys):
    trainer = begin("nnUNetTrainerDiffLung")
    trainer._save_debug_information()
    assert json.loads((Path(trainer.output_folder) / "debug.json").read_text())["method"] == "difflung"
    begin("nnUNetTrainerDiffLungCBMAT")
    assert "has no synthetic cases" not in capsys.readouterr().out


def _without_cases(base, *runs):
    """Takes fold 1's synthetic case away, and records runs in their place."""

    def edit(manifest):
        del manifest["cases"]["difflung_cbmat_1"]
        manifest["runs"] = [run for run in manifest["runs"] if run["fold"] != 1] + list(runs)

    change(base / MANIFEST, edit)
    change(base / "splits_final.json", lambda splits: splits[1]["train"].remove("difflung_cbmat_1"))


@pytest.mark.parametrize("method", ["difflung", "cbmat"])
def test_a_fold_that_needed_no_case_trains_on_real_ones_whichever_method_found_that(base, capsys, method):
    _without_cases(base, {"method": method, "fold": 1, "summary": {"injected": 0}})
    assert begin("nnUNetTrainerDiffLung", 1).do_split()[0] == SPLITS[1]["train"]
    assert f"difflung_augment added no case of method '{method}' to fold 1" in capsys.readouterr().out


def test_cases_of_cbmat_are_not_taken_where_difflung_found_that_none_are_needed(base, capsys):
    needless = {"method": "difflung", "fold": 1, "summary": {"injected": 0}}
    change(base / MANIFEST, lambda manifest: manifest["runs"].append(needless))
    assert begin("nnUNetTrainerDiffLung", 1).do_split()[0] == SPLITS[1]["train"]
    assert "difflung_augment added no case of method 'difflung' to fold 1" in capsys.readouterr().out


def test_a_fold_without_any_cases_is_told_to_run_the_default_method(base):
    _without_cases(base)
    with pytest.raises(RuntimeError, match="no synthetic cases of method 'difflung' for fold 1. Run: .*--method diffl"):
        begin("nnUNetTrainerDiffLung", 1)
    with pytest.raises(RuntimeError, match="no synthetic cases of method 'cbmat' for fold 1. Run: .*--method cbmat"):
        begin("nnUNetTrainerDiffLungCBMAT", 1)


# ---- the cascade ----


@pytest.fixture
def cascade(base):
    """Plans in which 2d is the second stage of a cascade."""

    def extend(plans):
        configurations = plans["configurations"]
        configurations["low"] = configurations["2d"] | {"next_stage": "2d"}
        configurations["2d"]["previous_stage"] = "low"

    change(base / "nnUNetPlans.json", extend)


def test_the_cascade_is_refused_at_once_with_what_to_train_instead(cascade):
    with pytest.raises(
        RuntimeError, match="synthetic cases have none.*3d_fullres or low.*-tr nnUNetTrainerDiffLungRef"
    ):
        begin("nnUNetTrainerDiffLung")


def test_the_reference_says_which_stage_is_missing(cascade, base, nnunet):
    with pytest.raises(
        RuntimeError, match="6 cases have no segmentation by low .*train low with -tr nnUNetTrainerDiff"
    ):
        begin("nnUNetTrainerDiffLungReference")
    model = nnunet / "results" / NAME / "nnUNetTrainerDiffLungReference__nnUNetPlans__low"
    shutil.copytree(base / "nnUNetPlans_2d", model / "predicted_next_stage" / "2d")
    begin("nnUNetTrainerDiffLungReference")


# ---- continued, validated, pretrained ----


def trained(name="nnUNetTrainerDiffLung", fold=0):
    """A trainer that has saved its checkpoint as if it were trained."""
    trainer = begin(name, fold)
    trainer.save_checkpoint(os.path.join(trainer.output_folder, "checkpoint_final.pth"))
    return trainer


def resumed(name="nnUNetTrainerDiffLung", go_on=True, fold=0):
    """The trainer after nnU-Net has loaded the checkpoint for ``--c`` or ``--val``."""
    trainer = get_trainer_from_args(NAME, "2d", fold, name, continue_training=go_on, device=torch.device("cpu"))
    maybe_load_checkpoint(trainer, go_on, not go_on)
    return trainer


def _case_moved(base):
    change(base / "splits_final.json", lambda splits: splits[0]["train"].remove(REAL[3]))


def _augmented_again(base):
    def rename(manifest):
        manifest["cases"]["difflung_difflung_new"] = manifest["cases"].pop("difflung_difflung_0")

    change(base / MANIFEST, rename)
    change(
        base / "splits_final.json", lambda s: s[0]["train"].__setitem__(s[0]["train"].index("difflung_difflung_0"), NEW)
    )
    for path in (base / "nnUNetPlans_2d").glob("difflung_difflung_0*"):
        path.rename(path.with_name(path.name.replace("_0", "_new")))


NEW = "difflung_difflung_new"


@pytest.mark.parametrize("go_on", [True, False], ids=["--c", "--val"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_case_moved, f"{REAL[3]} no longer among the real training cases"),
        (
            _augmented_again,
            "difflung_difflung_0 no longer among .*difflung_difflung_new new among the synthetic training",
        ),
    ],
)
def test_a_training_is_not_continued_or_validated_with_other_cases(base, fault, message, go_on):
    trained()
    resumed(go_on=go_on)
    fault(base)
    with pytest.raises(RuntimeError, match=f"trained with other cases: .*{message}.* Train anew without --c and --val"):
        resumed(go_on=go_on)


def _cases_of_difflung_come(base, fold=0):
    """What a later difflung_augment with the default method adds to a fold with cases of cbmat."""
    new = f"difflung_difflung_{fold}"
    case = {"files": [], "method": "difflung", "fold": fold, "sources": [REAL[2]]}
    change(
        base / MANIFEST, lambda m: (m["cases"].update({new: case}), m["runs"].append({k: case[k] for k in RUN_KEYS}))
    )
    change(base / "splits_final.json", lambda splits: splits[fold]["train"].append(new))
    tiny_nnunet.write_case(base / "nnUNetPlans_2d", new, 99)


RUN_KEYS = ("method", "fold")


@pytest.mark.parametrize("go_on", [True, False], ids=["--c", "--val"])
@pytest.mark.parametrize("name", ["nnUNetTrainerDiffLung", "nnUNetTrainerDiffLung_5epochs"])
def test_a_training_on_cases_of_cbmat_goes_on_and_moves_if_those_of_difflung_come(base, name, go_on):
    before = trained(name, 1)
    assert resumed(name, go_on, 1).do_split() == before.do_split()
    _cases_of_difflung_come(base, 1)
    with pytest.raises(RuntimeError, match="with other cases: .*difflung_difflung_1 new among the synth") as refusal:
        resumed(name, go_on, 1)
    message = str(refusal.value)
    assert "\n" not in message
    assert "Its cases are all still there: those of 'cbmat'" in message
    command, trainer = re.search(r"(mkdir -p .*); then use -tr (\w+)$", message).groups()
    model = Path(before.output_folder).parent
    (model / "plans.json").write_text("{}")  # nnU-Net writes it when a training starts, which this one did not
    subprocess.run(command, shell=True, check=True)
    assert (model.with_name(model.name.replace("DiffLung", "DiffLungCBMAT", 1)) / "plans.json").is_file()
    assert trainer == name.replace("DiffLung", "DiffLungCBMAT")
    assert resumed(trainer, go_on, 1).do_split() == before.do_split()
    if go_on:
        assert begin(name, 1).do_split()[0][-1] == "difflung_difflung_1", "a new training has the new cases"


def test_a_training_whose_cases_of_cbmat_have_changed_too_cannot_be_moved(base):
    trained(fold=1)
    _cases_of_difflung_come(base, 1)
    change(base / "splits_final.json", lambda splits: splits[1]["train"].remove(REAL[0]))
    with pytest.raises(RuntimeError, match=r"or restore the splits and cases that it was trained with$"):
        resumed(fold=1)


def test_a_validation_of_the_best_checkpoint_after_cases_were_removed_says_so(base):
    trainer = trained()
    change(base / MANIFEST, lambda manifest: manifest["cases"].pop("difflung_difflung_0"))
    with pytest.raises(RuntimeError, match=r"removed from Dataset942_Tiny since .* \(difflung_difflung_0\).* --val$"):
        trainer.load_checkpoint(os.path.join(trainer.output_folder, "checkpoint_final.pth"))


def test_other_contents_of_the_same_cases_are_other_cases(base, monkeypatch):
    names = (*REAL, *SYNTHETIC)
    contents = {name: {f"imagesTr/{name}_0000.nii.gz": sha256(name.encode()).hexdigest()} for name in names}
    monkeypatch.setattr(case_record, "_contents", lambda *_: contents)
    trained()
    resumed()
    contents[REAL[0]], contents[REAL[2]] = contents[REAL[2]], contents[REAL[0]]
    with pytest.raises(
        RuntimeError, match="files of the real training cases have other.*files of the validation cases"
    ):
        resumed()


def test_a_checkpoint_of_an_earlier_version_is_continued_and_says_what_was_not_compared(base, capsys):
    trainer = begin("nnUNetTrainerDiffLung")
    del trainer.my_init_kwargs[case_record.KEY]
    trainer.save_checkpoint(os.path.join(trainer.output_folder, "checkpoint_latest.pth"))
    again = resumed()
    assert "The checkpoint does not say which cases it was trained on" in capsys.readouterr().out
    assert again.my_init_kwargs[case_record.KEY]["validation"] == sorted(SPLITS[0]["val"])


def test_the_validation_has_the_cases_of_the_trainings_beginning(base):
    trainer = begin("nnUNetTrainerDiffLung")
    before = trainer.do_split()
    change(base / "splits_final.json", lambda splits: splits.reverse())
    assert trainer.do_split() == before


def test_pretrained_weights_that_have_seen_the_validation_cases_are_warned_of(base, monkeypatch, capsys):
    weights_of_fold_1 = begin("nnUNetTrainerDiffLungReference", 1)
    path = os.path.join(weights_of_fold_1.output_folder, "checkpoint_final.pth")
    weights_of_fold_1.save_checkpoint(path)
    argv = ["nnUNetv2_train", "942", "2d", "0", "-pretrained_weights", path, "-p", "nnUNetPlans"]
    monkeypatch.setattr(sys, "argv", argv)
    capsys.readouterr()
    begin("nnUNetTrainerDiffLungReference", 0)
    assert "patients of 2 of the 2 validation cases of this fold (first: patient0_s0)" in capsys.readouterr().out
    begin("nnUNetTrainerDiffLungReference", 1)
    assert "WARNING" not in capsys.readouterr().out


def saved(trainer, name="checkpoint_final.pth") -> str:
    path = os.path.join(trainer.output_folder, name)
    trainer.save_checkpoint(path)
    return path


def begun_with(weights: str, monkeypatch, fold: int):
    argv = ["nnUNetv2_train", "942", "2d", str(fold), "-pretrained_weights", weights, "-p", "nnUNetPlans"]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        return begin("nnUNetTrainerDiffLungReference", fold)


def test_weights_of_weights_that_have_seen_the_validation_patients_are_warned_of_too(base, monkeypatch, capsys):
    of_fold_1 = saved(begin("nnUNetTrainerDiffLungReference", 1))
    again_fold_1 = saved(begun_with(of_fold_1, monkeypatch, 1), "checkpoint_latest.pth")
    assert "WARNING" not in capsys.readouterr().out
    in_between = saved(begun_with(again_fold_1, monkeypatch, 0))
    assert "was trained on patients of 2 of the 2 validation cases" in capsys.readouterr().out
    record = torch.load(in_between, weights_only=False)["init_args"][case_record.KEY]
    assert record["pretrained"]["complete"]
    assert set(record["pretrained"]["cases"]) >= set(SPLITS[0]["val"])
    third = begun_with(in_between, monkeypatch, 0)
    assert "was trained on patients of 2 of the 2 validation cases" in capsys.readouterr().out
    assert third.pretrained == "validation patients"


def test_equal_ids_of_another_dataset_are_no_certain_leak(base, monkeypatch, capsys):
    weights = saved(begin("nnUNetTrainerDiffLungReference", 1))
    content = torch.load(weights, weights_only=False)
    content["init_args"]["plans"]["dataset_name"] = "Dataset900_Other"  # it numbers its cases in the same way
    torch.save(content, weights)
    trainer = begun_with(weights, monkeypatch, 0)
    assert trainer.pretrained == "unknown"
    said = capsys.readouterr().out
    assert "does not say which cases" in said
    assert "was trained on patients of" not in said
    assert trainer.my_init_kwargs[case_record.KEY]["pretrained"] == {"cases": [], "complete": False}


def test_other_slices_of_a_validation_patient_are_the_patient(base, monkeypatch, capsys):
    earlier = begin("nnUNetTrainerDiffLungReference", 1)
    earlier.my_init_kwargs[case_record.KEY]["real"] = ["patient0_s77"]  # of an earlier version of the dataset
    begun_with(saved(earlier), monkeypatch, 0)
    assert "was trained on patients of" in capsys.readouterr().out


def test_weights_that_python_gave_a_new_training_are_of_unknown_origin(nnunet, monkeypatch, capsys):
    trainer = short("nnUNetTrainerDiffLungReference", monkeypatch)
    trainer.initialize()
    with torch.no_grad():
        next(trainer.network.parameters()).add_(0.1)  # as load_pretrained_weights does
    trainer.on_train_start()
    assert "does not say which cases it was trained on" in capsys.readouterr().out
    assert trainer.my_init_kwargs[case_record.KEY]["pretrained"] == {"cases": [], "complete": False}
    assert json.loads((Path(trainer.output_folder) / "debug.json").read_text())["pretrained"] == "unknown"


def test_sums_of_weights_need_no_float64_of_the_device(base, monkeypatch):
    """Apple's MPS has none."""

    class OnMPS:
        def detach(self):
            return self

        def cpu(self):
            return torch.ones(3)

        def double(self):
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )

    def with_such_a_network(self):
        self.network = SimpleNamespace(parameters=lambda: [OnMPS()])

    monkeypatch.setattr(nnUNetTrainer, "initialize", with_such_a_network)
    assert begin("nnUNetTrainerDiffLungReference")._fresh == [3.0]


def test_a_continued_training_keeps_what_its_first_weights_had_seen(base, monkeypatch):
    of_fold_1 = saved(begin("nnUNetTrainerDiffLungReference", 1))
    saved(begun_with(of_fold_1, monkeypatch, 0), "checkpoint_latest.pth")
    again = resumed("nnUNetTrainerDiffLungReference")
    assert again.pretrained == "validation patients"
    assert "pretrained" in again.my_init_kwargs[case_record.KEY]


SEVERAL = """
import os, sys, time, types, datetime, torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from nnunet_difflung.trainers.nnUNetTrainerDiffLung import nnUNetTrainerDiffLung
rank = int(sys.argv[1])
store = distributed.FileStore(sys.argv[2], 2)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=3))
trainer = types.SimpleNamespace(is_ddp=True, local_rank=rank)
if rank == 0:
    time.sleep(9)  # the checks of a large dataset
nnUNetTrainerDiffLung._wait_for_checks(trainer)
DistributedDataParallel(torch.nn.Linear(2, 2))
"""


def test_other_processes_wait_for_the_checks_of_the_first_longer_than_for_each_other(tmp_path):
    words = [sys.executable, "-c", SEVERAL]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
    started = [subprocess.Popen([*words, rank, str(tmp_path / "store")], env=environment) for rank in "01"]
    assert [process.wait(300) for process in started] == [0, 0]


# ---- training ----


@pytest.mark.parametrize(("text", "threads"), [("1", [1]), ("0", []), ("²", []), ("4,2", []), ("", [])])
def test_a_number_of_threads_is_respected_and_anything_else_is_ignored(nnunet, monkeypatch, text, threads):
    asked = []
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    monkeypatch.setattr(nnUNetTrainer, "__init__", lambda *_: None)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    trainers.nnUNetTrainerDiffLung({}, "2d", 0, {}, torch.device("cpu"))
    assert asked == threads


def test_killed_training_continues_to_the_same_bits(nnunet):
    search = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    environment = dict(os.environ, DIE_AT_STEP="17", PYTHONPATH=search)  # in the third of three epochs of seven steps
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    folder = nnunet / "results" / NAME / "nnUNetTrainerTiny__nnUNetPlans__2d" / "fold_0"
    assert (folder / "checkpoint_latest.pth").is_file()
    assert not (folder / "checkpoint_final.pth").exists()
    continued = train("nnUNetTrainerTiny", go_on=True)
    (nnunet / "results").rename(nnunet / "first")
    (nnunet / "results").mkdir()
    straight = train("nnUNetTrainerTiny")
    assert torch.equal(weights(continued), weights(straight))
    for history in ("lrs", "train_losses", "val_losses"):
        assert continued.logger.get_value(history, None) == straight.logger.get_value(history, None)
    trough = straight.trough_share * straight.peak
    assert straight.optimizer.param_groups[0]["lr"] == pytest.approx(trough, rel=1e-3)
    first = nnunet / "first" / folder.relative_to(nnunet / "results")
    assert not list(first.glob("*.tmp"))
    saved = torch.load(first / "checkpoint_final.pth", weights_only=False)
    slow = [state["slow"] for state in saved["optimizer_state"]["state"].values()]
    assert any(torch.equal(slow[0], w) for w in saved["network_weights"].values())  # the checkpoint's are the slow ones


def test_a_checkpoint_that_breaks_off_leaves_the_one_before(base, monkeypatch):
    trainer = begin("nnUNetTrainerDiffLungReference")
    trainer.current_epoch = 4
    path = saved(trainer, "checkpoint_latest.pth")

    def broken_off(content, file):
        Path(file).write_bytes(Path(path).read_bytes()[:1000])
        raise OSError("No space left on device")

    trainer.current_epoch = 5
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", broken_off)
        with pytest.raises(OSError, match="No space left"):
            saved(trainer, "checkpoint_latest.pth")
    assert resumed("nnUNetTrainerDiffLungReference").current_epoch == 5  # epochs that were done


def test_initial_weights_follow_the_seed_and_are_the_same_in_all_arms(nnunet, monkeypatch):
    def fresh(name, seed, fold=0):
        monkeypatch.setenv("DIFFLUNG_SEED", str(seed))
        trainer = trainer_of(name, fold)
        trainer.initialize()
        return weights(trainer)

    one = fresh("nnUNetTrainerDiffLung", 1)
    state = torch.get_rng_state()
    assert torch.equal(one, fresh("nnUNetTrainerDiffLungReference", 1))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(one, fresh("nnUNetTrainerDiffLung", 2))
    assert not torch.equal(one, fresh("nnUNetTrainerDiffLung", 1, fold=1))


def short(name, monkeypatch, go_on=False):
    """An arm with three epochs of four steps, not run yet."""
    monkeypatch.setattr(getattr(trainers, name), "epochs", 3)
    torch.set_num_threads(1)
    trainer = get_trainer_from_args(NAME, "2d", 0, name, continue_training=go_on, device=torch.device("cpu"))
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch, trainer.save_every = 4, 1, 1
    trainer.plot_network_architecture = lambda: None
    maybe_load_checkpoint(trainer, go_on, False)
    return trainer


@pytest.mark.parametrize("name", ["nnUNetTrainerDiffLungPoly", "nnUNetTrainerDiffLungReferencePoly"])
def test_poly_arms_take_nnunets_optimizer_and_rates_in_every_iteration(nnunet, monkeypatch, name):
    trainer, rates = short(name, monkeypatch), []
    step = nnUNetTrainer.train_step

    def recorded(self, batch):
        rates.append(self.optimizer.param_groups[0]["lr"])
        return step(self, batch)

    monkeypatch.setattr(nnUNetTrainer, "train_step", recorded)
    trainer.run_training()
    assert type(trainer.optimizer) is torch.optim.SGD
    assert type(trainer.lr_scheduler) is PolyLRScheduler
    poly = [0.01 * (1 - epoch / 3) ** 0.9 for epoch in range(3)]
    assert trainer.logger.get_value("lrs", None) == pytest.approx(poly)
    assert rates == pytest.approx([rate for rate in poly for _ in range(4)])
    assert trainer.weight_decay == 3e-5
    assert trainer.optimizer.defaults["momentum"] == 0.99


def test_a_poly_arm_continues_from_its_checkpoint_to_the_same_bits(nnunet, monkeypatch):
    name = "nnUNetTrainerDiffLungPoly"
    straight = short(name, monkeypatch)
    straight.run_training()
    (nnunet / "results").rename(nnunet / "first")
    (nnunet / "results").mkdir()
    interrupted = short(name, monkeypatch)
    interrupted.initialize()  # with the schedule of three epochs, of which two are run
    interrupted.num_epochs = 2
    interrupted.run_training()
    folder = nnunet / "results" / NAME / f"{name}__nnUNetPlans__2d" / "fold_0"
    (folder / "checkpoint_final.pth").rename(folder / "checkpoint_latest.pth")
    continued = short(name, monkeypatch, go_on=True)
    assert continued.current_epoch == 2
    continued.run_training()
    assert continued.logger.get_value("lrs", None) == straight.logger.get_value("lrs", None)
    assert torch.equal(weights(continued), weights(straight))


def test_a_trainer_derived_from_ours_may_have_its_own_optimizer(nnunet, monkeypatch):
    """Its schedule is stepped by nnU-Net alone, once an epoch."""

    def adam(self):
        optimizer = torch.optim.AdamW(self.network.parameters(), 1e-3)
        return optimizer, PolyLRScheduler(optimizer, 1e-3, self.num_epochs)

    name = "nnUNetTrainerDiffLungReference"
    monkeypatch.setattr(getattr(trainers, name), "configure_optimizers", adam)
    trainer, rates = short(name, monkeypatch), []
    step = nnUNetTrainer.train_step

    def recorded(self, batch):
        rates.append(self.optimizer.param_groups[0]["lr"])
        return step(self, batch)

    monkeypatch.setattr(nnUNetTrainer, "train_step", recorded)
    trainer.run_training()
    assert rates == pytest.approx([1e-3 * (1 - epoch / 3) ** 0.9 for epoch in range(3) for _ in range(4)])
    assert short(name, monkeypatch, go_on=True).current_epoch == 3


def test_cyclic_arms_keep_their_own_peak_and_optimizer(nnunet):
    trainer = trainer_of("nnUNetTrainerDiffLungCopyPaste_10epochs")
    trainer.initialize()
    assert (trainer.initial_lr, type(trainer.optimizer)) == (0.05, trainers.lookahead.LookaheadSGD)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 0.01)


@pytest.mark.parametrize("first", [None, "7"])
def test_a_training_is_not_continued_with_another_seed(base, monkeypatch, first):
    if first:
        monkeypatch.setenv("DIFFLUNG_SEED", first)
    saved(begin("nnUNetTrainerDiffLungReference"), "checkpoint_latest.pth")
    monkeypatch.setenv("DIFFLUNG_SEED", "8")
    with pytest.raises(
        RuntimeError, match=f"begun with DIFFLUNG_SEED={first or 12345} and is continued with DIFFLUNG_SEED=8, .*--c$"
    ):
        resumed("nnUNetTrainerDiffLungReference").on_train_start()


def test_an_empty_seed_is_none_and_the_seed_is_on_record(base, monkeypatch):
    seeds = set()
    monkeypatch.delenv("DIFFLUNG_SEED", raising=False)
    for text in (None, "", "12345"):
        if text is not None:
            monkeypatch.setenv("DIFFLUNG_SEED", text)
        trainer = begin("nnUNetTrainerDiffLungReference")
        trainer._save_debug_information()
        notes = json.loads((Path(trainer.output_folder) / "debug.json").read_text())
        assert (notes["seed"], trainer.my_init_kwargs[case_record.KEY]["seed"]) == ("12345", "12345")
        seeds.add(trainer._seed("weights"))
    assert len(seeds) == 1


def test_a_training_of_a_version_that_noted_no_seed_is_continued_with_any(base, monkeypatch):
    trainer = begin("nnUNetTrainerDiffLungReference")
    del trainer.my_init_kwargs[case_record.KEY]["seed"]
    saved(trainer, "checkpoint_latest.pth")
    monkeypatch.setenv("DIFFLUNG_SEED", "8")
    again = resumed("nnUNetTrainerDiffLungReference")
    again.plot_network_architecture = lambda: None
    again.on_train_start()
    assert json.loads((Path(again.output_folder) / "debug.json").read_text())["seed"] == "unknown"
    assert again.my_init_kwargs[case_record.KEY]["seed"] is None  # not that of now, with which it was not begun


def test_a_finished_training_is_continued_with_any_variables_and_keeps_the_record_of_its_own(base, monkeypatch):
    """``--c`` after the last epoch validates only."""
    monkeypatch.setenv("DIFFLUNG_SEED", "7")
    monkeypatch.setenv("DIFFLUNG_SYNTHETIC_SHARE", "cases")
    finished = short("nnUNetTrainerDiffLungCopyPaste", monkeypatch)
    finished.initialize()
    finished.current_epoch = 2
    path = saved(finished)
    monkeypatch.delenv("DIFFLUNG_SEED")
    monkeypatch.setenv("DIFFLUNG_SYNTHETIC_SHARE", "0")
    again = short("nnUNetTrainerDiffLungCopyPaste", monkeypatch, go_on=True)
    assert again.current_epoch == again.num_epochs
    again.run_training()
    record = torch.load(path, weights_only=False)["init_args"][case_record.KEY]
    assert (record["seed"], record["dose"]) == ("7", None)
    notes = json.loads((Path(again.output_folder) / "debug.json").read_text())
    assert (notes["seed"], notes["dose"]) == ("7", "DIFFLUNG_SYNTHETIC_SHARE=cases")


@pytest.fixture
def validated(monkeypatch) -> list:
    """Instead of nnU-Net's validation: the next stages that it would predict for."""
    stages = []
    monkeypatch.setattr(
        nnUNetTrainer,
        "perform_actual_validation",
        lambda self, _: stages.append(self.configuration_manager.next_stage_names),
    )
    return stages


def test_the_validated_checkpoint_is_noted(base, validated):
    trainer = begin("nnUNetTrainerDiffLungReference")
    note = Path(trainer.output_folder) / "difflung_validated.json"
    for name, expected in ((None, "checkpoint_final.pth"), ("checkpoint_best.pth", "checkpoint_best.pth")):
        if name:
            path = os.path.join(trainer.output_folder, name)
            trainer.save_checkpoint(path)
            trainer.load_checkpoint(path)
        trainer.perform_actual_validation()
        assert json.loads(note.read_text()) == {"checkpoint": expected}
    assert len(validated) == 2


def test_the_validation_after_a_continued_training_is_that_of_its_end(base, validated, monkeypatch):
    name = "nnUNetTrainerDiffLungReference"
    begun = short(name, monkeypatch)
    begun.initialize()
    begun.current_epoch = 1
    saved(begun, "checkpoint_latest.pth")
    continued = short(name, monkeypatch, go_on=True)
    assert continued.current_epoch == 2
    continued.run_training()
    continued.perform_actual_validation()
    note = json.loads((Path(continued.output_folder) / "difflung_validated.json").read_text())
    assert note == {"checkpoint": "checkpoint_final.pth"}


def test_predictions_of_an_earlier_training_with_other_folds_are_not_scored(base, validated, capsys):
    trainer = begin("nnUNetTrainerDiffLungReference")
    folder = Path(trainer.output_folder) / "validation"
    folder.mkdir()
    for case in (REAL[0], "patient2_s0"):
        for ending in (".nii.gz", ".npz", ".pkl"):
            (folder / f"{case}{ending}").write_text("")
    (folder / "summary.json").write_text("{}")
    trainer.perform_actual_validation()
    assert sorted(path.name for path in folder.iterdir()) == [f"{REAL[0]}{end}" for end in (".nii.gz", ".npz", ".pkl")]
    assert re.search(r"Deleted the predictions of 1 case in .* \(patient2_s0\)", capsys.readouterr().out)


@pytest.mark.parametrize("rank", [0, 1])
def test_on_several_gpus_the_first_process_deletes_them_before_any_writes(base, validated, monkeypatch, rank):
    trainer = begin("nnUNetTrainerDiffLungReference")
    old, seen = Path(trainer.output_folder) / "validation" / "patient2_s0.nii.gz", []
    old.parent.mkdir()
    old.write_text("")
    trainer.is_ddp, trainer.local_rank = True, rank
    monkeypatch.setattr(torch.distributed, "barrier", lambda: seen.append((old.exists(), len(validated))))
    trainer.perform_actual_validation()
    assert seen == [(rank == 1, 0)]


def test_fold_all_leaves_the_next_stage_the_predictions_of_the_other_folds(base, validated):
    for fold, expected in ((0, ["3d_cascade_fullres"]), ("all", None)):
        trainer = begin("nnUNetTrainerDiffLungReference", fold)
        trainer.configuration_manager.configuration["next_stage"] = ["3d_cascade_fullres"]
        trainer.perform_actual_validation()
        assert validated[-1] == expected
        assert trainer.configuration_manager.next_stage_names == ["3d_cascade_fullres"]
