"""The lung mask by thresholds holds both lungs with their lesions, without airways, table and bowel."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.imaging.lung_mask import lung_mask
from nnunet_difflung.errors import BadInput
from tests.support.archives import like

DATA = Path(os.environ.get("DIFFLUNG_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
SHAPE, SPACING = (24, 110, 130), (2.5, 2.5, 4.0)


def ball(centre, radii) -> np.ndarray:
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radii, strict=True)) <= 1


def body(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """HU of a chest with two lungs, vessels, trachea, a table and gas in the bowel; and the true lung mask."""
    rng = np.random.default_rng(seed)
    hu = np.full(SHAPE, -1000.0)
    y, x = np.ogrid[: SHAPE[1], : SHAPE[2]]
    trunk = ((y - 52) / 42) ** 2 + ((x - 65) / 58) ** 2 <= 1
    hu[:, trunk] = 40
    lung = ball((12, 52, 38), (13, 30, 20)) | ball((12, 52, 92), (13, 30, 20))
    hu[lung] = -850
    for cy, cx in rng.uniform((40, 25), (65, 50), (12, 2)):
        hu[:, (np.hypot(y - cy, x - cx) < 1.3) & lung[12]] = 30  # vessels along z
    hu[:, np.hypot(y - 38, x - 65) < 3.5] = -1000  # trachea
    hu[18:, np.hypot(y - 70, x - 65) < 6] = -1000  # bowel
    hu[:, 98:101, 15:115] = 200  # table
    return hu + rng.normal(0, 15, SHAPE), lung


def image_of(hu: np.ndarray) -> sitk.Image:
    return like(hu.astype(np.float32), spacing=SPACING)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_both_lungs_with_their_vessels_and_nothing_else():
    hu, lung = body()
    mask = lung_mask(image_of(hu))
    assert mask.dtype == np.uint8
    assert dice(mask > 0, lung) > 0.97
    assert (mask[:, 45:60, 30:45] > 0)[8:16].all(), "vessels belong to the lung"
    assert not mask[:, 36:41, 63:68].any()
    assert not mask[18:, 65:75, 60:70].any()
    assert not mask[:, 90:].any()


@pytest.mark.parametrize("given", [True, False])
def test_a_lesion_along_the_pleura_stays_inside(given):
    hu, lung = body()
    lesion = ball((12, 52, 20), (5, 7, 5)) & lung
    hu[lesion] = 30
    mask = lung_mask(image_of(hu), lesion if given else None) > 0
    assert mask[lesion].mean() > (0.999 if given else 0.8)
    assert dice(mask, lung) > 0.96


def test_a_consolidated_lobe_is_kept_when_it_is_annotated():
    hu, lung = body()
    lesion = lung & (np.arange(SHAPE[1])[:, None] > 58)
    hu[lesion] = 20
    mask = lung_mask(image_of(hu), lesion) > 0
    assert mask[lesion].all()
    assert dice(mask, lung) > 0.95
    assert dice(lung_mask(image_of(hu)) > 0, lung) < 0.9, "without the annotation thresholds cannot see it"


def test_one_slice_is_enough():
    hu, lung = body()
    mask = lung_mask(image_of(hu[10:11])) > 0
    assert dice(mask, lung[10:11]) > 0.95


def test_any_orientation_gives_the_same_mask():
    hu, _ = body()
    image = image_of(hu)
    straight = lung_mask(image) > 0
    for code in ("RAI", "PIR", "ASL"):
        turned = sitk.DICOMOrient(image, code)
        mask = sitk.GetImageFromArray(lung_mask(turned))
        mask.CopyInformation(turned)
        back = sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "LPS")) > 0
        assert back.shape == straight.shape, code
        assert dice(back, straight) > 0.99, code


def test_no_lung_no_mask():
    hu, lung = body()
    hu[lung] = 40
    assert not lung_mask(image_of(hu)).any()
    assert not lung_mask(image_of(np.full(SHAPE, -1000.0) + np.random.default_rng(0).normal(0, 10, SHAPE))).any()


def test_errors_say_what_is_wrong(monkeypatch):
    hu, _ = body()
    window = np.clip((hu + 1350) / 1500, 0, 1) * 255
    with pytest.raises(BadInput, match="display window"):
        lung_mask(image_of(np.rint(window)))
    monkeypatch.setitem(sys.modules, "lungmask", None)
    from nnunet_difflung.dataset_conversion.imaging.lung_mask import _network

    _network.cache_clear()
    with pytest.raises(BadInput, match=r"pip install 'nnunet_difflung\[lungmask\]', or set 'lung: threshold'"):
        lung_mask(image_of(hu), backend="lungmask")
    with pytest.raises(ValueError, match="backend"):
        lung_mask(image_of(hu), backend="magic")
    with pytest.raises(ValueError, match="differ"):
        lung_mask(image_of(hu), np.zeros((1, 2, 3)))


def test_the_network_gets_the_image_and_its_mask_is_taken(monkeypatch):
    from nnunet_difflung.dataset_conversion.imaging import lung_mask as module

    hu, lung = body()
    monkeypatch.setattr(module, "_network", lambda: lambda image: np.where(lung, 2, 0) * (image.GetSize()[0] == 130))
    assert np.array_equal(lung_mask(image_of(hu), backend="lungmask") > 0, lung)


@pytest.mark.skipif(
    not (DATA / "plethora").is_dir(), reason="the real CT is not available; set DIFFLUNG_TEST_DATA to its folder"
)
@pytest.mark.parametrize("patient", ["LUNG1-002", "LUNG1-016"])
def test_real_chests_agree_with_the_published_masks(patient):
    image = sitk.ReadImage(str(DATA / "plethora" / "ct" / f"{patient}.nii.gz"))
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(DATA / "plethora" / "label" / f"{patient}.nii.gz")))
    mask = lung_mask(image) > 0
    lung = label == 1
    assert dice(mask, lung) > 0.93
    hu = sitk.GetArrayFromImage(image)
    assert np.median(hu[mask]) < -700
