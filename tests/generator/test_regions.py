"""A network that fills regions of real slices: which regions, what it is told, what it may change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.dataset.cache import index_slices
from nnunet_difflung.generator.diffusion import forward_process, paint, region_loss, reverse_timesteps
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.generator.families.interface import Canvas
from nnunet_difflung.generator.guidance import held_to_style
from nnunet_difflung.generator.regions import RegionSource
from nnunet_difflung.generator.sampling import paint_batch
from nnunet_difflung.generator.store import load_generator
from nnunet_difflung.generator.style import style_channels, style_of
from nnunet_difflung.generator.training import _source, resolve, train_generator
from nnunet_difflung.methods import METHODS
from tests.support.generators import CBMAT, TINY, logged, open_data

DIFFLUNG = METHODS["difflung"]
CONFIG = replace(TINY, patch_size=32)
EXAMPLES = range(120)


def source_of(data, config=CONFIG, total: int = 1) -> RegionSource:
    source = _source(
        data, DIFFLUNG, index_slices(data.cache, data.training_cases), resolve(DIFFLUNG, config, data), total
    )
    assert isinstance(source, RegionSource)
    return source


def parts_of(batch, data):
    """Region (n, y, x) bool, masks by name, style (n, 2c + 1, y, x) of a batch."""
    names, channels = data.cache.roles.conditions, batch.image.shape[1]
    region, style = batch.condition[:, 0] > 0, batch.condition[:, -style_channels(channels) :]
    masks = batch.condition[:, 1 : -style_channels(channels)] > 0
    assert masks.shape[1] == len(names)
    return region, {name: masks[:, i] for i, name in enumerate(names)}, style


def test_regions_lie_in_the_lung_and_hold_lesions_and_normal_lung(data):
    source = source_of(data)
    region, masks, _ = parts_of(source.batch(1, EXAMPLES), data)  # the last step: nothing is ablated any more
    lesions = np.any([masks[name] for name in data.cache.roles.pathologies], axis=0)
    assert region.any((1, 2)).all(), "every example has something to learn"
    assert not (region & ~(lesions | masks["normal_lung"])).any()
    with_lesion = (region & lesions).any((1, 2))
    assert 0.4 < with_lesion.mean() < 0.8, "about the share that is drawn for the pathologies"
    for name in data.cache.roles.pathologies:
        assert (region & masks[name]).any((1, 2)).mean() > 0.15
    assert (region & masks["normal_lung"])[with_lesion].any((1, 2)).mean() > 0.4, "lesions have a margin"
    assert (lesions & ~region).any((1, 2)).any(), "a crop's other lesions stay real"


def test_uniform_batches_have_lesions_too(data):
    source = source_of(data, replace(CONFIG, balanced_share=0.0))
    region, masks, _ = parts_of(source.batch(1, EXAMPLES), data)
    lesions = np.any([masks[name] for name in data.cache.roles.pathologies], axis=0)
    assert 0.1 < (region & lesions).any((1, 2)).mean() < 0.8


def test_batches_with_regions_are_a_function_of_seed_and_step(data):
    first, second = source_of(data), source_of(data)
    second.batch(3, range(4))
    for a, b in zip(vars(first.batch(7, range(4))).values(), vars(second.batch(7, range(4))).values(), strict=True):
        assert (a == b).all()
    parts = [first.batch(7, [slot]).condition for slot in range(4)]
    assert (np.concatenate(parts) == first.batch(7, range(4)).condition).all(), "processes make the same global batch"
    assert (first.batch(8, range(4)).condition != first.batch(7, range(4)).condition).any()


def test_batches_of_slices_are_those_of_earlier_versions(data):
    """So that a training that was interrupted goes on as it began; found with the version before volumes."""
    batch = source_of(data).batch(3, range(12))
    assert batch.condition[:, 0].sum((1, 2)).astype(int).tolist() == [26, 78, 38, 41, 43, 138, 108, 106, 27, 51, 52, 61]


def test_the_style_is_level_and_spread_of_the_real_voxels(data):
    batch = source_of(data).batch(1, EXAMPLES)
    region, masks, style = parts_of(batch, data)
    told = style[:, -1] > 0
    assert not (told & ~region).any()
    assert not style[~np.broadcast_to(told[:, None], style.shape)].any(), "nothing is told elsewhere"
    assert 0.02 < (~told.any((1, 2))).mean() < 0.3, "some examples are not told, for a network that need not be"
    checked = 0
    for image, inside, lesion, maps in zip(batch.image, region, masks["ILD"], style, strict=True):
        styles = np.unique(maps[:, inside], axis=1)
        if styles.shape[1] != 1 or not maps[-1].any() or not (lesion & inside).any():
            continue
        voxels = image[:, lesion & inside]
        assert maps[:-1, inside][:, 0] == pytest.approx(style_of(voxels), abs=1e-5)
        assert styles[0, 0] == pytest.approx(voxels.mean(), abs=1e-5)
        assert 10 ** styles[1, 0] / 10 == pytest.approx(voxels.std(), rel=1e-3)
        checked += 1
    assert checked > 5


def test_ignored_voxels_do_not_count_in_regions(tmp_path, monkeypatch):
    data = open_data(tmp_path, monkeypatch, ignore=True, size=24)
    batch = source_of(data).batch(0, EXAMPLES)
    assert (batch.weight[:, 0] <= batch.condition[:, 0]).all()
    assert batch.weight.any((1, 2, 3)).all()


class Spy(torch.nn.Module):
    """Predicts nothing, and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[torch.Tensor] = []

    def forward(self, x, t):
        self.seen.append(x.detach().clone())
        return type("Out", (), {"sample": x[:, :1] * self.weight})()


def region_inputs(channels: int = 1):
    source = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(2, channels, 16, 16, generator=source) for _ in range(2))
    image = image.clamp(-1, 1)
    region = torch.zeros(2, 1, 16, 16)
    region[:, :, 4:9, 5:11] = 1
    return image, noise, region


def test_the_loss_is_that_of_the_region_whose_surroundings_are_real():
    image, noise, region = region_inputs()
    process, network = forward_process(resolve_free()), Spy()
    condition, t = torch.cat([region, torch.ones(2, 3, 16, 16)], 1), torch.tensor([500, 900])
    loss = region_loss(network, process, image, condition, region, noise, t).detach()
    shown = network.seen[0]
    inside = region.expand_as(image) > 0
    assert torch.equal(shown[:, :1][~inside], image[~inside])
    assert torch.equal(shown[:, :1][inside], process.add_noise(image, noise, t)[inside])
    assert torch.equal(shown[:, 1:], condition)
    other = torch.where(inside, image, image.flip(0))
    assert torch.equal(region_loss(Spy(), process, other, condition, region, noise, t).detach(), loss)
    target = process.get_velocity(image, noise, t)
    expected = ((target**2) * region).sum((1, 2, 3)) / region.sum((1, 2, 3))
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-5)


def resolve_free():
    return replace(TINY, windows=((-1000.0, 1000.0),))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm", "unipc"])
def test_surroundings_are_real_at_every_step_and_stay_so(sampler):
    image, noise, region = region_inputs()
    network = Spy()
    painted = paint(network, resolve_free(), sampler, 4, region, noise, image, region == 0, None, noised=False)
    outside = (region == 0).expand_as(image)
    assert len(network.seen) >= 4
    assert all(torch.equal(shown[:, :1][outside], image[outside]) for shown in network.seen)
    assert torch.equal(painted[outside], image[outside])
    assert not torch.equal(painted[~outside], image[~outside])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("difflung")
        data = open_data(folder, patch)
        train_generator(data, DIFFLUNG, CONFIG, folder / "whole", progress=True)
        return data, folder


def test_training_resumes_to_the_bit_draws_sheets_and_paints(trained, tmp_path):
    data, folder = trained
    train_generator(data, DIFFLUNG, CONFIG, tmp_path / "parts", progress=False, save_every=0, stop_after=2)
    train_generator(data, DIFFLUNG, CONFIG, tmp_path / "parts", progress=False)
    weights = [load_file(family_of(DIFFLUNG).weights(path)) for path in (folder / "whole", tmp_path / "parts")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert logged(folder / "whole") == logged(tmp_path / "parts")
    assert list((folder / "whole" / "samples").glob("*.png"))
    generator = load_generator(folder / "whole")
    image, noise, region = region_inputs()
    masks = torch.ones(2, len(generator.conditions), 16, 16)
    style = torch.zeros(2, 3, 16, 16)
    canvas = {"known": image, "is_known": region == 0}
    plain = paint_batch(DIFFLUNG, generator, SamplingConfig(steps=3), masks, noise, **canvas)
    styled = paint_batch(DIFFLUNG, generator, SamplingConfig(steps=3), masks, noise, **canvas, style=style + 1)
    outside = (region == 0).expand_as(image)
    for painted in (plain, styled):
        assert torch.equal(painted[outside], image[outside])
    assert torch.equal(
        plain, paint_batch(DIFFLUNG, generator, SamplingConfig(steps=3), masks, noise, **canvas, style=style)
    )
    assert not torch.equal(plain, styled), "the network uses what it is told"
    with pytest.raises(ValueError, match="real image"):
        family_of(DIFFLUNG).paint(generator, SamplingConfig(steps=3), Canvas(masks, noise))


def test_resampled_steps_change_the_region_only(data, tmp_path):
    train_generator(data, CBMAT, replace(TINY, epochs=1), tmp_path / "g", progress=False)
    generator = load_generator(tmp_path / "g")
    image, noise, region = region_inputs()
    masks = torch.ones(2, len(generator.conditions), 16, 16)

    def painted(resamplings: int, seed: int = 5, **options):
        sources = [torch.Generator().manual_seed(seed + i) for i in range(2)]
        sampling = SamplingConfig(steps=3, resamplings=resamplings, **options)
        return paint_batch(CBMAT, generator, sampling, masks, noise, image, region == 0, sources=sources)

    once, thrice = painted(1), painted(3)
    outside = (region == 0).expand_as(image)
    assert torch.equal(thrice[outside], image[outside])
    assert not torch.equal(once[~outside], thrice[~outside])
    assert torch.equal(thrice, painted(3)), "the noise is that of the image's own source"
    assert not torch.equal(thrice, painted(3, seed=6))
    assert torch.equal(once, painted(1, seed=6)), "ddim draws nothing"
    calls = Spy()
    paint(calls, generator.config, "ddim", 3, masks, noise, image, region == 0, None, resamplings=4)
    assert len(calls.seen) == 2 * 4 + 1, "all steps but the last are repeated"


def test_the_surroundings_have_the_noise_level_of_each_repeated_step():
    image, noise, region = region_inputs()
    image = torch.zeros_like(image)
    network = Spy()
    paint(network, resolve_free(), "ddim", 6, region, noise, image, region == 0, None, resamplings=3)
    bars = forward_process(resolve_free()).alphas_cumprod
    outside = (region == 0).expand_as(image)
    times = [t for t in reverse_timesteps(6, 1000)[:-1] for _ in range(3)]
    for shown, t in zip(network.seen, times, strict=False):
        assert shown[:, :1][outside].std() == pytest.approx(float((1 - bars[t]).sqrt()), rel=0.25)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm"])
def test_what_is_painted_is_held_to_its_level_and_spread(prediction, sampler):
    """Two lesions in an image, of which the network knows nothing."""
    config = replace(resolve_free(), prediction=prediction, zero_terminal_snr=prediction != "epsilon")
    image, noise, region = region_inputs()
    parts, style = torch.zeros(2, 1, 16, 16, dtype=torch.int32), torch.zeros(2, 3, 16, 16)
    parts[:, :, 4:9, 5:8], parts[:, :, 4:9, 8:11] = 3, 7
    told = {3: (-0.4, 0.12), 7: (-0.7, 0.06)}
    for number, (level, spread) in told.items():
        style[:, 0][parts[:, 0] == number] = level
        style[:, 1][parts[:, 0] == number] = float(np.log10(10 * spread))
    style[:, 2:][region > 0] = 1

    def painted(style, parts):
        network = held_to_style(Ideal(config), config, style, parts)
        sources = [torch.Generator().manual_seed(i) for i in range(len(style))]
        known = (region == 0)[: len(style)]
        return paint(
            network, config, sampler, 20, region[: len(style)], noise[: len(style)], image[: len(style)], known,
            sources, noised=False,
        )  # fmt: skip

    result = painted(style, parts)
    for number, (level, spread) in told.items():
        for one, where in zip(result, parts, strict=True):
            assert float(one[where == number].mean()) == pytest.approx(level, abs=0.02)
            assert float(one[where == number].std()) == pytest.approx(spread, rel=0.2)
    assert torch.equal(painted(style[:1], parts[:1]), result[:1]), "an image does not depend on its batch"


class Ideal(torch.nn.Module):
    """The ideal denoiser of grain with mean 0 and a standard deviation of 0.08."""

    def __init__(self, config):
        super().__init__()
        self.bars, self.prediction = forward_process(config).alphas_cumprod, config.prediction

    def forward(self, x, t):
        x_t, bar = x[:, :1], self.bars[t.long()]
        x_0 = 0.08**2 * bar.sqrt() * x_t / (bar * 0.08**2 + 1 - bar)
        noise = (x_t - bar.sqrt() * x_0) / (1 - bar).sqrt()
        velocity = bar.sqrt() * noise - (1 - bar).sqrt() * x_0
        return type("Out", (), {"sample": noise if self.prediction == "epsilon" else velocity})()


def test_several_channels_have_a_level_and_a_spread_each(tmp_path, monkeypatch):
    data = open_data(tmp_path, monkeypatch, channels=2)
    config = replace(CONFIG, epochs=1)
    batch = source_of(data, config).batch(0, range(8))
    assert batch.image.shape[1] == 2
    assert batch.condition.shape[1] == 1 + len(data.cache.roles.conditions) + 5
    train_generator(data, DIFFLUNG, config, tmp_path / "g", progress=False, stop_after=1)
