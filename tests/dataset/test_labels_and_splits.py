"""Roles of labels, patients behind ids, folds by patient."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_difflung.dataset.splits import (
    check_several_patients,
    check_splits,
    make_splits,
    patient_folds,
    splits_in_use,
)
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.labels import BODY, label_roles


def roles(labels: dict, **options):
    return label_roles({"labels": labels}, "dataset.json", **options)


@pytest.mark.parametrize("name", ["normal_lung", "Healthy", "lung", "Lungs", "lung tissue", "parenchyma"])
def test_normal_lung_is_found_by_name(name):
    found = roles({"background": 0, "emphysema": 1, name: 2})
    assert found.normal == (name,)
    assert found.pathologies == ("emphysema",)
    assert found.conditions == (name, "emphysema", BODY)
    assert found.body_value == 3


@pytest.mark.parametrize("name", ["normal", "healthy_lung", "Normal lung"])
def test_a_label_called_lung_beside_one_called_normal_or_healthy_is_asked_for(name):
    labels = {"background": 0, "lung": 1, name: 2, "ILD": 3}
    with pytest.raises(BadInput, match="leaves open which labels are normal lung"):
        roles(labels)
    found = roles(labels, normal_labels=[name], structure_labels=["lung"])
    assert (found.normal, found.pathologies) == ((name,), ("ILD",))


def test_structures_and_ignore_have_their_own_roles():
    found = roles({"background": 0, "lung": 1, "airway": 2, "ILD": 3, "ignore": 4}, structure_labels=("airway",))
    assert found.structures == ("airway",)
    assert found.ignore == 4
    assert found.body_value == 5
    assert "ignore" not in found.conditions
    assert found.lung == ("lung", "ILD")


@pytest.mark.parametrize(
    ("labels", "options", "part"),
    [
        ({"background": 0, "a": 1, "b": 2}, {}, "--normal-label"),
        ({"background": 0, "left_lung": 1, "right_lung": 2}, {}, "no pathology"),
        ({"background": 0, "normal": 1, "healthy": 2, "ILD": 3}, {}, "--normal-label normal healthy"),
        ({"background": 0, "lung": 1}, {}, "no pathology"),
        ({"background": 0, "abnormal": 1, "unhealthy": 2}, {}, "--normal-label"),
        ({"background": 0, "lung": [1, 2], "ILD": 2}, {}, "region-based"),
        ({"background": 0, "lung": 1, "ILD": 2}, {"normal_labels": ["x"]}, "--normal-label x"),
        ({"background": 0, "lung": 1, "ILD": 2}, {"structure_labels": ("x",)}, "--structure-label x"),
    ],
)
def test_unclear_roles_are_refused(labels, options, part):
    with pytest.raises(BadInput, match=part):
        roles(labels, **options)


@given(st.lists(st.integers(0, 12), min_size=6, max_size=60), st.integers(0, 99))
def test_no_patient_is_on_both_sides(owners, seed):
    patients = {f"case{i}": f"p{owner}" for i, owner in enumerate(owners)}
    if len(set(patients.values())) < 2:
        return
    splits = make_splits(patients, {case: [1] for case in patients}, seed)
    check_splits(splits, list(patients), patients, "splits")
    held_out = [i for split in splits for i in split["val"]]
    assert sorted(held_out) == sorted(patients)
    assert all(sorted(split["train"] + split["val"]) == sorted(patients) for split in splits)


@st.composite
def cohorts(draw) -> dict[str, list[int]]:
    """Patients with up to 24 classes, most of them rare, as in archives with many findings."""
    number, classes = draw(st.integers(3, 40)), draw(st.integers(1, 24))
    holders = [draw(st.sets(st.integers(0, number - 1), max_size=draw(st.integers(1, 6)))) for _ in range(classes)]
    return {f"p{i}": [int(i in with_class) for with_class in holders] for i in range(number)}


@settings(max_examples=400, deadline=None)
@given(cohorts(), st.integers(0, 99))
def test_every_class_of_two_patients_is_in_the_training_part_of_every_fold(voxels, seed):
    folds = patient_folds(voxels, seed)
    assert sorted(patient for fold in folds for patient in fold) == sorted(voxels)
    assert len(folds) == min(5, len(voxels))
    assert all(folds)
    assert folds == patient_folds(dict(reversed(voxels.items())), seed), "the patients' order decides nothing"
    for c in range(len(next(iter(voxels.values())))):
        with_class = {patient for patient in voxels if voxels[patient][c]}
        if len(with_class) > 1:
            assert not any(with_class <= set(fold) for fold in folds), with_class


def test_rarer_classes_do_not_put_the_two_patients_of_a_class_together():
    """Dealt one class after the other, p1 and p3 would both be first."""
    voxels = {"p1": [1, 0, 1], "p2": [1, 0, 0], "p3": [0, 1, 1], "p4": [0, 1, 0]}
    for seed in range(20):
        for fold in patient_folds(voxels, seed, folds=2):
            assert len(fold) == 2
            assert set(fold) not in ({"p1", "p2"}, {"p3", "p4"}, {"p1", "p3"})


def test_generators_that_were_trained_on_folds_of_the_first_versions_keep_them():
    patients = {f"a{i}": f"a{i}" for i in range(10)}
    new = make_splits(patients, {case: [1] for case in patients})
    assert splits_in_use(new, patients, []) == new
    # what commit b369f62 made of these patients
    earlier = [{"a4", "a8"}, {"a1", "a3"}, {"a7", "a9"}, {"a0", "a6"}, {"a2", "a5"}]
    trained = sorted(set(patients) - earlier[0])
    assert [set(fold["val"]) for fold in splits_in_use(new, patients, [(0, trained)])] == earlier
    assert splits_in_use(new, patients, [(0, trained), (1, new[1]["train"])]) == new
    assert splits_in_use(new, patients, [(0, ["b0"])]) == new


@pytest.mark.parametrize(
    ("splits", "part"),
    [
        ([{"train": ["a1"], "val": ["a2"]}], "patient 'a'"),
        ([{"train": ["a1", "zz"], "val": ["b1"]}], "'zz'"),
        ([{"train": [], "val": ["b1"]}], "no training case"),
    ],
)
def test_splits_that_leak_or_lie_are_refused(splits, part):
    patients = {"a1": "a", "a2": "a", "b1": "b"}
    with pytest.raises(BadInput, match=part):
        check_splits(splits, list(patients), patients, "splits_final.json")


def test_one_patient_cannot_be_split():
    with pytest.raises(BadInput, match="one patient"):
        check_several_patients({"a1": "a", "a2": "a"})
