"""Figures of lesions from slice to slice, on lesions whose figures are known."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_difflung.commands.augment import main
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.judging.continuity import AlongZ, continuity_reference, measured, of_case
from nnunet_difflung.judging.verdict import judge_continuity
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.preparing.application import AppliedCase
from nnunet_difflung.telling.quality import describe_quality
from tests.support.tiny import make_dataset


def lesion_in(depth: int) -> tuple[np.ndarray, np.ndarray]:
    lesion = np.zeros((depth, 60, 60), bool)
    lesion[2:-2, 10:50, 10:50] = True
    normal = ~lesion
    normal[:, :5] = False
    return lesion, normal


def test_the_correlation_is_that_of_the_texture():
    rng, (lesion, normal) = np.random.default_rng(0), lesion_in(12)
    image = rng.normal(0, 10, lesion.shape)
    for z in range(1, 12):
        image[z] = 0.6 * image[z - 1] + 0.8 * image[z]
    tally = AlongZ()
    tally.add(image + 100 * np.arange(12)[:, None, None], lesion, normal)
    row = tally.row()
    assert row["correlation"] == pytest.approx(0.6, abs=0.02)
    assert row["flicker"] == pytest.approx(100, abs=1)
    assert row["difference"] == pytest.approx(100, abs=1)


def test_the_step_at_the_ends_is_that_to_normal_lung_above_and_below():
    lesion, normal = lesion_in(8)
    image = np.where(lesion, -600.0, -850.0)
    image[1], image[-2] = -800, -700
    normal[-2] = False  # something else lies above it
    tally = AlongZ()
    tally.add(image, lesion, normal)
    assert tally.row()["end_step"] == pytest.approx(200)
    assert tally.row()["difference"] == 0
    assert tally.row()["flicker"] == 0


def test_lesions_are_added_and_what_is_not_there_is_not_known():
    lesion, normal = lesion_in(5)  # a single slice
    tally = AlongZ()
    tally.add(np.where(lesion, 50.0, 0.0), lesion, normal)
    row = tally.row()
    assert row["end_step"] == 50
    assert all(np.isnan(row[name]) for name in ("correlation", "flicker", "difference"))
    more, around = lesion_in(6)
    image = np.where(more, 50.0, 0.0)
    image[3] += 20 * more[3]
    tally.add(image, more, around)
    assert tally.row()["flicker"] == 20
    assert tally.row()["end_step"] == pytest.approx((50 + 50 + 50 + 70) / 4)


ROLES = LabelRoles(("normal_lung",), ("emphysema",), (), {"normal_lung": 1, "emphysema": 2}, None)


WINDOWS = [(-2000.0, 2000.0)]


class Cases:
    """Real cases of one lesion each, whose neighbouring slices correlate."""

    roles = ROLES

    def __init__(self, correlations: list[float], depth: int = 10, jump: float = 0.0):
        lesion, normal = lesion_in(depth)
        self.label = np.where(lesion, 2, np.where(normal, 1, 0)).astype(np.uint8)
        self.images = {f"c{i}": self.textured(i, r, jump) for i, r in enumerate(correlations)}
        counts = {"normal_lung": normal.sum((1, 2)).tolist(), "emphysema": lesion.sum((1, 2)).tolist()}
        self.facts = dict.fromkeys(self.images, SimpleNamespace(shape=self.label.shape, counts=counts))

    def textured(self, seed: int, r: float, jump: float = 0.0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        image = rng.normal(0, 20, self.label.shape)
        for z in range(1, len(image)):
            image[z] = r * image[z - 1] + np.sqrt(1 - r**2) * image[z]
        image += jump * rng.normal(0, 1, (len(image), 1, 1))
        return (np.where(self.label == 2, -940, -850) + image)[None]

    def image(self, identifier: str) -> np.ndarray:
        return self.images[identifier]

    def condition(self, identifier: str) -> np.ndarray:
        return self.label

    def painted(self, seed: int, r: float, jump: float = 0.0) -> list[dict]:
        return measured(self.textured(seed, r, jump), self.label == 2, self.label == 1)


def test_lesions_like_real_ones_are_within_their_range_and_slices_without_relation_are_not():
    real = Cases([0.5, 0.55, 0.6, 0.65, 0.7], jump=4)
    reference = continuity_reference(real, list(real.images), {name: name for name in real.images}, WINDOWS)[
        "emphysema"
    ]
    assert reference[0].all["correlation"] == pytest.approx(0.6, abs=0.02)
    assert len(reference[0].patients["correlation"]) == 5
    alike = judge_continuity([real.painted(20, 0.6, 4), real.painted(21, 0.62, 4)], reference, [0])
    assert {row["figure"]: row["within"] for row in alike} == dict.fromkeys(
        ("correlation", "flicker", "difference", "end_step"), True
    )
    apart = judge_continuity([real.painted(20, 0.0, 25), real.painted(21, 0.0, 25)], reference, [0])
    row = {row["figure"]: row for row in apart}
    assert {figure: row[figure]["within"] for figure in ("correlation", "flicker", "difference")} == dict.fromkeys(
        ("correlation", "flicker", "difference"), False
    )
    assert row["flicker"]["value"] > 3, "as a multiple of the real ones"
    said = "\n".join(describe_quality({}, {"emphysema": {"judged": True, "unpainted": UNPAINTED, "pooled": apart}}))
    assert "Warning: emphysema: correlation of neighbouring slices -0.0" in said
    assert "the range of real lesions of 5 training patients: too different from slice to slice" in said


def test_what_lies_beyond_the_window_is_at_its_end_on_both_sides():
    """Nothing can be painted there, so a painter that is perfect within the window is found to be so."""
    real, windows = Cases([0.5, 0.55, 0.6, 0.65]), [(-945.0, 1000.0)]
    cut = {name: np.clip(image, *windows[0]) for name, image in real.images.items()}
    assert any((cut[name] != image).any() for name, image in real.images.items())
    patients = {name: name for name in real.images}
    whole = continuity_reference(real, list(real.images), patients, windows)
    real.images = cut
    assert continuity_reference(real, list(cut), patients, WINDOWS) == whole


UNPAINTED = {"hosts": 30, "passing": 0, "upper_bound": 0.1}


def test_one_patient_gives_no_range_and_a_dataset_of_slices_no_reference():
    real = Cases([0.5])
    (reference,) = continuity_reference(real, list(real.images), {"c0": "c0"}, WINDOWS).values()
    assert {row["within"] for row in judge_continuity([real.painted(3, 0.5)], reference, [0])} == {None}
    slices = Cases([0.5])
    slices.facts = dict.fromkeys(slices.images, SimpleNamespace(shape=(1, 60, 60), counts={}))
    assert continuity_reference(slices, list(slices.images), {"c0": "c0"}, WINDOWS) == {}


def test_lesions_of_a_single_slice_are_not_measured():
    real = Cases([0.5])
    lesion = real.label == 2
    lesion[3:] = False
    assert measured(real.images["c0"], lesion, real.label == 1) is None


@pytest.mark.parametrize("volumes", [True, False])
def test_what_is_painted_in_volumes_is_judged_from_slice_to_slice(folders, capsys, volumes):
    folder = make_dataset(folders[0], patients=6, size=64, volumes=volumes, depth=8)
    main(["-d", "801", "-f", "0", "-device", "cpu", "--method", "copy_paste", "--gate", "report"])
    said = capsys.readouterr().out
    assert ("correlation of neighbouring slices" in said) is volumes
    cases = read_manifest(folder)["cases"].values()
    assert all(("along_z" in record) is volumes for record in cases)
    (path,) = folders[2].rglob("augment_report.json")
    (row,) = json.loads(path.read_text())["folds"]
    figures = {verdict["figure"] for of_class in row["verdicts"].values() for verdict in of_class["pooled"]}
    assert ({"correlation", "flicker", "difference", "end_step"} <= figures) is volumes


def test_joined_tallies_are_as_if_all_lesions_had_been_counted_in_one():
    (lesion, normal), rng = lesion_in(8), np.random.default_rng(0)
    images = [rng.normal(-900, 30, lesion.shape) for _ in range(2)]
    one, apart = AlongZ(), [AlongZ(), AlongZ()]
    for image, tally in zip(images, apart, strict=True):
        one.add(image, lesion, normal)
        tally.add(image, lesion, normal)
    apart[0].join(apart[1])
    assert apart[0].row() == pytest.approx(one.row())
    assert apart[0].pairs == one.pairs


def test_a_case_is_measured_in_its_new_lesions_and_in_the_slices_beside_them():
    """As if the whole volume had been looked at, whose own lesion is not counted."""
    rng, shape, z = np.random.default_rng(0), (12, 40, 40), (4, 5, 6, 9)
    host = rng.normal(-850, 20, (1, *shape))
    condition = np.ones(shape, np.uint8)
    condition[5:8, 30:36, 30:36] = 2
    changed = np.zeros(shape, bool)
    changed[4:7, 8:20, 8:20] = changed[9, 8:20, 22:30] = True
    values = rng.normal(-940, 20, (1, len(z), 40, 40))
    image, label = host.copy(), condition.copy()
    image[0][changed] = values[0][changed[list(z)]]
    label[changed] = 2
    values = image[:, list(z)]
    planned = PlannedCase(0, "host", (), z, 0)
    whole = (host[:, list(z)], label[list(z)], changed[list(z)], label[list(z)], changed[list(z)])
    applied = AppliedCase(planned, shape, (3.0, 1.0, 1.0), *whole)
    cache = SimpleNamespace(roles=ROLES, image=lambda _: host, condition=lambda _: condition)
    (found,) = of_case(applied, values, cache, WINDOWS)["emphysema"]
    (expected,) = measured(image, changed, label == 1)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found["end_step"] == pytest.approx(90, abs=10)
    assert found["pairs"] == 2 * 12 * 12


def test_cases_count_by_their_pairs_of_voxels():
    real = Cases([0.5, 0.6])
    reference = continuity_reference(real, list(real.images), {name: name for name in real.images}, WINDOWS)[
        "emphysema"
    ]
    rows = [[{"correlation": 0.2, "pairs": 300}], [{"correlation": 0.8, "pairs": 100}]]
    assert [(row["figure"], row["value"]) for row in judge_continuity(rows, reference, [0])] == [("correlation", 0.35)]


def test_what_is_known_of_fewer_patients_than_the_class_is_said_as_that():
    real = Cases([0.5, 0.6, 0.55])
    reference = continuity_reference(real, list(real.images), {name: name for name in real.images}, WINDOWS)[
        "emphysema"
    ]
    reference[0].patients["end_step"] = reference[0].patients["end_step"][:1]
    pooled = judge_continuity([real.painted(9, 0.55)], reference, [0])
    said = "\n".join(describe_quality({}, {"emphysema": {"judged": True, "unpainted": UNPAINTED, "pooled": pooled}}))
    assert "step at the first and last slice 1.0" in said
    assert "not judged, since it is known of fewer than two training patients" in said
    assert "only one training patient has the class" not in said


def test_ends_count_by_their_own_voxels():
    real = Cases([0.5, 0.6])
    reference = continuity_reference(real, list(real.images), {name: name for name in real.images}, WINDOWS)[
        "emphysema"
    ]
    step = reference[0].all["end_step"]
    rows = [[{"end_step": step, "pairs": 300, "ends": 10}], [{"end_step": 3 * step, "pairs": 1, "ends": 30}]]
    assert [(row["figure"], row["value"]) for row in judge_continuity(rows, reference, [0])] == [("end_step", 2.5)]
