"""The phantom's emphysema is a texture with the figures of real patches, seen by scanners that differ."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.phantom_calibration import table
from nnunet_difflung.dataset_conversion import Dataset800_ChestPhantom as phantom
from nnunet_difflung.dataset_conversion.phantom.anatomy import Thorax
from nnunet_difflung.dataset_conversion.phantom.calibration import CIP_CLASSES, CIP_FIGURES, figures, phantom_patches
from nnunet_difflung.dataset_conversion.phantom.cohort import FORMS_DEALT, CohortSettings, draw_cohort, slice_heights
from nnunet_difflung.dataset_conversion.phantom.emphysema import FORMS
from nnunet_difflung.dataset_conversion.phantom.fields import pixel_centres
from nnunet_difflung.dataset_conversion.phantom.lesions import LABELS, Extent, FormedLesions
from nnunet_difflung.dataset_conversion.phantom.scanner import KERNELS, NOISE_HU, Scanner, draw_scanner

DATA = Path(os.environ.get("DIFFLUNG_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
PATCHES = DATA / "cip_emphysema" / "patches.npz"
ALLOWED = {
    "mean": 14.0,
    "sd": 12.0,
    "below_950": 0.1,
    "correlation_1": 0.04,
    "correlation_2": 0.08,
    "correlation_4": 0.09,
    "auc_of_mean": 0.17,
}  # a few patients are a small sample; docs/results/phantom_calibration.json has the figures of many


@pytest.fixture(scope="module")
def patches() -> dict[str, np.ndarray]:
    return {form: phantom_patches(form, 8, 5, each=8) for form in CIP_CLASSES}


@pytest.mark.parametrize("form", CIP_CLASSES)
def test_patches_have_the_figures_of_real_ones(patches, form):
    found = figures(patches[form], patches["normal"])
    for name, allowed in ALLOWED.items():
        assert found[name] == pytest.approx(CIP_FIGURES[form][name], abs=allowed), name


def test_mild_emphysema_is_not_a_level_of_hu_but_holes(patches):
    mild, normal = (np.minimum(patches[form], -500).astype(np.float32) for form in ("mild", "normal"))
    darkest = [ndimage.gaussian_filter(kind, (0, 1, 1)).min(axis=(1, 2)) for kind in (mild, normal)]
    assert abs(figures(patches["mild"], patches["normal"])["auc_of_mean"] - 0.5) < 0.13
    assert (darkest[0][:, None] < darkest[1][None]).mean() > 0.8


@pytest.mark.skipif(
    not PATCHES.is_file(), reason=f"no {PATCHES}; set DIFFLUNG_TEST_DATA to the folder of cip_emphysema"
)
@pytest.mark.parametrize("form", CIP_CLASSES)
def test_recorded_figures_are_those_of_the_real_patches(form):
    with np.load(PATCHES) as content:
        measured = figures(content[CIP_CLASSES[form]].astype(np.float32), content["NT"].astype(np.float32))
    assert measured == pytest.approx(CIP_FIGURES[form], abs=2e-3, rel=1e-5)


def test_the_record_meets_its_goals_and_stands_in_the_docs():
    root = Path(__file__).resolve().parents[2]
    content = json.loads((root / "docs" / "results" / "phantom_calibration.json").read_text())
    assert table(content) in (root / "docs" / "phantom.md").read_text(encoding="utf-8")
    for form, real in content["real"].items():
        assert {name: real[name] for name in CIP_FIGURES[form]} == CIP_FIGURES[form]
        assert content["phantom"][form]["auc_of_mean"] == pytest.approx(real["auc_of_mean"], abs=0.05), form


def test_figures_of_known_patches():
    rng = np.random.default_rng(0)
    noise = rng.normal(-900, 20, (40, 31, 31))
    noise[:, :3] = 40  # chest wall, which mean and sd leave out
    darker = noise.copy()
    darker[:, 3:] -= 100
    found = figures(darker, noise)
    assert found["mean"] == pytest.approx(-1000, abs=1)
    assert found["sd"] == pytest.approx(20, abs=0.5)
    assert found["below_950"] == pytest.approx(28 / 31, abs=0.02)
    assert found["auc_of_mean"] == 1.0
    assert figures(noise, noise)["auc_of_mean"] == pytest.approx(0.5)
    white = rng.normal(-900, 20, (40, 31, 31))
    assert figures(white, white)["correlation_1"] == pytest.approx(0, abs=0.01)
    assert figures(ndimage.gaussian_filter(white, (0, 2, 2)), white)["correlation_1"] > 0.9


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dose", NOISE_HU)
def test_scanners_have_their_noise_and_keep_the_level(kernel, dose):
    scanner = Scanner(kernel, dose)
    image = scanner.scanned(np.full((256, 256), -850, np.float32), 0.7, np.random.default_rng(0))
    assert image.mean() == pytest.approx(-850, abs=1)
    assert image.std() == pytest.approx(scanner.noise_hu, rel=1e-3)


def test_the_sharp_kernel_shows_finer_detail_and_finer_noise():
    rng, dot = np.random.default_rng(0), np.full((128, 128), -900.0, np.float32)
    dot[64, 64] = 0
    seen = {kernel: Scanner(kernel, "high") for kernel in KERNELS}
    noise = {kernel: s.scanned(np.full((128, 128), -850.0, np.float32), 0.7, rng) + 850 for kernel, s in seen.items()}
    peaks = {kernel: s.scanned(dot, 0.7, rng)[64, 64] for kernel, s in seen.items()}
    beside = {kernel: (n[1:] * n[:-1]).mean() / n.var() for kernel, n in noise.items()}
    assert peaks["sharp"] > peaks["soft"] + 100
    assert beside["soft"] > beside["sharp"] + 0.1
    drawn = {draw_scanner(np.random.default_rng(seed)) for seed in range(60)}
    assert len(drawn) == len(KERNELS) * len(NOISE_HU)


def test_every_form_is_dealt_and_recorded_with_the_scanner(raw_folder):
    settings = phantom.PhantomSettings(CohortSettings(16, 10, 1), 32)
    about = phantom.about_patients(settings)
    assert len(about) == 26
    for part in (range(16), range(16, 26)):
        assert {about[f"phantom_p{i:03d}"]["emphysema"] for i in part} == {*FORMS_DEALT, "none"}
    tiny = phantom.PhantomSettings(CohortSettings(2, 0, 1, forms=("severe",)), 16)
    phantom.build_phantom(tiny, processes=1, verify=False)
    written = json.loads((raw_folder / "Dataset800_ChestPhantom" / phantom.ABOUT_PATIENTS).read_text())
    assert written == phantom.about_patients(tiny)
    assert {row["emphysema"] for row in written.values()} == {"severe"}
    scanner = written["phantom_p000"]
    assert scanner["noise_hu"] == Scanner(scanner["kernel"], scanner["dose"]).noise_hu
    classic = phantom.PhantomSettings(CohortSettings(2, 0, 1, classic=True), 16)
    phantom.build_phantom(classic, processes=1, verify=False, overwrite=True)
    assert not (raw_folder / "Dataset800_ChestPhantom" / phantom.ABOUT_PATIENTS).exists()


@pytest.mark.parametrize("form", FORMS)
def test_paraseptal_emphysema_lies_under_the_pleura(form):
    patient = next(p for p in draw_cohort(CohortSettings(8, 0, 3, forms=(form,)), False) if p.emphysema)
    heights = slice_heights(patient, 6)[0]
    lesions, centres = FormedLesions(Thorax(patient, 1.0), heights, Extent(ild=0.0)), pixel_centres(128)
    depths = []
    for z in heights:
        truth = lesions.truth(centres, z)
        depth = ndimage.distance_transform_edt(truth > 0) * (centres[1] - centres[0])
        depths += depth[truth == LABELS["emphysema"]].tolist()
    assert (np.mean(depths) < 9) == (form == "paraseptal")


def test_coarse_pixels_are_averages_of_fine_ones():
    coarse, fine = (
        phantom.phantom_cases(phantom.PhantomSettings(CohortSettings(2, 0, 1), n), Extent(), False, 0)[0]
        for n in (128, 256)
    )
    blocks = fine.image[0].reshape(128, 2, 128, 2)
    unclipped = blocks.min(axis=(1, 3)) > -1024
    assert unclipped.mean() > 0.5
    assert np.abs(blocks.mean(axis=(1, 3)) - coarse.image[0])[unclipped].max() <= 1.0
    assert coarse.spacing[2] == fine.spacing[2] == phantom.SLICE_MM
