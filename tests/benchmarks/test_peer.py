"""The peer is what was published, and both painters are judged by the same voxels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from benchmarks import peer, public_code, setting
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.paths import cache_folder

OPTIONS = ["-d", "800", "--class", "emphysema", "--seconds", "30", "--slices", "3", "--size", "32", "--batch-size", "4"]


@pytest.fixture
def small(monkeypatch):
    """A network of the same kind that a test has time for, and two steps of it."""
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    options = {"layers_per_block": 1, "block_out_channels": (8, 8), "norm_num_groups": 4}
    monkeypatch.setattr(
        public_code, "reference_network", partial(UNet2DModel, in_channels=2, out_channels=1, **blocks, **options)
    )
    monkeypatch.setattr(public_code, "STEPS", 2)


def options(*more: str, out: Path = Path("peer.json")):
    return peer.parser().parse_args([*OPTIONS, *more, "-o", str(out)])


def test_slices_are_written_in_eight_bits_with_their_label_values(tmp_path):
    rng = np.random.default_rng(0)
    image, condition = rng.uniform(-1500, 1500, (20, 30)), rng.integers(0, 5, (20, 30))
    public_code.write_slice(tmp_path, "a", image, condition, (-1000, 1000))
    (found,) = public_code.Slices(tmp_path, 32)
    assert [part.shape for part in found] == [(1, 32, 32)] * 2
    assert set((found[1] * 255).round().int().unique().tolist()) == set(range(5))
    assert -1 <= found[0].min() < found[0].max() <= 1
    public_code.write_slice(tmp_path, "a", np.full((32, 32), 500.0), np.zeros((32, 32)), (-1000, 1000))
    assert public_code.Slices(tmp_path, 32)[0][0].mean().item() == pytest.approx(0.5, abs=1 / 255)


def test_classes_are_ablated_for_a_whole_batch(small):
    network, seen = public_code.reference_network(), []
    optimizer = torch.optim.AdamW(network.parameters())
    network.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0][:, 1] * 255).round().int()))
    masks = torch.tensor([[1, 2], [2, 0]]).repeat(3, 1, 8, 8) / 255
    torch.manual_seed(0)
    for _ in range(40):
        public_code._step(network, public_code.DDIMScheduler(), optimizer, torch.zeros(3, 1, 16, 16), masks, [1, 2])
    kept = [tuple(sorted(set(batch.unique().tolist()) - {0})) for batch in seen]
    assert set(kept) == {(), (1,), (2,), (1, 2)}
    assert all((batch == batch[0]).all() for batch in seen)


def test_both_painters_are_judged_by_the_same_slices(small, tmp_path):
    with setting.phantom(48, 6, 3):
        raw = open_raw_dataset("800")
        cache = build_cache(raw, cache_folder(raw.name), progress=False)
        o = options("--augment", "--patch-size 32 --batch-size 4")
        rows = {name: peer.PAINTERS[name](raw, cache, o) for name in peer.PAINTERS}
        places = [{part.place for part in slices} for slices, _ in rows.values()]
        assert places[0] == places[1] == set(peer.chosen(raw, cache, o))
        masks = [{s.place: peer.counted(s, raw, cache, "emphysema") for s in slices} for slices, _ in rows.values()]
        assert all((masks[0][place] == masks[1][place]).all() and masks[0][place].any() for place in places[0])
        validation = set(raw.validation_cases(0))
        content: dict = {"meta": {"unit": "HU"}, "rows": {}}
        for name, (slices, found) in rows.items():
            assert {part.place[0] for part in slices} <= validation
            for part in slices:
                label = cache.label(part.place[0])[part.place[1]]
                assert (label[part.lesion] == raw.roles.values["emphysema"]).all()
                assert (part.real == cache.image(part.place[0])[0, part.place[1]]).all()
                assert (part.image != part.real)[part.lesion].any()
            judged = peer.judged(slices, raw, cache, o)
            assert judged["hu_bias"]["patients"] >= 1
            content["rows"][name] = {**found, **judged, "memory_mib": 1000.0}
        same = [peer.Slice(s.patient, s.place, s.real, s.real, s.lesion) for s in rows["difflung"][0]]
        assert peer.judged(same, raw, cache, o)["hu_bias"]["mean"] == 0
        assert len(peer.markdown(content).splitlines()) == 4
    assert rows["public code"][1]["steps"] >= 1
    assert rows["public code"][1]["evaluations"] == 2
    assert rows["difflung"][1]["evaluations"] == 25


def test_the_public_codes_rate_warms_up_and_ends_at_zero():
    rates = [public_code._schedule(step, 500, 2000) for step in (0, 250, 500, 1250, 2000)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0])
