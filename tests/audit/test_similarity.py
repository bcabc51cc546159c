"""Slices of one person are recognised whatever the cases are called, and slices of different people are not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import fft, ndimage

from nnunet_difflung.audit import image_check, similarity, slice_pictures
from nnunet_difflung.audit.image_check import ImageCheck, check_images
from nnunet_difflung.audit.slice_pictures import picture_of
from tests.support.anatomies import chest, windowed, write_chests
from tests.support.tiny import set_paths

PEOPLE = 6
SPLITS = [{"train": ["a", "b", "c"], "val": ["d", "e", "f"]}, {"train": ["d", "e", "f"], "val": ["a", "b", "c"]}]


def _image(image: np.ndarray, spacing: float = 5.0) -> tuple[np.ndarray, float]:
    return image, spacing


def check(images: dict[str, np.ndarray], splits=SPLITS, spacing: float = 5.0, **more) -> ImageCheck:
    """Compares images (z, y, x) or (y, x)."""
    whole = {i: image.reshape(1, -1, *image.shape[-2:]) for i, image in images.items()}
    return check_images({i: partial(_image, whole[i], spacing) for i in whole}, splits, progress=False, **more)


def test_processes_see_what_threads_see(monkeypatch):
    images = {name: chest(person) for person, name in zip((0, 1, 2, 0, 4), "abcde", strict=True)}
    expected = check(images)
    assert expected.identical
    monkeypatch.setattr(image_check, "_WORTH_CASES", 2)
    assert check(images, processes=2) == expected


@pytest.fixture(scope="module")
def different() -> dict[str, np.ndarray]:
    """A slice each of six people."""
    return {name: chest(person) for person, name in enumerate("abcdef")}


def test_different_people_are_not_matched(different):
    found = check(different)
    assert found.pairs == ()
    assert (found.framed, found.cut_outs, found.unjudged) == (PEOPLE, 0, 0)


@pytest.mark.parametrize(
    ("change", "z"),
    [
        (lambda image: image, 4.0),
        (windowed, 4.0),
        (lambda image: np.roll(image, (6, -9), (0, 1)), 4.0),
        (lambda image: image[20:-20, 4:-4], 4.0),
        (lambda image: ndimage.zoom(image, 0.7, order=1), 3.0),
        (lambda image: ndimage.zoom(image, 1.5, order=1), 4.0),
        (lambda image: ndimage.gaussian_filter(image.astype(float), 1.0), 4.0),
        (lambda image: image + 1024, 0.0),
    ],
    ids=["neighbour", "8 bits", "shifted", "cropped", "coarser", "finer", "soft kernel", "other offset"],
)
def test_the_same_person_is_found(different, change, z):
    found = check({**different, "e": change(chest(1, z))})
    assert [(pair.training, pair.validation) for pair in found.pairs] == [("b", "e")]
    pair = found.pairs[0]
    assert pair.folds == (0, 1)
    assert not pair.identical
    assert pair.slices[0].similarity > 0.75
    assert pair.slices[0].outline > 0.9


def test_bones_are_evidence_only_where_the_window_shows_them(different):
    assert check({**different, "e": chest(1, 3)}).pairs[0].slices[0].bones > 0.5
    assert check({**different, "e": windowed(chest(1, 3))}).pairs[0].slices[0].bones is None


def test_the_same_side_of_every_fold_is_no_matter(different):
    assert check({**different, "c": chest(0, 3)}).pairs == ()


def test_equal_voxels_are_identical_even_without_a_body():
    noise = np.random.default_rng(0).normal(-800, 60, (6, 24, 24)).astype(np.int16)
    found = check({"a": noise[0], "b": noise[1], "c": noise[2], "d": noise[3], "e": noise[1], "f": noise[5]})
    assert [(p.training, p.validation, p.identical) for p in found.identical] == [("b", "e", True)]
    assert found.unjudged == PEOPLE  # too small for anything else
    assert "cannot be judged" in found.judged()


def test_a_fold_may_validate_on_the_cases_whose_names_come_first(different):
    fold = [{"train": ["d", "e", "f"], "val": ["a", "b", "c"]}]
    for image, identical in ((different["b"], True), (chest(1, 4), False)):
        found = check({**different, "e": image}, splits=fold)
        assert [(p.training, p.validation, p.identical) for p in found.pairs] == [("e", "b", identical)]


def test_empty_slices_are_not_identical():
    assert check({name: np.full((64, 64), -1000) for name in "abcdef"}).pairs == ()


def beyond_the_body(table: int) -> np.ndarray:
    """A slice of air in a scanner's circle, on a table."""
    y, x = np.ogrid[:96, :96]
    air = np.where((y - 48) ** 2 + (x - 48) ** 2 < 46**2, -1000, -2048)
    air[70:76, 20:76] = table
    return air


def test_half_of_an_empty_slice_may_be_padding(different):
    half = np.where(np.arange(96) < 48, 0, -1000) * np.ones((96, 1), int)
    assert check({name: np.stack([half, image[:96, :96]]) for name, image in different.items()}).identical == ()


@pytest.mark.parametrize("table", [-1000, -300], ids=["air", "table"])
def test_padding_and_a_table_are_not_the_same_patient(different, table):
    empty, bodies = beyond_the_body(table), {name: image[:96, :96] for name, image in different.items()}
    assert check({name: np.stack([empty, body]) for name, body in bodies.items()}).identical == ()
    assert check(dict.fromkeys("abcdef", empty)).pairs == ()


def test_a_copy_is_seen_in_any_channel(different):
    images = {name: np.stack([np.zeros_like(image), image])[:, None] for name, image in different.items()}
    images["e"] = images["b"].copy()
    found = check_images({i: partial(_image, images[i]) for i in images}, SPLITS, progress=False)
    assert [(p.training, p.validation, p.identical) for p in found.pairs] == [("b", "e", True)]


def test_cut_outs_cannot_be_judged_but_copies_are_found(different):
    inside = {name: image[50:110, 30:90] for name, image in different.items()}
    neighbours = check({**inside, "e": chest(1, 8)[50:110, 30:90]})
    assert neighbours.pairs == ()
    assert neighbours.cut_outs == PEOPLE
    assert neighbours.unjudged_cases == tuple("abcdef")
    assert "patients cannot be judged" in neighbours.judged()
    copied = check({**inside, "e": windowed(different["b"])[51:111, 30:90]})
    assert [(p.training, p.validation) for p in copied.pairs] == [("b", "e")]


def test_a_slice_is_found_in_a_volume(different):
    volume = np.stack([chest(4, z) for z in range(0, 40, 2)])
    found = check({**different, "a": chest(4, 17), "e": volume}, spacing=2.0)
    (pair,) = found.pairs
    assert (pair.training, pair.validation, pair.slices[0].training_slice) == ("a", "e", 0)
    assert abs(2 * pair.slices[0].validation_slice - 17) <= 4


def test_people_who_resemble_each_other_raise_the_threshold():
    alike = {name: chest(0) + 0 for name in "abcdef"}
    for n, image in enumerate(alike.values()):  # symmetric bodies of one build, with noise of their own
        image[:] = (image.astype(int) + image[:, ::-1]) // 2 + np.random.default_rng(n).normal(0, 60, image.shape)
    found = check(alike)
    assert found.thresholds["framed"] > 0.9
    assert found.pairs == ()
    assert "only near copies" in found.judged()


def test_without_folds_all_cases_of_different_patients_are_compared(different):
    images = {**different, "b": chest(0, 3)}
    assert len(check(images, splits=None).pairs) == 1
    assert check(images, splits=None, patients={"a": "x", "b": "x"}).pairs == ()


def test_the_result_survives_json(different):
    found = check({**different, "e": chest(1, 3), "f": different["a"]})
    assert ImageCheck.of(json.loads(json.dumps(found.as_dict()))) == found


def test_a_mirror_image_reaches_what_chance_reaches(different):
    pictures = [picture_of(image) for image in different.values()]
    chance = similarity.mirror_similarity(pictures)
    assert 0.1 < chance[True] < 0.7
    assert chance[False] == 0
    assert similarity.thresholds_above({True: 0.8, False: 0.99}) == {True: pytest.approx(0.87), False: 0.97}


# ---- difflung_audit --images ----


CODE = """
import sys
from nnunet_difflung.commands.audit import entry
try:
    entry(sys.argv[1:])
finally:
    print([name for name in ("torch", "accelerate") if name in sys.modules], file=sys.stderr)
"""


def audit(*options: str) -> subprocess.CompletedProcess:
    words = ["-d", "801", "--images", *options]
    return subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return set_paths(tmp_path, monkeypatch)[0] / "Dataset801_Tiny"


def test_audit_lists_suspicious_pairs_and_draws_them(different, folder, tmp_path):
    write_chests(folder, {**different, "e": chest(1, 4)}, SPLITS)
    done = audit()
    assert done.returncode == 3, done.stdout + done.stderr
    assert "? fold 0 (and 1): training b, validation e: similarity 0.9" in done.stdout
    sheet = tmp_path / "nnUNet_results/Dataset801_Tiny/DiffLung__audit/images.png"
    assert f"look at {sheet}" in done.stdout
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert done.stderr.strip().splitlines()[-1] == "[]"
    content = json.loads(audit("--json").stdout)["images"]
    assert [(p["training"], p["validation"]) for p in content["pairs"]] == [("b", "e")]
    assert content["sheet"] == str(sheet)


def test_audit_finds_nothing_among_different_people(different, folder):
    write_chests(folder, different, SPLITS)
    done = audit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images: 6 slices compared" in done.stdout


def test_audit_calls_equal_voxels_a_leak(different, folder):
    write_chests(folder, {**different, "e": different["b"].astype(np.float32)}, SPLITS)
    done = audit()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "- fold 0 (and 1): training b, validation e: the same voxels" in done.stdout
    assert "Dataset801_Tiny: 1 leak, 1 problem" in done.stdout


def test_audit_of_many_pairs_prints_twenty_lines(folder):
    names = [f"{n:02d}" for n in range(16)]
    write_chests(
        folder, {name: chest(0, n / 2) for n, name in enumerate(names)}, [{"train": names[:8], "val": names[8:]}]
    )
    lines = audit().stdout.splitlines()
    assert sum(line.startswith("? fold") for line in lines) == 20
    assert "? and 44 more pairs of cases, which --json lists" in lines


def test_audit_without_the_raw_dataset_says_what_it_needs(folder, tmp_path):
    (tmp_path / "nnUNet_preprocessed/Dataset801_Tiny").mkdir()
    done = audit()
    assert done.returncode == 2
    assert "--images needs the images of Dataset801_Tiny" in done.stderr


def test_the_remedy_fits_whether_there_are_folds(different, folder):
    people = {**different, "e": different["b"].astype(np.float32)}
    write_chests(folder, people, SPLITS)
    assert "or put both on the same side of every fold in splits_final.json" in audit().stdout
    (folder / "splits_final.json").unlink()
    done = audit()
    assert "or list both under one patient in a file for difflung_augment --patients" in done.stdout
    assert "without folds, the cases of all patients were compared" in done.stdout


def test_pairs_are_aligned_by_the_maximum_of_the_cross_correlation():
    first = [picture_of(chest(person)) for person in range(4)]
    second = [
        picture_of(np.roll(chest(person, z), (2 * person, -person), (0, 1)))
        for person, z in ((0, 1), (1, 2), (3, 0), (2, 1))
    ]
    details = [np.stack([picture.detail for picture in side]).astype(float) for side in (first, second)]
    products = fft.ifft2(fft.fft2(details[0]) * fft.fft2(details[1]).conj()).real
    offsets = np.arange(-6, 7)
    near = products[:, offsets][:, :, offsets]
    norms = np.sqrt((details[0] ** 2).sum((1, 2)) * (details[1] ** 2).sum((1, 2)))
    similarities, shifts = similarity.aligned(first, second)
    assert similarities == pytest.approx(near.max((1, 2)) / norms, abs=1e-5)
    assert [near[n][tuple(shift + 6)] for n, shift in enumerate(shifts)] == pytest.approx(near.max((1, 2)))


def test_the_shift_is_that_of_the_second_picture():
    picture = picture_of(chest(0))
    moved = replace(picture, detail=np.roll(picture.detail, (3, -2), (0, 1)))
    similarities, shifts = similarity.aligned([picture, moved], [moved, picture])
    assert shifts.tolist() == [[-3, 2], [3, -2]]
    assert similarities == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_pictures_are_opened_and_blurred_as_by_scipy(share):
    rng = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(rng.random((50, 70)), 1) < np.quantile(rng.random(5000), share)
    mask[0] = mask[:, -1] = True  # at the edges, too
    assert (slice_pictures._opened(mask) == ndimage.binary_opening(mask)).all()
    image = rng.normal(size=(slice_pictures.SIZE,) * 2).astype(np.float32)
    for sigma in (0.7, 2, 8):
        assert slice_pictures._blurred(image, sigma) == pytest.approx(ndimage.gaussian_filter(image, sigma), abs=1e-5)
