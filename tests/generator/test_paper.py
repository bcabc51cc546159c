"""``--preset paper`` as published: each equation, and each line of Algorithm 1, as a training runs it."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.config import differences, preset
from nnunet_difflung.dataset.cache import index_slices
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator import training
from nnunet_difflung.generator.ablation import ablatable
from nnunet_difflung.generator.diffusion import diffusion_loss, forward_process, reverse_step
from nnunet_difflung.generator.families import trained_family_of
from nnunet_difflung.generator.store import load_generator
from nnunet_difflung.generator.training import FoldData, resolve, train_generator
from nnunet_difflung.meaning.labels import BODY, LabelRoles
from nnunet_difflung.methods import METHODS
from tests.support.generators import CBMAT, TINY

PAPER = preset("paper").generator
TINY_PAPER = replace(PAPER, channels=(8, 16), attention=False, batch_size=4, epochs=2, warmup_steps=2)
TOTAL = 1000
LOBES = LabelRoles(
    ("left lung", "right lung"),
    ("emphysema", "ILD"),
    ("trachea",),
    {"left lung": 1, "emphysema": 2, "trachea": 3, "ILD": 4, "right lung": 5},
    6,
)


def source_of(data: FoldData, method: str = "cbmat", config=TINY_PAPER, total: int = TOTAL):
    """The batches of a training, made as a training makes them."""
    method = METHODS[method]
    config = resolve(method, config, data)
    return training._source(data, method, index_slices(data.cache, data.training_cases), config, total)


def hidden(data: FoldData, step: int, method: str = "cbmat", config=TINY_PAPER, slots: int = 500) -> dict[str, float]:
    """Class → share of the examples that show it in which its mask is hidden."""
    source = source_of(data, method, config)
    seen = source.batch(step, range(slots)).condition.any((2, 3))
    source.probabilities = np.zeros_like(source.probabilities)
    there = source.batch(step, range(slots)).condition.any((2, 3))
    assert (seen <= there).all()
    names = data.cache.roles.conditions
    return {name: 1 - seen[:, i].sum() / there[:, i].sum() for i, name in enumerate(names) if there[:, i].any()}


# ---- what the preset is ----


def test_the_preset_has_the_values_of_the_paper():
    settings = settings_from(parse(["-d", "801", "--precision", "fp32", "--preset", "paper"]))
    assert settings.method == "cbmat"
    generator, sampling, balance = settings.generator, settings.sampling, settings.balance
    assert (generator.prediction, generator.epochs, generator.train_timesteps) == ("epsilon", 400, 1000)
    assert (generator.ablation_probability, generator.ablated_classes, generator.annealing) == ("eq8", "all", "cosine")
    assert (generator.delta_0, generator.timestep_power, generator.balanced_share) == (1.0, 1.0, 0.0)
    assert (generator.patch_size, generator.flip, generator.zero_terminal_snr) == (0, False, False)
    assert (sampling.sampler, sampling.steps, sampling.paint, sampling.gate) == ("ddim", 1000, "full", "report")
    assert (sampling.candidates, sampling.resamplings) == (1, 1)
    assert (balance.default_share, balance.fibrosis_share, balance.target_multiple) == (0.06, 0.22, None)
    assert (balance.placement, balance.order, balance.placebo) == ("uniform", "frequency", 0.0)


def of_preset(name: str, *options: str):
    return settings_from(parse(["-d", "801", "--precision", "fp32", "--preset", name, *options]))


EARLIER = ["--target-multiple", "0", "--balance-order", "deficit", "--gate", "drop"]


@pytest.mark.parametrize(
    ("method", "former"),
    [("cbmat", "9793d470eb82"), ("mat", "daeac5efe6b4"), ("none", "820e1c512b13")],
)
def test_runs_of_an_earlier_preset_are_told_apart_and_can_go_on(method, former):
    """``former`` is the hash of ``--preset paper`` in the version before."""
    ablated = [] if method == "none" else ["--ablated-classes", "pathologies"]
    earlier = of_preset("paper", "--method", method, *EARLIER, *ablated)
    now = of_preset("paper", "--method", method)
    assert earlier.hash() == former != now.hash()
    named = differences(earlier.identity(), now.identity())
    assert ("ablated_classes was pathologies, is now all" in named) == bool(ablated)
    assert "order was deficit, is now frequency" in named
    assert "gate was drop, is now report" in named
    assert "fibrosis_share was None, is now 0.22" in named


def test_a_generator_of_an_earlier_preset_is_another_one_where_ablation_differs(data, tmp_path):
    earlier = replace(TINY_PAPER, ablated_classes="pathologies", channels=(8, 8))
    now = replace(earlier, ablated_classes="all")
    train_generator(data, CBMAT, earlier, tmp_path / "cbmat", progress=False)
    with pytest.raises(BadInput, match="ablated_classes was pathologies, is now all"):
        train_generator(data, CBMAT, now, tmp_path / "cbmat", progress=False)
    train_generator(data, METHODS["none"], earlier, tmp_path / "none", progress=False)
    train_generator(data, METHODS["none"], now, tmp_path / "none", progress=False)
    assert load_generator(tmp_path / "none").config.ablated_classes == "pathologies"
    assert resolve(METHODS["pix2pix"], now, data) == resolve(METHODS["pix2pix"], earlier, data)


# ---- Eq. 1 to 7 ----


def test_eq1_eq2_and_eq6_noise_an_image():
    process = forward_process(PAPER)
    beta = np.linspace(1e-4, 0.02, 1000)
    bar = np.cumprod(1 - beta)
    assert process.alphas_cumprod.numpy() == pytest.approx(bar, rel=1e-4)
    x_0, noise = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    t = torch.tensor([0, 400, 999])
    level = torch.tensor(bar, dtype=torch.float32)[t].view(3, 1, 1, 1)
    expected = level.sqrt() * x_0 + (1 - level).sqrt() * noise
    assert process.add_noise(x_0, noise, t).numpy() == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.parametrize("t", [1, 300, 900])
def test_eq3_and_eq4_are_the_mean_of_a_step_with_fresh_noise(t):
    """From any t to t − 1; x_0 is small, so that nothing is clipped."""
    bars = forward_process(PAPER).alphas_cumprod.double()
    bar, before = bars[t], bars[t - 1]
    beta = 1 - bar / before
    noise, fresh = (torch.randn(1, 1, 8, 8, dtype=torch.float64) for _ in range(2))
    x_t = bar.sqrt() * 0.1 + (1 - bar).sqrt() * noise
    mean = (x_t - beta / (1 - bar).sqrt() * noise) / (1 - beta).sqrt()
    step = reverse_step(x_t, noise, bar, before, "epsilon", fresh)
    assert reverse_step(x_t, noise, bar, before, "epsilon", 0 * fresh).numpy() == pytest.approx(mean.numpy(), abs=1e-6)
    sigma = ((step - mean) / fresh).mean().item()
    assert sigma == pytest.approx(math.sqrt(beta * (1 - before) / (1 - bar)), rel=1e-4)


def test_eq5_and_eq7_compare_the_noise_with_what_the_network_says_of_x_t_t_and_m():
    process, seen = forward_process(PAPER), {}
    x_0, noise, masks = torch.rand(2, 1, 8, 8), torch.randn(2, 1, 8, 8), torch.rand(2, 3, 8, 8)
    t, weight, answer = torch.tensor([3, 500]), torch.ones(2, 1, 8, 8), torch.randn(2, 1, 8, 8)

    def network(x, steps):
        seen.update(x=x, t=steps)
        return SimpleNamespace(sample=answer)

    loss = diffusion_loss(network, process, x_0, masks, weight, noise, t)
    assert loss == pytest.approx((noise - answer).square().mean().item(), rel=1e-5)
    assert (seen["x"] == torch.cat([process.add_noise(x_0, noise, t), masks], 1)).all()
    assert (seen["t"] == t).all()


# ---- Algorithm 1 ----


def test_line_5_spares_what_surrounds_the_lung_and_nothing_else():
    lung = ("left lung", "right lung", "emphysema", "ILD")
    assert ablatable(LOBES, "cbmat", "all") == lung
    assert ablatable(LOBES, "mat", "all") == (*lung, "trachea", BODY), "all 2^(C − 1) combinations"
    for ablation in ("cbmat", "mat", "none"):
        assert ablatable(LOBES, ablation, "pathologies") == ("emphysema", "ILD")
    assert ablatable(LOBES, "none", "all") == ("emphysema", "ILD")


def test_line_1_starts_with_eq8_of_every_class_but_the_surroundings(data):
    counts = [np.sum([np.sum(data.cache.label(i) == v) for i in data.training_cases]) for v in (1, 2, 3)]
    f = np.array(counts) / sum(counts)
    assert source_of(data).probabilities == pytest.approx(1 - f)
    assert source_of(data, config=replace(TINY_PAPER, delta_0=0.5)).probabilities == pytest.approx(0.5 * (1 - f))
    text = replace(TINY_PAPER, ablation_probability="text")
    assert source_of(data, config=text).probabilities == pytest.approx(f / f.max())
    assert source_of(data, config=replace(TINY_PAPER, ablated_classes="pathologies")).probabilities == pytest.approx(
        1 - f[1:]
    )
    assert source_of(data, "mat").probabilities == pytest.approx([0.5] * 4)


def test_line_3_draws_every_training_slice_equally_often(data, monkeypatch):
    source, drawn = source_of(data), []
    monkeypatch.setattr(source, "_parts", lambda d, rng: drawn.append(d.case) or (np.zeros((1, 4, 4)),) * 3)
    source.batch(0, range(1600))
    expected = np.bincount([list(data.training_cases).index(case) for case in source.index.cases])
    counts = np.bincount([list(data.training_cases).index(case) for case in drawn])
    assert counts / 1600 == pytest.approx(expected / len(source.index), abs=0.04)


def test_lines_6_to_8_hide_each_class_as_often_as_it_is_to_be(data):
    f = dict(zip(("normal_lung", "emphysema", "ILD"), data.frequencies(data.cache.roles.lung), strict=True))
    shares = hidden(data, 0)
    assert f["normal_lung"] > 0.7
    for name in f:
        assert shares[name] == pytest.approx(1 - f[name], abs=0.06), name
    assert shares[BODY] == 0


def test_line_8_hides_masks_but_not_the_image(data):
    source = source_of(data)
    batch = source.batch(0, range(12))
    source.probabilities = source.probabilities * 0
    whole = source.batch(0, range(12))
    assert (batch.condition != whole.condition).any()
    assert (batch.image == whole.image).all()
    assert (batch.weight == 1).all()


def test_line_10_lowers_the_probability_by_eq9_as_the_training_goes_on(data):
    start = 1 - data.frequencies(data.cache.roles.lung)
    for share in (0.25, 0.5, 0.9):
        shares = hidden(data, int(share * TOTAL))
        for p, name in zip(start, data.cache.roles.lung, strict=True):
            expected = p * (1 + math.cos(math.pi * share)) / 2
            assert shares[name] == pytest.approx(expected, abs=0.07), (share, name)
    assert not any(hidden(data, TOTAL).values())


def test_mat_hides_every_class_half_of_the_time_to_the_end(data):
    for step in (0, TOTAL):
        for name, share in hidden(data, step, "mat").items():
            assert share == pytest.approx(0.5, abs=0.08), name
    before = hidden(data, 0, "mat", replace(TINY_PAPER, ablated_classes="pathologies"))
    assert before["normal_lung"] == before[BODY] == 0


def test_ablating_pathologies_alone_draws_what_it_always_drew(data):
    """The default of all presets but ``paper``: one number for each pathology, in their order."""
    source = source_of(data, config=TINY)
    assert source._draw(5, np.random.default_rng(0)).ablated.shape == (2,)
    assert source.ablatable.tolist() == source.pathologies.tolist()


def test_the_family_of_a_method_without_ablation_has_no_setting_of_it():
    for method in METHODS.values():
        if method.generator == method.name:
            assert ("ablated_classes" in trained_family_of(method).unused_settings) == (method.ablation == "none")
