"""Level and spread of a painted lesion are those of the real lesion whose outline it has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.generator.encoding import normalise
from nnunet_difflung.generator.style import style_of
from nnunet_difflung.lesions.pasting import lesion_of
from nnunet_difflung.painting.application import apply_plan
from nnunet_difflung.painting.donors import find_donors, style_maps
from nnunet_difflung.painting.jobs import make_jobs
from nnunet_difflung.pipeline import fold as fold_module
from tests.support.tiny import make_dataset

WINDOWS = ((-1000.0, 1000.0),)


@pytest.fixture(params=[False, True], ids=["slices", "volumes"])
def fold(request, folders, tmp_path):
    make_dataset(folders[0], patients=4, volumes=request.param, depth=8 if request.param else 1)
    settings, raw = settings_from(parse(["-d", "801", "--method", "difflung"])), open_raw_dataset("801")
    return fold_module.prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))


def test_lesions_have_the_level_and_spread_of_their_donors(fold):
    assert set(fold.data.training_cases) >= {op.donor for case in fold.plan.cases for op in case.operations}
    for planned in fold.plan.cases[:4]:
        applied = apply_plan(fold, planned, textures=True)
        assert ((applied.owner > 0) == applied.changed).all()
        real = set()
        for operation in planned.operations:
            lesion = lesion_of(operation, fold.lesions)
            box = fold.cache.image(lesion.case)[(slice(None), *lesion.box)]
            layers = (box[:, z, mask] for z, mask in enumerate(lesion.mask))
            real |= {voxels.tobytes() for voxels in (box[:, lesion.mask], *layers)}
        assert {donor.tobytes() for donor in applied.donors} <= real
        maps = style_maps(applied.owner[0], applied.region[0], applied.donors, WINDOWS)
        assert ((maps[-1] > 0) == applied.region[0]).all(), "the margin has the style of its lesion"
        voxel = tuple(np.argwhere(applied.owner[0] > 0)[0])
        donor = applied.donors[applied.owner[0][voxel] - 1]
        assert maps[:-1, voxel[0], voxel[1]] == pytest.approx(style_of(normalise(donor, WINDOWS)))


def test_a_placebo_region_has_its_own_level_and_spread(fold):
    planned = fold.plan.cases[0]
    outlined = apply_plan(fold, planned, textures=False).changed
    owner, donors = find_donors(replace(planned, placebo=True), fold.lesions, fold.cache, outlined)
    assert ((owner > 0) == outlined).all()
    host = np.array(fold.cache.image(planned.host)[:, list(planned.slices)])
    for number, donor in enumerate(donors, 1):
        assert np.array_equal(np.sort(donor.ravel()), np.sort(host[:, owner == number].ravel()))


def test_only_families_that_use_them_look_for_donors(fold):
    planned, generator = fold.plan.cases[0], fold_module._without_network(fold)
    sampling, roles = fold.settings.sampling, fold.cache.roles
    own = apply_plan(fold, planned, textures=True)
    plain = apply_plan(replace(fold, settings=replace(fold.settings, method="cbmat")), planned, textures=True)
    assert plain.owner is None
    assert own.bytes > plain.bytes == own.without_texture().bytes
    for with_style, without in zip(
        *(make_jobs(applied, generator, roles, sampling, 0) for applied in (own, plain)), strict=True
    ):
        assert without.inputs.style is None
        assert with_style.inputs.style.shape == (3, *with_style.shape)
        assert with_style.inputs.style[-1][~with_style.inputs.is_known[0]].all()
        assert np.array_equal(with_style.inputs.noise, without.inputs.noise)
