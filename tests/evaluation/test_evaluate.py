"""Table 1: figures with known answers, texture ranking, references, and the command itself on a tiny dataset."""

from __future__ import annotations

import copy
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import io
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from nnunet_difflung.commands.evaluate import main, request_from
from nnunet_difflung.config import SamplingConfig, preset
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.evaluation import evaluate
from nnunet_difflung.evaluation.image_metrics import PatientTally, diversity, image_figures, psnr
from nnunet_difflung.evaluation.mask_painter import MaskPainter
from nnunet_difflung.evaluation.real_slices import RealSlice, neighbour_of, real_slice, slices_with_lung
from nnunet_difflung.evaluation.references import class_mean_image, reference_rows, training_reference
from nnunet_difflung.evaluation.table1 import _along_z, markdown, merge_table1, statistic
from nnunet_difflung.evaluation.texture_distance import descriptors, standardisation, texture_distance
from nnunet_difflung.generator.diffusion import build_network
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.generator.training import FoldData, train_generator
from nnunet_difflung.judging.continuity import FIGURES, measured
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import cache_folder, results_folder
from tests.support.generators import TINY
from tests.support.tiny import make_dataset, set_paths, tree_hashes

WINDOW = (-1000.0, 1000.0)
ROLES = LabelRoles(("normal_lung",), ("emphysema",), (), {"normal_lung": 1, "emphysema": 2}, 9)


def lung_slice(size: int = 40, seed: int = 0) -> RealSlice:
    """A real slice with smooth texture: lung in the middle, emphysema in a part of it, body around, air outside."""
    rng = np.random.default_rng(seed)
    condition = np.zeros((size, size), np.uint8)
    condition[4:-4, 4:-4], condition[8:-8, 8:-8], condition[10:22, 10:22] = ROLES.body_value, 1, 2
    noise = ndimage.gaussian_filter(rng.standard_normal((size, size)), 0.7)
    image = np.choose(np.searchsorted([0, 1, 2, ROLES.body_value], condition), [-1000.0, -800.0, -900.0, 40.0])
    return RealSlice(
        "p",
        "case",
        0,
        np.where(condition, image + 60 * noise / noise.std(), -1000).clip(*WINDOW).astype(np.float32),
        condition,
    )


def masks(true: RealSlice) -> tuple[np.ndarray, np.ndarray]:
    return np.isin(true.condition, ROLES.lung_values()), true.condition != ROLES.ignore


def row_of(true: RealSlice, painted: np.ndarray) -> dict:
    lung = descriptors(true.image, true.condition == 1, 2000, np.random.default_rng(0), 500)
    tally = PatientTally(ROLES, WINDOW, {"normal_lung": standardisation(lung)})
    tally.add(true, painted)
    return tally.row()


def test_figures_are_those_of_skimage():
    true = lung_slice()
    painted = true.image + np.random.default_rng(1).normal(0, 90, true.image.shape).astype(np.float32)
    lung, counted = masks(true)
    figures = image_figures(true.image, painted[None], lung, counted, WINDOW)
    a, b = (true.image.astype(float) + 1000) / 2000, (painted.astype(float) + 1000) / 2000
    _, similarity = structural_similarity(
        a, b, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert figures["psnr"] == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1))
    assert figures["ssim"] == pytest.approx(similarity.mean())
    assert figures["psnr_lung"] == pytest.approx(10 * np.log10(1 / ((a - b)[lung] ** 2).mean()))
    assert figures["ssim_lung"] == pytest.approx(similarity[lung].mean())
    assert figures["mae_lung"] == pytest.approx(np.abs(painted - true.image)[lung].mean(), rel=1e-5)


def test_equal_images_score_best_and_stay_finite():
    true = lung_slice()
    row = row_of(true, true.image[None])
    assert row["ssim"] == row["ssim_lung"] == pytest.approx(1)
    assert row["mae_lung"] == 0
    assert row["psnr"] == row["psnr_lung"] == 100
    assert psnr(np.zeros(3)) == 100
    assert row["wasserstein"] == {"normal_lung": 0, "emphysema": 0}
    assert row["sd_ratio"]["emphysema"] == 1
    json.dumps(row, allow_nan=False)


def test_a_shift_of_50_hu_is_an_error_and_a_bias_of_50_hu_but_no_change_of_texture():
    true = lung_slice()
    row = row_of(true, (true.image + 50)[None])
    assert row["mae_lung"] == pytest.approx(50, abs=0.01)
    for name in ROLES.lung:
        assert row["hu_bias"][name] == pytest.approx(50, abs=0.01)
        assert row["wasserstein"][name] == pytest.approx(50, abs=0.01)
        assert row["sd_ratio"][name] == pytest.approx(1, abs=1e-4)
    assert row["texture"]["normal_lung"] < 0.01
    assert "emphysema" not in row["texture"], "no real training descriptors of it were given"


def test_a_copied_background_flatters_the_slice_and_not_the_lung():
    true = lung_slice()
    lung, counted = masks(true)
    painted = np.where(lung, true.image + 100, true.image)
    figures = image_figures(true.image, painted[None], lung, counted, WINDOW)
    assert figures["psnr"] > figures["psnr_lung"] + 3
    assert figures["ssim"] > figures["ssim_lung"]
    assert figures["psnr_lung"] == pytest.approx(20 * np.log10(2000 / 100), abs=0.01)


def test_a_textured_sample_pays_twice_and_the_mean_of_samples_does_not():
    """Real and painted share a mean and are independent otherwise; the blurred image is that mean."""
    rng, shape = np.random.default_rng(0), (60, 60)
    lung = np.ones(shape, bool)
    real, samples = rng.normal(-800, 60, shape), rng.normal(-800, 60, (64, *shape))
    textured = image_figures(real, samples, lung, lung, WINDOW)
    blurred = image_figures(real, np.full((1, *shape), -800.0), lung, lung, WINDOW)
    assert blurred["psnr_lung"] - textured["psnr_lung"] == pytest.approx(3.01, abs=0.1)
    assert textured["psnr_lung_of_mean"] == pytest.approx(blurred["psnr_lung"], abs=0.1)
    assert diversity(samples, lung) == pytest.approx(60, rel=0.02)
    assert diversity(np.repeat(samples[:1], 3, 0), lung) < 1e-9
    assert diversity(samples[:2], lung) == pytest.approx(60, rel=0.05), "it must not depend on the number of samples"


def test_psnr_of_the_mean_does_not_depend_on_the_number_of_samples():
    """Samples are a known mean with noise; what counts is how far that mean is from the real slice."""
    rng, shape = np.random.default_rng(0), (90, 90)
    lung = np.ones(shape, bool)
    mean, real = np.full(shape, -800.0), rng.normal(-790, 30, shape)
    samples = mean + rng.normal(0, 60, (4, *shape))
    of_true_mean = image_figures(real, mean[None], lung, lung, WINDOW)["psnr_lung"]
    for n in (2, 4):
        figures = image_figures(real, samples[:n], lung, lung, WINDOW)
        assert figures["psnr_lung_of_mean"] == pytest.approx(of_true_mean, abs=0.25)
        assert psnr((samples[:n].mean(0) - real) / 2000) < of_true_mean - 2, "the plain mean pays for the noise"
    for same in (samples[:1], np.repeat(samples[:1], 4, 0)):
        figures = image_figures(real, same, lung, lung, WINDOW)
        assert figures["psnr_lung_of_mean"] == pytest.approx(figures["psnr_lung"]), "without variance nothing changes"
    around = np.stack([mean - 60, mean + 60])  # the estimate of the error is below 0
    assert image_figures(mean, around, lung, lung, WINDOW)["psnr_lung_of_mean"] == 100


def test_ignored_voxels_do_not_count():
    true = lung_slice()
    condition = true.condition.copy()
    condition[30:32, 12:20] = ROLES.ignore
    true = replace(true, condition=condition)
    wrong = true.image.copy()
    wrong[condition == ROLES.ignore] += 900
    assert row_of(true, wrong[None]) == row_of(true, true.image[None])


def test_slices_below_the_ssim_window_are_measured():
    true = lung_slice()
    small = RealSlice("p", "case", 0, true.image[12:21, 5:30], true.condition[12:21, 5:30])
    lung, counted = masks(small)
    assert image_figures(small.image, small.image[None], lung, counted, WINDOW)["ssim"] == pytest.approx(1)
    assert image_figures(small.image, small.image[None] + 99, lung, counted, WINDOW)["ssim_lung"] < 0.999


def texture(change=lambda image: image, seed: int = 0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((90, 90)), 0.8)
    image = change(-850 + 50 * noise / noise.std())
    mask = np.zeros((90, 90), bool)
    mask[8:-8, 8:-8] = True
    return descriptors(image, mask, 2000, np.random.default_rng(seed), 800)


def test_texture_distance_grows_with_blur_and_with_noise_and_other_real_texture_is_the_floor():
    real = texture()
    scale, rng = standardisation(real), np.random.default_rng(0)

    def distance(change, seed=0) -> float:
        return texture_distance(real, texture(change, seed), scale, rng)

    floor = max(abs(distance(lambda image: image, seed)) for seed in (1, 2, 3))
    blurred = [distance(lambda image, s=s: ndimage.gaussian_filter(image, s), 4) for s in (0.4, 0.6, 0.9, 1.5)]
    noisy = [
        distance(lambda image, s=s: image + np.random.default_rng(9).normal(0, s, image.shape), 4) for s in (20, 40, 80)
    ]
    wide = distance(lambda image: -850 + 2 * (image + 850), 4)
    for ranked in (blurred, noisy):
        assert ranked == sorted(ranked)
        assert ranked[0] > 4 * floor
    assert wide > 10 * floor
    assert floor < 0.1


def test_texture_sees_grain_that_a_histogram_cannot():
    """The same voxel values in another order."""

    def shuffled(image: np.ndarray) -> np.ndarray:
        return np.random.default_rng(3).permutation(image.ravel()).reshape(image.shape)

    real = texture()
    assert texture_distance(real, texture(shuffled), standardisation(real), np.random.default_rng(0)) > 0.5


def test_texture_is_that_of_the_class_alone():
    image, mask = np.random.default_rng(0).normal(-800, 50, (30, 30)), np.zeros((30, 30), bool)
    mask[5:20, 5:20] = True
    outside = np.where(mask, image, 1000)
    args = (mask, 2000)
    inside = descriptors(image, *args, np.random.default_rng(0), 99)
    assert inside.shape == (99, 9)
    assert np.allclose(inside, descriptors(outside, *args, np.random.default_rng(0), 99), atol=1e-6)
    mean, sd = np.expm1(inside).mean(0) * 10, np.expm1(inside).std(0)
    assert mean[0] == pytest.approx(50, rel=0.1)
    assert mean[1:] == pytest.approx(50 * np.sqrt(2), rel=0.1)
    steps = descriptors(np.where(np.arange(30) < 12, -900.0, -700.0) + 0 * image, *args, np.random.default_rng(0), 999)
    assert np.isclose(steps, 0, atol=1e-6).all(1).any(), "flat windows have no texture, whatever their level"
    assert (sd > 0).all()
    assert not len(descriptors(image, np.eye(30, dtype=bool), 2000, np.random.default_rng(0), 99))


def painter(batch_size: int, sampler: str = "ddim", samples: int = 3, paints: tuple = WINDOW) -> MaskPainter:
    torch.manual_seed(0)
    config = replace(TINY, windows=(paints,))
    network = build_network(config, 1, len(ROLES.conditions)).eval()
    generator = Generator(network, config, ROLES.conditions, (), "", Path())
    sampling = SamplingConfig(sampler=sampler, steps=3, paint="full", batch_size=batch_size)
    return MaskPainter(METHODS["cbmat"], generator, sampling, ROLES.condition_values(), WINDOW, samples, 5, 0)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_samples_do_not_depend_on_the_batch(sampler):
    slices = [replace(lung_slice(), case=f"c{i}", z=i) for i in range(3)]
    slices[1] = replace(slices[1], image=slices[1].image[:31, 1:36], condition=slices[1].condition[:31, 1:36])
    many, single = ({true.case: images for true, images, _ in painter(size, sampler).paint(slices)} for size in (5, 1))
    assert sorted(many) == ["c0", "c1", "c2"]
    assert many["c1"].shape == (3, 31, 35)
    for case, images in many.items():
        assert images == pytest.approx(single[case], abs=0.1)
        assert np.abs(images[0] - images[1]).mean() > 10, "samples of a mask are different"
    assert np.abs(many["c0"] - many["c2"]).mean() > 10, "slices of equal masks get different noise"
    alone = next(iter(painter(5, sampler).paint(slices[2:])))[1]
    assert alone == pytest.approx(many["c2"], abs=0.1)


@pytest.mark.parametrize("low", [-1024.0, -1000.0, -700.0])
def test_what_is_painted_outside_the_body_is_emptied_as_in_shipped_cases(low):
    true = lung_slice()
    true = replace(true, image=true.image[:39, :37], condition=true.condition[:39, :37])
    images = next(iter(painter(2, paints=(low, 1000.0)).paint([true])))[1]
    outside = true.condition == 0
    assert images.shape == (3, 39, 37)
    assert (images[:, outside] == max(low, WINDOW[0])).all()
    for value in (1, 2, ROLES.body_value):
        assert images[:, true.condition == value].std() > 10, "inside everything is as painted"


def open_dataset(folder: Path, monkeypatch, **options):
    raw_folder, _, _ = set_paths(folder, monkeypatch)
    make_dataset(raw_folder, **options)
    raw = open_raw_dataset("801")
    return raw, build_cache(raw, cache_folder(raw.name), progress=False)


def brighten(raw, case: str) -> None:
    import SimpleITK as sitk

    file = raw.cases[case].images[0]
    sitk.WriteImage(sitk.ReadImage(file) + 200, file)


def test_class_means_come_from_training_cases_only(tmp_path, monkeypatch):
    raw, cache = open_dataset(tmp_path, monkeypatch)
    before = training_reference(raw, cache, 0, WINDOW)
    case = raw.training_cases(0)
    voxels = np.concatenate([cache.image(i)[0][cache.condition(i) == 2] for i in case]).clip(*WINDOW)
    assert before.means[2] == pytest.approx(voxels.mean(), abs=0.01)
    brighten(raw, raw.validation_cases(0)[0])
    cache = build_cache(raw, cache.folder, progress=False)
    assert training_reference(raw, cache, 0, WINDOW).means == before.means
    true = real_slice(raw, cache, raw.validation_cases(0)[0], 0, WINDOW)
    assert (true.image[true.condition == 0] == -1000).all()
    assert cache.image(true.case).min() > -1000, "not isolated"
    brighten(raw, case[0])
    after = training_reference(raw, build_cache(raw, cache.folder, progress=False), 0, WINDOW)
    assert after.means[2] > before.means[2] + 5
    image = class_mean_image(np.array([[0, 1], [2, 77]]), before.means, WINDOW)
    assert image.tolist() == [[-1000, np.float32(before.means[1])], [np.float32(before.means[2]), -1000]]


def test_references_tell_bias_and_texture_apart(tmp_path, monkeypatch):
    raw, cache = open_dataset(tmp_path, monkeypatch, size=48)
    training = training_reference(raw, cache, 0, WINDOW)
    slices = [real_slice(raw, cache, *place, WINDOW) for place in slices_with_lung(cache, raw.validation_cases(0))]
    rows = reference_rows(raw, cache, slices, training, WINDOW)
    mean, neighbour, others = (rows[name] for name in ("class_mean", "neighbour", "real_other_patients"))
    assert mean["sd_ratio"]["normal_lung"] == pytest.approx(0, abs=1e-6)
    assert abs(mean["hu_bias"]["normal_lung"]) < 10
    assert mean["wasserstein"]["normal_lung"] > 20
    assert mean["texture"]["normal_lung"] > 20 * abs(others["texture"]["normal_lung"])
    assert others["wasserstein"]["normal_lung"] < 5
    assert "psnr" not in others
    assert neighbour["slices"] == 1
    assert neighbour["hu_bias"]["emphysema"] == pytest.approx(0, abs=10)
    assert neighbour["mae_lung"] > mean["mae_lung"]


@pytest.mark.parametrize("volumes", [False, True])
def test_a_neighbour_is_the_next_slice_of_the_same_patient(tmp_path, monkeypatch, volumes):
    raw, cache = open_dataset(tmp_path, monkeypatch, volumes=volumes, depth=3, patients=2, folds=2)
    places = slices_with_lung(cache, sorted(raw.cases))
    neighbours = {place: neighbour_of(raw, cache, real_slice(raw, cache, *place, WINDOW), WINDOW) for place in places}
    named = {place: neighbour and (neighbour.case, neighbour.z) for place, neighbour in neighbours.items()}
    patients = ("lung_001", "lung_002")
    if volumes:
        assert named == {(p, z): (p, z + 1) if z < 2 else None for p in patients for z in range(3)}
    else:
        assert named == {(f"{p}_s0{i}", 0): (f"{p}_s01", 0) if i == 0 else None for p in patients for i in range(2)}


def test_a_limit_spreads_over_the_cases(tmp_path, monkeypatch):
    raw, cache = open_dataset(tmp_path, monkeypatch)
    everything = slices_with_lung(cache, sorted(raw.cases))
    assert len(everything) == 10
    assert slices_with_lung(cache, sorted(raw.cases), 99) == everything
    chosen = slices_with_lung(cache, sorted(raw.cases), 3)
    assert len(set(chosen)) == 3
    assert chosen[0] == everything[0]
    assert chosen[-1] == everything[-1]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A tiny dataset whose fold 0 has the generators of cbmat and none."""
    raw, cache = open_dataset(tmp_path, monkeypatch, size=(30, 34))
    data = FoldData(cache, tuple(raw.channels), raw.name, 0, tuple(raw.training_cases(0)))
    for method in ("cbmat", "none"):
        train_generator(
            data, METHODS[method], replace(TINY, epochs=1), results_folder(raw.name, method) / "fold_0", progress=False
        )
    return raw


QUICK = ["-d", "801", "-f", "0", "--preset", "fast", "--steps", "3", "--samples", "2", "-device", "cpu"]


def test_options_reach_what_is_painted(raw_folder):
    make_dataset(raw_folder)
    usual = replace(preset("fast").sampling, paint="full", steps=3)
    assert request_from(QUICK, "").sampling == usual
    chosen = request_from([*QUICK, "--precision", "bf16", "--sampler", "unipc"], "").sampling
    assert chosen == replace(usual, precision="bf16", sampler="unipc")


def test_the_command_writes_figures_table_and_pictures_and_leaves_the_dataset_alone(trained, tmp_path, capsys):
    before = tree_hashes(tmp_path / "nnUNet_raw", tmp_path / "nnUNet_preprocessed")
    main(QUICK)
    assert tree_hashes(tmp_path / "nnUNet_raw", tmp_path / "nnUNet_preprocessed") == before
    said = capsys.readouterr().out
    out = tmp_path / "nnUNet_results" / trained.name / "DiffLung__evaluate" / "table1.json"
    table = json.loads(out.read_text())
    assert list(table) == ["meta", "cbmat", "none", "class_mean", "neighbour", "real_other_patients"]
    assert "Left out: difflung, copy_paste, harmonise" in said
    assert "| cbmat |" in said
    meta, entry = table["meta"], table["cbmat"]
    assert meta["unit"] == "HU"
    assert meta["slices"] == 2
    assert meta["patients"] == 1
    assert meta["seeds"] == [12345]
    assert meta["folds"] == [0]
    assert meta["iterations"]["cbmat"] == [2]
    assert "difflung_evaluate -d 801" in meta["command"]
    assert {"versions", "device", "machine", "date", "generators", "windows"} <= set(meta)
    for name in ("psnr", "ssim", "psnr_lung", "ssim_lung", "mae_lung", "psnr_lung_of_mean"):
        assert set(entry[name]) == {"mean", "sd", "n"}
        assert entry[name]["n"] == 1
        assert entry[name]["sd"] is None
    for name in ("hu_bias", "wasserstein", "sd_ratio", "diversity"):
        assert set(entry[name]) == {"normal_lung", "emphysema", "ILD"}
    assert "normal_lung" in entry["texture"]
    assert entry["seconds_per_image"] > 0
    assert entry["diversity"]["ILD"]["mean"] > 0
    assert table["class_mean"]["seconds_per_image"] is None
    assert entry["per_patient"][0]["patient"] == trained.patients[trained.validation_cases(0)[0]]
    assert table["class_mean"]["psnr_lung"]["mean"] > entry["psnr_lung"]["mean"], "two steps of training paint noise"
    assert out.with_suffix(".md").read_text() == markdown(table)
    assert io.imread(out.with_suffix(".png")).std() > 5


def test_slices_are_in_memory_for_one_patient_at_a_time(tmp_path, monkeypatch):
    raw, cache = open_dataset(tmp_path, monkeypatch, patients=6, folds=2)
    data = FoldData(cache, tuple(raw.channels), raw.name, 0, tuple(raw.training_cases(0)))
    train_generator(
        data, METHODS["none"], replace(TINY, epochs=1), results_folder(raw.name, "none") / "fold_0", progress=False
    )
    loaded, most = [], 0

    def load(*arguments) -> RealSlice:
        nonlocal most
        true = real_slice(*arguments)
        loaded.append(weakref.ref(true))
        most = max(most, sum(reference() is not None for reference in loaded))
        return true

    monkeypatch.setattr(evaluate, "real_slice", load)
    monkeypatch.setattr(evaluate, "shown_planes", lambda *_: [])  # the sheet keeps those that it shows
    main([*QUICK, "--samples", "1"])
    assert len(loaded) == 2 * 6, "three patients of two slices, for the generator and for the references"
    assert most <= 3, "those of a patient, and the last one of the patient before"


def test_figures_repeat_and_methods_and_output_can_be_chosen(trained, tmp_path):
    rows = []
    for name in ("a", "b"):
        main([*QUICK, "--methods", "none", "--max-slices", "1", "-o", str(tmp_path / f"{name}.json")])
        table = json.loads((tmp_path / f"{name}.json").read_text())
        assert "cbmat" not in table
        assert table["meta"]["slices"] == 1
        rows.append([{**row, "seconds_per_image": 0} for row in table["none"]["per_patient"]])
    assert rows[0] == rows[1]
    with pytest.raises(BadInput, match=r"table\.txt does not end in \.json"):
        main([*QUICK, "-o", "table.txt"])


def test_what_cannot_be_compared_is_refused_in_one_line(trained, tmp_path):
    with pytest.raises(BadInput, match="difflung_augment -d 801 -f 0 --method mat"):
        main([*QUICK, "--methods", "mat", "cbmat"])
    with pytest.raises(BadInput, match="no finished generator of fold 1; train it"):
        main(["-d", "801", "-f", "1", "-device", "cpu"])
    with pytest.raises(BadInput, match="paints whole slices; choose from cbmat"):
        main([*QUICK, "--methods", "copy_paste"])
    with pytest.raises(BadInput, match="fold all"):
        main(["-d", "801", "-f", "all", "-device", "cpu"])
    with pytest.raises(BadInput, match="give --normal-label and --structure-label as in training"):
        main([*QUICK, "--structure-label", "emphysema"])
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="file is a file, but a folder of this name is needed"):
        main([*QUICK, "-o", str(tmp_path / "file" / "table.json")])
    card = results_folder(trained.name, "none") / "fold_0" / "generator.json"
    weights = next(card.parent.rglob("*.safetensors"))
    complete = weights.read_bytes()
    weights.write_bytes(complete[:-1])
    with pytest.raises(BadInput, match="is not the file that generator.json names.*restore it, or delete"):
        main([*QUICK, "--methods", "cbmat", "none"])
    weights.write_bytes(complete)
    content = json.loads(card.read_text())
    content["training_cases"].append(trained.validation_cases(0)[1])
    card.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="whose patient is in validation in fold 0"):
        main(QUICK)
    assert not (tmp_path / "nnUNet_results" / trained.name / "DiffLung__evaluate").exists()


def test_a_generator_whose_training_cases_were_swapped_or_renamed_is_refused(trained):
    case, held_out = trained.training_cases(0)[0], trained.validation_cases(0)[0]
    paths = [Path(trained.cases[i].images[0]) for i in (case, held_out)]
    first, second = (path.read_bytes() for path in paths)
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)
    with pytest.raises(BadInput, match="files of the training cases of .* were changed after it was trained"):
        main(QUICK)
    paths[0].write_bytes(first)
    paths[1].write_bytes(second)
    card = results_folder(trained.name, "none") / "fold_0" / "generator.json"
    content = json.loads(card.read_text())
    content["training_cases"].append("lung_009_s00")
    card.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="trained on lung_009_s00, which is not in the dataset any more"):
        main(QUICK)


def test_tables_of_folds_and_seeds_merge_over_patients_and_seeds(trained, tmp_path):
    main([*QUICK, "--methods", "cbmat", "-o", str(tmp_path / "t.json")])
    first = json.loads((tmp_path / "t.json").read_text())
    second = copy.deepcopy(first)
    second["meta"]["generators"][0]["seed"] = 7
    row = second["cbmat"]["per_patient"][0]
    row["seed"], row["psnr_lung"] = 7, row["psnr_lung"] + 2
    merged = merge_table1([first, second])
    before = first["cbmat"]["psnr_lung"]["mean"]
    assert merged["cbmat"]["psnr_lung"] == pytest.approx({"mean": before + 1, "sd": np.sqrt(2), "n": 2})
    assert merged["meta"]["seeds"] == [7, 12345]
    assert merged["meta"]["patients"] == 1
    assert merged["class_mean"] == first["class_mean"], "the references are the same for every seed"
    assert merge_table1([first]) == first
    assert merge_table1([merged, first])["cbmat"] == merged["cbmat"]
    assert "± 1.41" in markdown(merged)
    second["meta"]["sampling"] = first["meta"]["sampling"].replace(" images at once", "0 images at once")
    assert merge_table1([first, second])["meta"]["sampling"].count("images at once") == 2
    for present, changed in (("3 steps", "30 steps"), ("sampler ddim", "sampler dpm")):
        assert present in first["meta"]["sampling"]
        second["meta"]["sampling"] = first["meta"]["sampling"].replace(present, changed)
        with pytest.raises(BadInput, match=f"{changed}.* cannot be merged; run difflung_evaluate with the same"):
            merge_table1([first, second])
    second["meta"]["samples"] = 9
    with pytest.raises(BadInput, match="samples 2 and 9 cannot be merged"):
        merge_table1([first, second])
    with pytest.raises(BadInput, match="no table1.json"):
        merge_table1([])


def test_statistics_are_over_the_given_values():
    assert statistic([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(np.sqrt(2)), "n": 2}
    assert statistic([4.0])["sd"] is None


def test_what_lies_one_above_the_other_is_compared_where_neighbours_are_painted():
    first, second = lung_slice(), replace(lung_slice(seed=1), z=1)
    apart = replace(lung_slice(seed=2), z=3)
    tally = PatientTally(ROLES, WINDOW, {})
    for true in (first, second, apart):
        tally.add(true, np.stack([first.image, first.image + 10]), seconds=0.1)
    row = tally.row()
    assert set(row["along_z"]) == set(row["real_along_z"]) == {"correlation", "flicker", "difference", "end_step"}
    assert row["along_z"]["correlation"]["emphysema"] == pytest.approx(1)
    assert row["along_z"]["difference"]["emphysema"] == 0
    lesion = first.condition == 2
    expected = np.abs(first.image[lesion].astype(float) - second.image[lesion]).mean()
    assert row["real_along_z"]["difference"]["emphysema"] == pytest.approx(expected)
    assert abs(row["real_along_z"]["correlation"]["emphysema"]) < 0.3
    assert row["along_z"]["end_step"] == {}, "the lesion goes on in both slices"
    alone = PatientTally(ROLES, WINDOW, {})
    alone.add(first, first.image[None], seconds=0.1)
    alone.add(apart, first.image[None], seconds=0.1)
    assert "along_z" not in alone.row()


def test_lesions_of_different_levels_are_compared_from_slice_to_slice_one_by_one():
    rng, condition = np.random.default_rng(0), np.ones((4, 30, 30), np.uint8)
    condition[:, 3:12, 3:12] = condition[:, 18:27, 18:27] = 2
    level = np.where(condition == 2, -600.0, -850.0)
    level[:, 18:27, 18:27] = -200
    real = (
        level + 40 * np.sqrt(0.9) * rng.standard_normal((30, 30)) + 40 * np.sqrt(0.1) * rng.standard_normal(level.shape)
    )
    unrelated = level + 40 * rng.standard_normal(level.shape)  # painted slice by slice
    tally = PatientTally(ROLES, WINDOW, {})
    for z in range(4):
        true = RealSlice("p", "c", z, real[z].astype(np.float32), condition[z])
        tally.add(true, unrelated[z][None].astype(np.float32), seconds=0.1)
    row = tally.row()
    assert row["real_along_z"]["correlation"]["emphysema"] == pytest.approx(0.9, abs=0.05)
    assert row["along_z"]["correlation"]["emphysema"] == pytest.approx(0, abs=0.15)
    for what, image in (("real_along_z", real), ("along_z", unrelated)):
        (expected,) = measured(image[None].astype(np.float32), condition == 2, condition == 1)
        assert {name: row[what][name]["emphysema"] for name in row[what] if row[what][name]} == pytest.approx(
            {name: expected[name] for name in FIGURES if name in expected}
        )


def test_volumes_have_a_table_from_slice_to_slice(tmp_path, monkeypatch):
    raw, cache = open_dataset(tmp_path, monkeypatch, size=40, volumes=True, depth=6)
    data = FoldData(cache, tuple(raw.channels), raw.name, 0, tuple(raw.training_cases(0)))
    folder = results_folder(raw.name, "cbmat") / "fold_0"
    train_generator(data, METHODS["cbmat"], replace(TINY, epochs=1), folder, progress=False)
    main(QUICK)
    out = tmp_path / "nnUNet_results" / raw.name / "DiffLung__evaluate" / "table1.json"
    table, text = json.loads(out.read_text()), out.with_suffix(".md").read_text()
    assert text == markdown(table)
    figures = table["cbmat"]["along_z"]["correlation"]
    assert figures
    assert all(value["n"] >= 1 for value in figures.values())
    (name, *_) = figures
    section = text.partition("## From slice to slice")[2]
    shown = [line for line in section.splitlines() if line.startswith(f"| {name} | ")]
    assert [line.split(" | ")[1] for line in shown] == ["real", "cbmat"]
    assert f"{figures[name]['mean']:.3f}" in shown[1]
    assert f"{table['cbmat']['real_along_z']['correlation'][name]['mean']:.3f}" in shown[0]


def test_slices_have_no_table_from_slice_to_slice(trained, tmp_path):
    main(QUICK)
    out = tmp_path / "nnUNet_results" / trained.name / "DiffLung__evaluate" / "table1.json"
    assert "From slice to slice" not in out.with_suffix(".md").read_text()
    assert "along_z" not in json.loads(out.read_text())["cbmat"]


def test_methods_with_other_classes_from_slice_to_slice_have_their_rows():
    """Merged tables may hold a method in fewer folds, and a class in some of them only."""

    def entry(classes, patients):
        values = {figure: dict.fromkeys(classes, {"mean": 0.5, "sd": None, "n": 1}) for figure in FIGURES}
        return {"along_z": values, "real_along_z": values, "per_patient": [{}] * patients}

    entries = {"cbmat": entry(["ILD"], 1), "mat": entry(["emphysema", "ILD"], 2)}
    for order in (entries, dict(reversed(entries.items()))):
        shown = [line.split(" | ")[:2] for line in _along_z(order, 0) if line.startswith("| ") and "---" not in line]
        assert sorted(row for row in shown if row[0] != "| class") == [
            ["| ILD", "cbmat"],
            ["| ILD", "mat"],
            ["| ILD", "real"],
            ["| emphysema", "mat"],
            ["| emphysema", "real"],
        ]
