"""The edge of what was painted, measured against the step that was there."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.judging.seam import real_seams, seam_of
from nnunet_difflung.judging.verdict import judge_seam
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.preparing.application import AppliedCase, painted_region
from nnunet_difflung.telling.quality import describe_placebo, describe_quality

ROLES = LabelRoles(("normal_lung",), ("emphysema", "ILD"), (), {"normal_lung": 1, "emphysema": 2, "ILD": 3}, None)
WINDOWS = ((-1000.0, 1000.0),)
FADED = SamplingConfig(margin=4, edge="faded")
SIZE, LEVEL, NOISE = 72, -850.0, 40.0


def noise(seed: int, shape=(1, 1, SIZE, SIZE)) -> np.ndarray:
    return LEVEL + NOISE * np.random.default_rng(seed).standard_normal(shape)


def case(sampling: SamplingConfig, depth: int = 1, placebo: bool = False, spacing=(5.0, 1.0, 1.0)) -> AppliedCase:
    """An image of noise in which the slices from the second to the last but one get two lesions (of one: it gets them).

    In volumes the slices are painted together.
    """
    label = np.ones((depth, SIZE, SIZE), np.uint8)
    new_label = label.copy()
    part = slice(1, -1) if depth > 1 else slice(None)
    new_label[part, 15:35, 15:35] = 2
    new_label[part, 50:58, 48:60] = 3
    outline, slices = new_label != label, tuple(range(depth))
    region = painted_region(label, outline, ROLES, sampling, (slices, spacing) if depth > 1 else None)
    shown = label if placebo else new_label
    return AppliedCase(
        PlannedCase(0, "host", (), slices, 0),
        label.shape,
        spacing,
        noise(0, (1, *label.shape)),
        shown,
        shown != label,
        shown,
        region,
        placebo=outline if placebo else None,
    )


def ratio(applied: AppliedCase, values: np.ndarray, name: str = "emphysema") -> float:
    (row,) = seam_of(applied, values, ROLES, WINDOWS)[name]
    return row["painted"] / row["host"]


def test_a_host_that_was_not_painted_has_its_own_steps():
    applied = case(FADED)
    seams = seam_of(applied, applied.image, ROLES, WINDOWS)
    assert set(seams) == {"emphysema", "ILD"}
    for (row,) in seams.values():
        assert row["painted"] == row["host"] == pytest.approx(NOISE * 2 / np.sqrt(np.pi), rel=0.25)


def test_only_the_edge_in_normal_lung_is_measured_and_each_class_has_its_own():
    applied = case(FADED)
    values = applied.image.copy()
    values[0][applied.outline] = 500.0  # whatever a lesion is like
    values[0, 0, :, 45:][applied.region[0, :, 45:]] += 300.0  # around the second lesion
    assert ratio(applied, values) == 1
    assert ratio(applied, values, "ILD") > 4
    without_margin = case(SamplingConfig(margin=0))
    assert seam_of(without_margin, without_margin.image, ROLES, WINDOWS) == {}


def test_what_is_no_normal_lung_is_no_neighbour():
    applied = case(FADED)
    label = applied.new_label.copy()
    label[:, :11] = 3  # another pathology of the host, next to the margin
    values, everywhere = applied.image.copy(), seam_of(applied, applied.image, ROLES, WINDOWS)["emphysema"][0]["pairs"]
    region = applied.region & (label == applied.new_label)
    fewer = replace(applied, new_label=label, condition=label, region=region)
    values[0][label == 3] = 900.0
    (row,) = seam_of(fewer, values, ROLES, WINDOWS)["emphysema"]
    assert row["pairs"] < everywhere
    assert row["painted"] == row["host"]


@pytest.mark.parametrize(("open_pixels", "measured"), [(7, False), (8, True)])
def test_a_seam_of_a_few_pixels_says_nothing(open_pixels, measured):
    applied = case(FADED)
    label = np.where(applied.region, applied.new_label, 3).astype(np.uint8)
    label[0, 20 : 20 + open_pixels, 10] = 1  # all the normal lung that is left beside the margin
    few = replace(applied, new_label=label, condition=label)
    assert ("emphysema" in seam_of(few, few.image, ROLES, WINDOWS)) == measured


def test_intensities_count_as_far_as_the_window_reaches():
    applied = case(FADED)
    image = applied.image.copy()
    image[0][~applied.region] = -3000.0
    applied = replace(applied, image=image)
    (row,) = seam_of(applied, image, ROLES, WINDOWS)["emphysema"]
    assert row["host"] == pytest.approx(150, abs=10), "from -850 to -1000, not to -3000"


def test_the_outlines_of_a_placebo_case_have_one_seam():
    applied = case(FADED, placebo=True)
    assert set(seam_of(applied, applied.image, ROLES, WINDOWS)) == {"placebo"}


def rows(*ratios: float, pairs: int = 50) -> list[list[dict]]:
    return [[{"painted": 30.0 * r, "host": 30.0, "pairs": pairs}] for r in ratios]


def test_seams_are_judged_over_all_cases():
    (alike,) = judge_seam(rows(1.0, 1.1, 0.95, 1.05, 1.0), [0])
    assert alike["within"] is True
    assert alike["value"] == pytest.approx(1.02, abs=0.005)
    (shown,) = judge_seam(rows(1.5, 1.6, 1.4, 1.5, 1.55), [0])
    assert shown["within"] is False
    (smooth,) = judge_seam(rows(0.5, 0.6, 0.55, 0.5, 0.6), [0])
    assert smooth["within"] is False
    (few,) = judge_seam(rows(1.5, 1.6, 1.4, 1.5), [0])
    assert (few["within"], few["low"], few["high"]) == (None, None, None)
    assert judge_seam([], [0]) == []
    flat = [[{"painted": 3.0, "host": 0.0, "pairs": 50}]]
    assert judge_seam([*flat, *rows(1.0, 1.1, 0.95, 1.05, 1.0)], [0])[0] == alike, (
        "a flat host has no step to compare with"
    )


def test_a_seam_that_differs_much_between_cases_is_not_held_against_them():
    (sure,), (unsure,) = judge_seam(rows(*[1.18] * 6), [0]), judge_seam(rows(0.5, 2.8, 0.6, 2.5, 0.7, 2.0), [0])
    assert sure["high"] == pytest.approx(1.1)
    assert sure["within"] is False
    assert unsure["within"] is True
    assert unsure["high"] > 1.5


def test_a_step_of_the_painters_own_is_told_in_a_dozen_cases_though_their_hosts_differ():
    """As of an untrained painter in quiet and in grainy lung: its own step is 90 HU, the hosts' are 15 to 100 HU."""
    hosts = np.linspace(15, 100, 12)
    (shown,) = judge_seam([[{"painted": 90.0, "host": float(host), "pairs": 50}] for host in hosts], [0])
    assert shown["within"] is False
    assert shown["value"] == pytest.approx(90 / np.exp(np.log(hosts).mean()), rel=1e-3)


def test_real_lesions_fade_into_the_lung_and_painted_ones_may_too():
    (judged,) = judge_seam(rows(1.25, 1.3, 1.2, 1.25, 1.3), [0], [1.2])
    assert (judged["real"], judged["within"]) == (1.2, True)
    assert judge_seam(rows(1.25, 1.3, 1.2, 1.25, 1.3), [0])[0]["within"] is False
    assert judge_seam(rows(1.0, 1.0, 1.01, 1.0, 1.0), [0], [1.2])[0]["within"] is False, "too smooth for this class"


class Slices:
    """Real slices of noise with a lesion of emphysema, around which it fades over so many pixels."""

    roles = ROLES

    def __init__(self, blur: float, patients: int = 6):
        self.label = np.ones((1, SIZE, SIZE), np.uint8)
        self.label[0, 26:46, 26:46] = 2
        away = ndimage.distance_transform_edt(self.label[0] == 1)
        halo = 400.0 * np.exp(-away / blur) if blur else np.where(away == 0, 400.0, 0.0)
        self.images = {f"c{i}": noise(i)[0] + halo for i in range(patients)}
        counts = {"normal_lung": [SIZE**2 - 400], "emphysema": [400], "ILD": [0]}
        self.facts = dict.fromkeys(self.images, SimpleNamespace(counts=counts))
        self.patients = {name: name for name in self.images}

    def image(self, identifier: str) -> np.ndarray:
        return self.images[identifier][None]

    def condition(self, identifier: str) -> np.ndarray:
        return self.label

    def seams(self, margin: int) -> dict[str, list[float]]:
        return real_seams(self, list(self.images), self.patients, SamplingConfig(margin=margin), WINDOWS)


def test_the_real_figure_is_that_of_the_step_as_far_from_the_outline_as_painting_ends():
    sharp, soft = Slices(0.0), Slices(2.0)
    assert sharp.seams(2)["emphysema"] == pytest.approx([1.0], abs=0.08)
    near, far = soft.seams(1)["emphysema"][0], soft.seams(6)["emphysema"][0]
    assert near > 1.5 > 1.1 > far
    assert set(soft.seams(2)) == {"emphysema"}
    assert soft.seams(0) == {}


def test_patients_count_alike_in_the_real_figure():
    soft, sharp = Slices(2.0), Slices(0.0)
    cache = Slices(0.0, patients=2)
    cache.images = {f"a{i}": image for i, image in enumerate(soft.images.values())} | {"b": sharp.images["c0"]}
    cache.facts = dict.fromkeys(cache.images, soft.facts["c0"])
    cache.patients = {name: name[0] for name in cache.images}
    expected = np.sqrt(soft.seams(1)["emphysema"][0] * Slices(0.0, patients=1).seams(1)["emphysema"][0])
    assert cache.seams(1)["emphysema"][0] == pytest.approx(expected, rel=1e-3)


def test_seams_are_said_in_plain_words():
    def said(*ratios: float) -> str:
        verdict = {"judged": True, "unpainted": {"hosts": 9, "passing": 0, "upper_bound": 0.2}, "pooled": []}
        lines = describe_quality({}, {"emphysema": verdict | {"seam": judge_seam(rows(*ratios), [0])}})
        return "\n".join(lines)

    assert (
        "  emphysema: step at the edge of what was painted 1.00 times the step that was there (0.91 to 1.10)"
        in said(*[1.0] * 5)
    )
    assert "  Warning: emphysema: step at the edge of what was painted 1.50" in said(*[1.5] * 5)
    assert said(*[1.5] * 5).endswith("is outside 0.91 to 1.10: the edge shows")
    assert said(*[0.5] * 5).endswith(": the edge is too smooth")
    assert said(1.5).endswith("not judged, since 1 case is too few")
    placebo = {"kept": 6, "planned": 6, "share": 0.5, "quality": {}, "seam": judge_seam(rows(*[1.5] * 6), [0])}
    assert describe_placebo(placebo)[-1].startswith("  Warning: placebo: step at the edge")
