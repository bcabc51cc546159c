"""The gate compares channels with each other, and says which do not fit."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from nnunet_difflung.judging.gate import measure, passes, pooled, reference, region_of
from nnunet_difflung.judging.memorisation import nearest, real_to_real
from nnunet_difflung.judging.verdict import judge
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.telling.quality import describe_quality, faults
from tests.judging.test_gate import MEAN, ROLES, Cache

NAMES = ["R", "G", "B"]


class Several(Cache):
    """The second channel is made from the first one."""

    def __init__(self, make, cases: int = 20):
        super().__init__(cases)
        rng = np.random.default_rng(5)
        self.images = {i: np.concatenate([image, *make(image, rng)]) for i, image in self.images.items()}
        self.windows = [
            (float(low), float(high if high > low else low + 1))
            for low, high in (
                (
                    min(image[c].min() for image in self.images.values()),
                    max(image[c].max() for image in self.images.values()),
                )
                for c in range(len(self.images["c0"]))
            )
        ]

    judged: list[int] | None = None

    def found(self):
        return reference(self, list(self.images), {i: i for i in self.images}, self.windows, 0, self.judged)

    def row(self, image: np.ndarray) -> dict:
        """Measures emphysema in a (c, 1, 3, n) image of the cases' layout."""
        label = self.condition("c0")[:, :, : image.shape[-1]]
        return measure({"emphysema": region_of(image, label == 2, label == 1, self.windows)}, self.found())


def copies(image, rng):
    return [image, image]


def other_texture(image, rng):
    """A related image: the same lesions, noise of its own."""
    return [0.5 * image + 2 * rng.standard_normal(image.shape)]


def unrelated(image, rng):
    return [rng.standard_normal(image.shape) * 30]


@pytest.mark.parametrize("make", [copies, other_texture, unrelated])
def test_real_lesions_pass(make):
    cache = Several(make)
    rows = [cache.row(cache.images[i]) for i in cache.images]
    assert np.mean([passes(row) for row in rows]) > 0.85
    assert all(pair["passes"] for row in rows for pair in row["emphysema"]["pairs"])


def mixed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A case whose other channels are those of another case: each by itself is real."""
    return np.concatenate([first[:1], second[1:]])


@pytest.mark.parametrize(("make", "count"), [(copies, 2), (other_texture, 1)])
def test_channels_that_are_real_by_themselves_and_do_not_fit_are_stopped(make, count):
    cache = Several(make)
    row = cache.row(mixed(cache.images["c0"], cache.images["c1"]))
    assert not passes(row)
    assert [pair["passes"] for pair in row["emphysema"]["pairs"]].count(False) == count
    said = faults({"quality": row, "memorisation": {}}, NAMES)
    assert "emphysema: channels 0 (R) and 1 (G) do not fit each other as in real lesions (off by" in said
    assert "channels 1 (G) and 2 (B)" not in said


def test_the_same_texture_in_unrelated_channels_is_stopped():
    cache = Several(unrelated)
    image = cache.images["c0"].copy()
    image[1] = image[0] - image[0, 0, 1].mean()
    row = cache.row(image)
    assert not row["emphysema"]["pairs"][0]["passes"]
    assert "channels 0 (R) and 1 (G) correlate by 1.00" in faults({"quality": row, "memorisation": {}}, NAMES)


@pytest.mark.parametrize("value", [0.0, 1.0, 255.0])
@pytest.mark.parametrize("cases", [1, 2, 20])
@pytest.mark.parametrize("judged", [None, [0]])
def test_a_constant_channel_gives_no_warning_and_no_nan_anywhere(value, cases, judged):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = Several(lambda image, rng: [np.full_like(image, value)], cases)
        cache.judged = judged
        found = cache.found()
        rows = [cache.row(cache.images[i]) for i in cache.images]
        assert all(passes(row) for row in rows)
        assert all(row["emphysema"]["pairs"] == [] for row in rows), "there is nothing to compare with"
        assert 0 < rows[0]["emphysema"]["channels"][1]["max_bias"] < np.inf
        verdicts = judge(rows, rows, found)
        said = "\n".join(describe_quality(pooled(rows), verdicts, NAMES, [1] if judged else []))
    assert "nan" not in repr(rows)
    if judged:
        assert "channel 1 (G): not judged, since the values are set, not painted" in said
        assert "in channel 1" not in said


def test_one_channel_is_measured_as_before():
    cache = Cache(3)
    image, label = cache.images["c0"], cache.condition("c0")
    region = region_of(image, label == 2, label == 1, [(-1000.0, 1000.0)])
    assert region.moments is None
    assert cache.reference()["emphysema"].pairs == ()
    assert "pairs" not in measure({"emphysema": region}, cache.reference())["emphysema"]


class Slices(Cache):
    """Cases of 40 × 40 pixels with one large lesion; a channel of their own may be added."""

    roles = LabelRoles(("normal_lung",), ("ILD",), (), {"normal_lung": 1, "ILD": 3}, None)

    def __init__(self, extra=()):
        self.images, self.facts, self.label = {}, {}, np.ones((1, 40, 40), np.uint8)
        self.label[0, 8:30, 8:30] = 3
        for i in range(12):
            rng = np.random.default_rng(i)
            image = (MEAN["ILD"] + 80 * rng.standard_normal((1, 1, 40, 40))).astype(np.float32)
            self.images[f"c{i}"] = np.concatenate([image, *(np.full_like(image, value) for value in extra)])
            self.facts[f"c{i}"] = type(
                "Facts",
                (),
                {
                    "counts": {"ILD": [22 * 22], "normal_lung": [1600 - 22 * 22]},
                    "shape": (1, 40, 40),
                    "voxels": lambda self, name: sum(self.counts[name]),
                },
            )()

    def condition(self, identifier):
        return self.label


def test_a_constant_channel_does_not_hide_a_copy_from_the_memorisation_audit():
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for extra in ((), (255,), (0, 1)):
            cache = Slices(extra)
            windows = [(-1000.0, 0.0), *((float(value), value + 1.0) for value in extra)]
            memory = real_to_real(cache, list(cache.images), {i: i for i in cache.images}, windows, 0)
            results.append(nearest(cache.images["c3"], cache.label == 3, cache.label, memory)["ILD"])
    assert results[0]["similarity"] > 0.99
    assert results[1] == results[2] == results[0]


def test_the_reference_never_reads_cases_that_it_is_not_given():
    cache = Several(copies)
    others = {i: i for i in list(cache.images)[1:]}
    before = reference(cache, list(others), others, cache.windows, 0)
    cache.images["c0"] = cache.images["c0"] * [[[[1]]], [[[0]]], [[[2]]]]
    after = reference(cache, list(others), others, cache.windows, 0)
    assert before["emphysema"].pairs == after["emphysema"].pairs
    assert ROLES.pathologies == ("emphysema", "ILD")


def test_a_channel_that_is_not_judged_decides_nothing():
    """Lobes: all real lesions are in the same one, the painted one is not, and nothing else is wrong with it."""
    cache = Several(lambda image, rng: [np.full_like(image, 1.0) + np.arange(3)[:, None]])
    cache.judged = [0]
    image = cache.images["c0"].copy()
    image[1] = 3
    row = cache.row(image)
    assert passes(row)
    assert row["emphysema"]["unjudged"] == [1]
    assert faults({"quality": {"emphysema": {**row["emphysema"], "passes": False}}, "memorisation": {}}, NAMES) == ""
    cache.judged = None
    assert not passes(cache.row(image))


def test_figures_of_several_cases_are_of_one_channel_and_say_which():
    def case(ct: float, share: float) -> dict:
        row = {"voxels": 100, "sd_ratio": 1.0, "passes": True}
        channels = [
            row | {"bias": ct, "wasserstein": abs(ct), "max_wasserstein": 50.0},
            row | {"bias": share, "wasserstein": abs(share), "max_wasserstein": 0.1},
        ]
        worst = max(channels, key=lambda part: part["wasserstein"] / part["max_wasserstein"])
        return {"emphysema": worst | {"channels": channels}}

    row = pooled([case(43.0, 0.0), case(43.0, 0.0), case(0.0, 0.05), case(0.0, 0.05)])["emphysema"]
    assert (row["channel"], row["bias"], row["wasserstein"]) == (0, 21.5, 21.5)
    (said,) = describe_quality({"emphysema": row}, {}, ["CT", "share"], in_hu=[0])
    assert "bias    +21.5 HU   Wasserstein distance    21.5 HU in CT" in said
    (said,) = describe_quality({"emphysema": row}, {}, ["CT", "share"])
    assert "bias    +21.5   Wasserstein distance    21.5 in CT" in said, "a channel called CT that does not hold HU"
    row = pooled([case(1.0, 0.08), case(2.0, 0.06)])["emphysema"]
    assert (row["channel"], row["bias"]) == (1, 0.07)
    (said,) = describe_quality({"emphysema": row}, {}, ["CT", "share"], in_hu=[0])
    assert "bias    +0.07   Wasserstein distance    0.07 in share" in said
    alone = {"emphysema": case(43.0, 0.0)["emphysema"]["channels"][0]}
    assert "channel" not in pooled([alone])["emphysema"]
