"""A network that sees the slices beside the one it paints, and the noise that neighbouring slices share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.dataset.cache import index_slices
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.generator.along_z import (
    along_stacks,
    beside,
    correlation,
    correlation_length,
    gathered,
    seeing_neighbours,
    with_neighbours_noise,
)
from nnunet_difflung.generator.diffusion import forward_process, region_loss
from nnunet_difflung.generator.families.context import ContextUpdate
from nnunet_difflung.generator.families.diffusion import DiffusionUpdate
from nnunet_difflung.generator.guidance import held_to_style
from nnunet_difflung.generator.regions import RegionSource, lesion_region, normal_region
from nnunet_difflung.generator.sampling import SliceInputs, paint_slices
from nnunet_difflung.generator.store import load_generator
from nnunet_difflung.generator.style import style_channels
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.generator.training import _source, resolve, train_generator
from nnunet_difflung.meaning.labels import label_roles
from nnunet_difflung.methods import METHODS
from tests.support.generators import TINY, open_data

DIFFLUNG = METHODS["difflung"]
CONFIG = replace(TINY, patch_size=32)


@pytest.fixture
def volumes(tmp_path, monkeypatch):
    return open_data(tmp_path, monkeypatch, volumes=True, depth=8, patients=4)


def test_the_slices_before_and_after_are_those_of_the_own_stack():
    assert beside([3, 1, 2]).tolist() == [[-1, 1], [0, 2], [1, -1], [-1, -1], [-1, 5], [4, -1]]
    maps = torch.arange(3.0).view(3, 1, 1, 1)
    own = torch.tensor([0, 1, 2])
    assert gathered(maps, beside([3]), own, missing=-9).flatten(1).tolist() == [[0, -9, 1], [1, 0, 2], [2, 1, -9]]
    assert gathered(maps, beside([3])[2:], own[2:]).flatten(1).tolist() == [[2, 1, 0]]


def test_noise_along_a_stack_is_standard_normal_and_forgets_with_the_distance():
    noise = torch.randn(6, 1, 200, 200, generator=torch.Generator().manual_seed(0))
    shared = torch.full((6,), 0.7)
    joined = along_stacks(noise, [4, 2], shared).flatten(1)
    assert joined.std(1).tolist() == pytest.approx([1] * 6, abs=0.02)
    r = torch.corrcoef(joined)
    for a in range(4):
        for b in range(4):
            assert float(r[a, b]) == pytest.approx(0.7 ** abs(a - b), abs=0.02)
    assert r[:4, 4:].abs().max() < 0.02, "another stack has noise of its own"
    assert float(r[4, 5]) == pytest.approx(0.7, abs=0.02)


def test_in_training_the_noise_of_neighbours_is_shared_as_in_painting():
    noise = torch.randn(2, 6, 150, 150, generator=torch.Generator().manual_seed(0))
    shared = torch.tensor([0.6, 0.0]).view(2, 1, 1, 1)
    first, second = with_neighbours_noise(noise, 2, shared).flatten(2)
    r = torch.corrcoef(first)
    assert [float(r[0, n]) for n in (2, 4)] == pytest.approx([0.6, 0.6], abs=0.02)
    assert float(r[2, 4]) == pytest.approx(0.36, abs=0.02)
    assert abs(float(r[0, 1])) < 0.02, "channels have noise of their own"
    assert torch.equal(second, noise[1].flatten(1))
    assert torch.equal(with_neighbours_noise(noise, 2, shared)[:, :2], noise[:, :2])


@pytest.mark.parametrize("length", [2.0, 10.0])
def test_the_correlation_length_is_that_of_the_lesions(volumes, monkeypatch, length):
    cases = list(volumes.training_cases)
    spacing, rng, cache = 2.5, np.random.default_rng(0), volumes.cache
    images = {}
    for identifier in cases:
        facts = replace(cache.facts[identifier], spacing=(spacing, 1.0, 1.0))
        monkeypatch.setitem(cache.facts, identifier, facts)
        noise = rng.normal(0, 50, facts.shape)
        for z in range(1, len(noise)):
            r = correlation(spacing, length)
            noise[z] = r * noise[z - 1] + np.sqrt(1 - r**2) * noise[z]
        images[identifier] = (noise - 900 * (cache.condition(identifier) == 2) - 400)[None]
    monkeypatch.setattr(cache, "image", images.__getitem__)
    assert correlation_length(cache, cases) == pytest.approx(length, rel=0.35)


def test_slices_have_no_neighbours_and_methods_that_do_not_look_at_them_neither(tmp_path, monkeypatch, volumes):
    assert resolve(DIFFLUNG, CONFIG, volumes).neighbours == 1
    assert resolve(DIFFLUNG, CONFIG, volumes).correlation_mm > 0
    assert resolve(DIFFLUNG, replace(CONFIG, neighbours=0), volumes).neighbours is None
    assert resolve(METHODS["cbmat"], replace(CONFIG, neighbours=1), volumes).neighbours is None
    flat = open_data(tmp_path / "flat", monkeypatch)
    for neighbours in (None, 0, 1):
        config = resolve(DIFFLUNG, replace(CONFIG, neighbours=neighbours), flat)
        assert (config.neighbours, config.correlation_mm) == (None, None)


def source_of(data) -> RegionSource:
    source = _source(data, DIFFLUNG, index_slices(data.cache, data.training_cases), resolve(DIFFLUNG, CONFIG, data), 1)
    assert isinstance(source, RegionSource)
    return source


def test_an_example_of_a_volume_is_a_slice_with_those_beside_it(volumes):
    source, classes = source_of(volumes), len(volumes.cache.roles.conditions)
    batch = source.batch(1, range(60))
    assert batch.image.shape[1] == 3
    assert batch.condition.shape[1] == 3 + 3 * classes + style_channels(1) + 1
    shared = batch.condition[:, -1]
    spacing = volumes.cache.facts[volumes.training_cases[0]].spacing[0]
    assert np.allclose(shared, correlation(spacing, source.config.correlation_mm))
    regions, masks = batch.condition[:, :3] > 0, batch.condition[:, 3 : 3 + 3 * classes].reshape(60, 3, classes, 32, 32)
    assert regions[:, 0].any((1, 2)).all(), "every example has something to learn"
    assert (batch.weight[:, 0] > 0).any((1, 2)).all()
    assert not (batch.weight[:, 0] > 0)[~regions[:, 0]].any()
    lung = masks[:, :, [volumes.cache.roles.conditions.index(n) for n in ("normal_lung", "emphysema", "ILD")]].any(2)
    assert not (regions & ~lung).any()
    emphysema = masks[:, :, volumes.cache.roles.conditions.index("emphysema")] > 0
    both = (emphysema & regions).any((2, 3))
    assert (both[:, 0] & both[:, 1]).any(), "a lesion is painted in neighbouring slices"
    assert (both[:, 1] & ~both[:, 0]).any(), "and so is the lung above its end"
    assert (~regions[:, 1].any((1, 2))).any(), "or the slice above stays real"


def test_beyond_the_ends_of_a_volume_there_is_air(volumes, monkeypatch):
    source = source_of(volumes)
    case = volumes.training_cases[0]
    monkeypatch.setattr(source, "_shifted", lambda case, z, rng: 0)
    batch = source.batch(1, range(8))
    assert (batch.image[:, 1] == -1).all()
    assert (batch.image[:, 2] > -1).any((1, 2)).all()
    classes = len(volumes.cache.roles.conditions)
    assert not batch.condition[:, 3 + classes : 3 + 2 * classes].any()
    assert volumes.cache.facts[case].shape[0] == 8


def test_lesions_of_a_window_are_those_of_its_own_slice_if_it_has_any():
    condition = np.ones((3, 20, 20), np.uint8)
    condition[0, 2:5, 2:5] = condition[1, 12:16, 12:16] = condition[2, 12:16, 12:16] = 2
    normal = SimpleNamespace(is_normal=lambda label: label == 1)
    shape = lambda rng: np.ones((5, 5), bool)  # noqa: E731
    for seed in range(20):
        region = lesion_region(condition, 2, normal, shape, np.random.default_rng(seed))
        assert region.inside[1].any()
        assert not region.inside[0].any(), "the one above is another lesion"
    condition[1:, 12:16, 12:16] = 1
    found = [lesion_region(condition, 2, normal, shape, np.random.default_rng(seed)) for seed in range(60)]
    beyond = [region for region in found if region]
    assert 0 < len(beyond) < 60, "without a margin nothing of it lies in the slice"
    assert all(region.mask[1].any() and not region.inside[1].any() for region in beyond)
    lung = [normal_region(np.ones((3, 9, 9), np.uint8), normal, shape, np.random.default_rng(s)) for s in range(40)]
    assert 0.4 < np.mean([region.inside[0].any() for region in lung]) < 0.95


def test_the_loss_is_of_the_middle_slice_and_the_network_sees_all_three():
    process, seen = forward_process(CONFIG), []

    def network(inputs, t):
        seen.append(inputs)
        return SimpleNamespace(sample=torch.zeros_like(inputs[:, :1]))

    generator = torch.Generator().manual_seed(0)
    x_0, noise = (torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2))
    condition = torch.zeros(2, 5, 8, 8)
    condition[:, 0, :4], condition[:, 1, 2:6] = 1, 1
    weight, t = condition[:, :1].clone(), torch.tensor([500, 500])
    loss = region_loss(network, process, x_0, condition, weight, noise, t, slices=3)
    target = process.get_velocity(x_0[:, :1], noise[:, :1], t)
    assert float(loss) == pytest.approx(float(target[:, :, :4].square().mean()), rel=1e-5)
    noised = process.add_noise(x_0, noise, t)
    expected = torch.where(condition[:, :3] > 0, noised, x_0)
    assert torch.equal(seen[0][:, :3], expected)
    assert torch.equal(seen[0][:, 3:], condition)


def test_calls_of_the_network_are_small_and_do_not_change_what_it_sees():
    sizes, told = [], []

    def network(inputs, t):
        sizes.append(len(inputs))
        told.append(inputs[:, 3:].flatten(1).tolist())
        return SimpleNamespace(sample=inputs[:, :1] + 10 * inputs[:, 1:2] + 100 * inputs[:, 2:3])

    number = torch.arange(5.0).view(5, 1, 1, 1)
    inputs = torch.cat(
        [number, 0.5 + number, 20 + number, 40 + number, 60 + number], 1
    )  # x_t, region, 2 masks, further

    def seen(active: list[bool], at_once: int) -> list[float]:
        called = seeing_neighbours(network, 1, 2, beside([3, 2]), torch.tensor(active), at_once)
        return called(inputs, torch.tensor(3)).sample.flatten().tolist()

    every = [0 - 10 + 100, 1 + 0 + 200, 2 + 10 - 100, 3 - 10 + 400, 4 + 30 - 100]
    assert seen([True] * 5, 8) == seen([True] * 5, 2) == every
    assert sizes == [5, 2, 2, 1]
    assert told[0][1] == [1.5, 0.5, 2.5, 21, 41, 20, 40, 22, 42, 61], "regions, then masks, of it, before and after it"
    assert told[0][0] == [0.5, 0, 1.5, 20, 40, 0, 0, 21, 41, 60]
    assert seen([False, True, False, True, True], 8) == [0, every[1], 0, *every[3:]]
    assert sizes[-1] == 3, "what stays real costs nothing"


def test_a_lesion_is_held_to_its_style_as_a_whole():
    """The mean over all slices is the wanted one; that of each slice is the network's own."""
    config = replace(CONFIG, prediction="v_prediction")
    clean = torch.zeros(3, 1, 6, 6)
    clean[1], clean[2] = 0.2, 0.4
    style = torch.zeros(3, 3, 6, 6)
    style[:, 0], style[:, 1], style[:, 2] = torch.tensor([-0.7, -0.5, -0.3]).view(3, 1, 1), -1.0, 1.0
    parts = torch.ones(3, 1, 6, 6, dtype=torch.int32)
    bar = forward_process(config).alphas_cumprod[500]

    def network(inputs, t):  # predicts ``clean``
        return SimpleNamespace(sample=(bar.sqrt() * inputs[:, :1] - clean) / (1 - bar).sqrt())

    def painted(stacks):
        x_t = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        v = held_to_style(network, config, style, parts, stacks)(x_t, torch.tensor(500)).sample
        return (bar.sqrt() * x_t - (1 - bar).sqrt() * v).mean((1, 2, 3))

    assert painted([3]).tolist() == pytest.approx([-0.7, -0.5, -0.3], abs=1e-4)
    assert painted(None).tolist() == pytest.approx([-0.7, -0.5, -0.3], abs=1e-4)
    clean[1] = 0.0
    assert painted([3]).tolist() == pytest.approx([-0.633, -0.633, -0.233], abs=1e-3)
    assert painted(None).tolist() == pytest.approx([-0.7, -0.5, -0.3], abs=1e-4)


def test_the_spread_of_a_lesion_is_that_of_its_slices_and_of_their_levels():
    config, bar = replace(CONFIG, prediction="v_prediction"), forward_process(CONFIG).alphas_cumprod[3]
    assert bar > 0.99
    clean = torch.randn(2, 1, 30, 30, generator=torch.Generator().manual_seed(1)) * 0.25
    style = torch.zeros(2, 3, 30, 30)
    style[:, 0], style[:, 1], style[:, 2] = torch.tensor([-0.4, 0.0]).view(2, 1, 1), float(np.log10(2)), 1.0
    parts = torch.ones(2, 1, 30, 30, dtype=torch.int32)

    def network(inputs, t):  # predicts ``clean``
        return SimpleNamespace(sample=(bar.sqrt() * inputs[:, :1] - clean) / (1 - bar).sqrt())

    x_t = torch.zeros(2, 1, 30, 30)
    v = held_to_style(network, config, style, parts, [2])(x_t, torch.tensor(3)).sample
    x_0 = bar.sqrt() * x_t - (1 - bar).sqrt() * v
    assert float(x_0.mean()) == pytest.approx(-0.2, abs=1e-3)
    assert float(x_0.std(correction=0)) == pytest.approx(np.hypot(0.2, 0.2), abs=0.005)


def test_a_painted_stack_does_not_depend_on_what_else_is_painted(volumes, tmp_path):
    train_generator(volumes, DIFFLUNG, CONFIG, tmp_path / "g", progress=False)
    generator = load_generator(tmp_path / "g")
    classes, rng = len(volumes.cache.roles.conditions), np.random.default_rng(0)
    assert generator.config.neighbours == 1

    def stack(length: int) -> list[SliceInputs]:
        region = np.zeros((1, 16, 16), bool)
        region[0, 4:12, 4:12] = True
        return [
            SliceInputs(
                rng.random((classes, 16, 16)).astype(np.float32),
                rng.normal(size=(1, 16, 16)).astype(np.float32),
                n,
                rng.uniform(-1, 1, (1, 16, 16)).astype(np.float32),
                ~region if 0 < n < length - 1 else np.ones_like(region),
                style=np.zeros((3, 16, 16), np.float32),
                shared=0.5,
            )
            for n in range(length)
        ]

    one, other = stack(4), stack(3)
    sampling = SamplingConfig(sampler="ddpm", steps=3, batch_size=8)
    alone = paint_slices(DIFFLUNG, generator, sampling, one, "cpu", [4])
    both = paint_slices(DIFFLUNG, generator, replace(sampling, batch_size=2), [*other, *one], "cpu", [3, 4])
    np.testing.assert_allclose(both[3:], alone, atol=1e-4)
    for n, inputs in enumerate(one):
        assert np.array_equal(alone[n][inputs.is_known], inputs.known[inputs.is_known])
    split = paint_slices(DIFFLUNG, generator, sampling, one, "cpu", [2, 2])
    assert np.abs(split - alone).max() > 1e-3, "what lies beside a slice matters"


def test_neighbours_are_an_option_of_methods_that_look_at_them(capsys):
    of = {
        method: settings_from(parse(["-d", "801", "-device", "cpu", "--method", method, "--neighbours", "0"]))
        for method in ("difflung", "cbmat")
    }
    assert of["difflung"].generator.neighbours == 0
    one, none = (settings_from(parse(["-d", "801", "-device", "cpu", *more])) for more in (["--neighbours", "1"], []))
    assert one.identity() == none.identity() != of["difflung"].identity()
    assert of["cbmat"].generator.neighbours is None
    assert "with --method cbmat, --neighbours has no effect" in capsys.readouterr().err


def test_the_noise_of_each_reverse_step_goes_on_along_a_stack(volumes):
    """Of what a network that knows nothing paints, neighbouring slices share what their noise shares."""
    config = resolve(DIFFLUNG, CONFIG, volumes)
    generator = Generator(torch.nn.Identity(), config, volumes.cache.roles.conditions, (), "", Path())
    generator.ready["fp32"] = lambda inputs, t: SimpleNamespace(sample=torch.zeros_like(inputs[:, :1]))
    rng, shape = np.random.default_rng(0), (1, 64, 64)
    slices = [
        SliceInputs(
            np.zeros((len(generator.conditions), 64, 64), np.float32),
            rng.normal(size=shape).astype(np.float32),
            n,
            np.zeros(shape, np.float32),
            np.zeros(shape, bool),
            shared=0.8,
        )
        for n in range(6)
    ]
    sampling = SamplingConfig(sampler="ddpm", steps=12)

    def correlations(stacks: list[int]) -> float:
        painted = paint_slices(DIFFLUNG, generator, sampling, slices, "cpu", stacks).reshape(6, -1)
        return float(np.mean([np.corrcoef(painted[n], painted[n + 1])[0, 1] for n in range(5)]))

    assert correlations([6]) > 0.5
    assert abs(correlations([1] * 6)) < 0.05


def test_training_steps_see_noise_that_neighbours_share(monkeypatch):
    seen = []
    monkeypatch.setattr(DiffusionUpdate, "__call__", lambda self, *inputs: seen.append(inputs))
    update = ContextUpdate.__new__(ContextUpdate)
    image, noise = torch.zeros(1, 3, 100, 100), torch.randn(1, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    condition = torch.full((1, 9, 100, 100), 0.7)
    for neighbours, expected in ((1, 0.7), (None, 0.0)):
        update.config = replace(CONFIG, neighbours=neighbours)
        update(image, condition, image[:, :1], noise, torch.tensor([5]))
        r = torch.corrcoef(seen[-1][3][0].flatten(1))
        assert [float(r[0, n]) for n in (1, 2)] == pytest.approx([expected] * 2, abs=0.03)


def test_masks_that_are_hidden_are_hidden_in_all_slices(volumes):
    source, roles = source_of(volumes), volumes.cache.roles
    source.probabilities = np.ones_like(source.probabilities)
    batch, classes = source.batch(0, range(12)), len(roles.conditions)
    masks = batch.condition[:, 3 : 3 + 3 * classes].reshape(12, 3, classes, 32, 32)
    pathologies = [roles.conditions.index(name) for name in roles.pathologies]
    assert not masks[:, :, pathologies].any()
    assert masks.any((3, 4))[:, 0].any()
    assert (batch.condition[:, :3] > 0).any()


def test_too_few_voxels_do_not_decide_the_correlation_length():
    label = np.ones((10, 20, 20), np.uint8)
    label[4:6, 5:7, 5:7] = 2  # four pairs
    roles = label_roles({"labels": {"background": 0, "normal_lung": 1, "ggo": 2}}, "x")
    counts = {name: (label == value).sum((1, 2)).tolist() for name, value in roles.values.items()}
    for seed in range(4):
        image = np.random.default_rng(seed).normal(-700, 80, (1, *label.shape)).astype(np.float32)
        facts = CaseFacts("a", label.shape, 1, (5.0, 1.0, 1.0), "float32", counts, [], "")
        cache = SimpleNamespace(
            roles=roles, facts={"a": facts}, image=lambda _, image=image: image, condition=lambda _: label
        )
        assert correlation_length(cache, ["a"]) == 5.0
