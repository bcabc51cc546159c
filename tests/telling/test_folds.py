"""What is said of a fold and its plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.cache import build_cache, index_slices
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.generator.training import _source, resolve
from nnunet_difflung.pipeline.fold import prepare_fold
from nnunet_difflung.telling.folds import describe_fold
from tests.support.tiny import make_dataset


@pytest.mark.parametrize(
    ("method", "wanted", "said"),
    [("cbmat", 0.6, True), ("harmonise", 0.6, True), ("cbmat", 0.45, False), ("copy_paste", 0.6, False)],
)
def test_a_share_of_the_batch_that_so_many_pathologies_cannot_have_is_said(folders, tmp_path, method, wanted, said):
    make_dataset(folders[0], patients=4, folds=2)
    raw, settings = open_raw_dataset("801"), settings_from(parse(["-d", "801", "--method", method, "-device", "cpu"]))
    settings = replace(settings, generator=replace(settings.generator, balanced_share=wanted))
    fold = prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    note = "note: 0.45 of each batch of the generator's training is drawn for each of the 2 pathologies instead of 0.6"
    assert (note in describe_fold(fold)) == said
    if fold.method.generator:
        config = resolve(fold.method.trained, settings.generator, fold.data)
        index = index_slices(fold.cache, fold.data.training_cases)
        assert _source(fold.data, fold.method.trained, index, config, 1).share == 0.45
