"""A dataset as a read-only view, and the plan of a fold without painting."""

from __future__ import annotations

import json

import numpy as np
import pytest

import nnunet_difflung as dl
from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.pipeline.fold import prepare_fold
from nnunet_difflung.preparing.application import apply_plan
from tests.support.tiny import LABELS, make_dataset, tree_hashes


@pytest.fixture
def folder(raw_folder):
    return make_dataset(raw_folder, emphysema_every=2)


def test_a_dataset_by_id_name_and_folder(folder):
    for which in (801, "801", "Dataset801_Tiny", folder):
        assert dl.load_dataset(which).name == "Dataset801_Tiny"


def test_what_a_dataset_shows(folder):
    dataset = dl.load_dataset(801)
    splits = json.loads((folder / "splits_final.json").read_text())
    assert dataset.folder == folder
    assert dataset.channels == ("CT",)
    assert len(dataset.cases) == 10
    assert dataset.patients["lung_003_s01"] == "lung_003"
    assert dict(dataset.labels) == {name: value for name, value in LABELS.items() if value}
    assert (dataset.normal_labels, dataset.pathologies, dataset.structures) == (
        ("normal_lung",),
        ("emphysema", "ILD"),
        (),
    )
    assert dataset.folds == (0, 1, 2, 3, 4)
    for fold in dataset.folds:
        assert sorted(dataset.training_cases(fold)) == sorted(splits[fold]["train"])
        assert sorted(dataset.validation_cases(fold)) == sorted(splits[fold]["val"])
    assert set(dataset.training_cases("all")) == set(dataset.cases)
    assert dl.load_dataset(801, normal_labels=["normal_lung"], structure_labels=["ILD"]).structures == ("ILD",)


def test_the_shares_of_a_fold_are_those_of_its_training_cases(folder):
    dataset = dl.load_dataset(801)
    labels = [dataset.case(case).labels for case in dataset.training_cases(0)]
    counts = {name: sum(int((label == dataset.labels[name]).sum()) for label in labels) for name in dataset.labels}
    total = sum(counts.values())
    assert dataset.shares(0) == pytest.approx({name: count / total for name, count in counts.items()})


def test_a_case_holds_the_arrays_of_its_files(folder):
    case = dl.load_dataset(801).case("lung_001_s00")
    assert (case.patient, case.image.shape, case.labels.shape) == ("lung_001", (1, 1, 32, 32), (1, 32, 32))
    assert case.spacing == pytest.approx((5.0, 0.8, 0.8))
    lung = case.image[0][case.labels == LABELS["normal_lung"]]
    assert lung.mean() == pytest.approx(-850, abs=15)


def test_new_folds_are_those_that_the_command_would_make(raw_folder):
    make_dataset(raw_folder, splits=False)
    dataset = dl.load_dataset(801)
    assert [set(dataset.training_cases(fold)) for fold in dataset.folds] == [
        set(split["train"]) for split in open_raw_dataset("801").splits
    ]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda folder: dl.load_dataset(802), "Dataset801_Tiny"),
        (lambda folder: dl.load_dataset(folder / "imagesTr"), "does not lie in nnUNet_raw"),
        (lambda folder: dl.load_dataset(801).case("lung_1"), "has no real case 'lung_1'"),
        (lambda folder: dl.load_dataset(801).training_cases(5), "folds 0 to 4"),
        (lambda folder: dl.load_dataset(801, patient_pattern="(.+)", patients_file="p.csv"), "give one of them"),
        (lambda folder: dl.plan(801, 0, epochs=0), "--epochs: 0 is less than 1"),
        (lambda folder: dl.plan(801, 0, no_such=1), "--no-such"),
        (lambda folder: dl.plan(801, 0, target_share={"nodule": 0.1}), "'nodule'"),
        (lambda folder: dl.plan(801, 0, dry_run=True), "leave it out"),
        (lambda folder: dl.plan(801, 0, json=True), "json is an option of the command"),
        (lambda folder: dl.plan(801, 0, normal_label="ILD"), "say it to load_dataset"),
        (lambda folder: dl.plan(801, 7), "folds 0 to 4"),
    ],
)
def test_what_is_refused(folder, call, text):
    with pytest.raises(dl.BadInput, match=text):
        call(folder)


def test_a_plan_is_that_of_the_command_and_writes_nothing(folder, folders, tmp_path):
    before = tree_hashes(*folders)
    plan = dl.plan(801, 1, preset="fast", max_synthetic=3, target_share={"emphysema": 0.2}, placebo=0.4)
    assert tree_hashes(*folders) == before
    words = ["-d", "801", "--preset", "fast", "--max-synthetic", "3", "--placebo", "0.4"]
    words += ["--target-share", "emphysema=0.2"]
    raw = open_raw_dataset("801")
    fold = prepare_fold(raw, 1, settings_from(parse(words)), build_cache(raw, tmp_path / "cache", progress=False))
    assert [mask.planned for mask in plan] == fold.plan.cases
    assert (plan.fold, plan.method, plan.targets["emphysema"]) == (1, "difflung", 0.2)
    assert plan.shares_after["emphysema"] > plan.shares_before["emphysema"] > 0
    assert {mask.placebo for mask in plan} == {True, False}
    training = set(dl.load_dataset(801).training_cases(1))
    for mask, planned in zip(plan, fold.plan.cases, strict=True):
        applied = apply_plan(fold, planned, textures=False)
        assert mask.host in training
        np.testing.assert_array_equal(mask.new_labels()[list(mask.slices)], applied.new_label)
        changed = mask.new_labels() != mask.labels()
        assert changed.any() != mask.placebo
        assert set(np.unique(mask.new_labels()[changed])) == (
            set() if mask.placebo else {LABELS[lesion] for lesion in mask.lesions}
        )
        np.testing.assert_array_equal(mask.image()[:, list(mask.slices)], applied.image)
    assert plan[0] is next(iter(plan))
    assert len(plan[1:]) == len(plan) - 1
