"""Relations between the channels of training cases, and painted values that are made to keep them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from nnunet_difflung.dataset.channels import FEW, Relations, find_relations, measure_case
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.telling.channels import describe_channels, set_by_rule

ROLES = LabelRoles(("normal_lung",), ("emphysema", "ILD"), (), {"normal_lung": 1, "emphysema": 2, "ILD": 3}, None)
BODY = ROLES.body_value
SHAPE = (2, 24, 40)
MEAN = {0: -1000, BODY: 40, 1: -850, 2: -940, 3: -600}


@dataclass
class Cases:
    """Cases in memory."""

    images: dict[str, np.ndarray]
    conditions: dict[str, np.ndarray]
    roles: LabelRoles = ROLES

    def image(self, identifier):
        return self.images[identifier]

    def condition(self, identifier):
        return self.conditions[identifier]


def condition_map() -> np.ndarray:
    """Air, body, and lung with two lesions, in two slices."""
    condition = np.zeros(SHAPE, np.uint8)
    condition[:, 2:22, 2:38] = BODY
    condition[:, 4:20, 4:36] = 1
    condition[:, 6:10, 6:14] = 2
    condition[1, 12:18, 20:30] = 3
    return condition


def cases(make, number: int = 3, dtype=np.int16) -> Cases:
    """``make(hu, condition, rng)`` → channels, for each of a number of cases."""
    images, conditions = {}, {}
    for index in range(number):
        rng = np.random.default_rng(index)
        condition = condition_map()
        hu = np.vectorize(MEAN.get)(condition) + 40 * (condition > 0) * rng.standard_normal(SHAPE)
        channels = make(np.rint(hu), condition, rng)
        images[f"c{index}"], conditions[f"c{index}"] = np.stack(channels).astype(dtype), condition
    return Cases(images, conditions)


def relations(made: Cases) -> Relations:
    return find_relations(made, list(made.images))


def painted(made: Cases, found: Relations, seed: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every channel of a case painted with noise of its own, in a new lesion and the normal lung around it.

    Returns:
        values after the relations were applied, the host, the painted region, and the new condition map.
    """
    host, condition = made.images["c0"], made.conditions["c0"].copy()
    condition[:, 12:16, 6:12] = 2
    region = np.zeros(SHAPE, bool)
    region[:, 11:17, 5:13] = True
    values = host.astype(np.float32)
    low, high = host.min((1, 2, 3)), host.max((1, 2, 3))
    noise = np.random.default_rng(seed).random((len(host), int(region.sum())))
    values[:, region] = low[:, None] + noise * (high - low)[:, None]
    found.apply(values, host, region, condition)
    assert np.array_equal(values[:, ~region], host[:, ~region]), "only painted voxels may change"
    return values, host, region, condition


def eight_bits(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((hu - low) / (high - low), 0, 1) * 255)


def test_a_grey_picture_stored_as_rgba_stays_grey_and_opaque():
    made = cases(lambda hu, *_: [eight_bits(hu, -1024, 476)] * 3 + [np.full(SHAPE, 255)], dtype=np.uint8)
    found = relations(made)
    assert [channel.kind for channel in found.channels] == ["free", "copy", "copy", "constant"]
    values, _, region, _ = painted(made, found)
    assert np.array_equal(values[0], values[1])
    assert np.array_equal(values[0], values[2])
    assert (values[3] == 255).all()
    assert len(np.unique(values[0, region])) > 20, "the first channel is painted as before"
    assert (values[0] == np.rint(values[0])).all(), "files of other types get the same values"
    assert set_by_rule(found) == [1, 2, 3]
    assert found.painted() == [0]


def test_a_lung_mask_is_set_by_the_new_label():
    made = cases(lambda hu, condition, _: [hu, np.isin(condition, (1, 2, 3))], dtype=np.float32)
    found = relations(made)
    assert [channel.kind for channel in found.channels] == ["free", "mask"]
    values, host, _, _ = painted(made, found)
    assert np.array_equal(values[1], host[1])
    assert not any("Warning" in line for line in describe_channels(found, ["CT", "mask"]))


@pytest.mark.parametrize("high", [1, 255])
def test_a_mask_of_the_lesion_follows_the_new_label_and_is_warned_of(high):
    made = cases(lambda hu, condition, _: [hu, high * (condition == 2)])
    found = relations(made)
    values, _, _, condition = painted(made, found)
    assert np.array_equal(values[1], high * (condition == 2))
    said = "\n".join(describe_channels(found, ["CT", "first stage"]))
    assert "Warning: channel 1 (first stage) tells where emphysema is" in said


def test_a_first_networks_answer_keeps_its_values_and_is_warned_of():
    def answers(hu, condition, rng):
        return [
            hu,
            (rng.random(SHAPE) < 0.02) ^ (condition == 2),
            np.clip((condition == 2) * rng.random(SHAPE) * 1.2, 0, 1),
        ]

    made = cases(answers, dtype=np.float32)
    found = relations(made)
    assert [channel.kind for channel in found.channels] == ["free", "few", "free"]
    values, *_ = painted(made, found)
    assert set(np.unique(values[1])) == {0, 1}
    said = "\n".join(describe_channels(found, ["CT", "answer", "probability"]))
    assert "Warning: channel 1 (answer) tells where emphysema is" in said
    assert "Warning: channel 2 (probability) tells where emphysema is" in said


def test_a_class_without_vessels_gets_none():
    """A mask of vessels: normal lung has some, and no training case has one in emphysema."""
    made = cases(lambda hu, condition, rng: [hu, (rng.random(SHAPE) < 0.2) & (condition != 2)])
    found = relations(made)
    assert found.channels[1].kind == "kept", "whether there is a vessel does not depend on where lesions begin"
    assert found.channels[1].of_class == {2: 0.0}
    values, _, region, condition = painted(made, found)
    assert (values[1][region & (condition == 2)] == 0).all()
    assert set(np.unique(values[1][region])) == {0, 1}


def test_lobes_stay_where_they_are():
    def lobes(hu, condition, rng):
        places = np.indices(SHAPE)
        return [hu, np.isin(condition, (1, 2, 3)) * (1 + 2 * (places[2] > 20) + (places[1] > 11))]

    made = cases(lobes)
    found = relations(made)
    assert found.channels[1].kind == "kept"
    assert set_by_rule(found) == [1]
    values, host, *_ = painted(made, found)
    assert np.array_equal(values[1], host[1])
    said = "\n".join(describe_channels(found, ["CT", "lobes"]))
    assert "channel 1 (lobes) has only the values 0, 1, 2, 3, 4 in the training cases and does not change where" in said


def windows_of_ct(hu, *_):
    return [eight_bits(hu, *window) for window in ((-1350, 150), (-1024, -500), (-160, 240))]


def occurring(made: Cases, first: int, second: int) -> set[tuple[float, float]]:
    return {
        pair for image in made.images.values() for pair in zip(image[first].ravel(), image[second].ravel(), strict=True)
    }


def test_windows_of_the_same_ct_show_what_occurs_together():
    made = cases(windows_of_ct, dtype=np.uint8)
    found = relations(made)
    assert found.channels[0].kind != "tied" or found.channels[1].kind != "tied", "one of them leads"
    assert "tied" in {channel.kind for channel in found.channels[:2]}
    values, _, region, _ = painted(made, found)
    follower = next(number for number in (0, 1) if found.channels[number].kind == "tied")
    ends: dict[float, list[float]] = {}
    for first, second in occurring(made, 1 - follower, follower):
        ends.setdefault(first, []).append(second)
    for leader, own in zip(values[1 - follower][region], values[follower][region], strict=True):
        if leader in ends:
            assert min(ends[leader]) <= own <= max(ends[leader])
    assert (values[2][region] == 0).all(), "soft tissue's window is black in all of the lung"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_clipped_copy_follows_the_whole_image_wherever_it_stands(order):
    made = cases(lambda hu, *_: [(hu, np.clip(hu, -900, -800) + 1000)[i] for i in order])
    found = relations(made)
    whole, clipped = order.index(0), order.index(1)
    assert found.channels[clipped].kind == "tied"
    assert found.channels[clipped].source == whole
    assert found.channels[whole].kind == "free"
    values, host, region, _ = painted(made, found)
    seen = region & np.isin(values[whole], host[whole])
    assert np.array_equal(values[clipped][seen], np.clip(values[whole][seen], -900, -800) + 1000)


def test_fractions_follow_too():
    made = cases(lambda hu, *_: [hu / 1000 + 0.123, np.clip(hu, -900, -800) / 100], dtype=np.float32)
    found = relations(made)
    assert found.channels[1].kind == "tied"
    values, _, region, _ = painted(made, found)
    expected = np.clip((values[0][region] - 0.123) * 1000, -900, -800) / 100
    assert np.abs(values[1][region] - expected).max() < 0.15


@pytest.mark.parametrize(
    "second",
    [
        lambda hu, condition, rng: 5 * rng.random(SHAPE),
        lambda hu, condition, rng: 0.5 * hu + 10 * rng.standard_normal(SHAPE),
        lambda hu, condition, rng: (condition > 0) * rng.gamma(0.3, 1, SHAPE),
    ],
    ids=["independent", "correlated", "mostly near zero"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_other_images_are_painted_freely(second, dtype):
    made = cases(lambda hu, condition, rng: [hu, 100 * second(hu, condition, rng)], dtype=dtype)
    found = relations(made)
    assert not found
    assert found.as_record() == []
    assert find_relations(made, ["c0"]).channels[1].kind == "free", "nor is one case mistaken for a rule"
    assert describe_channels(found, ["CT", "PET"]) == []


def test_what_a_case_outside_the_fold_holds_does_not_matter_and_one_inside_breaks_a_relation():
    made = cases(lambda hu, *_: [hu, hu])
    made.images["c2"][1, 0, 0, 0] += 1
    assert [channel.kind for channel in find_relations(made, ["c0", "c1"]).channels] == ["free", "copy"]
    assert find_relations(made, ["c0", "c1", "c2"]).channels[1].kind != "copy"


def test_another_relation_has_another_record():
    first, second = (
        relations(cases(lambda hu, condition, _, value=value: [hu, value * (condition == 2)])) for value in (1, 2)
    )
    copies = relations(cases(lambda hu, *_: [hu, hu]))
    tied = [relations(cases(lambda hu, *_, low=low: [hu, np.clip(hu, low, -700)])) for low in (-900, -880)]
    records = [str(found.as_record()) for found in (first, second, copies, *tied)]
    assert len(set(records)) == 5
    assert records[0] == str(relations(cases(lambda hu, condition, _: [hu, condition == 2])).as_record())


class Watched(np.ndarray):
    """An image that counts how many slices were read."""

    read = 0

    def __getitem__(self, key):
        type(self).read += 1
        return np.asarray(super().__getitem__(key))


def test_an_ordinary_image_with_one_channel_has_no_relations_and_costs_one_slice():
    made = cases(lambda hu, *_: [hu])
    made.images = {name: image.view(Watched) for name, image in made.images.items()}
    assert not relations(made)
    assert Watched.read == 1


def test_one_channel_of_few_values_keeps_them():
    made = cases(lambda hu, *_: [hu > -700], dtype=np.uint8)
    values, *_ = painted(made, relations(made))
    assert set(np.unique(values)) == {0, 1}


def test_few_values_are_counted_over_all_cases():
    made = cases(lambda hu, condition, rng: [hu, rng.integers(0, 10, SHAPE) + 10 * int(rng.integers(3))])
    alone = measure_case(made.images["c0"], made.conditions["c0"], ROLES)
    assert alone.values[1] is not None
    assert len(alone.values[1]) <= FEW
    together = set().union(*(np.unique(image[1]) for image in made.images.values()))
    assert len(together) > FEW
    assert relations(made).channels[1].kind == "free"
