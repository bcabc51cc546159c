"""What a network sees of a planned case, slice by slice."""

from __future__ import annotations

import numpy as np
import torch

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.painting.jobs import make_jobs
from nnunet_difflung.pipeline import fold as fold_module
from nnunet_difflung.preparing.application import apply_plan
from tests.support.tiny import make_dataset


def test_a_slice_of_a_volume_gets_the_noise_of_its_own_place(folders, tmp_path):
    """So that neighbouring slices share part of it, and a slice's noise does not depend on which others change."""
    make_dataset(folders[0], patients=4, volumes=True, depth=8)
    settings, raw = settings_from(parse(["-d", "801", "--method", "copy_paste"])), open_raw_dataset("801")
    fold = fold_module.prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    planned = next(planned for planned in fold.plan.cases if planned.slices[0] > 0)
    applied, generator = apply_plan(fold, planned, textures=True), fold_module._without_network(fold)
    noise = torch.randn((1, *applied.shape), generator=torch.Generator().manual_seed(planned.seed * 16 + 1)).numpy()
    shared = np.exp(-applied.spacing[0] / 5)
    for z in range(1, applied.shape[0]):
        noise[:, z] = shared * noise[:, z - 1] + np.sqrt(1 - shared**2) * noise[:, z]
    jobs = make_jobs(applied, generator, raw.roles, settings.sampling, attempt=1)
    assert [job.slices for job in jobs] == [(z,) for z in planned.slices]
    for job in jobs:
        expected = noise[(slice(None), *job.slices, *job.crop)]
        height, width = expected.shape[1:]
        (inputs,) = job.inputs
        np.testing.assert_allclose(inputs.noise[:, :height, :width], expected, atol=1e-5)
