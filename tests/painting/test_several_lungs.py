"""Datasets in which each lung has its own label: masks, painting and gate see one lung; its labels stay channels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.config import preset
from nnunet_difflung.dataset.cache import build_cache, index_slices
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.generator.ablation import ablate
from nnunet_difflung.generator.training import FoldData, _source, resolve
from nnunet_difflung.judging.gate import reference
from nnunet_difflung.methods import METHODS
from nnunet_difflung.pipeline.fold import prepare_fold
from nnunet_difflung.preparing.application import apply_plan
from nnunet_difflung.preparing.fold import Fold
from tests.support.generators import TINY
from tests.support.lungs import APART, lungs_apart, together
from tests.support.tiny import make_dataset

WINDOWS = [(-1000.0, 1000.0)]
TARGETS = {"emphysema": 0.15, "ILD": 0.3}


def prepared(folder: Path, raw_folder: Path, apart: bool) -> Fold:
    dataset = make_dataset(raw_folder, 801 + apart, volumes=True, depth=6, patients=4, folds=2)
    raw = open_raw_dataset((lungs_apart(dataset) if apart else dataset).name)
    base = preset("fast")
    settings = replace(base, method="copy_paste", balance=replace(base.balance, target_share=TARGETS, max_synthetic=20))
    return prepare_fold(raw, 0, settings, build_cache(raw, folder / raw.name, progress=False))


@pytest.fixture
def folds(tmp_path: Path, raw_folder: Path) -> tuple[Fold, Fold]:
    """The same patients with one label for both lungs, and with a label for each."""
    return prepared(tmp_path, raw_folder, False), prepared(tmp_path, raw_folder, True)


def test_the_plan_is_that_of_one_lung_and_fills_both(folds):
    one, several = folds
    assert several.plan.cases == one.plan.cases
    assert len(several.plan.cases) > 1
    assert several.plan.targets == one.plan.targets
    for before_or_after in ("before", "after"):
        counts, apart = (getattr(fold.plan, before_or_after) for fold in folds)
        assert apart["left lung"] + apart["right lung"] == counts["normal_lung"]
        assert [apart[name] for name in TARGETS] == [counts[name] for name in TARGETS]
    assert all(several.plan.after[name] > several.plan.before[name] for name in TARGETS)


def test_lesions_get_their_value_in_either_lung_and_nothing_else_changes(folds):
    replaced = set()
    for planned in folds[1].plan.cases:
        one, several = (apply_plan(fold, planned, textures=True) for fold in folds)
        assert np.array_equal(several.changed, one.changed)
        assert np.array_equal(several.region, one.region)
        assert np.array_equal(several.pasted, one.pasted)
        assert np.array_equal(together(several.new_label), one.new_label)
        host = folds[1].cache.label(planned.host)[list(planned.slices)]
        assert np.array_equal(several.new_label[~several.changed], host[~several.changed])
        assert set(np.unique(several.new_label[several.changed])) <= {APART["emphysema"], APART["ILD"]}
        assert not (several.region & ~several.changed & ~np.isin(host, (APART["left lung"], APART["right lung"]))).any()
        replaced |= set(np.unique(host[several.changed]).tolist())
    assert replaced == {APART["left lung"], APART["right lung"]}


def test_the_gate_compares_with_both_lungs(folds):
    one, several = (
        reference(fold.cache, fold.data.training_cases, fold.raw.patients, WINDOWS, seed=3) for fold in folds
    )
    for name in TARGETS:
        assert np.array_equal(several[name].channels[0].values, one[name].channels[0].values)
        assert several[name].channels[0].max_bias == one[name].channels[0].max_bias
        assert several[name].contrast is not None
        assert np.array_equal(several[name].contrast.weights, one[name].contrast.weights)
        assert several[name].contrast.minimum == one[name].contrast.minimum


def test_each_lung_is_a_channel_and_only_pathologies_are_ablated(folds):
    one, several = (FoldData(fold.cache, ("CT",), fold.raw.name, 0, fold.data.training_cases) for fold in folds)
    assert np.array_equal(several.frequencies(), one.frequencies())
    roles = several.cache.roles
    assert roles.conditions == ("left lung", "right lung", "emphysema", "ILD", "derived_body")
    condition = several.cache.condition(several.training_cases[0])[2]
    pathologies = np.array([roles.values[name] for name in roles.pathologies])
    left = ablate(condition, np.array([True, True]), pathologies)
    assert set(np.unique(condition)) - set(np.unique(left)) == {APART["emphysema"], APART["ILD"]}


@pytest.mark.parametrize("classes", ["all", "pathologies"])
def test_a_pathology_is_hidden_as_often_as_with_one_label_for_both_lungs(folds, classes):
    found = []
    for fold in folds:
        data = FoldData(fold.cache, ("CT",), fold.raw.name, 0, fold.data.training_cases)
        config = resolve(METHODS["cbmat"], replace(TINY, ablation_probability="text", ablated_classes=classes), data)
        index = index_slices(data.cache, data.training_cases)
        found.append(_source(data, METHODS["cbmat"], index, config, 10).probabilities)
    one, several = found
    assert several[-2:] == pytest.approx(one[-2:])
    if classes == "all":
        frequencies = data.frequencies(data.cache.roles.lung)
        assert several == pytest.approx(frequencies / frequencies[:2].sum())
        assert one[0] == 1


def test_cases_made_with_another_normal_lung_have_other_ids(folds):
    several = folds[1]
    roles = replace(several.raw.roles, normal=("left lung",), structures=("right lung",))
    assert replace(several, raw=replace(several.raw, roles=roles)).key != several.key
