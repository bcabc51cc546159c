"""A dry run finds lesions and looks at images where a case is read, and finds what the command itself would find."""

from __future__ import annotations

import pytest

from nnunet_difflung.commands.augment import main
from nnunet_difflung.dataset import cache as cache_module
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.lesions import balance
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.pipeline import images
from nnunet_difflung.pipeline.first_look import FirstLook
from nnunet_difflung.pipeline.planning import readable_cases
from nnunet_difflung.runtime.share import Share
from tests.support.tiny import make_dataset

DRY = ["-d", "801", "-f", "0", "--method", "copy_paste", "-device", "cpu", "--dry-run"]


@pytest.mark.parametrize("volumes", [True, False])
@pytest.mark.parametrize("processes", [1, 2])
def test_it_finds_what_is_found_in_cached_cases(folders, monkeypatch, volumes, processes):
    make_dataset(folders[0], patients=4, volumes=volumes, depth=8)
    monkeypatch.setattr(cache_module, "_WORTH_CASES", 2)
    raw, looks = open_raw_dataset("801"), {}
    readable_cases(raw, processes, False, FirstLook(raw.roles), looks)
    cached = build_cache(raw, cache_folder(raw.name), progress=False)
    assert list(looks) == list(raw.cases)
    assert sum(len(look.lesions) for look in looks.values()) > 3
    of_cases = {}
    balance.collect_lesions(list(raw.cases), cached.facts, raw.roles, cached.label, of_cases)
    for identifier, look in looks.items():
        for found, expected in zip(look.lesions, of_cases[identifier], strict=True):
            assert (found.mask == expected.mask).all()
            assert (found.site, found.start, found.within) == (expected.site, expected.start, expected.within)
            assert len(found.surroundings) == len(expected.surroundings)
    with images.images_begun(raw, cached, 1, Share()) as slices:
        of_cached = list(slices)
    for identifier, expected in zip(sorted(raw.cases), of_cached, strict=True):
        assert [(s.z, s.digest) for s in looks[identifier].slices] == [(s.z, s.digest) for s in expected]


def test_a_dry_run_looks_at_no_image_twice(folders, monkeypatch, capsys):
    make_dataset(folders[0], patients=4)
    monkeypatch.setattr(images, "looking_at", lambda *_: pytest.fail("looks at the images again"))
    monkeypatch.setattr(balance, "lesions_of", lambda *_: pytest.fail("finds the lesions again"))
    main(DRY)
    assert "plan:" in capsys.readouterr().out
