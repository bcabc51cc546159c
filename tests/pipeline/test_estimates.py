"""Time and disk space are estimated before anything is computed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.pipeline import estimates
from nnunet_difflung.pipeline.fold import prepare_fold
from tests.support.tiny import make_dataset


@pytest.mark.parametrize("same_disk", [True, False])
def test_what_two_folders_need_of_one_disk_is_added_up(folders, tmp_path, monkeypatch, same_disk):
    make_dataset(folders[0], patients=4)
    settings, raw = settings_from(parse(["-d", "801", "--method", "copy_paste"])), open_raw_dataset("801")
    fold = prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    in_raw, in_results = estimates.estimate_bytes(fold)
    assert 0 < in_raw < in_results

    def free(size: int) -> None:
        monkeypatch.setattr(estimates.shutil, "disk_usage", lambda _: SimpleNamespace(free=size))

    if not same_disk:
        disks = SimpleNamespace(stat=lambda path: SimpleNamespace(st_dev=str(path)))
        monkeypatch.setattr(estimates, "os", disks)
    needed = in_raw + in_results if same_disk else in_results
    free(needed)
    estimates.check_disk([fold])
    free(needed - 1)
    with pytest.raises(BadInput, match="free, but the plan may need"):
        estimates.check_disk([fold])
