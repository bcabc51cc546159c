"""The rule by which patches are drawn, as numbers."""

import numpy as np
import pytest

from nnunet_difflung.trainers.classes import to_balance
from nnunet_difflung.trainers.dose import SCHEDULE, SHARE, Dose, as_variables, dose_of
from nnunet_difflung.trainers.sampling import Rule, Source, balanced, painted

# ---- dose ----


def test_a_constant_share_is_the_same_in_every_epoch():
    assert [Dose(0.3).at(epoch, 5) for epoch in range(5)] == [0.3] * 5


def test_a_falling_share_begins_with_twice_the_share_and_ends_with_real_cases_alone():
    dose = Dose(0.3, "falling")
    assert (dose.at(0, 21), dose.at(10, 21), dose.at(20, 21)) == pytest.approx((0.6, 0.3, 0))
    assert dose.at(21, 21) == 0, "where a finished training is continued"


@pytest.mark.parametrize("epochs", [1, 2, 3, 20, 1000])
@pytest.mark.parametrize("share", [0, 0.2, 0.5])
def test_both_schedules_have_the_same_mean(share, epochs):
    falling = [Dose(share, "falling").at(epoch, epochs) for epoch in range(epochs)]
    assert np.mean(falling) == pytest.approx(share)
    assert min(falling) >= 0
    assert max(falling) <= 1


@pytest.mark.parametrize("environment", [{}, {SHARE: ""}, {SCHEDULE: "constant"}, {SCHEDULE: ""}])
def test_without_a_share_the_trainers_default_counts(environment):
    assert dose_of(environment, None) is None
    assert dose_of(environment, 0.2) == Dose(0.2)


def test_the_variables_say_share_and_schedule():
    assert dose_of({SHARE: "0.25", SCHEDULE: "falling"}, None) == Dose(0.25, "falling")
    assert dose_of({SHARE: "0"}, 0.5) == Dose(0)
    assert dose_of({SHARE: "1", SCHEDULE: "constant"}, None) == Dose(1)
    assert dose_of({SHARE: "cases"}, 0.5) is None


@pytest.mark.parametrize("value", ["much", "-0.1", "1.01", "nan", "30%", "inf", "0,3"])
def test_an_impossible_share_is_refused_in_one_line(value):
    with pytest.raises(
        ValueError, match="^DIFFLUNG_SYNTHETIC_SHARE is .*, a number from 0 to 1, or 'cases'"
    ) as refusal:
        dose_of({SHARE: value}, None)
    assert repr(value) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({SHARE: "0.3", SCHEDULE: "rising"}, "^DIFFLUNG_SYNTHETIC_SCHEDULE is 'rising', expected constant or falling$"),
        ({SCHEDULE: "rising"}, "^DIFFLUNG_SYNTHETIC_SCHEDULE is 'rising', expected constant or falling$"),
        ({SCHEDULE: "falling"}, "no share that could fall; set DIFFLUNG_SYNTHETIC_SHARE"),
        ({SHARE: "cases", SCHEDULE: "falling"}, "no share that could fall"),
        ({SHARE: "0.6", SCHEDULE: "falling"}, "begins with twice the share; expected 0 to 0.5"),
    ],
)
def test_an_impossible_schedule_is_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        dose_of(environment, None)


@pytest.mark.parametrize("dose", [None, Dose(0), Dose(0.3), Dose(0.3333333), Dose(0.25, "falling")])
def test_a_record_names_the_variables_that_give_it_again(dose):
    text = as_variables(None if dose is None else dose.as_record())
    assert dose_of(dict(part.split("=") for part in text.split()), 0.7) == dose


# ---- probabilities ----


def test_sources_have_equal_parts_of_the_dose_and_real_cases_the_rest():
    sources = tuple(Source(name, (("a", 0),)) for name in ("one", "two", "three"))
    rule = Rule(("a", "b"), sources, Dose(0.3, "falling"))
    assert rule.probabilities(0, 3) == pytest.approx([0.4, 0.2, 0.2, 0.2])
    assert rule.probabilities(1, 3) == pytest.approx([0.7, 0.1, 0.1, 0.1])
    assert rule.probabilities(2, 3).tolist() == [1, 0, 0, 0]


# ---- painted slices ----


def placed(slices, axes=(0, 1, 2), size=None, crop=((0, 20), (0, 9), (0, 9))):
    """Axis and positions of a case's painted slices in an array of the crop's size, or of ``size``."""
    lengths = [stop - start for start, stop in crop]
    properties = {"bbox_used_for_cropping": crop, "shape_after_cropping_and_before_resampling": lengths}
    source = painted({"case": {"slices": slices}}, {"case": properties}, {"case": size or lengths}, axes)
    return source.axis, [position for _, position in source.slices]


def test_painted_slices_are_found_after_cropping_and_resampling():
    assert placed([3, 4, 19]) == (0, [3, 4, 19])
    assert placed([3, 4, 19], crop=((3, 20), (0, 9), (0, 9))) == (0, [0, 1, 16])
    assert placed([0, 1, 2, 19], size=(10, 9, 9)) == (0, [0, 1, 9])  # two slices became one
    assert placed([0, 1, 19], size=(60, 9, 9)) == (0, [1, 4, 58])  # the middle of three
    assert placed([0, 19], crop=((4, 10), (0, 9), (0, 9))) == (0, [0, 5])


def test_painted_slices_are_found_along_the_axis_that_nnunet_has_made_of_z():
    assert placed([5], axes=(1, 0, 2), crop=((0, 9), (2, 20), (0, 9))) == (1, [3])
    assert placed([5], axes=(2, 1, 0), crop=((0, 9), (0, 9), (1, 20))) == (2, [4])


def test_every_painted_slice_counts_once_and_a_placebo_as_any_other():
    cases = {"a": {"slices": [2, 5, 6]}, "b": {"slices": [1], "placebo": True}}
    properties = {"bbox_used_for_cropping": [[0, 8]] * 3, "shape_after_cropping_and_before_resampling": [8] * 3}
    source = painted(cases, dict.fromkeys(cases, properties), dict.fromkeys(cases, (8, 8, 8)), (0, 1, 2))
    assert source.slices == (("a", 2), ("a", 5), ("a", 6), ("b", 1))


# ---- classes ----


def voxels(*positions):
    return np.array([(0, z, 4, 4) for z in positions]) if positions else []


def test_each_class_has_the_slices_that_show_it():
    locations = {"a": {1: voxels(0, 1), 2: voxels(3, 3, 3, 1)}, "b": {1: voxels(2), 2: []}, "c": {1: voxels(5)}}
    sources = balanced(locations.items(), {"rare": 2, "common": 1, "absent": 3})
    assert [(source.name, source.label, source.slices) for source in sources] == [
        ("rare", 2, (("a", 1), ("a", 3))),
        ("common", 1, (("a", 0), ("a", 1), ("b", 2), ("c", 5))),
    ]


def test_volumes_are_drawn_from_as_the_same_slices():
    volume = {"patient": {2: voxels(0, 0, 3, 7)}}
    slices = {f"patient_{z}": {2: voxels(*[0] * n)} for z, n in ((0, 2), (3, 1), (5, 0), (7, 1))}
    (of_volume,), (of_slices,) = balanced(volume.items(), {"rare": 2}), balanced(slices.items(), {"rare": 2})
    assert [position for _, position in of_volume.slices] == [int(case[-1]) for case, _ in of_slices.slices]


@pytest.mark.parametrize(
    ("labels", "runs", "classes"),
    [
        ({"background": 0, "lung": 1, "emphysema": 2}, [], {"emphysema": 2}),
        ({"background": 0, "lung": 1, "emphysema": 2, "trachea": 3, "ignore": 4}, [], {"emphysema": 2}),
        ({"background": 0, "lung": 1, "a": 2, "b": 3}, [{"summary": {"targets": {"b": 0.06}}}], {"b": 3}),
        ({"background": 0, "lung": 1, "a": 2}, [{"summary": None}, {}], {"a": 2}),
        ({"background": 0, "x1": 1, "x2": 2}, [], {"x1": 1, "x2": 2}),  # which is the lung?
        ({"background": 0, "whole": [1, 2], "core": [2]}, [], {"whole": (1, 2), "core": (2,)}),
    ],
)
def test_pathologies_are_balanced_and_all_classes_where_they_are_not_known(labels, runs, classes):
    assert to_balance({"labels": labels}, {"runs": runs}) == classes
