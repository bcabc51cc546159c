"""Spread of a painted lesion, and its level above or below the lung around it, are those of the real lesion."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.generator.encoding import normalise
from nnunet_difflung.generator.style import style_of
from nnunet_difflung.lesions.pasting import lesion_of
from nnunet_difflung.painting.jobs import make_jobs
from nnunet_difflung.pipeline import fold as fold_module
from nnunet_difflung.preparing.application import apply_plan, paints_together
from nnunet_difflung.preparing.donors import find_donors, style_maps
from nnunet_difflung.preparing.lung_level import lung_around
from tests.support.tiny import make_dataset

WINDOWS = ((-1000.0, 1000.0),)


@pytest.fixture(params=["slices", "volumes", "stacks"])
def fold(request, folders, tmp_path):
    volumes = request.param != "slices"
    make_dataset(folders[0], patients=4, size=64, volumes=volumes, depth=8 if volumes else 1)
    options = ["--neighbours", "0"] if request.param == "volumes" else []
    settings, raw = settings_from(parse(["-d", "801", "--method", "difflung", *options])), open_raw_dataset("801")
    return fold_module.prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))


def with_level(fold, level: str, styles: str = "drawn"):
    sampling = replace(fold.settings.sampling, level=level, styles=styles)
    return replace(fold, settings=replace(fold.settings, sampling=sampling))


def test_lesions_have_the_level_and_spread_of_their_donors(fold):
    fold = with_level(fold, "donor", "real")
    assert set(fold.data.training_cases) >= {op.donor for case in fold.plan.cases for op in case.operations}
    for planned in fold.plan.cases[:4]:
        applied = apply_plan(fold, planned, textures=True)
        assert ((applied.donors.owner > 0) == applied.changed).all()
        real = set()
        for operation in planned.operations:
            lesion = lesion_of(operation, fold.lesions)
            box = fold.cache.image(lesion.case)[(slice(None), *lesion.box)]
            reach = int(paints_together(fold.method, fold.settings, applied.shape))
            layers = [slice(max(0, z - reach), z + reach + 1) for z in range(len(lesion.mask))]
            near = (box[:, part][:, lesion.mask[part]] for part in layers)
            real |= {voxels.tobytes() for voxels in (box[:, lesion.mask], *near)}
        assert {donor.tobytes() for donor in applied.donors.voxels} <= real
        n = int(np.flatnonzero(applied.donors.owner.any((1, 2)))[0])
        maps = style_maps(applied.donors.owner[n], applied.region[n], applied.donors.voxels, WINDOWS)
        assert ((maps[-1] > 0) == applied.region[n]).all(), "the margin has the style of its lesion"
        voxel = tuple(np.argwhere(applied.donors.owner[n] > 0)[0])
        donor = applied.donors.voxels[applied.donors.owner[n][voxel] - 1]
        assert maps[:-1, voxel[0], voxel[1]] == pytest.approx(style_of(normalise(donor, WINDOWS)))


def following(fold) -> dict:
    """The fold's styles as if each class followed the lung all the way, however bright or dark it gets."""
    styles = {name: copy(found) for name, found in fold.styles.items()}
    for found in styles.values():
        found.slope, found._levels = np.ones(1), np.array([[-1e4], [1e4]])
    return styles


def test_a_lesion_that_follows_is_brighter_in_brighter_lung(fold, monkeypatch):
    """In a host that is 70 brighter it is, too; where the real lesion and its own lung are, both cancel out."""
    fold = with_level(fold, "host", "real")
    case = fold.plan.cases[0]
    host = next(other for other in fold.data.training_cases if other not in {op.donor for op in case.operations})
    planned, image, brighter = replace(case, host=host), fold.cache.image, {host}
    other = np.full((fold.cache.facts[host].shape[0], 1, 1), 5000.0)  # slices that do not change say nothing
    other[list(planned.slices)] = 70
    outlined = apply_plan(fold, planned, textures=False).changed

    def donors():
        return find_donors(planned, fold.lesions, fold.cache, outlined, following(fold)).voxels

    before = donors()
    monkeypatch.setattr(fold.cache, "image", lambda case: image(case) + other * (case in brighter))
    after = donors()
    brighter |= set(fold.data.training_cases)
    other[:] = 70
    del fold.__dict__["styles"]
    everywhere = donors()
    assert len(before) == len(after) == len(everywhere) > 0
    for first, second, third in zip(before, after, everywhere, strict=True):
        assert second - first == pytest.approx(70, abs=1e-3)
        assert third - second == pytest.approx(0, abs=1e-3)


def test_lung_that_is_painted_too_is_not_the_lung_around_a_lesion(fold):
    fold = with_level(fold, "host", "real")
    case = fold.plan.cases[0]
    host = next(other for other in fold.data.training_cases if other not in {op.donor for op in case.operations})
    planned = replace(case, host=host)
    label = fold.cache.label(host)[list(planned.slices)]
    one = apply_plan(fold, planned, textures=False).changed
    found = [
        find_donors(planned, fold.lesions, fold.cache, outlined, styles).voxels
        for outlined, styles in ((one, following(fold)), (label == 1, following(fold)), (label == 1, fold.styles))
    ]
    shifted, around_painted, unshifted = (float(donors[0].mean()) for donors in found)
    assert around_painted == unshifted != shifted


def test_where_lesions_overlap_the_first_one_keeps_its_voxels(fold):
    planned = replace(fold.plan.cases[0], operations=fold.plan.cases[0].operations[:1] * 2)
    applied = apply_plan(fold, planned, textures=True)
    assert ((applied.donors.owner > 0) == applied.changed).all()
    assert len(applied.donors.voxels) == applied.changed.any((1, 2)).sum()
    together = paints_together(fold.method, fold.settings, applied.shape)
    assert len(np.unique(applied.donors.held)) == 1 + (1 if together else len(applied.donors.voxels))


def rings(edge: float = 2.0, far: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """A lesion of −500, 4 mm wide, in lung of −850, which is 0 nearer than ``edge`` and farther off than ``far`` mm."""
    y, x = np.mgrid[:120, :120]
    away = np.hypot(y - 60, x - 60) * 0.5 - 4
    image = np.where(away <= 0, -500.0, np.where((away <= edge) | (away > far), 0.0, -850.0))
    return np.stack([image, image / 100])[:, None], np.where(away <= 0, 2, 1).astype(np.uint8)[None]


@pytest.mark.parametrize(("edge", "far", "level"), [(2.5, 12.5, -850), (8, 12.5, 0), (2.5, 6, 0)])
def test_the_lung_around_a_lesion_lies_2_to_12_mm_from_it(edge, far, level):
    """More than half of that has the level; the edge and what lies farther off are many more voxels."""
    image, label = rings(edge, far)
    around = lung_around(image, label == 1, label == 2, (1.0, 0.5, 0.5))
    assert around == pytest.approx([level, level / 100])


def test_lung_nearer_or_farther_does_not_count_at_all():
    image, label = rings()
    y, x = np.mgrid[:120, :120]
    away = np.hypot(y - 60, x - 60) * 0.5 - 4
    normal = (label == 1) & ((away <= 1.9) | (away > 12.6))[None]
    assert normal.sum() > 1000
    assert lung_around(image, normal, label == 2, (1.0, 0.5, 0.5)) is None
    few = (
        (label == 1) & (np.cumsum((away > 4) & (away < 8)).reshape(away.shape) <= 29)[None] & ((away > 4) & (away < 8))
    )
    assert few.sum() == 29
    assert lung_around(image, few, label == 2, (1.0, 0.5, 0.5)) is None


def test_the_slices_of_a_lesion_are_taken_together():
    image, label = rings()
    brighter = np.concatenate([image, image + 100, image + 100, image + 5000], axis=1)
    label = np.concatenate([label, label, label, np.ones_like(label)])
    assert lung_around(brighter, label == 1, label == 2, (1.0, 0.5, 0.5))[0] == -750


def test_a_placebo_region_has_its_own_level_and_spread(fold):
    planned = fold.plan.cases[0]
    outlined = apply_plan(fold, planned, textures=False).changed
    donors = find_donors(replace(planned, placebo=True), fold.lesions, fold.cache, outlined, fold.styles)
    owner, donors = donors.owner, donors.voxels
    assert ((owner > 0) == outlined).all()
    host = np.array(fold.cache.image(planned.host)[:, list(planned.slices)])
    for number, donor in enumerate(donors, 1):
        assert np.array_equal(np.sort(donor.ravel()), np.sort(host[:, owner == number].ravel()))


def test_only_families_that_use_them_look_for_donors(fold):
    planned, generator = fold.plan.cases[0], fold_module._without_network(fold)
    sampling, roles = fold.settings.sampling, fold.cache.roles
    own = apply_plan(fold, planned, textures=True)
    plain = apply_plan(replace(fold, settings=replace(fold.settings, method="cbmat")), planned, textures=True)
    assert plain.donors is None
    assert own.bytes > plain.bytes == own.without_texture().bytes
    styled = make_jobs(own, generator, roles, sampling, 0)
    for inputs in (inputs for job in styled for inputs in job.inputs):
        height, width = inputs.condition.shape[1:]
        assert inputs.style.shape == (3, height, width)
        assert inputs.style[-1][~inputs.is_known[0]].all()
    if generator.config.neighbours:
        return
    for with_style, without in zip(styled, make_jobs(plain, generator, roles, sampling, 0), strict=True):
        assert without.inputs[0].style is None
        assert np.array_equal(with_style.inputs[0].noise, without.inputs[0].noise)
