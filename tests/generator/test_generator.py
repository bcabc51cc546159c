"""Slices, batches, diffusion and training: determinism, inverses, resume to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nnunet_difflung.config import GeneratorConfig
from nnunet_difflung.dataset.cache import build_cache, index_slices
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset.reading import body_mask
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator import report
from nnunet_difflung.generator.batches import BatchSource
from nnunet_difflung.generator.checkpoint import NEWEST, PREVIOUS
from nnunet_difflung.generator.diffusion import (
    build_network,
    diffusion_loss,
    forward_process,
    paint,
    reverse_step,
    reverse_timesteps,
)
from nnunet_difflung.generator.encoding import Encoding, denormalise, intensities, isolate, normalise, one_hot
from nnunet_difflung.generator.steps import draw_noise, learning_rate
from nnunet_difflung.generator.store import is_finished, load_generator
from nnunet_difflung.generator.training import FoldData, resolve, train_generator
from nnunet_difflung.methods import METHODS
from tests.support.generators import CBMAT, TINY, logged, open_data


def source_of(
    data: FoldData, config: GeneratorConfig, probabilities=(0.5, 0.5), ablation: str = "cbmat"
) -> BatchSource:
    config = resolve(CBMAT, config, data)
    index = index_slices(data.cache, data.training_cases)
    return BatchSource(data.cache, index, config, config.windows, np.array(probabilities), 100, ablation)


def test_cache_keeps_exact_voxels_and_is_not_read_twice(data, monkeypatch):
    raw = open_raw_dataset("801")
    case = data.training_cases[0]
    image, _ = raw.read_image(case)
    assert data.cache.image(case).dtype == np.int16
    assert (data.cache.image(case) == image).all()
    assert (data.cache.label(case) == raw.read_label(case)[0]).all()
    assert isinstance(data.cache.image(case), np.memmap)
    monkeypatch.setattr("nnunet_difflung.dataset.cache.read_case", lambda *_: pytest.fail("read again"))
    assert build_cache(raw, data.cache.folder, progress=False).facts == data.cache.facts


def test_a_changed_case_is_cached_anew(data):
    raw = open_raw_dataset("801")
    case = raw.cases[data.training_cases[0]]
    other = raw.cases[data.training_cases[-1]]
    Path(case.images[0]).write_bytes(Path(other.images[0]).read_bytes())
    cache = build_cache(raw, data.cache.folder, progress=False)
    assert (cache.image(case.identifier) == cache.image(other.identifier)).all()


def test_body_is_the_largest_component_without_labels():
    image = np.full((1, 20, 20), -1000.0)
    image[0, 3:17, 3:17], image[0, 8:12, 6:9], image[0, 19, :3] = 40, -850, 60
    label = np.zeros((1, 20, 20), int)
    label[0, 8:12, 6:8] = 1
    body = body_mask(image, label, -500)
    assert not body[0, 19].any()
    assert not body[label > 0].any()
    assert body[0, 8:12, 8].all(), "unlabelled holes belong to the body"
    assert body.sum() == 14 * 14 - 8


def test_normalisation_is_inverted_within_the_window():
    windows = ((-1000.0, 1000.0), (0.0, 10.0))
    image = np.random.default_rng(0).uniform([[[-1000]], [[0]]], [[[1000]], [[10]]], (2, 5, 5))
    assert np.allclose(denormalise(normalise(image, windows), windows), image, atol=1e-3)
    assert normalise(np.full((2, 1, 1), 1e6), windows).max() == 1
    assert (isolate(np.ones((1, 2, 2), np.float32), np.array([[0, 1], [2, 0]])) == [[-1, 1], [1, -1]]).all()


def test_one_hot_leaves_background_and_ignore_out():
    masks = one_hot(np.array([[0, 1], [9, 3]]), np.array([1, 3]))
    assert masks.sum() == 2
    assert masks[0, 0, 1] == 1
    assert masks[1, 1, 1] == 1


def test_batches_are_a_function_of_seed_and_step(data):
    first, second = source_of(data, TINY), source_of(data, TINY)
    second.batch(3, range(4))
    for a, b in zip(vars(first.batch(7, range(4))).values(), vars(second.batch(7, range(4))).values(), strict=True):
        assert (a == b).all()
    parts = [first.batch(7, [slot]).image for slot in range(4)]
    assert (np.concatenate(parts) == first.batch(7, range(4)).image).all(), "processes make the same global batch"
    assert (first.batch(8, range(4)).image != first.batch(7, range(4)).image).any()


def test_balanced_batches_hold_the_stated_share(data):
    def share(balanced: float) -> float:
        source = source_of(data, replace(TINY, balanced_share=balanced), (0, 0), "none")
        channel = data.cache.roles.conditions.index("emphysema")
        return source.batch(0, range(400)).condition[:, channel].any((1, 2)).mean()

    assert share(0.45) > 0.45 > share(0.0) + 0.05


def test_ablation_is_drawn_per_image_and_spares_lung_and_body(data):
    source = source_of(data, TINY, (0.5, 0.5), "mat")
    whole = source_of(data, TINY, (0, 0), "none")
    ablated, complete = source.batch(1, range(200)).condition, whole.batch(1, range(200)).condition
    names = data.cache.roles.conditions
    for name in names:
        channel = names.index(name)
        gone = complete[:, channel].any((1, 2)) & ~ablated[:, channel].any((1, 2))
        there = complete[:, channel].any((1, 2)).sum()
        if name in data.cache.roles.pathologies:
            assert gone.sum() / there == pytest.approx(0.5, abs=0.2)
            assert set(np.unique(ablated[:, channel][complete[:, channel] > 0])) == {0, 1}
        else:
            assert not gone.any()
            assert (ablated[:, channel] == complete[:, channel]).all()


def test_ablation_ends_with_the_training(data):
    def emphysema(step: int) -> int:
        source = source_of(data, replace(TINY, annealing="cosine"), (1.0, 1.0), "cbmat")
        return source.batch(step, range(40)).condition[:, data.cache.roles.conditions.index("emphysema")].sum()

    assert emphysema(0) == 0 < emphysema(100)


def test_ignored_voxels_do_not_count(tmp_path, monkeypatch):
    data = open_data(tmp_path, monkeypatch, ignore=True, size=24)
    batch = source_of(data, replace(TINY, patch_size=32)).batch(0, range(8))
    assert batch.weight.shape[-2:] == (24, 24)
    assert (batch.weight == 0).any()
    assert not batch.condition[np.broadcast_to(batch.weight == 0, batch.condition.shape)].any()


def test_small_slices_are_padded_and_masked_out(tmp_path, monkeypatch):
    data = open_data(tmp_path, monkeypatch, size=(22, 31), channels=2)
    config = resolve(CBMAT, replace(TINY, patch_size=0), data)
    assert config.patch_size == 32
    assert len(config.windows) == 2
    assert config.windows[0] == (-1000, 1000)
    batch = source_of(data, config).batch(0, range(4))
    assert batch.image.shape == (4, 2, 32, 32)
    assert batch.weight.sum() == 4 * 22 * 31


def test_weight_hides_voxels_from_the_loss():
    config = replace(TINY, prediction="epsilon", zero_terminal_snr=False)
    process = forward_process(config)
    x_0, noise = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    weight = torch.ones(2, 1, 8, 8)
    weight[..., :4] = 0

    class Perfect:
        sample: torch.Tensor

        def __call__(self, x, t):
            answer = noise.clone()
            answer[..., :4] += 100
            answer[0, ..., 4:] += 1
            self.sample = answer
            return self

    loss = diffusion_loss(Perfect(), process, x_0, torch.zeros(2, 1, 8, 8), weight, noise, torch.tensor([3, 500]))
    assert loss == pytest.approx(0.5)


@pytest.mark.parametrize("sampler", ["ddim", "dpm", "unipc", "ddpm"])
@pytest.mark.parametrize(("prediction", "zero"), [("epsilon", False), ("v_prediction", True)])
def test_an_oracle_is_sampled_back_and_the_known_region_is_exact(sampler, prediction, zero):
    """A network that knows x_0 must lead every sampler to x_0."""
    config = replace(TINY, prediction=prediction, zero_terminal_snr=zero)
    process = forward_process(config)
    x_0 = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    known = torch.full_like(x_0, 0.25)

    class Oracle:
        def __call__(self, x, t):
            bar = process.alphas_cumprod[t.long()].clamp(1e-8, 1 - 1e-8)
            noise = (x[:, :1] - bar.sqrt() * x_0) / (1 - bar).sqrt()
            self.sample = noise if prediction == "epsilon" else bar.sqrt() * noise - (1 - bar).sqrt() * x_0
            return self

    is_known = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    is_known[..., :3] = True
    sources = [torch.Generator().manual_seed(i) for i in range(2)]
    result = paint(
        Oracle(), config, sampler, 50, torch.zeros(2, 3, 8, 8), torch.randn(2, 1, 8, 8), known, is_known, sources
    )
    assert (result[..., :3] == 0.25).all()
    assert (result - x_0)[..., 3:].abs().max() < (0.1 if sampler == "ddpm" else 0.03)


@pytest.mark.parametrize("sampler", ["ddim", "dpm", "unipc", "ddpm"])
def test_the_network_sees_the_known_region_at_the_noise_level_of_its_timestep(sampler):
    process, seen = forward_process(TINY), []

    class Watching:
        def __call__(self, x, t):
            seen.append((x[:, :1].clone(), process.alphas_cumprod[t.long()]))
            self.sample = torch.zeros_like(x[:, :1])
            return self

    known, noise = torch.full((1, 1, 8, 8), 0.25), torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    is_known = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    is_known[..., :3] = True
    paint(Watching(), TINY, sampler, 10, torch.zeros(1, 3, 8, 8), noise, known, is_known)
    assert len(seen) >= 10
    for x, bar in seen:
        expected = bar.sqrt() * known + (1 - bar).sqrt() * noise
        assert x[..., :3] == pytest.approx(expected[..., :3], abs=0.02)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("level", [0.01, 0.5, 0.99])
def test_noise_and_clipped_image_make_up_x_t(prediction, level):
    """After clipping, ε is what x_t holds beside the clipped x_0; so a step to the same timestep changes nothing."""
    bar = torch.tensor(level)
    x_t, wrong = (torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    predicted = 3 * wrong
    x_0 = (x_t - (1 - bar).sqrt() * predicted) / bar.sqrt()
    if prediction == "v_prediction":
        x_0 = bar.sqrt() * x_t - (1 - bar).sqrt() * predicted
    assert (x_0.abs() > 1).float().mean() > 0.1
    assert reverse_step(x_t, predicted, bar, bar, prediction).numpy() == pytest.approx(x_t.numpy(), abs=1e-5)
    clean = reverse_step(x_t, predicted, bar, torch.ones(()), prediction)
    assert clean.numpy() == pytest.approx(x_0.clamp(-1, 1).numpy(), abs=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 25, 150, 600, 999, 1000])
def test_reverse_timesteps_fall_from_the_last_to_the_first(steps):
    timesteps = reverse_timesteps(steps, 1000)
    assert len(timesteps) == steps
    assert timesteps[0] == 999
    assert sorted(set(timesteps), reverse=True) == timesteps
    assert steps == 1 or timesteps[-1] == 0
    assert steps < 1000 or timesteps == list(range(999, -1, -1))


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("ddim", 25), ("ddim", 150), ("ddim", 600), ("dpm", 25), ("dpm", 300), ("unipc", 25), ("unipc", 300)],
)
def test_samplers_keep_mean_and_texture_of_an_ideal_denoiser(sampler, steps):
    """For x_0 ~ N(0.1, 0.04²) the ideal denoiser is known; mean and spread of its samples must be those of x_0."""
    process, mean, sd = forward_process(TINY), 0.1, 0.04

    class Ideal:
        def __call__(self, x, t):
            bar = process.alphas_cumprod[t.long()].clamp(1e-10, 1 - 1e-10)
            gain = bar.sqrt() * sd**2 / (bar * sd**2 + 1 - bar)
            x_0 = mean + gain * (x[:, :1] - bar.sqrt() * mean)
            noise = (x[:, :1] - bar.sqrt() * x_0) / (1 - bar).sqrt()
            self.sample = bar.sqrt() * noise - (1 - bar).sqrt() * x_0
            return self

    noise = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    result = paint(Ideal(), TINY, sampler, steps, torch.zeros(4, 3, 32, 32), noise)
    assert result.mean() == pytest.approx(mean, abs=0.003)
    assert result.std() == pytest.approx(sd, rel=0.2)


@pytest.mark.parametrize("sampler", ["dpm", "unipc"])
def test_where_all_timesteps_differ_the_first_step_is_the_one_that_diffusers_looks_up(sampler, monkeypatch):
    import diffusers

    network = build_network(TINY, 1, 3).eval()
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    told = paint(network, TINY, sampler, 25, torch.zeros(1, 3, 8, 8), noise)
    for scheduler in (diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler):
        monkeypatch.setattr(scheduler, "set_begin_index", lambda *_: None)
    assert torch.equal(paint(network, TINY, sampler, 25, torch.zeros(1, 3, 8, 8), noise), told)


def test_zero_terminal_snr_ends_in_pure_noise():
    assert forward_process(TINY).alphas_cumprod[-1] == pytest.approx(0, abs=1e-7)
    assert forward_process(replace(TINY, zero_terminal_snr=False)).alphas_cumprod[-1] > 1e-6


def test_a_convolutional_network_paints_any_size():
    network = build_network(TINY, 1, 4)
    assert network(torch.zeros(1, 5, 24, 40), torch.tensor(3)).sample.shape == (1, 1, 24, 40)


def test_learning_rate_warms_up_and_ends_at_zero():
    rates = [learning_rate(step, 100, TINY) for step in range(100)]
    assert np.argmax(rates) <= 3
    assert max(rates) == pytest.approx(TINY.learning_rate)
    assert rates[0] < rates[1]
    assert rates[-1] < 0.01 * TINY.learning_rate
    for power in (1.0, 2.0):  # t = u^p · T has the mean T / (p + 1)
        drawn = draw_noise((4000, 1, 1, 1), 1000, 5, 9, power)[1]
        assert drawn.min() >= 0
        assert drawn.max() <= 999
        assert abs(drawn.double().mean() - 1000 / (power + 1)) < 15
    noise, t = draw_noise((4, 1, 8, 8), 1000, 5, 9)
    again, _ = draw_noise((4, 1, 8, 8), 1000, 5, 9)
    assert (noise == again).all()
    assert t.shape == (4,)
    assert (noise != draw_noise((4, 1, 8, 8), 1000, 5, 10)[0]).any()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(("damaged", "step"), [((), 3), ((NEWEST,), 2), ((NEWEST, PREVIOUS), 0)])
def test_interrupted_training_ends_with_the_same_bits(data, tmp_path, monkeypatch, damaged, step):
    import nnunet_difflung.generator.training as module

    train_generator(data, CBMAT, TINY, tmp_path / "whole", progress=False)
    for stop in (1, 3):
        train_generator(data, CBMAT, TINY, tmp_path / "parts", progress=False, save_every=0, stop_after=stop)
    for name in damaged:
        (tmp_path / "parts" / name).write_bytes((tmp_path / "parts" / name).read_bytes()[:500])
    real, begun = module.load_checkpoint, []

    def load(state, *others):
        said = real(state, *others)
        begun.append(state.step)
        assert bool(said) == bool(damaged)
        return said

    monkeypatch.setattr(module, "load_checkpoint", load)
    train_generator(data, CBMAT, TINY, tmp_path / "parts", progress=False)
    assert begun == [step], "a training that began anew would end with the same bits too"
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    logs = [logged(tmp_path / name) for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 4
    assert not list((tmp_path / "parts").glob("checkpoint*"))


def test_a_damaged_checkpoint_does_not_replace_the_one_before_it(data, tmp_path):
    for stop in (1, 2):
        train_generator(data, CBMAT, TINY, tmp_path, progress=False, save_every=0, stop_after=stop)
    good = (tmp_path / PREVIOUS).read_bytes()
    (tmp_path / NEWEST).write_bytes((tmp_path / NEWEST).read_bytes()[:500])
    train_generator(data, CBMAT, TINY, tmp_path, progress=False, save_every=3600, stop_after=3)
    assert (tmp_path / PREVIOUS).read_bytes() == good != (tmp_path / NEWEST).read_bytes()


def test_sampling_uses_the_averaged_weights(data, tmp_path):
    train_generator(data, CBMAT, TINY, tmp_path / "g", progress=False, save_every=0, stop_after=3)
    state = load_file(tmp_path / "g" / NEWEST)
    last, averaged = state["network.conv_in.weight"], state["ema.0"]
    assert last.shape == averaged.shape
    assert not torch.equal(last, averaged)
    train_generator(data, CBMAT, TINY, tmp_path / "g", progress=False, save_every=0, stop_after=4)
    generator = load_generator(tmp_path / "g")
    assert generator.training_cases == data.training_cases
    assert torch.equal(generator.network.conv_in.weight, weights(tmp_path / "g")["conv_in.weight"])


def test_reports_do_not_change_the_weights(data, tmp_path):
    train_generator(data, CBMAT, TINY, tmp_path / "silent", progress=False)
    train_generator(data, CBMAT, TINY, tmp_path / "shown", progress=True)
    assert all(torch.equal(v, weights(tmp_path / "shown")[k]) for k, v in weights(tmp_path / "silent").items())
    assert (tmp_path / "shown" / "progress.png").is_file()
    assert len(list((tmp_path / "shown" / "samples").glob("*.png"))) >= 3


@pytest.mark.parametrize(("method", "options"), [("cbmat", {}), ("difflung", {"volumes": True, "depth": 3})])
def test_slices_smaller_than_a_networks_poolings_train_and_are_shown_whole(tmp_path, monkeypatch, method, options):
    data = open_data(tmp_path, monkeypatch, size=(13, 29), **options)
    config = replace(TINY, channels=(8, 8, 8, 8, 8), epochs=1)  # edges are multiples of 16
    shown = []
    monkeypatch.setattr(report, "show_grey", lambda axes, picture, window: shown.append(picture.shape))
    monkeypatch.setattr(report, "warn", pytest.fail)
    train_generator(data, METHODS[method], config, tmp_path / "g", progress=True)
    assert is_finished(tmp_path / "g")
    assert set(shown) == {(13, 29)}


def test_a_picture_that_cannot_be_drawn_does_not_stop_the_training(data, tmp_path, monkeypatch, capsys):
    train_generator(data, CBMAT, TINY, tmp_path / "silent", progress=False)
    monkeypatch.setattr(report, "paint_slices", lambda *_: 1 / 0)
    train_generator(data, CBMAT, TINY, tmp_path / "shown", progress=True)
    assert all(torch.equal(v, weights(tmp_path / "shown")[k]) for k, v in weights(tmp_path / "silent").items())
    assert capsys.readouterr().err.count("(ZeroDivisionError: division by zero)") == 1, "said once"


@pytest.mark.parametrize("stops", [KeyboardInterrupt, SystemExit])
def test_a_signal_stops_the_training_while_a_picture_is_drawn(data, tmp_path, monkeypatch, stops):
    def interrupted(*_):
        raise stops

    monkeypatch.setattr(report, "paint_slices", interrupted)
    with pytest.raises(stops):
        train_generator(data, CBMAT, TINY, tmp_path / "g", progress=True)


def test_other_settings_and_changed_weights_are_refused(data, tmp_path):
    train_generator(data, CBMAT, TINY, tmp_path / "g", progress=False)
    with pytest.raises(BadInput, match="other settings"):
        train_generator(data, CBMAT, replace(TINY, epochs=3), tmp_path / "g", progress=False)
    card = json.loads((tmp_path / "g" / "generator.json").read_text())
    assert card["training_cases"] == list(data.training_cases)
    assert card["finished"]
    file = tmp_path / "g" / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match="SHA-256"):
        load_generator(tmp_path / "g")
    with pytest.raises(BadInput, match="no finished generator"):
        load_generator(tmp_path / "nothing")


def test_frequencies_are_shares_of_lung(data):
    counts = [np.sum([np.sum(data.cache.label(i) == v) for i in data.training_cases]) for v in (1, 2, 3)]
    assert data.frequencies() == pytest.approx([counts[1] / sum(counts), counts[2] / sum(counts)])


def test_encoding_a_slice_is_undone_where_it_shows_the_body():
    """Whatever the shape: what is grown is empty, what is painted comes back in the dataset's intensities."""
    rng, windows = np.random.default_rng(0), ((-1000.0, 1000.0), (0.0, 10.0))
    encoding = Encoding(windows, np.array([1, 3]), 4)
    image = rng.uniform([[[-1000]], [[0]]], [[[1000]], [[10]]], (2, 5, 6))
    condition = rng.integers(0, 4, (5, 6)).astype(np.uint8)
    shape = encoding.grown(condition.shape)
    assert shape == (8, 8)
    seen, masks = encoding.image(image, condition, shape), encoding.masks(condition, shape)
    assert seen.shape == (2, 8, 8)
    assert masks.shape == (2, 8, 8)
    assert (seen[:, 5:] == -1).all()
    assert (seen[:, :, 6:] == -1).all()
    assert not masks[:, 5:].any()
    assert not masks[:, :, 6:].any()
    assert (masks[:, :5, :6] == (condition == np.array([1, 3])[:, None, None])).all()
    back = intensities(seen, windows, condition.shape)
    lowest = np.broadcast_to(np.array([[[-1000]], [[0]]]), image.shape)
    assert np.allclose(back, np.where(condition > 0, image, lowest), atol=1e-3)
