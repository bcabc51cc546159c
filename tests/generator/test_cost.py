"""The time of a network is estimated from its operations, without building it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nnunet_difflung.config import GeneratorConfig, preset
from nnunet_difflung.generator import cost
from nnunet_difflung.generator.diffusion import build_network


@pytest.mark.parametrize(
    ("config", "edge"),
    [
        (preset("default").generator, 64),
        (preset("fast").generator, 64),
        (replace(preset("paper").generator, channels=(16, 32, 32, 48)), 32),
        (replace(preset("paper").generator, channels=(16, 48)), 32),
        (GeneratorConfig(channels=(32,), layers_per_block=3), 16),
    ],
)
def test_the_operations_are_those_of_the_network(config, edge):
    with torch.device("meta"):
        network = build_network(config, 2, 5)
        image, steps = torch.zeros(1, 7, edge, edge), torch.zeros(1, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        network(image, steps)
    assert sum(cost.operations(config, 2, 5, edge)) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_an_image_of_twice_the_edge_is_estimated_at_four_times_the_time(monkeypatch):
    monkeypatch.setattr(cost, "_seconds_of_operation", lambda *_: (1.0, 3.0))
    config = preset("default").generator
    small, large = (cost.seconds_of_passes(config, 1, 4, edge, "cpu") for edge in (64, 128))
    assert large == pytest.approx([4 * part for part in small])
    assert small[1] == 3 * small[0] > 0


def test_a_large_image_is_timed_on_a_small_part_of_it(monkeypatch):
    layers, usual = [], torch.nn.functional.conv2d
    monkeypatch.setattr(
        torch.nn.functional, "conv2d", lambda x, weight, *rest: layers.append((x, weight)) or usual(x, weight, *rest)
    )
    forward, both = cost.seconds_of_passes(preset("paper").generator, 1, 4, 512, "cpu")
    assert 0 < forward < both
    assert {len(weight) for _, weight in layers} == {128, 256, 512}
    assert max(2 * 9 * len(w) * x[:, :, :, :].numel() for x, w in layers) <= 2e9


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_is_finite_for_a_crop_of_few_pixels(precision):
    config = replace(preset("fast").generator, precision=precision)
    assert 0 < cost.seconds_of_passes(config, 1, 4, 8, "cpu")[0] < 60
