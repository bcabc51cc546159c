"""Slices of volumes that are painted together: which, with what margin, and what stays as it is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from nnunet_difflung.commands.augment import main, parse, settings_from
from nnunet_difflung.config import SamplingConfig, preset
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.painting.jobs import make_jobs
from nnunet_difflung.pipeline import fold as fold_module
from nnunet_difflung.preparing import stacks as stacks_module
from nnunet_difflung.preparing.application import AppliedCase, apply_plan, painted_region, paints_together
from nnunet_difflung.preparing.donors import Donors
from nnunet_difflung.preparing.stacks import depth_of_margin, stacks_of, with_margin
from nnunet_difflung.telling.folds import describe_fold
from tests.support.commands import ONE_FOLD_FAST
from tests.support.tiny import make_dataset

SAMPLING = SamplingConfig(context=8)


def region_with(*boxes: tuple[slice, slice, slice], shape=(12, 128, 128)) -> np.ndarray:
    region = np.zeros(shape, bool)
    for box in boxes:
        region[box] = True
    return region


def covered(region: np.ndarray, stacks) -> np.ndarray:
    count = np.zeros(region.shape, int)
    for stack in stacks:
        for position, own in zip(stack.positions, stack.own, strict=True):
            count[(position, *stack.crop)] += own
    return count


def test_what_hangs_together_is_a_stack_and_what_lies_apart_is_another():
    low, high = np.s_[2:6, 10:20, 10:20], np.s_[1:9, 90:100, 90:100]
    region = region_with(low, high)
    stacks = stacks_of(region, range(12), 4, SAMPLING, together=True)
    assert sorted(stack.positions for stack in stacks) == [(1, 2, 3, 4, 5, 6, 7, 8), (2, 3, 4, 5)]
    assert (covered(region, stacks) == region).all()
    assert len(stacks_of(region, range(12), 4, SAMPLING, together=False)) == 8


def test_lesions_that_would_see_each_other_are_painted_together():
    beside, above = np.s_[2:6, 40:50, 10:20], np.s_[6:8, 60:66, 12:18]
    first = np.s_[2:5, 10:20, 10:20]
    (stack,) = stacks_of(region_with(first, beside), range(12), 4, SAMPLING, together=True)
    assert stack.positions == (2, 3, 4, 5)
    (stack,) = stacks_of(region_with(beside, above), range(12), 4, SAMPLING, together=True)
    assert stack.positions == (2, 3, 4, 5, 6, 7)
    far = np.s_[9:11, 60:66, 12:18]
    assert len(stacks_of(region_with(beside, far), range(12), 4, SAMPLING, together=True)) == 2


def test_slices_that_do_not_follow_each_other_are_not_neighbours():
    region = region_with(np.s_[:, 10:20, 10:20], shape=(4, 64, 64))
    stacks = stacks_of(region, (3, 4, 8, 9), 4, SAMPLING, together=True)
    assert [stack.positions for stack in stacks] == [(0, 1), (2, 3)]


@pytest.mark.parametrize("seed", range(8))
def test_every_voxel_is_painted_exactly_once_and_no_stack_sees_what_another_paints(seed):
    rng = np.random.default_rng(seed)
    region = np.zeros((10, 160, 160), bool)
    for _ in range(6):
        z, y, x = rng.integers(0, (8, 150, 150))
        region[z : z + rng.integers(1, 4), y : y + rng.integers(2, 20), x : x + rng.integers(2, 20)] = True
    stacks = stacks_of(region, range(20, 30), 4, SAMPLING, together=True)
    assert (covered(region, stacks) == region).all()
    for stack in stacks:
        around = slice(max(0, stack.positions[0] - 1), stack.positions[-1] + 2)
        assert region[(around, *stack.crop)].sum() == stack.own.sum()


def test_many_small_parts_are_joined_as_fast_as_a_few():
    """Outlines are cut by vessels and old lesions; each part must not cost a look at the whole volume."""
    region = np.zeros((60, 256, 256), bool)
    region[::2, 40:200:8, 40:200:8] = True
    with mock.patch.object(stacks_module.ndimage, "label", wraps=stacks_module.ndimage.label) as label:
        first = stacks_of(region, range(60), 4, SAMPLING, together=False)[0]
        for joined in stacks_of(region, range(60), 4, SAMPLING, together=True):
            assert joined.own.any()
    assert label.call_count == 1
    assert first.positions == (0,)


def test_the_margin_reaches_as_many_mm_above_as_beside_and_at_least_a_slice():
    assert depth_of_margin(3, (1.0, 0.7, 0.7)) == 2
    assert depth_of_margin(3, (5.0, 0.7, 0.7)) == 1
    assert depth_of_margin(3, (1.5, 0.75, 0.75)) == 1, "2.25 mm do not reach the second slice"
    assert depth_of_margin(4, (1.5, 0.75, 0.75)) == 2
    assert depth_of_margin(0, (1.0, 0.7, 0.7)) == 0
    assert with_margin((0, 4), 2, 6) == (0, 1, 2, 3, 4, 5)
    assert with_margin((3,), 1, 20) == (2, 3, 4)


RUN = [*ONE_FOLD_FAST, "--steps", "3"]


@pytest.fixture
def fold(folders, tmp_path):
    make_dataset(folders[0], patients=4, size=64, volumes=True, depth=8)
    settings, raw = settings_from(parse(["-d", "801", "--margin", "2"])), open_raw_dataset("801")
    return fold_module.prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))


def test_the_slices_above_and_below_a_lesion_are_painted_along_with_it(fold):
    for planned in fold.plan.cases:
        applied = apply_plan(fold, planned, textures=True)
        changed = applied.in_host(applied.changed).any((1, 2))
        region = applied.in_host(applied.region)
        ends = np.flatnonzero(changed)
        beyond = {z for z in (ends[0] - 1, ends[-1] + 1) if 0 <= z < len(region)}
        assert beyond, "lesions of these volumes do not reach their ends"
        assert beyond <= set(planned.slices)
        label = fold.cache.label(planned.host)
        for z in beyond:
            inner = z + 1 if z < ends[0] else z - 1
            under = applied.in_host(applied.changed)[inner] & fold.cache.roles.is_normal(label[z])
            assert region[z][under].all()
        assert not (region & ~fold.cache.roles.is_normal(label)).any(), "what is not normal lung stays real"
        assert set(applied.beside) == set(with_margin(planned.slices, 1, len(region))) - set(planned.slices)


def test_slices_above_and_below_are_counted_by_themselves(fold):
    plan = fold.plan
    with_lesions = [apply_plan(fold, case, textures=False).changed.any((1, 2)).sum() for case in plan.with_lesions]
    assert plan.in_margins == sum(len(case.slices) for case in plan.with_lesions) - sum(with_lesions) > 0
    assert sum(with_lesions) <= plan.max_slices
    text = describe_fold(fold)
    assert f"(at most {plan.max_slices}, and {plan.in_margins} above and below lesions)" in text


def test_slice_by_slice_nothing_is_painted_above_or_below(fold):
    settings = replace(fold.settings, generator=replace(fold.settings.generator, neighbours=0))
    assert not paints_together(fold.method, settings, (8, 64, 64))
    alone = fold_module.prepare_fold(fold.raw, 0, settings, fold.cache)
    for planned, other in zip(alone.plan.cases, fold.plan.cases, strict=True):
        applied = apply_plan(alone, planned, textures=True)
        assert applied.changed.any((1, 2)).all()
        assert set(planned.slices) < set(other.slices)


def test_a_stack_begins_and_ends_with_real_slices_that_are_not_painted(fold):
    planned, generator = fold.plan.cases[0], fold_module._without_network(fold)
    applied = apply_plan(fold, planned, textures=True)
    for job in make_jobs(applied, generator, fold.cache.roles, fold.settings.sampling, 0):
        shown = [z for z in range(job.slices[0] - 1, job.slices[-1] + 2) if 0 <= z < applied.shape[0]]
        assert len(job.inputs) == len(shown)
        assert shown[job.first] == job.slices[0]
        for z, inputs in zip(shown, job.inputs, strict=True):
            assert inputs.is_known.all() == (z not in job.slices)
            height, width = (part.stop - part.start for part in job.crop)
            real = fold.cache.image(planned.host)[(0, z, *job.crop)]
            body = fold.cache.condition(planned.host)[(z, *job.crop)] > 0
            known = inputs.known[0, :height, :width]
            assert known[body] == pytest.approx(np.clip(real, -1000, 1000)[body] / 1000, abs=1e-3)


ROLES = LabelRoles(("normal_lung",), ("emphysema",), (), {"normal_lung": 1, "emphysema": 2}, None)


def applied_with(lesions: list[tuple[slice, slice, slice]], spacing=(1.0, 1.0, 1.0), margin: int = 3) -> AppliedCase:
    """A made-up case of 16 × 160 × 160 voxels of normal lung with new lesions, each of which has a style."""
    shape = (16, 160, 160)
    label = np.ones(shape, np.uint8)
    changed = region_with(*lesions, shape=shape)
    new_label = np.where(changed, 2, label).astype(np.uint8)
    slices = with_margin(np.flatnonzero(changed.any((1, 2))), depth_of_margin(margin, spacing), shape[0])
    sampling = SamplingConfig(margin=margin, context=8)
    at = list(slices)
    region = painted_region(label[at], changed[at], ROLES, sampling, (slices, spacing))
    owner = changed[at].astype(np.int32)
    image = np.full((1, *shape), -850.0)
    beside = {z: (image[:, z], label[z]) for z in set(with_margin(slices, 1, shape[0])) - set(slices)}
    planned = PlannedCase(0, "host", (), slices, 77)
    donors = Donors(owner, owner, (np.array([[-950.0, -930, -940, -960]]),))
    return AppliedCase(
        planned,
        shape,
        spacing,
        image[:, at],
        new_label[at],
        changed[at],
        new_label[at],
        region,
        donors=donors,
        beside=beside,
    )


CONFIG = replace(preset("fast").generator, windows=((-1000.0, 1000.0),), neighbours=1, correlation_mm=5.0)
GENERATOR = Generator(torch.nn.Identity(), CONFIG, ROLES.conditions, (), "", Path())


def test_stacks_in_the_same_slices_have_noise_of_their_own():
    applied = applied_with([np.s_[5:9, 20:30, 20:30], np.s_[5:9, 120:130, 120:130]])
    one, other = make_jobs(applied, GENERATOR, ROLES, SamplingConfig(context=8), 0)
    assert one.slices == other.slices
    assert one.shape == other.shape
    seeds = [inputs.seed for job in (one, other) for inputs in job.inputs]
    assert len(set(seeds)) == len(seeds)
    for a, b in zip(one.inputs, other.inputs, strict=True):
        assert abs(np.corrcoef(a.noise.ravel(), b.noise.ravel())[0, 1]) < 0.1
    again = make_jobs(applied, GENERATOR, ROLES, SamplingConfig(context=8), 1)
    assert not {inputs.seed for job in again for inputs in job.inputs} & set(seeds)


def test_a_stack_has_noise_that_goes_on_along_z_and_lesions_to_be_held():
    applied = applied_with([np.s_[5:9, 20:30, 20:30]], spacing=(2.0, 1.0, 1.0))
    (job,) = make_jobs(applied, GENERATOR, ROLES, SamplingConfig(context=8), 0)
    for one, other in pairwise(job.inputs):
        r = np.corrcoef(one.noise.ravel(), other.noise.ravel())[0, 1]
        assert r == pytest.approx(one.shared, abs=0.06)
        assert one.shared == pytest.approx(np.exp(-2 / 5))
    held = np.stack([inputs.parts[0] for inputs in job.inputs])
    lesion = applied.in_host(applied.changed)[job.slices[0] - job.first : job.slices[-1] + 2]
    edges = [part.stop - part.start for part in job.crop]
    assert np.array_equal(held[:, : edges[0], : edges[1]] > 0, lesion[(slice(None), *job.crop)])


def test_a_style_is_told_where_the_network_sees_its_lesion():
    """A margin of thin slices reaches farther: there the network has to go by what it sees."""
    (job,) = make_jobs(applied_with([np.s_[6:9, 60:80, 60:80]]), GENERATOR, ROLES, SamplingConfig(context=8), 0)
    assert job.slices == tuple(range(3, 12))
    told = [bool((inputs.style[-1] > 0).any()) for inputs in job.inputs[job.first : job.first + len(job.slices)]]
    assert told == [False, False, True, True, True, True, True, False, False]


def test_a_volume_is_painted_together_and_only_where_it_was_planned(folders):
    folder = make_dataset(folders[0], patients=4, size=64, volumes=True, depth=8)
    main(RUN)
    cases = read_manifest(folder)["cases"]
    assert cases
    raw = open_raw_dataset("801")
    for identifier, record in cases.items():
        image, label = (
            raw.reader().read_images([str(folder / "imagesTr" / f"{name}_0000.nii.gz")])[0]
            for name in (identifier, record["host"])
        )
        differs = (image != label).any((0, 2, 3))
        assert set(np.flatnonzero(differs)) <= set(record["slices"])
        new, old = (
            raw.reader().read_seg(str(folder / "labelsTr" / f"{name}.nii.gz"))[0]
            for name in (identifier, record["host"])
        )
        changed = (new != old).any((0, 2, 3))
        assert differs[changed].all()
        assert (differs & ~changed).any(), "the margin above or below"


def test_killed_while_painting_stacks_and_run_again_gives_the_same_files(folders, monkeypatch):
    from nnunet_difflung.painting import attempt, painter

    folder = make_dataset(folders[0], patients=4, size=64, volumes=True, depth=8)
    real, painted = attempt.paint_jobs, []

    def once(jobs, *rest):
        if painted:
            raise KeyboardInterrupt
        painted.append(len(jobs))
        return real(jobs, *rest)

    options = [*RUN, "--max-synthetic", "12"]
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "paint_jobs", once)
        patch.setattr(painter, "_WAITING_BYTES", 0)
        with pytest.raises(KeyboardInterrupt):
            main(options)
    main(options)
    first = {path.name: path.read_bytes() for path in sorted((folder / "imagesTr").glob("difflung_*"))}
    assert first
    from nnunet_difflung.commands.remove import main as remove

    remove(["-d", "801"])
    main(options)
    again = {path.name: path.read_bytes() for path in sorted((folder / "imagesTr").glob("difflung_*"))}
    assert first == again
