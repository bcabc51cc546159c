"""Time and disk space are estimated before anything is computed."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.commands.augment import entry, main, parse, settings_from
from nnunet_difflung.dataset.cache import build_cache, check_cases, missing_bytes
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.reading import read_case
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.painting.box import box_of_case, largest_box
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.pipeline import estimates, planning
from nnunet_difflung.pipeline.fold import prepare_fold, synthesize_fold, train_fold
from nnunet_difflung.preparing.application import apply_plan
from tests.support.tiny import make_dataset, tree_hashes


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


@pytest.mark.usefixtures("no_fsync")
def test_what_is_painted_already_is_not_needed_again(folders, tmp_path, monkeypatch):
    make_dataset(folders[0], patients=4)
    settings, raw = settings_from(parse(["-d", "801", "--method", "copy_paste"])), open_raw_dataset("801")
    fold = prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    needed = sum(estimates.estimate_bytes(fold))
    synthesize_fold(fold, "cpu", progress=False)
    left = needed - sum(path.stat().st_size for path in fold.work.rglob("*") if path.is_file())
    assert 0 < left < needed
    monkeypatch.setattr(estimates.shutil, "disk_usage", lambda _: SimpleNamespace(free=left))
    estimates.check_disk([fold])
    monkeypatch.setattr(estimates.shutil, "disk_usage", lambda _: SimpleNamespace(free=left - 1))
    with pytest.raises(BadInput, match=r"what is left of the plan may need .*; free some space and run the same"):
        estimates.check_disk([fold])


@pytest.mark.parametrize("volumes", [True, False])
def test_the_cache_takes_no_more_than_its_estimate(folders, tmp_path, volumes):
    make_dataset(folders[0], patients=4, volumes=volumes, depth=8)
    raw, folder = open_raw_dataset("801"), tmp_path / "cache"
    expected = missing_bytes(raw, folder)
    build_cache(raw, folder, progress=False)
    taken = sum(path.stat().st_size for path in folder.glob("*.npy"))
    headers = 128 * 2 * len(raw.cases)  # of the array files
    assert taken - headers <= expected <= 2 * taken
    assert missing_bytes(raw, folder / "none", check_cases(raw, progress=False)) == taken - headers
    assert missing_bytes(raw, folder) == 0
    first = next(iter(raw.cases))
    (folder / f"{first}.json").unlink()
    assert 0 < missing_bytes(raw, folder) < expected


def test_an_image_whose_header_cannot_be_read_is_left_to_who_reads_its_voxels(folders, tmp_path):
    folder = make_dataset(folders[0], patients=2, folds=2)
    raw = open_raw_dataset("801")
    whole = missing_bytes(raw, tmp_path)
    next(iter((folder / "imagesTr").iterdir())).write_bytes(b"no image")
    assert 0 < missing_bytes(raw, tmp_path) < whole


@pytest.mark.parametrize("option", [[], ["--dry-run"]])
def test_a_cache_that_does_not_fit_is_refused_before_it_is_begun(folders, monkeypatch, capsys, option):
    make_dataset(folders[0], patients=4)
    need = missing_bytes(open_raw_dataset("801"), folders[2])
    monkeypatch.setattr(estimates.shutil, "disk_usage", lambda _: SimpleNamespace(free=need - 1))
    with pytest.raises(SystemExit) as stop:
        entry(["-d", "801", "-f", "0", "--method", "copy_paste", "-device", "cpu", *option])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "the cache of Dataset801_Tiny may need" in said
    assert str(folders[2]) in said
    assert not list(folders[2].rglob("*.npy"))


def test_volumes_that_need_too_much_disk_space_are_refused_before_a_dry_run_reads_them(folders, monkeypatch):
    make_dataset(folders[0], patients=4, volumes=True)
    monkeypatch.setattr(estimates.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    monkeypatch.setattr("nnunet_difflung.dataset.cache._SMALL", 1)
    monkeypatch.setattr(RawDataset, "read_image", lambda *_: pytest.fail("reads an image"))
    with pytest.raises(BadInput, match="the cache of Dataset801_Tiny may need"):
        main(["-d", "801", "-f", "0", "--method", "copy_paste", "-device", "cpu", "--dry-run"])


def test_a_dry_run_reads_the_cache_where_there_is_one(folders, monkeypatch, capsys):
    folder = make_dataset(folders[0], patients=4)
    options = ["-d", "801", "-f", "0", "--method", "copy_paste", "-device", "cpu", "--dry-run"]
    main(options)
    without = capsys.readouterr().out
    assert "of it for cached cases" in without
    raw = open_raw_dataset("801")
    build_cache(raw, cache_folder(raw.name), progress=False)
    before = tree_hashes(folder, folders[2])
    monkeypatch.setattr(planning, "check_cases", lambda *_: pytest.fail("reads all cases"))
    monkeypatch.setattr(RawDataset, "read_image", lambda *_: pytest.fail("reads an image"))
    main(options)
    with_cache = capsys.readouterr().out
    assert tree_hashes(folder, folders[2]) == before
    assert "cached cases" not in with_cache
    plan = [text.partition("Estimate")[0] for text in (without, with_cache)]
    assert plan[0] == plan[1] != ""


def test_channels_of_other_types_count_with_the_largest(folders, tmp_path):
    folder = make_dataset(folders[0], patients=2, folds=2, channels=2)
    for path in (folder / "imagesTr").glob("*_0001.nii.gz"):
        image = sitk.ReadImage(str(path))
        real = sitk.GetImageFromArray(sitk.GetArrayFromImage(image) + np.float32(0.5))
        real.CopyInformation(image)
        sitk.WriteImage(real, str(path), True)
    raw = open_raw_dataset("801")
    expected = missing_bytes(raw, tmp_path / "cache")
    build_cache(raw, tmp_path / "cache", progress=False)
    taken = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.npy"))
    assert taken - 256 * len(raw.cases) == expected


def test_a_dry_run_adds_the_cache_to_what_is_planned(folders, monkeypatch, capsys):
    make_dataset(folders[0], patients=4)
    options = ["-d", "801", "-f", "0", "--method", "copy_paste", "-device", "cpu", "--dry-run"]
    need = missing_bytes(open_raw_dataset("801"), folders[2])
    monkeypatch.setattr(estimates, "estimate_bytes", lambda _: (3000, 5000))
    for free, refused in ((need + 8000, False), (need + 7999, True)):
        monkeypatch.setattr(estimates.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if refused:
            with pytest.raises(SystemExit):
                entry(options)
            assert "but the plan may need" in capsys.readouterr().err
        else:
            main(options)


def test_a_box_is_estimated_by_its_depth_height_and_width(folders, tmp_path):
    make_dataset(folders[0], patients=4, volumes=True, depth=12)
    raw, cache = open_raw_dataset("801"), None
    sizes = []
    for more in ([], ["--box", "500"], ["--box", "5"]):
        settings = settings_from(parse(["-d", "801", "--method", "copy_paste", *more]))
        cache = cache or build_cache(raw, tmp_path / "cache", progress=False)
        sizes.append(estimates.estimate_bytes(prepare_fold(raw, 0, settings, cache))[0])
    assert sizes[0] == sizes[1] > sizes[2] > 0


@pytest.mark.parametrize(
    ("options", "far_below"),
    [
        (["--placebo", "0.4"], True),
        (["--method", "difflung", "--margin", "3"], True),  # painted together, with a margin in mm
        (["--paint", "full"], False),  # of whole slices
    ],
)
def test_boxes_take_no_more_than_their_estimate(folders, tmp_path, options, far_below):
    folder = make_dataset(folders[0], patients=6, volumes=True, depth=12, size=(64, 96))
    for path in [*folder.glob("imagesTr/*"), *folder.glob("labelsTr/*")]:
        image = sitk.ReadImage(str(path))
        image.SetSpacing((1.1, 0.8, 5.0))  # pixels that are not square
        sitk.WriteImage(image, str(path))
    raw, settings = open_raw_dataset("801"), settings_from(parse(["-d", "801", "--method", "cbmat", *options]))
    settings = replace(settings, sampling=replace(settings.sampling, box=4.0))
    fold = prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    written = whole = 0
    for planned in fold.plan.cases:
        applied = apply_plan(fold, planned, textures=False)
        box, largest = box_of_case(applied, 4.0), largest_box(fold, planned, 4.0)
        assert box is not None
        assert all(b.start <= a.start and a.stop <= b.stop for a, b in zip(box, largest, strict=True))
        written += math.prod(part.stop - part.start for part in box)
        whole += math.prod(applied.shape)
    assert 6 * written <= estimates.estimate_bytes(fold)[0] <= 6 * whole
    assert not far_below or estimates.estimate_bytes(fold)[0] < min(9 * written, 3 * whole)


COUNTED = ["-d", "801", "-device", "cpu", "--preset", "fast", "--epochs", "1", "--steps", "3", "--gate", "off"]


class Counting:
    """A network that counts the pixels that it is called with."""

    def __init__(self, network, pixels: list[int]):
        self.network, self.pixels = network, pixels

    def __call__(self, inputs, *rest):
        self.pixels.append(len(inputs) * inputs.shape[-2] * inputs.shape[-1])
        return self.network(inputs, *rest)


@pytest.mark.parametrize(
    ("options", "volumes"),
    [
        (["--target-share", "ILD=0.4", "--placebo", "0.3"], True),  # joined stacks
        (["--neighbours", "0"], True),
        ([], False),
        (["--method", "cbmat", "--resamplings", "2"], False),
        (["--method", "cbmat", "--paint", "full"], True),
    ],
)
def test_the_estimate_counts_the_pixels_that_the_network_computes(folders, tmp_path, monkeypatch, options, volumes):
    make_dataset(folders[0], patients=5, size=(64, 44), volumes=volumes, depth=8)
    settings, raw = settings_from(parse([*COUNTED, *options])), open_raw_dataset("801")
    fold = prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    expected = estimates.painted_pixels(fold, lambda case: raw.read_label(case)[0])
    train_fold(fold, "cpu", 60)
    pixels, usual = [], Generator.for_reverse_steps
    monkeypatch.setattr(Generator, "for_reverse_steps", lambda *arguments: Counting(usual(*arguments), pixels))
    synthesize_fold(fold, "cpu", progress=False)
    assert sum(pixels) == expected * family_of(fold.method).passes(settings.sampling) > 0
    assert settings.sampling.steps == 3
    assert len(pixels) % family_of(fold.method).passes(settings.sampling) == 0


def test_candidates_are_painted_as_often_and_placebos_once(folders, tmp_path):
    make_dataset(folders[0], patients=5, volumes=True, depth=8)
    raw = open_raw_dataset("801")
    cache = build_cache(raw, tmp_path / "cache", progress=False)

    def pixels(*options: str) -> int:
        fold = prepare_fold(raw, 0, settings_from(parse([*COUNTED, *options])), cache)
        return estimates.painted_pixels(fold, cache.label)

    lesions, both = pixels(), pixels("--placebo", "0.4")
    assert both > lesions
    assert pixels("--placebo", "0.4", "--candidates", "3") == both + 2 * lesions


def test_each_try_of_a_case_takes_disk_space(folders, tmp_path):
    make_dataset(folders[0], patients=5)
    raw = open_raw_dataset("801")
    cache = build_cache(raw, tmp_path / "cache", progress=False)

    def painted(*options: str) -> int:
        fold = prepare_fold(raw, 0, settings_from(parse([*COUNTED, *options])), cache)
        in_raw, in_results = estimates.estimate_bytes(fold)
        return in_results - in_raw

    once = painted("--gate", "report")
    assert painted("--gate", "drop") == 4 * once > 0, "three repaints"
    assert painted("--gate", "drop", "--method", "copy_paste") == once


def test_a_case_that_is_not_kept_in_memory_is_read_once_for_what_is_asked_of_it(folders, monkeypatch):
    make_dataset(folders[0], patients=3)
    raw = open_raw_dataset("801")
    monkeypatch.setattr(planning, "_KEPT", 0)
    cases, read = planning.readable_cases(raw, 1, False), []
    monkeypatch.setattr(planning, "read_case", lambda raw, case: read.append(case.identifier) or read_case(raw, case))
    first, second, *_ = raw.cases
    for identifier in (first, first, second, first):
        assert np.array_equal(cases.image(identifier), raw.read_image(identifier)[0])
        assert cases.condition(identifier).shape == cases.image(identifier).shape[1:]
    assert read == [first, second]
