"""The smallest generator that trains, its data, and what a training logged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from nnunet_difflung.config import preset
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.generator.training import FoldData
from nnunet_difflung.methods import METHODS
from tests.support.tiny import make_dataset, set_paths

CBMAT = METHODS["cbmat"]
TINY = replace(preset("fast").generator, channels=(8, 16), batch_size=4, patch_size=16, epochs=2, warmup_steps=2)


def logged(folder: Path) -> list[dict]:
    """The rows of a generator's log, but for its times."""
    rows = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    times = [row.pop("seconds") for row in rows]
    assert times == sorted(times)
    return rows


def open_data(folder: Path, monkeypatch, **options) -> FoldData:
    raw_folder, _, _ = set_paths(folder, monkeypatch)
    make_dataset(raw_folder, emphysema_every=2, **options)
    raw = open_raw_dataset("801")
    cache = build_cache(raw, folder / "cache", progress=False)
    return FoldData(cache, tuple(raw.channels), raw.name, 0, tuple(raw.training_cases(0)))
