"""Writing synthetic cases: of arrays of the host's size, those of the image are gone before those of the label come."""

from __future__ import annotations

import weakref

import numpy as np

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.painting import cases
from nnunet_difflung.pipeline.fold import prepare_fold
from nnunet_difflung.preparing.application import apply_plan
from tests.support.tiny import make_dataset


def test_image_and_label_are_not_in_memory_together(folders, tmp_path, monkeypatch):
    make_dataset(folders[0], patients=4, volumes=True, depth=8)
    settings, raw = settings_from(parse(["-d", "801", "--method", "copy_paste"])), open_raw_dataset("801")
    fold = prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    applied, held, real = apply_plan(fold, fold.plan.cases[0], textures=True), [], cases.write_changed_copy

    def write(sources, targets, values, *rest):
        assert [reference() for reference in held] == [None] * len(held)
        assert values.shape[1:] == applied.shape
        held.append(weakref.ref(values))
        real(sources, targets, values, *rest)

    monkeypatch.setattr(cases, "write_changed_copy", write)
    cases.write_case(fold, applied, applied.image.astype(np.float32) + 5)
    assert len(held) == 2
