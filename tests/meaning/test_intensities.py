"""What CT values mean is found out from where air, lung and soft tissue lie; real HU are never refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.meaning.intensities import Meaning, judge, odd_slices
from tests.support.archives import chest

DATA = Path(os.environ.get("DIFFLUNG_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def hu(size: int = 64, depth: int = 4) -> np.ndarray:
    """A noisy chest in HU, with air around it that differs from voxel to voxel."""
    values, _ = chest(1, depth, size)
    return np.rint(values + np.random.default_rng(0).normal(0, 12, values.shape)).astype(np.int16)


def filled(values: np.ndarray, fill: float) -> np.ndarray:
    """Values with a constant outside a circle, as outside the field of view."""
    y, x = np.ogrid[: values.shape[-2], : values.shape[-1]]
    middle = (np.array(values.shape[-2:]) - 1) / 2
    outside = np.hypot((y - middle[0]) / middle[0], (x - middle[1]) / middle[1]) > 1
    return np.where(outside, np.asarray(fill, values.dtype), values)


def window(values: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip((values + 1350) / 1500, 0, 1))


FAULTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Meaning, float | None]] = {
    "intercept lost": (lambda v: v + 1024, Meaning.OFFSET, -1024),
    "intercept lost, unsigned": (lambda v: (np.clip(v, -1024, None) + 1024).astype(np.uint16), Meaning.OFFSET, -1024),
    "intercept lost, overshoot": (
        lambda v: np.where(np.arange(v.size).reshape(v.shape) < 20, -3, v + 1024),
        Meaning.OFFSET,
        -1024,
    ),
    "intercept lost, filled with -1024": (lambda v: filled(v + 1024, -1024), Meaning.OFFSET, -1024),
    "intercept lost, filled with -2000": (lambda v: filled(v + 1024, -2000), Meaning.OFFSET, -1024),
    "intercept lost, filled with 0": (lambda v: filled(v + 1024, 0), Meaning.OFFSET, -1024),
    "subtracted twice": (lambda v: v - 1024, Meaning.OFFSET, 1024),
    "offset of DeepLesion": (lambda v: (v.astype(np.int32) + 32768).astype(np.uint16), Meaning.OFFSET, -32768),
    "offset of DeepLesion, intercept subtracted": (lambda v: v.astype(np.int32) + 31744, Meaning.OFFSET, -31744),
    "upside down": (lambda v: -1 - v, Meaning.INVERTED, -1),
    "upside down, 12 bits": (lambda v: 3071 - v, Meaning.INVERTED, 3071),
    "signed read as unsigned": (lambda v: v.view(np.uint16), Meaning.WRAPPED, None),
    "12 bits without sign": (lambda v: v % 4096, Meaning.WRAPPED, None),
    "DeepLesion read as signed": (
        lambda v: (v.astype(np.int32) + 32768).astype(np.uint16).view(np.int16),
        Meaning.WRAPPED,
        None,
    ),
    "times 10": (lambda v: v.astype(np.int32) * 10, Meaning.SCALED, 0),
    "a tenth": (lambda v: v * 0.1, Meaning.SCALED, 0),
    "a thousandth": (lambda v: v / 1000, Meaning.PICTURE, None),
    "8 bits": (lambda v: window(v).astype(np.uint8), Meaning.PICTURE, None),
    "8 bits, inverted": (lambda v: 255 - window(v), Meaning.PICTURE, None),
    "8 bits, signed": (lambda v: np.clip(0.25 * v + 100, -128, 127).astype(np.int8), Meaning.PICTURE, None),
    "16 bits": (lambda v: (window(v) * 257).astype(np.uint16), Meaning.UNKNOWN, None),
    "0 to 1": (lambda v: window(v) / 255, Meaning.PICTURE, None),
    "z-score": (lambda v: (v - v.mean()) / v.std(), Meaning.PICTURE, None),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("depth", [1, 4])
def test_a_fault_is_recognised(name, depth):
    fault, meaning, intercept = FAULTS[name]
    judgement = judge(fault(hu(depth=depth)))
    assert judgement.not_hu
    assert judgement.meaning == meaning, judgement
    if intercept is not None:
        assert judgement.intercept == intercept


def test_the_text_says_where_air_and_tissue_lie():
    judgement = judge(hu() + 1024)
    assert judgement.air == pytest.approx(50, abs=60)
    assert judgement.tissue == pytest.approx(1064, abs=5)
    assert "soft tissue around 106" in judgement.found()
    assert "HU +1024" in judgement.because()


@pytest.mark.parametrize(
    "make",
    [
        lambda v: v,
        lambda v: filled(v, -2000),
        lambda v: filled(v, -3024),
        lambda v: filled(v, 0),
        lambda v: v[:, 20:44, 8:28],
        lambda v: np.clip(v, -1000, 400),
        lambda v: v + np.random.default_rng(1).normal(0, 150, v.shape),
        lambda v: np.where(np.random.default_rng(1).random(v.shape) < 0.1, 2500, v),
    ],
    ids=["whole", "circle -2000", "circle -3024", "circle 0", "crop", "clipped", "noisy", "metal"],
)
def test_hu_are_hu(make):
    assert judge(make(hu())).meaning is Meaning.HU


@pytest.mark.parametrize("background", [0, -1000, -1024, -2000, -3024])
def test_lungs_without_their_surroundings_are_hu(background):
    values, label = chest(1)
    assert judge(np.where(label > 0, values, np.int16(background))).meaning is Meaning.HU


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((1, 8, 8)),
        np.full((1, 8, 8), -1000),
        np.random.default_rng(0).normal(40, 20, (1, 32, 32)).round(),
        np.where(np.arange(64).reshape(1, 8, 8) < 32, -1000, 0),
        np.random.default_rng(0).normal(24, 12, (1, 32, 32)).round(),
    ],
    ids=["zeros", "air", "soft tissue", "two values", "air of stored values"],
)
def test_what_shows_too_little_is_not_refused(values):
    assert not judge(values).not_hu


def test_pictures_of_8_bits_minus_1024_are_not_taken_for_hu():
    rng = np.random.default_rng(0)
    picture = np.clip(np.where(rng.random((4, 64, 64)) < 0.4, 15, 190) + rng.normal(0, 20, (4, 64, 64)), 0, 255).round()
    assert judge(picture).meaning is Meaning.PICTURE
    assert judge(picture - 1024, np.ones(picture.shape, bool)).meaning is Meaning.UNCERTAIN
    assert judge(rng.normal(-900, 30, (4, 64, 64)).round(), np.ones(picture.shape, bool)).meaning is Meaning.HU


def test_the_label_of_normal_lung_decides():
    rng = np.random.default_rng(0)
    lung = np.ones((1, 40, 40), bool)
    values = rng.normal(-850, 60, lung.shape).round()
    assert judge(values, lung).meaning is Meaning.HU
    stored = np.clip(values + 1024, -20, None) - 8
    stored[0, 0, :30] = -5
    assert judge(stored).meaning is not Meaning.HU
    assert judge(stored, lung).not_hu
    dense = np.where(np.arange(1600).reshape(1, 40, 40) < 800, values, 1500)
    assert judge(dense).not_hu, "half of it metal"
    assert judge(dense, np.arange(1600).reshape(1, 40, 40) < 800).meaning is Meaning.HU


def test_a_window_that_cuts_off_the_lung_is_no_offset_and_not_upside_down():
    values = hu()
    for low, high in ((-160, 100), (-100, 90), (-125, 60)):
        judged = judge(np.clip(values, low, high), (values > -950) & (values < -700))
        assert (judged.meaning, judged.low, judged.high) == (Meaning.UNKNOWN, low, high)


def test_the_label_tells_a_crop_upside_down_from_hu():
    values, label = (array[:, 16:48, 10:30] for array in chest(1))
    mirrored = np.rint(-700 - values + np.random.default_rng(0).normal(0, 15, values.shape))
    assert judge(mirrored).meaning is Meaning.HU, "air and tissue have changed places"
    assert judge(mirrored, label == 1).meaning is Meaning.INVERTED
    assert judge(values, label == 0).meaning is Meaning.HU, "a wrong label is no reason to refuse HU"


def test_slices_that_do_not_fit_the_others():
    values = hu(depth=8)
    assert odd_slices(values) == []
    values[3] += 1024
    values[5] = -1 - values[5]
    assert judge(values).meaning is Meaning.HU
    assert [(z, judgement.meaning) for z, judgement in odd_slices(values)] == [
        (3, Meaning.OFFSET),
        (5, Meaning.INVERTED),
    ]


def real_hu() -> Iterator[tuple[str, np.ndarray]]:
    """Real CT in HU: whole chests, crops around nodules and patches of lung (a part of them)."""
    import SimpleITK as sitk

    for path in sorted((DATA / "plethora/ct").glob("*.nii.gz"))[:2]:
        yield "chest", sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[::8]
    for path in sorted((DATA / "lidc_voi/image").glob("*.nii.gz"))[::24]:
        yield "crop", sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    patches = np.load(DATA / "cip_emphysema/patches.npz")
    for name in patches.files:
        for patch in patches[name][::16]:
            yield "patch", patch[None]


needs_data = pytest.mark.skipif(
    not (DATA / "lidc_voi").is_dir(), reason="the real CT is not available; set DIFFLUNG_TEST_DATA to its folder"
)


@needs_data
def test_real_hu_are_never_refused_and_real_faults_are():
    missed: dict[str, int] = {}
    patches = uncertain = 0
    for kind, values in real_hu():
        meaning = judge(values).meaning
        if kind == "patch":  # lung alone, without anything above -769 HU, may be a picture of 8 bits minus 1024
            patches, uncertain = patches + 1, uncertain + (meaning is Meaning.UNCERTAIN)
        assert meaning is Meaning.HU or (kind == "patch" and meaning is Meaning.UNCERTAIN)
        assert odd_slices(values) == []
        if kind == "patch":  # lung alone: its label decides
            assert judge(values + 1024, np.ones(values.shape, bool)).not_hu
            continue
        for name, (fault, _, _) in FAULTS.items():
            if "signed" in name and "8 bits" in name and kind != "chest":
                continue  # a crop without anything at the ends of the window
            missed[name] = missed.get(name, 0) + (not judge(fault(values)).not_hu)
    assert sum(missed.values()) <= 3, missed
    assert uncertain <= 0.05 * patches, "17 of all 1004 patches are"


@needs_data
def test_real_pictures_of_a_window_are_pictures():
    import SimpleITK as sitk

    for path in sorted((DATA / "medseg_rp/rp_im").glob("*.nii.gz"))[:3]:
        assert judge(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).meaning is Meaning.PICTURE
